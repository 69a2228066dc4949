"""Targets: which candidates of a detector are explained, whether they were detected or not."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import DEFAULTS, Candidates, Detections, Thresholds, class_name, counted
from yolov5_featviz.text import near

Edges = Tuple[float, float, float, float]  # left, top, right and bottom edge
Place = Callable[[Sequence[float]], Sequence[float]]  # edges in the image -> in the network's input
OVERLAP = 0.5  # least IoU of a candidate with the place that it is to be at
FORMS = "person, person:0, :0, person@x0,y0,x1,y1 or @x0,y0,x1,y1"


class NothingFoundError(FeatvizError):
    """There is no detection, or no error, of the kind that is to be explained."""


class Case(NamedTuple):
    """A candidate as one of its classes: what an explanation explains.

    Attributes:
        row: among the candidates; -1 if an object was missed and there is none.
        number: class number.
        box: in pixels of the network's input.
        score: confidence.
        detection: number of the detection that it is; None if it was not detected.
        kind: kind of error, see :mod:`yolov5_featviz.models.tide`; empty if it is none, or no labels are known.
        note: in words, what is wrong, or why it was not detected.
        truth: the label's box, in pixels of the network's input, if it is an error that concerns a label.
    """

    row: int
    number: int
    box: Edges
    score: float
    detection: Optional[int] = None
    kind: str = ""
    note: str = ""
    truth: Optional[Edges] = None


class Asked(NamedTuple):
    """A target taken apart: class, rank among its detections, and place, each None if not given."""

    word: str
    rank: Optional[int] = None
    box: Optional[Edges] = None


def parse_target(target: Any) -> Asked:
    """Parse ``person``, ``0``, ``person:2``, ``:2``, ``person@x0,y0,x1,y1`` or ``@x0,y0,x1,y1``, and boxes.

    Raises:
        FeatvizError: it is none of these.
    """
    if isinstance(target, (list, tuple)):
        return Asked("", None, _edges(target, target))
    text = str("" if target is None else target)
    word, at, place = text.rpartition("@")
    if at:
        return Asked(word, None, _edges(place.split(","), target))
    word, colon, rank = text.rpartition(":")
    if not colon:
        return Asked(text)
    if not is_number(rank):
        raise FeatvizError(f"target {target!r} is not understood: take {FORMS}")
    return Asked(word, int(rank))


def _edges(parts: Sequence[Any], target: Any) -> Edges:
    try:
        left, top, right, bottom = (float(part) for part in parts)
    except (TypeError, ValueError):
        raise FeatvizError(f"target {target!r} is not understood: take {FORMS}") from None
    if not (left < right and top < bottom):
        raise FeatvizError(f"target {target!r} is empty: give left, top, right and bottom edge, in this order")
    return left, top, right, bottom


def class_number(word: str, names: Dict[int, str]) -> Optional[int]:
    """Return the number of a class, given by name or number; None for an empty word. Raises FeatvizError."""
    if not word:
        return None
    number = next((i for i, name in names.items() if name == word), int(word) if is_number(word) else None)
    if number is None or (names and number not in names):
        some = ", ".join(f"{name} ({i})" for i, name in list(names.items())[:8]) + ", ..." * (len(names) > 8)
        otherwise = f"there are {some}" if some else "give its number"
        raise FeatvizError(f"no class {word!r}{near(word, names.values(), otherwise)}")
    return number


def cases_of(
    detections: Detections,
    target: Optional[Union[str, int, Sequence[float]]] = None,
    thresholds: Thresholds = DEFAULTS,
    place: Place = tuple,
    region: Optional[Region] = None,
) -> List[Case]:
    """Return what a target names.

    Args:
        detections: in the image.
        target: None for all detections; a class by name or number; ``person:0`` for the person with the highest
            score, ``:0`` for the highest of all; ``person@x0,y0,x1,y1``, or a box, for the person, or anything,
            there, detected or not: the best candidate that overlaps the box by half.
        thresholds: those that the detections were made with.
        place: from pixels of the image that boxes are given in to those of the network's input.
        region: of the image in the input, to which boxes are cut before they are compared with a place.

    Raises:
        FeatvizError: the target is not understood, or there is nothing like that.
    """
    asked = parse_target(target)
    number = class_number(asked.word, detections.names)
    if asked.box is not None:
        return [_case_at(detections, number, tuple(place(asked.box)), asked.box, thresholds, region)]
    if not len(detections):
        raise NothingFoundError(f"nothing was detected above {thresholds.conf:g}: take a lower confidence threshold")
    rows = [i for i, kind in enumerate(detections.classes.tolist()) if number in (None, kind)]
    if len(rows) <= (asked.rank or 0):
        name = "object" if number is None else class_name(number, detections.names)
        which = "" if asked.rank is None else f" number {asked.rank}"
        every = counted(detections.classes, detections.names)
        raise NothingFoundError(f"no {name}{which} was detected; found: {every}")
    return [case_of(detections, i) for i in (rows if asked.rank is None else rows[asked.rank : asked.rank + 1])]


def case_of(detections: Detections, i: int) -> Case:
    """Return detection ``i`` as a case."""
    left, top, right, bottom = detections.boxes[i].tolist()
    row, number, score = int(detections.rows[i]), int(detections.classes[i]), float(detections.scores[i])
    return Case(row, number, (left, top, right, bottom), score, i)


def candidate_case(detections: Detections, row: int, number: int, thresholds: Thresholds) -> Case:
    """Return a candidate as a case: the detection that it is, or with a note why it was not detected."""
    same = ((detections.rows == row) & (detections.classes == number)).nonzero()[:, 0].tolist()
    if same:
        return case_of(detections, same[0])
    left, top, right, bottom = box_of(detections.candidates, row, number).tolist()
    score = float(detections.candidates.scores[row, number])
    return Case(row, number, (left, top, right, bottom), score, note=fate(detections, row, number, thresholds))


def box_of(candidates: Candidates, row: int, number: int) -> torch.Tensor:
    """Return the box of a candidate for a class, ``[4]``."""
    return candidates.boxes_of(torch.tensor([number]), torch.tensor([row]))[0]


def overlaps(candidates: Candidates, number: int, boxes: torch.Tensor, region: Optional[Region] = None) -> torch.Tensor:
    """Return the IoU of each candidate, as a class and cut to a region, with each of ``boxes [M, 4]``: ``[N, M]``."""
    from torchvision.ops import box_iou

    mine = cut(candidates.boxes_of(torch.full((len(candidates),), number)), region)
    return torch.nan_to_num(box_iou(mine, boxes))


def cut(boxes: torch.Tensor, region: Optional[Region]) -> torch.Tensor:
    """Cut boxes ``[..., 4]`` to a region, as YOLOv5 cuts them to the image; None leaves them as they are."""
    if region is None:
        return boxes
    lowest, highest = (torch.tensor(ends * 2, dtype=boxes.dtype) for ends in (region[:2], region[2:]))
    return torch.min(torch.max(boxes, lowest), highest)


def fate(detections: Detections, row: int, number: int, thresholds: Thresholds) -> str:
    """Say why a candidate is no detection of a class: its score, another class, or what suppressed it."""
    from torchvision.ops import box_iou

    scores = detections.candidates.scores[row]
    score, best = float(scores[number]), int(scores.argmax())
    if score <= thresholds.conf:
        shown = confidence(score)
        shown = shown if float(shown) < thresholds.conf else f"{score:.4g}"  # 0.247 is below 0.25
        return f"best candidate {shown}, below {thresholds.conf:g}"
    if best != number:
        taken = f"{detections.name(best)} {confidence(float(scores[best]))}"
        return f"best candidate {confidence(score)}, taken for {taken}"
    same = ((detections.classes == number) & (detections.scores >= score)).nonzero()[:, 0]
    if len(same):
        shares = box_iou(box_of(detections.candidates, row, number)[None], detections.boxes[same])[0]
        if float(shares.max()) > thresholds.iou:
            by = detections.label(int(same[shares.argmax()]))
            return f"suppressed by {by} (overlap {float(shares.max()):.2f})"
    return f"best candidate {confidence(score)}, not among the {thresholds.most} that the detector keeps"


def is_number(word: str) -> bool:
    """Whether a word is a number of a class or detection."""
    return word.isdecimal() and len(word) < 10


def confidence(score: float) -> str:
    """Format a confidence: two decimals, or one digit where that would be 0."""
    return f"{score:.2f}" if score >= 0.01 or score == 0 else f"{score:.1g}"


def _case_at(
    detections: Detections,
    number: Optional[int],
    box: Sequence[float],
    given: Edges,
    thresholds: Thresholds,
    region: Optional[Region],
) -> Case:
    """Return the detection that overlaps a box best, or the best candidate there."""
    from torchvision.ops import box_iou

    there = torch.tensor([list(box)], dtype=torch.float32)
    words = ",".join(f"{edge:g}" for edge in given)
    rows = [i for i, kind in enumerate(detections.classes.tolist()) if number in (None, kind)]
    if rows:
        shares = box_iou(there, cut(detections.boxes[rows], region))[0]
        if float(shares.max()) >= OVERLAP:
            return case_of(detections, rows[int(shares.argmax())])
    best: Optional[Tuple[float, int, int]] = None  # score, row, class
    candidates = detections.candidates
    numbers = [number] if number is not None else list(range(candidates.scores.shape[1] if len(candidates) else 0))
    shared = overlaps(candidates, 0, there, region)[:, 0] if len(candidates) and candidates.boxes.dim() == 2 else None
    for kind in numbers if len(candidates) else ():
        share = overlaps(candidates, kind, there, region)[:, 0] if shared is None else shared
        near_by = (share >= OVERLAP).nonzero()[:, 0]
        if len(near_by):
            top = int(near_by[candidates.scores[near_by, kind].argmax()])
            score = float(candidates.scores[top, kind])
            best = max(filter(None, (best, (score, top, kind))))
    if best is None:
        raise FeatvizError(f"no candidate overlaps {words} by half: give a box in pixels of the image")
    return candidate_case(detections, best[1], best[2], thresholds)
