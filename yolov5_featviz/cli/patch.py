"""``yolov5-featviz patch``: add the flags to a fork's own detect.py."""

from __future__ import annotations

import argparse
from typing import Sequence

from yolov5_featviz.cli.parser import Parser
from yolov5_featviz.console import out

NAME = "patch"
HELP = "add the flags to a fork's own detect.py"
EXAMPLES = """\
examples:
  yolov5-featviz patch path/to/fork
  yolov5-featviz patch path/to/fork --reverse
"""


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkout", metavar="CHECKOUT", help="the folder of detect.py")
    parser.add_argument("--reverse", action="store_true", help="remove them again")


def execute(o: argparse.Namespace, command: Sequence[str]) -> int:
    """Patch the checkout."""
    from yolov5_featviz.yolov5.fork_patch import patch

    out(patch(o.checkout, o.reverse))
    return 0
