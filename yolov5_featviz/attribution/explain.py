"""Explain detections one by one: what in the image raises the score of each."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.array import as_array
from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.arrays.checkerboard import smoothed
from yolov5_featviz.attribution.ablation import Ablation, ablate
from yolov5_featviz.attribution.cam import (
    CAM_METHODS,
    INDEPENDENT,
    Kept,
    Plane,
    caption,
    check_method,
    differentiable,
    filled,
    gradients_on,
    map_of,
    method_of,
    plain_errors,
    planes_of,
    run_kept,
)
from yolov5_featviz.attribution.combined import combined
from yolov5_featviz.attribution.d_rise import d_rise
from yolov5_featviz.attribution.passes import Progress
from yolov5_featviz.attribution.view import View
from yolov5_featviz.draw.heatmap import HeatMap, aligned
from yolov5_featviz.draw.lettering import SEPARATOR
from yolov5_featviz.draw.picture import Picture
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import Detections, Thresholds, located, thresholds_of, watching
from yolov5_featviz.models.layers import Layer, LayerIndex, LayerSpec, index_layers, select_layers
from yolov5_featviz.models.outputs import check_image
from yolov5_featviz.models.targets import Case, Edges, NothingFoundError, candidate_case, case_of, cases_of, confidence
from yolov5_featviz.models.tide import ERRORS, errors_of, is_kind

METHOD = "layer-cam"  # default
MASKS = 1000  # of D-RISE
NO_CANDIDATE = "no candidate"  # remark on the map of an object that the detector has no candidate for
# name -> name in captions
METHODS: Dict[str, str] = {
    **{name: words for name, (words, _) in CAM_METHODS.items()},
    "d-rise": "D-RISE",
    "ablation": "Ablation-CAM",
}

Target = Optional[Union[str, int, Sequence[int], Sequence[Tuple[int, int]]]]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a detector found one object, or missed it.

    Attributes:
        heat: the map on the grid of the layers, 0 to 1, to be drawn alone or over the image.
        box: left, top, right and bottom edge in pixels of the image, cut to it.
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
        remark: what else is to be known about the map: the number of masks, that it is a single cell...
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
    remark: str = ""

    @property
    def map(self) -> np.ndarray:
        """The map at the size of the image, float32 ``[H, W]`` in [0, 1]."""
        return aligned(self.heat.values, self.heat.feature_map, self.size, self.size).clip(0, 1).astype(np.float32)

    @property
    def caption(self) -> str:
        """Class, score, and what is wrong: ``person 0.91``, ``bus 0.18, missed: best candidate 0.18, below 0.25``."""
        return caption(self.label, self.score, self.kind, self.note, self.detected)

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
    merge: bool = True,
    smooth: bool = False,
    lost: Optional[Callable[[int], None]] = None,
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
            - numbers of detections, best first, or candidates, each as a tuple of row and class.
        method: one of ``METHODS``. ``eigen-cam`` gives the same map for each; for the others see
            :func:`yolov5_featviz.attribution.cam.cam`, :mod:`~yolov5_featviz.attribution.d_rise`, which needs no
            layers, and :mod:`~yolov5_featviz.attribution.ablation`.
        layers: one layer, or several; see ``merge``. None for the end of the backbone.
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
        merge: merge the maps of several layers: each scaled to its maximum, then averaged. Else each layer gets
            explanations of its own.
        smooth: as for :func:`yolov5_featviz.attribution.cam.cam`; not for D-RISE.
        lost: called with the number of ``found`` that are none of the candidates, if any, which are then left out.
            None: they are an error.

    Returns:
        An :class:`Explanation` for each detection of the target, best first; errors before others, worst first;
        if not merged, by layer first. A detection that no cell of the layers raises has a map of 0.

    Raises:
        FeatvizError: invalid argument, nothing to explain, or a layer that does not feed the detections.
    """
    check_explain(method, layers)
    if smooth and method == "d-rise":
        raise FeatvizError("d-rise has no checkerboard to smooth: leave smooth out")
    check_image(image, "an explanation")
    by_gradient = method not in ("eigen-cam", "d-rise", "ablation")
    with ExitStack() as stack:
        if by_gradient:
            stack.enter_context(gradients_on())
            stack.enter_context(plain_errors())
        else:
            stack.enter_context(torch.no_grad())
        index = index_layers(differentiable(model))
        thresholds = thresholds_of(index.root, Thresholds(conf, iou))
        with watching(index.root, find) as rows:
            if layers is None and method != "d-rise":
                layers = default_layers(index)
            chosen = [] if layers is None else select_layers(index, layers)
            kept, output = run_kept(index, chosen, image, None)
            own = rows(output, thresholds)
        detections = own if found is None else made_elsewhere(own, found, lost)
        view = View(index.root if chosen else None, image, region, size)
        truths = None if labels is None else moved(labels, view)
        cases = explained(detections, target, thresholds, view.to_input, truths, view.region)
        if found is not None:
            cases = [_left_out(case, own) for case in cases]
        cases = [case._replace(box=view.cut(case.box)) for case in cases]
        passes: Dict[str, Any] = {"batch": batch, "progress": progress, "find": find}
        if method == "d-rise":
            kept = [Kept(Layer("", index.root, "", name="input"), None, torch.zeros(0), np.asarray)]
            every = _by_masks(detections, cases, view, masks, lambda d: d_rise(index.root, image, d, masks, **passes))
        elif method == "ablation":
            every = _ablated(
                kept, detections, cases, smooth, lambda one, d: ablate(index.root, image, one.layer.name, d, **passes)
            )
        else:
            every = _weighted(kept, detections, cases, method, smooth)
    names = [detections.name(case.number) for case in cases]
    words = [caption(name, case.score) for name, case in zip(names, cases)]
    arranged = _merged(kept, every, words) if merge else _by_layer(kept, every, words)
    how = _How(method, smooth, view, name)
    return [_explanation(maps, cases[n], names[n], how) for n, maps in arranged]


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
    region: Optional[Region] = None,
) -> List[Case]:
    """Return what a target of :func:`explain_input` names; ``labels`` are in pixels of the input here.

    Raises FeatvizError if there is nothing like that.
    """
    errors = [] if labels is None else errors_of(detections, labels, thresholds, region)
    if isinstance(target, (list, tuple)):
        return [_judged(_numbered(detections, i, thresholds), errors) for i in target]
    kind = str(target or "")
    if is_kind(kind, detections.names.values()):
        if labels is None:
            raise FeatvizError(f"target {kind!r} needs labels, and none are known: give them")
        wanted = [case for case in errors if kind in (ERRORS, case.kind)]
        if not wanted:
            raise NothingFoundError("there is no error" if kind == ERRORS else f"nothing is {kind}")
        return wanted
    if target is None and errors:
        good = [case_of(detections, i) for i in range(len(detections))]
        wrong = {case.detection for case in errors}
        return [*errors, *(case for case in good if case.detection not in wrong)]
    named: Any = target
    return [_judged(case, errors) for case in cases_of(detections, named, thresholds, to_input, region)]


