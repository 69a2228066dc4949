"""The exceptions whose messages are meant for the person at the keyboard."""


class FeatvizError(ValueError):
    """Something the user asked for cannot be done.

    The message is one line: what is wrong, with the value, and what would be right. The command
    line prints it without a traceback and exits with 2.
    """


class UnsafeCheckpoint(FeatvizError):
    """A checkpoint asks for something that no checkpoint needs. None of it was run."""
