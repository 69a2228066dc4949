"""Read YOLOv5's label files."""

from __future__ import annotations

from pathlib import Path
from typing import List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.errors import FeatvizError


class Label(NamedTuple):
    """Content of a label file: class numbers and box edges as fractions of the image's width and height."""

    file: Optional[Path]
    classes: List[int]
    xyxy: np.ndarray

    def boxes(self, region: Region, names: Mapping[int, str]) -> Boxes:
        """Return the boxes for an image at ``region``, labelled as ``GT person``."""
        left, top, right, bottom = region
        xyxy = self.xyxy * np.array([right - left, bottom - top] * 2) + np.array([left, top] * 2)
        return Boxes(xyxy, labels=[f"GT {names.get(k, k)}" for k in self.classes], classes=np.array(self.classes))


def read_labels(images: Sequence[Path], labels: Optional[str] = None) -> List[Optional[Label]]:
    """Read the label file of each image; see :func:`read_label`.

    Raises:
        FeatvizError: a file is not a label file, or the folder that is given has none of any image.
    """
    found = [read_label(image, labels) for image in images]
    if labels is not None and not any(label is not None and label.file for label in found):
        raise FeatvizError(f"--labels {labels} has no {images[0].stem}.txt, nor one of any other image")
    return found


def read_label(image: Path, labels: Optional[str] = None) -> Optional[Label]:
    """Read the label file of an image; None if there is no label folder.

    Args:
        image: file of the image.
        labels: folder of the label files. None for YOLOv5's rule: ``labels`` replaces the last ``images`` in the
            image's path. If the folder exists, an image without a label file has no objects, as in training.

    Raises:
        FeatvizError: the file is not a label file.
    """
    if labels is not None:
        file = Path(labels) / f"{image.stem}.txt"
    else:
        parts = list(image.absolute().parts)
        if "images" not in parts[:-1]:
            return None
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
        file = Path(*parts).with_suffix(".txt")
        if not file.parent.is_dir():
            return None
    if not file.is_file():
        return Label(None, [], np.zeros((0, 4)))
    classes: List[int] = []
    boxes: List[List[float]] = []
    for i, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            kind, *numbers = (float(word) for word in line.split())
        except ValueError:
            numbers = []
        numbers = numbers if numbers and kind.is_integer() else []
        if len(numbers) == 4:
            x, y, w, h = numbers
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        elif len(numbers) >= 6 and len(numbers) % 2 == 0:  # a mask outline
            box = [min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])]
        if len(numbers) not in (4, *range(6, len(numbers) + 1, 2)) or not all(0 <= n <= 1 for n in numbers):
            raise FeatvizError(
                f"{file}, line {i}: {line[:40]!r} is not a label: class, then centre, width and height from 0 to 1"
            )
        if (int(kind), box) not in zip(classes, boxes):  # as YOLOv5 does
            classes.append(int(kind))
            boxes.append(box)
    return Label(file, classes, np.array(boxes).reshape(-1, 4))
