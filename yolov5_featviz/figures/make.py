"""Make a figure from a checked specification."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.arrays.image import as_rgb
from yolov5_featviz.arrays.normalize import NORMS, normalize
from yolov5_featviz.arrays.reduce import REDUCTIONS, pca, reduce_channels
from yolov5_featviz.attribution.cam import CAM_METHODS
from yolov5_featviz.draw.channels import choose
from yolov5_featviz.draw.heatmap import HeatMap
from yolov5_featviz.draw.record import number
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.features.prediction import Prediction
from yolov5_featviz.figures.composition import Composition, compose
from yolov5_featviz.figures.layout import Bar, Paint, Panel
from yolov5_featviz.figures.painters import colours, heat, limit_words, photograph, scale_between, tiles
from yolov5_featviz.figures.spec import OF_LAYERS, Cell, Spec, needs_model
from yolov5_featviz.models.layer_output import LayerOutput

# A model maps an image path and a layer selection to a Prediction; it may also have a `cam` method.
Models = Callable[[Sequence[str], Sequence[Optional[str]]], ContextManager[Sequence[Any]]]


def make(spec: Spec, models: Models) -> Composition:
    """Draw a figure.

    Args:
        spec: see :func:`yolov5_featviz.figures.spec.parse`.
        models: maps checkpoints and their checkouts to a context manager that yields one model per
            checkpoint, callable like :class:`yolov5_featviz.yolov5.predictor.Predictor`.

    Raises:
        FeatvizError: a layer or channel does not exist, or an image or checkpoint cannot be read.
    """
    cells = [cell for row in spec.cells for cell in row]
    keys = list(dict.fromkeys((cell.weights, cell.yolov5) for cell in cells if needs_model(cell)))
    seen: Dict[Cell, _Seen] = {}
    with models([str(weights) for weights, _ in keys], [yolov5 for _, yolov5 in keys]) as opened:
        by_key = dict(zip(keys, opened))
        errors: List[str] = []
        wanted: Dict[Any, Set[str]] = {}
        for cell in cells:
            if needs_model(cell):
                model = by_key[cell.weights, cell.yolov5]
                names = _layers(model, cell, errors)
                wanted.setdefault((cell.weights, cell.yolov5, cell.image), set()).update(names)
        if errors:
            raise FeatvizError("; ".join(dict.fromkeys(errors)))
        predictions: Dict[Any, Prediction] = {}
        for (weights, yolov5, image), layers in wanted.items():
            model = by_key[weights, yolov5]
            selection = ",".join(sorted(layers)) or None
            predictions[weights, yolov5, image] = model(image, selection, spec.imgsz, spec.conf, spec.iou)
        for cell in cells:
            prediction = predictions.get((cell.weights, cell.yolov5, cell.image)) if needs_model(cell) else None
            heat = None
            if cell.shown == "cam":
                model = by_key[cell.weights, cell.yolov5]
                heat = model.cam(cell.image, cell.layer, cell.target, cell.method, spec.imgsz)
            seen[cell] = _see(cell, prediction, heat)
    limits = _shared(seen)
    panels = [[_panel(cell, seen[cell], limits) for cell in row] for row in spec.cells]
    shown = {
        ", ".join(filter(None, [str(cell.shown), f"layer {cell.layer}", cell.image and Path(cell.image).name])): [
            number(limit) for limit in _limits(cell, seen[cell], limits)
        ]
        for cell in cells
        if seen[cell].values is not None
    }
    about = {"shows": "figure", "scales": shown}
    title = ", ".join(filter(None, dict.fromkeys([*spec.rows, *spec.columns])))
    return compose(panels, spec.columns, spec.rows, spec.style, title, about)


class _Seen(NamedTuple):
    """Data to paint a cell from: the photograph and, for a layer, its values and normalisation limits."""

    pixels: np.ndarray
    prediction: Optional[Prediction] = None
    feature_map: Optional[LayerOutput] = None
    values: Optional[np.ndarray] = None
    scaled: Optional[np.ndarray] = None
    limits: Tuple[float, float] = (0.0, 1.0)
    norm: str = ""


def _layers(model: Any, cell: Cell, errors: List[str]) -> List[str]:
    if cell.shown not in OF_LAYERS or cell.shown == "cam":
        return []
    try:
        names: List[str] = model.layers(cell.layer)
    except FeatvizError as error:
        errors.append(f"{Path(str(cell.weights)).name}: {error}")
        return []
    if len(names) != 1:
        errors.append(f"layer {cell.layer!r} names {len(names)} layers of {Path(str(cell.weights)).name}: name one")
    return names


def _see(cell: Cell, prediction: Optional[Prediction], heat: Optional[HeatMap]) -> _Seen:
    if prediction is None:
        return _Seen(as_rgb(cell.image))
    if cell.shown not in OF_LAYERS:
        return _Seen(prediction.pixels, prediction)
    if heat is not None:
        limits = (0.0, float(np.nanmax(heat.feature_map.data[0].numpy(), initial=0)))
        values = heat.feature_map.data[0].float().numpy()
        return _Seen(prediction.pixels, prediction, heat.feature_map, values, heat.values, limits, "zero")
    if not prediction.maps:
        raise FeatvizError(f"layer {cell.layer} of {Path(str(cell.weights)).name} yields no feature map")
    fm = prediction[str(cell.layer)] if len(prediction.maps) > 1 else prediction.maps[0]
    data = fm.values
    base = _Seen(prediction.pixels, prediction, fm)
    if cell.shown in ("pca", "grid"):
        return base
    if cell.shown == "channel":
        (k,) = choose(fm, [int(cell.channel or 0)]).channels
        values, whole, norm = data[k], data, cell.norm or "channel"
    else:
        values = reduce_channels(data[choose(fm, cell.channels or "all").channels], cell.reduce)
        whole, norm = values[None], cell.norm or REDUCTIONS[cell.reduce].norm
    scaled, ends = normalize(values[None], norm, whole)
    low, high = (float(end) for end in ends[0])
    return base._replace(values=values, scaled=scaled[0], limits=(low, high), norm=norm)


def _group(cell: Cell) -> Any:
    """Key of the panels that share a colour scale."""
    return (
        cell.shown,
        cell.layer,
        cell.channels,
        cell.channel,
        cell.reduce,
        cell.norm,
        cell.cmap,
        cell.target,
        cell.method,
    )


def _is_absolute(norm: str) -> bool:
    """Whether a norm has a fixed scale, independent of the values."""
    return NORMS[norm].absolute


def _is_shared(cell: Cell) -> bool:
    return (cell.scale or ("separate" if cell.shown == "cam" else "shared")) == "shared"


def _shared(seen: Mapping[Cell, _Seen]) -> Dict[Any, Tuple[float, float]]:
    """Compute the limits of each shared scale: the minimum and maximum over its panels."""
    ends: Dict[Any, List[Tuple[float, float]]] = {}
    for cell, one in seen.items():
        if one.values is not None and _is_shared(cell) and not _is_absolute(one.norm):
            ends.setdefault(_group(cell), []).append(one.limits)
    return {group: (min(low for low, _ in pairs), max(high for _, high in pairs)) for group, pairs in ends.items()}


def _limits(cell: Cell, seen: _Seen, limits: Mapping[Any, Tuple[float, float]]) -> Tuple[float, float]:
    """Return a panel's colour limits."""
    if _is_absolute(seen.norm):
        return seen.limits
    if isinstance(cell.scale, tuple):
        return cell.scale
    return limits[_group(cell)] if _is_shared(cell) else seen.limits


