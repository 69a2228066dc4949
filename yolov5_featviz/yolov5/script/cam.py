"""Class activation maps of what a script detected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.attribution.cam import cam
from yolov5_featviz.attribution.explain import Explanation, explain_input, overviews
from yolov5_featviz.draw.heatmap import HeatMap
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import Thresholds, names_of, without_gradients
from yolov5_featviz.models.layers import Target
from yolov5_featviz.models.targets import NothingFoundError, cases_of, class_number, parse_target
from yolov5_featviz.models.tide import is_kind
from yolov5_featviz.runs.look import Look
from yolov5_featviz.yolov5.script.batch import Batch, Visit


class Explained(NamedTuple):
    """Class activation maps of an image, and the explanations of single detections that they combine, if any."""

    heats: Sequence[HeatMap]
    explanations: Sequence[Explanation] = ()


def explained(item: Batch, i: int, visit: Visit, layers: str, look: Look, log: Callable[[str], None]) -> Explained:
    """Explain what a script detected in image ``i`` of a batch.

    Detections are found among the candidates of a pass with gradients on that image alone. Of those that are not
    there, as with test-time augmentation and ensembles, ``log`` is told the number; if it is all of them, what the
    model itself detects is explained, with the script's thresholds. Where the script ran no detection, and for
    ``eigen-cam``, which depends on none, see :func:`yolov5_featviz.attribution.cam.cam`.

    Raises:
        NothingFoundError: the script detected nothing of what is to be explained.
        FeatvizError: it cannot be explained.
    """
    names: Any = getattr(visit.model, "names", ())
    images, boxes, limits = visit.images[i : i + 1], item.boxes(i, names), item.thresholds
    how: Dict[str, Any] = {"method": look.method, "smooth": look.smooth, "conf": limits.conf, "iou": limits.iou}
    how["size"] = item.sizes[i] if i < len(item.sizes) else None
    how.update(region=item.region(i, visit.images), name=item.name(i))
    if boxes is None or look.method == "eigen-cam":
        heats = cam(visit.model, images, layers, look.target, merge=look.merge, **how)
        return Explained([_with_boxes(heat, boxes) for heat in heats])

    def explain(target: Any, **more: Any) -> List[Explanation]:
        return explain_input(visit.model, images, target, layers=layers, merge=False, **how, **more)

    known = names_of(names)
    wrong = is_kind(str(look.target), known.values())
    if look.target is None or wrong:
        labels = item.labels(i, visit.images)
        how["labels"] = labels
        if wrong and labels is None:
            raise FeatvizError(f"target {look.target!r} needs labels, and none are known")
    word, _, place = parse_target(None if wrong else look.target)
    at = f"{word}@{','.join(map(str, place))}" if place else None
    whole = place or how.get("labels") is not None  # what was missed is explained, too
    found = boxes if whole else _named(boxes, known, look.target, limits)
    target = look.target if wrong else at
    lost: List[int] = []
    try:
        every = explain(target, found=found, lost=lost.append)
    except NothingFoundError:
        raise
    except FeatvizError:
        if lost != [len(found)]:
            raise
        log(f"all {len(found)} detections {origin(item, visit)}: those that the model alone makes are explained")
        every = explain(at) if at else _same_classes(explain(look.target), found)
    else:
        if lost:
            log(f"{lost[0]} of {len(found)} detections {origin(item, visit)}, and are not explained")
    shown = [one for one in every if one.detected] if target is None else every
    if shown and all(one.detected for one in shown):
        return Explained([_with_boxes(heat, boxes) for heat in overviews(shown, look.merge)], every)
    return Explained(overviews(shown or every, look.merge), every)


def _named(boxes: Boxes, names: Dict[int, str], target: Target, limits: Thresholds) -> Boxes:
    """Return those of a script's detections that a target names. Raises NothingFoundError if there are none."""
    class_number(parse_target(target).word, names)  # a class that there is not is an error
    if not len(boxes):
        raise NothingFoundError("nothing was detected")
    every = replace(without_gradients(boxes.xyxy, boxes.scores, boxes.classes), names=names)
    return boxes.take([case.row for case in cases_of(every, target, limits)])


def _same_classes(explanations: Sequence[Explanation], found: Boxes) -> List[Explanation]:
    """Return the explanations of objects of the classes that were found. Raises FeatvizError if there are none."""
    kinds = [] if found.classes is None else found.classes.tolist()
    every = [one for one in explanations if one.number in kinds]
    if not every:
        raise FeatvizError("the model alone detects nothing of these classes")
    return every


def origin(item: Batch, visit: Visit) -> str:
    """Say where detections come from that are no candidates of a model in a pass of its own."""
    if len(visit.passes) > 1:
        return "come from scaled or flipped copies of the image"
    return "come from other models" if len(item.visits) > 1 else "are no candidates of the model"


def _with_boxes(heat: HeatMap, boxes: Optional[Boxes]) -> HeatMap:
    return replace(heat, feature_map=replace(heat.feature_map, boxes=boxes))
