"""Read files that may be anything: ordinary files only, and bounded parts of them."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Iterator, Union

from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.text import printable


@contextmanager
def opened(path: Union[str, Path]) -> Iterator[BinaryIO]:
    """Open an ordinary file for reading; a pipe or a device is refused and never waited for.

    Args:
        path: of the file.

    Raises:
        FeatvizError: there is no such file, it is none (a folder, a pipe), or it cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(str(path), flags)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise FeatvizError(f"no file {printable(path)}") from None
    except OSError as error:
        raise FeatvizError(f"cannot read {printable(path, 300)}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FeatvizError(f"no file {printable(path)}")
    with os.fdopen(handle, "rb") as file:
        try:
            yield file
        except OSError as error:
            raise FeatvizError(f"cannot read {printable(path, 300)}: {reason(error)}") from None


def head(path: Union[str, Path], most: int) -> bytes:
    """Read a small file. Raises FeatvizError as :func:`opened`, or if it holds more than ``most`` bytes."""
    with opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise FeatvizError(f"{printable(path)} is larger than {most:,} bytes: give another file")
    return content
