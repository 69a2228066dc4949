"""A finished picture: pixels, palette and texts."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from yolov5_featviz.draw.encode import FORMATS, check_format, format_of
from yolov5_featviz.draw.lettering import Text, letters, text_size
from yolov5_featviz.draw.palette import INK, PAPER
from yolov5_featviz.files import write
from yolov5_featviz.text import printable


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
        about: how it was made, for its file; see :func:`yolov5_featviz.draw.record.map_record`.
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
        object.__setattr__(self, "texts", [text._replace(text=printable(text.text)) for text in self.texts])

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
        """The picture as a file of one of :data:`yolov5_featviz.draw.encode.FORMATS`.

        ``dpi`` says how large the same pixels are to be printed, if not as large as they were laid
        out for. Raises FeatvizError for another format.
        """
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
        write(path, self.encode(format_of(path), dpi))

    def _repr_png_(self) -> bytes:
        return self.to_png()


Picture.pixels = _Pixels()  # type: ignore[assignment]


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
