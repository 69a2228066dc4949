"""``yolov5-featviz explain``: explain detections, and what was missed, one by one."""

from __future__ import annotations

import argparse
from typing import Sequence

from yolov5_featviz.cli import flags
from yolov5_featviz.cli.flags import Flag
from yolov5_featviz.cli.image import MODEL, SOURCE
from yolov5_featviz.cli.parser import Parser
from yolov5_featviz.console import say

NAME = "explain"
HELP = "explain each detection, and what was missed"
EXAMPLES = """\
examples:
  yolov5-featviz explain --weights best.pt --source bus.jpg
  yolov5-featviz explain --weights best.pt --source images/ --target errors --method odam
  yolov5-featviz explain --weights best.pt --source bus.jpg --target bus@0,230,805,720
  yolov5-featviz explain --model ultralytics:yolo11n.yaml --weights state.pth --source bus.jpg --method d-rise
"""
LOOK = {flag.name: flag._replace(modes=()) for flag in flags.LOOK}
FLAGS = (
    Flag("weights", "weights", "a YOLOv5 .pt checkpoint, or a state dict for --model", "W"),
    MODEL._replace(help="ultralytics:yolo11n.yaml, torchvision:fcos_resnet50_fpn, module:function or file.py:function"),
    SOURCE,
    Flag(
        "target",
        "target",
        "all: a file for each detection; a class; person:0; person@x0,y0,x1,y1 for the best candidate there, detected "
        "or not; errors, missed, false, 'wrong class', 'poor box', duplicate; default: one picture of everything",
        "TARGET",
    ),
    Flag(
        "method",
        "method",
        "layer-cam (default), grad-cam, grad-cam++, odam, ss-grad-cam++, eigen-cam, d-rise, ablation",
        "NAME",
    ),
    Flag(
        "layers", "layers", "one layer, or several, whose maps are merged; default the last of the backbone", "LAYERS"
    ),
    Flag("labels", "labels", "folder of label files; default: 'labels' for 'images' in the path, else none", "DIR"),
    Flag("imgsz", "imgsz", "input size; default 640", "N", flags.whole("--imgsz"), others=("--img", "--img-size")),
    Flag("conf-thres", "conf", "confidence threshold; default 0.25", "CONF", flags.number("--conf-thres")),
    Flag(
        "iou-thres", "iou", "IoU threshold of non-maximum suppression; default 0.45", "IOU", flags.number("--iou-thres")
    ),
    Flag("masks", "masks", "number of masks of d-rise; default 1000", "N", flags.whole("--masks")),
    Flag(
        "batch",
        "batch",
        "images in one pass of d-rise and ablation; default 8, on a GPU 32",
        "N",
        flags.whole("--batch"),
    ),
    flags.DEVICE,
    flags.YOLOV5,
    flags.TRUST,
)
DRAWN = (
    *(LOOK[name] for name in ("resample",)),
    LOOK["cmap"]._replace(help="any matplotlib colour map; default inferno"),
    *(LOOK[name] for name in ("alpha", "desaturate", "format", "dpi", "width", "plain")),
    Flag("dir", "folder", "output folder; default runs/explain/exp", "DIR", flags.folder),
)


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments."""
    flags.add(parser, FLAGS)
    group = parser.add_argument_group("how to draw")
    flags.add(group, (*DRAWN, *flags.REPORT))


def execute(o: argparse.Namespace, command: Sequence[str]) -> int:
    """Explain the detections in each image."""
    fields = {**flags.given(o, FLAGS), **flags.given(o, flags.REPORT)}
    drawn = flags.given(o, DRAWN)
    folder = drawn.pop("folder", None)
    from yolov5_featviz.runs.look import Look
    from yolov5_featviz.yolov5.explain_images import ExplainOptions, explain_images

    look = Look(**{**drawn, "modes": (), "boxes": True})
    return explain_images(ExplainOptions(**fields, look=look, folder=folder), command, say)
