"""Detections of YOLOv5 models and their line, and of Ultralytics: rows, candidates and scores from their outputs."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from itertools import takewhile
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

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
    unknown_output,
)
from yolov5_featviz.models.outputs import tensors_of
from yolov5_featviz.yolov5.layers import find_model

COMPARED = 1000  # rows by which logits are told from other tensors
APART, MOST_BOXES = 7680, 30000  # pixels by which suppression moves classes apart; most boxes that it looks at
Named = List[Tuple[str, torch.Tensor]]


class _Seen(NamedTuple):
    """A model, its detection head, its class names, and the sizes ``(height, width)`` of inputs that it was given."""

    root: nn.Module
    head: Any
    names: Dict[int, str]
    sizes: List[Tuple[int, int]]

    def width_and_height(self) -> Tuple[int, int]:
        if not self.sizes:
            raise FeatvizError(f"{type(self.root).__name__} was given no tensor [1, C, H, W]: run it on one, alone")
        return self.sizes[-1][::-1]

    def unknown(self, output: Any) -> FeatvizError:
        return unknown_output(self.root, output)


@contextmanager
def _watch(model: nn.Module) -> Iterator[Callable[[Any, Thresholds], Detections]]:
    """Within the block, run ``find_model(model)``, or a wrapper that hands it a tensor and returns its output."""
    root: Any = find_model(model)
    seen = _Seen(root, root.model[-1], names_of(getattr(root, "names", ())), [])

    def note(module: nn.Module, args: Any) -> None:
        if args and isinstance(args[0], torch.Tensor) and args[0].dim() == 4:
            seen.sizes.append((int(args[0].shape[2]), int(args[0].shape[3])))

    handle = root.register_forward_pre_hook(note)
    try:
        with _attached(seen.head):
            yield lambda output, thresholds: _detections(seen, output, thresholds)
    finally:
        handle.remove()


def _is_ultralytics(model: nn.Module) -> bool:
    root = find_model(model)
    return root is not None and any(kind.__module__.startswith("ultralytics.") for kind in type(root).__mro__)


# YOLOv5, YOLOv3, v7, v9 and forks: rows with objectness and their raw levels, or anchor-free rows. The rows of
# key-point and segmentation heads are read as far as box and class go. Heads whose boxes are rotated are read without
# their angle. ``box`` is None where the head decodes in place (old releases, YOLOv7): that has no gradient. Each row
# is a detection of its best class; v4.0 made one of every class.
YOLOV5 = Family(lambda model: find_model(model) is not None, _watch)

# Detect, segment, pose, obb and classify of v3 to 26, and RT-DETR; a ``YOLO`` object's ``model`` is what is to be run.
# Boxes of obb are the axis-aligned hulls of the rotated boxes; they are suppressed as rotated boxes. A classifier's
# only candidate is the whole image, each class above the threshold a detection.
ULTRALYTICS = Family(_is_ultralytics, _watch)


@contextmanager
def _attached(head: Any) -> Iterator[None]:
    """Let the one-to-one branch of a head read the features within the block, where it reads detached copies.

    Some versions of Ultralytics detach them in inference too, so that no gradient would reach the neck. The values
    are the same.
    """
    features: List[Any] = []

    def note(module: nn.Module, args: Any) -> None:
        features[:] = args[0] if args and isinstance(args[0], (list, tuple)) else ()

    def attach(i: int, args: Any) -> Any:
        x, feature = (args or (None,))[0], features[i] if i < len(features) else None
        if not isinstance(x, torch.Tensor) or not isinstance(feature, torch.Tensor):
            return None
        detached = feature.requires_grad and not x.requires_grad and x.data_ptr() == feature.data_ptr()
        return (feature, *args[1:]) if detached and x.shape == feature.shape else None

    handles = []
    try:
        for name, levels in head.named_children():
            if name.startswith("one2one_"):
                for i, level in enumerate(levels.children()):
                    handles.append(level.register_forward_pre_hook(lambda _, args, i=i: attach(i, args)))
        if handles:
            handles.append(head.register_forward_pre_hook(note))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _detections(seen: _Seen, output: Any, thresholds: Thresholds) -> Detections:
    """Return the detections in the first image of a model's output."""
    named = [(str(name or ""), tensor) for name, tensor in tensors_of(output)]
    if not named or named[0][1].dim() not in (2, 3):
        raise seen.unknown(output)
    if named[0][1].dim() == 2:
        return _classified(seen, [tensor for _, tensor in named], thresholds)
    if hasattr(seen.head, "dec_score_head"):
        return _queried(seen, output, named[0][1][0], thresholds)
    if getattr(seen.head, "end2end", False) and hasattr(seen.head, "one2one_cv2"):
        return _one_to_one(seen, output, named[0][1][0], thresholds)
    return _decoded(seen, output, named, thresholds)


