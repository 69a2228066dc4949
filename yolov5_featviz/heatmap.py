"""Heat maps: one map for a layer, or one channel of it, alone or over the image; and PCA in colours."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from yolov5_featviz.about import facts, number
from yolov5_featviz.boxes import Boxes
from yolov5_featviz.channels import ChannelSpec, Choice, choose
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.images import as_rgb
from yolov5_featviz.normalize import NORMS, check_norm, normalize
from yolov5_featviz.reduce import REDUCTIONS, check_reduce, pca, reduce_channels
from yolov5_featviz.render import (
    NAN,
    PANEL_INCHES,
    RGB,
    Legend,
    Picture,
    Text,
    channel_words,
    check_look,
    check_map,
    describe,
    lettered,
    palette_of,
    quantise,
    sheet,
    text_size,
)
from yolov5_featviz.resample import check_resample, resample

if TYPE_CHECKING:
    from pathlib import Path

    from yolov5_featviz.capture import FeatureMap

BLENDS = ("mix", "add")
LEAST_INCHES = 2.0  # narrower images are enlarged, or their captions would not fit
WIDE_INCHES = 6.0  # in wider ones the lettering grows with the image, as print shrinks it

# Okabe and Ito's colours, which colour-blind people can tell apart; vermilion, sky blue, yellow...
BOX_COLOURS: List[RGB] = [
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (0, 114, 178),
    (255, 255, 255),
]


@dataclass(frozen=True, eq=False)
class HeatMap:
    """One map of a layer, ready to be coloured.

    Attributes:
        values: float32 ``[H, W]`` in [0, 1]; NaN where there is no number.
        legend: what 0 and 1 mean.
        title: what it shows, in words.
        feature_map: where it comes from.
        about: how it was made; see :func:`yolov5_featviz.about.facts`.
    """

    values: np.ndarray
    legend: Legend
    title: str
    feature_map: FeatureMap = field(repr=False)
    about: Dict[str, Any] = field(default_factory=dict, repr=False)

    def picture(
        self,
        cmap: str = "viridis",
        dpi: int = 300,
        plain: bool = False,
        resample: str = "nearest",
        scale: Optional[int] = None,
    ) -> Picture:
        """Draw it alone, each value as ``scale`` by ``scale`` pixels.

        ``scale`` None makes it at least 3.3 inches wide or 5 high. The other arguments are as for
        :meth:`over`.
        """
        check_look(cmap, dpi)
        codes = _enlarged(self.values[None], dpi, resample, lambda y: quantise(y[0]), scale)
        picture = _panel(codes, self.title, self.legend, cmap, dpi, dpi, plain)
        return picture.told({**self.about, "cmap": cmap, "resample": resample})

    def over(
        self,
        image: Any,
        alpha: float = 0.4,
        cmap: str = "jet",
        blend: str = "mix",
        boxes: bool = False,
        resample: str = "bilinear",
        dpi: int = 300,
        plain: bool = False,
    ) -> Picture:
        """Lay it over the image that it belongs to, from which any padding is cut off first.

        What the network did not see of the image, because it was cropped, stays as it is.

        Args:
            image: the image as it was before it was padded for the network, a path, array, tensor or
                PIL image as in :func:`yolov5_featviz.images.as_rgb`; or, of exactly the size of the
                network's input, that input.
            alpha: strength of the heat, in [0, 1].
            cmap: name of a matplotlib colour map.
            blend: ``mix``: ``alpha * heat + (1 - alpha) * image``. This is the default because a
                value has the same weight wherever it lies; ``add``: ``alpha * heat + image``, held
                below 255, leaves the image its brightness, but hides the heat where that is high.
            boxes: draw the detections, with names and scores.
            resample: how the map is brought to the size of the image.
            dpi: pixels an inch. The picture has the pixels of the image, or if that is narrower than
                two inches, whole multiples of them.
            plain: no captions, and the pixels of the image in any case.

        Raises:
            FeatvizError: an argument is not understood, the image cannot be read, or boxes are asked
                for but not known.
        """
        check_look(cmap, dpi)
        check_alpha(alpha, blend)
        check_resample(resample)
        fm = self.feature_map
        if boxes and fm.boxes is None:
            raise FeatvizError("no boxes to draw: none are known for this feature map (its field `boxes`)")
        pixels = as_rgb(image)
        height, width = pixels.shape[:2]
        times = 1 if plain else math.ceil(LEAST_INCHES * dpi / width)
        pixels = pixels.repeat(times, axis=0).repeat(times, axis=1) if times > 1 else pixels
        size = pixels.shape[:2]
        heat = quantise(aligned(self.values, fm, (height, width), size, resample).clip(0, 1))
        mixed = blended(heat, palette_of(cmap), pixels, alpha, blend)
        seen = _seen(fm, (height, width), size)
        if mixed[seen].size < mixed.size:
            all_over, mixed = mixed, pixels.copy()
            mixed[seen] = all_over[seen]
        letter_dpi = max(float(dpi), size[1] / WIDE_INCHES)
        labels: List[Text] = []
        if boxes and fm.boxes is not None:
            labels = _draw_boxes(mixed, fm.boxes.mapped(_window(fm, (height, width)), size), letter_dpi)
        how = f"{alpha:.0%} {'over' if blend == 'mix' else 'added to'} the image"
        scope = f"{self.legend.scope}, {how}" if self.legend.scope else how
        picture = _panel(mixed, self.title, self.legend._replace(scope=scope), cmap, dpi, letter_dpi, plain, labels)
        laid = {"cmap": cmap, "resample": resample, "alpha": alpha, "blend": blend, "boxes": boxes}
        return picture.told({**self.about, **laid})

    def save(self, path: str | Path, **options: Any) -> None:
        """Draw it alone, with the options of :meth:`picture`, and write it as ``Picture.save`` does."""
        self.picture(**options).save(path)

    def _repr_png_(self) -> bytes:
        return self.picture().to_png()


def heatmap(
    feature_map: FeatureMap,
    reduce: str = "mean",
    channels: Union[ChannelSpec, Choice] = "all",
    norm: Optional[str] = None,
) -> HeatMap:
    """Reduce channels of a layer to one map.

    Args:
        feature_map: the map, ``[C, H, W]``.
        reduce: how; see :func:`yolov5_featviz.reduce.reduce_channels`.
        channels: of which channels; see :func:`yolov5_featviz.channels.choose`.
        norm: how its values are brought to [0, 1]; see :func:`yolov5_featviz.normalize.normalize`.
            None leaves that to the reduction: ``mean``, ``l2`` and ``std`` go from 0 to their
            maximum, so that a map without a positive value is 0 throughout, the others from their
            minimum to their maximum.

    Raises:
        FeatvizError: one of the arguments is not understood, or the map has no pixels.
    """
    check_reduce(reduce)
    check_map(feature_map)
    choice = choose(feature_map, channels)
    data = feature_map.data.float().numpy()
    reduced = reduce_channels(data[choice.channels], reduce)
    words = f"{reduce} of {channel_words(feature_map.channels, choice)}"
    how = {"shows": "heatmap", "channels": choice.channels, "reduce": reduce}
    return _heat(feature_map, reduced, reduced, norm or REDUCTIONS[reduce].norm, words, how)


def channel(feature_map: FeatureMap, k: int, norm: str = "channel") -> HeatMap:
    """One channel of a layer, by its number. Raises FeatvizError if there is no such channel or ``norm``."""
    check_map(feature_map)
    (k,) = choose(feature_map, [k]).channels
    data = feature_map.data.float().numpy()
    return _heat(feature_map, data[k], data, norm, f"channel {k}", {"shows": "channel", "channels": [k]})


def _heat(
    feature_map: FeatureMap, values: np.ndarray, whole: np.ndarray, norm: str, words: str, how: Dict[str, Any]
) -> HeatMap:
    check_norm(norm)
    scaled, limits = normalize(values[None], norm, whole.reshape(-1, *values.shape))
    low, high = (f"{limit:.3g}" for limit in limits[0])
    if not np.isfinite(limits).all() or norm == "byte":
        low, high = NORMS[norm].ends or (low, high)
    scope = {"robust": "1st to 99th percentile"}.get(norm, NORMS[norm].scope)
    scope = "" if norm in ("channel", "zero") else scope
    about = facts(feature_map, limits=limits, norm=norm, **how)
    return HeatMap(scaled[0], Legend(low, high, scope), describe(feature_map, words), feature_map, about)


def pca_picture(
    feature_map: FeatureMap,
    channels: Union[ChannelSpec, Choice] = "all",
    dpi: int = 300,
    plain: bool = False,
    resample: str = "nearest",
) -> Picture:
    """The three principal components of the channels as red, green and blue.

    See :func:`yolov5_featviz.reduce.pca` for what that means, and :meth:`HeatMap.picture` and
    :func:`heatmap` for the arguments. Cells that hold no number are grey.
    """
    check_look("viridis", dpi)
    check_map(feature_map)
    choice = choose(feature_map, channels)
    rgb, explained = pca(feature_map.data.float().numpy()[choice.channels])
    pixels = _enlarged(np.moveaxis(rgb, 2, 0), dpi, resample, _as_rgb)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(("red", "green", "blue"), explained))
    title = describe(feature_map, f"PCA of {channel_words(feature_map.channels, choice)}")
    picture = _panel(pixels, f"{title} · explained variance: {shares}", None, "viridis", dpi, dpi, plain)
    variance = [number(share) for share in explained]
    return picture.told(facts(feature_map, "pca", choice.channels, variance=variance, resample=resample))


def _as_rgb(y: np.ndarray) -> np.ndarray:
    """``[3, H, W]`` in [0, 1] to pixels; NaN to its grey."""
    colours = np.moveaxis(y, 0, 2) * 255
    return np.where(np.isnan(colours), palette_of("viridis")[NAN], np.rint(colours)).astype(np.uint8)


def rgb_picture(
    feature_map: FeatureMap, norm: str = "signed-robust", dpi: int = 300, plain: bool = False, resample: str = "nearest"
) -> Picture:
    """A map of three channels as red, green and blue, scaled together.

    Args:
        feature_map: ``[3, H, W]``.
        norm: how values become colours; see :func:`yolov5_featviz.normalize.normalize`. By ``signed``
            and ``signed-robust`` mid-grey is 0.
        dpi, plain, resample: as for :meth:`HeatMap.picture`.

    Raises:
        FeatvizError: an argument is not understood, or there are not three channels.
    """
    check_look("gray", dpi)
    check_map(feature_map)
    data = feature_map.data.float().numpy()
    if len(data) != 3:
        raise FeatvizError(f"{feature_map.title} has {len(data)} channels, not the three of a colour picture")
    scaled, limits = normalize(data.reshape(1, 3, -1), norm)
    pixels = _enlarged(scaled.reshape(data.shape), dpi, resample, _as_rgb)
    low, high = (f"{limit:.3g}" for limit in limits[0])
    return _panel(pixels, describe(feature_map, "as RGB"), Legend(low, high), "gray", dpi, dpi, plain)


def check_alpha(alpha: float, blend: str) -> None:
    """Raise FeatvizError for a strength outside [0, 1] or a way of blending that there is not."""
    if not 0 <= alpha <= 1:
        raise FeatvizError(f"alpha {alpha:g} is out of range: take 0 (only the image) to 1")
    if blend not in BLENDS:
        raise FeatvizError(f"no blend {blend!r}: take one of {', '.join(BLENDS)}")


def aligned(
    values: np.ndarray, feature_map: FeatureMap, image: Tuple[int, int], size: Tuple[int, int], how: str = "bilinear"
) -> np.ndarray:
    """A map ``[H, W]`` of a layer brought to ``size``, without the padding around the image.

    Cell ``i`` of a layer of stride ``s`` stands for the pixels ``i s`` to ``(i + 1) s`` of the
    network's input, so the padding ends at ``region / s`` cells, fractions included. ``image`` is
    the size of the image itself: if it is that of the input, nothing is cut off.
    """
    left, top, right, bottom = _window(feature_map, image)
    down, across = feature_map.stride or (1.0, 1.0)
    return resample(values, size, how, part=(left / across, top / down, right / across, bottom / down))


def blended(heat: np.ndarray, palette: np.ndarray, image: np.ndarray, alpha: float, blend: str = "mix") -> np.ndarray:
    """Palette indices ``[H, W]`` over an image ``[H, W, 3]``; see :meth:`HeatMap.over`. uint8, never wrapping."""
    import cv2

    colours = cv2.applyColorMap(heat, np.ascontiguousarray(palette[:, None]))
    mixed: np.ndarray = cv2.addWeighted(colours, alpha, image, 1.0 - alpha if blend == "mix" else 1.0, 0.0)
    return mixed


def _window(feature_map: FeatureMap, image: Tuple[int, int]) -> Tuple[float, float, float, float]:
    if feature_map.input_size == image:
        return 0.0, 0.0, float(image[1]), float(image[0])
    return feature_map.window


def _seen(feature_map: FeatureMap, image: Tuple[int, int], size: Tuple[int, int]) -> Tuple[slice, slice]:
    """Rows and columns of the image, drawn at ``size``, that are in the network's input."""
    left, top, right, bottom = _window(feature_map, image)
    height, width = feature_map.input_size or (bottom, right)
    down, across = size[0] / (bottom - top), size[1] / (right - left)
    rows = slice(max(0, round(-top * down)), round((height - top) * down))
    return rows, slice(max(0, round(-left * across)), round((width - left) * across))


