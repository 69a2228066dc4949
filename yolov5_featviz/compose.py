"""Panels to one figure for print: titles, letters, boxes, enlarged details, colour bars.

The layout is made in whole pixels, and what a panel shows is painted at just its size, so that no
format resamples it. Text, boxes and frames are drawn by matplotlib, without pyplot, and stay text and
lines in PDF and SVG. Nothing here touches a file, but for the fonts.
"""

from __future__ import annotations

import difflib
import re
import string
from dataclasses import dataclass, field
from functools import lru_cache
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any, Callable, Dict, List, Match, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from yolov5_featviz.about import KEY, dumps
from yolov5_featviz.boxes import Boxes, Region
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.formats import check_format, format_of, parameters
from yolov5_featviz.heatmap import BOX_COLOURS, place_labels
from yolov5_featviz.render import COLOURS, Picture, font_file, palette_of
from yolov5_featviz.text import printable

# Text widths in inches, from the authors' guides of these publishers.
WIDTHS: Dict[str, float] = {
    "ieee-column": 3.5,
    "ieee-page": 7.16,
    "cvpr-column": 3.25,
    "cvpr-page": 6.875,
    "lncs": 4.8,
    "neurips": 5.5,
    "elsevier-column": 90 / 25.4,
    "elsevier-page": 190 / 25.4,
    "nature-single": 89 / 25.4,
    "nature-double": 183 / 25.4,
}
LINE = 1.25  # from one line of a title to the next, in sizes of its letters
LEAST = 4.5  # points, of the smallest letters
LINES = 4  # of a title at most
LARGEST = 1 << 28  # pixels of a figure
BAR = 4.0  # height of a colour scale in points
FONTS = {"sans": "DejaVu Sans", "serif": "STIXGeneral"}  # these come with matplotlib
LETTERS = ("none", "panels", "columns", "rows")
CORNERS = ("upper left", "upper right", "lower left", "lower right")

# From the size to be painted (height, width) and the part of the image (in its pixels) to uint8 RGB.
Paint = Callable[[Tuple[int, int], Region], np.ndarray]


class Bar(NamedTuple):
    """A colour scale, its two ends and what it measures; panels with equal ones share it."""

    cmap: str
    low: str
    high: str
    words: str = ""


class Zoom(NamedTuple):
    """A detail, shown enlarged over ``share`` of the panel's width; None is the corner farthest from it."""

    box: Region
    corner: Optional[str] = None
    share: float = 0.4


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a figure.

    Attributes:
        paint: makes its pixels.
        window: what part of the image it shows: left, top, right and bottom edge, in its pixels.
        boxes: to be drawn, in pixels of the image.
        zoom: a detail.
        bar: what its colours mean.
        named: whether names and scores stand at the boxes.
    """

    paint: Paint
    window: Region
    boxes: Optional[Boxes] = None
    zoom: Optional[Zoom] = None
    bar: Optional[Bar] = None
    named: bool = True

    @property
    def aspect(self) -> float:
        """Height to width."""
        left, top, right, bottom = self.window
        return (bottom - top) / (right - left)


@dataclass(frozen=True)
class Style:
    """How a figure is set.

    Attributes:
        width: in inches.
        font: a family that matplotlib finds, or ``sans`` or ``serif``.
        font_size: in points; what stands within panels is smaller.
        dpi: pixels an inch, of photographs in vector formats too.
        gap: between panels, in points.
        letters: what is lettered: ``panels``, ``columns``, ``rows`` or ``none``.
        letter: how: ``(a)``, ``a``, ``A``, ``a)``...
        titles: where the columns' titles stand, ``top`` or ``bottom``.

    Raises:
        FeatvizError: one of them is not understood, or the font is not found.
    """

    width: float = WIDTHS["ieee-column"]
    font: str = "sans"
    font_size: float = 8.0
    dpi: int = 300
    gap: float = 3.0
    letters: str = "none"
    letter: str = "(a)"
    titles: str = "top"

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("width", self.width, 1, 40),
            ("font_size", self.font_size, 4, 24),
            ("dpi", self.dpi, 72, 2400),
            ("gap", self.gap, 0, 36),
        ):
            if not low <= value <= high:
                raise FeatvizError(f"{name} {value:g} is out of range: take {low} to {high}")
        if self.letters not in LETTERS:
            raise FeatvizError(f"no letters for {self.letters!r}: take one of {', '.join(LETTERS)}")
        if sum(self.letter.count(letter) for letter in "aA") != 1:
            raise FeatvizError(f"letter {self.letter!r}: write how the first one looks, such as (a), a) or A")
        if self.titles not in ("top", "bottom"):
            raise FeatvizError(f"no titles {self.titles!r}: take top or bottom")
        font_file_of(self.font)


@dataclass(frozen=True, eq=False)
class Composition:
    """A finished figure.

    Attributes:
        figure: matplotlib's.
        style: how it was set.
        title: what it shows, in words, for the file.
        about: how it was made, for the file.
    """

    figure: Any = field(repr=False)
    style: Style
    title: str = ""
    about: Dict[str, Any] = field(default_factory=dict, repr=False)

    def to_rgb(self) -> np.ndarray:
        """The figure as uint8 ``[height, width, 3]``, at its dpi."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        with parameters(_settings(self.style)):
            canvas: Any = FigureCanvasAgg(self.figure)
            canvas.draw()
            return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])

    def encode(self, format: str) -> bytes:
        """The figure as a file of one of :data:`yolov5_featviz.formats.FORMATS`; the same bytes every time."""
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
        with parameters(_settings(self.style)):
            if format == "pdf":
                about = {"Title": self.title, "Creator": KEY, "Subject": words, "CreationDate": None}
                FigureCanvasPdf(self.figure).print_figure(stream, format="pdf", metadata=about)
                return stream.getvalue()
            none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            FigureCanvasSVG(self.figure).print_figure(stream, format="svg", metadata=none)
        return _with_lengths(_with_metadata(stream.getvalue().decode(), self.title, words), self.style).encode()

    def to_png(self) -> bytes:
        """The figure as a PNG file."""
        return self.encode("png")

    def save(self, path: Union[str, Path]) -> None:
        """Write a file, whole or not at all, in the format that its ending names. Raises FeatvizError, OSError."""
        from yolov5_featviz.save import write

        write(path, self.encode(format_of(path)))

    def _repr_png_(self) -> bytes:
        return self.to_png()


