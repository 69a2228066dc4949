"""Detections of mmdetection 3's detectors: one-stage, two-stage, and DETR with its line.

Models are told apart by the classes that define their heads' post-processing (``ONE_STAGE``, ``TWO_STAGE``,
``QUERIES``). A head that inherits it, mmdetection's or a user's, belongs to the family; one that overrides it does not.

The detections are those of the head's own ``predict_by_feat``, by the thresholds and the suppression of its
``test_cfg``; where that has no ``score_thr``, as DETR's, they are those above the confidence of :class:`Thresholds`.
The model is run on a tensor alone, ``model(x)``. Where it needs data samples, as two-stage models and DETR do, it
gets some that say that the image fills the input. Boxes are in pixels of the input.

The candidates are all priors of a one-stage model, all proposals of a two-stage model, as its last stage is given
them, and all queries of DETR. The background, mmdetection's last class, is none of theirs.

The score of a candidate is for all models the log odds ``log(p / (1 - p))`` of its confidence ``p``, computed from the
logits, so that it does not saturate:

- ``p = sigmoid(a)``: the class logit ``a``.
- ``p = sigmoid(a) sigmoid(b)`` with the logit ``b`` of the centreness, IoU or objectness (ATSS, FCOS, YOLOX...):
  ``-log(exp(-a) + exp(-b) + exp(-a - b))``. The sum ``a + b`` would not rise with ``p``.
- ``p = softmax(a)[k]``: ``a[k] - log(sum of exp(a[j]) over j != k)``.
- TOOD's head returns ``p`` itself.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import nn

from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import (
    Candidates,
    Detections,
    Family,
    Thresholds,
    located,
    log_odds,
    names_of,
    softmax_log_odds,
    unknown_output,
)
from yolov5_featviz.models.hooks import Hooks

LIBRARY = "mmdet.models."
POST_PROCESSING = ("predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
OF_PROPOSALS = ("forward", "predict", "predict_bbox", "predict_mask")
Size = Tuple[int, int]


class _Level(NamedTuple):
    """One level of a one-stage head's output for an image, a row for each prior.

    Attributes:
        logits: ``[n, C]``, that of the background last if there is one.
        offsets: of the boxes from the priors, encoded, ``[n, 4]``; ``[n, 4 D]`` if each is a distribution.
        factor: logit of the centreness, IoU or objectness, ``[n]``.
        priors: boxes ``[n, 4]``, points ``[n, 2]``, or points and strides ``[n, 4]``.
        number: of the level.
    """

    logits: torch.Tensor
    offsets: torch.Tensor
    factor: Optional[torch.Tensor]
    priors: Any
    number: int


class _Seen:
    """What the model was given in its last run: height and width of the image, and the boxes of its last stage."""

    size: Size = (0, 0)
    rois: Optional[torch.Tensor] = None


# The candidates of an image, and the detections that the head makes of them; None if the output is of another form.
_Read = Optional[Tuple[Candidates, Any]]
# The confidences [N, C], in the model's own precision, and the function from row and class to the score.
_Scores = Tuple[torch.Tensor, Callable[[int, int], torch.Tensor]]


def _by_coder(head: Any, level: _Level, size: Size) -> Any:
    return head.bbox_coder.decode(level.priors, level.offsets, max_shape=size)


def _by_integral(head: Any, level: _Level, size: Size) -> Any:
    distances = head.integral(level.offsets) * head.prior_generator.strides[level.number][0]
    return head.bbox_coder.decode(head.anchor_center(level.priors), distances, max_shape=size)


def _by_length(head: Any, level: _Level, size: Size) -> Any:
    return head._bbox_decode(level.priors, level.offsets, head.base_edge_list[level.number], size)


def _by_points(head: Any, level: _Level, size: Size) -> Any:
    return head._bbox_decode(level.priors, level.offsets, head.point_strides[level.number], size)


def _by_stride(head: Any, level: _Level, size: Size) -> Any:
    return level.offsets * head.prior_generator.strides[level.number][0]


def _by_cell(head: Any, level: _Level, size: Size) -> Any:
    return head._bbox_decode(level.priors, level.offsets)


def _by_anchor(head: Any, level: _Level, size: Size) -> Any:
    encoded = torch.cat([level.offsets[:, :2].sigmoid(), level.offsets[:, 2:]], dim=1)
    return head.bbox_coder.decode(level.priors, encoded, head.featmap_strides[level.number])


# Classes that define the post-processing, besides the base class -> how its boxes are decoded, clipped to the image.
ONE_STAGE: Dict[FrozenSet[str], Callable[[Any, _Level, Size], Any]] = {
    frozenset(): _by_coder,
    frozenset({"GFLHead"}): _by_integral,
    frozenset({"FoveaHead"}): _by_length,
    frozenset({"RepPointsHead"}): _by_points,
    frozenset({"TOODHead"}): _by_stride,
    frozenset({"YOLOXHead"}): _by_cell,
    frozenset({"YOLOV3Head"}): _by_anchor,
}
TWO_STAGE = (
    frozenset({"StandardRoIHead"}),
    frozenset({"StandardRoIHead", "PointRendRoIHead"}),
    frozenset({"CascadeRoIHead"}),
)
QUERIES = (
    frozenset({"DETRHead"}),
    frozenset({"DETRHead", "DeformableDETRHead"}),
    frozenset({"DETRHead", "DDQDETRHead"}),
)


def _definers(part: Any, methods: Sequence[str], base: str = "") -> FrozenSet[str]:
    """Return the classes, besides ``base``, that define methods of ``part``; if not the library's, their modules."""
    found = (getattr(type(part), method, None) for method in methods)
    names = (
        function.__qualname__.rpartition(".")[0] if function.__module__.startswith(LIBRARY) else function.__module__
        for function in found
        if function is not None
    )
    return frozenset(names) - {base}