def _numbered(detections: Detections, i: Any, thresholds: Thresholds) -> Case:
    """Return a detection by its number, or a candidate by row and class. Raises FeatvizError if there is none."""
    if isinstance(i, tuple):
        count, kinds = detections.candidates.scores.shape
        if len(i) != 2 or not (0 <= i[0] < count and 0 <= i[1] < kinds):
            raise FeatvizError(f"no candidate {i!r}: give row and class, up to {count - 1} and {kinds - 1}")
        return candidate_case(detections, int(i[0]), int(i[1]), thresholds)
    if not isinstance(i, (int, np.integer)) or not 0 <= i < len(detections):
        raise FeatvizError(f"no detection {i!r}: there are 0 to {len(detections) - 1}")
    return case_of(detections, int(i))


def overview(explanations: Sequence[Explanation]) -> HeatMap:
    """Combine explanations of one image: the maximum of their maps, each scaled to its maximum, with all boxes.

    Raises:
        FeatvizError: there are none, or of different images.
    """
    return explanations[0].heat if len(explanations) == 1 else _overviews([explanations], False)[0]


def overviews(explanations: Sequence[Explanation], merge: bool = False) -> List[HeatMap]:
    """Combine explanations that were made with ``merge=False``: the overview of each layer.

    ``merge``: one map instead, the mean of the layers' maps, each scaled to its maximum.

    Raises:
        FeatvizError: there are none, or of different images.
    """
    layers: Dict[Any, List[Explanation]] = {}
    for one in explanations:
        layers.setdefault((one.layers, one.heat.feature_map.level), []).append(one)
    rows = list(layers.values())
    return [overview(row) for row in rows] if rows and not merge else _overviews(rows, True)


