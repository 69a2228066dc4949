"""Batches of a script's loaders, the models' passes over them, and image regions."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.arrays.image import smaller
from yolov5_featviz.features.capture import Capture
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.models.detections import DEFAULTS, Thresholds
from yolov5_featviz.runs.names import Names
from yolov5_featviz.text import file_name
from yolov5_featviz.yolov5.labels import read_label
from yolov5_featviz.yolov5.letterbox import letterbox_region

SHOWN = 0.25  # least score of boxes that YOLOv5 detects and, in validation, draws


@dataclass
class Batch:
    """One batch of images from a loader.

    Attributes:
        paths: files of the images, if the loader gives them.
        sizes: original ``(height, width)`` of each image.
        placed: letterbox of each image of a data set: ``((scale down, scale across), (left, top padding))``.
        frames: frames of a video or stream, BGR ``[H, W, 3]``, if needed.
        photos: smaller copies of the images, RGB, if needed.
        cropped: whether images were cropped to a square instead of padded.
        prepared: whether the loader prepared the images, not the script.
        found: detections in each image, ``[n, 6]``: box in pixels of the network's input, score, class.
        suppression: thresholds of the script's suppression, of which these are.
        truths: labels of all images, ``[n, 6]``: image, class, centre, width and height as shares of the network's
            input; None if the loader gives none.
        frame: frame number in a video or stream.
        epoch: epoch of a training; validation images recur in each.
        unnamed: number of preceding images without a path.
        limit: default for the maximum number of images to draw.
        visits: the models' runs on this batch.
        weights: checkpoint files of these models, if any.
        names: names of the run's images; see :mod:`yolov5_featviz.runs.names`.
    """

    paths: List[str]
    sizes: Sequence[Tuple[int, int]] = ()
    placed: Sequence[Any] = ()
    frames: Sequence[np.ndarray] = ()
    photos: Sequence[np.ndarray] = ()
    cropped: bool = False
    prepared: bool = True
    found: Sequence[Optional[torch.Tensor]] = ()
    suppression: Thresholds = DEFAULTS
    truths: Optional[torch.Tensor] = None
    frame: Optional[int] = None
    epoch: Optional[int] = None
    unnamed: int = 0
    limit: Optional[int] = None
    visits: List[Visit] = field(default_factory=list)
    weights: Sequence[str] = ()
    names: Optional[Names] = None

    def name(self, i: int) -> str:
        """Name image ``i`` of the batch, as YOLOv5 names its label files."""
        if not self.paths:
            return f"image{self.unnamed + i + 1}"
        if self.names is not None and i < len(self.paths):
            path = self.paths[i]
            return self.names(path) if self.frame is None else self.names.frame(path, self.frame)
        stems = [Path(path).stem or "image" for path in self.paths]
        stem = file_name(stems[min(i, len(stems) - 1)])
        stem += f"_{i}" if i >= len(stems) or stems.count(stems[i]) > 1 else ""
        return stem + ("" if self.frame is None else f"_{self.frame}")

    def path(self, i: int) -> str:
        """Return the file or address of image ``i``; empty if unknown."""
        return self.paths[min(i, len(self.paths) - 1)] if self.paths else ""

    def image(self, i: int) -> Any:
        """Return image ``i``: RGB ``[H, W, 3]`` of a frame, else the path of its file; None if neither exists."""
        if i < len(self.frames):
            return self.frames[i][..., ::-1]
        return self.paths[i] if self.frame is None and i < len(self.paths) and os.path.isfile(self.paths[i]) else None

    def size(self, i: int) -> Optional[Tuple[int, int]]:
        """Return the original height and width of image ``i``, if :meth:`photo` is a smaller copy."""
        return self.sizes[i] if i < len(self.photos) else None

    def photo(self, i: int) -> Any:
        """Return the smaller copy of image ``i`` for the report, if there is one, else :meth:`image`."""
        return self.photos[i] if i < len(self.photos) else self.image(i)

    def region(self, i: int, images: torch.Tensor) -> Optional[Region]:
        """Return the region of image ``i`` in the network's input; None if unknown."""
        height, width = int(images.shape[2]), int(images.shape[3])
        if i < len(self.placed):
            return letterbox_region(self.sizes[i], (height, width), ratio_pad=self.placed[i])
        if i >= len(self.sizes):
            return None
        size = self.sizes[i]
        if self.cropped:
            side = min(size)
            across, down = width / side, height / side
            left, top = -((size[1] - side) // 2) * across, -((size[0] - side) // 2) * down
            return left, top, left + size[1] * across, top + size[0] * down
        region = letterbox_region(size, (height, width))
        if not self.prepared:  # letterboxed or stretched: padding has a single colour
            left, top, right, bottom = map(int, region)
            bars = images[i, :, :top], images[i, :, bottom:], images[i, :, :, :left], images[i, :, :, right:]
            if any(bar.numel() and bar.min() != bar.max() for bar in bars):
                return None
        return region

    def labels(self, i: int, images: torch.Tensor) -> Optional[Boxes]:
        """Return the labels of image ``i`` in its pixels, from the loader or a label file; None if there are none.

        Raises FeatvizError if the label file is none.
        """
        if self.truths is not None and i < len(self.sizes):
            height, width = self.sizes[i]
            mine = self.truths[self.truths[:, 0] == i]
            centre, half = mine[:, 2:4], mine[:, 4:6] / 2
            pixels = torch.tensor([images.shape[3], images.shape[2]] * 2)
            edges = Boxes((torch.cat([centre - half, centre + half], dim=1) * pixels).numpy())
            region = self.region(i, images) or (0.0, 0.0, float(images.shape[3]), float(images.shape[2]))
            return replace(edges.mapped(region, (height, width)), classes=mine[:, 1].long().numpy())
        path = self.image(i)
        if not isinstance(path, str) or i >= len(self.sizes):
            return None
        label = read_label(Path(path))
        height, width = self.sizes[i]
        return None if label is None else label.boxes((0.0, 0.0, float(width), float(height)), {})

    @property
    def thresholds(self) -> Thresholds:
        """Thresholds of :meth:`boxes`."""
        made = self.suppression
        return made if self.limit is None else made._replace(conf=max(made.conf, SHOWN))

    def boxes(self, i: int, names: Any) -> Optional[Boxes]:
        """Return the detections in image ``i``; None if the script ran no detection."""
        if i >= len(self.found):
            return None
        found = self.found[i]
        if found is None:
            return Boxes(np.zeros((0, 4)), np.zeros(0), (), np.zeros(0))
        if self.limit is not None:  # validation keeps boxes down to a score of 0.001
            found = found[found[:, 4] >= SHOWN]
        classes = [int(c) for c in found[:, 5]]
        known = names if isinstance(names, dict) else dict(enumerate(names if isinstance(names, (list, tuple)) else ()))
        labels = [str(known.get(c, c)) for c in classes]
        return Boxes(found[:, :4].float().numpy(), found[:, 4].float().numpy(), labels, np.array(classes))


@dataclass
class Pass:
    """One pass through the layers; in test-time augmentation, on images at ``scale``, flipped in ``dims``."""

    features: Capture
    scale: Optional[float] = None
    dims: Tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Name of the folder of its pictures."""
        return "pass" if self.scale is None else f"scale{self.scale:.2f}" + "_flipped" * bool(self.dims)

    def maps(self, item: Batch, i: int, visit: Visit) -> List[FeatureMap]:
        """Return the maps of image ``i``, flips undone, with the image's region and detections."""
        name, region = item.name(i), item.region(i, visit.images)
        boxes = item.boxes(i, getattr(visit.model, "names", ()))
        maps = self.features.of_image(i, name)
        if self.scale is None:
            return [replace(fm, region=region, boxes=boxes) for fm in maps]
        name += f", scale {self.scale:.2f}" + ", flipped back" * bool(self.dims)
        moved = []
        for fm in maps:
            # padded right and below; undoing the flip moves the padding to the other side
            scales = [int(side * self.scale) / side for side in visit.images.shape[2:]]
            rest = [
                have - side * scale for have, side, scale in zip(fm.input_size or (), visit.images.shape[2:], scales)
            ]
            shift = np.array([rest[d - 2] if d in self.dims else 0.0 for d in (3, 2)] * 2)
            scale = np.array([scales[1], scales[0]] * 2)
            whole = region or (0.0, 0.0, float(visit.images.shape[3]), float(visit.images.shape[2]))
            left, top, right, bottom = (float(edge) for edge in np.array(whole) * scale + shift)
            there = None if boxes is None else replace(boxes, xyxy=boxes.xyxy * scale + shift)
            data = torch.flip(fm.data, [dim - 1 for dim in self.dims])
            moved.append(replace(fm, data=data, image=name, region=(left, top, right, bottom), boxes=there))
        return moved


@dataclass
class Visit:
    """One model's run on one batch."""

    model: nn.Module
    images: torch.Tensor
    passes: List[Pass] = field(default_factory=list)
    whole: Optional[Capture] = None
    prepared: Tuple[Optional[float], Tuple[int, ...]] = (None, ())


def find_originals(batch: Any) -> List[np.ndarray]:
    """Find the original images, ``[H, W, 3]``, in what a loader yields; the network's are ``[3, H, W]``."""

    def is_original(part: Any) -> bool:
        return isinstance(part, np.ndarray) and part.ndim == 3 and part.shape[2] in (1, 3, 4) and part.dtype == np.uint8

    for part in batch if isinstance(batch, (list, tuple)) else ():
        if is_original(part):
            return [part]
        if isinstance(part, (list, tuple)) and part and all(map(is_original, part)):
            return list(part)
    return []


def small_rgb(image: np.ndarray, side: int) -> np.ndarray:
    """Copy a loader's image (grey, BGR or BGRA) as RGB of at most ``side`` pixels."""
    import cv2

    codes = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    small = smaller(image, side)
    found: np.ndarray = cv2.cvtColor(small.reshape(*small.shape[:2], -1), codes[image.shape[2]])
    return found


def find_shapes(batch: Any) -> List[Any]:
    """Find each data set image's letterbox: ``((height, width), ((scale down, across), (left, top padding)))``."""

    def is_shape(one: Any) -> bool:
        return isinstance(one, (list, tuple)) and [
            len(pair) if isinstance(pair, (list, tuple)) else 0 for pair in one
        ] == [2, 2]

    parts = (part for part in batch if isinstance(part, (list, tuple)) and part and all(map(is_shape, part)))
    return list(next(parts, ()))


def find_truths(batch: Any) -> Optional[torch.Tensor]:
    """Copy a data set's labels, ``[n, 6]``, which scripts scale in place; None if there are none."""
    parts = (part for part in batch[1:] if isinstance(part, torch.Tensor) and part.dim() == 2 and part.shape[1] == 6)
    found = next(parts, None)
    return None if found is None else found.detach().float().to("cpu", copy=True)


def find_input(given: Any) -> Optional[torch.Tensor]:
    """Find the first batch of images ``[B, C, H, W]`` in a model's arguments."""
    if isinstance(given, torch.Tensor):
        return given if given.dim() == 4 else None
    parts = given.values() if isinstance(given, dict) else given if isinstance(given, (list, tuple)) else ()
    return next((images for images in map(find_input, parts) if images is not None), None)


def find_paths(batch: Any) -> Tuple[List[str], bool]:
    """Find the paths in what a loader yields, in its first member with any, and whether that is a single path."""
    for part in batch if isinstance(batch, (list, tuple)) else ():
        if isinstance(part, (str, Path)):
            return [str(part)], True
        if isinstance(part, (list, tuple)) and part and all(isinstance(path, (str, Path)) for path in part):
            return [str(path) for path in part], False
    return [], False


def distinct(names: Iterable[str]) -> List[str]:
    """Make names unique by appending numbers to repeated ones."""
    found: List[str] = []
    for name in names:
        n, free = 1, name
        while free in found:
            n, free = n + 1, f"{name}{n + 1}"
        found.append(free)
    return found


def find_boxes(found: Any) -> List[Optional[torch.Tensor]]:
    """Copy the output of ``non_max_suppression`` per image: ``[n, 6...]``, or None for nothing in old releases."""

    def is_box(one: Any) -> bool:
        return one is None or (isinstance(one, torch.Tensor) and one.dim() == 2 and one.shape[1] >= 6)

    if not isinstance(found, (list, tuple)) or not all(map(is_box, found)):
        return []
    return [None if one is None else one.detach().to("cpu", copy=True) for one in found]


def find_thresholds(suppress: Callable[..., Any], args: Sequence[Any], kwargs: Dict[str, Any]) -> Thresholds:
    """Return the thresholds of a call of ``non_max_suppression``, as far as they can be told."""
    try:
        given = signature(suppress).bind(*args, **kwargs)
    except (TypeError, ValueError):  # a function without a signature
        return DEFAULTS
    given.apply_defaults()
    names = zip(Thresholds._fields, ("conf_thres", "iou_thres", "max_det"))
    return DEFAULTS._replace(**{field: given.arguments[name] for field, name in names if name in given.arguments})