def _reader(model: Any) -> Optional[Callable[[Any, Any, _Seen], _Read]]:
    """Return the function that reads a model's output; None if the model does not belong to the family."""
    if not any(kind.__module__.startswith(LIBRARY) for kind in type(model).__mro__):
        return None
    runs = _definers(model, ["_forward"])
    head = getattr(model, "bbox_head", None)
    if runs == {"SingleStageDetector"}:
        known = hasattr(head, "prior_generator") and _definers(head, POST_PROCESSING, "BaseDenseHead") in ONE_STAGE
        return _read_priors if known and _plain(head) else None
    if runs == {"TwoStageDetector"}:
        stages = getattr(model, "roi_head", None)
        head = _last(getattr(stages, "bbox_head", None))
        known = _definers(stages, OF_PROPOSALS, "BaseRoIHead") in TWO_STAGE and model.with_rpn
        return _read_proposals if known and _definers(head, POST_PROCESSING) == {"BBoxHead"} and _plain(head) else None
    return _read_queries if runs == {"DetectionTransformer"} and _definers(head, POST_PROCESSING) in QUERIES else None


def _last(stages: Any) -> Any:
    """Return the last stage of several, or the only one."""
    return stages[-1] if isinstance(stages, nn.ModuleList) else stages


def _plain(head: Any) -> bool:
    """Return whether boxes are upright, and the confidence is a sigmoid or a softmax."""
    upright = getattr(getattr(head, "bbox_coder", None), "encode_size", 4) == 4
    loss = getattr(head, "loss_cls", None)
    special = any(getattr(loss, f"custom_{name}", False) for name in ("cls_channels", "activation"))
    return upright and getattr(head, "with_reg", True) and not special


@contextmanager
def _watch(model: nn.Module) -> Iterator[Callable[[Any, Thresholds], Detections]]:
    """Note what the model is given within the block; yield the function from its output to detections."""
    whole: Any = model
    read: Any = _reader(model)
    seen = _Seen()
    names = names_of((getattr(model, "dataset_meta", None) or {}).get("classes"))

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen.rois = args[1] if seen.rois is None else seen.rois  # masks may call the same module, afterwards

    def found(output: Any, thresholds: Thresholds) -> Detections:
        if not any(seen.size):
            raise FeatvizError(f"{type(model).__name__} was not run within the block that watches it")
        least = _least(whole, thresholds)
        done = read(whole, output, seen)
        if done is None:
            raise unknown_output(model, output)
        candidates, results = done
        kept = results.scores > least
        boxes, scores, labels = (_tensor(results[name])[kept] for name in ("bboxes", "scores", "labels"))
        return located(candidates, boxes, scores, labels, names)

    hooks = Hooks()
    try:
        if read is _read_proposals:
            hooks.add(_last(whole.roi_head.bbox_roi_extractor), after=keep)
        with _samples_given(whole, seen):
            yield found
    finally:
        hooks.remove()


