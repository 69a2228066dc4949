"""Feature maps to pictures. Nothing here touches a file, and nothing here uses pyplot's state.

A picture of values is kept as it will be stored: one byte a pixel, an index into a palette of 256
colours. Most of the palette is the colour map; the rest are the greys of paper and ink. So a value
goes through one array operation to its pixel, the file is a third the size of an RGB one, and
whoever reads the file back gets the values back. Pictures that hold a photograph are RGB.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from yolov5_featviz.about import facts
from yolov5_featviz.channels import ChannelSpec, Choice, Ranking, choose
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.normalize import NORMS, check_norm, normalize
from yolov5_featviz.resample import check_resample
from yolov5_featviz.resample import resample as resampled
from yolov5_featviz.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from yolov5_featviz.capture import FeatureMap

COLOURS = 248  # palette entries of the colour map; 0 is the lowest value, 247 the highest
PAPER, INK = 248, 255  # the greys between them smooth the letters
NAN = 251  # the grey of cells that hold no number

GRID_INCHES = 6.0  # a grid is at least this wide: whole-pixel cells rarely hit it exactly
PANEL_INCHES = 3.3  # and a single map this
PAGE = 256  # channels on one page of a grid
SEPARATOR = " · "

RGB = Tuple[int, int, int]


class Text(NamedTuple):
    """Lettering in a picture: the top left corner of its line in pixels, and how it is set."""

    x: int
    y: int
    text: str
    points: float
    dpi: float
    ink: RGB = (0, 0, 0)
    paper: RGB = (255, 255, 255)


class Legend(NamedTuple):
    """What the two ends of the colour scale mean, and for what they hold."""

    low: str
    high: str
    scope: str = ""


class Repeated(NamedTuple):
    """Pixels whose rows repeat: ``rows``, ``[n, W]`` or ``[n, W, 3]``, and how many ``times`` each comes, ``[n]``."""

    rows: np.ndarray
    times: np.ndarray


class _Pixels:
    """The pixels of a picture, made from rows that repeat when somebody asks for them; a PNG needs only the rows."""

    def __get__(self, picture: Any, owner: Any = None) -> Any:
        if picture is None:
            return self
        found = picture.__dict__["_pixels"]
        if isinstance(found, Repeated):
            found = picture.__dict__["_pixels"] = np.repeat(found.rows, found.times, axis=0)
        return found

    def __set__(self, picture: Any, value: Union[np.ndarray, Repeated]) -> None:
        picture.__dict__["_pixels"] = value


@dataclass(frozen=True, eq=False)
class Picture:
    """A finished picture.

    Attributes:
        pixels: uint8, ``[height, width]``, indices into ``palette``, or ``[height, width, 3]``, RGB.
        palette: uint8 ``[256, 3]``, RGB.
        dpi: pixels an inch, written into the file.
        title: what the picture shows, in words.
        cells: where each channel was drawn: channel -> ``(x, y, width, height)`` in pixels.
        texts: the lettering that is in the pixels, for formats that keep text as text.
        about: how it was made, for its file; see :func:`yolov5_featviz.about.facts`.
    """

    pixels: np.ndarray
    palette: np.ndarray
    dpi: int
    title: str = ""
    cells: Dict[int, Tuple[int, int, int, int]] = field(default_factory=dict)
    texts: Sequence[Text] = ()
    about: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", printable(self.title))
        clean = ((text, printable(text.text)) for text in self.texts)
        texts = [text if words is text.text else text._replace(text=words) for text, words in clean]
        object.__setattr__(self, "texts", texts)

    @property
    def repeated(self) -> Repeated:
        """The pixels as rows and how often each comes."""
        found = self.__dict__["_pixels"]
        return found if isinstance(found, Repeated) else Repeated(found, np.ones(len(found), int))

    def told(self, about: Dict[str, Any]) -> Picture:
        """The same picture with another record."""
        picture = copy(self)
        picture.__dict__["about"] = about
        return picture

    def to_rgb(self) -> np.ndarray:
        """The picture as uint8 ``[height, width, 3]``."""
        return self.pixels if self.pixels.ndim == 3 else np.take(self.palette, self.pixels, axis=0)

    def without_text(self) -> Picture:
        """The same picture before the lettering was put in."""
        pixels = self.pixels.copy()
        for text in self.texts:
            width, height = text_size(text.text, text.points, text.dpi)
            blank = PAPER if pixels.ndim == 2 else text.paper
            pixels[text.y : text.y + height, text.x : text.x + width] = blank
        return replace(self, pixels=pixels, texts=())

    def encode(self, format: str, dpi: Optional[int] = None) -> bytes:
        """The picture as a file of one of :data:`yolov5_featviz.formats.FORMATS`.

        ``dpi`` says how large the same pixels are to be printed, if not as large as they were laid
        out for. Raises FeatvizError for another format.
        """
        from yolov5_featviz.formats import FORMATS, check_format

        check_format(format)
        return FORMATS[format](self, dpi or self.dpi)

    def to_png(self, dpi: Optional[int] = None) -> bytes:
        """The picture as a PNG file, with its dpi (or another) and its title inside."""
        return self.encode("png", dpi)

    def save(self, path: str | Path, dpi: Optional[int] = None) -> None:
        """Write a file, whole or not at all, in the format that its ending names.

        ``dpi`` as in :meth:`encode`. Raises FeatvizError for another ending, OSError if the disk
        says no.
        """
        from yolov5_featviz.formats import format_of
        from yolov5_featviz.save import write

        write(path, self.encode(format_of(path), dpi))

    def _repr_png_(self) -> bytes:
        return self.to_png()


Picture.pixels = _Pixels()  # type: ignore[assignment]


def grid(
    feature_map: FeatureMap,
    channels: Union[ChannelSpec, Choice] = "64",
    norm: str = "channel",
    cmap: str = "viridis",
    dpi: int = 300,
    plain: bool = False,
    resample: str = "nearest",
    page: Optional[int] = None,
) -> Picture:
    """Draw channels side by side, each value as a square of whole pixels.

    Args:
        feature_map: the map, ``[C, H, W]``.
        channels: which; see :func:`yolov5_featviz.channels.choose`. Those chosen as the best stand
            in their order, with rank, number and score above.
        norm: how values become colours; see :func:`yolov5_featviz.normalize.normalize`.
        cmap: name of a matplotlib colour map.
        dpi: pixels an inch. Lettering keeps its size in points, and the picture comes out at
            least six inches wide.
        plain: only the cells, without title and channel numbers.
        resample: how a cell is filled; see :func:`yolov5_featviz.resample.resample`.
        page: only the first, second... 256 of the channels, counted from 0.

    Returns:
        The picture. NaN is grey; a channel that holds one single value says which.

    Raises:
        FeatvizError: one of the arguments is not understood, or the map has no pixels.
    """
    check_look(cmap, dpi)
    check_norm(norm)
    check_resample(resample)
    check_map(feature_map)
    choice = choose(feature_map, channels)
    first = 0 if page is None else page * PAGE
    chosen = choice.channels[first : None if page is None else first + PAGE]
    data = feature_map.data.float().numpy()
    values = data[chosen]
    scaled, limits = normalize(values, norm, data)

    shown = channel_words(feature_map.channels, choice, chosen)
    title = describe(feature_map, shown if page is None else f"{shown}, page {page + 1}")
    words = _labels(chosen, values, choice.ranking, first)
    picture = mosaic(scaled, chosen, words, title, legend(norm, limits), cmap, dpi, plain, resample)
    ranked = choice.ranking and choice.ranking.by
    about = facts(feature_map, "grid", chosen, limits, by=ranked, norm=norm, cmap=cmap, resample=resample)
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
) -> Picture:
    """Lay out maps ``[n, H, W]`` in [0, 1], or photographs uint8 ``[n, H, W, 3]``, side by side.

    Each carries its ``words`` above it, unless ``plain``, and is found in the picture's ``cells`` by
    its number. The other arguments are as for :func:`grid`.
    """
    n, height, width = values.shape[:3]
    gap = max(1, round(dpi / 75))
    words = [] if plain else words
    label_w, label_h = _largest(tuple(words), 6, dpi) if words else (0, -gap)
    label_h += gap
    columns, scale = _layout(n, height, width, label_h, label_w, gap, round(GRID_INCHES * dpi))
    rows = -(-n // columns)
    cell_h, cell_w = height * scale, width * scale
    step_y, step_x = cell_h + label_h + gap, max(cell_w, label_w) + gap
    least = 0 if plain else round(GRID_INCHES * dpi)
    colours = palette_of(cmap) if values.ndim == 4 else None

    if values.ndim == 4:
        codes = values
    elif resample == "nearest":
        codes = quantise(values)
    else:
        codes = quantise(resampled(values, (cell_h, cell_w), resample).clip(0, 1))
        height, scale = cell_h, 1
    # Each row of a map once, and one for the gap below it.
    times = np.array([1] * label_h + [scale] * height + [gap])
    canvas, top, texts = sheet(rows * len(times), max(columns * step_x, least), title, key, dpi, plain, colours)
    lettered(Picture(canvas, palette_of(cmap), dpi, texts=texts))
    strips = _strips(tuple(words), columns, step_x, dpi) if words and colours is None else ()
    for row in range(rows):
        part = codes[row * columns : (row + 1) * columns].repeat(scale, axis=2)
        y = top + row * len(times)
        body = canvas[y + label_h : y + label_h + height, gap : gap + len(part) * step_x]
        body.reshape(height, len(part), step_x, *codes.shape[3:])[:, :, :cell_w] = np.moveaxis(part, 1, 0)
        for strip in strips[row : row + 1]:
            canvas[y : y + len(strip), gap : gap + columns * step_x] = strip
    pixels: Any = Repeated(canvas, np.concatenate([np.ones(top, int), *[times] * rows]))

    cells = {}
    for i, number in enumerate(numbers):
        y, x = top + i // columns * step_y, gap + i % columns * step_x
        cells[number] = (x, y + label_h, cell_w, cell_h)
        if words:
            texts.append(Text(x, y, words[i], 6, dpi))
    picture = Picture(pixels, palette_of(cmap), dpi, title, cells, texts)
    return lettered(picture) if words and colours is not None else picture


def grids(feature_map: FeatureMap, channels: Union[ChannelSpec, Choice] = "64", **options: Any) -> Iterator[Picture]:
    """As :func:`grid`, but on pages of at most 256 channels each, one after the other."""
    check_map(feature_map)
    choice = choose(feature_map, channels)
    pages = -(-len(choice.channels) // PAGE)
    for page in range(pages):
        yield grid(feature_map, choice, page=page if pages > 1 else None, **options)


def check_look(cmap: str, dpi: int) -> None:
    """Raise FeatvizError if there is no such colour map, or no picture to be made at that many dots an inch."""
    palette_of(cmap)
    if not 10 <= dpi <= 2400:
        raise FeatvizError(f"dpi {dpi} is out of range: take 10 to 2400, 300 for print")


def check_map(feature_map: FeatureMap) -> None:
    """Raise FeatvizError if there is nothing in the map to draw."""
    if 0 in feature_map.data.shape:
        raise FeatvizError(f"{feature_map.layer.title} put out an empty map, {list(feature_map.data.shape)}")


def describe(feature_map: FeatureMap, shown: str) -> str:
    """One line: image, layer, type, what is shown of it, size and stride."""
    layer = feature_map.layer
    _, height, width = feature_map.data.shape
    name = f"Layer {layer.name}" if layer.name[:1].isdigit() else layer.name
    parts = [name, layer.type, shown, f"{height}×{width}"]
    if feature_map.level is not None:
        parts.insert(2, f"level {feature_map.level}")
    if feature_map.call is not None:
        parts.insert(2, f"call {feature_map.call}")
    if feature_map.stride is not None:
        down, across = (f"{s:.3g}" for s in feature_map.stride)
        parts.append(f"stride {down}" if down == across else f"stride {down}×{across}")
    if feature_map.image:
        parts.insert(0, feature_map.image)
    return SEPARATOR.join(parts)


def channel_words(count: int, choice: Choice, chosen: Optional[Sequence[int]] = None) -> str:
    """Which of ``count`` channels are shown: ``64 channels``, ``top 16 of 64 channels by contrast``."""
    n = len(choice.channels if chosen is None else chosen)
    if choice.ranking is not None:
        by = choice.ranking.note or f"by {choice.ranking.by}"
        return f"top {len(choice.channels)} of {count} channels {by}"
    if count == 1:
        return "1 channel"
    return f"{count} channels" if n == count else f"{n} of {count} channels"


def legend(norm: str, limits: np.ndarray) -> Legend:
    """What the ends of the colour scale mean in a picture of several channels."""
    kind = NORMS[norm]
    low, high = kind.ends or (f"{limits[0, 0]:.3g}", f"{limits[0, 1]:.3g}")
    return Legend(low, high, kind.scope)


def quantise(y: np.ndarray) -> np.ndarray:
    """Values in [0, 1] to palette indices; NaN to its grey."""
    scaled = y * np.float32(COLOURS - 1)
    scaled += np.float32(0.5)
    missing = np.isnan(scaled)
    if missing.any():
        scaled[missing] = NAN
    codes: np.ndarray = scaled.astype(np.uint8)
    return codes


def sheet(
    height: int,
    width: int,
    title: str,
    key: Optional[Legend],
    dpi: float,
    plain: bool,
    colours: Optional[np.ndarray] = None,
) -> Tuple[np.ndarray, int, List[Text]]:
    """An empty page for a body of ``height`` and ``width``, under a head with title and colour scale.

    Returns:
        ``(canvas, top, texts)``: palette indices, ``[head + body, margin + width]``, or if ``colours``
        is a palette, RGB; the first row of the body; and the lettering of the head, which is not in
        the canvas yet.
    """
    gap = max(1, round(dpi / 75))
    head, texts = _head(title, key, width - gap, dpi) if not plain else (np.empty((0, 0), np.uint8), [])
    top = gap if plain else head.shape[0] + 2 * gap
    wide = -(-(gap + width) // 8) * 8  # for formats.filtered, which compares eight pixels at a time
    canvas = np.full((top + height, wide) if colours is None else (top + height, wide, 3), PAPER, np.uint8)
    if colours is not None:
        canvas[...] = colours[PAPER]
    canvas[gap : gap + head.shape[0], gap : gap + head.shape[1]] = head if colours is None else colours[head]
    return canvas, top, [text._replace(x=text.x + gap, y=text.y + gap) for text in texts]


def lettered(picture: Picture) -> Picture:
    """Put the picture's texts into its pixels, in place."""
    pixels = picture.pixels
    for text in picture.texts:
        block = letters(text.text, text.points, text.dpi)
        height, width = block.shape
        place = pixels[text.y : text.y + height, text.x : text.x + width]
        block = block[: place.shape[0], : place.shape[1]]
        if pixels.ndim == 2:
            place[...] = block
        else:
            shades = np.linspace(text.paper, text.ink, INK - PAPER + 1).round().astype(np.uint8)
            place[...] = shades[block - PAPER]
    return picture


