"""Figures that explain the same objects in several models: a row for each object, a column for each model."""

from __future__ import annotations

from math import ceil
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.attribution.explain import METHODS, Explanation
from yolov5_featviz.compare.objects import Object
from yolov5_featviz.compare.options import CompareOptions
from yolov5_featviz.draw.record import number
from yolov5_featviz.draw.scale import end_words
from yolov5_featviz.figures.composition import Composition, compose
from yolov5_featviz.figures.layout import Bar, Overlay, Panel
from yolov5_featviz.figures.painters import heat, photograph, scale_between
from yolov5_featviz.figures.style import Style, plain
from yolov5_featviz.models.targets import Edges, confidence
from yolov5_featviz.models.tide import MISSED

PAGE_INCHES = 9.0  # height of a journal's page, without its caption
BAR_INCHES, LINE_INCHES, CAPTION_INCHES = 0.3, 0.12, 2.4  # of a colour bar with its words; of a line, and its length
SHAPES = 0.5, 0.75  # least and most height of a part of an image as a share of its width, if the object allows it
SHARE = 0.4  # least width of a part as a share of that of the image
AROUND = 0.2  # margin around the object as a share of its longer side
EMPTY = 235  # grey of a panel without a map
# quantity in which maps of two models can be compared; methods that are not here have none
UNITS = {
    "layer-cam": "logits of each model's own score",
    "odam": "logits of each model's own score",
    "grad-cam": "logits of each model's own score",
    "ss-grad-cam++": "no unit",
    "d-rise": "mean similarity above the least",
}

Shown = Union[Explanation, str]  # of an object in a model; or why there is none, empty if for want of a candidate


class Scale(NamedTuple):
    """Scale of a row.

    Attributes:
        peaks: highest value of each model's map in the image; 0 if it has none above 0.
        together: whether the highest of all is the end of the scale of each.
        bar: the colour bar.
    """

    peaks: Sequence[float]
    together: bool
    bar: Bar

    def top(self, m: int) -> float:
        """Return the value that is 1 in the map of model ``m``."""
        return max(self.peaks) if self.together else self.peaks[m]


def draw_objects(
    image: str,
    names: Sequence[str],
    pixels: np.ndarray,
    objects: Sequence[Object],
    maps: Sequence[Sequence[Shown]],
    o: CompareOptions,
) -> List[Tuple[str, Composition]]:
    """Draw pages with one row per object: the object, then its map of each model.

    Args:
        image: name of the image.
        names: names of the models.
        pixels: of the image, uint8 RGB ``[H, W, 3]``.
        objects: in the order of the rows.
        maps: of each object the map of each model, or why there is none.
        o: options.

    Returns:
        Stem of the file and figure of each page.
    """
    size = int(pixels.shape[0]), int(pixels.shape[1])
    windows = [window_of(one, row, size) for one, row in zip(objects, maps)]
    every = [one for row in maps for one in row if isinstance(one, Explanation)]
    unit = common_unit(o.method, every)
    scales = [scale_of(row, o, unit) for row in maps]
    photo, below = photograph(pixels), photograph(pixels, o.desaturate)
    style = Style(width=o.width, font_size=7, dpi=o.dpi)
    found = []
    for page, shown in enumerate(_pages(windows, o.width / (len(names) + 1)), 1):
        rows: List[List[Optional[Panel]]] = []
        for k in shown:
            one, scale = objects[k], scales[k]
            kind = np.array([one.number])
            named = Boxes(np.array([one.box]), labels=[one.name], classes=kind)
            row: List[Optional[Panel]] = [Panel(photo, windows[k], named)]
            for m, explanation in enumerate(maps[k]):
                note = plain(_caption(one, m, scale, explanation))
                if isinstance(explanation, str):
                    row.append(Panel(_empty, windows[k], note=note))
                    continue
                fm = explanation.heat.feature_map
                scaled = scale_between(np.maximum(fm.values[0], 0), (0, scale.top(m)))
                paint = heat(scaled, fm, size, o.cmap, "bilinear", below, Overlay(o.alpha))
                box = Boxes(np.array([one.cases[m].box]), classes=kind)
                row.append(Panel(paint, windows[k], box, bar=scale.bar, named=False, note=note))
            rows.append(row)
        titles = [f"{k + 1}: {plain(objects[k].title)}{' (flip)' * objects[k].is_flip}" for k in shown]
        columns = ["Label" if all(objects[k].is_label for k in shown) else "Object", *names]
        about = {
            "shows": "explanations",
            "method": o.method,
            "layers": list(dict.fromkeys("+".join(one.layers) for one in every if one.layers)),
            "objects": [_about(k + 1, objects[k], names, scales[k]) for k in shown],
        }
        title = f"{image}: {METHODS[o.method]} of the same objects in {', '.join(names)}"
        stem = f"{image}_cam" + (f"_page{page}" if page > 1 else "")
        found.append((stem, compose(rows, columns, titles, style, title, about)))
    return found


def _pages(windows: Sequence[Region], wide: float) -> List[List[int]]:
    """Distribute rows of panels ``wide`` inches wide over pages."""
    pages: List[List[int]] = []
    room, below = 0.0, BAR_INCHES + LINE_INCHES * ceil(CAPTION_INCHES / wide)
    for k, (left, top, right, bottom) in enumerate(windows):
        tall = wide * (bottom - top) / (right - left) + below
        if not pages or tall > room:
            pages.append([])
            room = PAGE_INCHES
        pages[-1].append(k)
        room -= tall
    return pages


