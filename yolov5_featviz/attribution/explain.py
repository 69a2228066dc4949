"""Explain detections one by one: what in the image raises the score of each."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.array import as_array
from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.attribution.ablation import Ablation, ablate
from yolov5_featviz.attribution.cam import (
    CAM_METHODS,
    Kept,
    check_method,
    differentiable,
    gradients_of,
    gradients_on,
    heat_of,
    method_of,
    plain_errors,
    run_kept,
)
from yolov5_featviz.attribution.d_rise import Progress, d_rise
from yolov5_featviz.draw.heatmap import HeatMap, aligned
from yolov5_featviz.draw.lettering import SEPARATOR
from yolov5_featviz.draw.page import map_title
from yolov5_featviz.draw.picture import Picture
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.models.detections import Detections, Frame, Thresholds, frame_of, located, thresholds_of, watching
from yolov5_featviz.models.layers import Layer, LayerIndex, LayerSpec, index_layers, select_layers
from yolov5_featviz.models.outputs import describe_output
from yolov5_featviz.models.targets import Case, case_of, cases_of, confidence
from yolov5_featviz.models.tide import ERRORS, KINDS, MISSED, errors_of

METHOD = "layer-cam"  # default
MASKS = 1000  # of D-RISE
# name -> name in captions
METHODS: Dict[str, str] = {
    **{name: words for name, (words, _) in CAM_METHODS.items()},
    "d-rise": "D-RISE",
    "ablation": "Ablation-CAM",
}

Edges = Tuple[float, float, float, float]  # left, top, right and bottom edge
Target = Optional[Union[str, int, Sequence[int]]]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a detector found one object, or missed it.

    Attributes:
        heat: the map on the grid of the layers, 0 to 1, to be drawn alone or over the image.
        box: left, top, right and bottom edge in pixels of the image.
        label: class name.
        score: confidence.
        method: name of the method.
        layers: names of the layers; none for D-RISE.
        size: height and width of the image in pixels.
        number: class number.
        kind: kind of error, see :mod:`yolov5_featviz.models.tide`; empty if it is none, or no labels are known.
        note: what is wrong, or why it was not detected, in words.
        detected: whether it is among the detections.
        truth: box of the label that an error is about, in pixels of the image.
    """

    heat: HeatMap
    box: Edges
    label: str
    score: float
    method: str
    layers: Tuple[str, ...]
    size: Tuple[int, int]
    number: int = 0
    kind: str = ""
    note: str = ""
    detected: bool = True
    truth: Optional[Edges] = field(default=None, repr=False)

    @property
    def map(self) -> np.ndarray:
        """The map at the size of the image, float32 ``[H, W]`` in [0, 1]."""
        return aligned(self.heat.values, self.heat.feature_map, self.size, self.size).clip(0, 1).astype(np.float32)

    @property
    def caption(self) -> str:
        """Class, score, and what is wrong: ``person 0.91``, ``bus 0.18, missed: best candidate 0.18, below 0.25``."""
        return _caption(f"{self.label} {confidence(self.score)}", self.kind, self.note, self.detected)

    def over(self, image: Any, boxes: bool = True, **options: Any) -> Picture:
        """Draw the map over the image, with the detection's box; options as for :meth:`HeatMap.over`."""
        return self.heat.over(image, boxes=boxes, **options)

    def __array__(self, dtype: Any = None, copy: Optional[bool] = None) -> np.ndarray:
        """The ``map``."""
        return as_array(self.map, dtype, copy)

    def __repr__(self) -> str:
        where = f" of layer {', '.join(self.layers)}" if self.layers else ""
        return f"<Explanation {self.caption}: {self.method}{where}>"


