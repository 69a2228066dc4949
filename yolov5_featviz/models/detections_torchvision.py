"""Detections of torchvision's detectors: RetinaNet, FCOS, SSD, SSDlite, Faster, Mask and Keypoint R-CNN.

The detections are those that the model returns, by its own thresholds and suppression: :class:`Thresholds` are not
used. The candidates are all anchors or locations of a one-stage model, and all proposals of a two-stage model, whose
boxes depend on the class. Boxes are in pixels of the image that the model is given, before the model resizes it.
Classes are torchvision's labels, without names; the confidence of the background, class 0 of SSD and R-CNN, counts
as 0.

The score of a candidate is for all models the log odds ``log(p / (1 - p))`` of its confidence ``p``, computed from the
logits, so that it does not saturate:

- RetinaNet: ``p = sigmoid(a)``, hence the class logit ``a``.
- FCOS: ``p = sqrt(sigmoid(a) sigmoid(b))`` with the logit ``b`` of the centreness. The sum ``a + b`` would not rise
  with ``p``.
- SSD and R-CNN: ``p = softmax(a)[k]``, hence ``a[k] - log(sum of exp(a[j]) over j != k)``.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple

import torch
from torch import nn
from torch.nn.functional import softplus

from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import (
    Candidates,
    Detections,
    Family,
    Frame,
    Thresholds,
    located,
    softmax_log_odds,
    unknown_output,
)
from yolov5_featviz.models.hooks import Hooks

TWO_STAGES = "GeneralizedRCNN"
KINDS = ("RetinaNet", "FCOS", "SSD", TWO_STAGES)  # base classes of all of torchvision's detectors


class _Head(NamedTuple):
    """What a model's head returned for an image.

    Attributes:
        logits: ``[N, C]``.
        offsets: of the boxes from ``anchors``, encoded, ``[N, 4]``; ``[N, 4 C]`` of two-stage models.
        anchors: anchors or proposals, in pixels of the resized image, ``[N, 4]``.
        centreness: its logit, ``[N]``; FCOS only.
        sizes: ``(height, width)`` of the resized image without padding, and of the image given.
    """

    logits: torch.Tensor
    offsets: torch.Tensor
    anchors: torch.Tensor
    centreness: Optional[torch.Tensor]
    sizes: Tuple[Tuple[int, int], Tuple[int, int]]


def _kind(model: nn.Module) -> Optional[str]:
    """Return which of ``KINDS`` a model is; torchvision is not imported for that."""
    names = {c.__name__ for c in type(model).__mro__ if c.__module__.startswith("torchvision.models.detection")}
    kind = next((kind for kind in KINDS if kind in names), None)
    if kind == TWO_STAGES and not hasattr(getattr(model, "roi_heads", None), "box_predictor"):
        return None
    return kind


@contextmanager
def _watch(model: nn.Module) -> Iterator[Callable[[Any, Thresholds], Detections]]:
    """Keep what the parts of a model return within the block; yield the function from its output to detections."""
    whole: Any = model
    two = _kind(model) == TWO_STAGES
    parts = {
        "transform": whole.transform,
        "anchors": whole.rpn if two else whole.anchor_generator,
        "head": whole.roi_heads.box_predictor if two else whole.head,
    }
    seen: Dict[str, Tuple[Any, Any]] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: seen.__setitem__(name, (args, output))

    def found(output: Any, thresholds: Thresholds) -> Detections:
        first = output[0] if isinstance(output, (list, tuple)) and output else None
        if not isinstance(first, dict) or not {"boxes", "scores", "labels"} <= set(first):
            raise unknown_output(model, output)
        if len(seen) < len(parts):
            raise FeatvizError(f"{type(model).__name__} was not run within the block that watches it")
        return located(_candidates(whole, _head(seen, two)), first["boxes"], first["scores"], first["labels"], {})

    hooks = Hooks()
    try:
        for name, part in parts.items():
            hooks.add(part, after=keep(name))
        yield found
    finally:
        hooks.remove()


def _frame(model: Any, image: torch.Tensor) -> Frame:
    """Return what the model's transform makes of its input: resized, then padded below and at the right."""
    with torch.no_grad():
        seen = model.transform([image[0].detach()])[0]
    (height, width), padded = seen.image_sizes[0], seen.tensors.shape[-2:]
    return Frame((int(padded[0]), int(padded[1])), (0.0, 0.0, float(width), float(height)))


