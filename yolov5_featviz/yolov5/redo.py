"""Reproduce a figure from its record."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from yolov5_featviz.draw.record import KEY
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.files import head, write
from yolov5_featviz.runs.provenance import command_line, npy_header, read_record, sha256
from yolov5_featviz.text import file_name, printable
from yolov5_featviz.version import __version__
from yolov5_featviz.yolov5.figure import paths_in, with_paths
from yolov5_featviz.yolov5.recorded import (
    CHECKOUT,
    COMMANDS,
    OUTPUT,
    TRUST,
    is_checkpoint,
    is_path,
    is_picture,
    is_plain,
    objection,
)
from yolov5_featviz.yolov5.script.find import find_script
from yolov5_featviz.yolov5.script.validate import replace_values, values
from yolov5_featviz.yolov5.source import Source, find_source

Run = Callable[[List[str], Sequence[str]], int]  # from the arguments, and the command line to record


def redo(
    figure: str,
    run: Run,
    weights: Sequence[str] = (),
    source: Optional[str] = None,
    yolov5: Optional[str] = None,
    log: Callable[[str], None] = print,
    trust: bool = False,
    anything: bool = False,
) -> int:
    """Reproduce a figure with its recorded command from the same inputs, and compare both.

    Checkpoints and image are searched at their recorded paths, in the current folder, in ``weights``,
    beside the figure and in the folders above it, and among YOLOv5's own images.

    The figure is untrusted, so only commands accepted by :mod:`yolov5_featviz.yolov5.recorded` are run:
    models of torchvision and timm by name, YOLOv5's own prediction scripts, comparisons and figures, all on
    local files, written to a temporary folder.

    Args:
        figure: the file.
        run: runs a command.
        weights, source, yolov5: checkpoints, image and checkout, if known.
        log: called with messages on whether inputs and figure are identical. If the figure differs, the new
            one is kept in the current folder, under a new name.
        trust: unpickle checkpoints without any check; never taken from the record, which is untrusted.
        anything: run the recorded command without restrictions.

    Returns:
        0 if all pixels or values are equal, else 1.

    Raises:
        FeatvizError: the figure has no record, it cannot be reproduced, its command needs confirmation, or an
            input is not found.
    """
    beside = figure[: -len(".json")] if figure.endswith(".json") else ""
    figure = beside if beside and os.path.isfile(beside) else figure  # the file that the record describes
    about = read_record(figure)
    shown = printable(figure)
    command = list(about.get("command", []))
    line = printable(f"{KEY} {command_line(command)}")
    if not command:
        raise FeatvizError(f"{shown} was made in Python, not by a command; `{KEY} info {shown}` shows what it is")
    if "epoch" in about.get("image", {}):
        raise FeatvizError(
            f"{shown} was drawn in epoch {about['image']['epoch']} of a training, which only training can "
            f"reproduce: {line}"
        )
    if command[0] == "faithfulness":
        raise FeatvizError(f"{shown} is not redone, since seconds differ each time: run {line} again")
    if command[0] not in COMMANDS or command[1:2] == [] or "file" not in about:
        raise FeatvizError(f"{shown} cannot be reproduced: version {__version__} writes no file with {line}")
    hints = _Hints(weights, source, yolov5, anything, log)
    with tempfile.TemporaryDirectory(prefix="featviz-") as folder:
        home = Path(folder) / "pictures"
        try:
            if command[0] == "figure":
                words = _drawn(Path(figure), about, hints, home)
            else:
                words = _again(Path(figure), about, hints, home)
        except _Objection as error:
            log(f"{shown} was made by: {line}")
            raise FeatvizError(
                f"{shown}: {printable(error, 300)}: add --run to run this command, if you know and trust it"
            ) from None
        words = [word for word in words if word != TRUST] + [TRUST] * trust
        with redirect_stdout(sys.stderr):
            print(f"{KEY}: running {printable(f'{KEY} {command_line(words)}')}", flush=True)
            code = run(words, command)
        file = _find(home, about)
        if file is None:
            made = printable(about["file"])
            raise FeatvizError(f"{KEY} {printable(command_line(words), 1000)} made no {made}: it ended with {code}")
        return _compare(Path(figure), file, log)


class _Objection(Exception):
    """The record requests something that only the user may request."""


class _Hints(NamedTuple):
    """The user's options."""

    weights: Sequence[str]
    source: Optional[str]
    yolov5: Optional[str]
    anything: bool
    log: Callable[[str], None]


