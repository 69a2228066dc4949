"""A figure for a paper, written down as what stands in its rows and columns."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from yolov5_featviz.about import number
from yolov5_featviz.boxes import Region
from yolov5_featviz.cam import METHODS, check_method
from yolov5_featviz.capture import FeatureMap
from yolov5_featviz.channels import choose, choose_channels, parse_top
from yolov5_featviz.compose import (
    CORNERS,
    WIDTHS,
    Bar,
    Composition,
    Paint,
    Panel,
    Style,
    Zoom,
    check_letters,
    compose,
)
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.formats import format_of
from yolov5_featviz.heatmap import HeatMap, blended
from yolov5_featviz.images import as_rgb
from yolov5_featviz.normalize import NORMS, check_norm, normalize
from yolov5_featviz.prediction import Prediction
from yolov5_featviz.reduce import REDUCTIONS, check_reduce, pca, reduce_channels
from yolov5_featviz.render import NAN, palette_of, quantise
from yolov5_featviz.resample import check_resample, resample
from yolov5_featviz.text import printable

SHOWS = ("input", "detections", "heatmap", "channel", "pca", "grid", "cam")
OF_LAYERS = ("heatmap", "channel", "pca", "grid", "cam")
SCALES = ("shared", "separate")
MOST = 100  # rows, and columns

# A model: from the path of an image and a layer selection to what it makes of it; and `cam` if it has that.
Models = Callable[[Sequence[str], Sequence[Optional[str]]], ContextManager[Sequence[Any]]]


class Cell(NamedTuple):
    """What one panel shows. What is None is left to what is shown."""

    show: Optional[str] = None
    image: Optional[str] = None
    weights: Optional[str] = None
    yolov5: Optional[str] = None
    layer: Optional[str] = None
    channels: Optional[str] = None
    channel: Optional[int] = None
    reduce: str = "mean"
    norm: Optional[str] = None
    resample: Optional[str] = None
    cmap: Optional[str] = None
    alpha: float = 0.4
    over: Optional[bool] = None
    boxes: bool = False
    scale: Any = None
    crop: Optional[Region] = None
    zoom: Optional[Zoom] = None
    target: Any = None
    method: str = "layer-cam"

    @property
    def shown(self) -> str:
        """What is shown, by default a heat map if there is a layer."""
        return self.show or ("heatmap" if self.layer is not None else "input")

    @property
    def title(self) -> str:
        """In words, if no other are given."""
        if self.shown in ("input", "detections"):
            return self.shown.capitalize()
        if self.shown == "cam":
            return METHODS[self.method][0]
        layer = [] if self.layer is None else [f"layer {self.layer}"]
        what = {"heatmap": "" if layer else "heat map", "pca": "PCA", "grid": "" if layer else "channels"}
        words = ", ".join(filter(None, [*layer, what.get(self.shown, f"channel {self.channel}")]))
        return words[0].upper() + words[1:]


@dataclass(frozen=True)
class Spec:
    """A figure as it is written down, checked; see :func:`parse`."""

    cells: List[List[Cell]]
    columns: List[str]
    rows: List[str]
    style: Style
    outputs: List[str]
    imgsz: int
    conf: float
    iou: float
    given: Dict[str, Any]
    files: Dict[Tuple[str, str], str]


def parse(given: Mapping[str, Any], find: Callable[[str, str], Optional[Path]] = lambda kind, name: Path(name)) -> Spec:
    """Check a figure as it is written down.

    Args:
        given: see docs/figures.md.
        find: from ``image`` or ``weights`` and a name as it is given to a file; None if there is none.

    Raises:
        FeatvizError: something is not understood, or missing: all of it, in one line.
    """
    check = _Check(find)
    if not isinstance(given, Mapping):
        raise FeatvizError("a figure is a mapping with rows and columns")
    check.keys("", given, [*_FIGURE, *_CELL, "rows", "columns"])
    figure = check.values("", given, {**_FIGURE, **_CELL})
    rows = check.parts("rows", given.get("rows"))
    columns = check.parts("columns", given.get("columns"))
    shared = {name: value for name, value in figure.items() if name in _CELL}
    cells: List[List[Cell]] = []
    for r, row in enumerate(rows):
        cells.append([])
        for c, column in enumerate(columns):
            for name in sorted(set(row) & set(column) - {"title"}):
                check.tell("", f"row {r + 1} and column {c + 1} both give {name}")
            merged = {**shared, **row, **column}
            merged.pop("title", None)
            cells[-1].append(Cell(**merged))
            check.cell(f"row {r + 1}, column {c + 1}", cells[-1][-1])
    style = None
    names = ("width", "font", "font_size", "dpi", "gap", "letters", "letter", "titles")
    try:
        style = Style(**{name: figure[name] for name in names if name in figure})
    except FeatvizError as error:
        check.tell("", str(error))
    row_titles = [_title(part, ("weights", "layer", "show"), shared) for part in rows]
    column_titles = [_title(part, ("show", "layer", "weights"), shared) for part in columns]
    for words in [*row_titles, *column_titles]:
        if style is not None:
            try:
                check_letters(words, style)
            except FeatvizError as error:
                check.tell("", str(error))
    if check.errors or style is None:
        raise FeatvizError("; ".join(check.errors))
    rest = {name: figure.get(name, default) for name, default in (("imgsz", 640), ("conf", 0.25), ("iou", 0.45))}
    outputs = figure.get("output", [])
    return Spec(cells, column_titles, row_titles, style, outputs, given=dict(given), files=check.files, **rest)


def expand(part: Any) -> Any:
    """A row or column in full: a word is what is shown, or else an image; a number is a layer."""
    if isinstance(part, str):
        return {"show": part} if part in SHOWS else {"image": part}
    return {"layer": part} if isinstance(part, int) and not isinstance(part, bool) else part


def _title(part: Mapping[str, Any], by: Sequence[str], shared: Mapping[str, Any]) -> str:
    """The title that is given, or one made of what the row or column is there for."""
    if "title" in part:
        return str(part["title"])
    for name in by:
        if name == "weights" and name in part:
            return Path(part["weights"]).stem
        if name in part:
            cell = {key: value for key, value in {**shared, **part}.items() if key != "title"}
            return Cell(**cell).title
    return ""


def make(spec: Spec, models: Models) -> Composition:
    """Draw a figure.

    Args:
        spec: see :func:`parse`.
        models: from checkpoints, and their checkouts, to a context in which there is a model for each,
            to be called as :class:`yolov5_featviz.yolov5.predict.Predictor` is.

    Raises:
        FeatvizError: a layer or channel is not there, or an image or checkpoint cannot be read.
    """
    cells = [cell for row in spec.cells for cell in row]
    keys = list(dict.fromkeys((cell.weights, cell.yolov5) for cell in cells if _needs_model(cell)))
    seen: Dict[Cell, _Seen] = {}
    with models([str(weights) for weights, _ in keys], [yolov5 for _, yolov5 in keys]) as opened:
        by_key = dict(zip(keys, opened))
        errors: List[str] = []
        wanted: Dict[Any, Set[str]] = {}
        for cell in cells:
            if _needs_model(cell):
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
            prediction = predictions.get((cell.weights, cell.yolov5, cell.image)) if _needs_model(cell) else None
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
    """What there is to paint for a cell: the photograph, and of a layer, values and what became 0 and 1."""

    pixels: np.ndarray
    prediction: Optional[Prediction] = None
    feature_map: Optional[FeatureMap] = None
    values: Optional[np.ndarray] = None
    scaled: Optional[np.ndarray] = None
    limits: Tuple[float, float] = (0.0, 1.0)
    norm: str = ""


def _needs_model(cell: Cell) -> bool:
    return cell.shown != "input" or cell.boxes


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
    data = fm.data.float().numpy()
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
    """What panels must have in common to share a scale."""
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
    """Whether a norm has a scale of its own, the same for all values."""
    return norm in ("sigmoid", "none", "byte")


def _is_shared(cell: Cell) -> bool:
    return (cell.scale or ("separate" if cell.shown == "cam" else "shared")) == "shared"


def _shared(seen: Mapping[Cell, _Seen]) -> Dict[Any, Tuple[float, float]]:
    """The ends of each scale that panels share: the lowest and the highest of theirs."""
    ends: Dict[Any, List[Tuple[float, float]]] = {}
    for cell, one in seen.items():
        if one.values is not None and _is_shared(cell) and not _is_absolute(one.norm):
            ends.setdefault(_group(cell), []).append(one.limits)
    return {group: (min(low for low, _ in pairs), max(high for _, high in pairs)) for group, pairs in ends.items()}


def _limits(cell: Cell, seen: _Seen, limits: Mapping[Any, Tuple[float, float]]) -> Tuple[float, float]:
    """The two values between which a panel is shown."""
    if _is_absolute(seen.norm):
        return seen.limits
    if isinstance(cell.scale, tuple):
        return cell.scale
    return limits[_group(cell)] if _is_shared(cell) else seen.limits


def _panel(cell: Cell, seen: _Seen, limits: Mapping[Any, Tuple[float, float]]) -> Panel:
    height, width = seen.pixels.shape[:2]
    window = cell.crop or (0.0, 0.0, float(width), float(height))
    for name, box in (("crop", cell.crop), ("zoom", cell.zoom and cell.zoom.box)):
        edges = ", ".join(f"{edge:g}" for edge in box or ())
        if box and _beyond(box, (0.0, 0.0, float(width), float(height))):
            raise FeatvizError(f"{name} [{edges}] lies outside {Path(str(cell.image)).name}, {width}×{height} pixels")
        if name == "zoom" and box and _beyond(box, window):
            crop = ", ".join(f"{edge:g}" for edge in window)
            raise FeatvizError(f"zoom [{edges}] lies outside the crop [{crop}]: name a part of that")
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
        chosen = fm.data.float().numpy()[choose(fm, cell.channels or "all").channels]
        return replace(panel, paint=colours(np.moveaxis(pca(chosen)[0], 2, 0), fm, (height, width), how))
    if cell.shown == "grid":
        data = fm.data.float().numpy()
        shown = choose(fm, cell.channels or "16").channels
        norm = cell.norm or "channel"
        scaled, ends = normalize(data[shown], norm, data)
        low, high = NORMS[norm].ends or (limit_words(ends[0][0]), limit_words(ends[0][1]))
        tiles = mosaic([heat(one, fm, (height, width), cmap, how) for one in scaled])
        words = NORMS[norm].scope.replace("on its own", "").strip()
        return replace(panel, paint=tiles, zoom=None, bar=Bar(cmap, low, high, words))
    assert seen.values is not None and seen.scaled is not None
    scaled, words = seen.scaled, _measured(cell, fm)
    if _is_absolute(seen.norm):
        low, high = NORMS[seen.norm].ends or ("0", "1")
        words = f"{words}, {NORMS[seen.norm].scope}"
    elif _is_shared(cell) or isinstance(cell.scale, tuple):
        pair = _limits(cell, seen, limits)
        scaled = stretched(seen.values, pair)
        low, high = limit_words(pair[0]), limit_words(pair[1])
    else:
        low, high = NORMS[seen.norm].ends or ("min", "max")
        words += ", each on its own"
    paint = heat(scaled, fm, (height, width), cmap, how, photo if over else None, cell.alpha)
    return replace(panel, paint=paint, bar=Bar(cmap, low, high, words))


def _beyond(box: Region, window: Region) -> bool:
    return box[0] < window[0] or box[1] < window[1] or box[2] > window[2] or box[3] > window[3]


def _measured(cell: Cell, feature_map: FeatureMap) -> str:
    """What the values of a panel are."""
    if cell.shown == "cam":
        return METHODS[cell.method][0]
    if cell.shown == "channel":
        return f"channel {cell.channel}"
    if cell.channels is not None:
        return f"{cell.reduce} of {len(choose(feature_map, cell.channels).channels)} channels"
    names = {"l2": "L2 norm of channels", "select-max": "strongest channel"}
    return names.get(cell.reduce, f"channel {cell.reduce}")


def stretched(values: np.ndarray, pair: Tuple[float, float]) -> np.ndarray:
    """Values to [0, 1], so that ``pair`` become its ends; 0 where these are equal. NaN stays NaN."""
    low, high = pair
    span = high - low
    scaled: np.ndarray = ((values - low) / span if span > 0 else values * 0).clip(0, 1)
    return scaled.astype(np.float32)


def photograph(pixels: np.ndarray) -> Paint:
    """Paints an image uint8 RGB ``[H, W, 3]``."""
    import cv2

    def paint(size: Tuple[int, int], window: Region) -> np.ndarray:
        left, top, right, bottom = (round(edge) for edge in window)
        part = np.ascontiguousarray(pixels[top : max(bottom, top + 1), left : max(right, left + 1)])
        smaller = part.shape[0] >= size[0] and part.shape[1] >= size[1]
        how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        painted: np.ndarray = cv2.resize(part, (size[1], size[0]), interpolation=how)
        return painted

    return paint


def heat(
    values: np.ndarray,
    feature_map: FeatureMap,
    image: Tuple[int, int],
    cmap: str,
    how: str = "nearest",
    photo: Optional[Paint] = None,
    alpha: float = 0.4,
) -> Paint:
    """Paints a map ``[H, W]`` in [0, 1] of an image of size ``image``, alone or over its photograph."""
    palette = palette_of(cmap)

    def paint(size: Tuple[int, int], window: Region) -> np.ndarray:
        codes = quantise(resample(values, size, how, part=cells(feature_map, image, window)).clip(0, 1))
        if photo is None:
            alone: np.ndarray = palette[codes]
            return alone
        return blended(codes, palette, photo(size, window), alpha)

    return paint


def colours(planes: np.ndarray, feature_map: FeatureMap, image: Tuple[int, int], how: str = "nearest") -> Paint:
    """Paints three maps ``[3, H, W]`` in [0, 1] as red, green and blue."""
    grey = palette_of("viridis")[NAN]

    def paint(size: Tuple[int, int], window: Region) -> np.ndarray:
        y = np.moveaxis(resample(planes, size, how, part=cells(feature_map, image, window)), 0, 2).clip(0, 1)
        painted: np.ndarray = np.where(np.isnan(y), grey, np.rint(np.nan_to_num(y) * 255)).astype(np.uint8)
        return painted

    return paint


def mosaic(parts: Sequence[Paint]) -> Paint:
    """Paints several side by side, in as many columns as rows."""
    side = math.ceil(math.sqrt(len(parts)))

    def paint(size: Tuple[int, int], window: Region) -> np.ndarray:
        height, width = size
        canvas = np.full((height, width, 3), 255, np.uint8)
        gap = max(1, round(width / 150))
        ys, xs = (np.rint(np.linspace(0, length + gap, side + 1)).astype(int) for length in (height, width))
        for i, part in enumerate(parts):
            top, left = int(ys[i // side]), int(xs[i % side])
            h, w = int(ys[i // side + 1]) - gap - top, int(xs[i % side + 1]) - gap - left
            if h > 0 and w > 0:
                canvas[top : top + h, left : left + w] = part((h, w), window)
        return canvas

    return paint


def cells(feature_map: FeatureMap, image: Tuple[int, int], window: Region) -> Region:
    """A part of an image of size ``image``, in its pixels, as a part of the map, in cells."""
    left, top, right, bottom = feature_map.window
    down, across = feature_map.stride or (1.0, 1.0)
    x, y = (right - left) / image[1], (bottom - top) / image[0]
    return (
        (left + window[0] * x) / across,
        (top + window[1] * y) / down,
        (left + window[2] * x) / across,
        (top + window[3] * y) / down,
    )


def limit_words(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


class _Check:
    """Looks at what is given and keeps what is wrong with it."""

    def __init__(self, find: Callable[[str, str], Optional[Path]]) -> None:
        self.find = find
        self.errors: List[str] = []
        self.files: Dict[Tuple[str, str], str] = {}

    def tell(self, where: str, what: str) -> None:
        words = f"{where}: {what}" if where else what
        if words not in self.errors:
            self.errors.append(words)

    def keys(self, where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(str(name)[:80], known, 1)
                self.tell(where, f"no key {_shown(name)}" + (f": did you mean {near[0]}?" if near else ""))

    def values(self, where: str, given: Mapping[str, Any], known: Mapping[str, Callable[[Any], Any]]) -> Dict[str, Any]:
        found: Dict[str, Any] = {}
        for name, value in given.items():
            if name not in known or value is None:
                continue
            try:
                found[name] = known[name](value)
                if name in ("image", "weights"):
                    path = self.find(name, found[name])
                    if path is None:
                        raise FeatvizError(f"no {name} {printable(value, 80)}")
                    found[name] = self.files[name, str(value)] = str(path)
            except FeatvizError as error:
                self.tell(where, str(error))
        return found

    def parts(self, name: str, given: Any) -> List[Dict[str, Any]]:
        if not isinstance(given, (list, tuple)) or not given:
            self.tell("", f"no {name}: give a list of them")
            return []
        if len(given) > MOST:
            self.tell("", f"{len(given):,} {name}: a figure has at most {MOST}")
            return []
        found = []
        for i, part in enumerate(given):
            where = f"{name[:-1]} {i + 1}"
            part = expand(part)
            if not isinstance(part, Mapping):
                self.tell(where, f"{_shown(part)} is not understood: give what it shows, such as {{layer: 17}}")
                continue
            self.keys(where, part, [*_CELL, "title"])
            found.append(self.values(where, part, {**_CELL, "title": _words}))
        return found

    def cell(self, where: str, cell: Cell) -> None:
        if cell.image is None and not any("image" in error for error in self.errors):
            self.tell(where, "no image: give one there, or one for the whole figure")
        if _needs_model(cell) and cell.weights is None and not any("weights" in error for error in self.errors):
            self.tell(where, "no weights: give them there, or for the whole figure")
        if cell.shown in OF_LAYERS and cell.layer is None and not any("layer" in error for error in self.errors):
            self.tell(where, f"no layer for its {cell.shown}")
        if cell.shown == "channel" and cell.channel is None:
            self.tell(where, "no channel: give its number")
        if cell.shown == "cam":
            try:
                check_method(cell.method)
            except FeatvizError as error:
                self.tell(where, str(error))


def _shown(value: Any) -> str:
    """A value that is wrong, as it is told."""
    return printable(repr(value), 80)


def _one_of(what: str, known: Sequence[str]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in known:
            near = difflib.get_close_matches(str(value)[:80], known, 1)
            raise FeatvizError(
                f"no {what} {_shown(value)}: "
                + (f"did you mean {near[0]}?" if near else f"take one of {', '.join(known)}")
            )
        return str(value)

    return check


def _number(what: str, low: float, high: float, whole: bool = False) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            raise FeatvizError(f"{what} {_shown(value)}: give a{' whole' if whole else ''} number, {low:g} to {high:g}")
        return value

    return check


def _checked(check: Callable[[str], Any], what: str) -> Callable[[Any], str]:
    def checked(value: Any) -> str:
        if not isinstance(value, str):
            raise FeatvizError(f"{what} {_shown(value)} is not understood: give a name")
        check(value)
        return value

    return checked


def _flag(what: str) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise FeatvizError(f"{what} {_shown(value)}: write true or false")
        return value

    return check


def _text(what: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, (str, int, Path)) or str(value) == "":
            raise FeatvizError(f"{what} {_shown(value)} is not understood")
        return str(value)

    return check


def _words(value: Any) -> str:
    if isinstance(value, (Mapping, list, tuple, set, bytes)) or value in (math.inf, -math.inf) or value != value:
        raise FeatvizError(f"title {_shown(value)} is not understood: give words")
    return str(value)


def width_of(value: Any) -> float:
    """A width in inches, from a number or one of :data:`yolov5_featviz.compose.WIDTHS`. Raises FeatvizError."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return WIDTHS[_one_of("width", list(WIDTHS))(value)]
    return float(_number("width", 1, 40)(value))


