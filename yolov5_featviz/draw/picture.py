"""A finished picture: pixels, palette and texts."""

from __future__ import annotations

import base64
from copy import copy
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from yolov5_featviz.draw.encode import FORMATS, check_format, format_of
from yolov5_featviz.draw.lettering import Text, letters, text_size
from yolov5_featviz.draw.palette import INK, PAPER
from yolov5_featviz.files import write
from yolov5_featviz.text import printable


class Repeated(NamedTuple):
    """Pixels with repeated rows: ``rows``, ``[n, W]`` or ``[n, W, 3]``, and their repeat counts ``times``, ``[n]``."""

    rows: np.ndarray
    times: np.ndarray


class _Pixels:
    """Descriptor of a picture's pixels, expanded from repeated rows on first access; a PNG needs only the rows."""

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
        dpi: pixels per inch, stored in the file.
        title: what the picture shows, in words.
        cells: where each channel was drawn: channel -> ``(x, y, width, height)`` in pixels.
        texts: the lettering in the pixels, for formats that keep text as text.
        about: how it was made, stored in the file; see :func:`yolov5_featviz.draw.record.map_record`.
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
        """The pixels as rows and their repeat counts."""
        found = self.__dict__["_pixels"]
        return found if isinstance(found, Repeated) else Repeated(found, np.ones(len(found), int))

    def told(self, about: Dict[str, Any]) -> Picture:
        """Return the same picture with another record."""
        picture = copy(self)
        picture.__dict__["about"] = about
        return picture

    def to_rgb(self) -> np.ndarray:
        """Return the picture as uint8 ``[height, width, 3]``."""
        return self.pixels if self.pixels.ndim == 3 else np.take(self.palette, self.pixels, axis=0)

    def without_text(self) -> Picture:
        """Return the same picture without lettering."""
        pixels = self.pixels.copy()
        for text in self.texts:
            width, height = text_size(text.text, text.points, text.dpi)
            blank = PAPER if pixels.ndim == 2 else text.paper
            pixels[text.y : text.y + height, text.x : text.x + width] = blank
        return replace(self, pixels=pixels, texts=())

    def encode(self, format: str, dpi: Optional[int] = None) -> bytes:
        """Encode the picture in one of :data:`yolov5_featviz.draw.encode.FORMATS`.

        ``dpi`` sets the size in print of the same pixels; by default that of the layout. Raises
        FeatvizError for an unsupported format.
        """
        check_format(format)
        return FORMATS[format](self, dpi or self.dpi)

    def to_png(self, dpi: Optional[int] = None) -> bytes:
        """Encode the picture as PNG, with its dpi (or another) and its title."""
        return self.encode("png", dpi)

    def save(self, path: str | Path, dpi: Optional[int] = None) -> None:
        """Write a file atomically, in the format of its extension.

        ``dpi`` as in :meth:`encode`. Raises FeatvizError for an unsupported extension, OSError if writing
        fails.
        """
        write(path, self.encode(format_of(path), dpi))

    def _repr_png_(self) -> bytes:
        return self.to_png()

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.to_png()).decode()
        width = self.repeated.rows.shape[1] * 96 // self.dpi  # CSS has 96 pixels an inch
        title = escape(self.title)
        return f'<img src="data:image/png;base64,{data}" width="{width}" alt="{title}" title="{title}">'


Picture.pixels = _Pixels()  # type: ignore[assignment]


def lettered(picture: Picture) -> Picture:
    """Draw the picture's texts into its pixels, in place."""
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
