"""Numbers for feature maps, as reviewers know them: each a formula with its source."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.arrays.cells import in_region
from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.layer_output import LayerOutput

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
    heat = _positive(heat) * in_region((heat.shape[0], heat.shape[1]), stride, window)
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
    cells = cells if counted is None else cells[:, counted.ravel()]
    return hoyer(cells.mean(axis=1)) if cells.size else float("nan")


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
    x, y = _centred(x, y)
    own = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / own) if own > 0 else float("nan")


def debiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    """:func:`linear_cka` without its bias: near 0 for representations that have nothing in common, however few samples.

    ``HSIC1(K, L) / sqrt(HSIC1(K, K) HSIC1(L, L))``, with ``K = XX'`` and ``L = YY'`` and the unbiased estimator
    ``HSIC1 = (tr(KL) + sum(K) sum(L) / (n-1)(n-2) - 2 sum(KL) / (n-2)) / n(n-3)``, diagonals 0 (L. Song et al.,
    *J. Mach. Learn. Res.* 13, 2012, eq. 5; for CKA T. Nguyen et al., *Do Wide and Deep Networks Learn the Same
    Things?*, ICLR 2021, eq. 3).

    Args:
        x, y: see :func:`linear_cka`.

    Returns:
        1 for the same up to rotation and scale; near 0, on either side, for unrelated ones. NaN for fewer than 4
        samples, and where one of them is constant.

    Raises:
        FeatvizError: they are not of the same samples.
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
    """Times ``n (n - 3)``, without making the ``[n, n]`` matrices. Samples are centred, so that their sums are 0."""
    n = len(x)
    k, m = (x**2).sum(axis=1), (y**2).sum(axis=1)  # the diagonals; rows without them sum to -k and -m
    trace = np.linalg.norm(x.T @ y) ** 2 - k @ m
    return float(trace + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m))


def same_samples(a: LayerOutput, b: LayerOutput) -> Tuple[np.ndarray, np.ndarray]:
    """The cells of two maps of one image that show the same places, ``[n, C]`` of each.

    Maps of one grid keep their cells, those whose centre lies in the image. Otherwise the image's part of each is
    brought to the smaller height and width, bilinearly. What is not finite is 0.
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
    """Whether equal cells of two maps of one image show the same place."""
    return (a.data.shape[1:], a.input_size, a.window) == (b.data.shape[1:], b.input_size, b.window)


def image_cells(fm: LayerOutput) -> Tuple[int, int]:
    """How many cells high and wide the image is, rounded."""
    left, top, right, bottom = fm.to_cells()
    return max(1, round(bottom - top)), max(1, round(right - left))


def on_image(values: np.ndarray, fm: LayerOutput, size: Tuple[int, int]) -> np.ndarray:
    """The image's part of values ``[..., H, W]`` on the grid of a map, brought to ``size``, bilinearly."""
    return resample(values, size, part=fm.to_cells())


def _positive(heat: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.asarray(heat, np.float64), posinf=0, neginf=0).clip(min=0)


def _pixels(cells: int, stride: float, start: float, stop: float) -> Tuple[np.ndarray, np.ndarray]:
    """Of the pixels between two edges, the cell that each lies in, and its centre."""
    centres = np.arange(int(np.ceil(start - 0.5)), int(np.ceil(stop - 0.5))) + 0.5
    centres = centres[(centres >= 0) & (centres < cells * stride)]
    return np.minimum((centres / stride).astype(int), cells - 1), centres
