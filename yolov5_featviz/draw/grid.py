"""Draw the channels of a feature map side by side."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from yolov5_featviz.arrays.normalize import check_norm, normalize
from yolov5_featviz.arrays.resample import check_resample
from yolov5_featviz.arrays.resample import resample as resampled
from yolov5_featviz.draw.channels import ChannelSpec, Choice, Ranking, check_map, choose
from yolov5_featviz.draw.lettering import Text, largest, letters, text_size
from yolov5_featviz.draw.page import LEAST_DOTS, body_pixels, channel_words, map_title, sheet, too_small
from yolov5_featviz.draw.palette import ALONE, PAPER, check_look, palette_of, quantise
from yolov5_featviz.draw.picture import Picture, Repeated, lettered
from yolov5_featviz.draw.record import map_record, spans
from yolov5_featviz.draw.scale import Legend, end_words, ends_in_padding, legend
from yolov5_featviz.draw.widths import width_of
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.layer_output import LayerOutput

GRID_INCHES = 6.0  # minimum width of a grid: whole-pixel cells rarely match it exactly
PAGE = 256  # channels per page of a grid


def grid(
    feature_map: LayerOutput,
    channels: Union[ChannelSpec, Choice] = "64",
    norm: str = "channel",
    cmap: str = ALONE,
    dpi: int = 300,
    plain: bool = False,
    resample: str = "nearest",
    page: Optional[int] = None,
    width: Union[float, str, None] = None,
) -> Picture:
    """Draw channels side by side, each value as a square of whole pixels.

    Args:
        feature_map: the map, ``[C, H, W]``.
        channels: which channels; see :func:`yolov5_featviz.draw.channels.choose`. Ranked ones are drawn
            in their order, labelled with rank, number and score.
        norm: how values become colours; see :func:`yolov5_featviz.arrays.normalize.normalize`.
        cmap: name of a matplotlib colour map.
        dpi: pixels per inch. Text keeps its size in points, and the picture is at least six inches
            wide.
        plain: only the cells, without title and channel numbers.
        resample: how a cell is filled; see :func:`yolov5_featviz.arrays.resample.resample`.
        page: draw only this page of 256 channels, or of as many as fit in ``width``, counted from 0.
        width: of the picture, in inches or as a journal's text width; see
            :data:`yolov5_featviz.draw.widths.WIDTHS`. Letters keep their size, cells become smaller, down to
            two pixels a value, then fewer; the title says so. The cells are at most 8.5 inches high. None: at
            least six inches wide.

    Returns:
        The picture. NaN is grey; a constant channel is labelled with its value.

    Raises:
        FeatvizError: invalid argument, an empty map, or one that does not fit in ``width``.
    """
    check_look(cmap, dpi)
    check_norm(norm)
    check_resample(resample)
    check_map(feature_map)
    inches = None if width is None else width_of(width)
    choice = choose(feature_map, channels)
    most = _most_cells(feature_map, choice, dpi, plain, inches) if inches else len(choice.channels)
    count = most if page is None else min(PAGE, most)
    first = (page or 0) * count
    chosen = choice.channels[first : first + count]
    data = feature_map.values
    values = data[chosen]
    scaled, limits = normalize(values, norm, data)

    shown = channel_words(feature_map.channels, choice, chosen)
    if page is not None:
        shown += f", page {page + 1}"
    elif inches and most < len(choice.channels):
        shown += f", more do not fit in {inches:.3g} inches"
    title = map_title(feature_map, shown)
    words = _labels(chosen, values, choice.ranking, first, norm)
    key = legend(norm, limits, values, single=len(chosen) == 1)
    padded, said = ends_in_padding(feature_map, values, norm)
    padding = [k for k, there in zip(chosen, padded) if there]
    picture = mosaic(scaled, chosen, words, title, key.also(said), cmap, dpi, plain, resample, inches)
    how = {"by": choice.ranking and choice.ranking.by, "padding": spans(padding) if padding else None}
    about = map_record(feature_map, "grid", chosen, limits, norm=norm, cmap=cmap, resample=resample, **how)
    return picture.told(about)


def mosaic(
    values: np.ndarray,
    numbers: Sequence[int],
    words: Sequence[str],
    title: str,
    key: Optional[Legend],
    cmap: str,
    dpi: int,
    plain: bool,
    resample: str = "nearest",
    inches: Optional[float] = None,
) -> Picture:
    """Lay out maps ``[n, H, W]`` in [0, 1], or photographs uint8 ``[n, H, W, 3]``, side by side.

    Each has its label from ``words`` above it, unless ``plain``, and its place in the picture's
    ``cells`` under its number. The other arguments are as for :func:`grid`. Raises FeatvizError if they do not fit
    in a width of ``inches``.
    """
    n, height, width = values.shape[:3]
    gap = max(1, round(dpi / 75))
    words = [] if plain else words
    label_w, label_h = largest(tuple(words), 6, dpi) if words else (0, -gap)
    label_h += gap
    if inches is None:
        least = 0 if plain else round(GRID_INCHES * dpi)
        columns, scale = _layout(n, height, width, label_h, label_w, gap, round(GRID_INCHES * dpi))
    else:
        tall, wide = body_pixels(inches, dpi)
        least = 0 if plain else wide + gap
        columns, scale = _layout_within(n, height, width, label_h, label_w, gap, tall, wide)
        if scale < LEAST_DOTS:
            raise FeatvizError(
                f"{n} maps of {height}×{width} cells do not fit in {inches:.3g} inches with {LEAST_DOTS} dots a cell "
                f"at {dpi} dpi: take fewer channels, a larger width, or more dpi"
            )
    rows = -(-n // columns)
    cell_h, cell_w = height * scale, width * scale
    step_y, step_x = cell_h + label_h + gap, max(cell_w, label_w) + gap
    colours = palette_of(cmap) if values.ndim == 4 else None
    codes, repeats = _enlarged(values, scale, resample)
    # Each row of a map once, and one for the gap below it.
    times = np.array([1] * label_h + [repeats] * codes.shape[1] + [gap])
    canvas, top, texts = sheet(
        rows * len(times), max(columns * step_x, least), title, key, dpi, plain, colours, inches is not None
    )
    lettered(Picture(canvas, palette_of(cmap), dpi, texts=texts))
    strips = _strips(tuple(words), columns, step_x, dpi) if words and colours is None else ()
    for row in range(rows):
        part = codes[row * columns : (row + 1) * columns].repeat(repeats, axis=2)
        y = top + row * len(times)
        body = canvas[y + label_h : y + label_h + codes.shape[1], gap : gap + len(part) * step_x]
        body.reshape(-1, len(part), step_x, *codes.shape[3:])[:, :, :cell_w] = np.moveaxis(part, 1, 0)
        for strip in strips[row : row + 1]:
            canvas[y : y + len(strip), gap : gap + columns * step_x] = strip
    pixels: Any = Repeated(canvas, np.concatenate([np.ones(top, int), *[times] * rows]))

    corners = [(gap + i % columns * step_x, top + i // columns * step_y) for i in range(n)]
    cells = {number: (x, y + label_h, cell_w, cell_h) for number, (x, y) in zip(numbers, corners)}
    texts += [Text(x, y, word, 6, dpi) for word, (x, y) in zip(words, corners)]
    picture = Picture(pixels, palette_of(cmap), dpi, title, cells, texts)
    return lettered(picture) if words and colours is not None else picture


def _enlarged(values: np.ndarray, scale: int, resample: str) -> Tuple[np.ndarray, int]:
    """Return maps as palette codes, or photographs as they are, and the repeat count of their rows and columns."""
    if values.ndim == 4:
        return values, scale
    if resample == "nearest":
        return quantise(values), scale
    _, height, width = values.shape
    return quantise(resampled(values, (height * scale, width * scale), resample).clip(0, 1)), 1


def grids(
    feature_map: LayerOutput,
    channels: Union[ChannelSpec, Choice] = "64",
    dpi: int = 300,
    plain: bool = False,
    width: Union[float, str, None] = None,
    **options: Any,
) -> Iterator[Picture]:
    """Draw as :func:`grid` on pages of at most 256 channels each, or as many as fit, one after the other."""
    check_map(feature_map)
    choice = choose(feature_map, channels)
    per_page = PAGE if width is None else min(PAGE, _most_cells(feature_map, choice, dpi, plain, width_of(width)))
    pages = -(-len(choice.channels) // per_page)
    for page in range(pages):
        number = page if pages > 1 else None
        yield grid(feature_map, choice, page=number, dpi=dpi, plain=plain, width=width, **options)


def _most_cells(feature_map: LayerOutput, choice: Choice, dpi: int, plain: bool, inches: float) -> int:
    """Return how many of the chosen channels fit on a page. Raises FeatvizError if none does."""
    height, width = feature_map.size
    gap = max(1, round(dpi / 75))
    words = [] if plain else _labels(choice.channels, feature_map.values[choice.channels], choice.ranking, 0, "zero")
    label_w, label_h = largest(tuple(words), 6, dpi) if words else (0, -gap)
    tall, wide = body_pixels(inches, dpi)
    columns = (wide + gap) // (max(LEAST_DOTS * width, label_w) + gap)
    rows = (tall + gap) // (LEAST_DOTS * height + label_h + 2 * gap)
    if not columns * rows:
        raise too_small(height, width, inches, dpi)
    return min(len(choice.channels), columns * rows)


def _shape_cost(n: int, columns: int, total_w: float, total_h: float) -> float:
    """Return the cost of a layout: 0 between square and 16:9 with a full last row."""
    aspect = total_w / total_h
    shape = 2 * math.log(1 / aspect) if aspect < 1 else max(0.0, math.log(aspect * 9 / 16))
    return shape + 6 * max(0.0, (-n % columns) / columns - 0.05)


@lru_cache(maxsize=256)
def _layout(n: int, height: int, width: int, label_h: int, label_w: int, gap: int, target: int) -> Tuple[int, int]:
    """Choose columns for ``n`` cells and pixels per value: between square and 16:9 as a whole, the last row full.

    At least as wide as ``target``, unless the height would exceed 1.5 times that.
    """

    def at(columns: int) -> Tuple[float, int]:
        rows = -(-n // columns)
        across = (target / columns - gap) / width
        down = (1.5 * target / rows - gap - label_h) / height
        scale = max(1, math.ceil(min(across, down)))
        total_w = columns * (max(width * scale, label_w) + gap)
        total_h = rows * (height * scale + label_h + gap)
        small = max(0.0, math.log(target / 4 / (width * scale))) / 2
        return _shape_cost(n, columns, total_w, total_h) + small + max(0.0, math.log(total_w / target)), scale

    columns = min(range(1, n + 1), key=lambda columns: at(columns)[0])
    return columns, at(columns)[1]


@lru_cache(maxsize=256)
def _layout_within(
    n: int, height: int, width: int, label_h: int, label_w: int, gap: int, tall: int, wide: int
) -> Tuple[int, int]:
    """Choose columns for ``n`` cells and pixels per value so that they fit in ``tall`` by ``wide`` pixels.

    The shape as in :func:`_layout`, with cells of a quarter of the width or more if possible. Pixels per value
    are less than two if the cells do not fit.
    """

    def at(columns: int) -> Tuple[float, int]:
        rows = -(-n // columns)
        step = (wide + gap) // columns - gap
        scale = min(step // width, ((tall + gap) // rows - gap - label_h) // height)
        if scale < LEAST_DOTS or label_w > step:
            return math.inf, 0
        total_w = columns * (max(width * scale, label_w) + gap)
        total_h = rows * (height * scale + label_h + gap)
        small = max(0.0, math.log(wide / 4 / (width * scale))) / 2
        unused = 3 * math.log((wide + gap) / total_w)
        return _shape_cost(n, columns, total_w, total_h) + small + unused, scale

    columns = min(range(1, n + 1), key=lambda columns: at(columns)[0])
    return columns, at(columns)[1]


@lru_cache(maxsize=16)
def _strips(words: Tuple[str, ...], columns: int, step: int, dpi: float) -> np.ndarray:
    """Return the labels of cells ``step`` pixels apart, row by row, uint8 ``[rows, height, columns * step]``.

    Cached, because they are the same for each image.
    """
    strips = np.full((-(-len(words) // columns), text_size("", 6, dpi)[1], columns * step), PAPER, np.uint8)
    for i, word in enumerate(words):
        block = letters(word, 6, dpi)
        x = i % columns * step
        strips[i // columns, :, x : x + block.shape[1]] = block
    strips.setflags(write=False)
    return strips


def _labels(chosen: Sequence[int], values: np.ndarray, ranking: Optional[Ranking], first: int, norm: str) -> List[str]:
    """Return each channel's number, with rank and score if it was ranked, else with its value if it is constant.

    On a scale from 0, a channel without a positive value is said to have none.
    """
    if ranking is not None:
        scores = ranking.scores[ranking.by]
        words = end_words(*(scores[channel] for channel in chosen))
        return [f"#{first + i}  ch {channel}  {score}" for i, (channel, score) in enumerate(zip(chosen, words), 1)]
    flat = values.reshape(len(values), -1)
    start = flat[:, :1]

    def same(x: np.ndarray, y: np.ndarray) -> Any:
        return (x == y) | (np.isnan(x) & np.isnan(y))

    alike: np.ndarray = same(flat[:, -1:], start).all(axis=1)
    alike[alike] = same(flat[alike], start[alike]).all(axis=1)
    dark = values.max(axis=(1, 2)) <= 0 if norm == "zero" else np.zeros(len(values), bool)
    return [
        f"{channel} = {end_words(value)[0]}" if constant else f"{channel} ≤ 0" if none else str(channel)
        for channel, constant, none, value in zip(chosen, alike, dark, start[:, 0])
    ]
