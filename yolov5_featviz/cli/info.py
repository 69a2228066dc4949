"""``yolov5-featviz info``: print how a figure was made."""

from __future__ import annotations

import argparse
from typing import Sequence

from yolov5_featviz.cli.parser import Parser
from yolov5_featviz.console import out

NAME = "info"
HELP = "print how a figure was made"
EXAMPLES = """\
examples:
  yolov5-featviz info runs/detect/exp/bus/stage17_C3_features.png
  yolov5-featviz info figure.pdf --json
"""


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("figure", metavar="FIGURE", help="a file written by yolov5-featviz")
    parser.add_argument("--json", action="store_true", help="as JSON")


def execute(o: argparse.Namespace, command: Sequence[str]) -> int:
    """Print the record."""
    from yolov5_featviz.runs.provenance import as_json, read_record, record_text

    about = read_record(o.figure)
    out(as_json(about) if o.json else record_text(about))
    return 0