def common_unit(method: str, maps: Sequence[Explanation]) -> Optional[str]:
    """Return the quantity in which maps of several models can be compared; None if they cannot.

    They cannot if the method depends on the scale of the activations, which each model has of its own; if maps of
    several layers were merged, each scaled; or if cells differ in size, and so in what one of them is worth.
    """
    merged = any(len(one.layers) > 1 for one in maps)
    cells = {one.heat.feature_map.stride for one in maps}
    return None if merged or len(cells) > 1 else UNITS.get(method)


def scale_of(row: Sequence[Shown], o: CompareOptions, unit: Optional[str]) -> Scale:
    """Return the scale of the maps of one object: from 0 to the highest value of all models, or of each."""
    peaks = [_peak(one)[0] if isinstance(one, Explanation) else 0.0 for one in row]
    every = dict.fromkeys("+".join(one.layers) for one in row if isinstance(one, Explanation))
    layers = " / ".join(filter(None, every))
    words = METHODS[o.method] + f" of layer {plain(layers)}" * bool(layers)
    most = end_words(max(peaks))[0]
    if not any(peaks):
        bar = Bar(o.cmap, "", "", f"{words}, all values ≤ 0")
    elif unit is None:
        bar = Bar(o.cmap, "0", "max", f"{words}, each map to its own maximum", Overlay(o.alpha))
    else:
        bar = Bar(o.cmap, "0", most, f"{words}, {unit}", Overlay(o.alpha))
    return Scale(peaks, unit is not None, bar)


def _peak(explanation: Explanation) -> Tuple[float, Tuple[int, int]]:
    """Return the highest value of a map in the image, at least 0, and its cell: row and column."""
    fm = explanation.heat.feature_map
    there = fm.in_image if fm.in_image.any() else np.ones(fm.size, bool)
    values = np.where(there & np.isfinite(fm.values[0]), fm.values[0], 0).clip(min=0)
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    return float(values[row, column]), (int(row), int(column))


def window_of(one: Object, row: Sequence[Shown], size: Tuple[int, int]) -> Region:
    """Return the part of an image, ``(height, width)``, to show: with all boxes, and the highest cell of each map."""
    parts: List[Edges] = [one.box]
    for case, explanation in zip(one.cases, row):
        if isinstance(explanation, Explanation):
            parts.append(case.box)
            value, cell = _peak(explanation)
            parts += [_cell(explanation, cell)] if value > 0 else []
    height, width = size
    margin = AROUND * max(one.box[2] - one.box[0], one.box[3] - one.box[1])
    edges = np.array(parts)
    low = (edges[:, :2].min(axis=0) - margin).clip(0, (width - 1, height - 1))
    high = (edges[:, 2:].max(axis=0) + margin).clip(low + 1, (width, height))
    shape = float(np.clip(height / width, *SHAPES))
    across, down = (high - low).tolist()
    across = min(max(across, down / shape, SHARE * width), width)
    down = min(max(down, across * shape), height)
    left, right = _centred(low[0], high[0], across, width)
    top, bottom = _centred(low[1], high[1], down, height)
    return left, top, right, bottom


def _centred(low: float, high: float, length: float, whole: float) -> Tuple[float, float]:
    """Return whole edges of a part of this length around the middle of a span, moved into ``whole``."""
    length = min(float(np.ceil(length)), whole)
    start = float(np.clip(np.rint((low + high - length) / 2), 0, whole - length))
    return start, start + length


def _cell(explanation: Explanation, cell: Tuple[int, int]) -> Edges:
    """Return the edges of a cell of a map in pixels of the image."""
    fm = explanation.heat.feature_map
    left, top, right, bottom = fm.window
    down, across = fm.stride or (1.0, 1.0)
    x, y = explanation.size[1] / (right - left), explanation.size[0] / (bottom - top)
    row, column = cell
    x0, y0 = (column * across - left) * x, (row * down - top) * y
    return x0, y0, x0 + across * x, y0 + down * y


def _empty(size: Tuple[int, int], window: Region) -> np.ndarray:
    """Paint a panel without a map."""
    return np.full((*size, 3), EMPTY, np.uint8)


def _caption(one: Object, m: int, scale: Scale, shown: Shown) -> str:
    """Say what model ``m`` makes of an object, and how high its map is on a common scale, or why there is none."""
    case = one.cases[m]
    if one.found[m]:
        words = f"{one.title} {confidence(case.score)}"
    elif case.row < 0:
        words = case.note
    elif one.kind or not (one.is_label or any(one.found)):
        words = f"not detected: {case.note}"
    elif case.kind in ("", MISSED):
        words = f"missed: {case.note}"
    else:
        words = f"{one.name} {confidence(case.score)}, {case.kind}: {case.note}"
    if isinstance(shown, str):
        return "; ".join(filter(None, [words, shown.partition(": ")[0]]))
    if not scale.peaks[m]:
        return f"{words}; no value above 0"
    return f"{words}; peak {scale.peaks[m] / max(scale.peaks):.0%}" if scale.together else words


def _about(row: int, one: Object, names: Sequence[str], scale: Scale) -> Dict[str, Any]:
    return {
        "row": row,
        "class": one.name,
        "box": [number(edge) for edge in one.box],
        "found_by": [name for name, found in zip(names, one.found) if found],
        "peaks": [number(peak) for peak in scale.peaks],
    }