def _again(figure: Path, about: Mapping[str, Any], hints: _Hints, home: Path) -> List[str]:
    """Rewrite the command for the located inputs and the output folder ``home``, and check it."""
    if hints.anything:
        return _into(_inputs(figure, about, hints, [], set()), home, None)
    words = [word for word in about["command"] if word != TRUST]
    _object(objection(words))
    for flag in (*OUTPUT, "--visualize-dir", "--dir"):
        words = with_values(words, flag, [])
    known = {str(home), str(home.parent / "yolov5")}
    checkouts = [hints.yolov5] if hints.yolov5 else []
    script = None
    if words[0] != "image":
        found = find_source(hints.yolov5)
        _checkouts(values(words, CHECKOUT), found, hints)
        script = found.root / words[1]
    if words[0] == "run" and script is not None:  # by path, since the name alone could match a file here
        words[1] = str(script)
        known.add(words[1])
    known.update(checkouts)
    words = _into(_inputs(figure, {**about, "command": words}, hints, checkouts, known), home, script)
    _object(objection(words, known))
    return words


def _object(why: str) -> None:
    if why:
        raise _Objection(why)


def _checkouts(named: Sequence[str], found: Source, hints: _Hints) -> None:
    """Object to a recorded checkout, unless it is the YOLOv5 that is found without it."""
    for name in [] if hints.yolov5 or hints.anything else named:
        if os.path.isdir(name) and Path(name).resolve() != found.root:
            raise _Objection(f"it names the YOLOv5 in {name}, which only --yolov5 may do")


def _inputs(
    figure: Path, about: Mapping[str, Any], hints: _Hints, checkouts: Sequence[str], located: Set[str]
) -> List[str]:
    """Rewrite the command for the located inputs, and add these to ``located``."""
    words = list(about["command"])
    if hints.anything:
        given = [name for name in values(words, CHECKOUT) if os.path.isdir(name)]
        checkouts = [hints.yolov5] if hints.yolov5 else given
    words = with_values(words, CHECKOUT, checkouts)
    known, scripted = about.get("weights", []), command_of(words) == "run"
    weights, source, unasked = hints.weights, hints.source, scripted and not hints.anything
    if weights and len(weights) != len(known):
        raise FeatvizError(f"{len(weights)} --weights for a figure of {len(known)}: give each of them, in their order")
    then = values(words, "--weights")
    found = [
        _locate(figure, one, weights[i] if weights else None, then[i : i + 1], "--weights", hints.log)
        for i, one in enumerate(known)
    ]
    if unasked and not weights:
        _object(next((f"{path} is not a .pt file" for path in found if not is_checkpoint(path)), ""))
    words = with_values(words, "--weights", found) if found else words
    located.update(found)
    if "models" in about:  # model names may come from folders
        words = with_values(words, "--names", about["models"])
    image = about.get("image", {})
    if source and "sha256" not in image and os.path.exists(source):
        words = with_values(words, "--source", [source])  # a table covers many images
        located.add(source)
    elif source or ("sha256" in image and not values(words, "--data")):
        own = [str(find_source(checkouts[0] if checkouts else None).root / "data" / "images")] if scripted else []
        place = _locate(figure, image, source, [*values(words, "--source"), *own], "--source", hints.log)
        if unasked and not source and not is_picture(place):
            raise _Objection(f"{place} is not an image or video")
        words = with_values(words, "--source", [place])
        located.add(place)
    elif "sha256" not in image and "://" in "".join(values(words, "--source")):
        name = printable(image.get("name"))
        raise FeatvizError(f"{printable(figure)} shows {name}, a stream: give a recording with --source")
    return words


