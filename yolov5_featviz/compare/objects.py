"""Objects in one image, and what each of several models makes of them: found, or missed, and with which candidate."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
import torch

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import DEFAULTS, Detections, Thresholds, class_name
from yolov5_featviz.models.targets import (
    OVERLAP,
    Asked,
    Case,
    Edges,
    candidate_case,
    case_of,
    cases_of,
    class_number,
    is_number,
    parse_target,
)
from yolov5_featviz.models.tide import BOX, CLASS, DUPLICATE, ERRORS, FALSE, KINDS, MISSED, errors_of, is_kind

NO_CANDIDATE = "no candidate overlaps it by half"


class Object(NamedTuple):
    """An object in an image.

    Attributes:
        name: of its class.
        number: of its class in the first model that has it, for its colour.
        box: in pixels of the image: of its label, else of the detection with the highest score.
        cases: for each model its detection, or the best candidate for it. The row is -1 if there is none.
        found: for each model, whether it detected the object.
        kind: ``false`` or ``duplicate`` if it is none, by the labels.
        is_label: whether it is a label.
    """

    name: str
    number: int
    box: Edges
    cases: Tuple[Case, ...]
    found: Tuple[bool, ...]
    kind: str = ""
    is_label: bool = False

    @property
    def score(self) -> float:
        """The highest score of the models that found it, or of the candidates if none did."""
        scores = [case.score for case, found in zip(self.cases, self.found) if found]
        return max(scores or [case.score for case in self.cases])

    @property
    def is_flip(self) -> bool:
        """Whether one model found it, and another did not."""
        return not self.kind and any(self.found) and not all(self.found)

    @property
    def title(self) -> str:
        """Name of its class, and whether it is a false detection or a duplicate: ``person``, ``false person``."""
        return f"{self.kind} {self.name}".strip()


class Sight(NamedTuple):
    """What one model makes of an image.

    Attributes:
        detections: with all candidates, in pixels of the image.
        errors: against the labels, in pixels of the image; empty without labels.
        names: class names of ``errors`` by number; the labels' classes that the model does not have are the last.
    """

    detections: Detections
    errors: Sequence[Case]
    names: Dict[int, str]


def in_image(detections: Detections, region: Region, size: Tuple[int, int]) -> Detections:
    """Convert boxes from pixels of the input, in which the image is at ``region``, to those of the image.

    Classes without a name get one by their number.
    """
    left, top, right, bottom = region
    offset = torch.tensor([left, top] * 2)
    factor = torch.tensor([size[1] / (right - left), size[0] / (bottom - top)] * 2)
    candidates = replace(detections.candidates, boxes=(detections.candidates.boxes - offset) * factor)
    names = {k: class_name(k, detections.names) for k in range(candidates.scores.shape[1])}
    boxes = (detections.boxes - offset) * factor
    return replace(detections, boxes=boxes, names={**names, **detections.names}, candidates=candidates)


def sights(
    models: Sequence[Detections], labels: Optional[Boxes], classes: Dict[int, str], thresholds: Thresholds
) -> List[Sight]:
    """Judge each model's detections by the labels.

    Args:
        models: the detections of each, in pixels of the image.
        labels: in pixels of the image; None if there are none.
        classes: names of the labels' class numbers. Each model's own numbers are found by name; a label of a class
            that a model does not have is missed.
        thresholds: those that the detections were made with.
    """
    if labels is None or labels.classes is None:
        return [Sight(one, (), one.names) for one in models]
    words = [classes[k] for k in labels.classes.tolist()]
    found = []
    for one in models:
        wider = _widened(one, words)
        numbers = {name: number for number, name in reversed(list(wider.names.items()))}
        true = Boxes(labels.xyxy, labels=words, classes=np.array([numbers[word] for word in words], np.int64))
        errors = [_judged(case, one, wider.names) for case in errors_of(wider, true, thresholds)]
        found.append(Sight(one, errors, wider.names))
    return found


def _widened(detections: Detections, names: Sequence[str]) -> Detections:
    """Return the same detections of a model that has all of these classes, with a score of 0 where it had none."""
    missing = [name for name in dict.fromkeys(names) if name not in detections.names.values()]
    scores = detections.candidates.scores
    first = max([scores.shape[1] - 1, *detections.names]) + 1
    padded = torch.cat([scores, scores.new_zeros(len(scores), first - scores.shape[1] + len(missing))], dim=1)
    candidates = replace(detections.candidates, scores=padded)
    return replace(detections, names={**detections.names, **dict(enumerate(missing, first))}, candidates=candidates)


def _judged(case: Case, detections: Detections, names: Dict[int, str]) -> Case:
    """Return an error, without a candidate if it is of a class that the model does not have."""
    name = names[case.number]
    return case if name in detections.names.values() else case._replace(row=-1, note=no_class(name))


def no_class(name: str) -> str:
    """Say that a model does not have a class."""
    return f"the model has no class {name}"


def find_objects(
    seen: Sequence[Sight],
    labels: Optional[Boxes],
    classes: Dict[int, str],
    target: Optional[str] = None,
    thresholds: Thresholds = DEFAULTS,
) -> List[Object]:
    """Find the objects of an image in several models, flips first, then by score.

    Objects are the labelled ones or, without labels, the detections of all models, those of the same class that
    overlap by half (IoU) taken for one, at most one of each model. They are matched greedily, the highest score first.

    Args:
        seen: what each model makes of the image; see :func:`sights`.
        labels: in pixels of the image; None if there are none.
        classes: names of the labels' class numbers.
        target: which objects; see :func:`check_target`. None for all.
        thresholds: those that the detections were made with.

    Raises:
        FeatvizError: there is no such object.
    """
    models, labelled = [one.detections for one in seen], labels is not None
    true: List[_Group] = []
    if labels is not None and labels.classes is not None:
        true = [_Group(classes[k], _edges(box), {}) for k, box in zip(labels.classes.tolist(), labels.xyxy.tolist())]
    every = [_object(group, seen, labelled, thresholds) for group in _grouped(models, true, not labelled)]
    every.sort(key=lambda one: -one.score)
    chosen = _chosen(every, seen, target, thresholds)
    if not chosen:
        raise FeatvizError(_nothing(every, target, thresholds, labelled))
    return sorted(chosen, key=lambda one: (not one.is_flip, -one.score))


def check_target(target: Optional[str], names: Sequence[Dict[int, str]], labelled: bool) -> None:
    """Check a target before there are detections: a class, ``person:0``, ``person@x0,y0,x1,y1``, ``errors``...

    Args:
        target: a class by name, or by its number in the first model; ``person:0`` for the person with the highest
            score, ``:0`` for the object with the highest; ``person@x0,y0,x1,y1``, edges in pixels of the image, for
            what is there, detected or not, ``@x0,y0,x1,y1`` of any class; with labels ``errors``, or one kind of
            them: objects with which any model makes this error, of ``false`` and ``duplicate`` the detections.
        names: class names of each model.
        labelled: whether there are labels.

    Raises:
        FeatvizError: it is none of these.
    """
    if is_kind(target, _classes(names)):
        if not labelled:
            raise FeatvizError(f"target {target!r} needs labels, and none are known: give --labels")
        return
    class_named(parse_target(target), names)


def _classes(names: Sequence[Dict[int, str]]) -> Set[str]:
    """Return the class names of all models."""
    return {name for known in names for name in known.values()}


def class_named(asked: Asked, names: Sequence[Dict[int, str]]) -> Optional[str]:
    """Return the class name that a target asks for; None for any. Raises FeatvizError if no model has it."""
    known = dict(names[0])
    if not is_number(asked.word):
        others = dict.fromkeys(name for one in names[1:] for name in one.values() if name not in known.values())
        known.update(enumerate(others, max(known, default=0) + 1))
    number = class_number(asked.word, known)
    return None if number is None else known[number]


class _Group(NamedTuple):
    """Detections that are of one object: class name, box, and the number of the detection of each model."""

    name: str
    box: Edges
    of: Dict[int, int]


def _grouped(
    models: Sequence[Detections], groups: Sequence[_Group], more: bool, rows: Optional[Sequence[Sequence[int]]] = None
) -> List[_Group]:
    """Assign detections, the highest score first, to groups of their class that overlap them most, at least by half.

    Args:
        models: the detections of each model.
        groups: those that there are.
        more: whether what belongs to none begins one.
        rows: the detections of each model to take; None for all.
    """
    from torchvision.ops import box_iou

    found = [group._replace(of={}) for group in groups]
    pool = [
        (-float(one.scores[i]), m, i)
        for m, one in enumerate(models)
        for i in (range(len(one)) if rows is None else rows[m])
    ]
    for _, m, i in sorted(pool):
        name = models[m].name(int(models[m].classes[i]))
        free = [group for group in found if group.name == name and m not in group.of]
        if free:
            shares = torch.nan_to_num(box_iou(models[m].boxes[i : i + 1], torch.tensor([g.box for g in free]))[0])
            if float(shares.max()) >= OVERLAP:
                free[int(shares.argmax())].of[m] = i
                continue
        if more:
            found.append(_Group(name, _edges(models[m].boxes[i].tolist()), {m: i}))
    return found


def _object(group: _Group, seen: Sequence[Sight], labelled: bool, thresholds: Thresholds, kind: str = "") -> Object:
    cases = []
    for m, one in enumerate(seen):
        if m in group.of:
            cases.append(case_of(one.detections, group.of[m])._replace(kind=kind))
        elif labelled and not kind:
            cases.append(_wrong(one, group, thresholds))
        else:
            cases.append(_best(one.detections, group.name, group.box, thresholds))
    found = tuple(m in group.of for m in range(len(seen)))
    number = _first_number(seen, group.name)
    return Object(group.name, number, group.box, tuple(cases), found, kind, labelled and not kind)


def _first_number(seen: Sequence[Sight], name: str) -> int:
    return next((n for one in seen for n, known in one.detections.names.items() if known == name), 0)


def _best(detections: Detections, name: str, box: Edges, thresholds: Thresholds) -> Case:
    """Return the best candidate of a class at a box, with a note why it is not the object's detection."""
    if name not in detections.names.values():
        return Case(-1, -1, box, 0.0, note=no_class(name))
    try:
        (case,) = cases_of(detections, _at(name, box), thresholds)
    except FeatvizError:  # nothing is there
        return Case(-1, -1, box, 0.0, note=NO_CANDIDATE)
    if case.detection is not None:
        return case._replace(note=f"{detections.label(case.detection)} there counts for another object")
    return case


