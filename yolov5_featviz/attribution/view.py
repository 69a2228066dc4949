"""Where an image lies in a model's input, and in what the model's layers see of it."""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.models.detections import Frame, frame_of
from yolov5_featviz.models.targets import Case, Edges, confidence
from yolov5_featviz.models.tide import MISSED


class View:
    """Where the original image is: in the model's input, and in what its layers see.

    Args:
        root: the model; None if only its input is looked at.
        image: its input, ``[1, C, H, W]``.
        region: of the image in the input: left, top, right and bottom edge in pixels; None if it fills it.
        size: height and width of the original image in pixels; None for those of ``region``.

    Attributes:
        region: of the image in the input.
        size: height and width of the image in pixels.
        frame: what the layers see; the input itself if there is no ``root``.
        window: region of the image there.
    """

    def __init__(
        self,
        root: Optional[nn.Module],
        image: torch.Tensor,
        region: Optional[Region] = None,
        size: Optional[Tuple[int, int]] = None,
    ) -> None:
        self.input = int(image.shape[2]), int(image.shape[3])
        height, width = self.input
        self.region = region or (0.0, 0.0, float(width), float(height))
        left, top, right, bottom = self.region
        self.size = size or (round(bottom - top), round(right - left))
        whole = Frame(self.input, (0.0, 0.0, float(width), float(height)))
        self.frame = whole if root is None else frame_of(root, image)
        x0, y0, x1, y1 = self.frame.region
        edges = np.multiply(self.region, [(x1 - x0) / width, (y1 - y0) / height] * 2) + [x0, y0] * 2
        self.window: Region = (float(edges[0]), float(edges[1]), float(edges[2]), float(edges[3]))

    def to_input(self, edges: Sequence[float]) -> Edges:
        """Convert edges in the image to edges in the input."""
        left, top, right, bottom = self.region
        x0, y0, x1, y1 = np.multiply(edges, [(right - left) / self.size[1], (bottom - top) / self.size[0]] * 2)
        return float(x0 + left), float(y0 + top), float(x1 + left), float(y1 + top)

    def to_image(self, edges: Sequence[float]) -> Edges:
        """Convert edges in the input to edges in the image."""
        left, top, right, bottom = self.region
        x0, y0, x1, y1 = edges
        across, down = self.size[1] / (right - left), self.size[0] / (bottom - top)
        return (x0 - left) * across, (y0 - top) * down, (x1 - left) * across, (y1 - top) * down

    def cut(self, edges: Sequence[float]) -> Edges:
        """Cut edges in the input to the image."""
        left, top, right, bottom = self.region
        x0, x1 = (min(max(x, left), right) for x in edges[::2])
        y0, y1 = (min(max(y, top), bottom) for y in edges[1::2])
        return x0, y0, x1, y1

    def boxes(self, case: Case, label: str) -> Boxes:
        """Return the box of a case in what the layers see, and that of its label if there is one."""
        edges = [case.box] + ([case.truth] if case.truth is not None and case.kind == MISSED else [])
        what = "" if case.detection is not None else f", {case.kind or 'not detected'}"
        labels = [f"{label} {confidence(case.score)}{what}", f"{label} (label)"][: len(edges)]
        numbers = np.full(len(edges), case.number)
        x0, y0, x1, y1 = self.frame.region
        found = Boxes(np.array(edges), None, labels, numbers)
        return found.mapped((0, 0, self.input[1], self.input[0]), (y1 - y0, x1 - x0))