def _drawn(figure: Path, about: Mapping[str, Any], hints: _Hints, home: Path) -> List[str]:
    """Build the command for a YAML figure from the specification in its record."""
    spec = {name: value for name, value in about.get("figure", {}).items() if name != "output"}
    names = paths_in(spec)
    found: Dict[str, Dict[str, str]] = {"yolov5": {}}
    for kind, flag, given in (
        ("weights", "--weights", list(hints.weights)),
        ("image", "--source", [hints.source] if hints.source else []),
    ):
        known = about.get("weights" if kind == "weights" else "images", [])
        if (
            not isinstance(known, list)
            or len(known) != len(names.get(kind, []))
            or not all(map(is_path, names.get(kind, [])))
        ):
            raise FeatvizError(f"{printable(figure)}: its record is damaged: it lacks its {kind}")
        if kind == "weights" and given and len(given) != len(known):
            raise FeatvizError(f"{len(given)} --weights for a figure of {len(known)}: give each, in their order")
        own = [str(find_source(hints.yolov5).root / "data" / "images")] if kind == "image" else []
        found[kind] = {}
        for i, (name, one) in enumerate(zip(names.get(kind, []), known)):
            hint = given[i] if kind == "weights" and given else None
            path = _locate(figure, one, hint, [*(given if kind == "image" else []), name, *own], flag, hints.log)
            found[kind][name] = str(Path(path).absolute())
    if names.get("yolov5"):
        _checkouts(names["yolov5"], find_source(hints.yolov5), hints)
    for name in names.get("yolov5", []):
        folder = hints.yolov5 or (name if os.path.isdir(name) else None)
        if folder is None:
            raise FeatvizError(f"no {printable(name)} here: give --yolov5, where the checkout is")
        found["yolov5"][name] = str(Path(folder).absolute())
    home.mkdir()
    written = json.dumps(with_paths(spec, found), ensure_ascii=False).encode("utf-8", "replace")
    (home.parent / "figure.yaml").write_bytes(written)
    return ["figure", str(home.parent / "figure.yaml"), "--output", str(home / about["file"])]


def command_of(words: Sequence[str]) -> str:
    """Return the name of the command."""
    return words[0] if words else ""


def with_values(words: Sequence[str], flag: str, given: Sequence[str]) -> List[str]:
    """Replace the values of a flag, or remove the flag if there are none."""
    marked = replace_values(list(words), flag, lambda _: "\0")
    rest = [word for word in marked if word not in ("\0", flag, f"{flag}=\0")]
    return [*rest, flag, *given] if given else rest


def _locate(
    figure: Path,
    known: Mapping[str, Any],
    given: Optional[str],
    places: Sequence[str],
    flag: str,
    log: Callable[[str], None],
) -> str:
    """Locate a file, preferably with the recorded hash."""
    name = known.get("name", "")
    if not given and not is_plain(name):
        raise FeatvizError(f"no {printable(name) or 'file'} here: give {flag}, where it is")
    files = [Path(given)] if given else [path for path in _places(figure, name, places) if os.path.isfile(path)]
    if not files or not os.path.isfile(files[0]):
        raise FeatvizError(f"no {printable(given or name)} here: give {flag}, where it is")
    same = [path for path in files if sha256(path) == known.get("sha256")]
    log(f"{printable(name)}: {'the same file' if same else 'not the same file'}")
    return str((same or files)[0])


def _places(figure: Path, name: str, places: Sequence[str]) -> Iterator[Path]:
    for place in places:
        yield from (Path(place), Path(place) / name, Path(place).parent / name)
    for folder in (Path(), *list(figure.absolute().parents)[:5]):
        yield from (folder / name, folder / "weights" / name)


def _into(words: List[str], home: Path, script: Optional[Path]) -> List[str]:
    """Redirect the command's output to ``home``; ``script`` is the script of ``run``, if known."""
    if command_of(words) == "compare":
        words = [word for word in words if word not in ("--verbose", "--quiet")]
        return [*with_values(with_values(words, "--project", [str(home)]), "--name", ["redo"]), "--quiet"]
    if command_of(words) == "explain":
        return with_values(words, "--dir", [str(home)])
    if command_of(words) != "run":
        return with_values(words, "--visualize-dir", [str(home)])
    checkout = values(words, CHECKOUT)
    script = script or find_script(words[1], checkout[0] if checkout else None)[0]
    text = script.read_text(encoding="utf-8", errors="replace") if script.is_file() else ""
    for flag in OUTPUT:
        if flag in text:
            words = with_values(words, flag, [str(home.parent / "yolov5")])
    return with_values(words, "--visualize-dir", [str(home)])


