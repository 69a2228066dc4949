"""Make the maps of detections by several methods, on the image's part of the input."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.reduce import reduce_channels
from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.attribution.ablation import NO_ORDER
from yolov5_featviz.attribution.cam import Plane, map_of, run_kept
from yolov5_featviz.attribution.combined import combined
from yolov5_featviz.attribution.deletion import check_fill, part_of, plane_of
from yolov5_featviz.attribution.explain import (
    MASKS,
    METHOD,
    METHODS,
    Explanation,
    check_explain,
    default_layers,
    explain_input,
)
from yolov5_featviz.attribution.measured import BASELINES, NAN
from yolov5_featviz.attribution.passes import Find, candidates_in
from yolov5_featviz.attribution.view import View
from yolov5_featviz.draw.heatmap import HeatMap, aligned
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import Candidates, Detections, Thresholds
from yolov5_featviz.models.hooks import eval_mode
from yolov5_featviz.models.layers import LayerIndex, LayerSpec, select_layers
from yolov5_featviz.text import near

HEATMAP = "heatmap"  # the mean over channels: what responds, whatever was detected
NAMES: Dict[str, str] = {**METHODS, HEATMAP: "heat map"}  # of what can be measured, in captions
STEPS = 50
STAGES = 5  # of the randomisation
LEVEL = "the map has the same value everywhere"

# From a model, its input [1, C, H, W] and the detections in it to a map [h, w] of each, over the whole input.
Maps = Callable[[nn.Module, torch.Tensor, Detections], Sequence[Any]]
Methods = Union[Sequence[str], Mapping[str, Maps]]


class Settings(NamedTuple):
    """How maps are made and measured.

    Attributes:
        methods: names of methods, ``heatmap`` among them, or functions by name.
        layers: of the methods that look at layers; None for the end of the backbone.
        steps: number of shares in which pixels are replaced.
        fill: what they are replaced by, by name; see :func:`yolov5_featviz.attribution.deletion.curves`.
        masks: number of masks of D-RISE.
        stages: number of stages in which the layers are randomised; 0 to leave out this check and that by noise.
        batch: the most images in one pass; None: up to 8, on a GPU 32.
    """

    methods: Methods = (METHOD,)
    layers: Optional[LayerSpec] = None
    steps: int = STEPS
    fill: str = "blur"
    masks: int = MASKS
    stages: int = STAGES
    batch: Optional[int] = None


def check_settings(settings: Settings) -> None:
    """Raise FeatvizError for an unknown method or fill, a missing package, or a number out of range."""
    s = settings
    if isinstance(s.methods, str) or not s.methods:
        raise FeatvizError(f"methods {s.methods!r}: give a list, such as layer-cam, odam")
    for name in s.methods:
        if name in BASELINES:
            raise FeatvizError(f"method {name!r} is a baseline, which is always measured: leave it out")
        if isinstance(s.methods, Mapping) and not callable(s.methods[name]):
            raise FeatvizError(f"method {name!r}: give a function from model, input and detections to maps")
        if not isinstance(s.methods, Mapping) and name != HEATMAP:
            if name not in METHODS:
                raise FeatvizError(f"no method {name!r}{near(name, NAMES, 'take some of ' + ', '.join(NAMES))}")
            check_explain(name, None)
    if len(set(s.methods)) < len(s.methods):
        raise FeatvizError(f"methods {', '.join(s.methods)}: name each once")
    check_fill(s.fill)
    for words, value, least in (("steps", s.steps, 2), ("masks", s.masks, 1), ("stages", s.stages, 0)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise FeatvizError(f"{words} {value!r}: give a whole number")
        if value < least:
            raise FeatvizError(f"{value} {words}: take {least} or more")


class Map(NamedTuple):
    """A map of a detection over the image's part of the input, ``[H, W]``, and on its own grid; or a note."""

    values: Optional[np.ndarray] = None
    cells: Optional[np.ndarray] = None
    note: str = ""


class Made(NamedTuple):
    """Maps of one method, one for each detection, names of its layers, and seconds a detection."""

    maps: List[Map]
    layers: Tuple[str, ...] = ()
    seconds: float = NAN


