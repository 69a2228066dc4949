"""Target scores for class activation maps: of a class, one detection, or all."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple, Union

import torch

from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import class_name, counted, names_of
from yolov5_featviz.models.layers import Target
from yolov5_featviz.models.outputs import describe_output, tensors_of
from yolov5_featviz.models.targets import class_number
from yolov5_featviz.models.targets import parse_target as _parsed

CONFIDENCE, OVERLAP = 0.25, 0.45  # detect.py's default thresholds


def parse_target(names: Any, target: Target) -> Tuple[Optional[int], Optional[int]]:
    """Parse ``person``, ``0``, ``person:2`` or ``:2`` into class and rank, None for what is omitted.

    Raises FeatvizError if there is no such class.
    """
    asked = _parsed(target)
    return class_number(asked.word, names_of(names)), asked.rank


def target_score(names: Any, output: Any, target: Target) -> Tuple[torch.Tensor, str]:
    """Compute the scores of a target from the output of a YOLOv5 model, with a description.

    For a classifier, the score of the class, a scalar. For a detector, a score ``[n]`` for each of the
    target's detections: the sum of its objectness and class logits, from which YOLOv5 computes the
    confidence: as in Grad-CAM, the score before the saturating function. Detections are the boxes with a
    confidence of at least 0.25 after non-maximum suppression at an IoU of 0.45 within each class.

    Args:
        names: the model's class names, a list or a dictionary by number; may be empty.
        output: the model's output in evaluation mode for one image.
        target: see :func:`yolov5_featviz.attribution.cam.cam`.

    Raises:
        FeatvizError: there is no such class, or no such detection.
    """
    known = names_of(names)
    tensors = [tensor for _, tensor in tensors_of(output)]
    decoded = next((t for t in tensors if t.dim() == 3 and t.shape[0] == 1), None)
    if decoded is None and len(tensors) == 1 and tensors[0].dim() == 2:
        return _class_score(tensors[0][0], known, target)
    raw = [t for t in tensors if t.dim() == 5]
    if decoded is None or not raw or sum(t[0, ..., 0].numel() for t in raw) != decoded.shape[1]:
        raise FeatvizError(
            f"the model yields {describe_output(output)}, not a YOLOv5 detector's output: give as target a "
            "function from the output to a score"
        )
    logits = torch.cat([t.reshape(-1, t.shape[-1]) for t in raw])
    classes = len(known) or decoded.shape[2] - 5
    rows, boxes, scores, kinds = _detections(decoded[0].detach().float(), classes)
    if not len(rows):
        raise FeatvizError(f"nothing was detected at a confidence of {CONFIDENCE}")
    if target is not None and not isinstance(target, (str, int)):
        chosen = _detection_at(target, boxes, counted(kinds, known))
    else:
        chosen = _detections_of(target, kinds, known)
    explained = logits[rows[chosen], 4] + logits[rows[chosen], 5 + kinds[chosen]]
    if len(chosen) == 1:
        return explained, f"{class_name(int(kinds[chosen]), known)} {scores[chosen].item():.2f}"
    return explained, counted(kinds[chosen], known)


def _class_score(scores: torch.Tensor, known: Dict[int, str], target: Target) -> Tuple[torch.Tensor, str]:
    """Return a class's score from a classifier's ``scores [classes]``; the top class if ``target`` is None."""
    number = int(scores.argmax()) if target is None else parse_target(known, target)[0]
    if number is None or number >= len(scores):
        raise FeatvizError(f"no class {target!r}: a classifier has classes 0 to {len(scores) - 1}")
    return scores[number], class_name(number, known)


def _detection_at(target: Any, boxes: torch.Tensor, found: str) -> torch.Tensor:
    """Return the index of the detection that overlaps a box best, ``[1]``."""
    from torchvision.ops import box_iou

    overlap: torch.Tensor = box_iou(torch.as_tensor(target, dtype=torch.float32)[None].to(boxes), boxes)[0]
    if overlap.max() < 0.5:
        raise FeatvizError(f"no detection at {', '.join(f'{edge:g}' for edge in target)}: found: {found}")
    return overlap.argmax()[None]


def _detections_of(target: Optional[Union[str, int]], kinds: torch.Tensor, known: Dict[int, str]) -> torch.Tensor:
    """Return the indices of the detections of a class, a class and a rank, or a rank; all for None."""
    number, rank = parse_target(known, target)
    chosen = torch.arange(len(kinds)) if number is None else (kinds == number).nonzero()[:, 0]
    if len(chosen) <= (rank or 0):
        name = "object" if number is None else class_name(number, known)
        which = "" if rank is None else f" number {rank}"
        raise FeatvizError(f"no {name}{which} was detected; found: {counted(kinds, known)}")
    return chosen if rank is None else chosen[rank : rank + 1]


def _detections(decoded: torch.Tensor, classes: int) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, boxes (left, top, right, bottom), confidences and classes of the detections, by confidence."""
    from torchvision.ops import batched_nms

    scores, kinds = (decoded[:, 4:5] * decoded[:, 5 : 5 + classes]).max(dim=1)
    rows = (scores >= CONFIDENCE).nonzero()[:, 0]
    centre, size = decoded[rows, :2], decoded[rows, 2:4]
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    kept = batched_nms(boxes, scores[rows], kinds[rows], OVERLAP)
    return rows[kept], boxes[kept], scores[rows[kept]], kinds[rows[kept]]