def _at(name: str, box: Edges) -> str:
    """Return the target of a class at a box; of any class for an empty name."""
    return f"{name}@{','.join(map(repr, box))}"


def _wrong(seen: Sight, group: _Group, thresholds: Thresholds) -> Case:
    """Return the error by which a labelled object was not found, with a candidate of its class."""
    about = [case for case in seen.errors if _is_about(case, group, seen.names)]
    error = max(about, key=lambda case: (case.kind == MISSED, _overlap(case.box, group.box)), default=None)
    if error is None or error.kind == CLASS:
        case = _best(seen.detections, group.name, group.box, thresholds)
        if error is None or error.detection is None:
            return case._replace(kind=MISSED)
        return case._replace(kind=CLASS, note=f"{seen.detections.label(error.detection)}; {case.note}")
    if error.row < 0 or error.kind != MISSED:
        return error
    if _overlap(error.box, group.box) < OVERLAP:
        return error._replace(row=-1, note=NO_CANDIDATE)
    return candidate_case(seen.detections, error.row, error.number, thresholds)._replace(kind=MISSED)


def _is_about(case: Case, group: _Group, names: Dict[int, str]) -> bool:
    """Whether an error is why a label was not found."""
    if case.kind in (MISSED, BOX):
        return case.truth == group.box and names[case.number] == group.name
    return case.kind == CLASS and case.truth == group.box


