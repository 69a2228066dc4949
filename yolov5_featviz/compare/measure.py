"""Metrics of the layers of several models for an image."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.arrays.cells import in_region
from yolov5_featviz.arrays.metrics import energy_inside, entropy, pointing_hit
from yolov5_featviz.arrays.reduce import reduce_channels
from yolov5_featviz.compare.metrics import channel_sparsity, debiased_cka, linear_cka, same_samples
from yolov5_featviz.models.layer_output import LayerOutput


class Row(NamedTuple):
    """Metrics of one layer of one model for one image; NaN where undefined."""

    image: str
    layer: str
    model: str
    boxes: str
    box_area: float
    energy_inside: float
    pointing_hit: float
    channel_sparsity: float
    entropy: float
    cka: float
    cka_debiased: float


def measure_image(
    image: str,
    names: Sequence[str],
    maps: Sequence[Sequence[LayerOutput]],
    truths: Optional[Sequence[Boxes]] = None,
    reduce: str = "mean",
) -> List[Row]:
    """Compute the metrics of each layer and model for one image.

    Args:
        image: name of the image.
        names: names of the models.
        maps: for each model, the maps of its layers.
        truths: ground-truth boxes in pixels of each model's input; None to use the model's detections.
        reduce: reduction to the heat map used for energy, pointing and entropy.
    """
    rows = []
    for k, of_layer in enumerate(zip(*maps)):
        layer = layer_name([of_model[k] for of_model in maps])
        for i, (name, fm) in enumerate(zip(names, of_layer)):
            data = fm.values
            heated = reduce_channels(data, reduce)
            boxes = (truths[i] if truths is not None else fm.boxes) or Boxes(np.zeros((0, 4)))
            stride = fm.stride or (1.0, 1.0)
            counted = in_region((data.shape[1], data.shape[2]), stride, fm.window)
            hit = pointing_hit(heated, boxes, stride, fm.window)
            samples = same_samples(of_layer[0], fm) if i else None
            rows.append(
                Row(
                    image,
                    layer,
                    name,
                    "labels" if truths is not None else "detections",
                    energy_inside(np.ones_like(heated), boxes, stride, fm.window),
                    energy_inside(heated, boxes, stride, fm.window),
                    float("nan") if hit is None else float(hit),
                    channel_sparsity(data, counted),
                    entropy(heated, counted),
                    linear_cka(*samples) if samples else float("nan"),
                    debiased_cka(*samples) if samples else float("nan"),
                )
            )
    return rows


def layer_name(maps: Sequence[LayerOutput]) -> str:
    """Return ``17``, or ``17 / 20`` where models differ."""
    return " / ".join(dict.fromkeys(fm.layer.name for fm in maps))
