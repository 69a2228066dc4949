"""Data of explanations in the report: the boxes that they are about, and their maps."""

from __future__ import annotations

from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import LONGEST, Boxes
from yolov5_featviz.arrays.image import smaller
from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.attribution.explain import Explanation, overview
from yolov5_featviz.draw.heatmap import HeatMap
from yolov5_featviz.draw.lettering import SEPARATOR
from yolov5_featviz.models.targets import Edges, confidence
from yolov5_featviz.runs.report_maps import numbers, stored
from yolov5_featviz.runs.report_words import listed, shown
from yolov5_featviz.text import printable

ADDED = 50  # boxes that are not among the selectable detections
NEAR = 0.01  # greatest distance of equal boxes, as a fraction of the image


class Mark(NamedTuple):
    """A selectable box of the page.

    Attributes:
        box: left, top, right and bottom edge as fractions of the image.
        label: class name.
        caption: class and score.
        number: class number, if known.
        about: the first of its explanations; None if it has none.
    """

    box: Edges
    label: str
    caption: str
    number: Optional[int]
    about: Optional[Explanation] = None

    @property
    def kind(self) -> str:
        """Kind of error; empty if it is none, or none is known."""
        return self.about.kind if self.about is not None else ""

    @property
    def detected(self) -> bool:
        return self.about is None or self.about.detected

    @property
    def said(self) -> str:
        """The caption, and what is wrong."""
        return self.about.caption if self.about is not None and (self.kind or not self.detected) else self.caption


def errors_in(explanations: Sequence[Explanation]) -> List[Explanation]:
    """Return one explanation of each error."""
    found: Dict[Any, Explanation] = {}
    for one in explanations:
        if one.kind:
            found.setdefault(identity(one), one)
    return list(found.values())


def marks_of(boxes: Optional[Boxes], explanations: Sequence[Explanation]) -> Tuple[List[Mark], List[Optional[int]]]:
    """Combine the selectable detections with what is explained.

    Args:
        boxes: detections, as fractions of the image.
        explanations: of any of these, of other detections, and of what was not detected.

    Returns:
        ``(marks, places)``: all boxes, the detections first, then at most ``ADDED`` others; and for each
        explanation the index of its box, None if it has no room.
    """
    known = boxes if boxes is not None else Boxes(np.zeros((0, 4)))
    numbers: Sequence[Optional[int]] = [None] * len(known) if known.classes is None else known.classes.tolist()
    marks = [
        Mark(_edges(box), known.labels[i] if known.labels else "", known.caption(i) or f"box {i + 1}", numbers[i])
        for i, box in enumerate(known.xyxy)
    ]
    added: Dict[Any, int] = {}
    places: List[Optional[int]] = []
    for one in explanations:
        height, width = one.size
        box = _edges(np.array(one.box) / (width, height, width, height))
        at = _same(one, box, known) if one.detected else None
        if at is None:
            at = added.get(identity(one))
            if at is None and len(added) < ADDED:
                at = added[identity(one)] = len(marks)
                number = None if len(known) and known.classes is None else one.number
                label = printable(one.label, LONGEST)
                marks.append(Mark(box, label, f"{label} {confidence(one.score)}", number))
        places.append(at)
        if at is not None and marks[at].about is None:
            marks[at] = marks[at]._replace(about=one)
    return marks, places


def identity(one: Explanation) -> Any:
    """Return what is equal for explanations of one box in several layers."""
    return one.detected, one.label, one.kind, one.box, one.truth


def _same(one: Explanation, box: Edges, known: Boxes) -> Optional[int]:
    """Return the index of the detection that an explanation is about, if it is among the known ones."""
    away = np.abs(known.xyxy.clip(0, 1) - np.array(box).clip(0, 1)).max(axis=1, initial=0)  # those explained are cut
    far = away > NEAR
    if known.labels:
        far |= np.array([label != printable(one.label, LONGEST) for label in known.labels], bool)
    if far.all():
        return None
    if known.scores is not None:
        away = away + np.abs(known.scores - one.score)
    return int(np.where(far, np.inf, away).argmin())


def _edges(box: Any) -> Edges:
    left, top, right, bottom = (float(edge) for edge in box)
    return left, top, right, bottom


