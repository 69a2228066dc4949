"""Ranks, and their correlation."""

from __future__ import annotations

import numpy as np


def ranks(x: np.ndarray) -> np.ndarray:
    """Return the rank of each value of ``[N]``, from 1, float64; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    mean: np.ndarray = (last - (counts - 1) / 2)[inverse.reshape(-1)]
    return mean


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Compute Spearman's rank correlation: Pearson's of the ranks, those of equal values averaged.

    C. Spearman, *Am. J. Psychol.* 15, 1904.

    Args:
        x, y: of the same number of values, in any shape.

    Returns:
        -1 to 1; NaN if either is constant, or has a value that is not finite.
    """
    a, b = (np.asarray(values, np.float64).ravel() for values in (x, y))
    if not (np.isfinite(a).all() and np.isfinite(b).all()) or a.size < 2:
        return float("nan")
    a, b = (ranks(values) - (values.size + 1) / 2 for values in (a, b))
    own = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(a @ b / own, -1, 1)) if own > 0 else float("nan")
