"""Values of a feature map to [0, 1]."""

from __future__ import annotations

from typing import Callable, Dict, Optional, Tuple

import numpy as np

from yolov5_featviz.errors import FeatvizError


def normalize(
    x: np.ndarray, norm: str = "channel", whole: Optional[np.ndarray] = None
) -> Tuple[np.ndarray, np.ndarray]:
    """Scale feature-map channels to [0, 1].

    Args:
        x: ``[n, H, W]``, any real type.
        norm: ``channel``, each channel from its own minimum to its own maximum; ``layer``, all
            from the minimum to the maximum of the layer, so that channels can be compared.
        whole: the layer that the channels were chosen from, ``[C, H, W]``; None if it is ``x``.

    Returns:
        ``(y, limits)``: ``y``, float32 ``[n, H, W]`` in [0, 1], and ``limits``, float32 ``[n, 2]``,
        the two values of each channel that became 0 and 1. Only finite values count for the
        limits; infinities become 0 and 1, NaN stays NaN, and a constant channel becomes 0.

    Raises:
        FeatvizError: ``norm`` is not one of these.
    """
    if norm not in NORMS:
        raise FeatvizError(f"no normalisation {norm!r}: take one of {', '.join(NORMS)}")
    x = np.asarray(x, dtype=np.float32)
    limits = NORMS[norm](x, x if whole is None else np.asarray(whole, dtype=np.float32))
    # In float64 where the span of the values does not fit in float32.
    with np.errstate(over="ignore"):
        wide = not np.isfinite(limits[:, 1] - limits[:, 0]).all()
    low, high = limits.astype(np.float64 if wide else np.float32).T[:, :, None, None]
    span = high - low
    scale = np.divide(1, span, out=np.zeros_like(span), where=span > 0)
    with np.errstate(invalid="ignore", over="ignore"):
        y = np.clip((x - low) * scale, 0, 1)
    if not np.isfinite(x).all():
        # in an otherwise constant channel inf * 0 is NaN, which only NaN may become
        y = np.where(np.isposinf(x), 1, np.where(np.isneginf(x), 0, np.where(np.isnan(x), np.nan, y)))
    return y.astype(np.float32, copy=False), limits


def _by_channel(x: np.ndarray, whole: np.ndarray) -> np.ndarray:
    flat = x.reshape(len(x), -1)
    low, high = flat.min(axis=1), flat.max(axis=1)
    # min and max let NaN and infinities through, so they tell where a closer look is due
    for i in np.flatnonzero(~(np.isfinite(low) & np.isfinite(high))):
        finite = flat[i][np.isfinite(flat[i])]
        low[i], high[i] = (finite.min(), finite.max()) if finite.size else (0, 0)
    return np.stack([low, high], axis=1)


def _by_layer(x: np.ndarray, whole: np.ndarray) -> np.ndarray:
    flat = whole.reshape(1, -1, 1)
    return np.repeat(_by_channel(flat, flat), len(x), axis=0)


NORMS: Dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {"channel": _by_channel, "layer": _by_layer}
