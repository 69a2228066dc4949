"""Exceptions whose messages are meant for users."""

from yolov5_featviz.text import printable


class FeatvizError(ValueError):
    """Something the user asked for cannot be done.

    The message is one line: what is wrong, with the value, and what would be right. The command
    line prints it without a traceback and exits with 2.
    """


class UnsafeCheckpoint(FeatvizError):
    """A checkpoint asks for something that no checkpoint needs. None of it was run."""


def reason(error: BaseException) -> str:
    """The first line of what an exception says, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__, 200)