def _chosen(every: List[Object], seen: Sequence[Sight], target: Optional[str], thresholds: Thresholds) -> List[Object]:
    """Return the objects, best first, that a target names."""
    names = [one.detections.names for one in seen]
    if target is None:
        return every
    if is_kind(target, _classes(names)):
        kinds = KINDS if target == ERRORS else (target,)
        chosen = [one for one in every if any(case.kind in kinds for case in one.cases)]
        for kind in (FALSE, DUPLICATE):
            chosen += _mistaken(seen, kind, thresholds) if kind in kinds else []
        return chosen
    asked = parse_target(target)
    name = class_named(asked, names)
    alike = [one for one in every if name in (None, one.name)]
    if asked.box is not None:
        return [_there(alike, seen, name or "", asked.box, thresholds)]
    return alike if asked.rank is None else alike[asked.rank : asked.rank + 1]


def _mistaken(seen: Sequence[Sight], kind: str, thresholds: Thresholds) -> List[Object]:
    """Return the detections that are an error of a kind, those of several models at one place taken for one."""
    wrong = [[case.detection for case in one.errors if case.kind == kind] for one in seen]
    rows = [[i for i in one if i is not None] for one in wrong]
    groups = _grouped([one.detections for one in seen], [], True, rows)
    return [_object(group, seen, True, thresholds, kind) for group in groups]


def _there(every: Sequence[Object], seen: Sequence[Sight], name: str, box: Edges, thresholds: Thresholds) -> Object:
    """Return the object at a box or, if there is none, the best candidates there. Raises FeatvizError without any."""
    nearest = max(every, key=lambda one: _overlap(one.box, box), default=None)
    if nearest is not None and _overlap(nearest.box, box) >= OVERLAP:
        return nearest
    if not name:
        tops: List[Tuple[float, str]] = []
        for one in seen:
            with suppress(FeatvizError):
                (case,) = cases_of(one.detections, _at("", box), thresholds)
                tops.append((case.score, one.detections.name(case.number)))
        name = max(tops, default=(0.0, ""))[1]
    cases = [_best(one.detections, name, box, thresholds) for one in seen]
    if all(case.row < 0 for case in cases):
        edges = ",".join(f"{edge:g}" for edge in box)
        raise FeatvizError(f"no candidate of any model overlaps {edges} by half: give a box in pixels of the image")
    found = tuple(case.detection is not None for case in cases)
    cases = [case._replace(note="") if one else case for case, one in zip(cases, found)]
    return Object(name, _first_number(seen, name), box, tuple(cases), found)


def _nothing(every: Sequence[Object], target: Optional[str], thresholds: Thresholds, labelled: bool) -> str:
    """Say why there is no object to show."""
    if not every and not labelled:
        return f"no model detects anything above {thresholds.conf:g}: take a lower --conf-thres"
    if not every:
        return "no object is labelled"
    there = ", ".join(f"{count} × {name}" for name, count in Counter(one.name for one in every).items())
    return f"nothing for target {target!r}; there is: {there}"


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the IoU of two boxes."""
    from torchvision.ops import box_iou

    return float(torch.nan_to_num(box_iou(torch.tensor([list(one)]), torch.tensor([list(other)])))[0, 0])


def _edges(box: Sequence[float]) -> Edges:
    left, top, right, bottom = box
    return left, top, right, bottom