def _panel(cell: Cell, seen: _Seen, limits: Mapping[Any, Tuple[float, float]]) -> Panel:
    height, width = seen.pixels.shape[:2]
    window = _window(cell, height, width)
    boxes = None
    if seen.prediction is not None and (cell.boxes or cell.shown == "detections"):
        known = seen.prediction.boxes
        boxes = None if known is None else known.mapped(seen.prediction.region, (height, width))
    photo = photograph(seen.pixels)
    panel = Panel(photo, window, boxes, cell.zoom, named=cell.shown in ("input", "detections"))
    fm = seen.feature_map
    if fm is None:
        return panel
    over = cell.shown in ("heatmap", "cam") if cell.over is None else cell.over
    cmap = cell.cmap or ("jet" if over else "viridis")
    how = cell.resample or ("bilinear" if over else "nearest")
    if cell.shown == "pca":
        chosen = fm.values[choose(fm, cell.channels or "all").channels]
        return replace(panel, paint=colours(np.moveaxis(pca(chosen)[0], 2, 0), fm, (height, width), how))
    if cell.shown == "grid":
        paint, bar = _tiles(cell, fm, (height, width), cmap, how)
        return replace(panel, paint=paint, zoom=None, bar=bar)
    scaled, bar = _on_scale(cell, seen, limits, cmap, _measured(cell, fm))
    paint = heat(scaled, fm, (height, width), cmap, how, photo if over else None, cell.alpha)
    return replace(panel, paint=paint, bar=bar)


