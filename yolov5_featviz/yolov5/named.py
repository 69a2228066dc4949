"""Models by name, those of Ultralytics included: ``ultralytics:yolo11n.yaml`` or ``ultralytics:best.pt``."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, Optional, Tuple

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.models.zoo import Prepare, ZooModel, load_model, load_weights
from yolov5_featviz.yolov5.letterbox import letterboxed
from yolov5_featviz.yolov5.weights.checkpoint import load_checkpoint, model_of

PREFIX = "ultralytics:"
IMGSZ = 640


def load_named(model: str, weights: Optional[str] = None, imgsz: Optional[int] = None, trust: bool = False) -> ZooModel:
    """Load a model by name, those of Ultralytics included.

    Args:
        model: ``ultralytics:yolo11n.yaml``, built with random weights; ``ultralytics:best.pt``, which is unpickled and
            hence needs ``trust``; else as for :func:`yolov5_featviz.models.zoo.load_model`.
        weights: path of a state dict, for a YAML file, or as for ``load_model``.
        imgsz: longer side of the input, default 640; or as for ``load_model``.
        trust: unpickle without any check.

    Raises:
        FeatvizError: no such model, or the weights do not fit it.
    """
    if not model.startswith(PREFIX):
        return load_model(model, weights, imgsz, lambda path: load_checkpoint(path, trust=trust))
    name = model[len(PREFIX) :]
    if name.endswith(".pt"):
        if not trust:
            raise FeatvizError(
                f"{name} is a pickle of Ultralytics' own classes, which can run any code: add --trust-weights if you "
                "know where it comes from"
            )
        if weights is not None:
            raise FeatvizError(f"--weights {weights}: {model} has its own: leave them out")
        built, origin = model_of(load_checkpoint(name, trust=True), name, True), name
    else:
        built, origin = _built(name), "random ones"
        if weights is not None:
            load_weights(built, load_checkpoint(weights, trust=trust), weights, model)
            origin = weights
    return ZooModel(built.float().eval(), origin, preparing(built, imgsz or IMGSZ))


def preparing(root: nn.Module, imgsz: int) -> Prepare:
    """Return the preprocessing of a model of Ultralytics.

    The longer side becomes ``imgsz`` pixels, padded to multiples of the stride; RT-DETR stretches images to a square.
    Values are divided by 255.
    """
    stride = getattr(root, "stride", None)
    step = int(stride.max()) if isinstance(stride, torch.Tensor) else 32
    stretched = any("RTDETR" in kind.__name__ for kind in type(root).__mro__)

    def prepare(image: np.ndarray) -> Tuple[Any, Optional[Region]]:
        import cv2

        region: Optional[Region] = None
        if stretched:
            pixels: np.ndarray = cv2.resize(image, (imgsz, imgsz), interpolation=cv2.INTER_LINEAR)
        else:
            pixels, region = letterboxed(image, imgsz, step)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float() / 255, region

    return prepare


def _built(name: str) -> Any:
    """Build the model of a YAML file, of the package or one's own."""
    try:
        package = import_module("ultralytics")
    except ImportError:
        raise FeatvizError(f"{PREFIX}{name} needs the package: pip install ultralytics") from None
    if Path(name).suffix not in (".yaml", ".yml"):
        raise FeatvizError(f"no model {PREFIX}{name}: give a .yaml, such as yolo11n.yaml, or a .pt")
    build = getattr(package, "RTDETR" if Path(name).name.startswith("rtdetr") else "YOLO")
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            return build(name).model
    except Exception as error:
        raise FeatvizError(f"{PREFIX}{name} cannot be built: {reason(error)}") from error
