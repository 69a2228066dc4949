"""Figures that compare models side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.arrays.normalize import normalize
from yolov5_featviz.arrays.reduce import REDUCTIONS, reduce_channels
from yolov5_featviz.compare.measure import layer_name
from yolov5_featviz.compare.metrics import image_cells, on_image, same_grid
from yolov5_featviz.compare.options import CompareOptions
from yolov5_featviz.draw.record import number
from yolov5_featviz.draw.scale import Legend, end_words, legend
from yolov5_featviz.features.prediction import Prediction
from yolov5_featviz.figures.composition import Composition, compose
from yolov5_featviz.figures.layout import Bar, Overlay, Panel
from yolov5_featviz.figures.painters import heat, photograph, scale_between
from yolov5_featviz.figures.spec import reduction_words
from yolov5_featviz.figures.style import Style
from yolov5_featviz.models.layer_output import LayerOutput

LAYERS_ON_A_PAGE = 5
LEAST_INCHES = 1.1  # least width of a panel: box labels would cover narrower ones
DIFFERENCE = "RdBu_r"


def draw_pages(
    image: str,
    names: Sequence[str],
    seen: Sequence[Prediction],
    maps: Sequence[Sequence[LayerOutput]],
    truth: Optional[Boxes],
    o: CompareOptions,
) -> List[Tuple[str, Composition]]:
    """Draw pages with one row per model, then differences to the first; columns are detections, then layers."""
    size = seen[0].size
    whole = (0.0, 0.0, float(size[1]), float(size[0]))
    photo, below = photograph(seen[0].pixels), photograph(seen[0].pixels, o.desaturate)
    over = Overlay(o.alpha)
    style = Style(width=o.width, font_size=7, dpi=o.dpi)
    found = []
    count = len(maps[0])
    most_shown = max(1, min(LAYERS_ON_A_PAGE, int(o.width / LEAST_INCHES) - 1))
    for start in range(0, count, most_shown):
        shown = range(start, min(start + most_shown, count))
        rows: List[List[Optional[Panel]]] = []
        for one in seen:
            boxes = None if one.boxes is None else one.boxes.mapped(one.region, size)
            rows.append([Panel(photo, whole, boxes)])
        titles = list(names)
        for i in range(1, len(names)):
            true = truth.mapped(seen[0].region, size) if truth is not None and i == 1 else None
            rows.append([None if true is None else Panel(photo, whole, true)])
            titles.append(f"{names[i]} − {names[0]}")
        scales: Dict[str, Any] = {}
        for k in shown:
            of_layer = [of_model[k] for of_model in maps]
            heats, pair, key = _heats(of_layer, o.reduce)
            words = reduction_words(o.reduce, False)
            bar = Bar(o.cmap, *key[:2], words, over) if key.high else Bar(o.cmap, "", "", f"{words}, {key.low}")
            for row, fm, values in zip(rows, of_layer, heats):
                paint = heat(scale_between(values, pair), fm, size, o.cmap, "bilinear", below, over)
                row.append(Panel(paint, whole, bar=bar))
            apart = [difference(of_layer[0], fm, heats[0], values) for fm, values in zip(of_layer[1:], heats[1:])]
            most = max(float(np.abs(values[np.isfinite(values)]).max(initial=0)) for values, _ in apart)
            low, high = end_words(-most, most)
            bar = Bar(DIFFERENCE, low, high, "difference") if most else Bar(DIFFERENCE, "", "", "no difference")
            for row, (values, there) in zip(rows[len(names) :], apart):
                scaled = scale_between(values, (-most, most)) if most else np.full_like(values, 0.5)
                row.append(Panel(heat(scaled, there, size, DIFFERENCE), whole, bar=bar))
            scales[layer_name(of_layer)] = [number(end) for end in (*pair, -most, most)]
        first = "Detections" if truth is None else "Detections; labels below"
        columns = [first, *(f"Layer {layer_name([of_model[k] for of_model in maps])}" for k in shown)]
        about = {"shows": "comparison", "layers": list(scales), "scales": scales}
        page = "" if start == 0 else f"_page{start // most_shown + 1}"
        title = f"{image}: {', '.join(names)}; layers {', '.join(scales)}"
        found.append((image + page, compose(rows, columns, titles, style, title, about)))
    return found


def _heats(maps: Sequence[LayerOutput], reduce: str) -> Tuple[List[np.ndarray], Tuple[float, float], Legend]:
    """Compute the heat maps of one layer of each model, unscaled, their common colour limits, and the legend."""
    norm = REDUCTIONS[reduce].norm
    heats = [reduce_channels(fm.values, reduce) for fm in maps]
    ends = [normalize(values[None], norm)[1][0] for values in heats]
    pair = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
    key = legend(norm, np.array([pair]), np.concatenate([values.ravel() for values in heats])[None, None], single=True)
    return [np.maximum(values, 0) if norm == "zero" else values for values in heats], pair, key


def difference(a: LayerOutput, b: LayerOutput, first: np.ndarray, other: np.ndarray) -> Tuple[np.ndarray, LayerOutput]:
    """Compute ``other - first``, heat maps of ``b`` and ``a``; return it with a map that has its geometry.

    If their grids differ, the image region of both is resampled bilinearly to the larger height and width.
    """
    if same_grid(a, b):
        return other - first, a
    height, width = (max(pair) for pair in zip(image_cells(a), image_cells(b)))
    apart = on_image(other, b, (height, width)) - on_image(first, a, (height, width))
    return apart, replace(a, data=torch.from_numpy(apart)[None], input_size=None, region=None)
