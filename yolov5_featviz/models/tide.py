"""Errors of detections against labels, by the rules of TIDE, each with the candidate that it is about.

D. Bolya, S. Foley, J. Hays and J. Hoffman, *TIDE: A General Toolbox for Identifying Object Detection Errors*, ECCV
2020. Detections are matched with labels of their class greedily, the highest score first, from an IoU of 0.5. What
remains:

- ``poor box``: IoU of 0.1 to 0.5 with a label of its class (TIDE: localisation);
- ``wrong class``: IoU of 0.5 or more with a label of another class (classification);
- ``duplicate``: IoU of 0.5 or more with a label of its class that is matched with a better detection;
- ``false``: neither (background; and TIDE's sixth kind, both class and box wrong);
- ``missed``: a label that is neither matched nor the subject of a ``poor box`` or ``wrong class``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Collection, Dict, Iterable, List, Optional, Sequence, Tuple

import torch

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import DEFAULTS, Detections, Thresholds
from yolov5_featviz.models.targets import OVERLAP, Case, candidate_case, case_of, confidence, cut, overlaps

BACKGROUND = 0.1  # IoU with a label below which a detection is of the background
FAINT = 0.01  # a candidate of a class with less is none
MISSED, FALSE, CLASS, BOX, DUPLICATE = "missed", "false", "wrong class", "poor box", "duplicate"
KINDS = (MISSED, FALSE, CLASS, BOX, DUPLICATE)
ERRORS = "errors"  # target: all kinds


def is_kind(target: Any, names: Collection[str] = ()) -> bool:
    """Whether a target is ``errors`` or a kind of them, and no class of that name."""
    return target in (ERRORS, *KINDS) and target not in names


def errors_of(
    detections: Detections, labels: Boxes, thresholds: Thresholds = DEFAULTS, region: Optional[Region] = None
) -> List[Case]:
    """Find the errors of detections, the worst first.

    Confident mistakes are worst: errors are ordered by the score of the detection; a missed object by one minus the
    score of its best candidate.

    Args:
        detections: in the image.
        labels: of the image, with ``classes``, in pixels of the network's input.
        thresholds: those that the detections were made with.
        region: of the image in the input, to which boxes are cut before they are compared, as YOLOv5's validation
            does; None to leave them as they are.

    Returns:
        A case for each error, with ``kind``, and ``note`` in words. Of a missed object the candidate is the one of
        its class with the highest score that overlaps it by half, and none of the other labels of the class more; or
        if none overlaps it by half, the one that overlaps it most. Its ``row`` is -1 if there are no candidates.

    Raises:
        FeatvizError: the labels have a class that the model does not have.
    """
    from torchvision.ops import box_iou

    truths = torch.from_numpy(labels.xyxy.copy())
    numbers = torch.zeros(0, dtype=torch.long) if labels.classes is None else torch.from_numpy(labels.classes.copy())
    check_classes(detections, numbers.tolist())
    boxes, truths = cut(detections.boxes, region), cut(truths, region)
    share = torch.nan_to_num(box_iou(boxes, truths)) if len(truths) else torch.zeros(len(detections), 0)
    same = detections.classes[:, None] == numbers[None]
    matched = _matched(share, same)
    found: List[Case] = []
    covered = set(matched.values())
    for i in range(len(detections)):
        if i in matched:
            continue
        kind, label, note = _kind_of(detections, i, share[i], same[i], labels)
        covered |= {label} if kind in (BOX, CLASS) and label is not None else set()
        truth = None if label is None else _edges(truths[label])
        found.append(case_of(detections, i)._replace(kind=kind, note=note, truth=truth))
    missed = [label for label in range(len(truths)) if label not in covered]
    found += [_missed(detections, truths, numbers, label, thresholds, region) for label in missed]
    return sorted(found, key=lambda case: -severity(case.kind, case.score))


def severity(kind: str, score: float) -> float:
    """Return how bad an error is, 0 to 1: its score, or for a missed object one minus that of its best candidate."""
    return 1 - score if kind == MISSED else score


def check_classes(detections: Detections, numbers: Sequence[int]) -> None:
    """Raise FeatvizError for labels with a class that the model does not have."""
    last = max([int(detections.candidates.scores.shape[-1]) - 1, *detections.names])
    strange = next((n for n in numbers if not 0 <= n <= last), None)
    if strange is not None and last >= 0:
        raise FeatvizError(
            f"the labels have class {strange}, the model has classes 0 to {last}: they are of another class list"
        )


def counts(errors: Iterable[Tuple[str, str]]) -> Dict[str, Dict[str, int]]:
    """Count errors, given by class name and kind: class name -> kind -> number, by class name."""
    found = Counter(errors)
    return {name: {kind: found[name, kind] for kind in KINDS} for name in sorted({name for name, _ in found})}


def _matched(share: torch.Tensor, same: torch.Tensor) -> Dict[int, int]:
    """Match detections ``[K]``, best first, with labels ``[M]`` of their class: detection -> label."""
    free = torch.ones(share.shape[1], dtype=torch.bool)
    found: Dict[int, int] = {}
    for i in range(len(share)):
        of = share[i] * (same[i] & free)
        if len(of) and float(of.max()) >= OVERLAP:
            found[i] = int(of.argmax())
            free[found[i]] = False
    return found


def _kind_of(
    detections: Detections, i: int, share: torch.Tensor, same: torch.Tensor, labels: Boxes
) -> Tuple[str, Optional[int], str]:
    """Return the kind of an unmatched detection, the label that it is about, and a note."""
    if not len(share):
        return FALSE, None, "the image has no labelled object"
    own, other = share * same, share * ~same
    names = [detections.name(int(n)) for n in labels.classes] if labels.classes is not None else []
    best = int(share.argmax())
    if BACKGROUND <= float(own.max()) < OVERLAP:
        label = int(own.argmax())
        return BOX, label, f"overlaps a {names[label]} by {_share(own[label])}, less than half"
    if float(other.max()) >= OVERLAP:
        label = int(other.argmax())
        return CLASS, label, f"labelled {names[label]} (overlap {float(other[label]):.2f})"
    if float(own.max()) >= OVERLAP:
        label = int(own.argmax())
        return DUPLICATE, label, f"its {names[label]} was found already (overlap {float(own[label]):.2f})"
    if float(share[best]) < BACKGROUND:
        return FALSE, None, "no labelled object there"
    return FALSE, None, f"nearest label: {names[best]} (overlap {float(share[best]):.2f})"


def _missed(
    detections: Detections,
    truths: torch.Tensor,
    numbers: torch.Tensor,
    label: int,
    thresholds: Thresholds,
    region: Optional[Region],
) -> Case:
    """Return the candidate that an object was missed with."""
    number, truth = int(numbers[label]), _edges(truths[label])
    candidates = detections.candidates
    if not len(candidates):
        return Case(-1, number, truth, 0.0, None, MISSED, "the detector has no candidate", truth)
    rivals = (numbers == number).nonzero()[:, 0]
    shares = overlaps(candidates, number, truths[rivals], region)
    mine = int((rivals == label).nonzero()[0, 0])
    theirs = shares.max(dim=1).values > shares[:, mine]
    for i in ((detections.classes == number).nonzero()[:, 0]).tolist():
        theirs[int(detections.rows[i])] = True  # found, as another object
    share = shares[:, mine].masked_fill(theirs, 0)
    near = (share >= OVERLAP).nonzero()[:, 0]
    if not float(share.max()) > 0:
        return Case(-1, number, truth, 0.0, None, MISSED, "no candidate overlaps it", truth)
    if not len(near):
        row = int(share.argmax())
        best = int(candidates.scores[row].argmax())
        nearest = f"{detections.name(best)} {confidence(float(candidates.scores[row, best]))}"
        case = candidate_case(detections, row, number, thresholds)
        note = f"no candidate overlaps by half; nearest: {nearest} (overlap {float(share[row]):.2f})"
        return case._replace(detection=None, kind=MISSED, note=note, truth=truth)
    row = int(near[candidates.scores[near, number].argmax()])
    case = candidate_case(detections, row, number, thresholds)
    top, classes = candidates.scores[near].max(dim=1)
    if case.score < FAINT and float(top.max()) > case.score:
        other = f"{detections.name(int(classes[top.argmax()]))} {confidence(float(top.max()))}"
        return case._replace(
            kind=MISSED, truth=truth, note=f"no candidate of this class overlaps by half; nearest: {other}"
        )
    return case._replace(kind=MISSED, truth=truth)


def _share(overlap: torch.Tensor) -> str:
    """Format an overlap of less than a half, with a third decimal where two would make it a half."""
    words = f"{float(overlap):.2f}"
    return words if words != f"{OVERLAP:.2f}" else f"{float(overlap):.3f}"


def _edges(box: torch.Tensor) -> Tuple[float, float, float, float]:
    left, top, right, bottom = (float(edge) for edge in box)
    return left, top, right, bottom
