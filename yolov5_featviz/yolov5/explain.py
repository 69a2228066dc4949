"""Explain the detections of a model in an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.attribution.explain import METHOD, Explanation, explain_input
from yolov5_featviz.models.detections import Detections
from yolov5_featviz.models.layers import LayerSpec, index_layers
from yolov5_featviz.yolov5.detections import ULTRALYTICS
from yolov5_featviz.yolov5.letterbox import letterboxed
from yolov5_featviz.yolov5.predictor import Predictor, image_name, read_image

Image = Union[str, Path, np.ndarray, torch.Tensor]


def explain(
    model: Any,
    image: Image,
    target: Optional[Union[str, int, Sequence[int]]] = None,
    method: str = METHOD,
    layers: Optional[LayerSpec] = None,
    device: Optional[Union[str, int]] = None,
    imgsz: int = 640,
    conf: float = 0.25,
    iou: float = 0.45,
    find: Optional[Callable[[Any], Detections]] = None,
) -> List[Explanation]:
    """Explain the detections in an image, each by its own map with its own scale.

    ::

        for one in fv.explain("best.pt", "bus.jpg", "person"):
            one.over("bus.jpg").save(f"{one.label}.png")

    Args:
        model: path of a YOLOv5 checkpoint, a :class:`~yolov5_featviz.yolov5.predictor.Predictor`, an Ultralytics
            ``YOLO`` object or model, a detector of torchvision, or any ``nn.Module`` with ``find``.
        image: path of a file, or uint8 RGB ``[H, W, 3]``, prepared as ``detect.py`` does for YOLOv5 and Ultralytics,
            else divided by 255; or the model's input, ``[1, C, H, W]``, as it is.
        target: what to explain: None for all detections; a class by name or number; ``person:0`` for the
            person with the highest score, ``:0`` for the detection with the highest; or row numbers.
        method: see :func:`yolov5_featviz.attribution.cam.cam`; not ``eigen-cam``, which explains no detection.
        layers: one layer, or several, whose maps are merged. None for the end of the backbone; a layer that the
            head reads by 1 x 1 convolutions shows only the cells that detected.
        device: for a path: ``cpu``, ``cuda:1``...; the first GPU if there is one.
        imgsz: longer side of the input in pixels, for YOLOv5 and Ultralytics.
        conf, iou: thresholds, for YOLOv5 and Ultralytics.
        find: for detectors of no known family, a function from the output to
            :class:`~yolov5_featviz.models.detections.Detections`.

    Returns:
        An :class:`~yolov5_featviz.attribution.explain.Explanation` for each detection, best first.

    Raises:
        FeatvizError: invalid argument, nothing to explain, or a layer that does not feed the detections.
    """
    if isinstance(model, (str, Path)):
        model = Predictor(model, device=device)
    how: Any = {"target": target, "method": method, "layers": layers, "conf": conf, "iou": iou, "find": find}
    if isinstance(image, torch.Tensor):
        if not isinstance(model, Predictor):
            return explain_input(model, image, **how)
        with model.own():
            return explain_input(model.model, image.to(model.device), **how)
    pixels = read_image(image)
    size, name = (int(pixels.shape[0]), int(pixels.shape[1])), image_name(image)
    if isinstance(model, Predictor):
        x, region = model.prepare(pixels, imgsz)
        with model.own():
            return explain_input(model.model, x.to(model.device), region=region, size=size, name=name, **how)
    x, place = _prepared(model, pixels, imgsz)
    return explain_input(model, x, region=place, size=size, name=name, **how)


def _prepared(model: Any, pixels: np.ndarray, imgsz: int) -> Tuple[torch.Tensor, Optional[Region]]:
    """Return the input of a model, on its device, and the image's region in it."""
    root = index_layers(model).root
    region = None
    if ULTRALYTICS.matches(root):
        stride = getattr(root, "stride", None)
        step = int(stride.max()) if isinstance(stride, torch.Tensor) else 32
        pixels, region = letterboxed(pixels, imgsz, step)
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    parameter = next(iter(root.parameters()), x)
    return x.to(parameter.device).float() / 255, region
