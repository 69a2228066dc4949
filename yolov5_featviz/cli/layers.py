"""``yolov5-featviz layers``: list the layers of a model."""

from __future__ import annotations

import argparse
import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Sequence

from yolov5_featviz.cli import flags
from yolov5_featviz.cli.flags import Flag
from yolov5_featviz.cli.image import MODEL, zoo_model
from yolov5_featviz.cli.parser import Parser
from yolov5_featviz.console import out
from yolov5_featviz.errors import FeatvizError

NAME = "layers"
HELP = "list the layers of a model"
EXAMPLES = """\
examples:
  yolov5-featviz layers --weights best.pt
  yolov5-featviz layers --model torchvision:resnet50 --depth 2 --json
"""
FLAGS = (
    Flag("weights", "weights", "a YOLOv5 .pt checkpoint, or a state dict for --model", "W"),
    MODEL,
    Flag(
        "imgsz",
        "imgsz",
        "input size, or height and width; default 640, or that of --model",
        "N",
        nargs="+",
        others=("--img", "--img-size"),
    ),
    Flag("depth", "depth", "levels of modules to list; default 1, or 2 for --model", "N", flags.whole("--depth")),
    Flag("json", "json", "as JSON"),
    flags.YOLOV5,
    flags.TRUST,
)


def add_arguments(parser: Parser) -> None:
    """Add the command's arguments."""
    flags.add(parser, FLAGS)


def execute(o: argparse.Namespace, command: Sequence[str]) -> int:
    """Print the table of layers."""
    options = {"weights": None, "model": None, "depth": None, "trust": False, "yolov5": None, **flags.given(o, FLAGS)}
    if options["weights"] is None and options["model"] is None:
        raise FeatvizError("give --weights, a YOLOv5 checkpoint, or --model, such as torchvision:resnet50")
    sizes = [flags.whole("--imgsz")(word) for word in options.get("imgsz", ())]
    if len(sizes) > 2:
        raise FeatvizError(f"--imgsz {' '.join(map(str, sizes))}: give one size, or height and width")
    from yolov5_featviz.models.layers import list_layers
    from yolov5_featviz.models.summary import layer_table
    from yolov5_featviz.yolov5.load import load
    from yolov5_featviz.yolov5.script.validate import locate_weights
    from yolov5_featviz.yolov5.weights.guard import guard

    if options["model"] is None:
        model = load(locate_weights(options["weights"], [Path("weights")]), options["yolov5"], options["trust"])
        size, depth = (640, 640), 1
    else:
        zoo = zoo_model(options["model"], options["weights"], None, options["trust"])
        model, size, depth = zoo.model, zoo.input_size(), 2
    size = (sizes[0], sizes[-1]) if sizes else size
    with nullcontext() if options["trust"] or options["model"] is not None else guard(imports=True):
        rows = list_layers(model, size, options["depth"] or depth)
    out(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) if "json" in options else layer_table(rows))
    return 0
