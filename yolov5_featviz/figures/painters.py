"""Painters: each renders one panel at its size in the figure."""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.draw.heatmap import blended, grey
from yolov5_featviz.draw.palette import NAN, palette_of, quantise
from yolov5_featviz.figures.layout import Overlay, Paint, tile_places
from yolov5_featviz.models.layer_output import LayerOutput


def scale_between(values: np.ndarray, pair: Tuple[float, float]) -> np.ndarray:
    """Scale values so that ``pair`` maps to 0 and 1; 0 if both are equal. NaN stays NaN."""
    low, high = pair
    span = high - low
    scaled: np.ndarray = ((values - low) / span if span > 0 else values * 0).clip(0, 1)
    return scaled.astype(np.float32)


def photograph(pixels: np.ndarray, desaturate: bool = False) -> Paint:
    """Return a painter of an image, uint8 RGB ``[H, W, 3]``, in its colours or in grey."""
    import cv2

    pixels = grey(pixels) if desaturate else pixels

    def paint(size: Tuple[int, int], window: Region) -> np.ndarray:
        left, top, right, bottom = (round(edge) for edge in window)
        part = np.ascontiguousarray(pixels[top : max(bottom, top + 1), left : max(right, left + 1)])
        smaller = part.shape[0] >= size[0] and part.shape[1] >= size[1]
        how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        painted: np.ndarray = cv2.resize(part, (size[1], size[0]), interpolation=how)
        return painted

    return paint


def heat(
    values: np.ndarray,
    feature_map: LayerOutput,
    image: Tuple[int, int],
    cmap: str,
    how: str = "nearest",
    photo: Optional[Paint] = None,
    over: Optional[Overlay] = None,
) -> Paint:
    """Return a painter of a map ``[H, W]`` in [0, 1] of an image of size ``image``, alone or over its photograph."""
    palette = palette_of(cmap)

    def paint(size: Tuple[int, int], window: Region) -> np.ndarray:
        codes = quantise(resample(values, size, how, part=cells(feature_map, image, window)).clip(0, 1))
        if photo is None or over is None:
            alone: np.ndarray = palette[codes]
            return alone
        return blended(codes, palette, photo(size, window), *over)

    return paint


def colours(planes: np.ndarray, feature_map: LayerOutput, image: Tuple[int, int], how: str = "nearest") -> Paint:
    """Return a painter of three maps ``[3, H, W]`` in [0, 1] as red, green and blue."""
    missing = palette_of("viridis")[NAN]

    def paint(size: Tuple[int, int], window: Region) -> np.ndarray:
        y = np.moveaxis(resample(planes, size, how, part=cells(feature_map, image, window)), 0, 2).clip(0, 1)
        painted: np.ndarray = np.where(np.isnan(y), missing, np.rint(np.nan_to_num(y) * 255)).astype(np.uint8)
        return painted

    return paint


def tiles(parts: Sequence[Paint]) -> Paint:
    """Return a painter of several parts in a square grid."""

    def paint(size: Tuple[int, int], window: Region) -> np.ndarray:
        canvas = np.full((*size, 3), 255, np.uint8)
        for part, (left, top, w, h) in zip(parts, tile_places(len(parts), size)):
            if h > 0 and w > 0:
                canvas[top : top + h, left : left + w] = part((h, w), window)
        return canvas

    return paint


def cells(feature_map: LayerOutput, image: Tuple[int, int], window: Region) -> Region:
    """Convert a window of an image of size ``image`` from pixels to cells of the map."""
    left, top, right, bottom = feature_map.window
    x, y = (right - left) / image[1], (bottom - top) / image[0]
    return feature_map.to_cells((left + window[0] * x, top + window[1] * y, left + window[2] * x, top + window[3] * y))
