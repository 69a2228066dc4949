"""Words for the two ends of a colour scale."""

from __future__ import annotations

import math
from typing import List, NamedTuple, Tuple

import numpy as np

from yolov5_featviz.arrays.normalize import NORMS, extremes
from yolov5_featviz.models.layer_output import LayerOutput


class Legend(NamedTuple):
    """The labels of both ends of the colour scale, and what they apply to. An empty ``high``: there is no scale."""

    low: str
    high: str
    scope: str = ""

    def also(self, words: str) -> Legend:
        """Return the same legend with more words about what it applies to."""
        return self._replace(scope=", ".join(filter(None, [self.scope, words])))


def end_words(*ends: float) -> List[str]:
    """Format the ends of a scale with the same number of decimals: three digits for the largest, true minus signs."""
    most = max((abs(end) for end in ends if math.isfinite(end)), default=0.0)
    decimals = 2 - math.floor(math.log10(most)) if most else 0

    def one(end: float) -> str:
        if end == 0:
            return "0"
        if not math.isfinite(end):
            words = f"{end}"
        elif not 1e-4 <= most < 1e5:
            digits, power = f"{end:.2e}".split("e")
            words = f"{digits}e{int(power)}"
        else:
            words = f"{end:.{max(0, decimals)}f}"
            words = words.lstrip("-") if float(words) == 0 else words
        return words.replace("-", "−")

    return [one(float(end)) for end in ends]


def legend(norm: str, limits: np.ndarray, values: np.ndarray, single: bool = False) -> Legend:
    """Return the legend of channels on the scale of a norm.

    Args:
        norm: see :func:`yolov5_featviz.arrays.normalize.normalize`.
        limits: ``[n, 2]``, as it returned them.
        values: ``[n, H, W]``, the channels.
        single: whether they are one map, whose limits are said rather than their names.
    """
    kind = NORMS[norm]
    scope = kind.alone if single and kind.alone is not None else kind.scope
    if (kind.absolute or not limits.any()) and not np.isfinite(values).any():
        return Legend("no finite value", "", "")
    if norm == "zero" and not limits[:, 1].any():
        return Legend("all values ≤ 0", "", "")
    if single and not kind.absolute and limits[0, 0] == limits[0, 1]:
        return Legend(f"all values {end_words(limits[0, 0])[0]}", "", "")
    if kind.absolute:
        low, high = kind.ends or ("0", "1")
    elif single or kind.ends is None:
        words = zip(("min", "max"), end_words(*limits[0]), kind.extremes)
        low, high = (f"{name} {word}" if extreme else word for name, word, extreme in words)
    else:
        low, high = kind.ends
    below, above = (False, False) if all(kind.extremes) else clipped(values, limits)
    above = above and not kind.extremes[1]  # infinity is beyond every maximum
    return Legend(f"≤ {low}" * below or low, f"≥ {high}" * above or high, scope)


def clipped(values: np.ndarray, limits: np.ndarray) -> Tuple[bool, bool]:
    """Return whether any value of channels ``[n, H, W]`` lies below, and above, its limits ``[n, 2]``."""
    low, high = limits.T[:, :, None, None]
    with np.errstate(invalid="ignore"):
        return bool((values < low).any()), bool((values > high).any())


def ends_in_padding(feature_map: LayerOutput, values: np.ndarray, norm: str) -> Tuple[np.ndarray, str]:
    """Find the channels whose scale ends at a value of the letterbox's padding.

    Args:
        feature_map: the map.
        values: ``[n, H, W]``, some of its channels, or one map made of them.
        norm: see :func:`yolov5_featviz.arrays.normalize.normalize`.

    Returns:
        ``(there, words)``: bool ``[n]``, and how a caption says it, empty if there is none.
    """
    at_low, at_high = NORMS[norm].extremes
    image = feature_map.in_image
    if image.all() or not image.any() or not (at_low or at_high):
        return np.zeros(len(values), bool), ""
    scaled = feature_map.values.reshape(1, -1, feature_map.size[1]) if norm == "layer" else values
    rows, columns = image.any(axis=1), image.any(axis=0)
    rows = np.tile(rows, scaled.shape[1] // feature_map.size[0])
    apart = extremes(scaled[:, rows][:, :, columns]) != extremes(scaled)
    there = (apart[:, 0] & at_low) | (apart[:, 1] & at_high)
    if norm == "layer" or len(values) == 1:
        words = "an end lies in the padding" if there.any() else ""
    else:
        words = f"{there.sum()} with an end in the padding" if there.any() else ""
    return np.broadcast_to(there, len(values)), words
