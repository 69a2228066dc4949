"""The figure of mean deletion and insertion curves of methods of explanation."""

from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from yolov5_featviz.arrays.statistics import LEAST as LEAST_IMAGES
from yolov5_featviz.attribution.measured import BASELINES, METRICS, Measured
from yolov5_featviz.compare.faithfulness import CURVES, NAMES, Curves, mean_curves, methods_of
from yolov5_featviz.compare.summary import count, no_conclusion
from yolov5_featviz.draw.encode import parameters
from yolov5_featviz.draw.palette import BOX_COLOURS
from yolov5_featviz.draw.widths import WIDTHS
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.figures.composition import Composition, check_size, settings_of
from yolov5_featviz.figures.style import LEAST, LINE, Style, check_letters, font, plain, text_extent, wrap
from yolov5_featviz.text import printable

AXES = {  # kind of curve -> what its axis says
    "deletion": "share of pixels replaced",
    "insertion": "share of pixels shown",
}
CONFIDENCE = "relative confidence"
TOGETHER = 6  # most methods in one panel; of more each has a panel of its own
_COLOURS = [BOX_COLOURS[i] for i in (6, 0, 3, 4, 1, 5)]  # without yellow and white, which paper hides
_MARKERS = "os^Dv*"
_DASHES: Tuple[Any, ...] = ((0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (2, 1)))
_GREYS = ("0.45", "0.45", "0.3", "0.6")
_MARKED = 6  # markers along a curve
_HANDLE = 18.0  # points of a line in the legend
_ACROSS = 4  # small panels side by side
_HIGHEST = 2.0  # relative confidence at most shown
_DEFAULTS = ("axes.", "figure.", "font.", "grid.", "lines.", "patch.", "path.", "text.", "xtick.", "ytick.")


class Look(NamedTuple):
    """Look of a curve: colour, dashes and marker."""

    colour: Any
    dashes: Any
    marker: str


class _Spot(NamedTuple):
    """A panel: its left, top, width and height in points, its curves and its words."""

    place: Tuple[float, float, float, float]
    kind: str
    methods: List[str]
    title: str
    left: bool = True
    bottom: bool = True
    named: bool = True  # whether the axes are


class _Plan(NamedTuple):
    """Where things are, in points from the top left corner.

    Attributes:
        spots: the panels.
        heads: words, centre and base line of headings.
        foot: top of the legend.
        keys: methods in the legend.
    """

    spots: List[_Spot]
    heads: List[Tuple[str, float, float]]
    foot: float
    keys: List[str]


def look_of(method: str, methods: Sequence[str]) -> Look:
    """Return how a method is drawn: in a colour, with a marker of its own; a baseline dashed in grey.

    Of more than ``TOGETHER`` methods each has a panel of its own, and all look alike.
    """
    if method in BASELINES:
        at = [*BASELINES].index(method)
        return Look(_GREYS[at % len(_GREYS)], _DASHES[at % len(_DASHES)], "")
    own = [name for name in methods if name not in BASELINES]
    at = own.index(method) if len(own) <= TOGETHER else 0
    r, g, b = _COLOURS[at]
    return Look((r / 255, g / 255, b / 255), "-", _MARKERS[at] if len(own) <= TOGETHER else "")


def top_of(curves: Curves) -> float:
    """Return the relative confidence at the top of the axes: 1, or what curves and intervals need, at most 2."""
    ends = [end for of in curves.values() for point in of for end in (point.mean, point.high) if math.isfinite(end)]
    return min(max([1.0, *ends]), _HIGHEST)


def draw_curves(
    rows: Sequence[Measured],
    width: float = WIDTHS["ieee-column"],
    dpi: int = 300,
    about: Optional[Mapping[str, Any]] = None,
    curves: Optional[Curves] = None,
) -> Composition:
    """Draw mean deletion and insertion curves of each method, with pointwise 95 % intervals as bands.

    Baselines are grey and dashed. Methods differ in colour and marker, so that they can be told apart in grey; of more
    than ``TOGETHER`` each has a panel of its own, with the baselines.

    Args:
        rows: one a detection and method.
        width: in inches.
        dpi: pixels per inch.
        about: how the numbers were made, for the record in the file.
        curves: of :func:`~yolov5_featviz.compare.faithfulness.mean_curves`, if they were computed already.

    Raises:
        FeatvizError: there is no curve, the width or resolution is out of range, or no font has the letters of a name.
    """
    curves = mean_curves(rows) if curves is None else curves
    if not curves:
        raise FeatvizError("there are no curves to draw: no method made a map")
    style = Style(width=width, font_size=7, dpi=dpi)
    methods = [name for name in methods_of(rows) if any((name, kind) in curves for kind in CURVES)]
    images, detections = len({row.image for row in rows}), len({(row.image, row.detection) for row in rows})
    with parameters(_pinned(style)):
        figure = _draw(methods, curves, style, _note(images, detections))
    steps = max(map(len, curves.values())) - 1
    made = {"shows": "curves", "methods": methods, "count": [images, detections], "steps": steps}
    return Composition(figure, style, "Deletion and insertion curves", {**(about or {}), **made})


