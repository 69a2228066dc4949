"""Terminal progress bar."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from typing import Any, Iterable, Iterator, Optional, Sequence, TypeVar, Union

T = TypeVar("T")

PATIENCE = 0.5  # seconds before the bar appears
PACE = 0.1  # seconds between redraws


def progress(
    items: Union[Sequence[T], Iterable[T]], what: str, total: Optional[int] = None, stream: Any = None
) -> Iterator[T]:
    """Yield ``items`` and show a progress bar on ``stream``.

    The line is redrawn in place and removed at the end, also after an error. It is not shown if
    ``stream`` is not a terminal, or within the first half second.

    Args:
        items: items to process.
        what: label, such as ``comparing``.
        total: number of items; the length of ``items`` if None.
        stream: output stream; ``sys.stderr`` if None.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None or not stream.isatty() or os.environ.get("TERM") == "dumb":
        yield from items
        return
    total = len(items) if total is None else total  # type: ignore[arg-type]
    start = last = time.monotonic()
    width = 0
    try:
        for done, item in enumerate(items):
            now = time.monotonic()
            if now - start > PATIENCE and now - last > PACE:
                last = now
                line = _line(what, done, total, (now - start) * (total - done) / max(done, 1))
                _put(stream, "\r" + line.ljust(width))
                width = len(line)
            yield item
    finally:
        if width:
            _put(stream, "\r" + " " * width + "\r")


def _put(stream: Any, text: str) -> None:
    with suppress(OSError):  # the terminal was closed
        stream.write(text)
        stream.flush()


def _line(what: str, done: int, total: int, left: float) -> str:
    filled = round(20 * done / max(total, 1))
    time_left = f", {left:.0f} s left" if done and left < 90 else f", {left / 60:.0f} min left" if done else ""
    line = f"{what} [{'#' * filled}{'.' * (20 - filled)}] {done} of {total}{time_left}"
    return line[: shutil.get_terminal_size().columns - 1]
