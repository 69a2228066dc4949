"""``yolov5-featviz figure``: make a figure for a paper from a YAML file."""

from __future__ import annotations

import argparse
from typing import Sequence

from yolov5_featviz.cli import flags
from yolov5_featviz.cli.flags import Flag
from yolov5_featviz.cli.parser import Parser
from yolov5_featviz.console import say

NAME = "figure"
HELP = "make a figure for a paper from a YAML file"
EXAMPLES = """\
docs/figures.md documents the keys of the file.

examples:
  yolov5-featviz figure figure.yaml
  yolov5-featviz figure figure.yaml --output figure.pdf figure.png --dpi 600
"""
FLAGS = (
    Flag("output", "outputs", "overrides the outputs in the YAML: pdf, svg, png, tif", "FILE", nargs="+"),
    Flag("dpi", "dpi", "overrides the dpi in the YAML", "DPI", flags.whole("dpi", low=None)),
    flags.DEVICE,
    flags.TRUST,
)


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.add_argument("figure", metavar="FIGURE.yaml", help="rows and columns of images, detections and layers")
    flags.add(parser, FLAGS)


def execute(o: argparse.Namespace, command: Sequence[str]) -> int:
    """Write the figure."""
    from yolov5_featviz.yolov5.figure import write_figure

    options = flags.given(o, FLAGS)
    for path in write_figure(o.figure, command=command, **options):
        say(f"wrote {path}")
    return 0