def _channels(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = ",".join(f"{part}-{part}" for part in value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise FeatvizError(f"channels {_shown(value)} are not understood")
    if parse_top(str(value)) is None and str(value) != "all":
        choose_channels(str(value), 1 << 16)
    return str(value)


def _edges(what: str) -> Callable[[Any], Region]:
    def check(value: Any) -> Region:
        good = isinstance(value, (list, tuple)) and len(value) == 4
        if (
            not good
            or not all(isinstance(edge, (int, float)) and not isinstance(edge, bool) for edge in value)
            or not all(map(math.isfinite, value))
        ):
            raise FeatvizError(f"{what} {_shown(value)}: give left, top, right and bottom edge in pixels of the image")
        left, top, right, bottom = (float(edge) for edge in value)
        if not (left < right and top < bottom):
            raise FeatvizError(f"{what} {_shown(value)} is empty: give left, top, right and bottom edge, in this order")
        return left, top, right, bottom

    return check


def _zoom(value: Any) -> Zoom:
    if not isinstance(value, Mapping):
        return Zoom(_edges("zoom")(value))
    inner = _Check(lambda kind, name: None)
    inner.keys("zoom", value, ["box", "corner", "share"])
    found = inner.values(
        "zoom",
        value,
        {"box": _edges("box"), "corner": _one_of("corner", CORNERS), "share": _number("share", 0.1, 0.9)},
    )
    if "box" not in value:
        inner.tell("zoom", "no box: give left, top, right and bottom edge in pixels of the image")
    if inner.errors:
        raise FeatvizError("; ".join(inner.errors))
    return Zoom(**found)


def _scale(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        low, high = (float(_number("scale", -1e30, 1e30)(end)) for end in value)
        if low < high:
            return low, high
        raise FeatvizError(f"scale {_shown(list(value))}: give the lower end first")
    return _one_of("scale", SCALES)(value)


def _outputs(value: Any) -> List[str]:
    values = value if isinstance(value, (list, tuple)) else [value]
    for one in values:
        format_of(_text("output")(one))
    return [str(one) for one in values]


def _cmap(value: str) -> None:
    palette_of(value)


_FIGURE: Dict[str, Callable[[Any], Any]] = {
    "output": _outputs,
    "width": width_of,
    "font": _text("font"),
    "font_size": _number("font_size", 4, 24),
    "dpi": _number("dpi", 72, 2400, whole=True),
    "gap": _number("gap", 0, 36),
    "letters": _text("letters"),
    "letter": _text("letter"),
    "titles": _text("titles"),
    "imgsz": _number("imgsz", 32, 8192, whole=True),
    "conf": _number("conf", 0, 1),
    "iou": _number("iou", 0, 1),
}
_CELL: Dict[str, Callable[[Any], Any]] = {
    "show": _one_of("show", SHOWS),
    "image": _text("image"),
    "weights": _text("weights"),
    "yolov5": _text("yolov5"),
    "layer": _text("layer"),
    "channels": _channels,
    "channel": _number("channel", 0, 1 << 20, whole=True),
    "reduce": _checked(check_reduce, "reduce"),
    "norm": _checked(check_norm, "norm"),
    "resample": _checked(check_resample, "resample"),
    "cmap": _checked(_cmap, "cmap"),
    "alpha": _number("alpha", 0, 1),
    "over": _flag("over"),
    "boxes": _flag("boxes"),
    "scale": _scale,
    "crop": _edges("crop"),
    "zoom": _zoom,
    "target": _text("target"),
    "method": _one_of("method", list(METHODS)),
}
