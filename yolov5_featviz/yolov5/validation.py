"""Prepare images as ``val.py --batch-size 1`` does, and place in the image what is found in them."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path
from typing import Any, Callable, NamedTuple, Tuple

import numpy as np
import torch

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.models.detections import Thresholds

THRESHOLDS = Thresholds(0.001, 0.6, 300)  # the defaults of val.py
PAD = 0.5  # strides that val.py adds to the shape of a batch


class Placed(NamedTuple):
    """Where an image is in the network's input, as ``val.py`` computes it.

    Attributes:
        size: ``(height, width)`` of the image.
        resized: ``(height, width)`` of it in the input.
        pad: ``(left, top)``, half the padding; not rounded, though the image is at whole pixels.
    """

    size: Tuple[int, int]
    resized: Tuple[int, int]
    pad: Tuple[float, float]

    @property
    def gain(self) -> float:
        """Scale of the height, with which ``val.py`` scales the width as well."""
        return self.resized[0] / self.size[0]

    def labels(self) -> Region:
        """Return the region of the image that labels are fractions of, in its pixels."""
        return 0.0, 0.0, self.resized[1] / self.gain, float(self.size[0])

    def in_image(self, boxes: Boxes) -> Boxes:
        """Return boxes in the input in pixels of the image, cut to it."""
        moved = (boxes.xyxy - np.array(self.pad * 2, np.float32)) / np.float32(self.gain)
        return self.cut(Boxes(moved, boxes.scores, boxes.labels, boxes.classes))

    def cut(self, boxes: Boxes) -> Boxes:
        """Return boxes in pixels of the image, cut to it."""
        height, width = self.size
        edges = np.clip(boxes.xyxy, 0, np.array([width, height] * 2, np.float32))
        return Boxes(edges, boxes.scores, boxes.labels, boxes.classes)


def prepare(
    pixels: np.ndarray, side: int, stride: int, letterbox: Callable[..., Any], upwards: bool
) -> Tuple[torch.Tensor, Placed]:
    """Prepare an image as ``val.py --batch-size 1`` does: resized, and padded in proportion and by half a stride.

    Args:
        pixels: uint8 RGB ``[H, W, 3]``.
        side: target size of the longer side, a multiple of the stride.
        stride: of the network.
        letterbox: YOLOv5's.
        upwards: whether sides are rounded up; see :func:`rounds_up`.

    Returns:
        float32 ``[1, 3, h, w]`` in [0, 1], on the CPU; and where the image is in it.
    """
    import cv2

    size = int(pixels.shape[0]), int(pixels.shape[1])
    scale = side / max(size)
    whole = math.ceil if upwards else math.floor
    height, width = (max(1, whole(length * scale)) for length in size) if scale != 1 else size
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    if scale != 1:
        how = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
        bgr = np.asarray(cv2.resize(bgr, (width, height), interpolation=how))
    shape = tuple(math.ceil(length / max(size) * side / stride + PAD) * stride for length in size)
    options = {"auto": False, "scaleup": False, "stride": stride}
    known = inspect.signature(letterbox).parameters
    boxed, _, pad = letterbox(bgr, shape, **{name: value for name, value in options.items() if name in known})
    x = torch.from_numpy(np.ascontiguousarray(boxed[..., ::-1].transpose(2, 0, 1)))[None].float() / 255
    return x, Placed(size, (height, width), (float(pad[0]), float(pad[1])))


def rounds_up(root: Path) -> bool:
    """Whether the data loader of a checkout rounds the sides of resized images up, as since 2023, or down."""
    for name in ("dataloaders.py", "datasets.py"):
        file = root / "utils" / name
        if file.is_file():
            return re.search(r"ceil\(w0 \* r\)", file.read_text(encoding="utf-8", errors="replace")) is not None
    return False