def explain_input(
    model: nn.Module,
    image: torch.Tensor,
    target: Target = None,
    method: str = METHOD,
    layers: Optional[LayerSpec] = None,
    conf: float = 0.25,
    iou: float = 0.45,
    find: Optional[Callable[[Any], Detections]] = None,
    region: Optional[Region] = None,
    size: Optional[Tuple[int, int]] = None,
    name: str = "",
    labels: Optional[Boxes] = None,
    found: Optional[Boxes] = None,
    masks: int = MASKS,
    batch: Optional[int] = None,
    progress: Optional[Progress] = None,
) -> List[Explanation]:
    """Explain the detections in a prepared image, each by its own map with its own scale.

    Args:
        model: a detector of a known family, or any with ``find``. It is not changed.
        image: the model's input, ``[1, C, H, W]``.
        target: what to explain:

            - None: all detections, and with ``labels`` what was missed;
            - a class by name or number; ``person:0`` for the person with the highest score, ``:0`` for the
              detection with the highest;
            - ``person@x0,y0,x1,y1``, edges in pixels of the image: the best candidate that overlaps this box by half,
              whether detected or not; ``@x0,y0,x1,y1`` of any class;
            - with ``labels``: ``errors``, or one kind of them; see :mod:`yolov5_featviz.models.tide`;
            - numbers of detections, best first.
        method: one of ``METHODS``. ``eigen-cam`` gives the same map for each; for the others see
            :func:`yolov5_featviz.attribution.cam.cam`, :mod:`~yolov5_featviz.attribution.d_rise`, which needs no
            layers, and :mod:`~yolov5_featviz.attribution.ablation`.
        layers: one layer, or several, whose maps are merged: each scaled to its maximum, then averaged. None
            for the end of the backbone.
        conf, iou: thresholds of detectors that have none of their own.
        find: for detectors of no known family, a function from the output to :class:`Detections`.
        region: where in the input the image lies: left, top, right and bottom edge in pixels; None if it fills it.
        size: height and width of the original image in pixels; None for those of ``region``.
        name: name of the image, for captions.
        labels: what is in the image, with ``classes``, in pixels of the image.
        found: the detections, with ``scores`` and ``classes``, in pixels of the input, if they were made elsewhere,
            with other thresholds.
        masks: number of masks of D-RISE.
        batch: the most images in one pass of D-RISE and ablation; None: up to 8, on a GPU 32, fewer if the device
            has no memory for them.
        progress: wraps the iterable of passes of D-RISE and ablation, as ``tqdm`` does.

    Returns:
        An :class:`Explanation` for each detection of the target, best first; errors before others, worst first. A
        detection that no cell of the layers raises has a map of 0.

    Raises:
        FeatvizError: invalid argument, nothing to explain, or a layer that does not feed the detections.
    """
    check_explain(method, layers)
    if not isinstance(image, torch.Tensor) or image.dim() != 4 or len(image) != 1:
        raise FeatvizError(f"an explanation needs one image [1, C, H, W], not {describe_output(image)}")
    by_gradient = method not in ("eigen-cam", "d-rise", "ablation")
    with ExitStack() as stack:
        if by_gradient:
            stack.enter_context(gradients_on())
            stack.enter_context(plain_errors())
        else:
            stack.enter_context(torch.no_grad())
        index = index_layers(differentiable(model))
        chosen = [] if method == "d-rise" else select_layers(index, default_layers(index) if layers is None else layers)
        thresholds = thresholds_of(index.root, Thresholds(conf, iou))
        with watching(index.root, find) as rows:
            kept, output = run_kept(index, chosen, image, None)
            detections = rows(output, thresholds)
        if found is not None:
            detections = _located(detections, found)
        view = _View(index.root if chosen else None, image, region, size)
        truths = None if labels is None else _moved(labels, view)
        cases = explained(detections, target, thresholds, view.to_input, truths)
        passes: Dict[str, Any] = {"batch": batch, "progress": progress, "find": find}
        if method == "d-rise":
            every = _by_masks(
                detections, cases, view, index.root, masks, lambda d: d_rise(index.root, image, d, masks, **passes)
            )
        elif method == "ablation":
            every = _ablated(
                kept, detections, cases, lambda one, d: ablate(index.root, image, one.layer.name, d, **passes)
            )
        else:
            every = _weighted(kept, detections, cases, method)
    return [_explanation(maps, detections, case, method, view, name) for maps, case in zip(every, cases)]


