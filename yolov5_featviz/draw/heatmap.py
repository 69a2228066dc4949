"""Reduce a feature map to a heat map, and overlay it on the image."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np

from yolov5_featviz.arrays.array import as_array
from yolov5_featviz.arrays.image import as_rgb
from yolov5_featviz.arrays.normalize import check_norm, normalize, zero_of
from yolov5_featviz.arrays.reduce import REDUCTIONS, check_reduce, reduce_channels
from yolov5_featviz.arrays.resample import check_resample, resample
from yolov5_featviz.draw.annotate import draw_boxes
from yolov5_featviz.draw.channels import ChannelSpec, Choice, check_map, choose
from yolov5_featviz.draw.lettering import Text
from yolov5_featviz.draw.page import LEAST_INCHES, body_pixels, channel_words, enlarged, map_title, panel
from yolov5_featviz.draw.palette import (
    ALONE,
    BLENDS,
    OVER,
    check_look,
    opacities,
    over_grey,
    palette_of,
    quantise,
)
from yolov5_featviz.draw.picture import Picture
from yolov5_featviz.draw.record import map_record
from yolov5_featviz.draw.scale import Legend, ends_in_padding, legend
from yolov5_featviz.draw.widths import width_of
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.layer_output import LayerOutput
from yolov5_featviz.text import printable

ALPHA = 0.8  # default opacity of the largest value over an image
WIDE_INCHES = 6.0  # beyond it lettering grows with the image, since print shrinks it


@dataclass(frozen=True, eq=False)
class HeatMap:
    """One map of a layer, ready to be coloured.

    Attributes:
        values: float32 ``[H, W]`` in [0, 1], or NaN.
        legend: what 0 and 1 mean.
        title: what it shows, in words.
        feature_map: the feature map that it was made from.
        about: how it was made; see :func:`yolov5_featviz.draw.record.map_record`.
        centre: the value that 0 of the layer became; overlays are transparent there.
    """

    values: np.ndarray
    legend: Legend
    title: str
    feature_map: LayerOutput = field(repr=False)
    about: Dict[str, Any] = field(default_factory=dict, repr=False)
    centre: float = 0.0

    def picture(
        self,
        cmap: str = ALONE,
        dpi: int = 300,
        plain: bool = False,
        resample: str = "nearest",
        scale: Optional[int] = None,
        width: Union[float, str, None] = None,
    ) -> Picture:
        """Draw the map alone, each value as ``scale`` by ``scale`` pixels.

        If ``scale`` is None, as large as fits in ``width``; if that is None, too, at least 3.3 inches
        wide or 5 high. The other arguments are as for :meth:`over`.

        Raises:
            FeatvizError: invalid argument, or the map does not fit in ``width`` with two dots a value.
        """
        check_look(cmap, dpi)
        inches = None if width is None else width_of(width)
        codes = enlarged(self.values[None], dpi, resample, lambda y: quantise(y[0]), scale, inches)
        picture = panel(codes, self.title, self.legend, palette_of(cmap), dpi, dpi, plain, inches=inches)
        return picture.told({**self.about, "cmap": cmap, "resample": resample})

    def over(
        self,
        image: Any,
        alpha: float = ALPHA,
        cmap: str = OVER,
        blend: str = "mix",
        boxes: bool = False,
        resample: str = "bilinear",
        dpi: int = 300,
        plain: bool = False,
        desaturate: bool = False,
        width: Union[float, str, None] = None,
    ) -> Picture:
        """Draw the map over the image that it belongs to, without any padding.

        Parts of the image that were cropped before the network keep their colours.

        Args:
            image: the original image, before padding, as a path, array, tensor or PIL image; see
                :func:`yolov5_featviz.arrays.image.as_rgb`. Or, of exactly the size of the network's
                input, that input.
            alpha: opacity of the largest value, in [0, 1].
            cmap: name of a matplotlib colour map.
            blend: ``mix``: with the opacity ``a = alpha * d``, ``d`` the distance of the value from 0 as a
                share of the largest, ``a * heat + (1 - a) * image``, so that
                the image is untouched where the map is 0; ``even``: the same with ``a = alpha`` everywhere; ``add``:
                ``a * heat + image``, clipped at 255, hides the heat where the image is bright.
            boxes: draw the detections, with names and scores.
            resample: how the map is resized to the image.
            dpi: pixels per inch.
            plain: no captions, and exactly the size of the image.
            desaturate: draw the image in grey.
            width: of the picture, in inches or as a journal's text width, such as ``ieee-column``; see
                :data:`yolov5_featviz.draw.widths.WIDTHS`. None: the size of the image in pixels, or a whole
                multiple of it if that is narrower than two inches.

        Raises:
            FeatvizError: invalid argument, an image that cannot be read, or boxes that are unknown.
        """
        check_look(cmap, dpi)
        check_alpha(alpha, blend)
        check_resample(resample)
        inches = None if width is None else width_of(width)
        fm = self.feature_map
        if boxes and fm.boxes is None:
            raise FeatvizError("no boxes to draw: none are known for this feature map (its field `boxes`)")
        pixels = as_rgb(image)
        whole = (int(pixels.shape[0]), int(pixels.shape[1]))
        pixels = _sized(pixels, dpi, plain, inches)
        pixels = grey(pixels) if desaturate else pixels
        size = pixels.shape[:2]
        heat = quantise(aligned(self.values, fm, whole, size, resample).clip(0, 1))
        mixed = blended(heat, palette_of(cmap), pixels, alpha, blend, self.centre)
        seen = _seen(fm, whole, size)
        if mixed[seen].size < mixed.size:
            all_over, mixed = mixed, pixels.copy()
            mixed[seen] = all_over[seen]
        letter_dpi = float(dpi) if inches else max(float(dpi), size[1] / WIDE_INCHES)
        labels: List[Text] = []
        notes = ""
        if boxes and fm.boxes is not None:
            drawn = fm.boxes.mapped(_window(fm, whole), size)
            labels, notes = draw_boxes(mixed, drawn, letter_dpi, numbers=not plain)
        how = {"mix": f"opacity 0 to {alpha:.0%}", "even": f"opacity {alpha:.0%}", "add": f"{alpha:.0%} added"}[blend]
        key = self.legend.also(how)
        shown = over_grey(cmap, alpha, blend, self.centre)
        picture = panel(mixed, self.title, key, shown, dpi, letter_dpi, plain, labels, notes, inches)
        laid = {"cmap": cmap, "resample": resample, "alpha": alpha, "blend": blend, "boxes": boxes}
        laid.update({"desaturate": True} if desaturate else {})
        return picture.told({**self.about, **laid})

    def save(self, path: str | Path, **options: Any) -> None:
        """Draw the map alone, with the options of :meth:`picture`, and write it as ``Picture.save`` does."""
        self.picture(**options).save(path)

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> np.ndarray:
        """The ``values``."""
        return as_array(self.values, dtype, copy)

    def __repr__(self) -> str:
        return f"<HeatMap {printable(self.title)}: {list(self.values.shape)}>"

    def _repr_png_(self) -> bytes:
        return self.picture().to_png()

    def _repr_html_(self) -> str:
        return self.picture()._repr_html_()


def heatmap(
    feature_map: LayerOutput,
    reduce: str = "mean",
    channels: Union[ChannelSpec, Choice] = "all",
    norm: Optional[str] = None,
) -> HeatMap:
    """Reduce channels of a layer to one map.

    Args:
        feature_map: the map, ``[C, H, W]``.
        reduce: the reduction; see :func:`yolov5_featviz.arrays.reduce.reduce_channels`.
        channels: which channels; see :func:`yolov5_featviz.draw.channels.choose`.
        norm: normalisation to [0, 1]; see :func:`yolov5_featviz.arrays.normalize.normalize`.
            None for the reduction's default: ``mean``, ``l2`` and ``std`` from 0 to their maximum,
            so that a map without a positive value is 0 throughout, the others from their minimum
            to their maximum.

    Raises:
        FeatvizError: invalid argument, or an empty map.
    """
    check_reduce(reduce)
    check_map(feature_map)
    choice = choose(feature_map, channels)
    data = feature_map.values
    reduced = reduce_channels(data[choice.channels], reduce)
    words = f"{reduce} of {channel_words(feature_map.channels, choice)}"
    by = choice.ranking and choice.ranking.by
    how = {"shows": "heatmap", "channels": choice.channels, "reduce": reduce, "by": by}
    return _heat(feature_map, reduced, reduced, norm or REDUCTIONS[reduce].norm, words, how)


def channel(feature_map: LayerOutput, k: int, norm: str = "channel") -> HeatMap:
    """Return one channel of a layer, by number. Raises FeatvizError if there is no such channel or ``norm``."""
    check_map(feature_map)
    (k,) = choose(feature_map, [k]).channels
    data = feature_map.values
    return _heat(feature_map, data[k], data, norm, f"channel {k}", {"shows": "channel", "channels": [k]})


def _heat(
    feature_map: LayerOutput, values: np.ndarray, whole: np.ndarray, norm: str, words: str, how: Dict[str, Any]
) -> HeatMap:
    check_norm(norm)
    scaled, limits = normalize(values[None], norm, whole.reshape(-1, *values.shape))
    key = legend(norm, limits, values[None], single=True)
    key = key.also(ends_in_padding(feature_map, values[None], norm)[1]) if key.high else key
    about = map_record(feature_map, limits=limits, norm=norm, **how)
    centre = zero_of(norm, float(limits[0, 0]), float(limits[0, 1]))
    return HeatMap(scaled[0], key, map_title(feature_map, words), feature_map, about, centre)


def _sized(pixels: np.ndarray, dpi: int, plain: bool, inches: Optional[float]) -> np.ndarray:
    """Resize an image to a width in inches; without one, enlarge it by a whole factor to two inches for captions."""
    import cv2

    height, width = pixels.shape[:2]
    if inches is None:
        times = 1 if plain else math.ceil(LEAST_INCHES * dpi / width)
        return pixels.repeat(times, axis=0).repeat(times, axis=1) if times > 1 else pixels
    tall, wide = body_pixels(inches, dpi)
    factor = min(wide / width, tall / height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    resized: np.ndarray = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    return resized


def check_alpha(alpha: float, blend: str) -> None:
    """Raise FeatvizError for an ``alpha`` outside [0, 1] or an unknown ``blend``."""
    if not 0 <= alpha <= 1:
        raise FeatvizError(f"alpha {alpha:g} is out of range: take 0 (only the image) to 1")
    if blend not in BLENDS:
        raise FeatvizError(f"no blend {blend!r}: take one of {', '.join(BLENDS)}")


def aligned(
    values: np.ndarray, feature_map: LayerOutput, image: Tuple[int, int], size: Tuple[int, int], how: str = "bilinear"
) -> np.ndarray:
    """Resample a layer's map ``[H, W]`` to ``size``, without the padding around the image.

    Cell ``i`` of a layer of stride ``s`` covers the pixels ``i s`` to ``(i + 1) s`` of the network's
    input, so the padding ends at ``region / s`` cells, fractions included. ``image`` is the size of
    the image itself: if it is that of the input, nothing is cut off.
    """
    return resample(values, size, how, part=feature_map.to_cells(_window(feature_map, image)))


def blended(
    heat: np.ndarray, palette: np.ndarray, image: np.ndarray, alpha: float, blend: str = "mix", centre: float = 0.0
) -> np.ndarray:
    """Blend palette indices ``[H, W]`` with an image ``[H, W, 3]``, saturating at 255; see :meth:`HeatMap.over`."""
    import cv2

    share = opacities(alpha, blend, centre)
    if blend == "add":
        premultiplied = np.rint(palette * share[:, None]).astype(np.uint8)
        added: np.ndarray = cv2.add(cv2.applyColorMap(heat, premultiplied[:, None]), image)
        return added
    colours = cv2.applyColorMap(heat, np.ascontiguousarray(palette[:, None]))
    mixed: np.ndarray = cv2.blendLinear(colours, image, cv2.LUT(heat, share), cv2.LUT(heat, 1 - share))
    return mixed


def grey(image: np.ndarray) -> np.ndarray:
    """Desaturate uint8 RGB ``[H, W, 3]``: its luma (ITU-R BT.601) in each channel."""
    import cv2

    found: np.ndarray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return found


def _window(feature_map: LayerOutput, image: Tuple[int, int]) -> Tuple[float, float, float, float]:
    if feature_map.input_size == image:
        return 0.0, 0.0, float(image[1]), float(image[0])
    return feature_map.window


def _seen(feature_map: LayerOutput, image: Tuple[int, int], size: Tuple[int, int]) -> Tuple[slice, slice]:
    """Return the rows and columns of the image, drawn at ``size``, that are in the network's input."""
    left, top, right, bottom = _window(feature_map, image)
    height, width = feature_map.input_size or (bottom, right)
    down, across = size[0] / (bottom - top), size[1] / (right - left)
    rows = slice(max(0, round(-top * down)), round((height - top) * down))
    return rows, slice(max(0, round(-left * across)), round((width - left) * across))
