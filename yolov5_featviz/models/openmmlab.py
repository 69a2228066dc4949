"""Layers and image metadata of OpenMMLab models (mmdetection and its relatives)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from torch import nn

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.models.layers import Context, LayerIndex, index_children
from yolov5_featviz.models.outputs import Input


def index_openmmlab(model: Any) -> Optional[LayerIndex]:
    """Number the children of an OpenMMLab model: ``backbone``, ``neck``, ``bbox_head``...; None for other models."""
    if not (hasattr(model, "data_preprocessor") and callable(getattr(model, "test_step", None))):
        return None
    return index_children(model, context_of)


def context_of(root: nn.Module, given: Input, inputs: Sequence[Any]) -> List[Context]:
    """Return name and region of each image, from the data samples among a model's arguments."""
    for value in inputs:
        if isinstance(value, (list, tuple)) and value and all(hasattr(sample, "metainfo") for sample in value):
            return [
                Context(Path(sample.metainfo.get("img_path") or "").stem, region_of(sample.metainfo))
                for sample in value
            ]
    return []


def region_of(meta: Dict[str, Any]) -> Optional[Region]:
    """Return where in the network's input the image of a test pipeline lies.

    Args:
        meta: metainfo of a data sample: ``ori_shape`` (height, width) and ``scale_factor`` (across, down), and
            ``pad_param`` (top, bottom, left, right) where the pipeline pads on all sides, as mmyolo's.

    Returns:
        Left, top, right and bottom edge in pixels; None if ``meta`` lacks these, or the image was
        flipped, so that nothing can be drawn over the original.
    """
    if "ori_shape" not in meta or "scale_factor" not in meta or meta.get("flip"):
        return None
    across, down = (float(factor) for factor in meta["scale_factor"][:2])
    height, width = (round(side * factor) for side, factor in zip(meta["ori_shape"][:2], (down, across)))
    pad = meta.get("pad_param")
    top, left = (0.0, 0.0) if pad is None else (float(pad[0]), float(pad[2]))
    return left, top, left + width, top + height
