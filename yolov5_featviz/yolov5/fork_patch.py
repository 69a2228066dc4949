"""Add our flags to a fork's own ``detect.py``, using the diff in ``patches/``.

The diff only adds lines before the script's first import, so that one text fits every release. It is
applied to the bytes of the file: other edits, line endings and mode are kept, and the result is that
of ``git apply``.
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
_FLAG = re.compile(rb"""["'](--(?:visualize-|yolov5|trust-weights)[\w-]*)["']""")  # flags that the added lines react to


def diff() -> Path:
    """Return the path of the diff: inside an installed package, or beside it in its own checkout."""
    installed = _PACKAGE / "patches" / "detect.diff"
    return installed if installed.is_file() else _PACKAGE.parent / "patches" / "detect.diff"


def patch(checkout: str, reverse: bool = False) -> str:
    """Add our flags to the ``detect.py`` of a checkout, or remove them; return a message.

    Raises:
        FeatvizError: the folder is not a checkout, or the patch does not fit. Nothing was written.
    """
    try:
        folder = Path(checkout).expanduser().resolve()
        there = is_checkout(folder)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: circular links, or unknown home folder
        raise FeatvizError(f"no checkout {printable(checkout, 80)}: {reason(error)}") from None
    if not there:
        raise FeatvizError(f"{folder} holds no YOLOv5: there is no models/yolo.py in it; name a checkout's folder")
    if any(folder.parent.glob("yolov5-[0-9]*-info")):
        raise FeatvizError(f"{folder} is an installed package, not a checkout: yolov5-featviz run detect.py runs it")
    path = (folder / "detect.py").resolve()  # keep a link as it is
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
        return f"{path}: " + ("patch removed" if new != content else "there is no patch to remove")
    return f"{path}: " + ("now takes --visualize-layers" if new != content else "already patched")


def insert(content: bytes) -> bytes:
    """Add the diff's lines to a script; return it unchanged if it has them.

    Raises:
        FeatvizError: the line before which they go does not occur exactly once, they were edited, or
            the script has flags of its own that would be mistaken for ours.
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
        found = f"occurs {len(places)} times" if places else "is missing"
        raise FeatvizError(f"the patch does not fit: the line '{anchor.decode()}', before which it goes, {found}")
    place = places[0]
    if place + 1 not in _statements(content):
        raise FeatvizError(f"the patch does not fit: '{anchor.decode()}' in line {place + 1} is not a statement")
    end = lines[place][len(anchor) :]
    return b"".join([*lines[:place], *(line + end for line in added), *lines[place:]])


def remove(content: bytes) -> bytes:
    """Remove all copies of the diff's lines from a script; return it unchanged if it has none.

    Raises:
        FeatvizError: they were edited.
    """
    added, _ = _hunk()
    lines, bare = _lines(content)
    for place in reversed(_blocks(bare, added)):
        del lines[place : place + len(added)]
        bare[place : place + len(added)] = [b""] * len(added)  # keep the line numbers of the others
    _refuse_edited(bare, added)
    return b"".join(lines)


def _hunk() -> Tuple[List[bytes], bytes]:
    """Return the lines that the diff adds, and the line that must follow them."""
    body = diff().read_bytes().partition(b"\n@@")[2].splitlines()[1:]
    return [line[1:] for line in body[:-1]], body[-1][1:]


def _lines(content: bytes) -> Tuple[List[bytes], List[bytes]]:
    """Split into lines, with and without their endings."""
    lines = content.splitlines(keepends=True)
    return lines, [line.rstrip(b"\r\n") for line in lines]


def _blocks(lines: List[bytes], block: List[bytes]) -> List[int]:
    return [i for i in range(len(lines)) if lines[i : i + len(block)] == block]


def _refuse_edited(lines: List[bytes], added: List[bytes]) -> None:
    for line in added:
        if b"featviz" in line and line in lines:
            where = lines.index(line) + 1
            raise FeatvizError(f"the patch in line {where} was edited: restore it as in {diff()}")


def _statements(content: bytes) -> List[int]:
    """Return the line numbers of the module's top-level statements."""
    try:
        return [node.lineno for node in ast.parse(content).body]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FeatvizError(f"is not Python: {reason(error)}") from None
