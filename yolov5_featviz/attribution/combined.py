"""Maps of several scores, or of several layers, as one."""

from __future__ import annotations

from dataclasses import replace
from typing import List, Sequence, Set, Tuple

import numpy as np
import torch

from yolov5_featviz.arrays.checkerboard import is_checkerboard, parity_shares
from yolov5_featviz.arrays.normalize import normalize
from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.draw.heatmap import HeatMap
from yolov5_featviz.draw.lettering import SEPARATOR
from yolov5_featviz.draw.page import map_title
from yolov5_featviz.draw.record import map_record, number
from yolov5_featviz.draw.scale import Legend
from yolov5_featviz.models.layer_output import LayerOutput
from yolov5_featviz.models.layers import Layer


def combined(maps: Sequence[Sequence[LayerOutput]], title: str, smooth: bool, merge: bool) -> List[HeatMap]:
    """Draw the maps of several scores as one for each layer, or for all.

    Args:
        maps: for each layer, a map of each score. Of several scores, each map is scaled to its maximum; the maximum
            of all is drawn.
        title: what is shown; how it was made is added.
        smooth: whether the maps were smoothed.
        merge: draw the mean of the layers' maps, each scaled to its maximum.
    """
    count = len(maps[0])
    layers = [one[0] if count == 1 else _together(one, "max") for one in maps]
    lit: List[Set[int]] = [{i for i, one in enumerate(each) if _scaled(one)[1]} for each in maps]
    boards = [_board(one) for one in layers]
    if merge:
        layers, lit, boards = [_merged(layers)], [set().union(*lit)], [max(boards)]
    return [
        _heat(one, _title(title, count, len(which), smooth), smooth, board, merge)
        for one, which, board in zip(layers, lit, boards)
    ]


def _title(title: str, count: int, lit: int, smooth: bool) -> str:
    """Add to a title how the maps of ``count`` scores were made one map, of which ``lit`` have a positive value."""
    parts = [title]
    if count > 1:
        parts.append("each scaled to its maximum")
    if 0 < lit < count:
        parts.append(f"{count - lit} of {count} without a positive value")
    if smooth:
        parts.append("smoothed 3×3")
    return SEPARATOR.join(parts)


def _board(feature_map: LayerOutput) -> float:
    """Return the largest share of a map's energy by the parity of its cells if it is a checkerboard, else 0."""
    values = _scaled(feature_map)[0]
    return float(parity_shares(values).max()) if is_checkerboard(values) else 0.0


def _heat(feature_map: LayerOutput, title: str, smooth: bool, board: float, several: bool) -> HeatMap:
    values, limits = normalize(feature_map.data.numpy(), "zero")
    key = Legend("0", "max") if limits[0, 1] > 0 else Legend("all values ≤ 0", "")
    parity = [number(share) for share in parity_shares(values[0])]
    about = map_record(feature_map, title, [], limits, norm="zero", smooth=smooth or None, parity=parity)
    if board:
        where = " of a layer" * several
        title += f"{SEPARATOR}checkerboard: {board:.0%} of the energy on one cell in four{where}"
    return HeatMap(values[0], key, map_title(feature_map, title), feature_map, about)


def _merged(maps: Sequence[LayerOutput]) -> LayerOutput:
    """Return the mean of the maps, each scaled to its maximum, at the finest of their sizes."""
    names = [feature_map.layer.name for feature_map in maps]
    name = "+".join(names) if len(names) <= 4 else f"{names[0]}+{len(names) - 1}more"
    whole = Layer("", maps[0].layer.module, "merged", name=name)
    return replace(_together(maps, "mean"), layer=whole, level=None)


def _together(maps: Sequence[LayerOutput], how: str) -> LayerOutput:
    """Return the ``max`` or ``mean`` of the maps, each scaled to its maximum, at the finest of their sizes."""
    size = max(one.size[0] for one in maps), max(one.size[1] for one in maps)
    every = [_scaled(one)[0] for one in maps]
    fitted = np.stack([values if values.shape == size else resample(values, size) for values in every])
    values = fitted.max(axis=0) if how == "max" else fitted.mean(axis=0)
    return replace(maps[0], data=torch.from_numpy(values)[None])


def _scaled(feature_map: LayerOutput) -> Tuple[np.ndarray, bool]:
    """Return a map ``[H, W]`` from 0 to its maximum as 0 to 1, and whether it has a positive value."""
    values, limits = normalize(feature_map.data.numpy(), "zero")
    return values[0], bool(limits[0, 1] > 0)
