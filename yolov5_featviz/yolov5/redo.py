"""Making a figure again from what it says of how it was made."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

import numpy as np

from yolov5_featviz.about import KEY
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.provenance import command_line, read, sha256
from yolov5_featviz.save import write
from yolov5_featviz.yolov5.figure import paths_in, with_paths
from yolov5_featviz.yolov5.preflight import replace_values, values
from yolov5_featviz.yolov5.runner import find_script
from yolov5_featviz.yolov5.source import find_source

Run = Callable[[List[str], Sequence[str]], int]  # from words of a command line, and what to record as such
TRUST = "--trust-weights"
OUTPUT = ("--project", "--save-dir", "--output")  # where releases of YOLOv5 take the folder for their own results


def redo(
    figure: str,
    run: Run,
    weights: Sequence[str] = (),
    source: Optional[str] = None,
    yolov5: Optional[str] = None,
    tell: Callable[[str], None] = print,
    trust: bool = False,
) -> int:
    """Make a figure again, with the command that it names, from the same inputs.

    Checkpoints and image are looked for where the command had them, in the current folder, in
    ``weights``, beside the figure and in the folders above it, and among YOLOv5's own images.

    Args:
        figure: the file.
        run: runs a command.
        weights, source, yolov5: the checkpoints, the image and the checkout, where they are known.
        tell: is told whether the inputs are the same files, and whether the figure came out the same. If
            it did not, the new one is kept in the current folder, under a name of its own.
        trust: unpickle checkpoints without any check. That the figure's command did so is no reason to:
            it may be a stranger's.

    Returns:
        0 if all pixels or values are the same, else 1.

    Raises:
        FeatvizError: the figure does not say how it was made, it cannot be made again, or an input is
            not found.
    """
    beside = figure[: -len(".json")] if figure.endswith(".json") else ""
    figure = beside if beside and Path(beside).is_file() else figure  # the file that these words are about
    about = read(figure)
    command = about.get("command")
    if not command:
        raise FeatvizError(f"{figure} was made in Python, not by a command; `{KEY} info {figure}` shows what it is")
    if "epoch" in about.get("image", {}):
        raise FeatvizError(
            f"{figure} was drawn in epoch {about['image']['epoch']} of a training, which nothing but a training makes "
            f"again: {KEY} {command_line(command)}"
        )
    with tempfile.TemporaryDirectory(prefix="featviz-") as folder:
        home = Path(folder) / "pictures"
        if command[0] == "figure":
            words = _drawn(Path(figure), about, weights, source, yolov5, home, tell)
        else:
            words = _into(_inputs(Path(figure), about, weights, source, yolov5, tell), home)
        words = [word for word in words if word != TRUST] + [TRUST] * trust
        with redirect_stdout(sys.stderr):
            print(f"{KEY}: running {KEY} {command_line(words)}", flush=True)
            code = run(words, command)
        file = _find(home, about)
        if file is None:
            raise FeatvizError(f"{KEY} {command_line(words)} made no {about.get('file')}: it ended with {code}")
        return _compare(Path(figure), file, tell)


def _inputs(
    figure: Path,
    about: Mapping[str, Any],
    weights: Sequence[str],
    source: Optional[str],
    yolov5: Optional[str],
    tell: Callable[[str], None],
) -> List[str]:
    """The command with the inputs as they are found here."""
    words = list(about["command"])
    checkouts = [yolov5] if yolov5 else [given for given in values(words, "--yolov5") if Path(given).is_dir()]
    words = with_values(words, "--yolov5", checkouts)
    known = about.get("weights", [])
    if weights and len(weights) != len(known):
        raise FeatvizError(f"{len(weights)} --weights for a figure of {len(known)}: give each of them, in their order")
    then = values(words, "--weights")
    found = [
        _locate(figure, one, weights[i] if weights else None, then[i : i + 1], "--weights", tell)
        for i, one in enumerate(known)
    ]
    words = with_values(words, "--weights", found) if found else words
    if "models" in about:  # whose names may come from folders
        words = with_values(words, "--names", about["models"])
    image = about.get("image", {})
    if source and "sha256" not in image and Path(source).exists():
        words = with_values(words, "--source", [source])  # of a table, which is of many images
    elif source or ("sha256" in image and not values(words, "--data")):
        own = (
            [str(find_source(checkouts[0] if checkouts else None).root / "data" / "images")]
            if command_of(words) == "run"
            else []
        )
        words = with_values(
            words, "--source", [_locate(figure, image, source, [*values(words, "--source"), *own], "--source", tell)]
        )
    elif "sha256" not in image and "://" in "".join(values(words, "--source")):
        raise FeatvizError(f"{figure} shows {image.get('name')}, a stream: it is gone; give a recording with --source")
    return words


def _drawn(
    figure: Path,
    about: Mapping[str, Any],
    weights: Sequence[str],
    source: Optional[str],
    yolov5: Optional[str],
    home: Path,
    tell: Callable[[str], None],
) -> List[str]:
    """The command for a figure that was written down, which it carries within it."""
    names = paths_in(about["figure"])
    found: Dict[str, Dict[str, str]] = {"yolov5": {}}
    for kind, flag, given in (
        ("weights", "--weights", list(weights)),
        ("image", "--source", [source] if source else []),
    ):
        known = about.get("weights" if kind == "weights" else "images", [])
        if kind == "weights" and given and len(given) != len(known):
            raise FeatvizError(f"{len(given)} --weights for a figure of {len(known)}: give each, in their order")
        own = [str(find_source(yolov5).root / "data" / "images")] if kind == "image" else []
        found[kind] = {}
        for i, (name, one) in enumerate(zip(names.get(kind, []), known)):
            hint = given[i] if kind == "weights" and given else None
            path = _locate(figure, one, hint, [*(given if kind == "image" else []), name, *own], flag, tell)
            found[kind][name] = str(Path(path).absolute())
    for name in names.get("yolov5", []):
        folder = yolov5 or (name if Path(name).is_dir() else None)
        if folder is None:
            raise FeatvizError(f"no {name} here: give --yolov5, where the checkout is")
        found["yolov5"][name] = str(Path(folder).absolute())
    home.mkdir()
    (home.parent / "figure.yaml").write_text(json.dumps(with_paths(about["figure"], found)), encoding="utf-8")
    return ["figure", str(home.parent / "figure.yaml"), "--output", str(home / str(about.get("file")))]


def command_of(words: Sequence[str]) -> str:
    """Which command it is."""
    return words[0] if words else ""


def with_values(words: Sequence[str], flag: str, given: Sequence[str]) -> List[str]:
    """A command line with other values behind a flag, or without it where there are none."""
    marked = replace_values(list(words), flag, lambda _: "\0")
    rest = [word for word in marked if word not in ("\0", flag, f"{flag}=\0")]
    return [*rest, flag, *given] if given else rest


def _locate(
    figure: Path,
    known: Mapping[str, Any],
    given: Optional[str],
    places: Sequence[str],
    flag: str,
    tell: Callable[[str], None],
) -> str:
    """Where a file is; preferably the one that it was."""
    name = known["name"]
    files = [Path(given)] if given else [path for path in _places(figure, name, places) if path.is_file()]
    if not files or not files[0].is_file():
        raise FeatvizError(f"no {given or name} here: give {flag}, where it is")
    same = [path for path in files if sha256(path) == known.get("sha256")]
    tell(f"{name}: {'the same file' if same else 'not the file that it was'}")
    return str((same or files)[0])


def _places(figure: Path, name: str, places: Sequence[str]) -> Iterator[Path]:
    for place in places:
        yield from (Path(place), Path(place) / name, Path(place).parent / name)
    for folder in (Path(), *list(figure.absolute().parents)[:5]):
        yield from (folder / name, folder / "weights" / name)


def _into(words: List[str], home: Path) -> List[str]:
    """The command with its output going to ``home``."""
    if command_of(words) == "compare":
        words = [word for word in words if word != "--verbose"]
        return [*with_values(with_values(words, "--project", [str(home)]), "--name", ["redo"]), "--quiet"]
    if command_of(words) != "run":
        return with_values(words, "--visualize-dir", [str(home)])
    checkout = values(words, "--yolov5")
    script, _ = find_script(words[1], checkout[0] if checkout else None)
    text = script.read_text(encoding="utf-8", errors="replace") if script.is_file() else ""
    for flag in OUTPUT:
        if flag in text:
            words = with_values(words, flag, [str(home.parent / "yolov5")])
    return with_values(words, "--visualize-dir", [str(home)])


def _find(home: Path, about: Mapping[str, Any]) -> Optional[Path]:
    """The new file: of the same name, in the same folder, but for the number behind a name that was taken."""
    folder = Path(about.get("folder", ""))
    file = home / folder / str(about.get("file"))
    if file.is_file():
        return file
    others = [path for path in home.rglob(file.name) if path.parent.relative_to(home).parts[1:] == folder.parts[1:]]
    return others[0] if len(others) == 1 else None


def _compare(figure: Path, file: Path, tell: Callable[[str], None]) -> int:
    old, new = figure.read_bytes(), file.read_bytes()
    if old == new:
        tell(f"{figure}: identical, byte for byte")
        return 0
    changes = _changes(read(figure), read(file))
    verdict = _difference(old, new)
    if not verdict:
        tell(f"{figure}: identical in what it shows; {changes}")
        return 0
    kept = _free(Path(f"{figure.stem}_redo{figure.suffix}"))
    write(kept, new)
    tell(f"{figure}: not identical: {verdict}; {changes}; the new one is {kept}")
    return 1


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What the records of both say differently."""
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]

    def words(about: Mapping[str, Any], name: str) -> str:
        value = about.get(name)
        return value if isinstance(value, str) else f"{len(value)} values" if isinstance(value, list) else repr(value)

    told = [
        f"other {name}"
        if name in ("weights", "image", "images")
        else f"{name} {words(then, name)}, now {words(now, name)}"
        for name in names
    ]
    return "; ".join(told) or "made in the same way"