def _candidates(
    boxes: torch.Tensor, scores: torch.Tensor, score: Callable[[int, int], torch.Tensor], has_gradient: bool = True
) -> Candidates:
    box = (lambda row, kind: boxes[row]) if has_gradient and boxes.requires_grad else None
    return Candidates(boxes.detach().float().cpu(), scores.detach().float().cpu(), score, box)


def _classified(seen: _Seen, tensors: Sequence[torch.Tensor], thresholds: Thresholds) -> Detections:
    """Return the classes of a classifier, from its probabilities, logits, or both."""
    first = tensors[0][0]
    if len(tensors) > 1 and tensors[1].shape == tensors[0].shape:
        confidences, logits = first, tensors[1][0]
    elif bool((first >= 0).all()) and abs(float(first.detach().float().sum()) - 1) < 1e-2:
        confidences, logits = first, log_odds(first)
    else:
        confidences, logits = first.softmax(0), first
    whole = torch.tensor([[0.0, 0.0, *seen.width_and_height()]])
    found = _candidates(whole, confidences[None], lambda row, kind: logits[kind])
    scores, classes = found.scores[0].sort(descending=True)
    count = min(int((scores > thresholds.conf).sum()), thresholds.most)
    rows = torch.zeros(count, dtype=torch.long)
    return Detections(whole[rows], scores[:count], classes[:count], seen.names, rows, found)


def _queried(seen: _Seen, output: Any, rows: torch.Tensor, thresholds: Thresholds) -> Detections:
    """Return RT-DETR's detections.

    Its rows are the best pairs of query and class, ``[k, 6]``, or all queries with all classes, of which its
    predictor takes the best class.
    """
    raw = output[1] if isinstance(output, (list, tuple)) and len(output) > 1 else None
    if not isinstance(raw, (list, tuple)) or len(raw) < 2 or raw[1].dim() != 4:
        raise seen.unknown(output)
    width, height = seen.width_and_height()
    pixels = rows.new_tensor([width, height, width, height])
    logits = raw[1][-1][0]
    found = _candidates(_corners(raw[0][-1][0]) * pixels, logits.sigmoid(), lambda row, kind: logits[row, kind])
    if rows.shape == (logits.shape[0], logits.shape[1] + 4) and torch.equal(rows[:, 4:], logits.sigmoid()):
        scores, classes = rows[:, 4:].max(dim=1)
        order = scores.argsort(descending=True)
        rows = torch.cat([rows[:, :4], scores[:, None], classes[:, None].to(rows)], dim=1)[order]
    elif rows.shape[1] != 6:
        raise seen.unknown(output)
    return _kept(seen, found, _corners(rows[:, :4]) * pixels, rows, thresholds)


def _one_to_one(seen: _Seen, output: Any, rows: torch.Tensor, thresholds: Thresholds) -> Detections:
    """Return the detections of an end-to-end head: its rows, candidates being all cells of the one-to-one branch."""
    raw: Any = output[-1] if isinstance(output, (list, tuple)) else None
    raw = raw.get("one2one") if isinstance(raw, dict) else None
    classes = _class_count(seen)
    if isinstance(raw, dict) and {"boxes", "scores", "feats"} <= set(raw):
        levels, distances, logits = raw["feats"], raw["boxes"], raw["scores"][0].T
    elif isinstance(raw, (list, tuple)) and raw and rows.shape[1] >= 6:
        levels, flat = raw, torch.cat([level.flatten(2) for level in raw], dim=2)
        distances, logits = flat[:, :-classes], flat[0, -classes:].T
    else:
        raise seen.unknown(output)
    distances = seen.head.dfl(distances)[0].T
    cells, strides = _cells(levels, seen.head.stride, distances)
    lower, upper = distances[:, :2], distances[:, 2:]
    if isinstance(raw, dict) and "angle" in raw:
        angles = raw["angle"][0].T
        cosine, sine = angles.cos(), angles.sin()
        x, y = ((upper - lower) / 2).split(1, dim=1)
        centre = torch.cat([x * cosine - y * sine, x * sine + y * cosine], dim=1) + cells
        boxes = _hull(torch.cat([centre, lower + upper], dim=1) * strides, angles[:, 0])
        found_boxes = _hull(rows[:, :4], rows[:, 6])
    else:
        boxes, found_boxes = torch.cat([cells - lower, cells + upper], dim=1) * strides, rows[:, :4]
    found = _candidates(boxes, logits.sigmoid(), lambda row, kind: logits[row, kind])
    return _kept(seen, found, found_boxes, rows, thresholds)


