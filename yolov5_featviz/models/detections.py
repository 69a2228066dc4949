"""Detections of one image, of any detector: what was found, all candidates, and a differentiable score of each."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Callable, ContextManager, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.outputs import describe_output

SAME_BOX, SAME_SCORE = 1e-2, 1e-4  # pixels, and score, by which a detection may differ from its candidate


class Thresholds(NamedTuple):
    """Thresholds of detectors that have none of their own: confidence and IoU of suppression, most detections."""

    conf: float = 0.25
    iou: float = 0.45
    most: int = 300


DEFAULTS = Thresholds()


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a detector considered in one image, before thresholds and suppression.

    Attributes:
        boxes: float32 ``[N, 4]``, or ``[N, C, 4]`` if each class has its own: left, top, right and bottom edge in
            pixels of the network's input, on the CPU, without gradient.
        scores: float32 ``[N, C]``, the confidence of each class, on the CPU, without gradient.
        score: maps a row and a class to a differentiable score, a scalar tensor that rises with the confidence and
            is not saturated: the class logit, plus that of the objectness where there is one.
        box: maps a row and a class to the differentiable box, ``[4]``; None if it has no gradient.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    score: Callable[[int, int], torch.Tensor] = field(repr=False)
    box: Optional[Callable[[int, int], torch.Tensor]] = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def boxes_of(self, classes: torch.Tensor, rows: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Return the box of each row, or of ``rows``, for a class each, ``[n, 4]``."""
        rows = torch.arange(len(self)) if rows is None else rows
        return self.boxes[rows] if self.boxes.dim() == 2 else self.boxes[rows, classes]


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections in one image, best first.

    Attributes:
        boxes: float32 ``[K, 4]``: left, top, right and bottom edge in pixels of the network's input.
        scores: float32 ``[K]``, confidence.
        classes: int64 ``[K]``, class numbers.
        names: class number -> name.
        rows: int64 ``[K]``, the row of each among the candidates.
        candidates: what was considered before thresholds and suppression.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    classes: torch.Tensor
    names: Dict[int, str]
    rows: torch.Tensor
    candidates: Candidates = field(repr=False)

    def __len__(self) -> int:
        return len(self.scores)

    def why(self, i: int) -> torch.Tensor:
        """Return the differentiable score of detection ``i``, a scalar; see :class:`Candidates`."""
        return self.candidates.score(int(self.rows[i]), int(self.classes[i]))

    def name(self, number: int) -> str:
        """Return a class's name, or ``class 7`` if it has none."""
        return class_name(number, self.names)

    def label(self, i: int) -> str:
        """Return class and confidence of detection ``i``: ``person 0.91``."""
        return f"{self.name(int(self.classes[i]))} {float(self.scores[i]):.2f}"

    def of(self, rows: Sequence[int], classes: Sequence[int]) -> Detections:
        """Return candidates, each as one class, as if they had been detected."""
        at, kinds = torch.tensor(list(rows), dtype=torch.long), torch.tensor(list(classes), dtype=torch.long)
        boxes, scores = self.candidates.boxes_of(kinds, at), self.candidates.scores[at, kinds]
        return Detections(boxes, scores, kinds, self.names, at, self.candidates)

    @classmethod
    def from_supervision(cls, found: Any) -> Detections:
        """Convert ``supervision.Detections``, whose scores have no gradient: D-RISE can explain them."""
        return without_gradients(found.xyxy, found.confidence, found.class_id, found.data.get("class_name", ()))

    def to_supervision(self) -> Any:
        """Convert to ``supervision.Detections``, with the names as ``data["class_name"]``."""
        import supervision

        named = {"class_name": np.array([self.name(k) for k in self.classes.tolist()])}
        found, classes = (self.boxes.numpy(), self.scores.numpy()), self.classes.numpy()
        return supervision.Detections(found[0], confidence=found[1], class_id=classes, data=named)

    def to_boxes(self) -> Boxes:
        """Return the detections as plain arrays."""
        classes = self.classes.tolist()
        return Boxes(self.boxes.numpy(), self.scores.numpy(), [self.name(k) for k in classes], np.array(classes))


class Frame(NamedTuple):
    """What the layers of a model see: its height and width in pixels, and the part that the input was resized to."""

    size: Tuple[int, int]
    region: Region


