"""Metrics of feature maps, each with its formula and source."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.arrays.cells import in_region
from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.layer_output import LayerOutput

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


def channel_sparsity(data: np.ndarray, counted: Optional[np.ndarray] = None) -> float:
    """Compute channel sparsity: :func:`hoyer` of the channels' mean absolute activations.

    The fraction of zeros, often reported for ReLU networks, is not meaningful here: SiLU yields none.

    Args:
        data: ``[C, H, W]``; non-finite values count as 0.
        counted: bool ``[H, W]``, cells to include; all if None.
    """
    cells = np.abs(np.nan_to_num(np.asarray(data, np.float64), posinf=0, neginf=0)).reshape(len(data), -1)
    cells = cells if counted is None else cells[:, counted.ravel()]
    return hoyer(cells.mean(axis=1)) if cells.size else float("nan")


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Compute linear centred kernel alignment of two representations of the same samples.

    ``|Y'X|_F² / (|X'X|_F |Y'Y|_F)``, columns centred (S. Kornblith et al., *Similarity of Neural Network
    Representations Revisited*, ICML 2019, eq. 5 and table 1). It is invariant to rotation and
    scaling of either. With fewer samples than features it is biased upwards.

    Args:
        x: ``[n, p]``, one row per sample; computed in float64.
        y: ``[n, q]``.

    Returns:
        From 0 to 1; NaN if either is constant.

    Raises:
        FeatvizError: the numbers of samples differ.
    """
    x, y = _centred(x, y)
    own = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / own) if own > 0 else float("nan")


def debiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Compute debiased linear CKA: near 0 for unrelated representations, however few samples.

    ``HSIC1(K, L) / sqrt(HSIC1(K, K) HSIC1(L, L))``, with ``K = XX'`` and ``L = YY'`` and the unbiased estimator
    ``HSIC1 = (tr(KL) + sum(K) sum(L) / (n-1)(n-2) - 2 sum(KL) / (n-2)) / n(n-3)``, diagonals 0 (L. Song et al.,
    *J. Mach. Learn. Res.* 13, 2012, eq. 5; for CKA T. Nguyen et al., *Do Wide and Deep Networks Learn the Same
    Things?*, ICLR 2021, eq. 3).

    Args:
        x, y: see :func:`linear_cka`.

    Returns:
        1 for representations equal up to rotation and scale; near 0, of either sign, for unrelated ones. NaN for
        fewer than 4 samples, or if either is constant.

    Raises:
        FeatvizError: the numbers of samples differ.
    """
    x, y = _centred(x, y)
    if len(x) < 4:
        return float("nan")
    own = _hsic1(x, x), _hsic1(y, y)
    return float(_hsic1(x, y) / np.sqrt(own[0] * own[1])) if min(own) > 0 else float("nan")


def _centred(x: np.ndarray, y: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    if len(x) != len(y):
        raise FeatvizError(f"{len(x)} samples and {len(y)}: alignment needs the same ones")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return x - x.mean(axis=0), y - y.mean(axis=0)


def _hsic1(x: np.ndarray, y: np.ndarray) -> float:
    """Compute ``n (n - 3) HSIC1`` of centred samples without forming the ``[n, n]`` matrices."""
    n = len(x)
    k, m = (x**2).sum(axis=1), (y**2).sum(axis=1)  # the diagonals; rows without them sum to -k and -m
    trace = np.linalg.norm(x.T @ y) ** 2 - k @ m
    return float(trace + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m))


def same_samples(a: LayerOutput, b: LayerOutput) -> Tuple[np.ndarray, np.ndarray]:
    """Return corresponding cells of two maps of one image, ``[n, C]`` of each.

    Maps on the same grid keep the cells whose centre lies in the image. Otherwise the image region of both is
    resampled bilinearly to the smaller height and width. Non-finite values become 0.
    """
    sides = [np.nan_to_num(fm.values, posinf=0, neginf=0) for fm in (a, b)]
    if same_grid(a, b):
        counted = in_region(a.size, a.stride or (1.0, 1.0), a.window).ravel()
        x, y = (data.reshape(len(data), -1).T[counted] for data in sides)
    else:
        height, width = (min(pair) for pair in zip(image_cells(a), image_cells(b)))
        x, y = (on_image(data, fm, (height, width)).reshape(len(data), -1).T for data, fm in zip(sides, (a, b)))
    return x, y


def same_grid(a: LayerOutput, b: LayerOutput) -> bool:
    """Whether two maps of one image share a grid."""
    return (a.data.shape[1:], a.input_size, a.window) == (b.data.shape[1:], b.input_size, b.window)


def image_cells(fm: LayerOutput) -> Tuple[int, int]:
    """Return the image's height and width in cells, rounded."""
    left, top, right, bottom = fm.window
    down, across = fm.stride or (1.0, 1.0)
    return max(1, round((bottom - top) / down)), max(1, round((right - left) / across))


def on_image(values: np.ndarray, fm: LayerOutput, size: Tuple[int, int]) -> np.ndarray:
    """Resample the image region of values ``[..., H, W]`` on a map's grid to ``size``, bilinearly."""
    return resample(values, size, part=fm.to_cells())


def _positive(heat: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.asarray(heat, np.float64), posinf=0, neginf=0).clip(min=0)


def _pixels(cells: int, stride: float, start: float, stop: float) -> Tuple[np.ndarray, np.ndarray]:
    """Return the cell and the centre of each pixel between two edges."""
    centres = np.arange(int(np.ceil(start - 0.5)), int(np.ceil(stop - 0.5))) + 0.5
    centres = centres[(centres >= 0) & (centres < cells * stride)]
    return np.minimum((centres / stride).astype(int), cells - 1), centres
