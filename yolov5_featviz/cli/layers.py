"""``yolov5-featviz layers``: list the layers of a model."""

from __future__ import annotations

import argparse
import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Dict, Sequence

from yolov5_featviz.cli import flags
from yolov5_featviz.cli.flags import Flag
from yolov5_featviz.cli.image import MODEL, SOURCE, zoo_model
from yolov5_featviz.cli.parser import Parser
from yolov5_featviz.console import out
from yolov5_featviz.errors import FeatvizError

NAME = "layers"
HELP = "list the layers of a model"
EXAMPLES = """\
examples:
  yolov5-featviz layers --weights best.pt
  yolov5-featviz layers --model torchvision:resnet50 --depth 2 --json
  yolov5-featviz layers --weights best.pt --ablate --source bus.jpg
"""
ABLATED = (
    SOURCE,
    Flag("conf-thres", "conf", "confidence threshold; default 0.25", "CONF", flags.number("--conf-thres")),
    Flag(
        "iou-thres", "iou", "IoU threshold of non-maximum suppression; default 0.45", "IOU", flags.number("--iou-thres")
    ),
    flags.DEVICE,
)
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
    Flag("ablate", "ablate", "a column with the score that detections lose when the layer is bridged"),
    *(flag._replace(help=f"for --ablate: {flag.help}", required=False) for flag in ABLATED),
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
    _check_ablated(options, sizes)
    from yolov5_featviz.models.layers import list_layers
    from yolov5_featviz.models.summary import layer_table
    from yolov5_featviz.runs.images import find_images
    from yolov5_featviz.yolov5.load import load
    from yolov5_featviz.yolov5.script.validate import locate_weights
    from yolov5_featviz.yolov5.weights.guard import guard

    images = find_images(options["source"]) if "ablate" in options else []
    if options["model"] is None:
        model = load(locate_weights(options["weights"], [Path("weights")]), options["yolov5"], options["trust"])
        root, size, depth = model, (640, 640), 1
    else:
        imgsz = sizes[0] if sizes and images else None
        model = zoo_model(options["model"], options["weights"], imgsz, options["trust"])
        root, size, depth = model.model, model.input_size(), 2
    size = (sizes[0], sizes[-1]) if sizes else size
    with nullcontext() if options["trust"] or options["model"] is not None else guard(imports=True):
        rows = list_layers(root, size, options["depth"] or depth)
        lost = _score_lost(options, model, rows, images, sizes) if images else None
    if "json" in options:
        more: Any = [{}] * len(rows)
        if lost is not None:
            more = [{"score_lost": share, "detections": lost.detections} for share in lost.shares]
        out(json.dumps([{**dataclasses.asdict(row), **extra} for row, extra in zip(rows, more)], indent=1))
        return 0
    out(layer_table(rows, None if lost is None else lost.shares))
    if lost is not None:
        out(lost.words())
    return 0


def _check_ablated(options: Dict[str, Any], sizes: Sequence[int]) -> None:
    """Raise FeatvizError for flags that contradict each other."""
    if "ablate" not in options:
        idle = next((flag for flag in ABLATED if flag.field in options), None)
        if idle is not None:
            raise FeatvizError(f"--{idle.name} does nothing without --ablate")
        return
    if "source" not in options:
        raise FeatvizError("--ablate needs images to detect something in: give --source, such as bus.jpg")
    if len(sizes) > 1:
        raise FeatvizError(f"--imgsz {' '.join(map(str, sizes))}: --ablate takes one size, of the longer side")
    from yolov5_featviz.compare.options import check_shares

    check_shares({"conf-thres": options.get("conf", 0), "iou-thres": options.get("iou", 0)})


def _score_lost(options: Dict[str, Any], model: Any, rows: Any, images: Any, sizes: Sequence[int]) -> Any:
    """Measure what detections lose without each layer."""
    from yolov5_featviz.models.detections import DEFAULTS
    from yolov5_featviz.models.device import choose_device
    from yolov5_featviz.yolov5.score_lost import score_lost

    (model.model if options["model"] is not None else model).to(choose_device(options.get("device")))
    limits = DEFAULTS._replace(**{name: options[name] for name in ("conf", "iou") if name in options})
    return score_lost(model, rows, images, sizes[0] if sizes else 640, limits, options["model"] or "")
