"""Explain detections one by one: what in the image raises the score of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.array import as_array
from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.attribution.cam import (
    check_method,
    differentiable,
    gradients_of,
    gradients_on,
    heat_of,
    method_of,
    plain_errors,
    run_kept,
)
from yolov5_featviz.draw.heatmap import HeatMap, aligned
from yolov5_featviz.draw.picture import Picture
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.models.detections import Detections, Thresholds, counted, frame_of, split_target, watching
from yolov5_featviz.models.layers import LayerIndex, LayerSpec, index_layers, select_layers
from yolov5_featviz.models.outputs import describe_output

METHOD = "layer-cam"  # default


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a detector found one object.

    Attributes:
        heat: the map on the grid of the layers, 0 to 1, to be drawn alone or over the image.
        box: left, top, right and bottom edge in pixels of the image.
        label: class name.
        score: confidence.
        method: name of the method.
        layers: names of the layers.
        size: height and width of the image in pixels.
    """

    heat: HeatMap
    box: Tuple[float, float, float, float]
    label: str
    score: float
    method: str
    layers: Tuple[str, ...]
    size: Tuple[int, int]

    @property
    def map(self) -> np.ndarray:
        """The map at the size of the image, float32 ``[H, W]`` in [0, 1]."""
        return aligned(self.heat.values, self.heat.feature_map, self.size, self.size).clip(0, 1).astype(np.float32)

    def over(self, image: Any, boxes: bool = True, **options: Any) -> Picture:
        """Draw the map over the image, with the detection's box; options as for :meth:`HeatMap.over`."""
        return self.heat.over(image, boxes=boxes, **options)

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> np.ndarray:
        """The ``map``."""
        return as_array(self.map, dtype, copy)

    def __repr__(self) -> str:
        return f"<Explanation {self.label} {self.score:.2f}: {self.method} of layer {', '.join(self.layers)}>"


def explain_input(
    model: nn.Module,
    image: torch.Tensor,
    target: Optional[Union[str, int, Sequence[int]]] = None,
    method: str = METHOD,
    layers: Optional[LayerSpec] = None,
    conf: float = 0.25,
    iou: float = 0.45,
    find: Optional[Callable[[Any], Detections]] = None,
    region: Optional[Region] = None,
    size: Optional[Tuple[int, int]] = None,
    name: str = "",
) -> List[Explanation]:
    """Explain the detections in a prepared image, each by its own map with its own scale.

    Args:
        model: a detector of a known family, or any with ``find``. It is not changed.
        image: the model's input, ``[1, C, H, W]``.
        target: what to explain: None for all detections; a class by name or number; ``person:0`` for the
            person with the highest score, ``:0`` for the detection with the highest; or row numbers.
        method: see :func:`yolov5_featviz.attribution.cam.cam`; not ``eigen-cam``, which explains no detection.
        layers: one layer, or several, whose maps are merged: each scaled to its maximum, then averaged. None
            for the end of the backbone.
        conf, iou: thresholds of detectors that have none of their own.
        find: for detectors of no known family, a function from the output to :class:`Detections`.
        region: where in the input the image lies: left, top, right and bottom edge in pixels; None if it fills it.
        size: height and width of the original image in pixels; None for those of ``region``.
        name: name of the image, for captions.

    Returns:
        An :class:`Explanation` for each detection of the target, best first. A detection that no cell of the
        layers raises has a map of 0.

    Raises:
        FeatvizError: invalid argument, nothing to explain, or a layer that does not feed the detections.
    """
    check_method(method)
    if method == "eigen-cam":
        raise FeatvizError("eigen-cam explains no detection: take another method, such as layer-cam")
    if not isinstance(image, torch.Tensor) or image.dim() != 4 or len(image) != 1:
        raise FeatvizError(f"an explanation needs one image [1, C, H, W], not {describe_output(image)}")
    weigh = method_of(method)
    with gradients_on(), plain_errors():
        index = index_layers(differentiable(model))
        selected = select_layers(index, default_layers(index) if layers is None else layers)
        with watching(index.root, find) as found:
            kept, output = run_kept(index, selected, image, None)
            detections = found(output, Thresholds(conf, iou))
        chosen = _rows(detections, target)
        tensors = [one.tensor for one in kept]
        activations = [one.to_array(tensor) for one, tensor in zip(kept, tensors)]
        height, width = (int(side) for side in image.shape[2:])
        place = region or (0.0, 0.0, float(width), float(height))
        shown = size or (round(place[3] - place[1]), round(place[2] - place[0]))
        frame = frame_of(index.root, image)
        left, top, right, bottom = frame.region
        window = tuple(np.multiply(place, [(right - left) / width, (bottom - top) / height] * 2) + [left, top] * 2)
        boxes = detections.to_boxes().mapped((0, 0, width, height), (bottom - top, right - left))
        explanations: List[Explanation] = []
        for n, i in enumerate(chosen, 1):
            gradients = gradients_of(detections.why(i), tensors, n < len(chosen))
            one_box = boxes.take([i])
            maps = []
            for one, activation in zip(kept, activations):
                gradient = gradients.get(id(one.tensor))
                if gradient is not None:
                    values = torch.from_numpy(weigh(activation, one.to_array(gradient)))[None]
                    maps.append(FeatureMap(values, one.layer, frame.size, one.level, name, None, window, one_box))
            if not maps:
                named = ", ".join(one.layer.name for one in kept)
                raise FeatvizError(f"layer {named} does not feed {detections.label(i)}: take a layer that comes before")
            explanations.append(_explanation(maps, detections, i, method, place, shown))
    return explanations