@lru_cache(maxsize=256)
def _layout(n: int, height: int, width: int, label_h: int, label_w: int, gap: int, target: int) -> Tuple[int, int]:
    """Columns for ``n`` cells and pixels to a value, between square and 16:9 as a whole, with few places left over.

    As wide as ``target`` at least, unless that made it more than half as high again.
    """

    def at(columns: int) -> Tuple[float, int]:
        rows = -(-n // columns)
        across = (target / columns - gap) / width
        down = (1.5 * target / rows - gap - label_h) / height
        scale = max(1, math.ceil(min(across, down)))
        total_w = columns * (max(width * scale, label_w) + gap)
        total_h = rows * (height * scale + label_h + gap)
        aspect = total_w / total_h
        shape = math.log(1 / aspect) if aspect < 1 else max(0.0, math.log(aspect * 9 / 16))
        return shape + (rows * columns - n) / n + max(0.0, math.log(total_w / target)), scale

    columns = min(range(1, n + 1), key=lambda columns: at(columns)[0])
    return columns, at(columns)[1]


@lru_cache(maxsize=16)
def palette_of(cmap: str) -> np.ndarray:
    """The 256 colours of a picture: a matplotlib colour map's, then the greys of paper and ink, ``[256, 3]``."""
    import matplotlib.cm

    # matplotlib.colormaps came with 3.5, and get_cmap left with 3.9
    library: Any = matplotlib
    find = library.colormaps.__getitem__ if hasattr(library, "colormaps") else library.cm.get_cmap
    try:
        colours = find(cmap)
    except (KeyError, ValueError):
        raise FeatvizError(f"no colour map {cmap!r}: take one of matplotlib's, such as viridis, gray or jet") from None
    palette = np.empty((256, 3), np.uint8)
    table = colours(np.linspace(0, 1, colours.N))[:, :3] * 255
    if colours.N < COLOURS:  # a map of few colours keeps its steps
        table = colours(np.linspace(0, 1, COLOURS))[:, :3] * 255
    at = np.linspace(0, len(table) - 1, COLOURS)
    palette[:COLOURS] = np.stack([np.interp(at, np.arange(len(table)), c) for c in table.T], axis=1).round()
    palette[PAPER:] = np.linspace(255, 0, 256 - COLOURS).round()[:, None]
    palette.setflags(write=False)
    return palette


@lru_cache(maxsize=32)
def _font(pixels: int, file: str) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(file, pixels)


@lru_cache(maxsize=4096)
def font_file(text: str = "") -> str:
    """The font of lettering: the one that comes with matplotlib; where that lacks a letter, one that is installed."""
    from matplotlib import get_data_path

    own = f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    wanted = {ord(letter) for letter in text if not letter.isspace()}
    if text.isascii() or wanted <= _letters_of(own):
        return own
    from matplotlib.font_manager import fontManager

    # the font of last resort has a frame for each letter there is, and no letters
    fonts = [font for font in fontManager.ttflist if font.style == "normal" and "Last Resort" not in font.name]
    files = (entry.fname for entry in sorted(fonts, key=lambda entry: (entry.weight != 400, entry.name, entry.fname)))
    return next((file for file in files if wanted <= _letters_of(file)), own)


@lru_cache(maxsize=None)
def _letters_of(file: str) -> FrozenSet[int]:
    from matplotlib.font_manager import get_font

    try:
        return frozenset(get_font(file).get_charmap())
    except (OSError, RuntimeError):  # it is gone, or damaged
        return frozenset()


def letters(text: str, points: float, dpi: float) -> np.ndarray:
    """``text`` as palette indices from ``PAPER`` to ``INK``, ``[line height, width]``."""
    # part by part, since of a title most parts come again and again
    if SEPARATOR not in text:
        return _letters(text, points, dpi)
    return np.hstack([_letters(part, points, dpi) for part in parts(text)])


def text_size(text: str, points: float, dpi: float) -> Tuple[int, int]:
    """Width and height of a line in pixels."""
    sizes = [_text_size(part, points, dpi) for part in parts(text)]
    return sum(width for width, _ in sizes), sizes[0][1]


@lru_cache(maxsize=16)
def _strips(words: Tuple[str, ...], columns: int, step: int, dpi: float) -> np.ndarray:
    """The labels of cells ``step`` pixels apart, row by row, uint8 ``[rows, height, columns * step]``.

    They are the same in each picture of a layer, and come again for each image.
    """
    strips = np.full((-(-len(words) // columns), text_size("", 6, dpi)[1], columns * step), PAPER, np.uint8)
    for i, word in enumerate(words):
        block = letters(word, 6, dpi)
        x = i % columns * step
        strips[i // columns, :, x : x + block.shape[1]] = block
    strips.setflags(write=False)
    return strips


@lru_cache(maxsize=256)
def _largest(texts: Tuple[str, ...], points: float, dpi: float) -> Tuple[int, int]:
    """Width and height that each of several lines fits in."""
    widths, heights = zip(*(text_size(text, points, dpi) for text in texts))
    return max(widths), max(heights)


def parts(text: str) -> List[str]:
    """A line in parts that are set one after the other, each in a font that has its letters."""
    first, *rest = printable(text).split(SEPARATOR)
    return [first, *(SEPARATOR + part for part in rest)]


@lru_cache(maxsize=1024)
def _letters(text: str, points: float, dpi: float) -> np.ndarray:
    from PIL import Image, ImageDraw

    image = Image.new("L", _text_size(text, points, dpi), 0)
    pixels, file = _pixels(points, dpi), font_file(text)
    place, anchor = ((0, 0), "la") if file == font_file() else ((0, _font(pixels, font_file()).getmetrics()[0]), "ls")
    ImageDraw.Draw(image).text(place, text, fill=255, font=_font(pixels, file), anchor=anchor)
    block: np.ndarray = np.rint(PAPER + np.asarray(image) * ((INK - PAPER) / 255)).astype(np.uint8)
    block.setflags(write=False)
    return block


@lru_cache(maxsize=4096)
def _text_size(text: str, points: float, dpi: float) -> Tuple[int, int]:
    pixels = _pixels(points, dpi)
    return math.ceil(_font(pixels, font_file(text)).getlength(text)) + 1, sum(_font(pixels, font_file()).getmetrics())


def text_metrics(text: str, points: float, dpi: float) -> Tuple[int, int, int]:
    """For whoever sets the text himself: size of the letters, height above the base line, and length, in pixels."""
    size = _pixels(points, dpi)
    return size, _font(size, font_file()).getmetrics()[0], text_size(text, points, dpi)[0]


def _pixels(points: float, dpi: float) -> int:
    return max(6, round(points * dpi / 72))


def _labels(chosen: Sequence[int], values: np.ndarray, ranking: Optional[Ranking], first: int) -> List[str]:
    """The number of each channel, with rank and score if it was ranked, else its value where it holds only one."""
    if ranking is not None:
        scores = ranking.scores[ranking.by]
        return [
            f"#{first + i}  ch {channel}  {scores[channel]:#.3g}".rstrip(".") for i, channel in enumerate(chosen, 1)
        ]
    flat = values.reshape(len(values), -1)
    start = flat[:, :1]

    def same(x: np.ndarray, y: np.ndarray) -> Any:
        return (x == y) | (np.isnan(x) & np.isnan(y))

    alike: np.ndarray = same(flat[:, -1:], start).all(axis=1)
    alike[alike] = same(flat[alike], start[alike]).all(axis=1)
    return [
        f"{channel} = {value:.3g}" if constant else str(channel)
        for channel, constant, value in zip(chosen, alike, start[:, 0])
    ]


def _head(title: str, key: Optional[Legend], width: int, dpi: float) -> Tuple[np.ndarray, List[Text]]:
    """Title and colour scale, ``[height, width]``: on one line if they fit, else on two, else smaller and on more."""
    for points in (8.0, 7.0, 6.0):
        lines = _wrap(title, points, dpi, width)
        scale = _scale_bar(key, points, dpi) if key else []
        scale_w = sum(part_w for part_w, _ in scale)
        beside = text_size(lines[-1], points, dpi)[0] + scale_w + dpi / 7 <= width
        if len(lines) + (not beside) <= 2:
            break
    line_h = text_size("", points, dpi)[1]
    texts = [Text(0, i * line_h, line, points, dpi) for i, line in enumerate(lines)]
    x, y = (width - scale_w, (len(lines) - 1) * line_h) if beside else (0, len(lines) * line_h)
    ramps = []
    for part_w, word in scale:
        if x + part_w > width and x > 0:
            x, y = 0, y + line_h
        if word is None:
            ramps.append((x, y, part_w))
        elif word:
            texts.append(Text(x, y, word, points, dpi))
        x += part_w
    head = np.full((texts[-1].y + line_h, width), PAPER, np.uint8)
    for x, y, part_w in ramps:
        ramp = np.rint(np.linspace(0, COLOURS - 1, part_w)).astype(np.uint8)[: max(0, width - x)]
        head[y + line_h // 6 : y + line_h - line_h // 6, x : x + len(ramp)] = ramp
    return head, texts


def _scale_bar(key: Legend, points: float, dpi: float) -> List[Tuple[int, Optional[str]]]:
    """The colour scale from left to right, as widths in pixels and words; None is the ramp."""
    space = round(dpi / 20)
    low, high, scope = (text_size(word, points, dpi)[0] for word in (key.low, key.high, key.scope))
    bar = [(low + space, key.low), (round(dpi / 2), None), (space, ""), (high, key.high)]
    return [*bar, (2 * space, ""), (scope, key.scope)] if key.scope else bar


def _wrap(title: str, points: float, dpi: float, width: int) -> List[str]:
    """The parts of a title on as few lines as they fit on."""
    lines: List[str] = []
    for part in title.split(SEPARATOR):
        if lines and text_size(lines[-1] + SEPARATOR + part, points, dpi)[0] <= width:
            lines[-1] += SEPARATOR + part
            continue
        short, keep = part, len(part)
        while keep > 8 and text_size(short, points, dpi)[0] > width:  # a long file name loses its middle
            keep -= 1
            short = f"{part[: keep // 2]}…{part[-(keep // 2) :]}"
        lines.append(short)
    return lines
