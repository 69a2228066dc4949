"""Exceptions whose messages are meant for users."""

from yolov5_featviz.text import printable


class FeatvizError(ValueError):
    """A request that cannot be fulfilled.

    The message is one line: what is wrong, with the value, and what would be right. The command
    line prints it without a traceback and exits with 2.
    """


class UnsafeCheckpoint(FeatvizError):
    """A checkpoint that requests something no checkpoint needs. None of it was run."""


def reason(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type name if there is none."""
    lines = str(error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__, 200)
