"""Measure whether maps of a model's detections tell the truth, over images."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.attribution.explain import MASKS, METHOD
from yolov5_featviz.attribution.faithfulness import measure_input
from yolov5_featviz.attribution.maker import STAGES, STEPS, Methods, Settings, check_settings
from yolov5_featviz.attribution.measured import BASELINES, Measured
from yolov5_featviz.attribution.passes import Progress, best_batch
from yolov5_featviz.compare.faithfulness import Summary, latex, rows_csv, statements, summarise, table
from yolov5_featviz.compare.faithfulness_figure import draw_curves
from yolov5_featviz.draw.widths import width_of
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.figures.composition import Composition
from yolov5_featviz.models.detections import Detections, names_of
from yolov5_featviz.models.layers import LayerSpec, index_layers, select_layers
from yolov5_featviz.models.outputs import check_image
from yolov5_featviz.models.targets import NothingFoundError, class_number, parse_target
from yolov5_featviz.models.zoo import ZooModel
from yolov5_featviz.runs.images import find_images
from yolov5_featviz.runs.names import image_names
from yolov5_featviz.yolov5.explain import Image, labels_of, prepared
from yolov5_featviz.yolov5.predictor import Predictor, read_image


def faithfulness(
    model: Any,
    images: Union[Image, Sequence[Image]],
    methods: Methods = (METHOD,),
    target: Optional[str] = None,
    layers: Optional[LayerSpec] = None,
    steps: int = STEPS,
    fill: str = "blur",
    masks: int = MASKS,
    stages: int = STAGES,
    reference: Optional[str] = None,
    device: Optional[Union[str, int]] = None,
    imgsz: int = 640,
    conf: float = 0.25,
    iou: float = 0.45,
    find: Optional[Callable[[Any], Detections]] = None,
    labels: Optional[Union[str, Path, Boxes]] = None,
    batch: Optional[int] = None,
    progress: Optional[Progress] = None,
) -> Faithfulness:
    """Measure whether the maps of detections tell the truth, by several methods, and by maps that know nothing.

    ::

        found = fv.faithfulness("best.pt", "images/", methods=["layer-cam", "odam", "heatmap"])
        print("\\n".join(found.statements))

    Args:
        model: as for :func:`yolov5_featviz.explain`.
        images: a file, a folder or a pattern; an image, uint8 RGB ``[H, W, 3]``; the model's input, ``[1, C, H, W]``;
            or a sequence of such.
        methods: names: those of :func:`yolov5_featviz.explain`, and ``heatmap``, the mean over the channels; or
            functions by name, from the model, its input ``[1, C, H, W]`` and the detections to a map ``[h, w]`` of
            each over the whole input.
        target: which detections: a class, ``person:0``...; None for all.
        layers: of the methods that look at layers; None for the end of the backbone.
        steps: number of shares in which pixels are replaced.
        fill: what they are replaced by: ``blur``, ``mean``, ``noise`` or ``black``.
        masks: number of masks of D-RISE.
        stages: number of stages in which layers are randomised for the sanity check; 0 leaves out this check and that
            by noise, which cost as many maps of each detection, and three.
        reference: the method that the others are compared with; None for the first.
        device: for a path: ``cpu``, ``cuda:1``...; the first GPU if there is one.
        imgsz: longer side of the input in pixels, for YOLOv5 and Ultralytics.
        conf, iou: thresholds, for YOLOv5 and Ultralytics.
        find: for detectors of no known family, a function from the output to
            :class:`~yolov5_featviz.models.detections.Detections`.
        labels: what is in the image, for the object discrimination index: boxes in pixels of the image, or the folder
            of YOLOv5's label files. None: the objects are the detections.
        batch: the most images in one pass; None: the fastest on the device, which is found by trying.
        progress: wraps the sequence of images, as ``tqdm`` does.

    Returns:
        :class:`Faithfulness`. Images without a detection are left out.

    Raises:
        FeatvizError: invalid argument, nothing was detected in any image, or the model cannot be run.
    """
    settings = Settings(methods, layers, steps, fill, masks, stages, batch)
    check_settings(settings)
    if isinstance(model, (str, Path)):
        model = Predictor(model, device=device)
    every = listed(images)
    if reference is not None and reference not in (*settings.methods, *BASELINES):
        raise FeatvizError(f"reference {reference!r} is not among the methods {', '.join(settings.methods)}")
    if isinstance(labels, Boxes) and len(every) > 1:
        raise FeatvizError(f"labels of one image for {len(every)} images: give the folder of the label files")
    subject = Subject(model, imgsz, conf, iou, find)
    subject.check(layers, target)
    rows: List[Measured] = []
    why = ""
    for image, name in progress(every) if progress else every:
        if settings.batch is None:
            settings = settings._replace(batch=subject.best_batch(image))
        try:
            rows += subject.measure(image, name, settings, target, labels)
        except NothingFoundError as error:
            why = why or str(error)
    if not rows:
        raise FeatvizError(why)
    return Faithfulness(rows, summarise(rows, reference, stage_names(stages)))


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """How faithful the maps of several methods are.

    Attributes:
        rows: the numbers of each map; see :class:`~yolov5_featviz.attribution.measured.Measured`.
        summary: means and differences; see :class:`~yolov5_featviz.compare.faithfulness.Summary`.
    """

    rows: List[Measured] = field(repr=False)
    summary: Summary

    @property
    def statements(self) -> List[str]:
        """What the numbers show, and what they do not, in sentences."""
        return statements(self.summary)

    def to_csv(self) -> str:
        """Return the numbers of all maps as comma-separated values."""
        return rows_csv(self.rows, self.summary.stages)

    def to_latex(self, column: bool = False) -> str:
        """Return the means as a LaTeX table, which needs ``booktabs``; ``column``: for one column of 3.5 inches."""
        return latex(self.summary, {}, column)

    def curves(self, width: Union[float, str] = "ieee-column", dpi: int = 300) -> Composition:
        """Draw the mean deletion and insertion curves; save them by ``.save("curves.pdf")``."""
        return draw_curves(self.rows, width_of(width), dpi)

    def __str__(self) -> str:
        return "\n".join([table(self.summary), "", *self.statements])


def stage_names(stages: int) -> List[str]:
    """Return the names of the stages of the sanity check: the share of the layers that are randomised."""
    return [f"{round(100 * (k + 1) / stages)} %" for k in range(stages)]


def listed(images: Union[Image, Sequence[Image]]) -> List[Tuple[Image, str]]:
    """Return images with unique names."""
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return [(images, "image")]
    if isinstance(images, (str, Path)):
        files: Sequence[Any] = find_images(str(images))
    else:
        files = list(images) if isinstance(images, (list, tuple)) else []
    if not files:
        raise FeatvizError("no images: give one or more")
    named = [one if isinstance(one, (str, Path)) else f"image{n}" for n, one in enumerate(files)]
    return list(zip(files, image_names(named)))


class Subject:
    """A detector that is measured, and how images are prepared for it."""

    def __init__(self, model: Any, imgsz: int, conf: float, iou: float, find: Any = None) -> None:
        self.model, self.imgsz = model, imgsz
        self.how: Dict[str, Any] = {"conf": conf, "iou": iou, "find": find}
        self.root = model.model if isinstance(model, (Predictor, ZooModel)) else model

    def prepare(self, image: Image) -> Tuple[torch.Tensor, Optional[Region], Optional[Tuple[int, int]]]:
        """Return the input of an image, where the image is in it, and its size."""
        if isinstance(image, torch.Tensor):
            check_image(image, "faithfulness")
            return (image.to(self.model.device) if isinstance(self.model, Predictor) else image), None, None
        pixels = read_image(image)
        size = int(pixels.shape[0]), int(pixels.shape[1])
        if isinstance(self.model, Predictor):
            x, region = self.model.prepare(pixels, self.imgsz)
            return x.to(self.model.device), region, size
        x, where = prepared(self.model, pixels, self.imgsz)
        return x, where, size

    def check(self, layers: Optional[LayerSpec], target: Optional[str]) -> None:
        """Raise FeatvizError for layers or a class that the model does not have."""
        index = index_layers(self.root)
        if layers is not None:
            select_layers(index, layers)
        names = names_of(getattr(index.root, "names", None) or ())
        if names:
            class_number(parse_target(target).word, names)

    def best_batch(self, image: Image) -> int:
        """Return the fastest number of images a pass; see :func:`yolov5_featviz.attribution.passes.best_batch`."""
        x, _, _ = self.prepare(image)
        with self._own():
            return best_batch(index_layers(self.root).root, x, self.how["find"])

    def measure(
        self,
        image: Image,
        name: str,
        settings: Settings,
        target: Optional[str] = None,
        labels: Any = None,
        progress: Optional[Progress] = None,
    ) -> List[Measured]:
        """Measure the maps of the detections in an image; see :func:`faithfulness`."""
        x, region, size = self.prepare(image)
        if isinstance(labels, Boxes) and labels.classes is None and target is not None:
            raise FeatvizError("labels without classes: give Boxes with classes")
        if labels is not None and not isinstance(labels, Boxes):
            if not isinstance(labels, (str, Path)):
                raise FeatvizError(f"labels of type {type(labels).__name__}: give Boxes, or the folder of label files")
            if size is None:
                raise FeatvizError(f"no labels of a tensor in {labels}: give Boxes, or the path of an image")
            labels = labels_of(image, labels, target, size)
        where: Dict[str, Any] = {"region": region, "size": size, "name": name, "labels": labels, "progress": progress}
        with self._own():
            return measure_input(self.root, x, settings, target, **where, **self.how)

    def _own(self) -> ContextManager[None]:
        return self.model.own() if isinstance(self.model, Predictor) else nullcontext()