@dataclass(frozen=True, eq=False)
class Maker:
    """Makes the maps of detections in an image, and in images like it."""

    index: LayerIndex
    settings: Settings
    view: View
    find: Optional[Find]
    thresholds: Thresholds

    @property
    def size(self) -> Tuple[int, int]:
        """Height and width of the image in the input, in pixels."""
        rows, columns = part_of(self.view.input, self.view.region)
        return rows.stop - rows.start, columns.stop - columns.start

    def pixels(self, image: torch.Tensor) -> torch.Tensor:
        """Return the image's part of an input."""
        rows, columns = part_of(self.view.input, self.view.region)
        return image[:, :, rows, columns]

    def __call__(self, method: str, image: torch.Tensor, asked: Detections) -> Made:
        started = time.perf_counter()
        layers: Tuple[str, ...] = ()
        if isinstance(self.settings.methods, Mapping):
            maps = self._given(self.settings.methods[method], method, image, asked)
        elif method == HEATMAP:
            maps, layers = self._heat(image, len(asked))
        else:
            maps, layers = self._explained(method, image, asked)
        return Made([checked(one) for one in maps], layers, (time.perf_counter() - started) / len(asked))

    def _given(self, make: Maps, method: str, image: torch.Tensor, asked: Detections) -> List[Map]:
        """Return the maps of a function."""
        planes = list(make(self.index.root, image, asked))
        if len(planes) != len(asked):
            raise FeatvizError(f"{method} returned {len(planes)} maps for {len(asked)} detections: return one for each")
        return [self._own(plane, n) for n, plane in enumerate(planes)]

    def _own(self, plane: Any, n: int) -> Map:
        """Return the map of a function, or why it is none."""
        if plane is None:
            return Map(note="the method made no map")
        try:
            return self._cut(plane_of(plane, n).copy())
        except FeatvizError as error:
            return Map(note=str(error))

    def _cut(self, plane: np.ndarray) -> Map:
        """Cut a map over the whole input to the image."""
        steps = np.divide(plane.shape[::-1], self.view.input[::-1])
        left, top, right, bottom = np.multiply(self.view.region, [*steps, *steps])
        return Map(resample(plane, self.size, part=(left, top, right, bottom)), plane)

    def _heat(self, image: torch.Tensor, count: int) -> Tuple[List[Map], Tuple[str, ...]]:
        """Return the mean over the channels of the layers, the same for each detection."""
        layers = default_layers(self.index) if self.settings.layers is None else self.settings.layers
        with torch.no_grad():
            kept, _ = run_kept(self.index, select_layers(self.index, layers), image, None)
        view = View(self.index.root, image, self.view.region, self.view.size)
        planes = [Plane(reduce_channels(one.to_array(one.tensor)[0], "mean")) for one in kept]
        (heat,) = combined(
            [[map_of(one, plane, view, "")] for one, plane in zip(kept, planes)], "", False, len(kept) > 1
        )
        return [self._aligned(heat)] * count, tuple(one.layer.name for one in kept)

    def _explained(self, method: str, image: torch.Tensor, asked: Detections) -> Tuple[List[Map], Tuple[str, ...]]:
        """Return the maps of a method; where it cannot explain all at once, one by one."""
        pairs = list(zip(asked.rows.tolist(), asked.classes.tolist()))

        def explain(some: Sequence[Tuple[int, int]]) -> List[Explanation]:
            s, view, (conf, iou, _) = self.settings, self.view, self.thresholds
            layers = None if method == "d-rise" else s.layers
            where: Dict[str, Any] = {
                "conf": conf,
                "iou": iou,
                "find": self.find,
                "region": view.region,
                "size": view.size,
            }
            return explain_input(self.index.root, image, some, method, layers, masks=s.masks, batch=s.batch, **where)

        def alone(pair: Tuple[int, int]) -> Union[Explanation, str]:
            try:
                return explain([pair])[0]
            except FeatvizError as error:
                return str(error)

        try:
            found: Sequence[Union[Explanation, str]] = explain(pairs)
        except FeatvizError as error:
            found = (
                [alone(pair) for pair in pairs]
                if len(pairs) > 1 and NO_ORDER not in str(error)
                else [str(error)] * len(pairs)
            )
        layers = dict.fromkeys(layer for one in found if isinstance(one, Explanation) for layer in one.layers)
        return [Map(note=one) if isinstance(one, str) else self._aligned(one.heat) for one in found], tuple(layers)

    def _aligned(self, heat: HeatMap) -> Map:
        values = aligned(heat.values, heat.feature_map, self.view.size, self.size)
        return Map(values.clip(0, 1), heat.values)

    def candidates(self, image: torch.Tensor) -> Candidates:
        """Return the candidates in an input."""
        with eval_mode(self.index.root):
            return candidates_in(self.index.root, image, self.find)


def checked(one: Map) -> Map:
    """Return a map, or why it cannot be measured."""
    if one.values is None or one.cells is None:
        return one
    if not (np.isfinite(one.values).all() and np.isfinite(one.cells).all()):
        return Map(note="the map has values that are not finite")
    return Map(note=LEVEL) if one.values.max() <= one.values.min() else one