def _window(cell: Cell, height: int, width: int) -> Region:
    """Return the part of the image to show. Raises FeatvizError if crop or zoom lie outside."""
    whole = (0.0, 0.0, float(width), float(height))
    window = cell.crop or whole
    for name, box in (("crop", cell.crop), ("zoom", cell.zoom and cell.zoom.box)):
        edges = ", ".join(f"{edge:g}" for edge in box or ())
        if box and _beyond(box, whole):
            raise FeatvizError(f"{name} [{edges}] lies outside {Path(str(cell.image)).name}, {width}×{height} pixels")
        if name == "zoom" and box and _beyond(box, window):
            crop = ", ".join(f"{edge:g}" for edge in window)
            raise FeatvizError(f"zoom [{edges}] lies outside the crop [{crop}]: name a part of that")
    return window


def _tiles(cell: Cell, fm: LayerOutput, image: Tuple[int, int], cmap: str, how: str) -> Tuple[Paint, Bar]:
    """Paint channels side by side, with their colour bar."""
    data = fm.values
    norm = cell.norm or "channel"
    scaled, ends = normalize(data[choose(fm, cell.channels or "16").channels], norm, data)
    low, high = NORMS[norm].ends or (limit_words(ends[0][0]), limit_words(ends[0][1]))
    words = NORMS[norm].scope.replace("on its own", "").strip()
    return tiles([heat(one, fm, image, cmap, how) for one in scaled]), Bar(cmap, low, high, words)


def _on_scale(
    cell: Cell, seen: _Seen, limits: Mapping[Any, Tuple[float, float]], cmap: str, words: str
) -> Tuple[np.ndarray, Bar]:
    """Scale one map to its panel's limits, shared or own; return it with its colour bar."""
    assert seen.values is not None and seen.scaled is not None
    if _is_absolute(seen.norm):
        return seen.scaled, Bar(cmap, *(NORMS[seen.norm].ends or ("0", "1")), f"{words}, {NORMS[seen.norm].scope}")
    if _is_shared(cell) or isinstance(cell.scale, tuple):
        low, high = _limits(cell, seen, limits)
        return scale_between(seen.values, (low, high)), Bar(cmap, limit_words(low), limit_words(high), words)
    return seen.scaled, Bar(cmap, *(NORMS[seen.norm].ends or ("min", "max")), f"{words}, each on its own")


def _beyond(box: Region, window: Region) -> bool:
    return box[0] < window[0] or box[1] < window[1] or box[2] > window[2] or box[3] > window[3]


def _measured(cell: Cell, feature_map: LayerOutput) -> str:
    """Name the quantity that a panel shows."""
    if cell.shown == "cam":
        return CAM_METHODS[cell.method][0]
    if cell.shown == "channel":
        return f"channel {cell.channel}"
    if cell.channels is not None:
        return f"{cell.reduce} of {len(choose(feature_map, cell.channels).channels)} channels"
    return REDUCTIONS[cell.reduce].words or f"channel {cell.reduce}"
