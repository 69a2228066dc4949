"""Grammar of the recorded commands that are safe to run without confirmation.

Records are untrusted. Commands that name code (a module, a script, a checkout), an address, a data set's YAML
file or an output folder are not allowed.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import AbstractSet, Callable, Dict, List, Optional, Sequence, Tuple

from yolov5_featviz.runs.provenance import is_base_name, is_inside
from yolov5_featviz.yolov5.script.validate import IMAGES, VIDEOS

Check = Callable[[str], bool]
Flags = Dict[str, Tuple[str, Check]]  # number of values of a flag, "0", "1" or "+", and the check of each

COMMANDS = ("run", "explain", "image", "figure", "compare")
SCRIPTS = ("detect.py", "segment/predict.py", "classify/predict.py")
TRUST, CHECKOUT = "--trust-weights", "--yolov5"
OUTPUT = ("--project", "--save-dir", "--output")  # output folders in the releases of YOLOv5
LONGEST = 2000  # characters of a word


def _like(pattern: str) -> Check:
    return lambda word: re.fullmatch(pattern, word) is not None


def _whole(low: int, high: int) -> Check:
    return lambda word: re.fullmatch("-?[0-9]{1,9}", word) is not None and low <= int(word) <= high


def _number(low: float, high: float) -> Check:
    def check(word: str) -> bool:
        return re.fullmatch(r"[0-9.]{1,20}(e-?[0-9]{1,2})?", word) is not None and _between(word)

    def _between(word: str) -> bool:
        try:
            return math.isfinite(float(word)) and low <= float(word) <= high
        except ValueError:
            return False

    return check


def is_path(word: str) -> bool:
    """Whether a word is a path as in records: relative, without leaving its folder."""
    return is_inside(word) and "://" not in word and not word.startswith(("-", "~")) and word.isprintable()


_text = _like(r"(?!-[^0-9])[^\x00-\x1f\x7f]{0,2000}")
_nothing: Tuple[str, Check] = ("0", lambda word: False)
_look: Flags = {
    **dict.fromkeys(
        [f"--visualize-{name}" for name in ("mode", "method", "target", "channels", "norm", "reduce", "resample")],
        ("1", _text),
    ),
    **dict.fromkeys(
        [f"--visualize-{name}" for name in ("cmap", "alpha", "format", "report", "width", "axes")], ("1", _text)
    ),
    **dict.fromkeys(
        [f"--visualize-{name}" for name in ("merge", "smooth", "overlay", "boxes", "desaturate", "plain")], _nothing
    ),
    **dict.fromkeys(["--visualize-quiet", "--visualize-verbose"], _nothing),
    "--visualize-dpi": ("1", _whole(1, 2400)),
    "--visualize-dir": ("1", is_path),
}
_device: Tuple[str, Check] = ("1", _like(r"(cpu|mps|cuda(:[0-9])?|[0-9](,[0-9]){0,7})?"))
_size: Tuple[str, Check] = ("+", _whole(1, 4096))
_share: Tuple[str, Check] = ("1", _number(0, 1))
_name: Tuple[str, Check] = ("1", _like(r"(?![.-])[\w.-]{1,100}"))

_library_model: Tuple[str, Check] = ("1", _like(r"(torchvision|timm):[A-Za-z0-9_.]{1,100}"))

FLAGS: Dict[str, Flags] = {
    "run": {
        **_look,
        "--visualize-layers": ("1", _text),
        "--visualize-every": ("1", _whole(1, 10**9)),
        "--visualize-limit": ("1", _whole(1, 10**9)),
        "--visualize-summary": _nothing,
        "--weights": ("+", is_path),
        "--source": ("1", is_path),
        **dict.fromkeys(("--imgsz", "--img", "--img-size"), _size),
        "--conf-thres": _share,
        "--iou-thres": _share,
        "--max-det": ("1", _whole(1, 30_000)),
        "--classes": ("+", _whole(0, 10_000)),
        "--device": _device,
        "--line-thickness": ("1", _whole(1, 100)),
        "--vid-stride": ("1", _whole(1, 10_000)),
        "--name": _name,
        **dict.fromkeys(("--agnostic-nms", "--augment", "--half", "--hide-labels", "--hide-conf"), _nothing),
        **dict.fromkeys(("--nosave", "--save-txt", "--save-conf", "--exist-ok", "--retina-masks"), _nothing),
    },
    "image": {
        **_look,
        **{flag.replace("--visualize-", "--"): check for flag, check in _look.items()},
        "--device": _device,
        "--model": _library_model,
        "--layers": ("1", _text),
        "--source": ("1", is_path),
        "--weights": ("1", is_path),
        "--imgsz": ("1", _whole(1, 4096)),
    },
    "explain": {
        "--weights": ("1", is_path),
        "--model": _library_model,
        "--source": ("1", is_path),
        "--labels": ("1", is_path),
        **dict.fromkeys([f"--{name}" for name in ("target", "method", "layers")], ("1", _text)),
        **dict.fromkeys([f"--{name}" for name in ("resample", "cmap", "alpha", "format", "width")], ("1", _text)),
        **dict.fromkeys(("--imgsz", "--img", "--img-size"), ("1", _whole(1, 4096))),
        "--conf-thres": _share,
        "--iou-thres": _share,
        "--masks": ("1", _whole(1, 100_000)),
        "--batch": ("1", _whole(1, 1024)),
        "--dpi": ("1", _whole(1, 2400)),
        "--dir": ("1", is_path),
        "--device": _device,
        "--report": ("1", _text),
        **dict.fromkeys(("--desaturate", "--plain", "--quiet", "--verbose"), _nothing),
    },
    "compare": {
        "--weights": ("+", is_path),
        "--layers": ("+", _text),
        "--source": ("1", is_path),
        "--names": ("+", lambda word: is_plain(word) and bool(_text(word))),
        "--labels": ("1", is_path),
        **dict.fromkeys(("--imgsz", "--img", "--img-size"), ("1", _whole(1, 4096))),
        "--conf-thres": _share,
        "--iou-thres": _share,
        "--alpha": _share,
        **dict.fromkeys(("--mode", "--method", "--target"), ("1", _text)),
        **dict.fromkeys(("--reduce", "--cmap", "--format", "--width"), ("1", _text)),
        "--masks": ("1", _whole(1, 100_000)),
        "--dpi": ("1", _whole(1, 2400)),
        "--name": _name,
        "--device": _device,
        **dict.fromkeys(("--desaturate", "--quiet", "--verbose"), _nothing),
    },
}
_ALIKE = {"--img": "--imgsz", "--img-size": "--imgsz"}
_ALWAYS: Flags = {TRUST: _nothing, CHECKOUT: ("+", is_path), **dict.fromkeys(OUTPUT, ("1", is_path))}


def objection(words: Sequence[str], known: Optional[AbstractSet[str]] = None) -> str:
    """Explain why a recorded command must not run without confirmation.

    Args:
        words: the command line; not of ``figure``, whose content is checked instead.
        known: trusted values, found locally or given by the user; checkpoints and the sources of ``run`` must
            be among them. None for the command as recorded, before its inputs are located.

    Returns:
        What it requests that only the user may request; empty if it is safe.
    """
    command, start = words[0], 2 if words[0] == "run" else 1
    final = known is not None
    known = known or set()
    if command == "run" and words[1] not in (known if final else SCRIPTS):
        return f"the script {words[1]} is not one of {', '.join(SCRIPTS)}"
    flags = FLAGS[command] if final else {**_ALWAYS, **FLAGS[command]}
    if final:
        flags = {**flags, **{flag: (_ALWAYS[flag][0], known.__contains__) for flag in (CHECKOUT, *OUTPUT)}}
    seen: Dict[str, List[str]] = {}
    for flag, given, joined in _parted(words[start:]):
        name = _ALIKE.get(flag, flag)
        if flag not in flags:
            return f"{flag} is not among the safe flags"
        if name in seen:
            return f"{flag} is given twice"
        count, check = flags[flag]
        if (joined and count == "0") or len(given) != {"0": 0, "1": 1}.get(count, max(1, len(given))):
            return f"{flag} has {len(given)} values"
        wrong = [word for word in given if word not in known and (len(word) > LONGEST or not check(word))]
        if wrong:
            return f"{flag} {wrong[0]}"
        seen[name] = given
    if not final:
        return ""
    files = seen.get("--weights", []) + (seen.get("--source", []) if command == "run" else [])
    strange = [word for word in files if word not in known]
    if strange:
        return f"{strange[0]} is not a file whose SHA-256 the record holds"
    if command == "run" and "--weights" not in seen:
        return "no --weights: YOLOv5 would download its own"
    if command == "run" and "--source" not in seen:
        return "no --source"
    return ""


def _parted(words: Sequence[str]) -> List[Tuple[str, List[str], bool]]:
    """Split into flags with their values, and whether the value is joined by ``=``."""
    found: List[Tuple[str, List[str], bool]] = []
    for word in words:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            found.append((flag, [value] if equals else [], bool(equals)))
        elif found and not found[-1][2]:
            found[-1][1].append(word)
        else:
            found.append((word, [], False))
    return found


def is_checkpoint(path: str) -> bool:
    """Whether YOLOv5's scripts read a file as a checkpoint, and not as something they would execute."""
    return Path(path).suffix.lower() == ".pt" and "torchscript" not in path.lower()


def is_picture(path: str) -> bool:
    """Whether YOLOv5's scripts read a file as an image or video, not as a list of addresses or a camera."""
    return Path(path).suffix.lower().lstrip(".") in {*IMAGES, *VIDEOS}


def is_plain(name: str) -> bool:
    """Whether an input's name is a file name that cannot be mistaken for a flag."""
    return is_base_name(name) and not name.startswith(("-", "~"))