def check_explain(method: str, layers: Optional[LayerSpec] = None) -> None:
    """Raise FeatvizError for an unknown method, a missing package, or layers that the method does not look at."""
    if method not in METHODS:
        raise FeatvizError(f"no method {method!r}: take one of {', '.join(METHODS)}")
    if method in CAM_METHODS:
        check_method(method)
    if method == "d-rise" and layers is not None:
        raise FeatvizError(f"d-rise looks at the input alone: leave layers {layers} out")


def explained(
    detections: Detections,
    target: Target,
    thresholds: Thresholds,
    to_input: Callable[[Sequence[float]], Sequence[float]],
    labels: Optional[Boxes] = None,
) -> List[Case]:
    """Return what a target of :func:`explain_input` names; ``labels`` are in pixels of the input here.

    Raises FeatvizError if there is nothing like that.
    """
    errors = [] if labels is None else errors_of(detections, labels, thresholds)
    if isinstance(target, (list, tuple)):
        for i in target:
            if not isinstance(i, (int, np.integer)) or not 0 <= i < len(detections):
                raise FeatvizError(f"no detection {i!r}: there are 0 to {len(detections) - 1}")
        return [_judged(case_of(detections, int(i)), errors) for i in target]
    kind = str(target or "")
    if kind in (ERRORS, *KINDS) and kind not in detections.names.values():
        if labels is None:
            raise FeatvizError(f"target {kind!r} needs labels, and none are known: give them")
        wanted = [case for case in errors if kind in (ERRORS, case.kind)]
        if not wanted:
            raise FeatvizError("there is no error" if kind == ERRORS else f"nothing is {kind}")
        return wanted
    if target is None and errors:
        good = [case_of(detections, i) for i in range(len(detections))]
        wrong = {case.detection for case in errors}
        return [*errors, *(case for case in good if case.detection not in wrong)]
    return [_judged(case, errors) for case in cases_of(detections, target, thresholds, to_input)]


def overview(explanations: Sequence[Explanation]) -> HeatMap:
    """Combine explanations of one image: the maximum of their maps, each scaled to its maximum, with all boxes.

    Raises:
        FeatvizError: there are none, or of different images.
    """
    if not explanations:
        raise FeatvizError("no explanations to combine")
    first = explanations[0]
    heats = [one.heat for one in explanations]
    if len(heats) == 1:
        return heats[0]
    if len({(one.size, one.heat.feature_map.image) for one in explanations}) > 1:
        raise FeatvizError("explanations of different images: combine those of one")
    shape = max(heat.values.shape for heat in heats)
    values = np.max([resample(heat.values, shape) for heat in heats], axis=0)
    every = [heat.feature_map.boxes for heat in heats]
    boxes = _joined([one for one in every if one is not None])
    base = max(heats, key=lambda heat: heat.values.shape).feature_map
    whole = replace(base, data=torch.from_numpy(values)[None], boxes=boxes)
    counts = Counter(one.label + ", missed" * (not one.detected) for one in explanations)
    words = ", ".join(f"{n} × {label}" for label, n in counts.items())
    title = f"{METHODS[first.method]} of {words}{SEPARATOR}each scaled to its maximum"
    about = {**first.heat.about, "shows": f"{METHODS[first.method]} of {words}", "scale": None}
    about = {key: value for key, value in about.items() if value is not None}
    return HeatMap(values, first.heat.legend, map_title(whole, title), whole, about)


