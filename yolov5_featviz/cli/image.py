"""``yolov5-featviz image``: run any model on images and draw its layers."""

from __future__ import annotations

import argparse
from typing import Any, Optional, Sequence

from yolov5_featviz.cli import flags
from yolov5_featviz.cli.flags import Flag
from yolov5_featviz.cli.parser import Parser
from yolov5_featviz.console import say
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.version import __version__

NAME = "image"
HELP = "run any other model on images and draw its layers"
EXAMPLES = """\
examples:
  yolov5-featviz image --model torchvision:resnet50 --weights default --layers layer1,layer4 --source cat.jpg
  yolov5-featviz image --model net.py:build --weights net.pth --layers 'layer*' --source images/ --mode heatmap,pca
"""
MODEL = Flag("model", "model", "torchvision:resnet50, timm:resnet50, module:function or file.py:function", "MODEL")
SOURCE = Flag(
    "source", "source", "an image, a folder of images, or a pattern such as 'a/*.jpg'", "IMAGES", required=True
)
LOOK = tuple(flag for flag in flags.LOOK if flag.name != "boxes")
DRAWN = (*LOOK, Flag("dir", "folder", "output folder of the pictures; default runs/featviz/exp", "DIR", flags.folder))
FLAGS = (
    MODEL._replace(required=True),
    Flag(
        "layers",
        "layers",
        "layer1 | layer* | features.5 | Bottleneck | -2 | 0-3 | all, or a comma list",
        "LAYERS",
        required=True,
    ),
    SOURCE,
    Flag(
        "weights", "weights", "a state dict, or 'default' to download the library's; else cached ones, or random", "W"
    ),
    Flag(
        "imgsz",
        "imgsz",
        "resize images to a square; default: the model's own transform, or 384 if it has none",
        "N",
        flags.whole("--imgsz"),
    ),
    flags.DEVICE,
    flags.TRUST,
)


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments."""
    flags.add(parser, FLAGS)
    group = parser.add_argument_group("what to draw")
    flags.add(group, (*DRAWN, *flags.REPORT), also=flags.PREFIX)
    for name in ("--boxes", f"{flags.PREFIX}boxes"):  # accepted only to explain why there is none
        parser.add_argument(name, action="store_true", dest="boxes", help=argparse.SUPPRESS)


def execute(o: argparse.Namespace, command: Sequence[str]) -> int:
    """Draw layers for each image."""
    if o.boxes:
        raise FeatvizError("--boxes: `image` has no detections to draw; `run detect.py` does")
    options = {"weights": None, "imgsz": None, "trust": False, "device": None, **flags.given(o, FLAGS)}
    reported = {"report": True, "say": 0, **flags.given(o, flags.REPORT)}
    look_fields = flags.given(o, DRAWN)
    folder = look_fields.pop("folder", None)
    from yolov5_featviz.runs.images import run_images
    from yolov5_featviz.runs.look import Look
    from yolov5_featviz.runs.provenance import run_record

    look = Look(**look_fields)
    if o.strict:
        flags.check_modes(o, DRAWN, look, reported["report"])
    zoo = zoo_model(options["model"], options["weights"], options["imgsz"], options["trust"], reported["say"] < 0)
    about = run_record(command, [options["weights"]] if options["weights"] == zoo.weights else [])
    return run_images(
        zoo, options["layers"], options["source"], look, folder, say, about, **reported, device=options["device"]
    )


def zoo_model(model: str, weights: Optional[str], imgsz: Optional[int], trust: bool, quiet: bool = False) -> Any:
    """Load ``model`` with :func:`yolov5_featviz.models.zoo.load_model` and print a description."""
    from yolov5_featviz.models.zoo import load_model
    from yolov5_featviz.yolov5.weights.checkpoint import load_checkpoint

    zoo = load_model(model, weights, imgsz, lambda path: load_checkpoint(path, trust=trust))
    if not quiet:
        say(f"{__version__}, {model}, weights: {zoo.weights}")
    return zoo
