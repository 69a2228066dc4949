"""Convert between cells of a feature map and pixels of the network's input.

Cell ``i`` of a map of stride ``s`` covers the pixels ``i s`` to ``(i + 1) s``, and is in a region if its centre is.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Region

Size = Tuple[int, int]  # rows, columns
Stride = Tuple[float, float]  # pixels to a cell: down, across


def to_cells(region: Region, stride: Stride) -> Region:
    """Convert left, top, right and bottom edge from pixels to cells, fractions included."""
    left, top, right, bottom = region
    down, across = stride
    return left / across, top / down, right / across, bottom / down


def in_region(cells: Size, stride: Stride, region: Region) -> np.ndarray:
    """Return a bool mask ``[H, W]`` of the cells whose centre lies in a region."""
    y, x = _centres(cells, stride)
    left, top, right, bottom = region
    return np.outer((y >= top) & (y < bottom), (x >= left) & (x < right))


def in_boxes(cells: Size, stride: Stride, xyxy: np.ndarray) -> np.ndarray:
    """Return a bool mask ``[H, W]`` of the cells with their centre in a box ``[n, 4]``, or that hold a box's centre."""
    y, x = _centres(cells, stride)
    x0, y0, x1, y1 = xyxy.astype(float).T[:, :, None]
    inside = np.zeros(cells, bool)
    for rows, columns in zip((y >= y0) & (y < y1), (x >= x0) & (x < x1)):
        inside |= rows[:, None] & columns
    row, column = ((y0 + y1)[:, 0] / 2 // stride[0]).astype(int), ((x0 + x1)[:, 0] / 2 // stride[1]).astype(int)
    there = (row >= 0) & (row < cells[0]) & (column >= 0) & (column < cells[1])
    inside[row[there], column[there]] = True
    return inside


def _centres(cells: Size, stride: Stride) -> Tuple[np.ndarray, np.ndarray]:
    return (np.arange(cells[0]) + 0.5) * stride[0], (np.arange(cells[1]) + 0.5) * stride[1]