@contextmanager
def _samples_given(model: Any, seen: _Seen) -> Iterator[None]:
    """Give the model data samples where it is run without any, and note the size of the first image."""
    own, before = model._forward, vars(model).get("_forward")

    def forward(batch_inputs: torch.Tensor, batch_data_samples: Any = None) -> Any:
        samples = _samples(batch_inputs) if batch_data_samples is None else batch_data_samples
        height, width = samples[0].metainfo.get("img_shape", batch_inputs.shape[2:])[:2]
        seen.size, seen.rois = (int(height), int(width)), None
        return own(batch_inputs, samples)

    vars(model)["_forward"] = forward
    try:
        yield
    finally:
        del vars(model)["_forward"]
        if before is not None:
            vars(model)["_forward"] = before


def _samples(images: torch.Tensor) -> List[Any]:
    """Return a data sample for each image of a batch, saying that the image fills it."""
    size = (int(images.shape[2]), int(images.shape[3]))
    about = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), size)
    sample = import_module("mmdet.structures").DetDataSample
    return [sample(metainfo={**about, "scale_factor": (1.0, 1.0)}) for _ in images]


MMDET = Family(lambda model: _reader(model) is not None, _watch)


def _least(model: Any, thresholds: Thresholds) -> float:
    """Return the confidence that detections exceed, -1 if the head has a threshold of its own."""
    settings = (model.roi_head if hasattr(model, "roi_head") else model.bbox_head).test_cfg or {}
    kind = (settings.get("nms") or {}).get("type", "nms")
    if kind != "nms":
        raise FeatvizError(
            f"{type(model).__name__} suppresses by {kind}, which changes scores: set its nms type to nms"
        )
    return -1.0 if "score_thr" in settings else thresholds.conf


def _read_priors(model: Any, output: Any, seen: _Seen) -> _Read:
    """Read the output of a one-stage model: of each kind, a list of levels ``[B, channels, H, W]``."""
    parts = output if isinstance(output, (list, tuple)) else ()
    if not parts or not all(isinstance(part, (list, tuple)) and len(part) == len(parts[0]) for part in parts):
        return None
    if not parts[0] or not all(_is_tensor(level, 4) for part in parts for level in part):
        return None
    head, size = model.bbox_head, seen.size
    with torch.no_grad():
        copies = [[level[:1].detach().clone() for level in part] for part in parts]
        results = head.predict_by_feat(*copies, batch_img_metas=[{"img_shape": size}], rescale=False)[0]
    decode = ONE_STAGE[_definers(head, POST_PROCESSING, "BaseDenseHead")]
    levels = _levels(head, parts, decode)
    boxes = torch.cat([_tensor(decode(head, level, size)) for level in levels])
    logits = torch.cat([level.logits for level in levels])
    factors = [level.factor for level in levels if level.factor is not None]
    if factors:
        return _candidates(boxes, _product(logits, torch.cat(factors))), results
    if decode is _by_stride:
        return _candidates(boxes, _given(logits)), results
    return _candidates(boxes, (_sigmoid if getattr(head, "use_sigmoid_cls", True) else _softmax)(logits)), results


def _levels(head: Any, parts: Sequence[Sequence[torch.Tensor]], decode: Any) -> List[_Level]:
    """Return the levels of a one-stage head's output for the first image."""
    first = parts[0]
    sizes = [level.shape[-2:] for level in first]
    options: Dict[str, Any] = {"with_stride": True} if decode is _by_cell else {}
    if decode is not _by_anchor:  # whose head has its priors in single precision, whatever its own
        options["dtype"] = first[0].dtype
    priors = head.prior_generator.grid_priors(sizes, device=first[0].device, **options)
    levels: List[_Level] = []
    for number, maps in enumerate(zip(*parts)):
        rows = [level[0].permute(1, 2, 0).reshape(len(priors[number]), -1) for level in maps]
        if decode is _by_anchor:  # box, objectness and classes in one
            rows = [rows[0][:, 5:], rows[0][:, :4], rows[0][:, 4:5]]
        levels.append(_Level(rows[0], rows[1], rows[2][:, 0] if len(rows) > 2 else None, priors[number], number))
    return levels


