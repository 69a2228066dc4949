"""Terminal output that survives closed or full streams and narrow encodings."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import Any, Iterator

from yolov5_featviz.errors import reason

_lost = False


def say(message: str) -> None:
    """Write a message to standard error; if that fails it is dropped, and :func:`finish` returns 1."""
    global _lost
    if sys.stderr is not None:  # print() would take standard output instead
        try:
            sys.stderr.write(f"yolov5-featviz: {message}\n")  # at once: print() would let other threads in between
            sys.stderr.flush()
        except (OSError, ValueError):  # full or closed, which must not stop the drawing
            _lost = True


def out(text: str) -> None:
    """Write a result to standard output, escaping characters that its encoding lacks.

    Raises:
        OSError: standard output is closed or full.
    """
    if getattr(sys.stdout, "stands_in", False):
        raise OSError("standard output is closed")
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"cannot write to standard output: {error.strerror}") from None


def open_descriptors() -> None:
    """Open the descriptors 0 to 2 if closed: a picture file that got one would receive what libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # returns the lowest free number


@contextmanager
def streams() -> Iterator[None]:
    """Replace a missing ``sys.stdout`` or ``sys.stderr`` by the null device while a command runs."""
    global _lost
    _lost = False
    open_descriptors()
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    for name, stream in before.items():
        if stream is None:
            null: Any = open(os.devnull, "w")  # noqa: SIM115
            null.stands_in = True
            setattr(sys, name, null)
    try:
        yield
    finally:
        for name, stream in before.items():
            if stream is None:
                getattr(sys, name).close()
                setattr(sys, name, None)


def finish(code: int) -> int:
    """Flush both streams; return ``code``, or 1 instead of 0 if any output was lost."""
    global _lost
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:  # the reader, such as `head`, has quit
            _give_up(stream)
            _lost = True
        except (OSError, ValueError) as error:
            _give_up(stream)
            if stream is sys.stdout:
                say(f"error: cannot write to standard output: {getattr(error, 'strerror', None) or reason(error)}")
            _lost = True
    return code or int(_lost)


def _give_up(stream: Any) -> None:
    """Redirect a stream to the null device: Python flushes again at exit, and would exit with 120."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()
