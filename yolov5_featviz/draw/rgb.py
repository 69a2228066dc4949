"""Draw three maps as red, green and blue: PCA, and maps of three channels."""

from __future__ import annotations

from typing import Any, Dict, List, Union

import numpy as np

from yolov5_featviz.arrays.normalize import normalize
from yolov5_featviz.arrays.reduce import pca
from yolov5_featviz.draw.annotate import draw_boxes
from yolov5_featviz.draw.channels import ChannelSpec, Choice, check_map, choose
from yolov5_featviz.draw.lettering import SEPARATOR, Text
from yolov5_featviz.draw.page import channel_words, enlarged, map_title, panel
from yolov5_featviz.draw.palette import NAN, check_look, palette_of
from yolov5_featviz.draw.picture import Picture
from yolov5_featviz.draw.record import map_record, number
from yolov5_featviz.draw.scale import legend
from yolov5_featviz.draw.widths import width_of
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.layer_output import LayerOutput

AXES = {"rgb": ("red", "green", "blue"), "lab": ("lightness", "blue–yellow", "green–red")}


def pca_picture(
    feature_map: LayerOutput,
    channels: Union[ChannelSpec, Choice] = "all",
    dpi: int = 300,
    plain: bool = False,
    resample: str = "nearest",
    axes: str = "rgb",
    boxes: bool = False,
    width: Union[float, str, None] = None,
) -> Picture:
    """Draw the three principal components of the channels in colours.

    See :func:`yolov5_featviz.arrays.reduce.pca` for the method. Cells of the letterbox's padding are left out
    and grey, and so is NaN.

    Args:
        axes: ``rgb``: the components are red, green and blue. ``lab``: lightness, blue to yellow, and green to
            red in CIE L*a*b*, so that readers with red-green blindness tell the first two apart.
        boxes: draw the detections, with names and scores.
        feature_map, channels, dpi, plain, resample, width: as for
            :meth:`~yolov5_featviz.draw.heatmap.HeatMap.picture` and
            :func:`~yolov5_featviz.draw.heatmap.heatmap`.

    Raises:
        FeatvizError: invalid argument, boxes that are unknown, or the map does not fit in ``width``.
    """
    check_look("viridis", dpi)
    check_map(feature_map)
    check_axes(axes)
    found = feature_map.boxes
    if boxes and (found is None or feature_map.input_size is None):
        raise FeatvizError("no boxes to draw: none are known for this feature map (its field `boxes`)")
    inches = None if width is None else width_of(width)
    choice = choose(feature_map, channels)
    inside = feature_map.in_image
    parts, explained = pca(feature_map.values[choice.channels], inside)
    pixels = enlarged(np.moveaxis(pca_colours(parts, axes), 2, 0), dpi, resample, _as_rgb, None, inches)
    labels: List[Text] = []
    notes = ""
    if boxes and found is not None and feature_map.input_size is not None:
        height, across = feature_map.input_size
        pixels = np.ascontiguousarray(pixels)
        size = pixels.shape[0], pixels.shape[1]
        labels, notes = draw_boxes(pixels, found.mapped((0, 0, across, height), size), dpi, numbers=not plain)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(AXES[axes], explained))
    title = map_title(feature_map, f"PCA of {channel_words(feature_map.channels, choice)}")
    title = SEPARATOR.join([title, f"explained variance: {shares}", *["without padding"] * (not inside.all())])
    picture = panel(pixels, title, None, palette_of("gray"), dpi, dpi, plain, labels, notes, inches)
    variance = [number(share) for share in explained]
    how: Dict[str, Any] = {"axes": None if axes == "rgb" else axes, "by": choice.ranking and choice.ranking.by}
    about = map_record(feature_map, "pca", choice.channels, variance=variance, resample=resample, **how)
    return picture.told(about)


def check_axes(axes: str) -> None:
    """Raise FeatvizError for unknown colour axes."""
    if axes not in AXES:
        raise FeatvizError(f"no axes {axes!r}: take one of {', '.join(AXES)}")


def pca_colours(parts: np.ndarray, axes: str = "rgb") -> np.ndarray:
    """Convert three components ``[H, W, 3]`` in [0, 1] to RGB in [0, 1]; NaN stays NaN.

    For ``lab``, CIE L*a*b* (D65) with L* from 20 to 90, and a* and b* from -50 to 50, clipped to sRGB.
    """
    if axes == "rgb":
        return parts
    import cv2

    light, yellow, red = np.moveaxis(np.nan_to_num(parts).astype(np.float32), 2, 0)
    lab = np.stack([20 + 70 * light, 100 * red - 50, 100 * yellow - 50], axis=2)
    colours = cv2.cvtColor(lab, cv2.COLOR_Lab2RGB).clip(0, 1)
    return np.where(np.isnan(parts), np.nan, colours).astype(np.float32)


def _as_rgb(y: np.ndarray) -> np.ndarray:
    """Convert ``[3, H, W]`` in [0, 1] to pixels, and NaN to its grey."""
    colours = np.moveaxis(y, 0, 2) * 255
    return np.where(np.isnan(colours), palette_of("viridis")[NAN], np.rint(colours)).astype(np.uint8)


def rgb_picture(
    feature_map: LayerOutput,
    norm: str = "signed-robust",
    dpi: int = 300,
    plain: bool = False,
    resample: str = "nearest",
) -> Picture:
    """Draw a map of three channels as red, green and blue, on one scale.

    Args:
        feature_map: ``[3, H, W]``.
        norm: how values become colours; see :func:`yolov5_featviz.arrays.normalize.normalize`. With ``signed``
            and ``signed-robust`` mid-grey is 0.
        dpi, plain, resample: as for :meth:`~yolov5_featviz.draw.heatmap.HeatMap.picture`.

    Raises:
        FeatvizError: invalid argument, or not three channels.
    """
    check_look("gray", dpi)
    check_map(feature_map)
    data = feature_map.values
    if len(data) != 3:
        raise FeatvizError(f"{feature_map.title} has {len(data)} channels, not the three of a colour picture")
    scaled, limits = normalize(data.reshape(1, 3, -1), norm)
    pixels = enlarged(scaled.reshape(data.shape), dpi, resample, _as_rgb)
    key = legend(norm, limits, data.reshape(1, 3, -1), single=True)
    return panel(pixels, map_title(feature_map, "as RGB"), key, palette_of("gray"), dpi, dpi, plain)
