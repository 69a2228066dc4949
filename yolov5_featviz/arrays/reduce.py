"""Reduce many channels to one map, or to three principal components."""

from __future__ import annotations

from typing import Callable, Dict, Iterator, NamedTuple, Optional, Tuple

import numpy as np

from yolov5_featviz.arrays.normalize import normalize
from yolov5_featviz.errors import FeatvizError

BLOCK = 1 << 14  # cells converted to float64 at a time


class Reduction(NamedTuple):
    """A reduction of channels ``[n, H, W]`` to one map ``[H, W]``, its default norm, and what captions call it."""

    apply: Callable[[np.ndarray], np.ndarray]
    norm: str
    words: str = ""


def reduce_channels(x: np.ndarray, how: str = "mean") -> np.ndarray:
    """Reduce channels to one map, cell by cell.

    Args:
        x: ``[n, H, W]``, any real type; converted to float32, not modified.
        how: one of these.

            - ``mean``, ``sum``, ``max``: of the channels.
            - ``l2``: the Euclidean norm of the channels.
            - ``std``: their standard deviation (of the population, as ``numpy.std``).
            - ``select-max``: the channel with the largest sum over all cells, the first of equals
              (``draw_featmap(channel_reduction='select_max')`` of mmengine's Visualizer).

    Returns:
        float32 ``[H, W]``, in the units of the layer; NaN where the arithmetic gives NaN.

    Raises:
        FeatvizError: unknown ``how``.
    """
    check_reduce(how)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(REDUCTIONS[how].apply(np.asarray(x, np.float32)), np.float32)


def check_reduce(how: str) -> None:
    """Raise FeatvizError for an unknown reduction."""
    if how not in REDUCTIONS:
        raise FeatvizError(f"no reduction {how!r}: take one of {', '.join(REDUCTIONS)}")


def _select_max(x: np.ndarray) -> np.ndarray:
    sums = x.sum(axis=(1, 2), dtype=np.float64)
    best: np.ndarray = x[int(np.argmax(np.where(np.isnan(sums), -np.inf, sums)))]
    return best


# `mean` from zero is the class-agnostic activation map: mean, clip below 0, divide by the maximum.
# `l2` and `std` have a natural zero; the others are scaled from their minimum to their maximum.
REDUCTIONS: Dict[str, Reduction] = {
    "mean": Reduction(lambda x: x.mean(axis=0), "zero"),
    "sum": Reduction(lambda x: x.sum(axis=0), "channel"),
    "max": Reduction(lambda x: x.max(axis=0), "channel"),
    "select-max": Reduction(_select_max, "channel", "strongest channel"),
    "l2": Reduction(lambda x: np.sqrt(np.square(x).sum(axis=0)), "zero", "L2 norm of channels"),
    "std": Reduction(lambda x: x.std(axis=0), "zero"),
}


def pca(x: np.ndarray, image: Optional[np.ndarray] = None) -> Tuple[np.ndarray, np.ndarray]:
    """Compute the three principal components of the channels, scaled to [0, 1].

    Cells are samples, channels are variables. The data are centred; the components are the eigenvectors
    of their covariance, or of the cells' Gram matrix where that is smaller, in float64: a singular value
    decomposition gives the same ones and takes ten times as long. The sign of a component is chosen so that
    the loading with the largest absolute value is positive (as scikit-learn's ``svd_flip`` does by
    variables), so that colours do not flip between runs, and each is scaled by the norm ``robust``.

    Args:
        x: ``[n, H, W]``, any real type.
        image: the cells that count, bool ``[H, W]``; None for all.

    Returns:
        ``(parts, explained)``: float32 ``[H, W, 3]`` in [0, 1], and the share of the variance that each
        component explains, float64 ``[3]``. Where there are fewer than three components (fewer channels
        or cells, or linearly dependent channels), the missing ones are 0. Cells in which any channel is
        NaN or infinite, and those outside ``image``, are ignored and become NaN.
    """
    x = np.asarray(x, np.float32)
    n, height, width = x.shape
    flat = x.reshape(n, -1)
    whole = np.ones(height * width, bool) if image is None else image.ravel().copy()
    for channel in flat:
        whole &= np.isfinite(channel)
    parts = np.full((height * width, 3), np.nan, np.float32)
    parts[whole] = 0
    explained = np.zeros(3)
    cells = int(whole.sum())
    if cells == 0:
        return parts.reshape(height, width, 3), explained
    kept = slice(None) if cells == len(whole) else whole
    mean = np.array([channel[kept].mean(dtype=np.float64) for channel in flat])
    largest = max(np.abs(channel[kept] - centre).max() for channel, centre in zip(flat, mean))
    if largest == 0:
        return parts.reshape(height, width, 3), explained

    def blocks() -> Iterator[Tuple[slice, np.ndarray]]:
        """Yield blocks of cells ``[cells, n]``, centred and scaled: all at once, float64 is twice the map's size."""
        for start in range(0, len(whole), BLOCK):
            part = slice(start, start + BLOCK)
            yield part, (flat[:, part][:, whole[part]].T - mean) / largest

    wide = cells < n
    if wide:
        all_cells = np.concatenate([block for _, block in blocks()])
        square = all_cells @ all_cells.T
    else:
        square = np.zeros((n, n))
        for _, block in blocks():
            square += block.T @ block
    total = float(np.trace(square))
    variances, vectors = np.linalg.eigh(square)
    variances, vectors = variances[:-4:-1], vectors[:, :-4:-1]
    least = variances[0] * (max(cells, n) * np.finfo(np.float32).eps) ** 2
    real = int((variances > least).sum())
    loadings = (all_cells.T @ vectors if wide else vectors)[:, :real]
    loadings = loadings / np.linalg.norm(loadings, axis=0)
    signs = np.sign(loadings[np.abs(loadings).argmax(axis=0), np.arange(real)])
    components = np.concatenate([block @ (loadings * signs) for _, block in blocks()])
    parts[whole, :real] = normalize(components.T[:, None], "robust")[0][:, 0].T
    explained[:real] = variances[:real] / total
    return parts.reshape(height, width, 3), explained
