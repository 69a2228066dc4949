"""Feature maps to pictures. Nothing here touches a file, and nothing here uses pyplot's state.

A picture is kept as it will be stored: one byte a pixel, an index into a palette of 256 colours.
Most of the palette is the colour map; the rest are the greys of paper and ink. So a value goes
through one array operation to its pixel, the file is a third the size of an RGB one, and whoever
reads the file back gets the values back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

import numpy as np

from yolov5_featviz.channels import ChannelSpec, choose_channels
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.normalize import normalize

if TYPE_CHECKING:
    from pathlib import Path

    from yolov5_featviz.capture import FeatureMap

COLOURS = 248  # palette entries of the colour map; 0 is the lowest value, 247 the highest
PAPER, INK = 248, 255  # the greys between them smooth the letters
NAN = 251  # the grey of cells that hold no number

WIDTH_INCHES = 6.0  # a grid is at least this wide: whole-pixel cells rarely hit it exactly


@dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes:
        pixels: uint8 ``[height, width]``, indices into ``palette``.
        palette: uint8 ``[256, 3]``, RGB.
        dpi: pixels an inch, written into the file.
        title: what the picture shows, in words.
        cells: where each channel was drawn: channel -> ``(x, y, width, height)`` in pixels.
    """

    pixels: np.ndarray
    palette: np.ndarray
    dpi: int
    title: str = ""
    cells: Dict[int, Tuple[int, int, int, int]] = field(default_factory=dict)

    def to_rgb(self) -> np.ndarray:
        """The picture as uint8 ``[height, width, 3]``."""
        return np.take(self.palette, self.pixels, axis=0)

    def to_png(self, dpi: Optional[int] = None) -> bytes:
        """The picture as a PNG file, with its dpi (or another) and its title inside."""
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        image = Image.fromarray(self.pixels)
        image.putpalette(self.palette.tobytes())
        about = PngInfo()
        about.add_text("Software", "yolov5-featviz")
        if self.title:
            about.add_itxt("Title", self.title)
        stream = BytesIO()
        image.save(stream, "png", dpi=(dpi or self.dpi,) * 2, pnginfo=about, compress_level=4)
        return stream.getvalue()

    def save(self, path: str | Path, dpi: Optional[int] = None) -> None:
        """Write a PNG file: whole, or not at all.

        ``dpi`` says how large the same pixels are to be printed, if not as large as they were laid
        out for. Raises FeatvizError for another ending than ``.png``, OSError if the disk says no.
        """
        from yolov5_featviz.save import write

        if not str(path).lower().endswith(".png"):
            raise FeatvizError(f"{str(path)!r} is no .png file, the one format there is for a grid")
        write(path, self.to_png(dpi))

    def _repr_png_(self) -> bytes:
        return self.to_png()


