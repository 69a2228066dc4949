"""The output of one layer for one image, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Optional, Sequence, Tuple, TypeVar

import numpy as np
import torch

from yolov5_featviz.arrays.array import as_array
from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.arrays.cells import in_region, to_cells
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.layers import Layer
from yolov5_featviz.text import file_name, printable

Output = TypeVar("Output", bound="LayerOutput")
ROUNDING = 1e-6  # by which confidences may differ in batches of another size


@dataclass(frozen=True, eq=False)
class Dependence:
    """How much the detections in an image depend on each channel of a layer.

    Attributes:
        boxes: the K detections, in pixels of the network's input as its layers see it, with labels and classes.
        scores: float64 ``[K]``, the confidence of each with all channels.
        lost: float64 ``[K, C]``, the confidence that each loses when a channel is put to its mean over the image;
            negative where it gains.
        note: why it could not be measured; there are no detections then. Else empty.
    """

    boxes: Boxes
    scores: np.ndarray
    lost: np.ndarray
    note: str = ""

    @property
    def shares(self) -> np.ndarray:
        """The share of its confidence that each detection loses without a channel, float64 ``[K, C]``."""
        shares: np.ndarray = self.lost / self.scores[:, None].clip(min=1e-12)
        return shares

    def matters(self, rows: Optional[Sequence[int]] = None) -> bool:
        """Return whether any of the detections, or of some, loses or gains more than by rounding."""
        lost = self.lost if rows is None else self.lost[rows]
        return bool((np.abs(lost) > ROUNDING).any())

    @classmethod
    def unknown(cls, note: str) -> Dependence:
        """Return one that was not measured, with the reason."""
        return cls(Boxes(np.zeros((0, 4))), np.zeros(0), np.zeros((0, 0)), note)


@dataclass(frozen=True)
class LayerOutput:
    """One layer's output for one image.

    Attributes:
        data: ``[C, H, W]`` on the CPU, in the layer's output type.
        layer: the layer that returned it.
        input_size: ``(height, width)`` of the network's input in pixels, if known.
        level: name of the tensor if the layer returns several, else None.
        image: name of the image, for captions; may be empty.
        call: number of the call if the layer is called several times in a forward pass, else None.
        region: where in the network's input the image lies, in pixels: left, top, right and bottom
            edge; the rest is padding. None if the image fills the input.
        boxes: the detections in the image, or None if unknown.
        dependence: how much they depend on each channel, or None if that was not measured.
    """

    data: torch.Tensor
    layer: Layer
    input_size: Optional[Tuple[int, int]] = None
    level: Optional[str] = None
    image: str = ""
    call: Optional[int] = None
    region: Optional[Region] = None
    boxes: Optional[Boxes] = None
    dependence: Optional[Dependence] = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {printable(self.title)}: {list(self.data.shape)} {self.data.dtype}>"

    def with_dependence(self: Output, dependence: Dependence) -> Output:
        """Return the same output with what detections lose without each channel, by which channels can be ranked.

        Args:
            dependence: of this layer, as :func:`yolov5_featviz.attribution.ablation.ablate` returns it.

        Raises:
            FeatvizError: it is of another number of channels.
        """
        if len(dependence.boxes) and dependence.lost.shape != (len(dependence.boxes), self.channels):
            shape = "x".join(map(str, dependence.lost.shape))
            raise FeatvizError(f"{self.title} has {self.channels} channels: the ablation is {shape}, of another layer")
        kept = Dependence(dependence.boxes, dependence.scores, dependence.lost, dependence.note)
        return replace(self, dependence=kept)

    @property
    def values(self) -> np.ndarray:
        """The data as float32 ``[C, H, W]``."""
        values: np.ndarray = self.data.float().numpy()
        return values

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> np.ndarray:
        """The data as a numpy array of its own type; bfloat16 as float32."""
        data = self.data.float() if self.data.dtype == torch.bfloat16 else self.data
        return as_array(data.numpy(), dtype, copy)

    @property
    def channels(self) -> int:
        """Number of channels, C."""
        return int(self.data.shape[0])

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width of the map, in cells."""
        return int(self.data.shape[1]), int(self.data.shape[2])

    @property
    def stride(self) -> Optional[Tuple[float, float]]:
        """Input pixels per cell of the map, ``(down, across)``; None if the input size is unknown."""
        if self.input_size is None:
            return None
        return self.input_size[0] / self.data.shape[1], self.input_size[1] / self.data.shape[2]

    @property
    def window(self) -> Region:
        """Region of the image: ``region``, or all of the input; in cells of the map if the input size is unknown."""
        height, width = self.input_size or self.data.shape[1:]
        return self.region or (0.0, 0.0, float(width), float(height))

    def to_cells(self, region: Optional[Region] = None) -> Region:
        """Convert a region of the input, by default the ``window``, from pixels to cells, fractions included."""
        return to_cells(region or self.window, self.stride or (1.0, 1.0))

    @property
    def in_image(self) -> np.ndarray:
        """Whether the centre of each cell lies in the image rather than in padding, bool ``[H, W]``."""
        if self.stride is None:
            return np.ones(self.size, bool)
        return in_region(self.size, self.stride, self.window)

    @property
    def title(self) -> str:
        """Name for messages: ``bus, layer 17 (C3)``, with call and level if there are several."""
        call = f", call {self.call}" if self.call is not None else ""
        level = f", level {self.level}" if self.level is not None else ""
        return f"{self.image}{', ' * bool(self.image)}{self.layer.title}{call}{level}"

    @property
    def stem(self) -> str:
        """Stem of file names: ``stage17_C3``, with call and level if there are several."""
        call = f"_call{self.call}" if self.call is not None else ""
        return file_name(self.layer.stem + call + (f"_level{self.level}" if self.level is not None else ""))
