"""Ultralytics' ``YOLO`` object, which predicts with a copy of its model and resizes images itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, List, Optional, Sequence

from torch import nn

from yolov5_featviz.models.layers import Context, LayerIndex
from yolov5_featviz.models.outputs import Input, crop_region
from yolov5_featviz.yolov5.layers import find_model, index_model
from yolov5_featviz.yolov5.letterbox import letterbox_region


def index_yolo(model: Any) -> Optional[LayerIndex]:
    """Index the layers of a ``YOLO`` object's model; None for other models."""
    if not (hasattr(model, "predictor") and callable(getattr(model, "predict", None))):
        return None
    index = index_model(model)
    if index is None:
        return None
    copy = find_model(getattr(model.predictor, "model", None))

    def context(root: nn.Module, given: Input, inputs: Sequence[Any]) -> List[Context]:
        predictor = model.predictor
        if predictor is None or root is not find_model(predictor.model) or predictor.batch is None:
            return []
        paths, images = predictor.batch[:2]
        return [
            Context(Path(path).stem, _region(predictor, image, given) if isinstance(images, list) else None)
            for path, image in zip(paths, images)
        ]

    return replace(index, copies=(copy,) if copy is not None and copy is not index.root else (), context=context)


def _region(predictor: Any, image: Any, given: Input) -> Any:
    if given.size is None or "RTDETR" in type(predictor).__name__:  # RT-DETR stretches images
        return None
    size = (int(image.shape[0]), int(image.shape[1]))
    if predictor.args.task == "classify":
        return crop_region(size, min(given.size), given.size)
    return letterbox_region(size, given.size)