def _note(images: int, detections: int) -> str:
    of = f"Means of {count(detections, 'detection')} in {count(images, 'image')}"
    return f"{of}; bands: 95 % intervals." if images >= LEAST_IMAGES else f"{of}. {no_conclusion(images)}."


def _pinned(style: Style) -> Dict[str, Any]:
    """Return matplotlib's parameters against the user's settings, so that the file is reproducible."""
    import matplotlib

    library: Any = matplotlib
    defaults = {name: value for name, value in library.rcParamsDefault.items() if name.startswith(_DEFAULTS)}
    return {**defaults, **settings_of(style)}


def _draw(methods: Sequence[str], curves: Curves, style: Style, note: str) -> Any:
    from matplotlib.figure import Figure

    names = {name: plain(printable(NAMES.get(name, name), 60)) for name in methods}
    for words in names.values():
        check_letters(words, style)
    width, line = style.width * 72, LINE * style.small
    own = [name for name in methods if name not in BASELINES]
    plan = _together(methods, style) if len(own) <= TOGETHER else _apart(methods, names, style)
    keys = [wrap(names[name], width - _HANDLE - 12, style, style.small, 1) for name in plan.keys]
    widest = max((text_extent(words, style, style.small)[0] for words in keys), default=0.0)
    columns = max(1, min(len(keys), int(width // (_HANDLE + 12 + widest))))
    deep = math.ceil(len(keys) / columns)
    if len(own) > TOGETHER:
        note += " One method a panel, with the baselines."
    notes = wrap(note, width - 4, style, style.small).split("\n")
    height = plan.foot + line * (deep + len(notes)) + 4
    pixels = [round(side * style.dpi / 72) for side in (width, height)]
    check_size(*pixels)
    figure = Figure(figsize=(pixels[0] / style.dpi, pixels[1] / style.dpi), dpi=style.dpi)
    for spot in plan.spots:
        x, y, wide, high = spot.place
        axes = figure.add_axes((x / width, 1 - (y + high) / height, wide / width, high / height))
        _panel(axes, spot, methods, curves, style, top_of(curves))
    sheet = figure.add_axes((0, 0, 1, 1))
    sheet.set_axis_off()
    sheet.set_xlim(0, width)
    sheet.set_ylim(height, 0)
    for words, x, y in plan.heads:
        sheet.text(x, y, words, fontproperties=font(style), ha="center", va="baseline")
    for i, (method, words) in enumerate(zip(plan.keys, keys)):
        at = 2 + (i // deep) * width / columns, plan.foot + (i % deep + 0.5) * line
        _key(sheet, at, look_of(method, methods), words, style)
    for k, words in enumerate(notes):
        y = plan.foot + (deep + k + 0.5) * line + 2 + 0.34 * style.small
        sheet.text(2, y, words, fontproperties=font(style, style.small), ha="left", va="baseline")
    return figure


def _together(methods: Sequence[str], style: Style) -> _Plan:
    """Plan one panel a kind of curve, with all methods in it."""
    tick = text_extent("0.5", style, style.small)[0]
    left, gap, top = 1.4 * style.font_size + tick + 6, tick + 8, LINE * style.font_size * 2 + 2
    width = (style.width * 72 - left - gap - 4) / 2
    height = min(width * 0.85, 150.0)
    spots = [
        _Spot((left + i * (width + gap), top, width, height), kind, [*methods], _better(kind, "\n"), left=i == 0)
        for i, kind in enumerate(CURVES)
    ]
    return _Plan(spots, [], top + height + 2 * LINE * style.font_size + 6, [*methods])


def _apart(methods: Sequence[str], names: Mapping[str, str], style: Style) -> _Plan:
    """Plan a panel for each method and kind of curve; the two kinds side by side if there is room, else in turn."""
    own, baselines = ([name for name in methods if (name in BASELINES) == known] for known in (False, True))
    tick, line = text_extent("0.5", style, style.small)[0], LINE * style.font_size
    left, gap = 1.4 * style.font_size + tick + 6, 5.0
    side_by_side = style.width >= 2 * WIDTHS["cvpr-column"]
    block = (style.width * 72 - 6) / (2 if side_by_side else 1) - 2
    across = min(_ACROSS, len(own))
    width = (block - left - (across - 1) * gap) / across
    height, title = 0.8 * width, LINE * LEAST
    down = math.ceil(len(own) / across)
    tall = line + down * (title + 2 + height + gap) + 2 * line + 4
    spots, heads = [], []
    for k, kind in enumerate(CURVES):
        x0, y0 = (k * (block + 6), 0.0) if side_by_side else (0.0, k * tall)
        heads.append((_better(kind, " "), x0 + left + (block - left) / 2, y0 + 0.8 * line))
        for i, name in enumerate(own):
            row, column = divmod(i, across)
            place = x0 + left + column * (width + gap), y0 + line + title + 2 + row * (title + 2 + height + gap)
            words = wrap(names[name], width + gap, style, LEAST, 1)
            last = i + across >= len(own)
            spot = _Spot((*place, width, height), kind, [*baselines, name], words, column == 0, last, named=False)
            spots.append(spot)
        foot = y0 + line + down * (title + 2 + height + gap) + style.small
        heads.append((AXES[kind], x0 + left + (block - left) / 2, foot + 0.9 * line))
    return _Plan(spots, heads, tall * (1 if side_by_side else 2), baselines)


def _better(kind: str, between: str) -> str:
    return f"{kind}{between}({METRICS[kind].better} is better)"


def _panel(axes: Any, spot: _Spot, methods: Sequence[str], curves: Curves, style: Style, highest: float) -> None:
    """Draw the curves of one panel."""
    small = not spot.named
    for method in sorted(spot.methods, key=lambda name: name not in BASELINES):
        points = curves.get((method, spot.kind), ())
        if not points:
            continue
        look, steps = look_of(method, methods), len(points) - 1
        x = [step / max(steps, 1) for step in range(steps + 1)]
        if any(math.isfinite(one.low) for one in points) and not (small and method in BASELINES):
            low, high = [one.low for one in points], [one.high for one in points]
            axes.fill_between(x, low, high, color=look.colour, alpha=0.25 if small else 0.15, linewidth=0, zorder=1)
        every = max(1, steps // _MARKED)
        axes.plot(
            x,
            [one.mean for one in points],
            color=look.colour,
            linestyle=look.dashes,
            linewidth=0.5 if small and method in BASELINES else 0.9,
            marker=look.marker,
            markersize=2.4,
            markeredgewidth=0,
            markevery=(methods.index(method) % every, every),
            zorder=2 if method in BASELINES else 3,
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02 * highest)
    ticks = [y for y in ((0, 1, 2) if small else (0, 0.5, 1, 1.5, 2)) if y <= 1.02 * highest]
    axes.set_xticks([0, 1] if small else [0, 0.5, 1])
    axes.set_xticklabels((["0", "1"] if small else ["0", "0.5", "1"]) if spot.bottom else [])
    axes.set_yticks(ticks)
    axes.set_yticklabels([f"{y:g}" for y in ticks] if spot.left or not small else [])
    axes.tick_params(width=0.5, length=2, pad=1.5)
    for side, spine in axes.spines.items():
        spine.set_linewidth(0.5)
        spine.set_visible(side in ("left", "bottom"))
    for text in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        text.set_fontproperties(font(style, LEAST if small else style.small))
    if small and spot.bottom:  # those of neighbours would touch
        for text, side in zip(axes.get_xticklabels(), ("left", "right")):
            text.set_horizontalalignment(side)
    size = LEAST if small else style.font_size
    axes.set_title(spot.title, fontproperties=font(style, size, words=spot.title), pad=2, linespacing=1.1)
    if spot.named:
        axes.set_xlabel(AXES[spot.kind], fontproperties=font(style), labelpad=1.5)
    if spot.left:
        axes.set_ylabel("confidence" if small else CONFIDENCE, fontproperties=font(style, size), labelpad=1.5)


def _key(sheet: Any, at: Tuple[float, float], look: Look, words: str, style: Style) -> None:
    """Draw an entry of the legend, in points."""
    x, y = at
    sheet.plot(
        [x, x + _HANDLE / 2, x + _HANDLE],
        [y] * 3,
        color=look.colour,
        linestyle=look.dashes,
        linewidth=0.9,
        marker=look.marker,
        markersize=2.8,
        markeredgewidth=0,
        markevery=[1],
    )
    prop = font(style, style.small, words=words)
    sheet.text(x + _HANDLE + 4, y + 0.34 * style.small, words, fontproperties=prop, ha="left", va="baseline")
