"""Normalise feature-map values to [0, 1]."""

from __future__ import annotations

from typing import Callable, Dict, NamedTuple, Optional, Tuple

import numpy as np

from yolov5_featviz.errors import FeatvizError

PERCENTILES = (1.0, 99.0)  # ends of the scale of `robust`


class Norm(NamedTuple):
    """A normalisation to [0, 1].

    ``apply`` takes the channels ``[n, H, W]`` and the layer they were chosen from ``[C, H, W]``, both
    float32, and returns what :func:`normalize` returns. For captions, ``scope`` is what the two ends
    of the scale apply to, ``alone`` the same for a single map (None: as ``scope``), and ``ends`` their
    names where the limits alone are not clear; ``extremes``, that they are the least and largest value.
    ``absolute``: the scale does not depend on the values.
    """

    apply: Callable[[np.ndarray, np.ndarray], Tuple[np.ndarray, np.ndarray]]
    scope: str
    ends: Optional[Tuple[str, str]] = None
    alone: Optional[str] = None
    absolute: bool = False
    extremes: Tuple[bool, bool] = (False, False)


def normalize(
    x: np.ndarray, norm: str = "channel", whole: Optional[np.ndarray] = None
) -> Tuple[np.ndarray, np.ndarray]:
    """Scale feature-map channels to [0, 1].

    Args:
        x: ``[n, H, W]``, any real type; converted to float32.
        norm: one of these.

            - ``channel``: each channel from its own minimum to its own maximum.
            - ``layer``: all from the minimum to the maximum of the layer, so that channels compare.
            - ``robust``: each channel from its 1st to its 99th percentile (linear interpolation
              between order statistics, as ``numpy.percentile``), clipped to [0, 1]. A channel whose
              two percentiles are equal is scaled as by ``channel``.
            - ``zero``: each channel from 0 to its own maximum; negative values become 0, and so does
              a channel without a positive value.
            - ``signed``: each channel from minus to plus its largest absolute value, so that 0 is in
              the middle; for diverging colour maps such as ``RdBu_r``.
            - ``signed-robust``: the same with the 99th percentile of absolute values, or the largest
              where that is 0; clipped to [0, 1].
            - ``sigmoid``: ``1 / (1 + exp(-x))``.
            - ``none``: values as they are, clipped to [0, 1].
            - ``byte``: ``trunc(255 x)`` modulo 256, over 255: what torchvision's ``to_pil_image``
              makes of a float tensor (``mul(255).byte()``), including its wrap-around outside [0, 1].
              NaN and infinities become 0.
        whole: the layer that the channels were chosen from, ``[C, H, W]``; None if it is ``x``.

    Returns:
        ``(y, limits)``: ``y``, float32 ``[n, H, W]`` in [0, 1], and ``limits``, float32 ``[n, 2]``,
        the two values of each channel that became 0 and 1. Only finite values count for the
        limits. Except by ``byte``, infinities become 0 and 1, and NaN stays NaN. A constant channel
        becomes 0 wherever it is scaled by its own minimum and maximum.

    Raises:
        FeatvizError: unknown ``norm``.
    """
    check_norm(norm)
    x = np.asarray(x, dtype=np.float32)
    return NORMS[norm].apply(x, x if whole is None else np.asarray(whole, dtype=np.float32))


def zero_of(norm: str, low: float, high: float) -> float:
    """Return what the value 0 becomes on a scale from ``low`` to ``high``, in [0, 1]: its nearer end if outside."""
    if norm == "sigmoid":
        return 0.5
    if NORMS[norm].absolute or not high > low:
        return 0.0
    return float(np.clip(-low / (high - low), 0, 1))


def check_norm(norm: str) -> None:
    """Raise FeatvizError for an unknown normalisation."""
    if norm not in NORMS:
        raise FeatvizError(f"no normalisation {norm!r}: take one of {', '.join(NORMS)}")


