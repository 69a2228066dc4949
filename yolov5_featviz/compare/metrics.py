"""Metrics of feature maps with many channels, each with its formula and source."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

from yolov5_featviz.arrays.cells import in_region
from yolov5_featviz.arrays.metrics import hoyer
from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.layer_output import LayerOutput


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
