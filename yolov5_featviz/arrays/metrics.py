"""Metrics of a heat map, each with its formula and source."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.arrays.cells import in_region

TOLERANCE = 15.0  # of the pointing game, in pixels


def energy_inside(heat: np.ndarray, boxes: Boxes, stride: Tuple[float, float], window: Region) -> float:
    """Compute the fraction of a heat map's energy inside the boxes.

    The energy-based pointing game: ``sum(L inside) / (sum(L inside) + sum(L outside))``, taken over the
    pixels of the network's input (H. Wang et al., *Score-CAM*, CVPR Workshops 2020, sec. 4.3). The paper
    applies it to the map of one class and its box; here it applies to any map and all boxes together.

    Args:
        heat: ``[H, W]``; negative values count as 0, as in a class activation map; so does NaN.
        boxes: in pixels of the input; overlapping areas count once.
        stride: input pixels per cell, ``(down, across)``. A pixel has the value of its cell.
        window: the image's region in the input; padding is not counted.

    Returns:
        From 0 to 1; NaN where there are no boxes, or no energy.
    """
    if len(boxes) == 0:
        return float("nan")
    heat = _positive(heat)
    rows, y = _pixels(heat.shape[0], stride[0], window[1], window[3])
    columns, x = _pixels(heat.shape[1], stride[1], window[0], window[2])
    inside = np.zeros((len(y), len(x)), bool)
    for x0, y0, x1, y1 in boxes.xyxy.astype(float):
        inside |= np.outer((y >= y0) & (y < y1), (x >= x0) & (x < x1))
    energy = heat[np.ix_(rows, columns)]
    total = energy.sum()
    return float(energy[inside].sum() / total) if total > 0 else float("nan")


def pointing_hit(
    heat: np.ndarray, boxes: Boxes, stride: Tuple[float, float], window: Region, tolerance: float = TOLERANCE
) -> Optional[bool]:
    """Whether the maximum of a heat map lies in one of the boxes.

    The pointing game, whose score is hits / (hits + misses) (J. Zhang et al., *Top-Down Neural Attention
    by Excitation Backprop*, ECCV 2016 and IJCV 126, 2018). The paper counts one trial per class of an
    image; here it is one per image. The point is the centre of the cell with the largest value; ties take
    the first in row-major order.

    Args:
        heat, boxes, stride, window: see :func:`energy_inside`; only cells with their centre in the image count.
        tolerance: allowed distance from a box, in pixels of the input; 15 in the paper.

    Returns:
        None where there are no boxes, or no positive value.
    """
    heat = _positive(heat) * in_region((heat.shape[0], heat.shape[1]), stride, window)
    if len(boxes) == 0 or not heat.any():
        return None
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    x, y = (column + 0.5) * stride[1], (row + 0.5) * stride[0]
    x0, y0, x1, y1 = boxes.xyxy.astype(float).T
    away = np.hypot(np.maximum(0, np.maximum(x0 - x, x - x1)), np.maximum(0, np.maximum(y0 - y, y - y1)))
    return bool((away <= tolerance).any())


def entropy(heat: np.ndarray, counted: Optional[np.ndarray] = None) -> float:
    """Compute the Shannon entropy of a heat map, divided by its maximum.

    ``-sum(p log p) / log N``, with ``p = L / sum(L)`` over ``N`` cells (C. E. Shannon, *Bell System
    Technical Journal* 27, 1948; the ratio is E. C. Pielou's evenness, *J. Theor. Biol.* 13, 1966).

    Args:
        heat: ``[H, W]``; negative values and NaN count as 0.
        counted: bool ``[H, W]``, cells to include; all if None.

    Returns:
        From 0, all in one cell, to 1, uniform; NaN if the map is zero or has one cell.
    """
    values = _positive(heat) if counted is None else _positive(heat)[counted]
    total = values.sum()
    if values.size < 2 or not total > 0:
        return float("nan")
    p = values[values > 0] / total
    return float(max(0.0, -(p * np.log(p)).sum()) / np.log(values.size))


def hoyer(x: np.ndarray) -> float:
    """Compute Hoyer's sparseness of a vector: ``(sqrt(n) - |x|_1 / |x|_2) / (sqrt(n) - 1)``.

    P. O. Hoyer, *J. Mach. Learn. Res.* 5, 2004. From 0, all magnitudes equal, to 1, one non-zero
    element; NaN for a vector of zeros, or of one element.
    """
    x = np.abs(np.asarray(x, np.float64).ravel())
    norm = np.sqrt((x**2).sum())
    if x.size < 2 or not norm > 0:
        return float("nan")
    root = np.sqrt(x.size)
    return float((root - x.sum() / norm) / (root - 1))


def _positive(heat: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.asarray(heat, np.float64), posinf=0, neginf=0).clip(min=0)


def _pixels(cells: int, stride: float, start: float, stop: float) -> Tuple[np.ndarray, np.ndarray]:
    """Return the cell and the centre of each pixel between two edges."""
    centres = np.arange(int(np.ceil(start - 0.5)), int(np.ceil(stop - 0.5))) + 0.5
    centres = centres[(centres >= 0) & (centres < cells * stride)]
    return np.minimum((centres / stride).astype(int), cells - 1), centres
