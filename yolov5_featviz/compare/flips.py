"""Tables of flips, objects that one model finds and another misses, and of errors against labels."""

from __future__ import annotations

from collections import Counter
from typing import Dict, List, NamedTuple, Sequence

from yolov5_featviz.compare.objects import Object, Sight
from yolov5_featviz.compare.tables import csv_text
from yolov5_featviz.models.targets import Case, confidence
from yolov5_featviz.models.tide import KINDS
from yolov5_featviz.text import align

NO_FLIPS = "no flips: whatever one model finds, all find"


class Flip(NamedTuple):
    """An object that some models find, and one of those that miss it.

    Attributes:
        image: name of the image.
        object: its number in the figure of the image, from 1.
        name: of its class.
        left, top, right, bottom: its box in pixels of the image.
        found_by: models that find it, with their scores.
        missed_by: a model that does not.
        best: score of that model's best candidate; NaN if there is none.
        why: why that is no detection of the object.
    """

    image: str
    object: int
    name: str
    left: float
    top: float
    right: float
    bottom: float
    found_by: str
    missed_by: str
    best: float
    why: str


class Mistake(NamedTuple):
    """An error of a model against the labels; see :mod:`yolov5_featviz.models.tide`."""

    image: str
    model: str
    kind: str
    name: str
    score: float
    note: str


def flips_of(image: str, models: Sequence[str], objects: Sequence[Object]) -> List[Flip]:
    """List the flips of an image, one for each model that misses an object.

    Args:
        image: name of the image.
        models: names of the models.
        objects: of the image, in the order of the figure.
    """
    flips: List[Flip] = []
    for number, one in enumerate(objects, 1):
        if not one.is_flip:
            continue
        every = list(zip(models, one.cases, one.found))
        found_by = ", ".join(f"{model} {confidence(case.score)}" for model, case, found in every if found)
        left, top, right, bottom = (round(edge, 1) for edge in one.box)
        where = (number, one.name, left, top, right, bottom, found_by)
        for model, case, found in every:
            if not found:
                flips.append(Flip(image, *where, model, _score(case), reason_of(case.kind, case.note)))
    return flips


def _score(case: Case) -> float:
    """Return the score of a candidate; NaN if there is none."""
    return case.score if case.row >= 0 else float("nan")


def reason_of(kind: str, note: str) -> str:
    """Say why an object was not found: the note, after the kind of error if there is more to it than that."""
    return note if kind in ("", "missed") else f"{kind}: {note}"


def mistakes_of(image: str, models: Sequence[str], seen: Sequence[Sight]) -> List[Mistake]:
    """List the errors of each model in an image, the worst first."""
    return [
        Mistake(image, model, case.kind, one.names[case.number], _score(case), case.note)
        for model, one in zip(models, seen)
        for case in one.errors
    ]


def flips_table(flips: Sequence[Flip]) -> str:
    """Format flips for the terminal."""
    if not flips:
        return NO_FLIPS
    head = ["image", "object", "found by", "missed by", "why"]
    lines = [[one.image, f"{one.object}: {one.name}", one.found_by, one.missed_by, one.why] for one in flips]
    return align([head, *lines])


def mistakes_table(models: Sequence[str], mistakes: Sequence[Mistake]) -> str:
    """Format the numbers of errors by model and kind for the terminal."""
    counts: Dict[object, int] = Counter((one.model, one.kind) for one in mistakes)
    lines = [[model, *(str(counts[model, kind]) for kind in KINDS)] for model in models]
    return align([["errors", *KINDS], *lines], right=range(1, 1 + len(KINDS)))


def flips_csv(flips: Sequence[Flip]) -> str:
    """Format flips as CSV."""
    head = ["class" if field == "name" else field for field in Flip._fields]
    return csv_text(head, flips)


def mistakes_csv(mistakes: Sequence[Mistake]) -> str:
    """Format errors as CSV."""
    return csv_text(["image", "model", "kind", "class", "score", "note"], mistakes)
