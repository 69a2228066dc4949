"""Resample maps, or parts of maps, to other sizes at sub-cell accuracy."""

from __future__ import annotations

from typing import Callable, Dict, Optional, Tuple

import numpy as np

from yolov5_featviz.errors import FeatvizError

CACHE = 1 << 17  # bytes

# Takes positions [n] in cells, 0 at the centre of the first, and the number of cells in the map;
# returns the cells that contribute to each position and their weights, [taps, n] each.
Kernel = Callable[[np.ndarray, int], Tuple[np.ndarray, np.ndarray]]


def resample(
    x: np.ndarray,
    size: Optional[Tuple[int, int]] = None,
    how: str = "bilinear",
    scale: Optional[float] = None,
    part: Optional[Tuple[float, float, float, float]] = None,
) -> np.ndarray:
    """Resample maps to another size.

    Args:
        x: ``[..., H, W]``.
        size: ``(height, width)`` of the result.
        how: one of these, where output pixel ``dst`` is at position ``src`` of the map.

            - ``nearest``: the cell that contains the centre of ``dst``, ``floor((dst + 0.5) in/out)``.
            - ``bilinear``: ``src = (dst + 0.5) in/out - 0.5``, clipped to ``[0, in - 1]``; linear
              between the two nearest cells, in both directions.
            - ``bilinear-left``: the same with ``src = dst in/out``.
            - ``bicubic``: ``src`` as for ``bilinear`` but not clipped, over four cells by the cubic
              convolution of R. G. Keys, *IEEE Trans. ASSP* 29 (1981), with a = -0.75, as in OpenCV and
              torch; cells beyond the edge repeat the edge. It overshoots at steps.
        scale: factor by which to multiply the size, rounded; instead of ``size``.
        part: part of the map to resample: left, top, right and bottom edge in cells, fractions included;
            ``(0, 0, W, H)`` is the whole map. Values beyond the map repeat its edge.

    Returns:
        float32 ``[..., height, width]``. A value that depends on a NaN is NaN.

    Raises:
        FeatvizError: unknown ``how``, or an empty part or result.
    """
    check_resample(how)
    x = np.asarray(x, np.float32)
    height, width = x.shape[-2:]
    if size is None:
        scale = 1.0 if scale is None else scale
        size = round(height * scale), round(width * scale)
    left, top, right, bottom = part or (0, 0, width, height)
    if min(size) < 1 or right <= left or bottom <= top or 0 in x.shape:
        raise FeatvizError(f"cannot resample {left:g},{top:g}-{right:g},{bottom:g} of {height}×{width} cells to {size}")
    across = _along(how, width, size[1], left, right)
    down = _along(how, height, size[0], top, bottom)
    # Width first, while the map is small: the second pass then works on whole contiguous rows.
    wide = _apply(x.reshape(-1, height, width).swapaxes(1, 2), *across).swapaxes(1, 2)
    return _apply(np.ascontiguousarray(wide), *down).reshape((*x.shape[:-2], *size))


def check_resample(how: str) -> None:
    """Raise FeatvizError for an unknown resampling method."""
    if how not in RESAMPLERS:
        raise FeatvizError(f"no resampling {how!r}: take one of {', '.join(RESAMPLERS)}")


def _along(how: str, n: int, out: int, start: float, stop: float) -> Tuple[np.ndarray, np.ndarray]:
    first, kernel = RESAMPLERS[how]
    return kernel(start + (np.arange(out) + first) * ((stop - start) / out) - first, n)


def _apply(x: np.ndarray, cells: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Resample ``x [k, n, m]`` to ``[k, out, m]``."""
    result: np.ndarray
    if len(cells) == 1:
        result = x.take(cells[0], axis=1)
        return result
    result = np.empty((x.shape[0], cells.shape[1], x.shape[2]), np.float32)
    rows = max(1, CACHE // (4 * x.shape[0] * x.shape[2]))
    for first in range(0, cells.shape[1], rows):  # in blocks that fit in the processor's cache
        part = slice(first, first + rows)
        np.multiply(x.take(cells[0, part], axis=1), weights[0, part, None], out=result[:, part])
        for cell, weight in zip(cells[1:, part], weights[1:, part]):
            result[:, part] += x.take(cell, axis=1) * weight[:, None]
    return result


def _nearest(src: np.ndarray, n: int) -> Tuple[np.ndarray, np.ndarray]:
    return np.floor(src + 0.5).clip(0, n - 1).astype(np.intp)[None], np.ones((1, len(src)), np.float32)


def _linear(src: np.ndarray, n: int) -> Tuple[np.ndarray, np.ndarray]:
    src = src.clip(0, n - 1)
    below = np.floor(src).astype(np.intp)
    above = np.minimum(below + 1, n - 1)
    weight = (src - below).astype(np.float32)
    return np.stack([below, above]), np.stack([1 - weight, weight])


def _cubic(src: np.ndarray, n: int, a: float = -0.75) -> Tuple[np.ndarray, np.ndarray]:
    below = np.floor(src).astype(np.intp)
    cells = np.stack([below + i for i in (-1, 0, 1, 2)])
    d = np.abs(src - cells)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = (((d - 5) * d + 8) * d - 4) * a
    return cells.clip(0, n - 1), np.where(d <= 1, near, far).astype(np.float32)


# name -> aligned point of pixels and cells (0.5: the centres, 0: the left edges), and the kernel
RESAMPLERS: Dict[str, Tuple[float, Kernel]] = {
    "nearest": (0.5, _nearest),
    "bilinear": (0.5, _linear),
    "bilinear-left": (0.0, _linear),
    "bicubic": (0.5, _cubic),
}