def _kept(
    seen: _Seen, candidates: Candidates, boxes: torch.Tensor, rows: torch.Tensor, thresholds: Thresholds
) -> Detections:
    """Return those rows, box, score and class each, best first, that exceed the threshold."""
    kept = (rows[:, 4] > thresholds.conf).nonzero()[:, 0][: thresholds.most]
    return located(candidates, boxes[kept], rows[kept, 4], rows[kept, 5], seen.names)


def _decoded(seen: _Seen, output: Any, named: Named, thresholds: Thresholds) -> Detections:
    """Return detections by suppression among rows, ``[1, N, 5 + C]``, ``[1, N, 4 + C]`` or ``[1, 4 + C, N]``."""
    parent, shape = named[0][0].rpartition(".")[0], named[0][1].shape
    # of several branches, as YOLOv9's, the last is the main one
    same = takewhile(lambda one: one[0].rpartition(".")[0] == parent and one[1].shape == shape, named)
    rows = [tensor for _, tensor in same][-1][0]
    classes = _class_count(seen) or rows.shape[1] - 5
    levels = [tensor for _, tensor in named if tensor.dim() == 5]
    raw = _levels(levels, len(rows))
    if raw is None and 4 + classes <= rows.shape[0] and (4 + classes == rows.shape[0] or rows.shape[0] < rows.shape[1]):
        return _anchor_free(seen, rows.T, classes, named, thresholds)
    if raw is None and rows.shape[1] == 4 + classes:
        return _anchor_free(seen, rows, classes, named, thresholds)
    if classes < 1 or rows.shape[1] < 5 + classes:
        raise seen.unknown(output)
    has_gradient = raw is None or _reaches(rows[0, :4], levels[0])
    return _suppressed(_with_objectness(seen, rows, classes, raw, has_gradient), seen.names, thresholds)


def _with_objectness(
    seen: _Seen, rows: torch.Tensor, classes: int, raw: Optional[torch.Tensor], has_gradient: bool
) -> Candidates:
    """Return candidates from rows of box, objectness and classes, ``[N, 5 + C]`` or more, and their logits."""
    first = 5
    if raw is not None and not _is_sigmoid(raw[:, 5 : 5 + classes], rows[:, 5 : 5 + classes]):
        last = rows.shape[1] - classes  # face detectors have key points between objectness and class
        if _is_sigmoid(raw[:, last:], rows[:, last:]):
            first = last
        else:
            raw = None  # the head makes its confidences otherwise
    kinds = rows[:, first : first + classes]
    # YOLOv7 does not train the class of a model that has but one, nor use it
    alone = classes == 1 and (hasattr(seen.head, "include_nms") or type(seen.head).__name__ == "IAuxDetect")

    def logit(row: int, column: int) -> torch.Tensor:
        return log_odds(rows[row, column]) if raw is None else raw[row, column]

    def score(row: int, kind: int) -> torch.Tensor:
        return logit(row, 4) if alone else logit(row, 4) + logit(row, first + kind)

    scores = rows[:, 4:5] if alone else rows[:, 4:5] * kinds
    return _candidates(_corners(rows[:, :4]), scores, score, has_gradient)


def _anchor_free(seen: _Seen, rows: torch.Tensor, classes: int, named: Named, thresholds: Thresholds) -> Detections:
    """Return detections from rows of box and classes, ``[N, 4 + C]`` or more."""
    scores = rows[:, 4 : 4 + classes]
    logits = _logits(named, scores)
    rotated = _rotated(seen.head) and rows.shape[1] > 4 + classes
    if rotated:
        boxes = _hull(rows[:, :4], rows[:, -1])
    else:
        boxes = rows[:, :4] if getattr(seen.head, "xyxy", False) else _corners(rows[:, :4])

    def score(row: int, kind: int) -> torch.Tensor:
        return log_odds(scores[row, kind]) if logits is None else logits[row, kind]

    found = _candidates(boxes, scores, score)
    if not rotated:
        return _suppressed(found, seen.names, thresholds)
    kept = _suppress_rotated(rows, classes, thresholds)
    return _kept(seen, found, _hull(kept[:, :4], kept[:, -1]), kept, thresholds)


def _suppressed(candidates: Candidates, names: Dict[int, str], thresholds: Thresholds) -> Detections:
    """Select detections as YOLOv5 and Ultralytics do: the best class of each row, classes moved apart.

    Unlike :func:`yolov5_featviz.models.detections.select`, this rounds as they do. Their threshold for objectness
    needs no line: the product with the class is no larger.
    """
    from torchvision.ops import nms

    scores, classes = candidates.scores.max(dim=1)
    rows = (scores > thresholds.conf).nonzero()[:, 0]
    if len(rows) > MOST_BOXES:
        rows = rows[scores[rows].argsort(descending=True)[:MOST_BOXES]]
    moved = candidates.boxes[rows] + classes[rows, None].float() * APART
    rows = rows[nms(moved, scores[rows], thresholds.iou)[: thresholds.most]]
    return Detections(candidates.boxes[rows], scores[rows], classes[rows], names, rows, candidates)


