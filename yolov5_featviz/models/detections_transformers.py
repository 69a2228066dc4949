"""Detections of the object detectors of Hugging Face transformers: DETR, RT-DETR, YOLOS and their relatives.

The detections are those of ``post_process_object_detection`` of the model's image processor, with ``Thresholds.conf``
as threshold and its other arguments at their defaults; there is no suppression. The candidates are all queries. Boxes
are in pixels of ``pixel_values``, which must be without padding. Classes are named by ``config.id2label``.

- Softmax (DETR, Table Transformer, YOLOS): the best class of each query. The last class, "no object", counts as 0.
  The score of a candidate is ``a[k] - log(sum of exp(a[j]) over j != k)`` of its logits ``a``: the log odds of its
  confidence.
- Sigmoid (the others): the pairs of query and class of the highest confidence, 100 or as many as there are queries,
  so that a query may be detected as several classes. The score of a candidate is the class logit.

Models that are told what to find by text or by another image (Grounding DINO, OWL-ViT, OmDet) are not of this family,
nor are those for page layout and text lines (PP-DocLayout, PP-OCR), whose post-processing follows other rules.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np
import torch
from torch import nn

from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import (
    Candidates,
    Detections,
    Family,
    Thresholds,
    names_of,
    softmax_log_odds,
    unknown_output,
)
from yolov5_featviz.models.hooks import Hooks

SOFTMAX = (
    "DetrForObjectDetection",
    "DetrForSegmentation",
    "TableTransformerForObjectDetection",
    "YolosForObjectDetection",
)
SIGMOID: Mapping[str, Optional[int]] = {  # class -> the most detections; None: as many as there are queries
    "ConditionalDetrForObjectDetection": 100,
    "ConditionalDetrForSegmentation": 100,
    "DabDetrForObjectDetection": 100,
    "DeformableDetrForObjectDetection": 100,
    "LwDetrForObjectDetection": 100,
    "DFineForObjectDetection": None,
    "Deimv2ForObjectDetection": None,
    "RTDetrForObjectDetection": None,
    "RTDetrV2ForObjectDetection": None,
    "RfDetrForObjectDetection": None,
    "RfDetrForInstanceSegmentation": None,
}


class _Queries(NamedTuple):
    """What a model returned for the queries of one image.

    Attributes:
        logits: ``[N, C]``; of softmax with "no object" as the last class.
        boxes: centre, width and height as fractions of the input, ``[N, 4]``.
    """

    logits: torch.Tensor
    boxes: torch.Tensor


def _kind(model: nn.Module) -> Optional[str]:
    """Return which class of ``SOFTMAX`` or ``SIGMOID`` a model is; transformers is not imported for that."""
    names = [c.__name__ for c in type(model).__mro__ if c.__module__.startswith("transformers.models.")]
    return next((name for name in names if name in SOFTMAX or name in SIGMOID), None)


@contextmanager
def _watch(model: nn.Module) -> Iterator[Callable[[Any, Thresholds], Detections]]:
    """Keep the size of the model's input within the block; yield the function from its output to detections."""
    sizes: List[Tuple[int, int]] = []

    def keep(module: nn.Module, args: Any, kwargs: Optional[Dict[str, Any]] = None) -> None:
        images = args[0] if args else (kwargs or {}).get("pixel_values")
        if isinstance(images, torch.Tensor) and images.dim() == 4:
            sizes.append((int(images.shape[2]), int(images.shape[3])))

    def found(output: Any, thresholds: Thresholds) -> Detections:
        queries = _first(output)
        if queries is None:
            raise unknown_output(model, output)
        if not sizes:
            raise FeatvizError(
                f"{type(model).__name__} was not run on pixel_values [B, C, H, W] within the block that watches it; "
                "before torch 2.0 they must not be given as a keyword"
            )
        return _detections(model, queries, sizes[-1], thresholds.conf)

    hooks = Hooks()
    try:
        hooks.add(model, before=keep)
        yield found
    finally:
        hooks.remove()


TRANSFORMERS = Family(lambda model: _kind(model) is not None, _watch)


def _first(output: Any) -> Optional[_Queries]:
    """Return the first image's part of an output, a dictionary or a tuple; None if it is not understood."""
    if isinstance(output, dict):
        pairs = [(output.get("logits"), output.get("pred_boxes"))]
    elif isinstance(output, (list, tuple)):  # of return_dict=False: the loss, if any, comes before
        pairs = list(zip(output, output[1:]))
    else:
        return None
    for logits, boxes in pairs:
        if (
            isinstance(logits, torch.Tensor)
            and isinstance(boxes, torch.Tensor)
            and logits.dim() == 3
            and boxes.shape == (*logits.shape[:2], 4)
            and len(logits)
        ):
            return _Queries(logits[0], boxes[0])
    return None


def _detections(model: Any, queries: _Queries, size: Tuple[int, int], threshold: float) -> Detections:
    kind = str(_kind(model))
    logits = queries.logits.detach()
    softmax = kind in SOFTMAX
    confidences = logits.softmax(dim=1) if softmax else logits.sigmoid()  # in the model's own precision
    if softmax:
        confidences[:, -1] = 0
        rows, classes = _best(confidences, threshold)
    else:
        rows, classes = _top(confidences, threshold, SIGMOID[kind])

    def score(row: int, number: int) -> torch.Tensor:
        logits = queries.logits[row]
        return softmax_log_odds(logits, number) if softmax else logits[number].float()

    def box(row: int, number: int) -> torch.Tensor:
        return _corners(queries.boxes[row], size)

    boxes, scores = _corners(queries.boxes.detach(), size).cpu(), confidences.float().cpu()
    candidates = Candidates(boxes, scores, score, box if queries.boxes.requires_grad else None)
    return Detections(boxes[rows], scores[rows, classes], classes, names_of(model.config.id2label), rows, candidates)


def _best(confidences: torch.Tensor, threshold: float) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return the rows whose best class is above the threshold, best first, and these classes."""
    scores, classes = confidences.max(dim=1)
    rows = (scores > threshold).nonzero()[:, 0].cpu()
    rows = rows[torch.from_numpy(np.argsort(-scores.float().cpu()[rows].numpy(), kind="stable"))]
    return rows, classes.cpu()[rows]


def _top(confidences: torch.Tensor, threshold: float, most: Optional[int]) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return rows and classes of the highest confidences, best first: at most ``most``, all above the threshold."""
    queries, classes = confidences.shape
    scores, places = confidences.flatten().topk(min(most or queries, queries * classes))
    places = places[scores > threshold].cpu()
    return torch.div(places, classes, rounding_mode="floor"), places % classes


def _corners(boxes: torch.Tensor, size: Tuple[int, int]) -> torch.Tensor:
    """Convert centre, width and height as fractions to left, top, right and bottom edge in pixels, ``[..., 4]``."""
    x, y, width, height = boxes.float().unbind(-1)
    down, across = size
    edges = [(x - width / 2) * across, (y - height / 2) * down, (x + width / 2) * across, (y + height / 2) * down]
    return torch.stack(edges, dim=-1)