class Family(NamedTuple):
    """A family of detectors.

    Attributes:
        matches: whether a model belongs to it.
        watch: context manager around a forward pass of the model; yields a function from the model's output and
            the thresholds to the detections in its first image.
        frame: for models that resize their input, where it lies in what the layers see; see :class:`Frame`.
        thresholds: for models that have their own, those.
    """

    matches: Callable[[nn.Module], bool]
    watch: Callable[[nn.Module], ContextManager[Callable[[Any, Thresholds], Detections]]]
    frame: Optional[Callable[[nn.Module, torch.Tensor], Frame]] = None
    thresholds: Optional[Callable[[nn.Module], Thresholds]] = None


# Families of detectors, as module:name of a Family; the first that matches wins.
FAMILIES: Sequence[str] = (
    "yolov5_featviz.yolov5.detections:ULTRALYTICS",
    "yolov5_featviz.yolov5.detections:YOLOV5",
    "yolov5_featviz.models.detections_torchvision:TORCHVISION",
    "yolov5_featviz.models.detections_transformers:TRANSFORMERS",
    "yolov5_featviz.models.detections_mmdet:MMDET",
)


def family_of(model: nn.Module) -> Optional[Family]:
    """Return the family that a model belongs to, None if it is of no known one."""
    for family in FAMILIES:
        module, _, name = family.partition(":")
        found: Family = getattr(import_module(module), name)
        if found.matches(model):
            return found
    return None


def thresholds_of(model: nn.Module, given: Thresholds) -> Thresholds:
    """Return the thresholds of a model's detections: its own, or ``given`` if it has none."""
    family = family_of(model)
    return given if family is None or family.thresholds is None else family.thresholds(model)


def frame_of(model: nn.Module, image: torch.Tensor) -> Frame:
    """Return what the layers of a model see of its input ``[1, C, H, W]``: the input itself, unless it is resized."""
    family = family_of(model)
    if family is not None and family.frame is not None:
        return family.frame(model, image)
    height, width = (int(side) for side in image.shape[2:])
    return Frame((height, width), (0.0, 0.0, float(width), float(height)))


@contextmanager
def watching(
    model: nn.Module, rows: Optional[Callable[[Any], Detections]] = None
) -> Iterator[Callable[[Any, Thresholds], Detections]]:
    """Within the block, run a model once; what is yielded returns the detections from its output.

    Args:
        model: the detector, in evaluation mode, to be run on one image with gradients enabled.
        rows: for detectors of no known family, a function from the model's output to :class:`Detections`.

    Raises:
        FeatvizError: the model is of no known family, and ``rows`` is not given.
    """
    family = None if rows is not None else family_of(model)
    if rows is not None:
        given = rows
        yield lambda output, thresholds: given(output)
    elif family is not None:
        with family.watch(model) as found:
            yield found
    else:
        raise FeatvizError(
            f"{type(model).__name__} is of no known family of detectors: give as rows a function from its output "
            "to Detections(boxes [K, 4], scores [K], classes [K], names, rows [K], candidates)"
        )


def select(candidates: Candidates, names: Dict[int, str], thresholds: Thresholds) -> Detections:
    """Select detections among candidates by the best class of each: confidence, then suppression within classes."""
    from torchvision.ops import batched_nms

    if not candidates.scores.numel():  # torch 1.8 has no maximum of nothing
        empty = torch.zeros(0, dtype=torch.long)
        return Detections(torch.zeros(0, 4), torch.zeros(0), empty, names, empty, candidates)
    scores, classes = candidates.scores.max(dim=1)
    rows = (scores > thresholds.conf).nonzero()[:, 0]
    rows = rows[torch.from_numpy(np.argsort(-scores[rows].numpy(), kind="stable"))]
    boxes = candidates.boxes_of(classes[rows], rows)
    rows = rows[batched_nms(boxes, scores[rows], classes[rows], thresholds.iou)[: thresholds.most]]
    boxes = candidates.boxes_of(classes[rows], rows)
    return Detections(boxes, scores[rows], classes[rows], names, rows, candidates)