def _read_proposals(model: Any, output: Any, seen: _Seen) -> _Read:
    """Read the output of a two-stage model, in a tuple: logits ``[N, C + 1]``, boxes ``[N, 4 C]``, maybe masks."""
    inside = output[0] if isinstance(output, tuple) and output else None
    parts = inside[:2] if isinstance(inside, tuple) else ()
    # those of all images follow each other, or, of a cascade, are in a list
    pair = [part[0] if isinstance(part, (list, tuple)) and part else part for part in parts]
    if seen.rois is None or len(pair) < 2 or not all(_is_tensor(part, 2) for part in pair):
        return None
    rois = seen.rois[seen.rois[:, 0] == 0].detach()
    logits, offsets = (part[: len(rois)] for part in pair)
    head = _last(model.roi_head.bbox_head)
    with torch.no_grad():
        results = head.predict_by_feat(
            (rois,),
            (logits.detach().clone(),),
            (offsets.detach().clone(),),
            [{"img_shape": seen.size}],
            rcnn_test_cfg=model.roi_head.test_cfg,
            rescale=False,
        )[0]
    each = 1 if head.reg_class_agnostic else head.num_classes
    boxes = _tensor(
        head.bbox_coder.decode(rois[:, 1:].repeat_interleave(each, dim=0), offsets.reshape(-1, 4), max_shape=seen.size)
    )
    return _candidates(boxes if each == 1 else boxes.reshape(-1, each, 4), _softmax(logits)), results


def _read_queries(model: Any, output: Any, seen: _Seen) -> _Read:
    """Read the output of DETR and its line, of all layers: logits ``[L, B, N, C]`` and boxes ``[L, B, N, 4]``."""
    if not isinstance(output, tuple) or len(output) != 2 or not all(_is_tensor(part, 4) for part in output):
        return None
    head, (height, width) = model.bbox_head, seen.size
    with torch.no_grad():
        copies = [part[-1:, :1].detach().clone() for part in output]
        results = head.predict_by_feat(*copies, batch_img_metas=[{"img_shape": seen.size}], rescale=False)[0]
    logits, (centre, size) = output[0][-1, 0], output[1][-1, 0].split(2, dim=1)
    edges = centre.new_tensor([width, height] * 2)
    boxes = torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=1) * edges
    boxes = torch.minimum(boxes.clamp(min=0), edges)
    return _candidates(boxes, (_sigmoid if head.loss_cls.use_sigmoid else _softmax)(logits)), results


def _is_tensor(value: Any, dimensions: int) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == dimensions


def _tensor(boxes: Any) -> Any:
    """Return boxes as a tensor, which some coders wrap."""
    return boxes if isinstance(boxes, torch.Tensor) else boxes.tensor


def _candidates(boxes: torch.Tensor, scores: _Scores) -> Candidates:
    def box(row: int, number: int) -> torch.Tensor:
        return boxes[row] if boxes.dim() == 2 else boxes[row, number]

    confidences, score = scores
    differentiable = box if boxes.requires_grad else None
    return Candidates(boxes.detach().cpu().float(), confidences.cpu().float(), score, differentiable)


def _sigmoid(logits: torch.Tensor) -> _Scores:
    return logits.detach().sigmoid(), lambda row, number: logits[row, number].float()


def _product(logits: torch.Tensor, factor: torch.Tensor) -> _Scores:
    def score(row: int, number: int) -> torch.Tensor:
        """1 / p = 1 + u with u = e^-a + e^-b + e^-(a+b), and the odds are 1 / u."""
        a, b = logits[row, number].float(), factor[row].float()
        return -torch.stack([-a, -b, -a - b]).logsumexp(0)

    return logits.detach().sigmoid() * factor.detach().sigmoid()[:, None], score


def _softmax(logits: torch.Tensor) -> _Scores:
    """Of all classes but the last, the background."""
    return logits.detach().softmax(dim=1)[:, :-1], lambda row, number: softmax_log_odds(logits[row], number)


def _given(confidences: torch.Tensor) -> _Scores:
    return confidences.detach(), lambda row, number: log_odds(confidences[row, number])
