"""Compose panels into one matplotlib figure and encode it."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, field
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any, Dict, List, Match, Optional, Sequence, Set, Tuple, Union

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.draw.annotate import kinds_of, label_boxes, number_list
from yolov5_featviz.draw.encode import check_format, format_of, parameters
from yolov5_featviz.draw.lettering import SEPARATOR
from yolov5_featviz.draw.palette import COLOURS, box_colours, is_dark, palette_of
from yolov5_featviz.draw.picture import Picture
from yolov5_featviz.draw.record import KEY, dumps
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.figures.layout import (
    BAR,
    CORNERS,
    Bar,
    Layout,
    Panel,
    Place,
    Zoom,
    lay_out,
    number_places,
)
from yolov5_featviz.figures.style import LEAST, LINE, Style, font, plain, text_extent, wrap
from yolov5_featviz.files import write
from yolov5_featviz.text import printable

LARGEST = 1 << 28  # pixels of a figure


@dataclass(frozen=True, eq=False)
class Composition:
    """A finished figure.

    Attributes:
        figure: the matplotlib figure.
        style: its style.
        title: written into the file as its title.
        about: record of how it was made, written into the file.
    """

    figure: Any = field(repr=False)
    style: Style
    title: str = ""
    about: Dict[str, Any] = field(default_factory=dict, repr=False)

    def to_rgb(self) -> np.ndarray:
        """Render as uint8 ``[height, width, 3]`` at the figure's dpi."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        with parameters(settings_of(self.style)):
            canvas: Any = FigureCanvasAgg(self.figure)
            canvas.draw()
            return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])

    def encode(self, format: str) -> bytes:
        """Encode in one of :data:`yolov5_featviz.draw.encode.FORMATS`; the bytes are reproducible."""
        check_format(format)
        if format not in ("pdf", "svg"):
            return Picture(self.to_rgb(), palette_of("gray"), self.style.dpi, self.title, about=self.about).encode(
                format
            )
        import logging

        from matplotlib.backends.backend_pdf import FigureCanvasPdf
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        logging.getLogger("fontTools.subset").setLevel(logging.WARNING)
        stream = BytesIO()
        words = f"{KEY} {dumps(self.about)}"
        with parameters(settings_of(self.style)):
            if format == "pdf":
                about = {"Title": self.title, "Creator": KEY, "Subject": words, "CreationDate": None}
                FigureCanvasPdf(self.figure).print_figure(stream, format="pdf", metadata=about)
                return stream.getvalue()
            none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            FigureCanvasSVG(self.figure).print_figure(stream, format="svg", metadata=none)
        return _with_lengths(_with_metadata(stream.getvalue().decode(), self.title, words), self.style).encode()

    def to_png(self) -> bytes:
        """Encode as PNG."""
        return self.encode("png")

    def save(self, path: Union[str, Path]) -> None:
        """Write atomically, in the format given by the extension. Raises FeatvizError, OSError."""
        write(path, self.encode(format_of(path)))

    def _repr_png_(self) -> bytes:
        return self.to_png()


# rcParams pinned against user settings, so that files are reproducible.
_SETTINGS: Dict[str, Any] = {
    "agg.path.chunksize": 0,
    "axes.unicode_minus": True,
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "figure.edgecolor": "white",
    "figure.facecolor": "white",
    "font.stretch": "normal",
    "font.style": "normal",
    "font.variant": "normal",
    "font.weight": "normal",
    "image.composite_image": False,
    "image.resample": True,
    "mathtext.default": "it",
    "patch.antialiased": True,
    "path.effects": [],
    "path.simplify": True,
    "path.sketch": None,
    "path.snap": True,
    "pdf.compression": 6,
    "pdf.fonttype": 42,
    "pdf.inheritcolor": False,
    "pdf.use14corefonts": False,
    "savefig.bbox": None,
    "savefig.edgecolor": "white",
    "savefig.facecolor": "white",
    "savefig.transparent": False,
    "svg.fonttype": "none",
    "svg.hashsalt": KEY,
    "svg.image_inline": True,
    "text.antialiased": True,
    "text.color": "black",
    "text.hinting": "force_autohint",
    "text.usetex": False,
}


