"""Terminal progress bar."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from functools import partial
from typing import Any, Callable, Iterable, Iterator, Optional, TypeVar

from yolov5_featviz.models.layers import Layer

T = TypeVar("T")

DELAY = 0.5  # seconds before the bar appears
INTERVAL = 0.1  # seconds between redraws


class _Terminal:
    """A terminal that may be closed while it is written to."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def progress(items: Iterable[T], what: str, total: Optional[int] = None, stream: Any = None) -> Iterator[T]:
    """Iterate over ``items`` with a progress bar by tqdm on ``stream``.

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
        return iter(items)
    from tqdm import tqdm

    bar = tqdm(
        items,
        desc=what,
        total=total,
        leave=False,
        file=_Terminal(stream),
        delay=DELAY,
        mininterval=INTERVAL,
        ascii=True,
        ncols=shutil.get_terminal_size().columns - 1,
        bar_format="{desc} [{bar:20}] {n_fmt} of {total_fmt}, {remaining} left",
    )
    return iter(bar)


def over_channels(name: str) -> Callable[[Layer], Callable[[Iterable[T]], Iterator[T]]]:
    """Return a function from a layer to what shows the progress of one pass for each of its channels.

    ``name``: of the image.
    """

    def bar(layer: Layer) -> Callable[[Iterable[T]], Iterator[T]]:
        return partial(progress, what=f"{name}: channels of {layer.title}")

    return bar