def _thresholds(model: Any) -> Thresholds:
    post = getattr(model, "roi_heads", model)
    return Thresholds(float(post.score_thresh), float(post.nms_thresh), int(post.detections_per_img))


TORCHVISION = Family(lambda model: _kind(model) is not None, _watch, _frame, _thresholds)


def _head(seen: Dict[str, Tuple[Any, Any]], two: bool) -> _Head:
    """Return the head's output for the first image, from the arguments and outputs of the model's parts."""
    (images, *_), (resized, _) = seen["transform"]
    height, width = images[0].shape[-2:]
    sizes = (tuple(resized.image_sizes[0]), (height, width))
    returned = seen["head"][1]
    if two:
        proposals = seen["anchors"][1][0][0]
        logits, offsets = (tensor[: len(proposals)] for tensor in returned)  # those of all images follow each other
        return _Head(logits, offsets, proposals, None, sizes)
    centreness = returned["bbox_ctrness"][0, :, 0] if "bbox_ctrness" in returned else None
    anchors = seen["anchors"][1][0]
    return _Head(returned["cls_logits"][0], returned["bbox_regression"][0], anchors, centreness, sizes)


def _candidates(model: Any, head: _Head) -> Candidates:
    kind = _kind(model)
    coder = model.roi_heads.box_coder if kind == TWO_STAGES else model.box_coder
    confidences, score = {"RetinaNet": _sigmoid, "FCOS": _centred}.get(str(kind), _softmax)(head)

    def box(row: int, number: int) -> torch.Tensor:
        one = _decode(coder, head, slice(row, row + 1))[0]
        return one if one.dim() == 1 else one[number]

    with torch.no_grad():
        boxes = _decode(coder, head, slice(None)).cpu().float()
        return Candidates(boxes, confidences.cpu().float(), score, box if head.offsets.requires_grad else None)


def _decode(coder: Any, head: _Head, rows: slice) -> torch.Tensor:
    """Return the boxes of candidates, clipped, in pixels of the image given, ``[n, 4]`` or ``[n, C, 4]``."""
    from torchvision.models.detection.transform import resize_boxes
    from torchvision.ops import clip_boxes_to_image

    decode = getattr(coder, "decode_single", None) or coder.decode  # FCOS's has lost the former
    decoded = decode(head.offsets[rows], head.anchors[rows])
    resized, given = head.sizes
    boxes: torch.Tensor = resize_boxes(clip_boxes_to_image(decoded.reshape(-1, 4), resized), resized, given)
    return boxes if decoded.shape[1] == 4 else boxes.reshape(len(decoded), decoded.shape[1] // 4, 4)


# The confidences [N, C], in the model's own precision, and the function from row and class to the score.
_Scores = Tuple[torch.Tensor, Callable[[int, int], torch.Tensor]]


def _sigmoid(head: _Head) -> _Scores:
    return head.logits.detach().sigmoid(), lambda row, number: head.logits[row, number].float()


def _centred(head: _Head) -> _Scores:
    centreness: Any = head.centreness

    def score(row: int, number: int) -> torch.Tensor:
        """1 / p² = 1 + u with u = e^-a + e^-b + e^-(a+b), and the odds are (1 + sqrt(1 + u)) / u."""
        a, b = head.logits[row, number].float(), centreness[row].float()
        log_u = torch.stack([-a, -b, -a - b]).logsumexp(0)
        return softplus(softplus(log_u) / 2) - log_u

    return (head.logits.detach().sigmoid() * centreness.detach().sigmoid()[:, None]).sqrt(), score


def _softmax(head: _Head) -> _Scores:
    confidences = head.logits.detach().softmax(dim=1)
    confidences[:, 0] = 0

    return confidences, lambda row, number: softmax_log_odds(head.logits[row], number)
