"""What a script patched by ``patches/detect.diff`` calls."""

from __future__ import annotations

import sys

from yolov5_featviz.cli import guarded
from yolov5_featviz.cli.parser import split
from yolov5_featviz.cli.run import run_script
from yolov5_featviz.yolov5.script.execute import Script

NOT_OURS = -1  # no exit code


def hand_over(script: str) -> None:
    """Run ``script`` anew, as ``yolov5-featviz run`` does, and exit with its code.

    ``script`` is the program that is running, before its first import. Returns, so that it goes
    on by itself, if it is being run by us already, or if the line asks neither for help nor for
    anything of ours.
    """
    if isinstance(sys.modules["__main__"], Script):
        return
    arguments = sys.argv[1:]

    def command() -> int:
        ours, rest = split(arguments)
        asked = bool(ours) or bool({"-h", "--help"}.intersection(rest))
        return run_script(script, arguments) if asked else NOT_OURS

    code = guarded(command)
    if code != NOT_OURS:
        sys.exit(code)