def settings_of(style: Style) -> Dict[str, Any]:
    """Return matplotlib's parameters of a style."""
    return {**_SETTINGS, "mathtext.fontset": "stix" if style.font == "serif" else "dejavusans"}


def compose(
    panels: Sequence[Sequence[Optional[Panel]]],
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    style: Optional[Style] = None,
    title: str = "",
    about: Optional[Dict[str, Any]] = None,
) -> Composition:
    """Lay out panels as a table and draw them.

    Columns have equal widths if the panels of each row share one aspect ratio; otherwise rows have equal
    heights if the panels of each column do; otherwise smaller panels are centred in their cells. A colour
    bar is placed under the last row of the panels that share it and spans their columns.

    Args:
        panels: rows of equal length; None leaves a cell empty.
        columns, rows: titles; optional.
        style: see :class:`Style`.
        title, about: metadata for the file; see :class:`Composition`.

    Raises:
        FeatvizError: there are no panels, the figure is too narrow for them, or the font lacks a glyph.
    """
    from matplotlib.figure import Figure

    if not panels or not panels[0] or not any(panel for row in panels for panel in row):
        raise FeatvizError("a figure needs at least one row and one column")
    style = style or Style()
    columns = [printable(words) for words in columns or [""] * len(panels[0])]
    rows = [printable(words) for words in rows or [""] * len(panels)]
    letter = _Letters(style)
    columns = [f"{letter.take()} {words}".strip() for words in columns] if style.letters == "columns" else columns
    rows = [f"{letter.take()} {words}".strip() for words in rows] if style.letters == "rows" else rows
    with parameters(settings_of(style)):
        layout = lay_out(panels, columns, rows, style)
        check_size(layout.width, layout.height)
        figure = Figure(figsize=(layout.width / style.dpi, layout.height / style.dpi), dpi=style.dpi)
        draw = _Draw(figure, layout, style, panels)
        for place, words in zip(layout.columns, columns):
            draw.text(words, place)
        for place, words in zip(layout.rows, rows):
            draw.text(words, place, turned=True)
        for panel_row, places in zip(panels, layout.panels):
            for panel, place in zip(panel_row, places):
                if panel is not None:
                    draw.panel(panel, place, letter.take() if style.letters == "panels" else "")
        for bar, place, lines in layout.bars:
            draw.bar(bar, place, lines)
        draw.list_numbers()
    return Composition(figure, style, printable(title), dict(about or {}))


def check_size(width: int, height: int) -> None:
    """Raise FeatvizError for a figure of more pixels than can be rendered."""
    if width * height > LARGEST or max(width, height) >= 1 << 16:
        raise FeatvizError(f"a figure of {width:,}×{height:,} pixels is too large: take a smaller dpi, or fewer rows")


