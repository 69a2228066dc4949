"""Data of the plot in the report of what responds to the detections against what they depend on."""

from __future__ import annotations

from typing import Any, Dict, Optional

import numpy as np

from yolov5_featviz.arrays.ranks import spearman
from yolov5_featviz.draw.channels import ChannelSpec, choose, is_by_ablation
from yolov5_featviz.models.layer_output import LayerOutput
from yolov5_featviz.runs.report_maps import numbers
from yolov5_featviz.runs.report_words import LIST

# least absolute value of a correlation -> its strength (J. D. Evans, Straightforward Statistics, 1996)
STRENGTHS = ((0.8, "very strong"), (0.6, "strong"), (0.4, "moderate"), (0.2, "weak"), (0.0, "very weak"))


def plot(fm: LayerOutput, channels: Optional[ChannelSpec]) -> Optional[Dict[str, Any]]:
    """Return the points of a scatter plot, one for each channel of a layer.

    Args:
        fm: the map, with its dependence.
        channels: those of the pictures.

    Returns:
        ``points``, each channel with its contrast and the share of the score lost, best first, those without
        finite values left out; ``shown``, the channels of the pictures; ``names`` of the two measures; and what is
        ``said`` of them. None if fewer than two channels have both.
    """
    choice = choose(fm, channels if channels is not None and is_by_ablation(channels) else f"top:{LIST}:ablation")
    ranking = choice.ranking
    contrast = next((name for name in ranking.scores if name.startswith("contrast")), None) if ranking else None
    if ranking is None or ranking.note or contrast is None:
        return None
    y, x = ranking.scores[ranking.by], ranking.scores[contrast]
    there = [k for k in ranking.channels if np.isfinite(x[k]) and np.isfinite(y[k])]
    if len(there) < 2:
        return None
    pairs = zip(there, numbers(x[there], 3), numbers(y[there], 3))
    return {
        "points": [list(point) for point in pairs],
        "shown": choice.channels,
        "names": [contrast, ranking.by.replace("ablation", "score lost", 1)],
        "said": f"{_left_out(fm.channels - len(there))}{correlation_words(spearman(x[there], y[there]))}",
    }


def correlation_words(rho: float) -> str:
    """Return Spearman's rank correlation in words."""
    if np.isnan(rho):
        return "One of the two is the same for all channels, so they have no rank correlation."
    strength = next(word for least, word in STRENGTHS if abs(rho) >= least)
    sign = "" if round(rho, 2) == 0 else " positive" if rho > 0 else " negative"
    shown = f"{rho:.2f}".replace("-0.00", "0.00").replace("-", "−")
    return f"Spearman’s rank correlation of the two is {shown}, {strength}{' and' * bool(sign)}{sign}."


def _left_out(n: int) -> str:
    return (
        f"{n} channel{'s have' if n > 1 else ' has'} no finite contrast and {'are' if n > 1 else 'is'} left out. "
        if n
        else ""
    )
