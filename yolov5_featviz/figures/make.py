"""Make a figure from a checked specification."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.arrays.image import as_rgb
from yolov5_featviz.arrays.normalize import NORMS, extremes, normalize, zero_of
from yolov5_featviz.arrays.reduce import REDUCTIONS, pca, reduce_channels
from yolov5_featviz.attribution.explain import overview
from yolov5_featviz.draw.channels import Choice, Ranking, check_class, choose, is_by_ablation, rank_together
from yolov5_featviz.draw.heatmap import HeatMap
from yolov5_featviz.draw.lettering import SEPARATOR
from yolov5_featviz.draw.palette import ALONE, OVER
from yolov5_featviz.draw.record import map_record, number
from yolov5_featviz.draw.rgb import AXES, pca_colours
from yolov5_featviz.draw.scale import Legend, clipped, end_words, legend
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.features.prediction import Prediction
from yolov5_featviz.figures.composition import Composition, compose
from yolov5_featviz.figures.layout import Bar, Overlay, Panel, named_channels
from yolov5_featviz.figures.painters import colours, heat, photograph, scale_between, tiles
from yolov5_featviz.figures.spec import (
    EXPLAINED,
    OF_LAYERS,
    Cell,
    Spec,
    needs_model,
    ranking_of,
    reduction_words,
    target_words,
    top_words,
)
from yolov5_featviz.figures.style import plain
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
        FeatvizError: a layer, channel or class does not exist, or an image or checkpoint cannot be read.
    """
    cells = [cell for row in spec.cells for cell in row]
    keys = list(dict.fromkeys((cell.weights, cell.yolov5) for cell in cells if needs_model(cell)))
    seen: Dict[Cell, _Seen] = {}
    with models([str(weights) for weights, _ in keys], [yolov5 for _, yolov5 in keys]) as opened:
        by_key = dict(zip(keys, opened))
        errors: List[str] = []
        wanted: Dict[Any, Set[str]] = {}
        ablated: Dict[Any, Set[str]] = {}
        for cell in cells:
            if needs_model(cell):
                model = by_key[cell.weights, cell.yolov5]
                names = _layers(model, cell, errors)
                _check_class(model, cell, errors)
                wanted.setdefault((cell.weights, cell.yolov5, cell.image), set()).update(names)
                if ranking_of(cell) and is_by_ablation(cell.channels):
                    ablated.setdefault((cell.weights, cell.yolov5, cell.image), set()).update(names)
        if errors:
            raise FeatvizError("; ".join(dict.fromkeys(errors)))
        predictions: Dict[Any, Prediction] = {}
        for (weights, yolov5, image), layers in wanted.items():
            model = by_key[weights, yolov5]
            selection = ",".join(sorted(layers)) or None
            which = ablated.get((weights, yolov5, image))
            more: Any = {"ablate": sorted(which)} if which else {}
            predictions[weights, yolov5, image] = model(image, selection, spec.imgsz, spec.conf, spec.iou, **more)
        tops = _top_channels(cells, predictions)
        for cell in cells:
            prediction = predictions.get((cell.weights, cell.yolov5, cell.image)) if needs_model(cell) else None
            heat = None
            if cell.shown in EXPLAINED:
                model = by_key[cell.weights, cell.yolov5]
                smooth = {"smooth": True} if cell.smooth else {}
                how = {"imgsz": spec.imgsz, "conf": spec.conf, "iou": spec.iou, **smooth}
                if cell.shown == "cam":
                    heat = model.cam(cell.image, cell.layer, cell.target, cell.method, **how)
                else:
                    heat = overview(model.explain(cell.image, cell.target, cell.method, cell.layer, **how))
            seen[cell] = _see(cell, prediction, heat, tops.get(cell))
    shared = _shared(seen)
    limits = {cell: _limits(cell, one, shared) for cell, one in seen.items()}
    bars = _bars(seen, limits)
    panels = [[_panel(cell, seen[cell], limits[cell], bars.get(cell)) for cell in row] for row in spec.cells]
    shown = [
        {"row": r, "column": c, **_record(cell, seen[cell], limits[cell])}
        for r, row in enumerate(spec.cells, 1)
        for c, cell in enumerate(row, 1)
    ]
    about = {"shows": "figure", "panels": shown}
    title = ", ".join(filter(None, dict.fromkeys([*spec.rows, *spec.columns])))
    return compose(panels, spec.columns, spec.rows, spec.style, title, about)


