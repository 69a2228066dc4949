"""Mean average precision of detections against labels, by the definitions of YOLOv5's ``val.py``."""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np
import torch

from yolov5_featviz.arrays.boxes import Boxes

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)


class Matches(NamedTuple):
    """Detections in one image, best first, against its labels.

    Attributes:
        hits: bool ``[K, 10]``, whether each is a true positive at each of ``IOUS``.
        scores: ``[K]``.
        classes: int ``[K]``, class numbers.
        truths: int ``[M]``, class numbers of the labels.
    """

    hits: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    truths: np.ndarray


class Precision(NamedTuple):
    """Average precisions of a model.

    Attributes:
        classes: int ``[C]``, the classes that have labels.
        objects: int ``[C]``, number of labels of each.
        values: ``[C, 10]``, average precision of each at each of ``IOUS``, 0 to 1.
        images: number of images.
    """

    classes: np.ndarray
    objects: np.ndarray
    values: np.ndarray
    images: int

    @property
    def map50(self) -> float:
        """Mean over classes at an IoU of 0.5; NaN without labels."""
        return float(self.values[:, 0].mean()) if len(self.values) else float("nan")

    @property
    def map(self) -> float:
        """Mean over classes and IoUs; NaN without labels."""
        return float(self.values.mean()) if len(self.values) else float("nan")


def match(found: Boxes, truths: Boxes) -> Matches:
    """Match the detections in one image with its labels.

    A detection goes to the label of its class with the highest IoU. At a threshold, it is a true positive if that IoU
    reaches it and no detection with a higher score goes to the same label with an IoU that does.

    Args:
        found: with ``scores`` and ``classes``.
        truths: with ``classes``, in the same pixels.
    """
    from torchvision.ops import box_iou

    numbers = _numbers(truths)
    scores = np.zeros(0) if found.scores is None else found.scores.astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    scores, classes = scores[order], _numbers(found)[order]
    hits = np.zeros((len(scores), len(IOUS)), bool)
    if len(scores) and len(numbers):
        share = box_iou(torch.from_numpy(found.xyxy[order]), torch.from_numpy(truths.xyxy.copy())).numpy()
        share = np.where(classes[:, None] == numbers, np.nan_to_num(share), 0)
        label, best = share.argmax(axis=1), share.max(axis=1)
        for k, iou in enumerate(IOUS):
            reaching = np.flatnonzero(best >= np.float32(iou))
            hits[reaching[np.unique(label[reaching], return_index=True)[1]], k] = True
    return Matches(hits, scores, classes, numbers)


def _numbers(boxes: Boxes) -> np.ndarray:
    return np.zeros(len(boxes), np.int64) if boxes.classes is None else boxes.classes


def average_precision(images: Sequence[Matches]) -> Precision:
    """Compute the average precision of each class that has labels.

    Detections of all images are ordered by score. The precision at a recall is the highest at this or a larger recall,
    interpolated linearly from 1 at a recall of 0, and 0 at 1; its area is taken by trapezoids between 101 recalls. A
    detector without errors therefore has 0.995.

    Args:
        images: of one model.
    """
    truths = np.concatenate([one.truths for one in images]) if images else np.zeros(0, np.int64)
    kinds, objects = np.unique(truths, return_counts=True)
    values = np.zeros((len(kinds), len(IOUS)))
    if len(kinds):
        scores = np.concatenate([one.scores for one in images])
        classes = np.concatenate([one.classes for one in images])
        hits = np.concatenate([one.hits for one in images])
        order = np.argsort(-scores, kind="stable")
        classes, hits = classes[order], hits[order]
        for row, kind, count in zip(values, kinds, objects):
            row[:] = [_area(column, count) for column in hits[classes == kind].T]
    return Precision(kinds, objects, values, len(images))


def _area(hits: np.ndarray, objects: int) -> float:
    """Return the average precision of detections ``[K]``, best first."""
    if not hits.any():
        return 0.0
    true = hits.cumsum()
    precision = true / np.arange(1, len(hits) + 1)
    reached = np.maximum.accumulate(np.append(precision, 0.0)[::-1])[::-1]
    curve = np.interp(RECALLS, [0.0, *(true / objects), 1.0], [1.0, *reached])
    return float((curve[1:] + curve[:-1]).sum() / 2 / (len(RECALLS) - 1))


class Scored(NamedTuple):
    """The average precisions of a model, and its name."""

    model: str
    precision: Precision