def _find(home: Path, about: Mapping[str, Any]) -> Optional[Path]:
    """Find the new file: same name and folder, except for numbers appended to taken names."""
    folder = Path(about.get("folder", ""))
    file: Path = home / folder / about["file"]
    if os.path.isfile(file):
        return file
    made = (path for path in home.rglob("*") if path.name == file.name)
    others = [path for path in made if path.parent.relative_to(home).parts[1:] == folder.parts[1:]]
    return others[0] if len(others) == 1 else None


def _compare(figure: Path, file: Path, log: Callable[[str], None]) -> int:
    new = file.read_bytes()
    old = head(figure, 4 * len(new) + (1 << 26))  # larger files cannot be the same picture
    shown = printable(figure)
    if old == new:
        log(f"{shown}: identical, byte for byte")
        return 0
    changes = printable(_changes(read_record(figure), read_record(file)))
    verdict = _difference(old, new)
    if not verdict:
        log(f"{shown}: identical in what it shows; {changes}")
        return 0
    kept = _free(Path(f"{file_name(figure.stem)}_redo{figure.suffix}"))
    write(kept, new)
    log(f"{shown}: not identical: {verdict}; {changes}; the new one is {kept}")
    return 1


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe the differences of two records."""
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]

    def words(about: Mapping[str, Any], name: str) -> str:
        value = about.get(name)
        return value if isinstance(value, str) else f"{len(value)} values" if isinstance(value, list) else repr(value)

    changes = [
        f"other {name}"
        if name in ("weights", "image", "images")
        else f"{name} {words(then, name)}, now {words(now, name)}"
        for name in names
    ]
    return "; ".join(changes) or "made in the same way"


def _difference(old: bytes, new: bytes) -> str:
    """Describe how many pixels or values differ; empty if none."""
    try:
        sizes = _size(old), _size(new)
        if sizes[0] != sizes[1]:  # checked before decoding, since the old file is untrusted
            return f"{sizes[0]} now {sizes[1]}"
        before, after = _values(old), _values(new)
    except Exception:  # not an image, or one without pixels
        return "" if _without_record(old) == _without_record(new) else "other content"
    if before.shape != after.shape:
        return f"{before.shape} now {after.shape}"
    with np.errstate(invalid="ignore"):
        apart = np.where(before == after, 0, np.abs(before.astype(np.float64) - after))
    apart = np.where(np.isnan(before) & np.isnan(after), 0, apart)
    different = np.count_nonzero(apart)
    return f"{different:,} of {apart.size:,} values differ, by {np.nanmax(apart):.4g} at most" if different else ""


def _size(content: bytes) -> Tuple[int, ...]:
    if content.startswith(b"\x93NUMPY"):
        return npy_header(io.BytesIO(content))[0]
    with _image(content) as image:
        return image.height, image.width


def _values(content: bytes) -> Any:
    if content.startswith(b"\x93NUMPY"):
        return np.load(io.BytesIO(content), allow_pickle=False)
    with _image(content) as image:
        return np.asarray(image.convert("RGB"))


@contextmanager
def _image(content: bytes) -> Iterator[Any]:
    """Open an image without Pillow's size limit; what is decoded is never larger than the new picture."""
    from PIL import Image

    most = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(io.BytesIO(content)) as image:
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = most


def _without_record(content: bytes) -> bytes:
    """Strip the record and the byte offsets from a text or PDF file."""
    body = content.split(b"\nxref\n")[0]
    start = body.find(f"{KEY} {{".encode())
    return body if start < 0 else body[:start] + body[body.find(b"\n", start) :]


def _free(path: Path) -> Path:
    n, free = 1, path
    while free.exists():
        n, free = n + 1, path.with_name(f"{path.stem}{n + 1}{path.suffix}")
    return free
