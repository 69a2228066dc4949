"""Entry point for scripts patched with ``patches/detect.diff``."""

from __future__ import annotations

import sys

from yolov5_featviz.cli import guarded
from yolov5_featviz.cli.parser import split
from yolov5_featviz.cli.run import run_script
from yolov5_featviz.yolov5.script.execute import Script

NOT_OURS = -1  # not an exit code


def hand_over(script: str) -> None:
    """Rerun ``script`` as ``yolov5-featviz run`` does, and exit with its code.

    ``script`` is the running program, before its first import. Returns, so that the script continues
    by itself, if it already runs under this package, or if the command line has neither a help flag
    nor any of our flags.
    """
    if isinstance(sys.modules["__main__"], Script):
        return
    arguments = sys.argv[1:]

    def command() -> int:
        ours, rest = split(arguments)
        is_ours = bool(ours) or bool({"-h", "--help"}.intersection(rest))
        return run_script(script, arguments) if is_ours else NOT_OURS

    code = guarded(command)
    if code != NOT_OURS:
        sys.exit(code)