def _enlarged(
    values: np.ndarray, dpi: int, how: str, paint: Callable[[np.ndarray], np.ndarray], scale: Optional[int] = None
) -> np.ndarray:
    """Maps ``[n, H, W]`` as pixels, by a whole factor larger, if None is given to a size fit for print."""
    check_resample(how)
    _, height, width = values.shape
    if scale is None:
        scale = max(1, math.ceil(min(PANEL_INCHES * dpi / width, 1.5 * PANEL_INCHES * dpi / height)))
    elif not (isinstance(scale, int) and scale >= 1):
        raise FeatvizError(f"scale {scale!r}: give how many pixels a value is wide, 1 or more")
    if how == "nearest":
        return paint(values).repeat(scale, axis=1).repeat(scale, axis=0)
    return paint(resample(values, (height * scale, width * scale), how).clip(0, 1))


def _panel(
    body: np.ndarray,
    title: str,
    key: Optional[Legend],
    cmap: str,
    dpi: int,
    letter_dpi: float,
    plain: bool,
    labels: List[Text] = [],  # noqa: B006
) -> Picture:
    """One map or image under a head."""
    height, width = body.shape[:2]
    if plain:
        return lettered(Picture(body, palette_of(cmap), dpi, title, {0: (0, 0, width, height)}, labels))
    gap = max(1, round(letter_dpi / 75))
    colours = palette_of(cmap) if body.ndim == 3 else None
    wide = max(width, round(LEAST_INCHES * dpi)) + gap
    canvas, top, texts = sheet(height + gap, wide, title, key, letter_dpi, False, colours)
    canvas[top : top + height, gap : gap + width] = body
    texts += [text._replace(x=text.x + gap, y=text.y + top) for text in labels]
    return lettered(Picture(canvas, palette_of(cmap), dpi, title, {0: (gap, top, width, height)}, texts))


