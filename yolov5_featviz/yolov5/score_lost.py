"""What the detections in images lose when the layers of a model are bridged, for the table of layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence

import numpy as np
import torch

from yolov5_featviz.attribution.ablation import detect
from yolov5_featviz.attribution.bridge import bridge
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import DEFAULTS, Thresholds, family_of, thresholds_of
from yolov5_featviz.models.layers import Layer, LayerIndex, LayerInfo, index_layers, module_at
from yolov5_featviz.models.zoo import ZooModel
from yolov5_featviz.runs.progress import progress
from yolov5_featviz.text import printable
from yolov5_featviz.yolov5.explain import prepared
from yolov5_featviz.yolov5.named import preparing
from yolov5_featviz.yolov5.predictor import check_size, read_image


@dataclass(frozen=True)
class ScoreLost:
    """What detections lose without each layer.

    Attributes:
        shares: the mean, over all detections, of the share of its confidence that one loses when the layer is
            bridged; None for a layer that cannot be.
        detections: their number.
        images: the number of images.
    """

    shares: List[Optional[float]]
    detections: int
    images: int

    def words(self) -> str:
        """Say what the column of the table is."""
        n = f"{self.detections} detection{'s' * (self.detections > 1)}"
        where = f"{self.images} image{'s' * (self.images > 1)}"
        return (
            f"score lost: 1 - confidence left / confidence when the layer returns its input, mean over {n} in {where}; "
            "-: input and output are not one tensor each, of the same shape"
        )


def score_lost(
    model: Any,
    rows: Sequence[LayerInfo],
    images: Sequence[Path],
    imgsz: int = 640,
    thresholds: Thresholds = DEFAULTS,
    name: str = "",
) -> ScoreLost:
    """Bridge each layer of a model, one by one, in each image; see :func:`yolov5_featviz.attribution.bridge.bridge`.

    Args:
        model: a YOLOv5 model, or a :class:`ZooModel`. It is not changed.
        rows: its layers, as :func:`yolov5_featviz.models.layers.list_layers` lists them.
        images: files.
        imgsz: longer side of the input in pixels, for YOLOv5.
        thresholds: of detectors that have none of their own.
        name: of the model, for messages.

    Raises:
        FeatvizError: the model is no detector of a known family, an image cannot be read, or nothing was detected.
    """
    zoo = model if isinstance(model, ZooModel) else None
    index = index_layers(model if zoo is None else zoo.model)
    if family_of(index.root) is None:
        raise FeatvizError(f"--ablate: {name or type(index.root).__name__} is no detector of a known family")
    layers = [_layer_of(index, row) for row in rows]
    found: List[List[Optional[np.ndarray]]] = []
    count = 0
    for image in images:
        pixels = read_image(image)
        x = _input(index.root, zoo, pixels, imgsz, image)
        seen = detect(index.root, x, thresholds)
        bar: Callable[..., Any] = partial(progress, what=f"{printable(image.stem)}: layers", total=len(layers))
        count += len(seen)
        if len(seen):
            found.append(bridge(index.root, x, layers, seen, bar))
    if not found:
        limit = thresholds_of(index.root, thresholds).conf
        where = printable(images[0].name) if len(images) == 1 else f"any of the {len(images)} images"
        raise FeatvizError(f"--ablate: nothing was detected in {where} above {limit:g}: take others, or --conf-thres")
    return ScoreLost([_mean(parts) for parts in zip(*found)], count, len(images))


def _layer_of(index: LayerIndex, row: LayerInfo) -> Layer:
    """Return the layer of a row. A selection would not find modules that are in several places."""
    if row.index is not None:
        return index.layers[row.index]
    top = next(layer for layer in index.layers if row.name.startswith(f"{layer.name}."))
    path = top.path + row.name[len(top.name) :]
    module = module_at(index.root, path)
    assert module is not None
    return Layer(path, module, row.type, name=row.name)


def _input(root: torch.nn.Module, zoo: Optional[ZooModel], pixels: np.ndarray, imgsz: int, image: Path) -> torch.Tensor:
    """Return the input of a model for uint8 RGB ``[H, W, 3]``, on its device."""
    if zoo is not None:
        return prepared(zoo, pixels, imgsz)[0]
    check_size(pixels, imgsz, image)
    x: torch.Tensor = preparing(root, imgsz)(pixels)[0]
    first = next(root.parameters(), x)
    return x.to(first.device, first.dtype)


def _mean(parts: Sequence[Optional[np.ndarray]]) -> Optional[float]:
    known = [part for part in parts if part is not None]
    return float(np.concatenate(known).mean()) if len(known) == len(parts) else None