class _View:
    """Where the original image is: in the model's input, and in what its layers see.

    Attributes:
        region: of the image in the input.
        size: height and width of the image in pixels.
        frame: what the layers see; the input itself if there is no ``root``.
        window: region of the image there.
    """

    def __init__(
        self, root: Optional[nn.Module], image: torch.Tensor, region: Optional[Region], size: Optional[Tuple[int, int]]
    ) -> None:
        self.input = int(image.shape[2]), int(image.shape[3])
        height, width = self.input
        self.region = region or (0.0, 0.0, float(width), float(height))
        left, top, right, bottom = self.region
        self.size = size or (round(bottom - top), round(right - left))
        whole = Frame(self.input, (0.0, 0.0, float(width), float(height)))
        self.frame = whole if root is None else frame_of(root, image)
        x0, y0, x1, y1 = self.frame.region
        self.window = tuple(np.multiply(self.region, [(x1 - x0) / width, (y1 - y0) / height] * 2) + [x0, y0] * 2)

    def to_input(self, edges: Sequence[float]) -> Edges:
        """Convert edges in the image to edges in the input."""
        left, top, right, bottom = self.region
        x0, y0, x1, y1 = np.multiply(edges, [(right - left) / self.size[1], (bottom - top) / self.size[0]] * 2)
        return float(x0 + left), float(y0 + top), float(x1 + left), float(y1 + top)

    def to_image(self, edges: Sequence[float]) -> Edges:
        """Convert edges in the input to edges in the image."""
        left, top, right, bottom = self.region
        x0, y0, x1, y1 = edges
        across, down = self.size[1] / (right - left), self.size[0] / (bottom - top)
        return (x0 - left) * across, (y0 - top) * down, (x1 - left) * across, (y1 - top) * down

    def boxes(self, case: Case, label: str) -> Boxes:
        """Return the box of a case in what the layers see, and that of its label if there is one."""
        edges = [case.box] + ([case.truth] if case.truth is not None and case.kind == MISSED else [])
        labels = [label] + ["label"] * (len(edges) - 1)
        numbers = np.full(len(edges), case.number)
        x0, y0, x1, y1 = self.frame.region
        found = Boxes(np.array(edges), None, labels, numbers)
        return found.mapped((0, 0, self.input[1], self.input[0]), (y1 - y0, x1 - x0))


def _moved(labels: Boxes, view: _View) -> Boxes:
    """Move boxes from pixels of the image to those of the input."""
    edges = [view.to_input(box) for box in labels.xyxy.tolist()]
    return Boxes(np.array(edges, np.float32).reshape(-1, 4), labels.scores, labels.labels, labels.classes)


def _located(detections: Detections, found: Boxes) -> Detections:
    """Return detections made elsewhere, found among the candidates."""
    if found.scores is None or found.classes is None:
        raise FeatvizError("detections without scores and classes cannot be explained: give both")
    boxes, scores, classes = (torch.from_numpy(part.copy()) for part in (found.xyxy, found.scores, found.classes))
    return located(detections.candidates, boxes, scores, classes, detections.names)


def _judged(case: Case, errors: Sequence[Case]) -> Case:
    """Return a case with the error that it is, if it is one."""
    same = (one for one in errors if (one.row, one.number) == (case.row, case.number))
    return next(same, case)


Maps = List[Tuple[Any, np.ndarray, str]]  # kept tensor, its map [H, W], and a remark on it


def _weighted(kept: Sequence[Kept], detections: Detections, cases: Sequence[Case], method: str) -> List[Maps]:
    """Return the maps of each case by activations and gradients."""
    weigh = method_of(method)
    tensors = [one.tensor for one in kept]
    activations = [one.to_array(tensor) for one, tensor in zip(kept, tensors)]
    if method == "eigen-cam":
        planes = [weigh(activation, None) for activation in activations]
        return [[(one, plane, "the same for every detection") for one, plane in zip(kept, planes)] for _ in cases]
    every: List[Maps] = []
    last = max((n for n, case in enumerate(cases) if case.row >= 0), default=-1)
    for n, case in enumerate(cases):
        if case.row < 0:
            every.append(_nothing(kept, activations))
            continue
        gradients = gradients_of(detections.candidates.score(case.row, case.number), tensors, n < last)
        slopes = [(one, x, gradients.get(id(one.tensor))) for one, x in zip(kept, activations)]
        maps = [(one, x, one.to_array(slope)) for one, x, slope in slopes if slope is not None]
        if not maps:
            named = ", ".join(one.layer.name for one in kept)
            words = f"{detections.name(case.number)} {case.score:.2f}"
            raise FeatvizError(f"layer {named} does not feed {words}: take a layer that comes before")
        every.append([(one, weigh(x, slope), _reach(slope)) for one, x, slope in maps])
    return every


def _nothing(kept: Sequence[Kept], activations: Sequence[np.ndarray]) -> Maps:
    return [(one, np.zeros(x.shape[2:], np.float32), "no candidate") for one, x in zip(kept, activations)]


