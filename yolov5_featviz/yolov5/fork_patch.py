"""Putting our flags into a fork's own ``detect.py``, by the diff in ``patches/``.

The diff only adds lines, in front of the script's first import, where one and the same text serves
every release. So it is applied to the bytes of the file: whatever else was edited there stays, as do
line endings and mode, and what comes out is what ``git apply`` makes of it.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import List, Tuple

from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.files import head, write
from yolov5_featviz.text import printable
from yolov5_featviz.yolov5.source import is_checkout

LARGEST = 1 << 22  # bytes of a script
_PACKAGE = Path(__file__).resolve().parents[1]
_FLAG = re.compile(rb"""["'](--(?:visualize-|yolov5|trust-weights)[\w-]*)["']""")  # what the diff's lines look for


def diff() -> Path:
    """Where the diff lies: in the package where that was installed, beside it in its own checkout."""
    installed = _PACKAGE / "patches" / "detect.diff"
    return installed if installed.is_file() else _PACKAGE.parent / "patches" / "detect.diff"


def patch(checkout: str, reverse: bool = False) -> str:
    """Add our flags to the ``detect.py`` of a checkout, or take them out again; return what to say of it.

    Raises:
        FeatvizError: the folder is no checkout, or the patch does not fit. Nothing was written.
    """
    try:
        folder = Path(checkout).expanduser().resolve()
        there = is_checkout(folder)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError for links in a circle, or no such home
        raise FeatvizError(f"no checkout {printable(checkout, 80)}: {reason(error)}") from None
    if not there:
        raise FeatvizError(f"{folder} holds no YOLOv5: there is no models/yolo.py in it; name a checkout's folder")
    if any(folder.parent.glob("yolov5-[0-9]*-info")):
        raise FeatvizError(f"{folder} is an installed package, not a checkout: yolov5-featviz run detect.py runs it")
    path = (folder / "detect.py").resolve()  # a link stays one
    try:
        mode = path.stat().st_mode
        content = head(path, LARGEST)
        new = remove(content) if reverse else insert(content)
        if new != content:
            write(path, new, mode)
    except FeatvizError as error:
        raise FeatvizError(f"{path}: {error}") from None
    except OSError as error:
        raise FeatvizError(f"cannot patch {path}: {error.strerror or error}") from None
    if reverse:
        return f"{path}: " + ("the patch is taken out" if new != content else "there is no patch to take out")
    return f"{path}: " + ("takes --visualize-layers now" if new != content else "is patched already")


def insert(content: bytes) -> bytes:
    """The script with the diff's lines; as it is if it has them.

    Raises:
        FeatvizError: the line that they go before is not there exactly once, they were edited, or
            the script has flags of its own that would be taken for ours.
    """
    added, anchor = _hunk()
    lines, bare = _lines(content)
    if _blocks(bare, added):
        return content
    _refuse_edited(bare, added)
    own = sorted({flag.decode() for flag in _FLAG.findall(content)})
    if own:
        raise FeatvizError(f"has {', '.join(own)} of its own, which would be taken for flags of yolov5-featviz")
    places = [i for i, line in enumerate(bare) if line == anchor]
    if len(places) != 1:
        found = f"is there {len(places)} times" if places else "is not there"
        raise FeatvizError(f"the patch does not fit: the line '{anchor.decode()}', before which it goes, {found}")
    place = places[0]
    if place + 1 not in _statements(content):
        raise FeatvizError(f"the patch does not fit: '{anchor.decode()}' in line {place + 1} is no statement")
    end = lines[place][len(anchor) :]
    return b"".join([*lines[:place], *(line + end for line in added), *lines[place:]])


def remove(content: bytes) -> bytes:
    """The script without the diff's lines, however often it has them; as it is if it has not.

    Raises:
        FeatvizError: they were edited.
    """
    added, _ = _hunk()
    lines, bare = _lines(content)
    for place in reversed(_blocks(bare, added)):
        del lines[place : place + len(added)]
        bare[place : place + len(added)] = [b""] * len(added)  # the others keep their numbers
    _refuse_edited(bare, added)
    return b"".join(lines)


def _hunk() -> Tuple[List[bytes], bytes]:
    """The lines that the diff adds, and the line that it wants behind them."""
    body = diff().read_bytes().partition(b"\n@@")[2].splitlines()[1:]
    return [line[1:] for line in body[:-1]], body[-1][1:]


def _lines(content: bytes) -> Tuple[List[bytes], List[bytes]]:
    """The lines with their endings, and without."""
    lines = content.splitlines(keepends=True)
    return lines, [line.rstrip(b"\r\n") for line in lines]


def _blocks(lines: List[bytes], block: List[bytes]) -> List[int]:
    return [i for i in range(len(lines)) if lines[i : i + len(block)] == block]


def _refuse_edited(lines: List[bytes], added: List[bytes]) -> None:
    for line in added:
        if b"featviz" in line and line in lines:
            where = lines.index(line) + 1
            raise FeatvizError(f"the patch is there, in line {where}, but was edited: make it as in {diff()} again")


def _statements(content: bytes) -> List[int]:
    """The numbers of the lines on which the module's own statements begin."""
    try:
        return [node.lineno for node in ast.parse(content).body]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FeatvizError(f"is no Python: {reason(error)}") from None
