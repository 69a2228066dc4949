"""``yolov5-featviz redo``: reproduce a figure and compare both."""

from __future__ import annotations

import argparse
from typing import Sequence

from yolov5_featviz.cli import flags
from yolov5_featviz.cli.flags import Flag
from yolov5_featviz.cli.parser import Parser
from yolov5_featviz.console import out

NAME = "redo"
HELP = "reproduce a figure from its record and compare both"
EXAMPLES = """\
examples:
  yolov5-featviz redo runs/detect/exp/bus/stage17_C3_features.png
  yolov5-featviz redo figure.pdf --weights best.pt --source bus.jpg
"""
FLAGS = (
    Flag("weights", "weights", "the checkpoints, if they are not found by name", "W", nargs="+"),
    Flag("source", "source", "the image, if it is not found by name", "IMAGE"),
    flags.YOLOV5,
    Flag("run", "anything", "run the figure's command without restrictions: it has all your rights"),
    flags.TRUST,
)


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("figure", metavar="FIGURE", help="a file written by yolov5-featviz")
    flags.add(parser, FLAGS)


def execute(o: argparse.Namespace, command: Sequence[str]) -> int:
    """Reproduce the figure; ``o.again`` runs a recorded command."""
    from yolov5_featviz.yolov5.redo import redo

    return redo(o.figure, o.again, log=out, **flags.given(o, FLAGS))
