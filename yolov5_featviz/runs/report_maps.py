"""Maps and numbers as they are stored in the report."""

from __future__ import annotations

import base64
from typing import Any, Dict, Tuple

import numpy as np

from yolov5_featviz.arrays.normalize import normalize

CODES, NO_NUMBER = 254, 255  # a map is stored as bytes from 0 (its minimum) to 254 (its maximum)


def quantise_maps(maps: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Quantise maps ``[n, H, W]`` to bytes.

    Returns:
        Codes, uint8 ``[n, H, W]``, and ``[n, 2]``, the values of codes 0 and 254.

    The error is at most 1/508 of a map's range. Infinities map to the ends, NaN to 255.
    """
    y, ends = normalize(maps, "channel")
    y *= CODES
    y += 0.5
    y[np.isnan(y)] = NO_NUMBER
    return y.astype(np.uint8), ends


def stored(maps: np.ndarray) -> Dict[str, Any]:
    """Return ``data``, maps ``[n, H, W]`` in base64, and ``ends``, what their lowest and highest code stand for."""
    codes, ends = quantise_maps(maps)
    return {"ends": numbers(ends, 6), "data": base64.b64encode(codes.tobytes()).decode()}


def numbers(values: Any, digits: int = 4) -> Any:
    """Convert to nested lists of JSON values: rounded, NaN as None, infinities as strings."""
    values = np.asarray(values, np.float64)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        scale = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(values))))
        rounded = np.rint(values * scale) / scale
    rounded = np.where(np.isfinite(rounded), rounded, values)  # 0, tiny and non-finite values
    if np.isfinite(rounded).all():
        return rounded.tolist()
    if values.ndim > 1:
        return [numbers(row, digits) for row in values]
    return [None if np.isnan(v) else float(v) if np.isfinite(v) else str(float(v)) for v in rounded]
