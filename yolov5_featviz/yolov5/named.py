"""Models by name, those of Ultralytics included: ``ultralytics:yolo11n.yaml`` or ``ultralytics:best.pt``."""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.models.device import choose_device
from yolov5_featviz.models.layers import index_layers
from yolov5_featviz.models.zoo import Prepare, ZooModel, load_model, load_weights
from yolov5_featviz.yolov5.letterbox import letterboxed
from yolov5_featviz.yolov5.predictor import Predictor
from yolov5_featviz.yolov5.script.validate import locate_weights
from yolov5_featviz.yolov5.weights.checkpoint import check_weights, load_checkpoint, model_of

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


def load_detector(
    weights: Optional[str],
    model: Optional[str],
    imgsz: Optional[int] = None,
    trust: bool = False,
    yolov5: Optional[str] = None,
    device: Optional[str] = None,
) -> Tuple[Union[Predictor, ZooModel], List[str], Dict[str, str]]:
    """Load a YOLOv5 checkpoint, or a model by name.

    Args:
        weights: the checkpoint, or the weights of ``model``.
        model: see :func:`load_named`; None for a checkpoint.
        imgsz, trust: see :func:`load_named`.
        yolov5: the checkout of a checkpoint; None to find one.
        device: ``cpu``, ``cuda:1``...; None for the first GPU if there is one.

    Returns:
        The model, its files, and what it is, for the record.

    Raises:
        FeatvizError: neither is given, or as :func:`load_named` and ``Predictor``.
    """
    if model is None:
        if weights is None:
            raise FeatvizError("give --weights, a YOLOv5 checkpoint, or --model, such as ultralytics:yolo11n.yaml")
        path = locate_weights(weights, [Path("weights")])
        check_weights(path)
        predictor = Predictor(path, yolov5, trust, device)
        return predictor, [path], {"yolov5": predictor.release}
    zoo = load_named(model, weights, imgsz, trust)
    index_layers(zoo.model.to(choose_device(device)))
    return zoo, [weights] if weights is not None and weights == zoo.weights else [], {"model": model}