def _draw_boxes(pixels: np.ndarray, boxes: Boxes, dpi: float) -> List[Text]:
    """Draw boxes into the pixels, with a place for each label, and return the labels."""
    import cv2

    height, width = pixels.shape[:2]
    line = max(1, round(dpi / 96))
    names = sorted(set(boxes.labels))
    colours = [BOX_COLOURS[names.index(name) % len(BOX_COLOURS)] for name in boxes.labels]
    colours = colours or BOX_COLOURS[:1] * len(boxes)
    corners = np.rint(boxes.xyxy).astype(int).tolist()
    for (x0, y0, x1, y1), colour in zip(corners, colours):
        cv2.rectangle(pixels, (x0, y0), (x1, y1), (0, 0, 0), 3 * line)
        cv2.rectangle(pixels, (x0, y0), (x1, y1), colour, line)
    texts: List[Text] = []
    captions = [boxes.caption(i) for i in range(len(boxes))]
    sizes = [tuple(side + 2 * line for side in text_size(words, 6, dpi)) if words else (0, 0) for words in captions]
    for i, (x, y) in enumerate(place_labels(corners, sizes, (height, width))):
        if not captions[i]:
            continue
        w, h = sizes[i]
        pixels[y : y + h, x : x + w] = colours[i]
        dark = np.dot(colours[i], (0.299, 0.587, 0.114)) < 110
        texts.append(Text(x + line, y + line, captions[i], 6, dpi, (255, 255, 255) if dark else (0, 0, 0), colours[i]))
    return texts