def _difference(old: bytes, new: bytes) -> str:
    """In how much the pixels or values differ, in words; empty if they do not."""
    try:
        before, after = _values(old), _values(new)
    except Exception:  # no image, or one that has no pixels
        return "" if _without_record(old) == _without_record(new) else "other content"
    if before.shape != after.shape:
        return f"{before.shape} now {after.shape}"
    with np.errstate(invalid="ignore"):
        apart = np.where(before == after, 0, np.abs(before.astype(np.float64) - after))
    apart = np.where(np.isnan(before) & np.isnan(after), 0, apart)
    different = np.count_nonzero(apart)
    return f"{different:,} of {apart.size:,} values differ, by {np.nanmax(apart):.4g} at most" if different else ""


def _values(content: bytes) -> Any:
    if content.startswith(b"\x93NUMPY"):
        return np.load(io.BytesIO(content), allow_pickle=False)
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def _without_record(content: bytes) -> bytes:
    """A text or PDF file but for what it says of itself, and for the places of its parts."""
    body = content.split(b"\nxref\n")[0]
    start = body.find(f"{KEY} {{".encode())
    return body if start < 0 else body[:start] + body[body.find(b"\n", start) :]


def _free(path: Path) -> Path:
    n, free = 1, path
    while free.exists():
        n, free = n + 1, path.with_name(f"{path.stem}{n + 1}{path.suffix}")
    return free
