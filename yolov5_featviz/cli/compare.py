"""``yolov5-featviz compare``: compare models on the same images."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Sequence

from yolov5_featviz.cli import flags
from yolov5_featviz.cli.flags import Flag
from yolov5_featviz.cli.image import SOURCE
from yolov5_featviz.cli.parser import Parser
from yolov5_featviz.console import say
from yolov5_featviz.draw.encode import FORMATS
from yolov5_featviz.draw.widths import width_of

NAME = "compare"
HELP = "compare models on the same images: figures on one scale, and tables"
EXAMPLES = """\
examples:
  yolov5-featviz compare --weights old.pt new.pt --layers 17,20,23 --source images/
  yolov5-featviz compare --weights a.pt b.pt --names plain attention --layers plain=17 attention=18 --source bus.jpg
  yolov5-featviz compare --weights old.pt new.pt --mode cam --source images/
  yolov5-featviz compare --weights old.pt new.pt --mode cam --target missed --source images/ --labels labels/
"""
LOOK = {flag.name: flag for flag in flags.LOOK}


FLAGS = (
    Flag(
        "weights",
        "weights",
        "two or more .pt checkpoints; the others are compared with the first",
        "W",
        nargs="+",
        required=True,
    ),
    Flag(
        "layers",
        "layers",
        "17,20,23 for all models, or a=17 b=20 by name; for cam they are merged, by default the last of the backbone",
        "LAYERS",
        nargs="+",
    ),
    SOURCE,
    Flag(
        "mode",
        "modes",
        "comma list of heatmap (default), the layers side by side, and cam, what the models make of the same objects",
        "MODES",
        flags.words,
    ),
    Flag(
        "method",
        "method",
        "for cam: layer-cam (default), grad-cam, grad-cam++, odam, ss-grad-cam++, eigen-cam, d-rise, ablation",
        "NAME",
        modes=("cam",),
    ),
    Flag(
        "target",
        "target",
        "for cam: a class; person:0 for the best; person@x0,y0,x1,y1 for what is there, detected or not; with labels "
        "errors, missed, false, 'wrong class', 'poor box', duplicate; default all objects",
        "TARGET",
        modes=("cam",),
    ),
    Flag(
        "masks",
        "masks",
        "for cam: number of masks of d-rise; default 1000",
        "N",
        flags.whole("--masks"),
        modes=("cam",),
    ),
    Flag("names", "names", "names of the models; default: of the files, or of their folders", "NAME", nargs="+"),
    Flag(
        "labels",
        "labels",
        "folder of label files, which also give mAP; default: 'labels' for 'images' in the path, else detections",
        "DIR",
    ),
    Flag("imgsz", "imgsz", "input size; default 640", "N", flags.whole("--imgsz"), others=("--img", "--img-size")),
    Flag("conf-thres", "conf", "confidence threshold; default 0.25", "CONF", flags.number("--conf-thres")),
    Flag(
        "iou-thres", "iou", "IoU threshold of non-maximum suppression; default 0.45", "IOU", flags.number("--iou-thres")
    ),
    LOOK["reduce"]._replace(modes=("heatmap",)),
    LOOK["cmap"]._replace(help="any matplotlib colour map; default inferno", modes=()),
    LOOK["alpha"]._replace(
        modes=(),
        field="alpha",
        read=flags.number("--alpha"),
        help="opacity of the largest value over the image; 0 is transparent; default 0.8",
    ),
    LOOK["desaturate"]._replace(help="draw the image below heat maps in grey", modes=()),
    LOOK["format"]._replace(help=f"comma list of {flags.listed(FORMATS, 'png')}"),
    LOOK["dpi"],
    Flag("width", "width", "inches, or ieee-column, cvpr-page, nature-double...; default ieee-page", "WIDTH", width_of),
    Flag("project", "project", "default runs/compare", "DIR"),
    Flag("name", "name", "default exp; exp2 and so on if it exists", "NAME"),
    Flag("yolov5", "yolov5", "YOLOv5 checkout of all models, or one for each", "DIR", nargs="+"),
    flags.DEVICE,
    *(flag for flag in flags.REPORT if flag.name != "report"),
    flags.TRUST,
)


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments."""
    flags.add(parser, FLAGS)


def execute(o: argparse.Namespace, command: Sequence[str]) -> int:
    """Compare the models."""
    fields = flags.given(o, FLAGS)
    from yolov5_featviz.compare.options import CompareOptions
    from yolov5_featviz.yolov5.compare import compare

    options = CompareOptions(**fields)
    if o.strict:
        flags.check_modes(o, FLAGS, SimpleNamespace(modes=options.modes, overlay=False), False)
    return compare(options, command, say)
