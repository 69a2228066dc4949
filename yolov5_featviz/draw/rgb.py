"""Draw three maps as red, green and blue: PCA, and maps of three channels."""

from __future__ import annotations

from typing import Union

import numpy as np

from yolov5_featviz.arrays.normalize import normalize
from yolov5_featviz.arrays.reduce import pca
from yolov5_featviz.draw.channels import ChannelSpec, Choice, check_map, choose
from yolov5_featviz.draw.page import channel_words, enlarged, map_title, panel
from yolov5_featviz.draw.palette import NAN, check_look, palette_of
from yolov5_featviz.draw.picture import Picture
from yolov5_featviz.draw.record import map_record, number
from yolov5_featviz.draw.scale import legend
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.layer_output import LayerOutput


def pca_picture(
    feature_map: LayerOutput,
    channels: Union[ChannelSpec, Choice] = "all",
    dpi: int = 300,
    plain: bool = False,
    resample: str = "nearest",
) -> Picture:
    """Draw the three principal components of the channels as red, green and blue.

    See :func:`yolov5_featviz.arrays.reduce.pca` for the method, and
    :meth:`~yolov5_featviz.draw.heatmap.HeatMap.picture` and :func:`~yolov5_featviz.draw.heatmap.heatmap` for the
    arguments. NaN is grey.
    """
    check_look("viridis", dpi)
    check_map(feature_map)
    choice = choose(feature_map, channels)
    rgb, explained = pca(feature_map.values[choice.channels])
    pixels = enlarged(np.moveaxis(rgb, 2, 0), dpi, resample, _as_rgb)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(("red", "green", "blue"), explained))
    title = map_title(feature_map, f"PCA of {channel_words(feature_map.channels, choice)}")
    picture = panel(pixels, f"{title} · explained variance: {shares}", None, palette_of("gray"), dpi, dpi, plain)
    variance = [number(share) for share in explained]
    return picture.told(map_record(feature_map, "pca", choice.channels, variance=variance, resample=resample))


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