def located(
    candidates: Candidates, boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, names: Dict[int, str]
) -> Detections:
    """Find detections that a framework or a script made among the candidates that they come from.

    Args:
        candidates: all of them.
        boxes, scores, classes: of the detections, ``[K, 4]``, ``[K]``, ``[K]``.
        names: class number -> name.

    Raises:
        FeatvizError: a detection is none of the candidates.
    """
    boxes, scores, classes = boxes.detach().cpu().float(), scores.detach().cpu().float(), classes.detach().cpu().long()
    columns = {kind: candidates.scores[:, kind].contiguous() for kind in set(classes.tolist())}
    rows: List[int] = []
    for box, score, kind in zip(boxes, scores, classes):
        row = _row_of(candidates, columns[int(kind)], box, score, kind)
        if row is None:
            edges = ", ".join(f"{edge:.1f}" for edge in box.tolist())
            raise FeatvizError(f"the detection at {edges} with a score of {float(score):.3f} is none of the candidates")
        rows.append(row)
    return Detections(boxes, scores, classes, names, torch.tensor(rows, dtype=torch.long), candidates)


def _row_of(
    candidates: Candidates, confidences: torch.Tensor, box: torch.Tensor, score: torch.Tensor, kind: torch.Tensor
) -> Optional[int]:
    """Return the row of the candidate that a detection is, from the candidates' confidences of its class, or None."""
    apart = (confidences - score).abs() / SAME_SCORE
    near = (apart <= 1).nonzero()[:, 0]  # few, of what may be 100,000 candidates
    if not len(near):
        return None
    off = (candidates.boxes_of(kind.expand(len(near)), near) - box).abs().max(dim=1).values / SAME_BOX
    apart = torch.maximum(off, apart[near])
    best = apart.argmin()
    return int(near[best]) if apart[best] <= 1 else None


def without_gradients(boxes: Any, scores: Any, classes: Any, labels: Sequence[str] = ()) -> Detections:
    """Return detections of which no more is known than arrays ``[K, 4]``, ``[K]``, ``[K]`` and the name of each."""
    xyxy = torch.as_tensor(np.asarray(boxes), dtype=torch.float32).reshape(-1, 4)
    kinds = torch.as_tensor(np.zeros(len(xyxy)) if classes is None else np.asarray(classes)).long()
    known = torch.as_tensor(np.ones(len(xyxy)) if scores is None else np.asarray(scores), dtype=torch.float32)
    table = torch.zeros(len(xyxy), int(kinds.max()) + 1 if len(kinds) else 0)
    table[torch.arange(len(xyxy)), kinds] = known

    def no_gradient(row: int, kind: int) -> torch.Tensor:
        raise FeatvizError("these detections are arrays, whose scores have no gradient: take d-rise")

    names = {int(k): str(label) for k, label in zip(kinds, labels)}
    return Detections(xyxy, known, kinds, names, torch.arange(len(xyxy)), Candidates(xyxy, table, no_gradient))


def log_odds(confidence: torch.Tensor) -> torch.Tensor:
    """Return ``log(p / (1 - p))`` of a confidence: the logit of a sigmoid, whose gradient does not saturate."""
    p = confidence.float().clamp(1e-7, 1 - 1e-7)
    return p.log() - (1 - p).log()


def softmax_log_odds(logits: torch.Tensor, number: int) -> torch.Tensor:
    """Return ``log(p / (1 - p))`` of a class's softmax ``p``, from the logits ``[C]``; it does not saturate."""
    logits = logits.float()
    return logits[number] - torch.cat([logits[:number], logits[number + 1 :]]).logsumexp(0)


def names_of(names: Any) -> Dict[int, str]:
    """Return class names by number, from a list or a dictionary."""
    items = names.items() if isinstance(names, dict) else enumerate(names or ())
    return {int(number): str(name) for number, name in items}


def class_name(number: int, names: Dict[int, str]) -> str:
    """Return a class's name, or ``class 7`` if it has none."""
    return names.get(number, f"class {number}")


def counted(classes: torch.Tensor, names: Dict[int, str]) -> str:
    """Count detections by class, as in ``4 × person, 1 × bus``."""
    return ", ".join(f"{count} × {class_name(number, names)}" for number, count in Counter(classes.tolist()).items())


def unknown_output(model: nn.Module, output: Any) -> FeatvizError:
    """Return the error of an output that a family's adapter does not understand."""
    return FeatvizError(
        f"{type(model).__name__} yields {describe_output(output)}, which is not understood as detections: give as "
        "rows a function from the output to Detections"
    )