class _Draw:
    """Draw the elements of a layout into a matplotlib figure."""

    def __init__(self, figure: Any, layout: Layout, style: Style, panels: Sequence[Sequence[Optional[Panel]]]) -> None:
        self.figure, self.layout, self.style = figure, layout, style
        self.numbered: Dict[Tuple[str, Tuple[float, ...]], int] = {}  # of caption and box
        self.labelled: Set[Tuple[str, Tuple[float, ...]]] = set()
        self.unlabelled: Set[Tuple[str, Tuple[float, ...]]] = set()

    def axes(self, place: Place) -> Any:
        """Add axes in pixel units with the origin at the top left corner of ``place``."""
        layout = self.layout
        x, y = place.x / layout.width, 1 - (place.y + place.height) / layout.height
        axes = self.figure.add_axes([x, y, place.width / layout.width, place.height / layout.height])
        axes.set_axis_off()
        axes.set_xlim(0, place.width)
        axes.set_ylim(place.height, 0)
        return axes

    def image(self, axes: Any, pixels: np.ndarray, x: float = 0, y: float = 0, zorder: float = 0) -> None:
        height, width = pixels.shape[:2]
        extent = (x, x + width, y + height, y)
        axes.imshow(pixels, interpolation="none", extent=extent, origin="upper", aspect="auto", zorder=zorder)

    def rectangle(self, axes: Any, box: Region, colour: Any, points: float, zorder: float = 2) -> None:
        from matplotlib.patches import Rectangle

        left, top, right, bottom = box
        axes.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, ec=colour, lw=points, zorder=zorder)
        )

    def text(self, words: str, place: Place, turned: bool = False) -> None:
        """Draw a title beside its panels, line by line so that titles share a baseline."""
        layout, style = self.layout, self.style
        unit = style.dpi / 72
        lines = wrap(words, (place.height if turned else place.width) / unit, style).split("\n")
        line = LINE * style.font_size * unit
        start = 0.0
        if turned:
            start = place.width - 2 * unit - len(lines) * line
        elif style.titles == "top":
            start = place.height - unit - len(lines) * line
        for i, one in enumerate(lines):
            base = start + (i + 0.75) * line
            x, y = (base, place.height / 2) if turned else (place.width / 2, base)
            self.figure.text(
                (place.x + x) / layout.width,
                1 - (place.y + y) / layout.height,
                one,
                fontproperties=font(style, words=one),
                ha="center",
                va="baseline",
                **({"rotation": 90, "rotation_mode": "anchor"} if turned else {}),
            )

    def panel(self, panel: Panel, place: Place, letter: str) -> None:
        axes = self.axes(place)
        self.image(axes, panel.paint((place.height, place.width), panel.window))
        covered: List[Place] = []
        if letter:
            covered.append(self.letter(letter, place))
        inset = None
        if panel.zoom is not None:
            inset = self.inset(panel.zoom, panel.window, place, bool(letter))
            x, y, right, bottom = map(round, _there(panel.zoom.box, panel.window, place))
            covered += [inset._replace(x=inset.x - place.x, y=inset.y - place.y), Place(x, y, right - x, bottom - y)]
        self.boxes(axes, panel, panel.window, place, panel.named, covered)
        self.channels(axes, panel, place)
        if panel.zoom is None or inset is None:
            return
        self.frame(axes, _there(panel.zoom.box, panel.window, place), 0.7, zorder=3.5)
        enlarged = self.axes(inset)
        self.image(enlarged, panel.paint((inset.height, inset.width), panel.zoom.box))
        self.boxes(enlarged, panel, panel.zoom.box, inset, named=False)
        half = self.style.dpi / 72 / 2  # keeps the frame inside the picture
        self.frame(enlarged, (half, half, inset.width - half, inset.height - half), 0.7, zorder=8)

    def channels(self, axes: Any, panel: Panel, place: Place) -> None:
        """Draw the channel numbers of a grid on white, where they have room."""
        for k, (x, y, w, h) in zip(panel.numbers, number_places(panel, place, self.style)):
            axes.fill((x, x + w, x + w, x), (y, y, y + h, y + h), color="white", lw=0, zorder=4)
            base = y + h - self.style.dpi / 72
            prop = font(self.style, LEAST)
            axes.text(x + w / 2, base, str(k), fontproperties=prop, ha="center", va="baseline", zorder=5)

    def frame(self, axes: Any, box: Region, points: float, zorder: float) -> None:
        """Draw a white frame with black edges, visible on any background."""
        self.rectangle(axes, box, "black", 2.2 * points, zorder)
        self.rectangle(axes, box, "white", points, zorder)

    def letter(self, letter: str, place: Place) -> Place:
        """Draw a panel's letter on white in its upper left corner; return its place within the panel."""
        unit = self.style.dpi / 72
        wide, high = (round((side + 2) * unit) for side in text_extent(letter, self.style, weight="bold"))
        axes = self.axes(place._replace(width=wide, height=high))
        axes.set_zorder(5)
        axes.axhspan(0, high, color="white", lw=0)
        size = self.style.font_size
        prop = font(self.style, weight="bold")
        axes.text(wide / 2, high / 2 + 0.34 * size * unit, letter, fontproperties=prop, ha="center", va="baseline")
        return Place(0, 0, wide, high)

    def inset(self, zoom: Zoom, window: Region, place: Place, lettered: bool) -> Place:
        left, top, right, bottom = zoom.box
        width = round(place.width * zoom.share)
        height = round(width * (bottom - top) / (right - left))
        if height > place.height:
            width, height = round(width * place.height / height), place.height
        x0, y0, x1, y1 = _there(zoom.box, window, place)

        def apart(corner: str) -> float:
            across = x0 - width if "left" in corner else place.width - width - x1
            down = y0 - height if "upper" in corner else place.height - height - y1
            return max(across, down)

        corners = [corner for corner in CORNERS if not (lettered and corner == "upper left")]
        vertical, horizontal = (zoom.corner or max(corners, key=apart)).split()
        x = 0 if horizontal == "left" else place.width - width
        y = 0 if vertical == "upper" else place.height - height
        return Place(place.x + x, place.y + y, width, height)

    def boxes(
        self, axes: Any, panel: Panel, window: Region, place: Place, named: bool, covered: Sequence[Place] = ()
    ) -> None:
        if panel.boxes is None:
            return
        from matplotlib.patches import Rectangle

        unit = self.style.dpi / 72
        corners = [_there(box, window, place) for box in panel.boxes.xyxy]
        inside = [
            i for i, (x0, y0, x1, y1) in enumerate(corners) if x0 < place.width and y0 < place.height and x1 > 0 < y1
        ]
        labels = self.labels(panel.boxes, {i: corners[i] for i in inside}, place, covered) if named else {}
        colours = box_colours(panel.boxes)
        for i in inside:
            rgb = colours[i]
            colour = np.array(rgb) / 255
            self.rectangle(axes, corners[i], "black", 1.4, zorder=2)
            self.rectangle(axes, corners[i], colour, 0.8, zorder=3)
            if i not in labels:
                continue
            words, (x, y, w, h), small = labels[i]
            axes.add_patch(Rectangle((x, y), w, h, fc=colour, ec="none", zorder=4))
            axes.text(
                x + w / 2,
                y + h / 2 + 0.32 * small * unit,
                words,
                fontproperties=font(self.style, size=small, words=words),
                color="white" if is_dark(rgb) else "black",
                ha="center",
                va="baseline",
                zorder=5,
                clip_on=True,
            )

    def labels(
        self, boxes: Boxes, corners: Dict[int, Region], place: Place, covered: Sequence[Place]
    ) -> Dict[int, Tuple[str, Place, float]]:
        """Place names at boxes, or numbers, which run over the whole figure: words, place and font size."""
        unit = self.style.dpi / 72
        sizes = [*np.arange(self.style.font_size - 1, LEAST, -1).tolist(), LEAST]

        def measure(words: str, points: float) -> Tuple[int, int]:
            wide, high = text_extent(words, self.style, points)
            return round((wide + 1.6) * unit), round((high + 1.6) * unit)

        captions = [plain(boxes.caption(i)) for i in corners]
        kinds = kinds_of(boxes)
        spots = label_boxes(
            list(corners.values()),
            captions,
            measure,
            sizes,
            (place.height, place.width),
            covered,
            len(self.numbered),
            [kinds[i] for i in corners],
        )
        found: Dict[int, Tuple[str, Place, float]] = {}
        for i, words, label in zip(corners, captions, spots):
            if not words:
                continue
            key = words, tuple(np.rint(boxes.xyxy[i]).tolist())
            if label is not None:
                shown = str(self.numbered.setdefault(key, len(self.numbered) + 1)) if label.number else words
                found[i] = shown, Place(*label[:4]), label.points
            (self.unlabelled if label is None else self.labelled).add(key)
        return found

    def list_numbers(self) -> None:
        """Extend the figure by the list of the numbers at boxes, in lines below it."""
        left = len(self.unlabelled - self.labelled)
        parts = number_list([f"{number}: {words}" for (words, _), number in self.numbered.items()], left)
        if not parts:
            return
        style, layout, figure = self.style, self.layout, self.figure
        unit = style.dpi / 72
        small = max(LEAST, style.font_size - 1.5)
        room = layout.width / unit
        lines: List[str] = []
        for part in parts:
            longer = SEPARATOR.join([*lines[-1:], part])
            if lines and text_extent(longer, style, small)[0] <= room:
                lines[-1] = longer
            else:
                lines += wrap(part, room, style, small).split("\n")
        line = LINE * small * unit
        height = layout.height + round(2 * unit + len(lines) * line)
        check_size(layout.width, height)
        figure.set_size_inches(layout.width / style.dpi, height / style.dpi)
        for axes in figure.axes:
            x, _, wide, _ = axes.get_position().bounds
            top, bottom = (round((1 - y) * layout.height) for y in (axes.get_position().y1, axes.get_position().y0))
            axes.set_position([x, (height - bottom) / height, wide, (bottom - top) / height])
        for text in figure.texts:
            text.set_y(1 - (1 - text.get_position()[1]) * layout.height / height)
        for i, words in enumerate(lines):
            base = layout.height + 2 * unit + (i + 0.75) * line
            prop = font(style, size=small, words=words)
            figure.text(0, 1 - base / height, words, fontproperties=prop, ha="left", va="baseline")

    def bar(self, bar: Bar, place: Place, lines: Sequence[Tuple[str, str, str]]) -> None:
        axes = self.axes(place)
        unit, small = self.style.dpi / 72, self.style.small
        height = round(BAR * unit) if bar.high else 0
        if bar.high:
            ramp = np.rint(np.linspace(0, COLOURS - 1, place.width)).astype(np.uint8)
            self.image(axes, bar.palette[np.broadcast_to(ramp, (height, place.width))])
            self.rectangle(axes, (0, 0, place.width, height), "black", 0.3)
        for i, line in enumerate(lines):
            for x, side, words in zip((0.0, place.width / 2, float(place.width)), ("left", "center", "right"), line):
                if words:
                    axes.text(
                        x,
                        height + (1.2 * i + 0.95) * small * unit,
                        words,
                        fontproperties=font(self.style, size=small, words=words),
                        ha=side,
                        va="baseline",
                    )