def _overviews(rows: Sequence[Sequence[Explanation]], merge: bool) -> List[HeatMap]:
    """Draw rows of explanations, each of a layer."""
    if not rows or not rows[0]:
        raise FeatvizError("no explanations to combine")
    if len({(one.size, one.heat.feature_map.image) for row in rows for one in row}) > 1:
        raise FeatvizError("explanations of different images: combine those of one")
    first = rows[0][0]
    counts = Counter(one.label + f" ({one.kind or 'not detected'})" * (not one.detected) for one in rows[0])
    words = first.caption if len(rows[0]) == 1 else ", ".join(f"{n} × {label}" for label, n in counts.items())
    maps = [[one.heat.feature_map for one in row] for row in rows]
    smooth = bool(first.heat.about.get("smooth"))
    boxes = _joined([one.boxes for one in maps[0] if one.boxes is not None])
    remarks = {one.remark for row in rows for one in row} - {INDEPENDENT}
    title = SEPARATOR.join(
        filter(None, [f"{METHODS[first.method]} of {words}", *(remarks if len(remarks) == 1 else ())])
    )
    heats = combined(maps, title, smooth, merge)
    return [replace(heat, feature_map=replace(heat.feature_map, boxes=boxes)) for heat in heats]


def moved(labels: Boxes, view: View) -> Boxes:
    """Move boxes from pixels of the image to those of the input."""
    edges = [view.to_input(box) for box in labels.xyxy.tolist()]
    return Boxes(np.array(edges, np.float32).reshape(-1, 4), labels.scores, labels.labels, labels.classes)


def made_elsewhere(own: Detections, found: Boxes, lost: Optional[Callable[[int], None]]) -> Detections:
    """Return detections made elsewhere, found among the candidates; see :func:`explain_input`."""
    if found.scores is None or found.classes is None:
        raise FeatvizError("detections without scores and classes cannot be explained: give both")
    boxes, scores, classes = (torch.from_numpy(part.copy()) for part in (found.xyxy, found.scores, found.classes))

    def of(rows: List[int]) -> Detections:
        return located(own.candidates, boxes[rows], scores[rows], classes[rows], own.names)

    def is_candidate(row: int) -> bool:
        try:
            return len(of([row])) == 1
        except (FeatvizError, IndexError):  # the latter for a class that the model does not have
            return False

    rows = list(range(len(found)))
    if lost is not None:
        rows = [row for row in rows if is_candidate(row)]
        if len(rows) < len(found):
            lost(len(found) - len(rows))
            if not rows:
                raise FeatvizError(f"none of the {len(found)} detections is a candidate of the model")
    return of(rows)


def _left_out(case: Case, own: Detections) -> Case:
    """Return a case with a note if it is not among the detections made elsewhere, but among the model's own."""
    mine = ((own.rows == case.row) & (own.classes == case.number)).any()
    if case.detection is not None or case.kind or not mine:
        return case
    return case._replace(note=f"best candidate {confidence(case.score)}, left out by the script")


def _judged(case: Case, errors: Sequence[Case]) -> Case:
    """Return a case with the error that it is, if it is one."""
    same = (one for one in errors if (one.row, one.number) == (case.row, case.number))
    return next(same, case)


Every = List[List[Optional[Plane]]]  # of each case the map in each tensor, None where it does not depend on that
Maps = List[Tuple[Kept, Plane]]


def _weighted(kept: Sequence[Kept], detections: Detections, cases: Sequence[Case], method: str, smooth: bool) -> Every:
    """Return the maps of each case by activations and gradients."""
    weigh = method_of(method, smooth)
    if method == "eigen-cam":
        planes = [weigh(one.to_array(one.tensor), None) for one in kept]
        return [[Plane(plane, "the same for every detection") for plane in planes] for _ in cases]
    scores = [detections.candidates.score(case.row, case.number) for case in cases if case.row >= 0]
    return _spread(planes_of(kept, scores, weigh), cases, kept)


def _ablated(
    kept: Sequence[Kept],
    detections: Detections,
    cases: Sequence[Case],
    smooth: bool,
    without: Callable[[Kept, Detections], Ablation],
) -> Every:
    """Return the maps of each case by what it loses when each channel is put to its mean."""
    asked = _asked(detections, cases)
    planes = [[smoothed(plane) if smooth else plane for plane in without(one, asked).maps()] for one in kept]
    return _spread([[Plane(plane) for plane in each] for each in zip(*planes)], cases, kept)