def _explanation(
    maps: List[FeatureMap], detections: Detections, i: int, method: str, place: Region, size: Tuple[int, int]
) -> Explanation:
    heat = heat_of(maps, method, detections.label(i))
    left, top, right, bottom = place
    across, down = size[1] / (right - left), size[0] / (bottom - top)
    x0, y0, x1, y1 = detections.boxes[i].tolist()
    box = (x0 - left) * across, (y0 - top) * down, (x1 - left) * across, (y1 - top) * down
    names = tuple(dict.fromkeys(one.layer.name for one in maps))
    label = detections.name(int(detections.classes[i]))
    return Explanation(heat, box, label, float(detections.scores[i]), method, names, size)


def default_layers(index: LayerIndex) -> LayerSpec:
    """Return the layer that is explained by default: the last of the backbone. Raises FeatvizError if unknown."""
    if index.groups.get("backbone"):
        return index.layers[index.groups["backbone"][-1]].name
    if any(layer.path == "backbone" for layer in index.layers):
        return "backbone"
    names = ", ".join(layer.name for layer in index.layers[:8])
    raise FeatvizError(f"no backbone is known in {type(index.root).__name__}: give layers, such as one of {names}")


def _rows(detections: Detections, target: Optional[Union[str, int, Sequence[int]]]) -> List[int]:
    """Return the numbers of the detections that a target names. Raises FeatvizError if there is none."""
    if not len(detections):
        raise FeatvizError("nothing was detected: take a lower confidence threshold")
    if isinstance(target, (list, tuple)):
        for i in target:
            if not isinstance(i, int) or not 0 <= i < len(detections):
                raise FeatvizError(f"no detection {i!r}: there are 0 to {len(detections) - 1}")
        return list(target)
    word, rank = split_target(target)
    kinds = detections.classes.tolist()
    rows = [i for i, kind in enumerate(kinds) if word in ("", str(kind), detections.name(kind))]
    if len(rows) <= (rank or 0):
        raise FeatvizError(f"no {target} was detected; found: {counted(detections.classes, detections.names)}")
    return rows if rank is None else rows[rank : rank + 1]
