"""Encode a picture as PNG, PDF, SVG, JPEG or TIFF bytes. Each format is one function and one entry of ``FORMATS``."""

from __future__ import annotations

import base64
import logging
import struct
import threading
import zlib
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Optional, Protocol, Sequence, Tuple
from xml.sax.saxutils import escape

import numpy as np

from yolov5_featviz.draw.lettering import Text, font_file, parts, text_metrics, text_size
from yolov5_featviz.draw.record import KEY, dumps
from yolov5_featviz.errors import FeatvizError

try:
    from isal import isal_zlib
except ImportError:  # no wheel for this machine
    isal_zlib = None  # type: ignore[assignment, unused-ignore]

BAND = 1 << 18  # bytes of a picture compressed at a time, to stay in the processor's cache
_PDF = threading.Lock()  # matplotlib's parameters are shared by all threads


class Encodable(Protocol):
    """Interface of a picture to the encoders; see :class:`yolov5_featviz.draw.picture.Picture` for the attributes."""

    @property
    def pixels(self) -> np.ndarray: ...
    @property
    def repeated(self) -> Tuple[np.ndarray, np.ndarray]: ...
    @property
    def palette(self) -> np.ndarray: ...
    @property
    def title(self) -> str: ...
    @property
    def texts(self) -> Sequence[Text]: ...
    @property
    def about(self) -> Dict[str, Any]: ...
    def to_rgb(self) -> np.ndarray: ...
    def without_text(self) -> Encodable: ...


def format_of(path: str | Path) -> str:
    """Return the format that a file's extension names. Raises FeatvizError for an unsupported one."""
    ending = str(path).rsplit(".", 1)[-1].lower() if "." in str(path) else ""
    ending = {"jpeg": "jpg", "tiff": "tif"}.get(ending, ending)
    if ending not in FORMATS:
        raise FeatvizError(f"{str(path)!r} has an unsupported extension: use one of {', '.join(FORMATS)}")
    return ending


def check_format(format: str) -> None:
    """Raise FeatvizError for an unsupported format."""
    if format not in FORMATS:
        raise FeatvizError(f"no format {format!r}: take one of {', '.join(FORMATS)}")


def png(picture: Encodable, dpi: float) -> bytes:
    """Encode as PNG (ISO/IEC 15948), lossless, with an 8-bit palette or 8-bit RGB."""
    rows, times = picture.repeated
    height, width = int(times.sum()), rows.shape[1]
    colour = 3 if rows.ndim == 2 else 2

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))

    per_metre = round(dpi / 0.0254)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)),
            chunk(b"pHYs", struct.pack(">IIB", per_metre, per_metre, 1)),
            chunk(b"tEXt", b"Software\0yolov5-featviz"),
            chunk(b"iTXt", b"Title\0\0\0\0\0" + picture.title.encode()) if picture.title else b"",
            chunk(b"zTXt", KEY.encode() + b"\0\0" + zlib.compress(dumps(picture.about).encode(), 9)),
            chunk(b"PLTE", picture.palette.tobytes()) if colour == 3 else b"",
            chunk(b"IDAT", compressed(rows, times)),
            chunk(b"IEND", b""),
        ]
    )


def filtered(pixels: np.ndarray, times: Optional[np.ndarray] = None) -> np.ndarray:
    """Return the PNG scanlines of uint8 ``[H, W]`` or ``[H, W, 3]``: ``[H, 1 + bytes]``, filter type first.

    ``times``, ``[H]``, is the repeat count of each row; None: once.

    A row equal to the one above is stored as its difference to it, a run of zeros; any other as the
    differences between neighbours, which are runs of zeros in enlarged cells, too.
    """
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    step = rows.shape[1] // width
    words = rows.view(np.uint64) if rows.shape[1] % 8 == 0 else rows  # to compare eight bytes at a time
    new = np.append(True, (words[1:] != words[:-1]).any(axis=1)).nonzero()[0]
    fresh = rows[new]
    changes = np.empty((len(new), 1 + rows.shape[1]), np.uint8)
    changes[:, 0] = 1
    changes[:, 1 : 1 + step] = fresh[:, :step]
    np.subtract(fresh[:, step:], fresh[:, :-step], out=changes[:, 1 + step :])
    if times is not None:
        new, height = (np.cumsum(times) - times)[new], int(times.sum())
    lines = np.zeros((height, 1 + rows.shape[1]), np.uint8)
    lines[:, 0] = 2
    lines[new] = changes
    return lines


def compressed(pixels: np.ndarray, times: Optional[np.ndarray] = None) -> bytes:
    """Compress :func:`filtered` lines to a zlib stream: by ISA-L if installed, several times as fast as zlib."""
    deflate = run_lengths() if isal_zlib is None else isal_zlib.compressobj(2)
    times = np.ones(len(pixels), int) if times is None else times
    ends = np.cumsum(times)
    step = max(1, BAND * len(pixels) // pixels.size)
    stops = {*np.searchsorted(ends, np.arange(step, ends[-1], step)).tolist(), len(pixels)} - {0}
    packed, start = [], 0
    for stop in sorted(stops):
        before = start > 0  # the row above the band, for comparison with its first one
        part = times[start - before : stop].copy()
        part[:before] = 1
        packed.append(deflate.compress(filtered(pixels[start - before : stop], part)[before:].data))
        start = stop
    return b"".join([*packed, deflate.flush()])


def run_lengths() -> Any:
    """Return a zlib compressor that searches only for runs: fast, and such lines contain nothing else."""
    return zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 8, zlib.Z_RLE)


