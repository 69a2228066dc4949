"""``yolov5-featviz run``: run a YOLOv5 script and draw layers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, List, Optional, Sequence

from yolov5_featviz import stop
from yolov5_featviz.cli import flags
from yolov5_featviz.cli.parser import Parser, add_run_flags, run_flags, split
from yolov5_featviz.console import out
from yolov5_featviz.errors import FeatvizError

NAME = "run"
HELP = "run a YOLOv5 script, unedited, and draw layers"
EXAMPLES = """\
examples:
  yolov5-featviz run detect.py --weights best.pt --visualize-layers 17,20,23
  yolov5-featviz run detect.py --weights best.pt --source images/ --visualize-layers SPPF --visualize-mode heatmap
  yolov5-featviz run val.py --weights best.pt --data coco128.yaml --visualize-layers neck
"""


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments."""
    parser.usage = "yolov5-featviz run SCRIPT [the script's own flags] [flags below]"
    parser.add_argument("script", metavar="SCRIPT", help="its path, or its name in the YOLOv5 in use")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    add_run_flags(parser)


def options(ours: List[str], strict: bool = True) -> Any:
    """Parse our flags into :class:`yolov5_featviz.yolov5.script.artist.RunOptions`, checked without loading a model.

    Raises:
        FeatvizError: a value is invalid, or a flag has no effect.
    """
    from yolov5_featviz.yolov5.script.artist import RunOptions

    o = run_flags().parse_args(ours)
    found = RunOptions(**{**flags.given(o, flags.RUN, flags.PREFIX), **flags.given(o, flags.OWN_NAMES)})
    if strict:
        flags.check_modes(o, flags.RUN, found, found.report, flags.PREFIX)
    return found


def run_script(
    script: str,
    arguments: List[str],
    weights_folder: Optional[Path] = None,
    here: bool = True,
    command: Sequence[str] = (),
) -> int:
    """Run a script; see :func:`yolov5_featviz.yolov5.script.runner.run` for the arguments."""
    ours, rest = split(arguments)
    if "-h" in rest or "--help" in rest:
        out(run_flags().format_help())
    with stop.starting():
        from yolov5_featviz.yolov5.script import runner
    asked = options(ours, strict=not command)  # `redo` switches off the report, for which a flag may have been
    idle = [word.split("=", 1)[0] for word in ours if word.startswith(flags.PREFIX)]
    if asked.layers is None and idle:
        raise FeatvizError(f"{idle[0]} does nothing without --visualize-layers: name some, such as 17,20,23")
    return runner.run(script, rest, asked, weights_folder, here, command or ["run", script, *arguments])
