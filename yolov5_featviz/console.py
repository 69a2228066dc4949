"""Write to the terminal, also where standard output or error is closed, full or of a narrow encoding."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import Any, Iterator

from yolov5_featviz.errors import reason

_lost = False


def say(message: str) -> None:
    """Write a message to standard error; one that cannot be written is lost, and :func:`finish` returns 1."""
    global _lost
    if sys.stderr is not None:  # print() would take standard output instead
        try:
            print(f"yolov5-featviz: {message}", file=sys.stderr, flush=True)
        except (OSError, ValueError):  # full, or closed; what is drawn is worth more than the message
            _lost = True


def out(text: str) -> None:
    """Write a result to standard output; what its encoding lacks is escaped.

    Raises:
        OSError: it is closed or full.
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
    """Open the descriptors 0 to 2 where they are closed: a picture that took one would get what libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


@contextmanager
def streams() -> Iterator[None]:
    """Let ``sys.stdout`` and ``sys.stderr`` be something that can be written to, while a command runs."""
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
    """Flush both streams; return ``code``, or 1 instead of 0 if anything that was written to them was lost."""
    global _lost
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:  # who reads along, `head` for instance, has seen enough
            _give_up(stream)
            _lost = True
        except (OSError, ValueError) as error:
            _give_up(stream)
            if stream is sys.stdout:
                say(f"error: cannot write to standard output: {getattr(error, 'strerror', None) or reason(error)}")
            _lost = True
    return code or int(_lost)


def _give_up(stream: Any) -> None:
    """Let what is still buffered go nowhere: Python flushes once more when it ends, and would exit with 120."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()
