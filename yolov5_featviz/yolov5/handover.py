"""The other end of ``patches/detect.diff``: what a patched script calls."""

from __future__ import annotations

import sys

from yolov5_featviz import cli
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.yolov5.runner import Script


def hand_over(script: str) -> None:
    """Run ``script`` anew, as ``yolov5-featviz run`` does, and exit with its code.

    ``script`` is the program that is running, before its first import. Returns, so that it goes
    on by itself, if it is being run by us already, or if the line asks neither for help nor for
    anything of ours.
    """
    if isinstance(sys.modules["__main__"], Script):
        return
    arguments = sys.argv[1:]
    try:
        ours, rest = cli.split(arguments)
        if not ours and not {"-h", "--help"}.intersection(rest):
            return
        code = cli.run(script, arguments)
    except FeatvizError as error:
        code = cli.fail(error)
    sys.exit(code)
