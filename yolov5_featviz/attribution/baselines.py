"""Maps that know nothing of why something was detected, which a method has to beat."""

from __future__ import annotations

import zlib
from typing import Dict, Sequence, Tuple

import numpy as np
import torch

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.attribution.maker import (
    Made,
    Map,
    checked,
)
from yolov5_featviz.attribution.measured import BASELINES

CELL = 32  # side of the cells of the random map, in pixels


def baselines(pixels: torch.Tensor, boxes: Boxes) -> Dict[str, Made]:
    """Return the maps of the baselines.

    - ``random``: uniform numbers in cells of 32 by 32 pixels, seeded by the image, interpolated bilinearly.
    - ``centre``: a Gaussian in the middle of the image, whose standard deviation is a quarter of its sides.
    - ``box``: 1 in the detection's box, else 0.
    - ``edges``: the magnitude of the Sobel gradient of the mean over the channels.

    Args:
        pixels: the image's part of the input, ``[1, C, H, W]``.
        boxes: of the detections, in its pixels.
    """
    import cv2

    height, width = (int(side) for side in pixels.shape[2:])
    grey = pixels[0].detach().float().mean(dim=0).cpu().numpy()
    random = np.random.default_rng(zlib.crc32(grey.tobytes()))
    cells = random.random((max(1, height // CELL), max(1, width // CELL))).astype(np.float32)
    y, x = ((np.arange(length) + 0.5) / length - 0.5 for length in (height, width))
    centre = np.exp(-8 * (y[:, None] ** 2 + x**2)).astype(np.float32)  # a quarter of the sides
    edges = np.hypot(*(cv2.Sobel(grey, cv2.CV_32F, *along) for along in ((1, 0), (0, 1))))
    filled = [in_box(box, (height, width)) for box in boxes.xyxy.tolist()]
    alike = {"random": resample(cells, (height, width)), "centre": centre, "edges": np.asarray(edges)}
    maps = {name: filled if name == "box" else [alike[name]] * len(boxes) for name in BASELINES}
    return {name: Made([checked(Map(one, one)) for one in each]) for name, each in maps.items()}


def in_box(box: Sequence[float], size: Tuple[int, int]) -> np.ndarray:
    """Return 1 for pixels whose centre is in a box, else 0, float32 ``[H, W]``."""
    left, top, right, bottom = box
    y, x = (np.arange(length) + 0.5 for length in size)
    return (((y > top) & (y < bottom))[:, None] & (x > left) & (x < right)).astype(np.float32)
