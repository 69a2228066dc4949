"""Measure and rasterise text."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, FrozenSet, List, NamedTuple, Tuple

import numpy as np

from yolov5_featviz.draw.palette import INK, PAPER, RGB
from yolov5_featviz.text import printable

SEPARATOR = " · "


class Text(NamedTuple):
    """Lettering in a picture: the top left corner of its line in pixels, and how it is set."""

    x: int
    y: int
    text: str
    points: float
    dpi: float
    ink: RGB = (0, 0, 0)
    paper: RGB = (255, 255, 255)


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


@lru_cache(maxsize=256)
def largest(texts: Tuple[str, ...], points: float, dpi: float) -> Tuple[int, int]:
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