class _Seen(NamedTuple):
    """Data to paint a cell from: the photograph and, for a layer, its maps on their own scales.

    ``values`` and ``scaled`` are ``[n, H, W]``, ``limits`` is ``[n, 2]``; of a PCA ``scaled`` is the colours, and the
    others are None. ``words`` is what all panels of this kind show, ``exact`` what this one does, ``notes`` how.
    """

    pixels: np.ndarray
    prediction: Optional[Prediction] = None
    feature_map: Optional[LayerOutput] = None
    values: Optional[np.ndarray] = None
    scaled: Optional[np.ndarray] = None
    limits: Optional[np.ndarray] = None
    norm: str = ""
    words: str = ""
    exact: str = ""
    notes: Sequence[str] = ()
    channels: Sequence[int] = ()
    ranking: Optional[Ranking] = None
    checkerboard: float = 0.0
    variance: Sequence[float] = ()


def _layers(model: Any, cell: Cell, errors: List[str]) -> List[str]:
    if cell.shown not in OF_LAYERS or cell.shown in EXPLAINED:
        return []
    try:
        names: List[str] = model.layers(cell.layer)
    except FeatvizError as error:
        errors.append(f"{Path(str(cell.weights)).name}: {error}")
        return []
    if len(names) != 1:
        errors.append(f"layer {cell.layer!r} names {len(names)} layers of {Path(str(cell.weights)).name}: name one")
    return names


def _check_class(model: Any, cell: Cell, errors: List[str]) -> None:
    try:
        if ranking_of(cell):
            check_class(str(cell.channels), getattr(model, "names", ()))
    except FeatvizError as error:
        errors.append(f"{Path(str(cell.weights)).name}: {error}")


def _map_of(cell: Cell, prediction: Prediction) -> LayerOutput:
    """Return the map of a panel's layer. Raises FeatvizError if the layer yields none."""
    if not prediction.maps:
        raise FeatvizError(f"layer {cell.layer} of {Path(str(cell.weights)).name} yields no feature map")
    return prediction[str(cell.layer)] if len(prediction.maps) > 1 else prediction.maps[0]


def _top_channels(cells: Sequence[Cell], predictions: Mapping[Any, Prediction]) -> Dict[Cell, Choice]:
    """Choose the channel of each panel that shows the top one: one for all images of a model's layer.

    Raises FeatvizError if its score is undefined in all of them.
    """
    groups: Dict[Any, List[Cell]] = {}
    for cell in cells:
        if cell.shown == "channel" and ranking_of(cell):
            groups.setdefault((cell.weights, cell.yolov5, cell.layer, ranking_of(cell)), []).append(cell)
    chosen: Dict[Cell, Choice] = {}
    for (weights, yolov5, layer, by), group in groups.items():
        maps = {cell.image: _map_of(cell, predictions[weights, yolov5, cell.image]) for cell in group}
        try:
            ranking = rank_together(list(maps.values()), by)
        except FeatvizError as error:
            raise FeatvizError(f"layer {layer} of {Path(str(weights)).name}: {error}") from None
        chosen.update(dict.fromkeys(group, Choice(ranking.channels[:1], ranking)))
    return chosen