def place_labels(
    corners: Sequence[Sequence[float]],
    sizes: Sequence[Tuple[int, ...]],
    picture: Tuple[int, int],
    covered: Sequence[Tuple[int, int, int, int]] = (),
) -> List[Tuple[int, int]]:
    """Left and top edge for the label of each box: above it, else inside, else below, where it covers no other.

    Where all of these are taken it stands at the right edge of its box, else as near as there is room.

    Args:
        corners: left, top, right and bottom edge of the boxes, in pixels.
        sizes: width and height of their labels; (0, 0) for none.
        picture: height and width of the picture, in which all labels stay.
        covered: left and top edge, width and height of what else they must not cover.
    """
    height, width = picture
    found: List[Tuple[int, int]] = []
    taken = list(covered)
    for (x0, y0, x1, y1), (w, h) in zip(corners, sizes):
        left, right = (int(min(max(0, x), max(0, width - w))) for x in (x0, x1 - w))
        tops = [int(y) for y in (y0 - h, y0, y1 - h, y1)]
        tops = [y for y in tops if 0 <= y <= height - h] or [int(min(max(0, y0), max(0, height - h)))]
        places = [(x, y) for x in dict.fromkeys((left, right)) for y in tops]
        beside = [(x, y) for x in (left, right) for _, ty, _, th in taken for y in (ty + th, ty - h)]
        beside += [(x, tops[0]) for tx, _, tw, _ in taken for x in (tx + tw, tx - w)]
        beside = [(x, y) for x, y in beside if 0 <= x <= width - w and 0 <= y <= height - h]
        places += sorted(beside, key=lambda at: abs(at[0] - left) + abs(at[1] - tops[0]))
        free = (
            (x, y)
            for x, y in places
            if not any(x < tx + tw and tx < x + w and y < ty + th and ty < y + h for tx, ty, tw, th in taken)
        )
        found.append(next(free, places[0]))
        if w:
            taken.append((*found[-1], w, h))
    return found
