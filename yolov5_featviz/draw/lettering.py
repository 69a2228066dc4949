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
    """A line of text in a picture: its top left corner in pixels, font size and colours."""

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
    """Return the font for a text: matplotlib's own, or an installed one where that lacks a character."""
    from matplotlib import get_data_path

    own = f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    wanted = {ord(letter) for letter in text if not letter.isspace()}
    if text.isascii() or wanted <= _letters_of(own):
        return own
    from matplotlib.font_manager import fontManager

    # Last Resort fonts have a placeholder for every character
    fonts = [font for font in fontManager.ttflist if font.style == "normal" and "Last Resort" not in font.name]
    files = (entry.fname for entry in sorted(fonts, key=lambda entry: (entry.weight != 400, entry.name, entry.fname)))
    return next((file for file in files if wanted <= _letters_of(file)), own)


@lru_cache(maxsize=None)
def _letters_of(file: str) -> FrozenSet[int]:
    from matplotlib.font_manager import get_font

    try:
        return frozenset(get_font(file).get_charmap())
    except (OSError, RuntimeError):  # missing or damaged
        return frozenset()


def letters(text: str, points: float, dpi: float) -> np.ndarray:
    """Rasterise ``text`` to palette indices from ``PAPER`` to ``INK``, ``[line height, width]``."""
    # in parts, because most parts of a title recur and are cached
    if SEPARATOR not in text:
        return _letters(text, points, dpi)
    return np.hstack([_letters(part, points, dpi) for part in parts(text)])


def text_size(text: str, points: float, dpi: float) -> Tuple[int, int]:
    """Return width and height of a line in pixels."""
    sizes = [_text_size(part, points, dpi) for part in parts(text)]
    return sum(width for width, _ in sizes), sizes[0][1]


@lru_cache(maxsize=256)
def largest(texts: Tuple[str, ...], points: float, dpi: float) -> Tuple[int, int]:
    """Return the width and height that fit each of several lines."""
    widths, heights = zip(*(text_size(text, points, dpi) for text in texts))
    return max(widths), max(heights)


def parts(text: str) -> List[str]:
    """Split a line into parts, each of which is set in a font that has its characters."""
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
    """Return font size, ascent and length of a line in pixels, for formats that keep text as text."""
    size = _pixels(points, dpi)
    return size, _font(size, font_file()).getmetrics()[0], text_size(text, points, dpi)[0]


def _pixels(points: float, dpi: float) -> int:
    return max(6, round(points * dpi / 72))