def grid(
    feature_map: FeatureMap,
    channels: ChannelSpec = "64",
    norm: str = "channel",
    cmap: str = "viridis",
    dpi: int = 300,
    plain: bool = False,
) -> Picture:
    """Draw channels side by side, each value as a square of whole pixels.

    Args:
        feature_map: the map, ``[C, H, W]``.
        channels: which; see :func:`yolov5_featviz.channels.choose_channels`.
        norm: how values become colours; see :func:`yolov5_featviz.normalize.normalize`.
        cmap: name of a matplotlib colour map.
        dpi: pixels an inch. Lettering keeps its size in points, and the picture comes out at
            least six inches wide.
        plain: only the cells, without title and channel numbers.

    Returns:
        The picture. NaN is grey; a channel that holds one single value says which.

    Raises:
        FeatvizError: one of the arguments is not understood, or the map has no pixels.
    """
    check_look(cmap, dpi)
    if 0 in feature_map.data.shape:
        raise FeatvizError(f"{feature_map.layer.title} put out an empty map, {list(feature_map.data.shape)}")
    chosen = choose_channels(channels, feature_map.channels)
    palette = _palette(cmap)
    data = feature_map.data.float().numpy()
    values = data[chosen]
    scaled, limits = normalize(values, norm, data)
    codes = np.rint(np.nan_to_num(scaled) * (COLOURS - 1)).astype(np.uint8)
    codes[np.isnan(scaled)] = NAN

    title = describe(feature_map, chosen)
    n, height, width = codes.shape
    columns = _columns(n, height, width)
    rows = -(-n // columns)
    gap = max(1, round(dpi / 75))
    labels = [] if plain else _labels(chosen, values, dpi)
    label_height = 0 if plain else labels[0].shape[0] + gap
    scale = math.ceil(max(WIDTH_INCHES * dpi / columns - gap, max((b.shape[1] for b in labels), default=1)) / width)
    cell_h, cell_w = height * scale, width * scale
    step_y, step_x = cell_h + label_height + gap, cell_w + gap

    head = None if plain else _head(title, _legend(norm, limits), columns * step_x - gap, dpi)
    top = gap + (head.shape[0] + gap if head is not None else 0)
    canvas = np.full((top + rows * step_y, gap + columns * step_x), PAPER, np.uint8)
    if head is not None:
        canvas[gap : gap + head.shape[0], gap : gap + head.shape[1]] = head

    # All cells in one assignment: a view of the canvas as [row, y, column, x], filled up to whole rows.
    filled = np.full((rows * columns, height, width), PAPER, np.uint8)
    filled[:n] = codes
    blocks = filled.reshape(rows, columns, height, width).repeat(scale, axis=2).repeat(scale, axis=3)
    body = canvas[top:, gap:].reshape(rows, step_y, columns, step_x)
    body[:, label_height : label_height + cell_h, :, :cell_w] = blocks.transpose(0, 2, 1, 3)

    cells = {}
    for i, channel in enumerate(chosen):
        y, x = top + i // columns * step_y, gap + i % columns * step_x
        cells[channel] = (x, y + label_height, cell_w, cell_h)
        if labels:
            block = labels[i]
            canvas[y : y + block.shape[0], x : x + block.shape[1]] = block
    return Picture(canvas, palette, dpi, title, cells)


def check_look(cmap: str, dpi: int) -> None:
    """Raise FeatvizError if there is no such colour map, or no picture to be made at that many dots an inch."""
    _palette(cmap)
    if not 10 <= dpi <= 2400:
        raise FeatvizError(f"dpi {dpi} is out of range: take 10 to 2400, 300 for print")


def describe(feature_map: FeatureMap, chosen: List[int]) -> str:
    """One line: layer, type, channels shown, size and stride."""
    layer = feature_map.layer
    count, height, width = feature_map.data.shape
    shown = f"{count} channels" if len(chosen) == count else f"{len(chosen)} of {count} channels"
    parts = [f"Layer {layer.name}", layer.type, shown if count > 1 else "1 channel", f"{height}×{width}"]
    if feature_map.level is not None:
        parts.insert(2, f"level {feature_map.level}")
    if feature_map.stride is not None:
        down, across = (f"{s:.3g}" for s in feature_map.stride)
        parts.append(f"stride {down}" if down == across else f"stride {down}×{across}")
    if feature_map.image:
        parts.insert(0, feature_map.image)
    return " · ".join(parts)


def _columns(n: int, height: int, width: int) -> int:
    """Columns for ``n`` cells: between square and 16:9 as a whole, with few cells left over."""

    def cost(columns: int) -> float:
        rows = -(-n // columns)
        aspect = columns * width / (rows * height)
        shape = math.log(1 / aspect) if aspect < 1 else max(0.0, math.log(aspect * 9 / 16))
        return shape + (rows * columns - n) / n

    return min(range(1, n + 1), key=cost)


@lru_cache(maxsize=16)
def _palette(cmap: str) -> np.ndarray:
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


@lru_cache(maxsize=8)
def _font(pixels: int) -> Any:
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", pixels)


@lru_cache(maxsize=4096)
def _text(text: str, points: float, dpi: int) -> np.ndarray:
    """``text`` as palette indices, ``[line height, width]``."""
    from PIL import Image, ImageDraw

    font = _font(max(6, round(points * dpi / 72)))
    ascent, descent = font.getmetrics()
    measure = ImageDraw.Draw(Image.new("L", (1, 1)))
    width = math.ceil(measure.textlength(text, font=font)) + 1
    image = Image.new("L", (width, ascent + descent), 0)
    ImageDraw.Draw(image).text((0, 0), text, fill=255, font=font)
    block: np.ndarray = np.rint(PAPER + np.asarray(image) * ((INK - PAPER) / 255)).astype(np.uint8)
    block.setflags(write=False)
    return block


def _labels(chosen: List[int], values: np.ndarray, dpi: int) -> List[np.ndarray]:
    """The number of each channel, with its value where it holds only one."""
    flat = values.reshape(len(values), -1)
    first = flat[:, :1]
    alike = ((flat == first) | (np.isnan(flat) & np.isnan(first))).all(axis=1)
    return [
        _text(f"{channel} = {value:.3g}" if constant else str(channel), 6, dpi)
        for channel, constant, value in zip(chosen, alike, first[:, 0])
    ]


def _legend(norm: str, limits: np.ndarray) -> Tuple[str, str, str]:
    """What the two ends of the colour scale mean, and for what it holds."""
    if norm == "channel":
        return "min", "max", "of each channel on its own"
    return f"{limits[0, 0]:.3g}", f"{limits[0, 1]:.3g}", "of the layer"


def _head(title: str, legend: Tuple[str, str, str], width: int, dpi: int) -> np.ndarray:
    """Title and colour scale in the given width: in one line if they fit, else in two, else smaller."""
    ramp_w, space = dpi // 2, dpi // 20
    for points in (8, 7, 6, 5, 4):
        words = _text(title, points, dpi)
        low, high, scope = (_text(text, points, dpi) for text in legend)
        ramp_h = words.shape[0] * 2 // 3
        ramp = np.full((words.shape[0], ramp_w), PAPER, np.uint8)
        above = (words.shape[0] - ramp_h) // 2
        ramp[above : above + ramp_h] = np.rint(np.linspace(0, COLOURS - 1, ramp_w))
        between = np.full((words.shape[0], space), PAPER, np.uint8)
        scale = np.hstack([low, between, ramp, between, high, between, scope])
        if max(words.shape[1], scale.shape[1]) <= width:
            break
    one_line = words.shape[1] + scale.shape[1] + 3 * space <= width
    lines = [words] if one_line else [words, scale]
    head = np.full((words.shape[0] * len(lines), width), PAPER, np.uint8)
    for i, line in enumerate(lines):
        head[i * words.shape[0] :][: words.shape[0], : line.shape[1]] = line[:, :width]
    if one_line:
        head[:, width - scale.shape[1] :] = scale
    return head