def _there(box: Sequence[float], window: Region, place: Place) -> Region:
    """Map a box from image pixels to pixels relative to ``place``, which shows ``window`` of the image."""
    left, top, right, bottom = window
    across, down = place.width / (right - left), place.height / (bottom - top)
    x0, y0, x1, y1 = (float(edge) for edge in box)
    return (x0 - left) * across, (y0 - top) * down, (x1 - left) * across, (y1 - top) * down


class _Letters:
    """Sequence of panel letters."""

    def __init__(self, style: Style) -> None:
        self.how, self.count = style.letter, 0

    def take(self) -> str:
        n, words = self.count, ""
        while n >= 0:
            words = string.ascii_lowercase[n % 26] + words
            n = n // 26 - 1
        self.count += 1
        return self.how.replace("a", words) if "a" in self.how else self.how.replace("A", words.upper())


def _with_metadata(svg: str, title: str, words: str) -> str:
    """Insert a title and metadata into an SVG file written by matplotlib."""
    from xml.sax.saxutils import escape

    start = svg.index(">", svg.index("<svg")) + 1
    own = f"\n <title>{escape(title)}</title>\n <metadata>{escape(words)}</metadata>" if title else ""
    return f"{svg[:start]}{own or f'{chr(10)} <metadata>{escape(words)}</metadata>'}{svg[start:]}"


def _with_lengths(svg: str, style: Style) -> str:
    """Set ``textLength`` on SVG text, so that it keeps its laid-out length in any viewer font."""

    def longer(found: Match[str]) -> str:
        weight = "bold" if re.search(r"font: (bold|700)|font-weight: (bold|700)", found[1]) else "normal"
        size = re.search(r"([\d.]+)px", found[1])
        if size is None:
            return found[0]
        long = text_extent(plain(unescape(found[2])), style, float(size[1]), weight)[0]
        return f'<text textLength="{long:.6g}" lengthAdjust="spacingAndGlyphs"{found[1]}>{found[2]}</text>'

    return re.sub(r"<text([^>]*)>([^<]+)</text>", longer, svg)
