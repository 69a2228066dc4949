"""The result of a model for one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Optional, Tuple, Union

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.features.feature_map import FeatureMap


@dataclass(frozen=True, eq=False)
class Prediction:
    """The result of a model for one image.

    Attributes:
        image: name of the image.
        pixels: uint8 RGB ``[H, W, 3]``, as read.
        input_size: ``(height, width)`` of the network's input in pixels.
        region: where in the input the image lies: left, top, right and bottom edge.
        boxes: the detections, in pixels of the network's input; None if the model is no detector.
        maps: the feature maps of the selected layers.
    """

    image: str
    pixels: np.ndarray = field(repr=False)
    input_size: Tuple[int, int]
    region: Region
    boxes: Optional[Boxes] = None
    maps: List[FeatureMap] = field(default_factory=list, repr=False)

    @property
    def size(self) -> Tuple[int, int]:
        """``(height, width)`` of the image in pixels."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    def __getitem__(self, layer: Union[int, str]) -> FeatureMap:
        """Return the map of a layer, by name or index; of several levels, the first."""
        for feature_map in self.maps:
            if str(layer) in (feature_map.layer.name, feature_map.layer.path):
                return feature_map
        names = ", ".join(dict.fromkeys(feature_map.layer.name for feature_map in self.maps))
        raise FeatvizError(f"no map of layer {layer!r}: there are {names or 'none'}")