def _reach(gradient: np.ndarray) -> str:
    """Say so if a score depends on a single cell of a layer: its map can then show no more than that cell."""
    cells = np.abs(gradient[0]).sum(axis=0)
    return "only the cell that detects can be lit" if cells.size > 1 and np.count_nonzero(cells) <= 1 else ""


def _ablated(
    kept: Sequence[Kept], detections: Detections, cases: Sequence[Case], without: Callable[[Kept, Detections], Ablation]
) -> List[Maps]:
    """Return the maps of each case by what it loses when each channel is put to its mean."""
    there = [case for case in cases if case.row >= 0]
    asked = detections.of([case.row for case in there], [case.number for case in there])
    planes = [iter(without(one, asked).maps()) for one in kept]
    empty = _nothing(kept, [one.to_array(one.tensor) for one in kept])
    return [[(one, next(p), "") for one, p in zip(kept, planes)] if case.row >= 0 else empty for case in cases]


def _by_masks(
    detections: Detections,
    cases: Sequence[Case],
    view: _View,
    root: nn.Module,
    masks: int,
    how: Callable[[Detections], np.ndarray],
) -> List[Maps]:
    """Return the maps of each case by D-RISE, above their least value in the image."""
    there = [case for case in cases if case.row >= 0]
    planes = iter(how(detections.of([case.row for case in there], [case.number for case in there])))
    left, top, right, bottom = (round(edge) for edge in view.region)
    pixels = Kept(Layer("", root, "", name="input"), None, torch.zeros(0), np.asarray)
    every: List[Maps] = []
    for case in cases:
        if case.row < 0:
            every.append(_nothing([pixels], [np.zeros((1, 1, *view.input))]))
            continue
        values = next(planes)
        every.append(
            [(pixels, values - values[top:bottom, left:right].min(), f"{masks:,} masks, above the least value")]
        )
    return every


def _explanation(maps: Maps, detections: Detections, case: Case, method: str, view: _View, name: str) -> Explanation:
    label = detections.name(case.number)
    caption = _caption(f"{label} {confidence(case.score)}", case.kind, case.note, case.detection is not None)
    boxes = view.boxes(case, label)
    drawn = [
        FeatureMap(torch.from_numpy(values)[None], one.layer, *place, name, None, window, boxes)
        for one, values, _ in maps
        for place, window in [((view.frame.size, one.level), view.window)]
    ]
    remarks = {remark for _, _, remark in maps}
    remark = remarks.pop() if len(remarks) == 1 else ""
    heat = heat_of(drawn, SEPARATOR.join(filter(None, [f"{METHODS[method]} of {caption}", remark])))
    names = () if method == "d-rise" else tuple(dict.fromkeys(one.layer.name for one, _, _ in maps))
    truth = None if case.truth is None else view.to_image(case.truth)
    found = case.detection is not None
    where = (view.to_image(case.box), label, case.score, method, names, view.size)
    return Explanation(heat, *where, case.number, case.kind, case.note, found, truth)


def _caption(words: str, kind: str, note: str, detected: bool) -> str:
    """Describe a detection, or what is not one: ``bus 0.18, missed: best candidate 0.18, below 0.25``."""
    what = kind or ("" if detected else "not detected")
    return ": ".join(filter(None, [f"{words}, {what}" if what else words, note]))


def _joined(every: Sequence[Boxes]) -> Optional[Boxes]:
    """Return all boxes in one."""
    if not every:
        return None
    scores = None if any(one.scores is None for one in every) else np.concatenate([one.scores for one in every])
    classes = None if any(one.classes is None for one in every) else np.concatenate([one.classes for one in every])
    labels = [label for one in every for label in one.labels]
    return Boxes(np.concatenate([one.xyxy for one in every]), scores, labels, classes)


def default_layers(index: LayerIndex) -> LayerSpec:
    """Return the layer that is explained by default: the last of the backbone. Raises FeatvizError if unknown."""
    if index.groups.get("backbone"):
        return index.layers[index.groups["backbone"][-1]].name
    if any(layer.path == "backbone" for layer in index.layers):
        return "backbone"
    names = ", ".join(layer.name for layer in index.layers[:8])
    raise FeatvizError(f"no backbone is known in {type(index.root).__name__}: give layers, such as one of {names}")