# What a user may have set otherwise, and what makes files come out the same every time.
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


def _settings(style: Style) -> Dict[str, Any]:
    return {**_SETTINGS, "mathtext.fontset": "stix" if style.font == "serif" else "dejavusans"}


def compose(
    panels: Sequence[Sequence[Optional[Panel]]],
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    style: Optional[Style] = None,
    title: str = "",
    about: Optional[Dict[str, Any]] = None,
) -> Composition:
    """Lay panels out as a table and draw them.

    Columns are of one width, if in each row the panels are of one shape; otherwise rows are of one height,
    if in each column they are; otherwise smaller panels stand in the middle of their place. A colour
    scale stands under the last row of the panels that share it, as wide as the columns they are in.

    Args:
        panels: row by row, as many in each; None leaves a place empty.
        columns, rows: their titles; all may be left out.
        style: see :class:`Style`.
        title, about: for the file; see :class:`Composition`.

    Raises:
        FeatvizError: there are no panels, the figure is too narrow for them, or the font lacks a letter.
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
    with parameters(_settings(style)):
        layout = _lay_out(panels, columns, rows, style)
        if layout.width * layout.height > LARGEST or max(layout.width, layout.height) >= 1 << 16:
            raise FeatvizError(
                f"a figure of {layout.width:,}×{layout.height:,} pixels is too large: take a smaller dpi, or fewer rows"
            )
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
    return Composition(figure, style, printable(title), dict(about or {}))


class _Place(NamedTuple):
    """Left and top edge, width and height in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class _Layout:
    width: int
    height: int
    panels: List[List[_Place]]
    columns: List[_Place]
    rows: List[_Place]
    bars: List[Tuple[Bar, _Place, List[str]]]