def _see(cell: Cell, prediction: Optional[Prediction], heat: Optional[HeatMap], top: Optional[Choice]) -> _Seen:
    if prediction is None:
        return _Seen(as_rgb(cell.image))
    if cell.shown not in OF_LAYERS:
        return _Seen(prediction.pixels, prediction)
    if heat is not None:
        return _explained(cell, prediction, heat)
    fm = _map_of(cell, prediction)
    one = [int(cell.channel or 0)] if cell.shown == "channel" else None
    choice = choose(fm, top or one or cell.channels or ("16" if cell.shown == "grid" else "all"))
    notes = [plain(choice.ranking.note)] if choice.ranking and choice.ranking.note else []
    base = _Seen(prediction.pixels, prediction, fm, notes=notes, channels=choice.channels, ranking=choice.ranking)
    if cell.shown == "pca":
        parts, variance = pca(fm.values[choice.channels], fm.in_image)
        planes = np.moveaxis(pca_colours(parts, cell.axes), 2, 0)
        first, second, third = AXES[cell.axes]
        words = f"principal components as {first}, {second} and {third}"
        exact = f"{words}: {', '.join(f'{share:.0%}' for share in variance)} of the variance"
        return base._replace(scaled=planes, words=words, exact=exact, variance=variance.tolist())
    values = whole = fm.values
    if cell.shown == "heatmap":
        values = whole = reduce_channels(values[choice.channels], cell.reduce)[None]
        norm, words = cell.norm or REDUCTIONS[cell.reduce].norm, reduction_words(cell.reduce, cell.channels is not None)
        words += f" of {len(choice.channels)} channels" if cell.channels is not None else ""
    else:
        values, norm = values[choice.channels], cell.norm or "channel"
        words = top_words(choice.ranking.by) if choice.ranking else f"channel {cell.channel}"
        words = "" if cell.shown == "grid" else words
    scaled, limits = normalize(values, norm, whole)
    return base._replace(values=values, scaled=scaled, limits=limits, norm=norm, words=words)


def _explained(cell: Cell, prediction: Prediction, heat: HeatMap) -> _Seen:
    """Return what a class activation map shows."""
    fm, shown = heat.feature_map, str(heat.about["shows"])
    exact, *notes = shown.split(SEPARATOR)
    every = "all detections" if prediction.boxes is not None and " of " in exact else ""
    target = target_words(cell.target) or every
    words = exact.partition(" of ")[0] + (f" of {target}" if target else "")
    board = any(part.startswith("checkerboard") for part in heat.title.split(SEPARATOR))
    return _Seen(
        prediction.pixels,
        prediction,
        fm,
        fm.values,
        heat.values[None],
        normalize(fm.values, "zero")[1],
        "zero",
        words,
        exact,
        notes,
        checkerboard=max(heat.about["parity"]) if board else 0.0,
    )


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
        cell.smooth,
    )


def _is_own(cell: Cell, seen: _Seen) -> bool:
    """Whether a panel has a scale of its own that depends on its values."""
    if cell.shown == "pca":
        return True
    if NORMS[seen.norm].absolute or isinstance(cell.scale, tuple):
        return False
    return cell.shown == "grid" or (cell.scale or ("separate" if cell.shown in EXPLAINED else "shared")) == "separate"


def _shared(seen: Mapping[Cell, _Seen]) -> Dict[Any, np.ndarray]:
    """Compute the limits ``[1, 2]`` of each shared scale: the minimum and maximum over its panels."""
    ends: Dict[Any, List[np.ndarray]] = {}
    for cell, one in seen.items():
        if one.limits is not None and not _is_own(cell, one):
            ends.setdefault(_group(cell), []).append(one.limits)
    return {
        group: np.array([[min(pair[0, 0] for pair in pairs), max(pair[0, 1] for pair in pairs)]])
        for group, pairs in ends.items()
    }


def _limits(cell: Cell, seen: _Seen, shared: Mapping[Any, np.ndarray]) -> Optional[np.ndarray]:
    """Return a panel's colour limits, ``[n, 2]``; None if it has no scale."""
    if seen.limits is None or _is_own(cell, seen) or NORMS[seen.norm].absolute:
        return seen.limits
    if isinstance(cell.scale, tuple):
        return np.repeat([cell.scale], len(seen.limits), axis=0)
    return shared[_group(cell)]


