"""Words for the two ends of a colour scale."""

from __future__ import annotations

import math
from typing import List, NamedTuple, Optional, Tuple

import numpy as np

from yolov5_featviz.arrays.cells import in_region
from yolov5_featviz.arrays.normalize import NORMS, extremes
from yolov5_featviz.models.layer_output import LayerOutput


class Legend(NamedTuple):
    """The labels of both ends of the colour scale, and what they apply to. An empty ``high``: there is no scale."""

    low: str
    high: str
    scope: str = ""


def end_words(*ends: float) -> List[str]:
    """Format the ends of a scale with the same number of decimals: three digits for the largest, true minus signs."""
    most = max((abs(end) for end in ends if math.isfinite(end)), default=0.0)
    decimals = 2 - math.floor(math.log10(most)) if most else 0

    def one(end: float) -> str:
        if end == 0:
            return "0"
        if not math.isfinite(end) or not 1e-4 <= most < 1e5:
            words = f"{end:.2e}" if math.isfinite(end) else f"{end}"
        else:
            words = f"{end:.{max(0, decimals)}f}"
            if float(words) == 0:
                words = f"{end:.1g}"
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
    if not np.isfinite(values).any():
        return Legend("no finite value", "", "")
    if norm == "zero" and not limits[:, 1].any():
        return Legend("all values ≤ 0", "", "")
    if kind.absolute:
        low, high = kind.ends or ("0", "1")
    elif single or kind.ends is None:
        words = zip(("min", "max"), end_words(*limits[0]), kind.extremes)
        low, high = (f"{name} {word}" if extreme else word for name, word, extreme in words)
    else:
        low, high = kind.ends
    below, above = clipped(values, limits)
    return Legend(f"≤ {low}" * below or low, f"≥ {high}" * above or high, scope)


def clipped(values: np.ndarray, limits: np.ndarray) -> Tuple[bool, bool]:
    """Return whether any value of channels ``[n, H, W]`` lies below, and above, its limits ``[n, 2]``."""
    low, high = limits.T[:, :, None, None]
    with np.errstate(invalid="ignore"):
        return bool((values < low).any()), bool((values > high).any())


def ends_in_padding(feature_map: LayerOutput, values: np.ndarray, norm: str) -> Optional[np.ndarray]:
    """Return for each channel ``[n, H, W]`` whether an end of its scale is a value of the letterbox's padding.

    None if the image fills the map, or the scale does not depend on the extremes.
    """
    at_low, at_high = NORMS[norm].extremes
    if feature_map.stride is None or feature_map.region is None or not (at_low or at_high):
        return None
    image = in_region(feature_map.size, feature_map.stride, feature_map.region)
    rows, columns = image.any(axis=1), image.any(axis=0)
    if image.all() or not image.any():
        return None
    inside, whole = extremes(values[:, rows][:, :, columns]), extremes(values)
    apart: np.ndarray = inside != whole
    return (apart[:, 0] & at_low) | (apart[:, 1] & at_high)