def _scale(x: np.ndarray, limits: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    # float64 where the span of the values does not fit in float32
    with np.errstate(over="ignore"):
        wide = not np.isfinite(limits[:, 1] - limits[:, 0]).all()
    low, high = limits.astype(np.float64 if wide else np.float32).T[:, :, None, None]
    span = high - low
    scale = np.divide(1, span, out=np.zeros_like(span), where=span > 0)
    with np.errstate(invalid="ignore", over="ignore"):
        y = x - low
        y *= scale
        np.clip(y, 0, 1, out=y)
    if not np.isfinite(x).all():
        # inf * 0 in an otherwise constant channel would be NaN
        y = np.where(np.isposinf(x), 1, np.where(np.isneginf(x), 0, np.where(np.isnan(x), np.nan, y)))
    return y.astype(np.float32, copy=False), limits


def extremes(x: np.ndarray) -> np.ndarray:
    """Return the least and largest finite value of each channel ``[n, H, W]``, ``[n, 2]``; zeros if there is none."""
    flat = x.reshape(len(x), int(np.prod(x.shape[1:])))  # of no channels, -1 would not be known
    low, high = flat.min(axis=1), flat.max(axis=1)
    # min and max propagate NaN and infinities: only these channels need the slower way
    for i in np.flatnonzero(~(np.isfinite(low) & np.isfinite(high))):
        finite = flat[i][np.isfinite(flat[i])]
        low[i], high[i] = (finite.min(), finite.max()) if finite.size else (0, 0)
    return np.stack([low, high], axis=1)


def _by_channel(x: np.ndarray, whole: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    return _scale(x, extremes(x))


def _by_layer(x: np.ndarray, whole: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    return _scale(x, np.repeat(extremes(whole.reshape(1, -1, 1)), len(x), axis=0))


def _from_zero(x: np.ndarray, whole: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    limits = extremes(x).clip(min=0)
    limits[:, 0] = 0
    return _scale(x, limits)


def _signed(x: np.ndarray, whole: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    return _around_zero(x, np.abs(extremes(x)).max(axis=1))


def _signed_robust(x: np.ndarray, whole: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    _, high = _robust(np.abs(x), whole)[1].T
    return _around_zero(x, high)


def _around_zero(x: np.ndarray, largest: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    y, limits = _scale(x, np.stack([-largest, largest], axis=1))
    if not largest.all():
        y[(largest == 0)[:, None, None] & (x == 0)] = 0.5  # an all-zero channel is the middle
    return y, limits


def _robust(x: np.ndarray, whole: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    limits = extremes(x)
    for row, channel in zip(limits, x):
        finite = channel[np.isfinite(channel)]
        low, high = np.percentile(finite, PERCENTILES) if finite.size else (0, 0)
        if high > low:
            row[:] = low, high
    return _scale(x, limits)


def _sigmoid(x: np.ndarray, whole: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    half = np.tanh(x * np.float32(0.5))  # sigmoid without the overflow of exp
    return half * np.float32(0.5) + np.float32(0.5), np.array([[-np.inf, np.inf]] * len(x), np.float32)


def _as_they_are(x: np.ndarray, whole: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    return np.clip(x, 0, 1), np.array([[0, 1]] * len(x), np.float32)


def _low_byte(x: np.ndarray, whole: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    # Beyond 2^63 the conversion to integers is undefined; processors give a low byte of 0.
    with np.errstate(over="ignore"):
        scaled = x * np.float32(255)
    inside = np.abs(scaled) < 2.0**63
    integers = np.where(inside, scaled, 0).astype(np.int64)
    return (integers & 255).astype(np.float32) / np.float32(255), np.array([[0, 1]] * len(x), np.float32)


NORMS: Dict[str, Norm] = {
    "channel": Norm(_by_channel, "of each channel on its own", ("min", "max"), "", extremes=(True, True)),
    "layer": Norm(_by_layer, "of the layer", extremes=(True, True)),
    "robust": Norm(_robust, "of each channel on its own", ("1st", "99th percentile"), "1st to 99th percentile"),
    "zero": Norm(_from_zero, "of each channel on its own", ("0", "max"), "", extremes=(False, True)),
    "signed": Norm(_signed, "of each channel on its own", ("−max", "max"), ""),
    "signed-robust": Norm(
        _signed_robust,
        "of each channel on its own",
        ("−99th", "99th percentile"),
        "99th percentile of absolute values",
    ),
    "sigmoid": Norm(_sigmoid, "sigmoid of the value", ("0", "1"), absolute=True),
    "none": Norm(_as_they_are, "values as they are", absolute=True),
    "byte": Norm(_low_byte, "low byte of 255 × value", ("0", "255"), absolute=True),
}
