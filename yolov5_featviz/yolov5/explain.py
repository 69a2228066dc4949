"""Explain the detections of a model in an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.attribution.explain import MASKS, METHOD, Explanation, check_explain, explain_input
from yolov5_featviz.attribution.passes import Progress
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import Detections
from yolov5_featviz.models.layers import LayerSpec, index_layers
from yolov5_featviz.models.tide import is_kind
from yolov5_featviz.models.zoo import ZooModel
from yolov5_featviz.yolov5.detections import ULTRALYTICS
from yolov5_featviz.yolov5.labels import read_label
from yolov5_featviz.yolov5.named import preparing
from yolov5_featviz.yolov5.predictor import Predictor, image_name, read_image

Image = Union[str, Path, np.ndarray, torch.Tensor]


def explain(
    model: Any,
    image: Image,
    target: Optional[Union[str, int, Sequence[int]]] = None,
    method: str = METHOD,
    layers: Optional[LayerSpec] = None,
    device: Optional[Union[str, int]] = None,
    imgsz: int = 640,
    conf: float = 0.25,
    iou: float = 0.45,
    find: Optional[Callable[[Any], Detections]] = None,
    labels: Optional[Union[str, Path, Boxes]] = None,
    masks: int = MASKS,
    batch: Optional[int] = None,
    progress: Optional[Progress] = None,
    name: str = "",
) -> List[Explanation]:
    """Explain the detections in an image, each by its own map with its own scale.

    ::

        for one in fv.explain("best.pt", "bus.jpg", "person"):
            one.over("bus.jpg").save(f"{one.label}.png")

    Args:
        model: path of a YOLOv5 checkpoint, a :class:`~yolov5_featviz.yolov5.predictor.Predictor`, an Ultralytics
            ``YOLO`` object or model, a detector of torchvision, transformers or mmdetection, or any ``nn.Module`` with
            ``find``.
        image: path of a file, or uint8 RGB ``[H, W, 3]``, prepared as ``detect.py`` does for YOLOv5 and Ultralytics,
            else divided by 255; or the model's input, ``[1, C, H, W]``, as it is.
        target: what to explain:

            - None: all detections, and with ``labels`` what was missed;
            - a class by name or number; ``person:0`` for the person with the highest score, ``:0`` for the
              detection with the highest;
            - ``person@x0,y0,x1,y1``, edges in pixels of the image: the best candidate that overlaps this box by half,
              whether detected or not; ``@x0,y0,x1,y1`` of any class;
            - where there are labels, ``errors``, or one kind of them: ``missed``, ``false``, ``wrong class``,
              ``poor box``, ``duplicate``; see :mod:`yolov5_featviz.models.tide`;
            - numbers of detections, best first.
        method: ``layer-cam``, ``grad-cam``, ``grad-cam++``, ``odam``, ``ss-grad-cam++`` or ``eigen-cam``, see
            :func:`yolov5_featviz.attribution.cam.cam`; ``d-rise``, see
            :func:`yolov5_featviz.attribution.d_rise.d_rise`; or ``ablation``, see
            :func:`yolov5_featviz.attribution.ablation.ablate`.
        layers: one layer, or several, whose maps are merged. None for the end of the backbone; a layer that the
            head reads by 1 x 1 convolutions shows only the cells that detected.
        device: for a path: ``cpu``, ``cuda:1``...; the first GPU if there is one.
        imgsz: longer side of the input in pixels, for YOLOv5 and Ultralytics.
        conf, iou: thresholds, for YOLOv5 and Ultralytics.
        find: for detectors of no known family, a function from the output to
            :class:`~yolov5_featviz.models.detections.Detections`.
        labels: what is in the image: boxes with ``classes``, in pixels of the image, or the folder of YOLOv5's label
            files. None: no labels are used, unless the target asks for errors; they are then read from the folder
            ``labels`` for ``images`` in the path.
        masks: number of masks of D-RISE.
        batch: the most images in one pass of D-RISE and ablation; None: up to 8, on a GPU 32, fewer if the device
            has no memory for them.
        progress: wraps the iterable of passes of D-RISE and ablation, as ``tqdm`` does.
        name: name of the image, for captions; by default that of the file.

    Returns:
        An :class:`~yolov5_featviz.attribution.explain.Explanation` for each detection, best first; errors before
        others, worst first.

    Raises:
        FeatvizError: invalid argument, nothing to explain, or a layer that does not feed the detections.
    """
    check_explain(method, layers)
    if isinstance(model, (str, Path)):
        model = Predictor(model, device=device)
    how: Any = {"target": target, "method": method, "layers": layers, "conf": conf, "iou": iou, "find": find}
    how.update({"masks": masks, "batch": batch, "progress": progress})
    if isinstance(image, torch.Tensor):
        if isinstance(labels, (str, Path)):
            raise FeatvizError(f"no labels of a tensor in {labels}: give Boxes, or the path of an image")
        how["labels"] = labels
        if not isinstance(model, Predictor):
            return explain_input(model, image, **how)
        with model.own():
            return explain_input(model.model, image.to(model.device), **how)
    pixels = read_image(image)
    size = int(pixels.shape[0]), int(pixels.shape[1])
    how.update({"labels": labels_of(image, labels, target, size), "name": name or image_name(image)})
    if isinstance(model, Predictor):
        return model.explain(pixels, imgsz=imgsz, **how)
    x, region = prepared(model, pixels, imgsz)
    root = model.model if isinstance(model, ZooModel) else model
    return explain_input(root, x, region=region, size=size, **how)


def labels_of(image: Any, labels: Any, target: Any, size: Tuple[int, int]) -> Optional[Boxes]:
    """Return the labels of an image in its pixels, if they are given or needed."""
    if isinstance(labels, Boxes):
        return labels
    if labels is None and not is_kind(str(target)):
        return None
    if not isinstance(image, (str, Path)):
        raise FeatvizError(f"target {target!r} needs labels, and an array has none: give labels, Boxes with classes")
    if labels is not None and not Path(labels).is_dir():
        raise FeatvizError(f"no folder {labels}: labels takes Boxes, or the folder of the label files")
    found = read_label(Path(image), None if labels is None else str(labels))
    return None if found is None else found.boxes((0.0, 0.0, float(size[1]), float(size[0])), {})


def prepared(model: Any, pixels: np.ndarray, imgsz: int) -> Tuple[torch.Tensor, Optional[Region]]:
    """Return the input of a model for uint8 RGB ``[H, W, 3]``, on its device, and the image's region in it."""
    zoo = model if isinstance(model, ZooModel) else None
    root = index_layers(model if zoo is None else zoo.model).root
    device = next(iter(root.parameters()), torch.zeros(0)).device
    prepare = zoo.prepare if zoo else preparing(root, imgsz) if ULTRALYTICS.matches(root) else None
    if prepare is not None:
        x, region = prepare(pixels)
        if isinstance(x, torch.Tensor):
            return x.to(device), region
    # torchvision's detectors resize, which explain_input takes into account
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    return x.to(device).float() / 255, None