def _pillow(picture: Encodable, dpi: float, format: str, **options: Any) -> bytes:
    from PIL import Image

    if picture.pixels.ndim == 2 and format == "tiff":
        image = Image.fromarray(picture.pixels)
        image.putpalette(picture.palette.tobytes())
    else:
        image = Image.fromarray(picture.to_rgb())
    stream = BytesIO()
    image.save(stream, format, dpi=(dpi, dpi), **options)
    return stream.getvalue()


def jpg(picture: Encodable, dpi: float) -> bytes:
    """Encode as JPEG at quality 95 with full colour resolution: lossy, for where nothing else is accepted."""
    file = _pillow(picture, dpi, "jpeg", quality=95, subsampling=0)
    about = f"{KEY} {dumps(picture.about)}".encode()
    parts = [about[i : i + 65533] for i in range(0, len(about), 65533)]  # the most that a segment holds
    comments = [b"\xff\xfe" + struct.pack(">H", 2 + len(part)) + part for part in parts]
    start = 4 + int.from_bytes(file[4:6], "big")  # after the JFIF segment, which has to be the first
    return b"".join([file[:start], *comments, file[start:]])


def tif(picture: Encodable, dpi: float) -> bytes:
    """Encode as TIFF, lossless, compressed by LZW, which every publisher's software reads."""
    about = f"{picture.title}\n{KEY} {dumps(picture.about)}"
    file = bytearray(_pillow(picture, dpi, "tiff", compression="tiff_lzw", description=about))
    # The directory starts at an even offset; older libtiff leaves the padding byte before it uninitialised.
    directory = int.from_bytes(file[4:8], "little" if file[:2] == b"II" else "big")
    if _end_of_strips(file) == directory - 1:
        file[directory - 1] = 0
    return bytes(file)


def _end_of_strips(file: bytearray) -> int:
    from PIL import Image

    with Image.open(BytesIO(file)) as image:
        known: Any = image
        return int(max(start + size for start, size in zip(known.tag_v2[273], known.tag_v2[279])))


def svg(picture: Encodable, dpi: float) -> bytes:
    """Encode as SVG: the pixels as an embedded PNG, the lettering as text."""
    height, width = picture.pixels.shape[:2]
    image = base64.b64encode(png(picture.without_text(), dpi)).decode()
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width / dpi:.6g}in" height="{height / dpi:.6g}in" viewBox="0 0 {width} {height}">',
        f"<title>{escape(picture.title)}</title>",
        f"<metadata>{KEY} {escape(dumps(picture.about))}</metadata>",
        f'<image width="{width}" height="{height}" style="image-rendering:pixelated" '
        f'xlink:href="data:image/png;base64,{image}"/>',
        '<g font-family="DejaVu Sans, Verdana, sans-serif" xml:space="preserve">',
    ]
    for text in picture.texts:
        size, ascent, long = text_metrics(text.text, text.points, text.dpi)
        lines.append(
            f'<text x="{text.x}" y="{text.y + ascent}" font-size="{size}" textLength="{long:.6g}" '
            f'lengthAdjust="spacingAndGlyphs" fill="#{bytes(text.ink).hex()}">{escape(text.text)}</text>'
        )
    return "\n".join([*lines, "</g>", "</svg>", ""]).encode()


def pdf(picture: Encodable, dpi: float) -> bytes:
    """Encode as PDF: the pixels lossless and not resampled, the lettering as text in an embedded TrueType font."""
    from matplotlib.artist import Artist
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    height, width = picture.pixels.shape[:2]
    art = np.ascontiguousarray(picture.without_text().to_rgb()[::-1])

    class Sheet(Artist):
        """The content of the page, passed to the renderer directly: an axes would resample it."""

        def draw(self, renderer: Any) -> None:
            context = renderer.new_gc()
            renderer.draw_image(context, 0, 0, art)
            for text in picture.texts:
                size, ascent, _ = text_metrics(text.text, text.points, text.dpi)
                context.set_foreground([part / 255 for part in text.ink])
                x, y = text.x * 72 / dpi, (height - text.y - ascent) * 72 / dpi
                for part in parts(text.text):
                    font = FontProperties(fname=font_file(part), size=size * 72 / dpi)
                    renderer.draw_text(context, x, y, part, font, 0)
                    x += text_size(part, text.points, text.dpi)[0] * 72 / dpi
            context.restore()

    logging.getLogger("fontTools.subset").setLevel(logging.WARNING)  # it logs each step of embedding a font
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi)
    figure.patch.set_visible(False)
    figure.add_artist(Sheet())
    stream = BytesIO()
    words = f"{KEY} {dumps(picture.about)}"
    about = {"Title": picture.title, "Creator": KEY, "Subject": words, "CreationDate": None}
    with parameters({"pdf.fonttype": 42, "savefig.bbox": None, "pdf.use14corefonts": False}):
        FigureCanvasPdf(figure).print_figure(stream, format="pdf", dpi=dpi, metadata=about)
    return stream.getvalue()


@contextmanager
def parameters(values: Dict[str, Any]) -> Iterator[None]:
    """Set some of matplotlib's parameters temporarily; others that are set meanwhile stay set."""
    import matplotlib

    parameters: Any = matplotlib.rcParams
    with _PDF:
        before = {name: parameters[name] for name in values}
        parameters.update(values)
        try:
            yield
        finally:
            parameters.update(before)


FORMATS: Dict[str, Callable[[Encodable, float], bytes]] = {"png": png, "pdf": pdf, "svg": svg, "jpg": jpg, "tif": tif}
