"""Numbers for feature maps, as reviewers know them: each a formula with its source."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

from yolov5_featviz.boxes import Boxes, Region
from yolov5_featviz.capture import FeatureMap
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.resample import resample

TOLERANCE = 15.0  # pixels, of the pointing game


def energy_inside(heat: np.ndarray, boxes: Boxes, stride: Tuple[float, float], window: Region) -> float:
    """The share of a heat map's energy that lies inside the boxes.

    The energy-based pointing game: ``sum(L inside) / (sum(L inside) + sum(L outside))``, taken over the
    pixels of the network's input (H. Wang et al., *Score-CAM*, CVPR Workshops 2020, sec. 4.3). There it
    is taken of the map of one class and its box, here of any map and all boxes together.

    Args:
        heat: ``[H, W]``; negative values count as 0, as in a class activation map, and so do NaN.
        boxes: in pixels of the input; what lies in several counts once.
        stride: pixels of the input to a cell, ``(down, across)``. A pixel has the value of its cell.
        window: the part of the input that the image fills; padding counts on neither side.

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
    """Whether the highest point of a heat map lies on one of the boxes.

    The pointing game, whose score is hits / (hits + misses) (J. Zhang et al., *Top-Down Neural Attention
    by Excitation Backprop*, ECCV 2016 and IJCV 126, 2018). There each class of an image is a round, here
    the image is. The point is the centre of the cell with the largest value, of equals the first, row by
    row.

    Args:
        heat, boxes, stride, window: see :func:`energy_inside`; only cells whose centre lies in the image count.
        tolerance: how far from a box the point may lie, in pixels of the input; 15 in the original.

    Returns:
        None where there are no boxes, or no positive value.
    """
    heat = _positive(heat) * in_image((heat.shape[0], heat.shape[1]), stride, window)
    if len(boxes) == 0 or not heat.any():
        return None
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    x, y = (column + 0.5) * stride[1], (row + 0.5) * stride[0]
    x0, y0, x1, y1 = boxes.xyxy.astype(float).T
    away = np.hypot(np.maximum(0, np.maximum(x0 - x, x - x1)), np.maximum(0, np.maximum(y0 - y, y - y1)))
    return bool((away <= tolerance).any())


def entropy(heat: np.ndarray, counted: Optional[np.ndarray] = None) -> float:
    """How evenly a heat map is spread over its cells: Shannon's entropy, by its maximum.

    ``-sum(p log p) / log N``, with ``p = L / sum(L)`` over ``N`` cells (C. E. Shannon, *Bell System
    Technical Journal* 27, 1948; the ratio is E. C. Pielou's evenness, *J. Theor. Biol.* 13, 1966).

    Args:
        heat: ``[H, W]``; negative values and NaN count as 0.
        counted: bool ``[H, W]``, which cells count; all if None.

    Returns:
        From 0, all in one cell, to 1, the same everywhere; NaN where there is nothing, or one cell.
    """
    values = _positive(heat) if counted is None else _positive(heat)[counted]
    total = values.sum()
    if values.size < 2 or not total > 0:
        return float("nan")
    p = values[values > 0] / total
    return float(max(0.0, -(p * np.log(p)).sum()) / np.log(values.size))


def hoyer(x: np.ndarray) -> float:
    """Hoyer's sparseness of a vector: ``(sqrt(n) - |x|_1 / |x|_2) / (sqrt(n) - 1)``.

    P. O. Hoyer, *J. Mach. Learn. Res.* 5, 2004. From 0, all of one size, to 1, only one is not 0; NaN of
    a vector of zeros, or of one element.
    """
    x = np.abs(np.asarray(x, np.float64).ravel())
    norm = np.sqrt((x**2).sum())
    if x.size < 2 or not norm > 0:
        return float("nan")
    root = np.sqrt(x.size)
    return float((root - x.sum() / norm) / (root - 1))


def channel_sparsity(data: np.ndarray, counted: Optional[np.ndarray] = None) -> float:
    """How few channels a layer responds with: :func:`hoyer` of the channels' mean absolute activations.

    The fraction of zeros, which is often given for ReLU networks, says nothing here: SiLU has none.

    Args:
        data: ``[C, H, W]``; what is not finite counts as 0.
        counted: bool ``[H, W]``, which cells count; all if None.
    """
    cells = np.abs(np.nan_to_num(np.asarray(data, np.float64), posinf=0, neginf=0)).reshape(len(data), -1)
    return hoyer(cells.mean(axis=1) if counted is None else cells[:, counted.ravel()].mean(axis=1))


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment of two representations of the same samples.

    ``|Y'X|_F² / (|X'X|_F |Y'Y|_F)``, columns centred (S. Kornblith et al., *Similarity of Neural Network
    Representations Revisited*, ICML 2019, eq. 5 and table 1). It does not change if either is rotated or
    scaled. With fewer samples than features it is biased upwards.

    Args:
        x: ``[n, p]``, a row for each sample; it is worked on as float64.
        y: ``[n, q]``.

    Returns:
        From 0 to 1; NaN where one of them is constant.

    Raises:
        FeatvizError: they are not of the same samples.
    """
    if len(x) != len(y):
        raise FeatvizError(f"{len(x)} samples and {len(y)}: alignment needs the same ones")
    x, y = (np.asarray(z, np.float64) - np.asarray(z, np.float64).mean(axis=0) for z in (x, y))
    own = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / own) if own > 0 else float("nan")


def map_cka(a: FeatureMap, b: FeatureMap) -> float:
    """:func:`linear_cka` of two layers for one image: cells are samples, channels are features.

    Only cells in the image count. If the maps are not of one size, both are brought to the smaller
    height and width, bilinearly.
    """
    height, width = (min(int(a.data.shape[d]), int(b.data.shape[d])) for d in (1, 2))
    sides = []
    for fm in (a, b):
        data = np.nan_to_num(fm.data.float().numpy())
        data = data if data.shape[1:] == (height, width) else resample(data, (height, width))
        sides.append(data.reshape(len(data), -1).T)
    size = a.input_size or (height, width)
    counted = in_image((height, width), (size[0] / height, size[1] / width), a.window).ravel()
    return linear_cka(sides[0][counted], sides[1][counted])


def in_image(cells: Tuple[int, int], stride: Tuple[float, float], window: Region) -> np.ndarray:
    """Which of a map's cells have their centre in the image, bool ``[H, W]``."""
    y, x = ((np.arange(n) + 0.5) * step for n, step in zip(cells, stride))
    left, top, right, bottom = window
    return np.outer((y >= top) & (y < bottom), (x >= left) & (x < right))


def _positive(heat: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.asarray(heat, np.float64), posinf=0, neginf=0).clip(min=0)


def _pixels(cells: int, stride: float, start: float, stop: float) -> Tuple[np.ndarray, np.ndarray]:
    """Of the pixels between two edges, the cell that each lies in, and its centre."""
    centres = np.arange(int(np.ceil(start - 0.5)), int(np.ceil(stop - 0.5))) + 0.5
    centres = centres[(centres >= 0) & (centres < cells * stride)]
    return np.minimum((centres / stride).astype(int), cells - 1), centres