def _bars(seen: Mapping[Cell, _Seen], limits: Mapping[Cell, Optional[np.ndarray]]) -> Dict[Cell, Bar]:
    """Return the colour bars: one for all panels that show the same on the same scale, or each on its own.

    An end is marked as clipped if one of the panels has values beyond it.
    """
    chosen: Dict[Any, Set[Tuple[int, ...]]] = {}
    for cell, one in seen.items():
        chosen.setdefault(_group(cell), set()).add(tuple(one.channels))
    alike: Dict[Any, List[Cell]] = {}
    for cell, one in seen.items():
        if one.scaled is not None:
            differ = len(chosen[_group(cell)]) > 1
            named = _is_own(cell, one) and (cell.shown != "grid" or NORMS[one.norm].ends is not None)
            ends = limits[cell]
            scale = None if named or ends is None else tuple(ends[0].tolist())
            alike.setdefault(
                (_cmap(cell), _overlay(cell, one.norm, ends), one.norm, one.words, scale, differ), []
            ).append(cell)
    bars: Dict[Cell, Bar] = {}
    for (cmap, over, *_, differ), cells in alike.items():
        several = len(cells) > 1 and _is_own(cells[0], seen[cells[0]])
        keys = {cell: _legend(cell, seen[cell], limits[cell], several) for cell in cells}
        scaled = [key for key in keys.values() if key.high]
        for cell, key in keys.items():
            words = _bar_words([seen[one] for one in cells], key, several and cell.shown != "grid", differ)
            if any(_in_padding(seen[one], limits[one]) for one in cells):
                words += f", {'some with an end' if cell.shown == 'grid' else 'an end lies'} in the padding"
            bars[cell] = Bar(cmap, "", "", words)
            if key.high:  # of two words for an end, the longer one has the mark
                low, high = (max((one[i] for one in scaled), key=len) for i in (0, 1))
                bars[cell] = Bar(cmap, low, high, words, over)
    return bars


def _bar_words(panels: Sequence[_Seen], key: Legend, own: bool, differ: bool) -> str:
    """Say what the panels of a colour bar show."""
    notes = list(dict.fromkeys(note for one in panels for note in one.notes))
    parts = [panels[0].exact if len(panels) == 1 and panels[0].exact else panels[0].words, key.scope]
    parts += ["each on its own" * (own and not any(note.startswith("each ") for note in notes))]
    parts += [key.low * (not key.high), *notes, "channels differ between panels" * differ]
    most = max(one.checkerboard for one in panels)
    if most:
        parts.append(f"checkerboard: {'up to ' * (len(panels) > 1)}{most:.0%} of the energy on one cell in four")
    return ", ".join(filter(None, parts))


def _in_padding(seen: _Seen, limits: Optional[np.ndarray]) -> bool:
    """Whether an end of a panel's scale is an extreme value that only the letterbox's padding has."""
    if seen.values is None or limits is None or seen.feature_map is None or not seen.feature_map.in_image.any():
        return False
    inside = extremes(seen.values[:, None, seen.feature_map.in_image])
    ends = np.array(NORMS[seen.norm].extremes) & (limits == extremes(seen.values))
    return bool((ends & (inside != limits)).any())


def _legend(cell: Cell, seen: _Seen, limits: Optional[np.ndarray], named: bool) -> Legend:
    """Return the legend of a panel, without numbers if ``named``."""
    if seen.values is None or limits is None:
        return Legend("", "")
    if isinstance(cell.scale, tuple) and not NORMS[seen.norm].absolute:
        low, high = end_words(*cell.scale)
        below, above = clipped(seen.values, limits)
        return Legend(f"≤ {low}" * below or low, f"≥ {high}" * above or high)
    named = named or cell.shown in EXPLAINED
    key = legend(seen.norm, limits, seen.values, single=not named and cell.shown != "grid")
    if cell.shown == "grid":
        return key._replace(scope=key.scope.replace(" on its own", ""))
    if named:
        ends = {} if NORMS[seen.norm].ends or not key.high else {"low": "min", "high": "max"}
        return key._replace(scope="", **ends)
    return key._replace(scope=key.scope.replace("of the layer", "scale of the layer"))


