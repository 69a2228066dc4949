"""Layout of a figure's panels, titles and colour bars in whole pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.draw.palette import over_grey, palette_of
from yolov5_featviz.draw.record import spans
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.figures.style import LEAST, LINE, LINES, Style, text_extent, wrap

BAR = 4.0  # height of a colour bar in points
NAMED = 6  # channels to name below a panel, best first
CORNERS = ("upper left", "upper right", "lower left", "lower right")

# (height, width) to paint and the part of the image to show (in image pixels) -> uint8 RGB
Paint = Callable[[Tuple[int, int], Region], np.ndarray]


class Overlay(NamedTuple):
    """How a map is laid over a photograph; see :meth:`yolov5_featviz.draw.heatmap.HeatMap.over`."""

    alpha: float
    blend: str = "mix"
    centre: float = 0.0


class Bar(NamedTuple):
    """Colour bar: colour map, labels of both ends, quantity, and overlay if the map is over a photograph.

    Panels with equal bars share one. With an empty ``high`` it is words without colours.
    """

    cmap: str
    low: str
    high: str
    words: str = ""
    over: Optional[Overlay] = None

    @property
    def palette(self) -> np.ndarray:
        """The colours as they appear, ``[256, 3]``: those of an overlay over mid-grey."""
        return over_grey(self.cmap, *self.over) if self.over else palette_of(self.cmap)


class Zoom(NamedTuple):
    """Inset that enlarges ``box`` to ``share`` of the panel's width; corner None: the one farthest from it."""

    box: Region
    corner: Optional[str] = None
    share: float = 0.4


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of a figure.

    Attributes:
        paint: renders its pixels.
        window: part of the image shown: left, top, right and bottom edge in image pixels.
        boxes: boxes to draw, in image pixels.
        zoom: inset, if any.
        bar: colour bar, if any.
        named: whether to label boxes with class names and scores.
        numbers: the channel of each tile of a grid.
        channels: words below the panel that name its channels; left out if its tiles have their numbers.
        note: words before these.
    """

    paint: Paint
    window: Region
    boxes: Optional[Boxes] = None
    zoom: Optional[Zoom] = None
    bar: Optional[Bar] = None
    named: bool = True
    numbers: Sequence[int] = ()
    channels: str = ""
    note: str = ""

    @property
    def aspect(self) -> float:
        """Aspect ratio, height / width."""
        left, top, right, bottom = self.window
        return (bottom - top) / (right - left)


class Place(NamedTuple):
    """Left and top edge, width and height in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Layout:
    width: int
    height: int
    panels: List[List[Place]]
    columns: List[Place]
    rows: List[Place]
    bars: List[Tuple[Bar, Place, List[Tuple[str, str, str]]]]


def lay_out(
    panels: Sequence[Sequence[Optional[Panel]]], columns: Sequence[str], rows: Sequence[str], style: Style
) -> Layout:
    """Place panels, titles and colour bars; see :func:`yolov5_featviz.figures.composition.compose`."""

    def pixels(points: float) -> int:
        return round(points * style.dpi / 72)

    line, gap = pixels(LINE * style.font_size), pixels(style.gap)
    left, widths, heights = _beside_titles(panels, rows, style, line, gap)
    if min(widths) < pixels(12):
        raise FeatvizError(
            f"{len(columns)} columns do not fit in {style.width:.3g} inches: take a larger width, or fewer of them"
        )
    xs = [left + sum(widths[:c]) + c * gap for c in range(len(widths))]
    above = [wrap(words, w * 72 / style.dpi, style) for words, w in zip(columns, widths)]
    head = max((words.count("\n") + 1 for words in above if words), default=0)
    head_h = head * line + pixels(1) * bool(head)
    y = head_h if style.titles == "top" else 0
    places: List[List[Place]] = []
    row_places: List[Place] = []
    bars: List[Tuple[Bar, Place, List[Tuple[str, str, str]]]] = []
    under = _bars_below(panels)
    for r, row in enumerate(panels):
        row_places.append(Place(0, y, left, heights[r]))
        places.append([_centred(panel, x, y, w, heights[r]) for panel, x, w in zip(row, xs, widths)])
        y += heights[r]
        captions = _captions(row, places[r], xs, widths, style)
        bars += captions
        y += max((place.height for _, place, _ in captions), default=0)
        for bar_line in under.get(r, []):
            y += pixels(2)
            ends = [(bar, xs[first], xs[last] + widths[last]) for bar, first, last in bar_line]
            said = [
                bar._replace(words="; ".join(filter(None, [bar.words, _numbers_of(bar, panels, places, style)])))
                for bar, _, _ in ends
            ]
            below = [bar_lines(bar, (end - x) * 72 / style.dpi, style) for bar, (_, x, end) in zip(said, ends)]
            bar_h = pixels(BAR) + max(map(len, below)) * pixels(1.2 * style.small)
            bars += [(bar, Place(x, y, end - x, bar_h), lines) for (bar, x, end), lines in zip(ends, below)]
            y += bar_h
        y += gap + pixels(1) * (r in under or bool(captions)) if r + 1 < len(panels) else 0
    top = 0 if style.titles == "top" else y + pixels(1) * bool(head)
    column_places = [Place(x, top, w, head_h) for x, w in zip(xs, widths)]
    height = y + (head_h + pixels(1) if style.titles == "bottom" and head else 0)
    return Layout(round(style.width * style.dpi), height, places, column_places, row_places, bars)


