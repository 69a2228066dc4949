"""Colour maps as palettes of 256 colours, and the colours of boxes.

A picture of values has one byte per pixel, an index into a palette: most of it is the colour map, the
rest are the greys of paper and text. A value becomes a pixel in one array operation, the file is a third
the size of an RGB one, and values can be read back from it. Pictures with a photograph are RGB.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, List, Tuple
from zlib import crc32

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.errors import FeatvizError

COLOURS = 248  # palette entries of the colour map; 0 is the lowest value, 247 the highest
PAPER, INK = 248, 255  # the greys in between are for antialiasing
NAN = 251  # the grey of NaN
ALONE, OVER = "viridis", "inferno"  # default colour maps of maps alone, and over an image
BLENDS = ("mix", "even", "add")

RGB = Tuple[int, int, int]


def check_look(cmap: str, dpi: int) -> None:
    """Raise FeatvizError for an unknown colour map, or a ``dpi`` out of range."""
    palette_of(cmap)
    if not 10 <= dpi <= 2400:
        raise FeatvizError(f"dpi {dpi} is out of range: take 10 to 2400, 300 for print")


def quantise(y: np.ndarray) -> np.ndarray:
    """Convert values in [0, 1] to palette indices, and NaN to its grey."""
    scaled = y * np.float32(COLOURS - 1)
    scaled += np.float32(0.5)
    missing = np.isnan(scaled)
    if missing.any():
        scaled[missing] = NAN
    codes: np.ndarray = scaled.astype(np.uint8)
    return codes


@lru_cache(maxsize=16)
def palette_of(cmap: str) -> np.ndarray:
    """Return a picture's 256 colours: a matplotlib colour map, then the greys of paper and text, ``[256, 3]``."""
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


def opacities(alpha: float, blend: str = "mix", centre: float = 0.0) -> np.ndarray:
    """Return the opacity of each palette index over an image, float32 ``[256]``.

    ``alpha`` times the distance of the value from ``centre``, as a share of the largest, so that an image is
    untouched where a map is 0; with the blend ``even``, and for NaN, ``alpha`` itself.
    """
    table = np.full(256, alpha, np.float32)
    if blend != "even":
        steps = np.trunc(np.abs(np.arange(COLOURS) - centre * (COLOURS - 1)))  # 0 at both indices next to 0.5
        table[:COLOURS] = alpha * steps / steps.max()
    return table


def over_grey(cmap: str, alpha: float, blend: str = "mix", centre: float = 0.0) -> np.ndarray:
    """Return a palette with the colours of a map as they appear over mid-grey, for the key of an overlay."""
    palette: np.ndarray = palette_of(cmap).copy()
    share = opacities(alpha, blend, centre)[:COLOURS, None]
    below = 128.0 if blend == "add" else 128.0 * (1 - share)
    palette[:COLOURS] = (palette[:COLOURS] * share + below).round().clip(0, 255)
    return palette


# Okabe and Ito's colours, safe for colour-blind readers: vermilion, sky blue, yellow...
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


def box_colours(boxes: Boxes) -> List[RGB]:
    """Return the colour of each box: by its class number, the same in every picture of every run.

    Without class numbers, by a checksum of the class name; the first colour where that is unknown, too.
    """
    if boxes.classes is not None:
        numbers = boxes.classes.tolist()
    else:
        numbers = [crc32(name.encode()) for name in boxes.labels] or [0] * len(boxes)
    return [BOX_COLOURS[number % len(BOX_COLOURS)] for number in numbers]


def is_dark(colour: RGB) -> bool:
    """Return whether text on a colour should be white: by its luma (ITU-R BT.601), out of 255."""
    return bool(np.dot(colour, (0.299, 0.587, 0.114)) < 110)