def _record(cell: Cell, seen: _Seen, limits: Optional[np.ndarray]) -> Dict[str, Any]:
    """Return the record of a panel."""
    files = {"image": cell.image, "weights": cell.weights if needs_model(cell) else None}
    found = {name: Path(path).name for name, path in files.items() if path}
    if seen.feature_map is None:
        return {**found, "shows": cell.shown}
    how: Dict[str, Any] = {"norm": seen.norm or None, "by": seen.ranking.by if seen.ranking else None}
    if cell.shown == "heatmap":
        how["reduce"] = cell.reduce
    if cell.shown in EXPLAINED:
        how.update(method=cell.method, target=cell.target, smooth=cell.smooth or None)
    if cell.shown == "pca":
        how.update(axes=cell.axes, variance=[number(share) for share in seen.variance])
    return {**found, **map_record(seen.feature_map, cell.shown, seen.channels, limits, **how)}


def _is_over(cell: Cell) -> bool:
    return cell.shown != "pca" and (cell.shown in ("heatmap", *EXPLAINED) if cell.over is None else cell.over)


def _cmap(cell: Cell) -> str:
    return cell.cmap or (OVER if _is_over(cell) else ALONE)


def _overlay(cell: Cell, norm: str, limits: Optional[np.ndarray]) -> Optional[Overlay]:
    """Return how a panel's map is laid over the photograph, which is untouched where the scale has its 0."""
    if not _is_over(cell) or limits is None:
        return None
    low, high = (float(end) for end in limits[0])
    return Overlay(cell.alpha, cell.blend, zero_of(norm, low, high))


def _panel(cell: Cell, seen: _Seen, limits: Optional[np.ndarray], bar: Optional[Bar]) -> Panel:
    height, width = seen.pixels.shape[:2]
    window = _window(cell, height, width)
    boxes = None
    if seen.prediction is not None and (cell.boxes or cell.shown == "detections"):
        known = seen.prediction.boxes
        boxes = None if known is None else known.mapped(seen.prediction.region, (height, width))
        if cell.shown == "explain" and seen.feature_map is not None and seen.feature_map.boxes is not None:
            boxes = seen.feature_map.boxes.mapped(seen.feature_map.window, (height, width))  # those explained
    named = cell.shown in ("input", "detections")
    panel = Panel(photograph(seen.pixels), window, boxes, cell.zoom, bar, named)
    fm = seen.feature_map
    if fm is None:
        return panel
    if seen.ranking is not None:
        note = f"by {seen.ranking.by}" if seen.ranking.note else ""
        panel = replace(panel, channels=named_channels(seen.channels), note=note)
    how = cell.resample or ("bilinear" if _is_over(cell) else "nearest")
    assert seen.scaled is not None
    if cell.shown == "pca":
        return replace(panel, paint=colours(seen.scaled, fm, (height, width), how))
    assert seen.values is not None and seen.limits is not None and limits is not None
    scaled = seen.scaled if np.array_equal(limits, seen.limits) else scale_between(seen.values, limits[0])
    over = _overlay(cell, seen.norm, limits)
    photo = photograph(seen.pixels, cell.desaturate) if over else None
    paints = [heat(one, fm, (height, width), _cmap(cell), how, photo, over) for one in scaled]
    if cell.shown == "grid":
        return replace(panel, paint=tiles(paints), zoom=None, numbers=seen.channels)
    return replace(panel, paint=paints[0])


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


def _beyond(box: Region, window: Region) -> bool:
    return box[0] < window[0] or box[1] < window[1] or box[2] > window[2] or box[3] > window[3]