def _beside_titles(
    panels: Sequence[Sequence[Optional[Panel]]], rows: Sequence[str], style: Style, line: int, gap: int
) -> Tuple[int, List[int], List[int]]:
    """Compute the width of the row titles, the column widths and the row heights, in pixels.

    Iterates, since the wrapping of row titles depends on the row heights, and these on the titles' width.
    """
    aspects = np.array([[panel.aspect if panel else np.nan for panel in row] for row in panels])
    for lines in range(LINES + 1):
        left = lines * line + round(2 * style.dpi / 72) * bool(lines)
        widths, heights = _sizes(aspects, round(style.width * style.dpi) - left - gap * (len(panels[0]) - 1))
        turned = [wrap(words, height * 72 / style.dpi, style) for words, height in zip(rows, heights)]
        if all(words.count("\n") < lines for words in turned if words):
            break
    return left, widths, heights


def _centred(panel: Optional[Panel], x: int, y: int, width: int, height: int) -> Place:
    """Centre a panel in its cell."""
    w, h = width, height
    if panel is not None:
        w, h = min(w, round(h / panel.aspect)), min(h, round(w * panel.aspect))
    return Place(x + (width - w) // 2, y + (height - h) // 2, w, h)


def _sizes(aspects: np.ndarray, width: int) -> Tuple[List[int], List[int]]:
    """Compute column widths and row heights in pixels for panels of these aspect ratios within ``width``."""
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
    """Assign colour bars to rows: lines of bars, each with its first and last column, by row."""
    extents: Dict[Bar, Tuple[int, int, int]] = {}
    for r, row in enumerate(panels):
        for c, panel in enumerate(row):
            if panel is not None and panel.bar is not None:
                _, first, last = extents.get(panel.bar, (r, c, c))
                extents[panel.bar] = r, min(first, c), max(last, c)
    under: Dict[int, List[List[Tuple[Bar, int, int]]]] = {}
    for bar, (r, first, last) in sorted(extents.items(), key=lambda item: item[1]):
        lines = under.setdefault(r, [])
        free = [line for line in lines if all(last < start or first > end for _, start, end in line)]
        if free:
            free[0].append((bar, first, last))
        else:
            lines.append([(bar, first, last)])
    return under


def bar_lines(bar: Bar, room: float, style: Style) -> List[Tuple[str, str, str]]:
    """Lay out the labels of a colour bar ``room`` points long: lines of what is at its left, centre and right.

    The words stand between the ends if they fit, else below them; an end that does not fit beside the other, too.
    """

    def fits(*words: str) -> bool:
        return sum(text_extent(word, style, style.small)[0] + style.small / 2 for word in words) <= room

    longer = max(bar.low, bar.high, key=len)
    if bar.words and fits(longer, bar.words, longer):
        return [(bar.low, bar.words, bar.high)]
    ends = [(bar.low, "", bar.high)] if fits(bar.low, bar.high) else [(bar.low, "", ""), ("", "", bar.high)]
    words = wrap(bar.words, room, style, style.small, 2 * LINES).split("\n") if bar.words else []
    return [*(ends if bar.low or bar.high else []), *(("", line, "") for line in words)]


def tile_places(count: int, size: Tuple[int, int]) -> List[Place]:
    """Return the places of ``count`` tiles in a square grid within a panel of this height and width."""
    height, width = size
    side, gap = math.ceil(math.sqrt(count)), max(1, round(width / 150))
    ys, xs = (np.rint(np.linspace(0, length + gap, side + 1)).astype(int).tolist() for length in (height, width))
    corners = [divmod(i, side) for i in range(count)]
    return [Place(xs[c], ys[r], xs[c + 1] - gap - xs[c], ys[r + 1] - gap - ys[r]) for r, c in corners]


def number_places(panel: Panel, place: Place, style: Style) -> List[Place]:
    """Return the places of the channel numbers in the tiles' upper left corners, below the panel's letter.

    Empty if one of them would cover more than two thirds of a tile's width, or half of its height.
    """
    unit = style.dpi / 72
    letter = round((text_extent(style.letter, style, weight="bold")[1] + 2) * unit) if style.letters == "panels" else 0
    found = []
    for i, (tile, k) in enumerate(zip(tile_places(len(panel.numbers), (place.height, place.width)), panel.numbers)):
        wide, high = round((text_extent(str(k), style, LEAST)[0] + 2) * unit), round((0.73 * LEAST + 2) * unit)
        down = 0 if i else letter
        if 3 * wide > 2 * tile.width or 2 * high > tile.height - down:
            return []
        found.append(Place(tile.x, tile.y + down, wide, high))
    return found


def named_channels(channels: Sequence[int]) -> str:
    """Name channels, best first: ``channel 5``, ``channels 40, 3, 17``, or the first six ``and 10 more``."""
    shown = channels if len(channels) <= NAMED + 1 else channels[:NAMED]
    words = f"channel{'s' * (len(channels) > 1)} {', '.join(map(str, shown))}"
    return words if len(shown) == len(channels) else f"{words} and {len(channels) - len(shown)} more"


def _captions(
    row: Sequence[Optional[Panel]], places: Sequence[Place], xs: Sequence[int], widths: Sequence[int], style: Style
) -> List[Tuple[Bar, Place, List[Tuple[str, str, str]]]]:
    """Place the words below the panels of a row, each within its column, as colour bars without colours."""
    found = []
    for panel, place, x, width in zip(row, places, xs, widths):
        numbered = panel is not None and bool(panel.numbers) and bool(number_places(panel, place, style))
        words = ": ".join(filter(None, [panel.note, panel.channels * (not numbered)])) if panel else ""
        if words:
            bar = Bar("", "", "", words)
            lines = bar_lines(bar, width * 72 / style.dpi - style.small / 2, style)
            height = len(lines) * round(1.2 * style.small * style.dpi / 72)
            found.append((bar, Place(x, place.y + place.height, width, height), lines))
    return found


def number_words(numbers: Sequence[int]) -> str:
    """Format channel numbers for a reader: ``3, 8–15``."""
    return f"{numbers[0]}" if len(numbers) == 1 else spans(numbers).replace(",", ", ").replace("-", "–")


def _numbers_of(
    bar: Bar, panels: Sequence[Sequence[Optional[Panel]]], places: Sequence[Sequence[Place]], style: Style
) -> str:
    """Return the channel numbers for which a colour bar's panels have no room, for its words."""
    grids = [
        (number_words(panel.numbers), bool(number_places(panel, place, style)))
        for row, row_places in zip(panels, places)
        for panel, place in zip(row, row_places)
        if panel and panel.numbers and panel.bar == bar
    ]
    lists = dict.fromkeys(words for words, drawn in grids if not drawn)
    which = "tiles without numbers" if any(drawn for _, drawn in grids) else "channels"
    return f"{which}, row by row: {'; '.join(lists)}" if lists else ""