def _by_masks(
    detections: Detections,
    cases: Sequence[Case],
    view: View,
    masks: int,
    how: Callable[[Detections], np.ndarray],
) -> Every:
    """Return the maps of each case by D-RISE, above their least value in the image."""
    left, top, right, bottom = (round(edge) for edge in view.region)
    remark = f"{masks:,} masks, above the least value"
    planes = [Plane(values - values[top:bottom, left:right].min(), remark) for values in how(_asked(detections, cases))]
    every = iter(planes)
    nothing = Plane(np.zeros(view.input, np.float32), NO_CANDIDATE)
    return [[next(every) if case.row >= 0 else nothing] for case in cases]


def _asked(detections: Detections, cases: Sequence[Case]) -> Detections:
    """Return the candidates of those cases that have one."""
    there = [case for case in cases if case.row >= 0]
    return detections.of([case.row for case in there], [case.number for case in there])


def _spread(planes: Sequence[Sequence[Optional[Plane]]], cases: Sequence[Case], kept: Sequence[Kept]) -> Every:
    """Return the maps of those cases that have a candidate, and of the others maps of 0."""
    every = iter(planes)
    nothing = [Plane(np.zeros(one.to_array(one.tensor).shape[2:], np.float32), NO_CANDIDATE) for one in kept]
    return [list(next(every) if case.row >= 0 else nothing) for case in cases]


def _merged(kept: Sequence[Kept], every: Every, words: Sequence[str]) -> Iterator[Tuple[int, Maps]]:
    """Yield the number of each case, and its maps of all layers."""
    for n, planes in enumerate(every):
        maps = [(one, plane) for one, plane in zip(kept, planes) if plane is not None]
        if not maps:
            named = ", ".join(one.layer.name for one in kept)
            raise FeatvizError(f"layer {named} does not feed {words[n]}: take a layer that comes before")
        yield n, maps


def _by_layer(kept: Sequence[Kept], every: Every, words: Sequence[str]) -> Iterator[Tuple[int, Maps]]:
    """Yield the number of each case, and its map, layer by layer."""
    used = False
    for one, planes in zip(kept, zip(*every)):
        found = filled(planes)
        used = used or bool(found)
        if not found and not one.layer.optional:
            raise FeatvizError(f"layer {one.layer.name} does not feed {words[0]}: take a layer that comes before")
        yield from ((n, [(one, plane)]) for n, plane in enumerate(found))
    if not used:
        raise FeatvizError(f"none of the layers feeds {words[0]}: take layers that come before")


class _How(NamedTuple):
    """How maps were made: by which method, whether smoothed, where the image is, and its name."""

    method: str
    smooth: bool
    view: View
    image: str


def _explanation(maps: Maps, case: Case, label: str, how: _How) -> Explanation:
    words = caption(label, case.score, case.kind, case.note, case.detection is not None)
    boxes = how.view.boxes(case, label)
    drawn = [[map_of(one, plane, how.view, how.image, boxes)] for one, plane in maps]
    remarks = {plane.remark for _, plane in maps}
    remark = remarks.pop() if len(remarks) == 1 else ""
    title = SEPARATOR.join(filter(None, [f"{METHODS[how.method]} of {words}", remark]))
    heat = combined(drawn, title, how.smooth, len(drawn) > 1)[0]
    names = () if how.method == "d-rise" else tuple(dict.fromkeys(one.layer.name for one, _ in maps))
    truth = None if case.truth is None else how.view.to_image(case.truth)
    where = (how.view.to_image(case.box), label, case.score, how.method, names, how.view.size)
    return Explanation(heat, *where, case.number, case.kind, case.note, case.detection is not None, truth, remark)


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
    every = [path for path, _ in index.root.named_modules()]
    body = [path for path in every if path.startswith("backbone.body.") and path.count(".") == 2]
    if body:  # torchvision's: the backbone without its feature pyramid
        return str(body[-1])
    paths = [path for path in every if path.split(".")[-1] == "backbone"]
    if paths:
        return str(min(paths, key=lambda path: path.count(".")))
    names = ", ".join(layer.name for layer in index.layers[:8])
    raise FeatvizError(f"no backbone is known in {type(index.root).__name__}: give layers, such as one of {names}")
