"""``yolov5-featviz faithfulness``: measure whether the maps of detections tell the truth."""

from __future__ import annotations

import argparse
from typing import Sequence

from yolov5_featviz.cli import flags
from yolov5_featviz.cli.explain import FLAGS as EXPLAIN
from yolov5_featviz.cli.flags import Flag
from yolov5_featviz.cli.parser import Parser
from yolov5_featviz.console import say

NAME = "faithfulness"
HELP = "measure whether the maps of detections tell the truth"
EXAMPLES = """\
examples:
  yolov5-featviz faithfulness --weights best.pt --source images/ --methods layer-cam,odam,d-rise,heatmap
  yolov5-featviz faithfulness --weights best.pt --source images/ --methods layer-cam,grad-cam --fill mean --checks 0
  yolov5-featviz faithfulness --weights best.pt --source images/ --resume runs/faithfulness/exp
"""
AS_EXPLAIN = {flag.name: flag for flag in EXPLAIN}
LOOK = {flag.name: flag for flag in flags.LOOK}
FLAGS = (
    *(AS_EXPLAIN[name] for name in ("weights", "model", "source")),
    Flag(
        "methods",
        "methods",
        "comma list of layer-cam, grad-cam, grad-cam++, odam, ss-grad-cam++, eigen-cam, d-rise, ablation, heatmap; "
        "default layer-cam,heatmap",
        "NAMES",
        flags.words,
    ),
    Flag("reference", "reference", "the method that the others are compared with; default the first", "NAME"),
    Flag("target", "target", "a class, person:0, :0, or person@x0,y0,x1,y1; default all detections", "TARGET"),
    Flag("layers", "layers", "one layer, or several, which are merged; default the last of the backbone", "LAYERS"),
    Flag("labels", "labels", "folder of label files, for the other objects; default: the detections", "DIR"),
    Flag("steps", "steps", "shares in which pixels are replaced; default 50", "N", flags.whole("--steps", 2)),
    Flag("fill", "fill", "what pixels are replaced by: blur (default), mean, noise, black", "NAME"),
    AS_EXPLAIN["masks"],
    Flag(
        "checks",
        "checks",
        "images with which the sanity check and that by noise are made, the first; default 8, 0 for none",
        "N",
        flags.whole("--checks", 0),
    ),
    Flag(
        "stages",
        "stages",
        "stages in which layers are randomised for the sanity check, from the head downwards; default 5",
        "N",
        flags.whole("--stages"),
    ),
    *(AS_EXPLAIN[name] for name in ("imgsz", "conf-thres", "iou-thres")),
    Flag(
        "batch",
        "batch",
        "most images in one pass; default the fastest on the device, which is tried",
        "N",
        flags.whole("--batch"),
    ),
    Flag("format", "formats", "of the curves: comma list of png (default), pdf, svg, jpg, tif", "FORMATS", flags.words),
    LOOK["dpi"],
    LOOK["width"]._replace(help="of the curves: inches, or ieee-column (default), cvpr-page, nature-double..."),
    Flag("dir", "folder", "output folder; default runs/faithfulness/exp", "DIR", flags.folder),
    Flag("resume", "resume", "go on in the folder of a run that ended early", "DIR", flags.folder),
    flags.DEVICE,
    flags.YOLOV5,
    *(flag for flag in flags.REPORT if flag.name != "report"),
    flags.TRUST,
)


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments."""
    flags.add(parser, FLAGS)


def execute(o: argparse.Namespace, command: Sequence[str]) -> int:
    """Measure the maps of the detections in each image."""
    fields = flags.given(o, FLAGS)
    from yolov5_featviz.yolov5.measure_images import MeasureOptions, measure_images

    return measure_images(MeasureOptions(**fields), command, say)
