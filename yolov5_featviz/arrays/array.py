"""Numpy's array protocol."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np


def as_array(values: np.ndarray, dtype: Any = None, copy: Optional[bool] = None) -> np.ndarray:
    """Return ``values`` as ``__array__`` is asked for them, in numpy 1 and 2.

    Raises:
        ValueError: ``copy`` is False and ``dtype`` needs one.
    """
    if dtype is not None and np.dtype(dtype) != values.dtype:
        if copy is False:
            raise ValueError(f"{values.dtype} cannot become {np.dtype(dtype)} without a copy")
        return values.astype(dtype)
    return values.copy() if copy else values