def spots_of(
    explanations: Sequence[Explanation], places: Sequence[Optional[int]], marks: Sequence[Mark], cells: int, side: int
) -> Tuple[List[Dict[str, Any]], List[List[HeatMap]], int]:
    """Collect the maps of explanations by layer.

    Args:
        explanations: of one image.
        places: index of the box of each; see :func:`marks_of`.
        marks: all boxes.
        cells: most cells of all maps of single boxes. Errors come first.
        side: most cells along the longer side of a map.

    Returns:
        ``(spots, heats, left_out)``. A spot is a layer, or several whose maps are merged, or the input. ``boxes`` are 0
        for all of its explanations together, then 1 + index for each box; ``says`` (one sentence), ``titles``,
        ``legends`` (the ends of the scale) and ``ends`` have an item for each of these, and ``data`` a map.
        ``shape`` is that of the layer, ``[H, W]``; ``label`` is short, ``title`` long; ``name``, ``grid``, ``window``,
        ``stride``, ``ends`` and ``data`` are as for feature maps, see :func:`yolov5_featviz.runs.report_data.entry`.
        ``heats`` are the maps of each as they were given; ``left_out`` is the number of explanations without room.
    """
    groups = _groups(explanations, places)
    wholes = [overview([explanations[i] for i in group]) for group in groups]
    sizes = {i: int(np.prod(smaller(whole.values, side).shape)) for whole, group in zip(wholes, groups) for i in group}
    turn: Dict[Optional[int], int] = {}
    for i in sizes:
        turn[places[i]] = min(i, turn.get(places[i], i))
    kept: Set[int] = set()
    for i in sorted(sizes, key=lambda i: (not explanations[i].kind, turn[places[i]], i)):
        cells -= sizes[i]
        if cells < 0:
            break
        kept.add(i)
    heats = [[whole, *(explanations[i].heat for i in group if i in kept)] for whole, group in zip(wholes, groups)]
    spots = [
        _spot(maps, [(explanations[i], places[i] or 0, i in kept) for i in group], marks, side)
        for maps, group in zip(heats, groups)
    ]
    names: Counter[str] = Counter()
    for spot in spots:
        names[spot["name"]] += 1
        if names[spot["name"]] > 1:
            again = f" ({names[spot['name']]})"
            spot.update({key: spot[key] + again for key in ("label", "title", "name")})
    return spots, heats, len(explanations) - len(kept)


def _groups(explanations: Sequence[Explanation], places: Sequence[Optional[int]]) -> List[List[int]]:
    """Group the explanations of boxes by their layers, or all together if no box has more than one.

    A group has no box twice: what several models, or methods, explain in layers of one name is in several groups.
    """
    there = [i for i, place in enumerate(places) if place is not None]
    if len({places[i] for i in there}) == len(there):
        return [there] if there else []
    found: Dict[Any, List[int]] = {}
    times: Counter[Any] = Counter()
    for i in there:
        one = explanations[i]
        key = one.method, one.layers, one.heat.feature_map.level
        times[key, places[i]] += 1
        found.setdefault((key, times[key, places[i]]), []).append(i)
    return list(found.values())


def _spot(
    heats: Sequence[HeatMap], group: Sequence[Tuple[Explanation, int, bool]], marks: Sequence[Mark], side: int
) -> Dict[str, Any]:
    """Collect the maps of one layer: ``heats``, all of ``group`` together, then those of it that are kept."""
    every = [one for one, _, _ in group]
    kept = [(one, place) for one, place, there in group if there]
    whole = heats[0]
    height, width = whole.values.shape
    maps = np.stack([smaller(resample(heat.values, (height, width)), side) for heat in heats])
    rows, columns = maps.shape[1:]
    fm, first = whole.feature_map, every[0]
    layers = list(dict.fromkeys(name for one in every for name in one.layers))
    level = f" {fm.level}" if fm.level is not None and len(layers) == 1 else ""
    where = _where(layers, first)
    scale = next((one.heat.legend for one in every if one.heat.legend.high), whole.legend)
    about = sorted({place for _, place, _ in group})
    whose = "the score of each" if len(about) == len(marks) > 1 else f"the score of {_all([marks[i] for i in about])}"
    name = ", ".join(layers) + level or "input"
    return {
        "name": name,
        "label": f"{name} {fm.layer.type}" if fm.layer.name in layers else name,
        "title": where or "the input",
        "shape": [height, width],
        "grid": [rows, columns],
        "window": numbers(np.array(fm.to_cells()) * ([columns / width, rows / height] * 2), 6),
        "stride": None if fm.stride is None else numbers(fm.stride),
        "boxes": [0, *(1 + place for _, place in kept)],
        "says": [
            shown(whose, first, where, not scale.high),
            *(shown("its score", one, _where(one.layers, one), not one.heat.legend.high) for one, _ in kept),
        ],
        "titles": [title_of(heat) for heat in heats],
        "legends": [[ends.low, ends.high] for ends in (scale, *(one.heat.legend for one, _ in kept))],
        **stored(maps),
    }


def _all(marks: Sequence[Mark]) -> str:
    return marks[0].caption if len(marks) == 1 else listed([mark.label for mark in marks])


def _where(layers: Sequence[str], one: Explanation) -> str:
    """Return layers in words, ``one`` being an explanation in the first of them; empty if there are none."""
    if not layers:
        return ""
    layer = one.heat.feature_map.layer
    if len(layers) > 1:
        return f"layers {', '.join(layers)}"
    return layer.title if layer.name == layers[0] else f"layer {layers[0]}"


def title_of(heat: HeatMap) -> str:
    """Return a map's title without the image's name."""
    start = f"{heat.feature_map.image}{SEPARATOR}"
    return heat.title[len(start) :] if heat.feature_map.image and heat.title.startswith(start) else heat.title
