"""Widths of printed pictures and figures."""

from __future__ import annotations

import math
from typing import Any, Dict

from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.text import near, printable

# Text widths in inches, from the authors' guides of these publishers.
WIDTHS: Dict[str, float] = {
    "ieee-column": 3.5,
    "ieee-page": 7.16,
    "cvpr-column": 3.25,
    "cvpr-page": 6.875,
    "lncs": 4.8,
    "neurips": 5.5,
    "elsevier-column": 90 / 25.4,
    "elsevier-page": 190 / 25.4,
    "nature-single": 89 / 25.4,
    "nature-double": 183 / 25.4,
}
LEAST, MOST = 1.0, 40.0  # inches


def width_of(value: Any) -> float:
    """Convert a number or a key of :data:`WIDTHS` to inches. Raises FeatvizError for anything else."""
    if isinstance(value, str) and value in WIDTHS:
        return WIDTHS[value]
    try:
        if isinstance(value, bool):
            raise TypeError
        inches = float(value)
    except (TypeError, ValueError):
        shown = printable(repr(value), 80)
        raise FeatvizError(
            f"no width {shown}" + near(value, WIDTHS, f"take inches, or one of {', '.join(WIDTHS)}")
        ) from None
    if not LEAST <= inches <= MOST or math.isnan(inches):
        raise FeatvizError(f"width {inches:g} is out of range: take {LEAST:g} to {MOST:g} inches")
    return inches