def _suppress_rotated(rows: torch.Tensor, classes: int, thresholds: Thresholds) -> torch.Tensor:
    """Return what Ultralytics' own suppression keeps of rotated rows: box, score, class, angle."""
    suppress = _own_suppression()
    every = rows.detach().float().T[None].clone()
    kept: torch.Tensor = suppress(
        every, thresholds.conf, thresholds.iou, max_det=thresholds.most, nc=classes, rotated=True
    )[0]
    return kept


def _own_suppression() -> Callable[..., Any]:
    for module in ("ultralytics.utils.nms", "ultralytics.utils.ops"):  # the latter in older versions
        try:
            found: Callable[..., Any] = import_module(module).non_max_suppression
            return found
        except (ImportError, AttributeError):
            continue
    raise FeatvizError("this version of ultralytics has no non_max_suppression, which rotated boxes need")


def _class_count(seen: _Seen) -> int:
    count = getattr(seen.head, "nc", None)
    return count if isinstance(count, int) and count > 0 else len(seen.names)


def _rotated(head: Any) -> bool:
    return any("OBB" in kind.__name__ for kind in type(head).__mro__)


def _corners(boxes: torch.Tensor) -> torch.Tensor:
    """Convert centre and size to left, top, right and bottom, ``[N, 4]``."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat([centre - half, centre + half], dim=1)


def _hull(boxes: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Return the upright boxes, ``[N, 4]``, around boxes of centre and size that are turned by angles in radians."""
    boxes, angles = boxes.float(), angles.float()
    cosine, sine = angles.cos().abs(), angles.sin().abs()
    width, height = boxes[:, 2], boxes[:, 3]
    size = torch.stack([width * cosine + height * sine, width * sine + height * cosine], dim=1)
    return _corners(torch.cat([boxes[:, :2], size], dim=1))


def _cells(levels: Sequence[torch.Tensor], strides: Any, like: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return the centres of all cells, ``[N, 2]`` in cells, and the stride of each in pixels, ``[N, 1]``."""
    centres, scale = [], []
    for level, stride in zip(levels, strides.tolist()):
        height, width = level.shape[-2:]
        x, y = torch.arange(width).repeat(height), torch.arange(height).repeat_interleave(width)
        centres.append(torch.stack([x, y], dim=1).to(like) + 0.5)
        scale.append(like.new_full((height * width, 1), stride))
    return torch.cat(centres), torch.cat(scale)


def _levels(raw: Sequence[torch.Tensor], count: int) -> Optional[torch.Tensor]:
    """Return raw levels ``[1, A, H, W, C]`` as ``count`` rows, anchors first; None if they have other numbers."""
    rows: List[torch.Tensor] = []
    for level in raw:
        rows.append(level[0].reshape(-1, level.shape[-1]))
        if sum(map(len, rows)) == count and len({part.shape[1] for part in rows}) == 1:
            return torch.cat(rows)
    return None


def _logits(named: Named, scores: torch.Tensor) -> Optional[torch.Tensor]:
    """Find the logits of scores, ``[N, C]``, among an output: one tensor, or the levels in a list."""
    count, classes = scores.shape
    groups: Dict[str, List[torch.Tensor]] = {}
    for name, tensor in named:
        if tensor.dim() == 3:
            groups[name] = [tensor[0] if tensor.shape[2] == count else tensor[0].T]
        elif tensor.dim() == 4:
            groups.setdefault(name.rpartition(".")[0] + ".", []).append(tensor[0].flatten(1))
    for parts in groups.values():
        widths = {part.shape[0] for part in parts}
        if len(widths) == 1 and widths.pop() >= classes and sum(part.shape[1] for part in parts) == count:
            flat = torch.cat(parts, dim=1).T
            for logits in (flat[:, -classes:], flat[:, :classes]):
                if _is_sigmoid(logits, scores):
                    return logits
    return None


def _is_sigmoid(logits: torch.Tensor, scores: torch.Tensor) -> bool:
    if logits.shape != scores.shape:
        return False
    near = 1e-4 if scores.element_size() > 2 else 1e-2
    step = max(1, len(logits) // COMPARED)  # D-RISE asks this a thousand times
    logits, scores = logits.detach()[::step].float(), scores.detach()[::step].float()
    return torch.allclose(logits.sigmoid(), scores, rtol=near, atol=1e-7)


def _reaches(values: torch.Tensor, source: torch.Tensor) -> bool:
    """Whether gradients flow; a head that decodes in place has overwritten what they need."""
    try:
        torch.autograd.grad(values.sum(), source, retain_graph=True)
    except RuntimeError:
        return False
    return True