def _lay_out(
    panels: Sequence[Sequence[Optional[Panel]]], columns: Sequence[str], rows: Sequence[str], style: Style
) -> _Layout:
    def pixels(points: float) -> int:
        return round(points * style.dpi / 72)

    width, line = round(style.width * style.dpi), pixels(LINE * style.font_size)
    gap = pixels(style.gap)
    aspects = np.array([[panel.aspect if panel else np.nan for panel in row] for row in panels])
    for lines in range(LINES + 1):  # how long a row's title may be depends on the row's height, and that on the titles
        left = lines * line + pixels(2) * bool(lines)
        widths, heights = _sizes(aspects, width - left - gap * (len(columns) - 1))
        turned = [wrap(words, height * 72 / style.dpi, style) for words, height in zip(rows, heights)]
        if all(words.count("\n") < lines for words in turned if words):
            break
    if min(widths) < pixels(12):
        raise FeatvizError(
            f"{len(columns)} columns do not fit in {style.width:.3g} inches: take a larger width, or fewer of them"
        )
    xs = left + np.concatenate([[0], np.cumsum([w + gap for w in widths])]).astype(int)

    above = [wrap(words, w * 72 / style.dpi, style) for words, w in zip(columns, widths)]
    head = max((words.count("\n") + 1 for words in above if words), default=0)
    head_h = head * line + pixels(1) * bool(head)
    y = head_h if style.titles == "top" else 0
    places: List[List[_Place]] = []
    row_places: List[_Place] = []
    bars: List[Tuple[Bar, _Place, List[str]]] = []
    under = _bars_below(panels)
    for r, row in enumerate(panels):
        places.append([])
        row_places.append(_Place(0, y, left, heights[r]))
        for c, panel in enumerate(row):
            w, h = widths[c], heights[r]
            if panel is not None:
                w, h = min(w, round(h / panel.aspect)), min(h, round(w * panel.aspect))
            places[r].append(_Place(int(xs[c]) + (widths[c] - w) // 2, y + (heights[r] - h) // 2, w, h))
        y += heights[r]
        for bar_line in under.get(r, []):
            y += pixels(2)
            spans = [(bar, int(xs[first]), int(xs[last]) + widths[last]) for bar, first, last in bar_line]
            below = _bar_words([(bar, (end - x) * 72 / style.dpi) for bar, x, end in spans], style)
            bar_h = pixels(BAR) + max(map(len, below)) * pixels(1.2 * (style.font_size - 1))
            bars += [(bar, _Place(x, y, end - x, bar_h), lines) for (bar, x, end), lines in zip(spans, below)]
            y += bar_h
        y += gap + pixels(1) * (r in under) if r + 1 < len(panels) else 0
    top = 0 if style.titles == "top" else y + pixels(1) * bool(head)
    column_places = [_Place(int(x), top, w, head_h) for x, w in zip(xs, widths)]
    height = y + (head_h + pixels(1) if style.titles == "bottom" and head else 0)
    return _Layout(width, height, places, column_places, row_places, bars)


def _sizes(aspects: np.ndarray, width: int) -> Tuple[List[int], List[int]]:
    """Widths of columns and heights of rows in pixels, for panels of these aspects within ``width``."""
    n, m = aspects.shape
    known = np.where(np.isnan(aspects), -np.inf, aspects)
    by_row = [row[~np.isnan(row)] for row in aspects]
    by_column = [column[~np.isnan(column)] for column in aspects.T]

    def alike(parts: List[np.ndarray]) -> bool:
        return all(len(part) == 0 or np.ptp(part) < 1e-3 * part.min() for part in parts)

    if not alike(by_row) and alike(by_column):
        shares = np.array([1 / part[0] if len(part) else 1.0 for part in by_column])
        widths = np.floor(width * shares / shares.sum()).astype(int)
        height = max(1, round(float(np.median(widths / shares))))
        return [int(w) for w in widths], [height] * n
    side = max(1, width // m)
    tallest = known.max(axis=1)
    heights = np.where(np.isfinite(tallest), tallest, 1.0) * side
    return [side] * m, [max(1, round(float(h))) for h in heights]


def _bars_below(panels: Sequence[Sequence[Optional[Panel]]]) -> Dict[int, List[List[Tuple[Bar, int, int]]]]:
    """Under which row which scales stand, line by line, each with its first and last column."""
    spans: Dict[Bar, Tuple[int, int, int]] = {}
    for r, row in enumerate(panels):
        for c, panel in enumerate(row):
            if panel is not None and panel.bar is not None:
                _, first, last = spans.get(panel.bar, (r, c, c))
                spans[panel.bar] = r, min(first, c), max(last, c)
    under: Dict[int, List[List[Tuple[Bar, int, int]]]] = {}
    for bar, (r, first, last) in sorted(spans.items(), key=lambda item: item[1]):
        lines = under.setdefault(r, [])
        free = [line for line in lines if all(last < start or first > end for _, start, end in line)]
        if free:
            free[0].append((bar, first, last))
        else:
            lines.append([(bar, first, last)])
    return under


def _bar_words(bars: Sequence[Tuple[Bar, float]], style: Style) -> List[List[str]]:
    """What stands below scales of these lengths in points: between their ends, or all in lines of their own."""
    small = style.font_size - 1

    def fits(bar: Bar, room: float) -> bool:
        ends = max(measure(words, style, small)[0] for words in (bar.low, bar.high))
        return measure(bar.words, style, small)[0] + 2 * ends + small <= room

    if all(not bar.words or fits(bar, room) for bar, room in bars):
        return [[bar.words] for bar, _ in bars]
    return [["", *wrap(bar.words, room, style, small).split("\n")] for bar, room in bars]


class _Draw:
    """Puts things into a figure."""

    def __init__(self, figure: Any, layout: _Layout, style: Style, panels: Sequence[Sequence[Optional[Panel]]]) -> None:
        self.figure, self.layout, self.style = figure, layout, style
        names = sorted({name for row in panels for p in row if p is not None and p.boxes for name in p.boxes.labels})
        self.colours = {name: BOX_COLOURS[i % len(BOX_COLOURS)] for i, name in enumerate(names)}

    def axes(self, place: _Place) -> Any:
        """Axes whose units are pixels from the top left corner of ``place``."""
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

    def text(self, words: str, place: _Place, turned: bool = False) -> None:
        """A title, next to the panels that it belongs to, line by line so that all stand on one base line."""
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

    def panel(self, panel: Panel, place: _Place, letter: str) -> None:
        axes = self.axes(place)
        self.image(axes, panel.paint((place.height, place.width), panel.window))
        covered: List[_Place] = []
        if letter:
            covered.append(self.letter(letter, place))
        inset = None
        if panel.zoom is not None:
            inset = self.inset(panel.zoom, panel.window, place, bool(letter))
            x, y, right, bottom = map(round, _there(panel.zoom.box, panel.window, place))
            covered += [inset._replace(x=inset.x - place.x, y=inset.y - place.y), _Place(x, y, right - x, bottom - y)]
        self.boxes(axes, panel, panel.window, place, panel.named, covered)
        if panel.zoom is None or inset is None:
            return
        self.frame(axes, _there(panel.zoom.box, panel.window, place), 0.7, zorder=3.5)
        enlarged = self.axes(inset)
        self.image(enlarged, panel.paint((inset.height, inset.width), panel.zoom.box))
        self.boxes(enlarged, panel, panel.zoom.box, inset, named=False)
        half = self.style.dpi / 72 / 2  # the frame lies within the picture
        self.frame(enlarged, (half, half, inset.width - half, inset.height - half), 0.7, zorder=8)

    def frame(self, axes: Any, box: Region, points: float, zorder: float) -> None:
        """White between black, which is seen on any ground."""
        self.rectangle(axes, box, "black", 2.2 * points, zorder)
        self.rectangle(axes, box, "white", points, zorder)

    def letter(self, letter: str, place: _Place) -> _Place:
        """A panel's letter on white in its upper left corner; returns where, within the panel."""
        unit = self.style.dpi / 72
        wide, high = (round((side + 2) * unit) for side in measure(letter, self.style, weight="bold"))
        axes = self.axes(place._replace(width=wide, height=high))
        axes.set_zorder(5)
        axes.axhspan(0, high, color="white", lw=0)
        size = self.style.font_size
        prop = font(self.style, weight="bold")
        axes.text(wide / 2, high / 2 + 0.34 * size * unit, letter, fontproperties=prop, ha="center", va="baseline")
        return _Place(0, 0, wide, high)

    def inset(self, zoom: Zoom, window: Region, place: _Place, lettered: bool) -> _Place:
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
        return _Place(place.x + x, place.y + y, width, height)

    def boxes(
        self, axes: Any, panel: Panel, window: Region, place: _Place, named: bool, covered: Sequence[_Place] = ()
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
        for i in inside:
            name = panel.boxes.labels[i] if panel.boxes.labels else ""
            colour = np.array(self.colours.get(name, BOX_COLOURS[0])) / 255
            self.rectangle(axes, corners[i], "black", 1.4, zorder=2)
            self.rectangle(axes, corners[i], colour, 0.8, zorder=3)
            if i not in labels:
                continue
            (x, y, w, h), small = labels[i]
            caption = _plain(panel.boxes.caption(i))
            axes.add_patch(Rectangle((x, y), w, h, fc=colour, ec="none", zorder=4))
            dark = np.dot(colour, (0.299, 0.587, 0.114)) < 0.43
            axes.text(
                x + w / 2,
                y + h / 2 + 0.32 * small * unit,
                caption,
                fontproperties=font(self.style, size=small, words=caption),
                color="white" if dark else "black",
                ha="center",
                va="baseline",
                zorder=5,
                clip_on=True,
            )

    def labels(
        self, boxes: Boxes, corners: Dict[int, Region], place: _Place, covered: Sequence[_Place]
    ) -> Dict[int, Tuple[_Place, float]]:
        """Where names and scores stand and how large: smaller if there is no room, and none that would hide another."""
        unit = self.style.dpi / 72
        found: Dict[int, Tuple[_Place, float]] = {}
        words = {i: _plain(boxes.caption(i)) for i in corners if boxes.caption(i)}
        for small in sorted({max(LEAST, self.style.font_size - less) for less in (2.5, 3.0, 3.5)}, reverse=True):
            sizes = [
                tuple(round((side + 1.6) * unit) for side in measure(word, self.style, small))
                for word in words.values()
            ]
            spots = place_labels([corners[i] for i in words], sizes, (place.height, place.width), covered)
            found, taken = {}, list(covered)
            for i, (x, y), (w, h) in zip(words, spots, sizes):
                if w <= place.width and not any(
                    x < t.x + t.width and t.x < x + w and y < t.y + t.height and t.y < y + h for t in taken
                ):
                    found[i] = _Place(x, y, w, h), small
                    taken.append(found[i][0])
            if len(found) == len(words):
                break
        return found

    def bar(self, bar: Bar, place: _Place, lines: Sequence[str]) -> None:
        axes = self.axes(place)
        unit = self.style.dpi / 72
        height = round(BAR * unit)
        ramp = np.rint(np.linspace(0, COLOURS - 1, place.width)).astype(np.uint8)
        self.image(axes, palette_of(bar.cmap)[np.broadcast_to(ramp, (height, place.width))])
        self.rectangle(axes, (0, 0, place.width, height), "black", 0.3)
        small = self.style.font_size - 1
        shown = [(0.0, 0, "left", bar.low), (float(place.width), 0, "right", bar.high)]
        shown += [(place.width / 2, i, "center", words) for i, words in enumerate(lines) if words]
        for x, i, side, words in shown:
            axes.text(
                x,
                height + (1.2 * i + 0.95) * small * unit,
                words,
                fontproperties=font(self.style, size=small),
                ha=side,
                va="baseline",
            )


def _plain(words: str) -> str:
    """Words that are no formula, whatever they hold: a class may be called ``$``."""
    return words.replace("$", r"\$")


def _there(box: Sequence[float], window: Region, place: _Place) -> Region:
    """A box in pixels of the image, of which ``place`` shows ``window``, in pixels from the corner of ``place``."""
    left, top, right, bottom = window
    across, down = place.width / (right - left), place.height / (bottom - top)
    x0, y0, x1, y1 = (float(edge) for edge in box)
    return (x0 - left) * across, (y0 - top) * down, (x1 - left) * across, (y1 - top) * down


class _Letters:
    """The letters, one after the other."""

    def __init__(self, style: Style) -> None:
        self.how, self.count = style.letter, 0

    def take(self) -> str:
        n, words = self.count, ""
        while n >= 0:
            words = string.ascii_lowercase[n % 26] + words
            n = n // 26 - 1
        self.count += 1
        return self.how.replace("a", words) if "a" in self.how else self.how.replace("A", words.upper())


def font(style: Style, size: Optional[float] = None, weight: str = "normal", words: str = "") -> Any:
    """The style's font, for matplotlib, or for ``words`` that it lacks letters of another that is installed.

    Raises FeatvizError if the style's is not found.
    """
    from matplotlib.font_manager import FontProperties

    # the file is what is drawn with; the names are what an SVG file carries, with what to take where it is missing
    alike = ["Times New Roman", "Times", "serif"] if style.font == "serif" else ["sans-serif"]
    return FontProperties(
        family=[FONTS.get(style.font, style.font), *alike],
        weight=weight,
        size=size or style.font_size,
        fname=font_file(words) if lacking(words, style) else font_file_of(style.font, weight),
    )


@lru_cache(maxsize=32)
def font_file_of(name: str, weight: str = "normal") -> str:
    """The file of a font, by its family, ``sans`` or ``serif``. Raises FeatvizError if there is none."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    family = FONTS.get(name, name)
    try:
        return str(findfont(FontProperties(family=[family], weight=weight), fallback_to_default=False))
    except ValueError:
        names = sorted({entry.name for entry in fontManager.ttflist})
        near = difflib.get_close_matches(name, [*FONTS, *names], 1)
        hint = f"did you mean {near[0]}?" if near else "take sans, serif, or one that is installed here"
        raise FeatvizError(f"no font {name!r}: {hint}") from None


def check_letters(words: str, style: Style) -> None:
    """Raise FeatvizError if ``words`` cannot be set: a formula that is none, or letters that no installed font has."""
    missing = lacking(words, style)
    if missing and font_file(words) == font_file():
        raise FeatvizError(
            f"the font {style.font} has no {missing!r}, which {words!r} needs: install a font that has, or name it"
        )
    measure(printable(words), style)


def lacking(words: str, style: Style) -> str:
    """The first letter of ``words`` that the style's font lacks; empty if it has all."""
    from matplotlib.font_manager import get_font

    if words.isascii() or "$" in words:  # a formula has fonts of its own
        return ""
    known = get_font(font_file_of(style.font)).get_charmap()
    return next((letter for letter in words if ord(letter) not in known and not letter.isspace()), "")


def measure(words: str, style: Style, size: Optional[float] = None, weight: str = "normal") -> Tuple[float, float]:
    """Width and height of a line in points. Raises FeatvizError for a formula that is none."""
    from matplotlib.cbook import is_math_text
    from matplotlib.textpath import text_to_path

    prop = font(style, size, weight, words)
    try:
        width, height, _ = text_to_path.get_text_width_height_descent(words, prop, is_math_text(words))
    except (ValueError, RecursionError) as error:
        raise FeatvizError(f"{printable(words, 80)} is no formula that matplotlib reads: {reason(error)}") from None
    return float(width), max(float(height), 1.05 * float(prop.get_size_in_points()))


def wrap(words: str, room: float, style: Style, size: Optional[float] = None) -> str:
    """Words on as few lines as they fit on, ``room`` being in points.

    Only a word that is too long for a line is broken; what would come after ``LINES`` lines becomes an ellipsis.
    """

    def fits(text: str) -> bool:
        return measure(text, style, size)[0] <= room

    lines: List[str] = []
    for word in words.split():
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
            continue
        if len(lines) > LINES:
            break
        while len(lines) <= LINES and "$" not in word and len(word) > 1 and not fits(word):
            n, beyond = 1, len(word)  # as many letters as fit, by halves
            while beyond - n > 1:
                middle = (n + beyond) // 2
                n, beyond = (middle, beyond) if fits(word[:middle]) else (n, middle)
            lines.append(word[:n])
            word = word[n:]
        lines.append(word)
    if len(lines) > LINES:
        last = lines[LINES - 1]
        while last and not fits(f"{last}…"):
            last = last[:-1]
        lines = [*lines[: LINES - 1], f"{last}…"]
    for line in lines:
        if "$" in line:  # it may be a formula only now
            measure(line, style, size)
    return "\n".join(lines)


def _with_metadata(svg: str, title: str, words: str) -> str:
    """An SVG file of matplotlib's with our title and words in it."""
    from xml.sax.saxutils import escape

    start = svg.index(">", svg.index("<svg")) + 1
    own = f"\n <title>{escape(title)}</title>\n <metadata>{escape(words)}</metadata>" if title else ""
    return f"{svg[:start]}{own or f'{chr(10)} <metadata>{escape(words)}</metadata>'}{svg[start:]}"


def _with_lengths(svg: str, style: Style) -> str:
    """An SVG file whose text is as long as it was laid out, in whatever font there is where it is shown."""

    def longer(found: Match[str]) -> str:
        weight = "bold" if re.search(r"font: (bold|700)|font-weight: (bold|700)", found[1]) else "normal"
        size = re.search(r"([\d.]+)px", found[1])
        if size is None:
            return found[0]
        long = measure(_plain(unescape(found[2])), style, float(size[1]), weight)[0]
        return f'<text textLength="{long:.6g}" lengthAdjust="spacingAndGlyphs"{found[1]}>{found[2]}</text>'

    return re.sub(r"<text([^>]*)>([^<]+)</text>", longer, svg)
