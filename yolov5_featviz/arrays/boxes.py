"""Detections in pixels of the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np

from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.text import printable

Region = Tuple[float, float, float, float]  # left, top, right, bottom
LONGEST = 200  # characters of a label


@dataclass(frozen=True, eq=False)
class Boxes:
    """The boxes detected in one image.

    Attributes:
        xyxy: float32 ``[n, 4]``: left, top, right and bottom edge, in pixels of the network's input.
        scores: float32 ``[n]``; optional.
        labels: class name of each box, control characters replaced; optional.
        classes: int64 ``[n]``, class number of each box, by which it is coloured; optional.

    Raises:
        FeatvizError: shapes or lengths do not match.
    """

    xyxy: np.ndarray
    scores: Optional[np.ndarray] = None
    labels: Sequence[str] = ()
    classes: Optional[np.ndarray] = None

    def __post_init__(self) -> None:
        xyxy = np.asarray(self.xyxy, np.float32)
        xyxy = xyxy.reshape(0, 4) if xyxy.size == 0 else xyxy
        if xyxy.ndim != 2 or xyxy.shape[1] != 4:
            raise FeatvizError(f"boxes of shape {list(xyxy.shape)}: give [n, 4], each left, top, right, bottom")
        scores = None if self.scores is None else np.asarray(self.scores, np.float32)
        if scores is not None and len(scores) != len(xyxy):
            raise FeatvizError(f"{len(scores)} scores for {len(xyxy)} boxes: give one for each, or None")
        if self.labels and len(self.labels) != len(xyxy):
            raise FeatvizError(f"{len(self.labels)} labels for {len(xyxy)} boxes: give one for each, or none")
        classes = None if self.classes is None else np.asarray(self.classes, np.int64)
        if classes is not None and classes.shape != (len(xyxy),):
            raise FeatvizError(f"{len(classes)} classes for {len(xyxy)} boxes: give one for each, or None")
        object.__setattr__(self, "xyxy", xyxy)
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "labels", tuple(printable(label, LONGEST) for label in self.labels))

    def __len__(self) -> int:
        return len(self.xyxy)

    def mapped(self, region: Region, size: Tuple[float, float]) -> Boxes:
        """Return the same boxes after ``region`` of the network's input is stretched to ``size`` (height, width)."""
        left, top, right, bottom = region
        factor = np.array([size[1] / (right - left), size[0] / (bottom - top)] * 2, np.float32)
        xyxy = (self.xyxy - np.array([left, top] * 2, np.float32)) * factor
        return Boxes(xyxy, self.scores, self.labels, self.classes)

    def take(self, rows: Sequence[int]) -> Boxes:
        """Return the boxes of some rows, in their order."""
        chosen = list(rows)
        scores, classes = (None if x is None else x[chosen] for x in (self.scores, self.classes))
        return Boxes(self.xyxy[chosen], scores, [self.labels[i] for i in chosen] if self.labels else (), classes)

    def caption(self, i: int) -> str:
        """Return label and score of box ``i``: ``person 0.87``; empty if it has neither."""
        words = [self.labels[i]] if self.labels else []
        return " ".join(words if self.scores is None else [*words, f"{self.scores[i]:.2f}"])
