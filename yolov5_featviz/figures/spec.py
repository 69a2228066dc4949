"""Figure specification: parse and check the rows and columns of a YAML figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.arrays.normalize import check_norm
from yolov5_featviz.arrays.reduce import REDUCTIONS, check_reduce
from yolov5_featviz.arrays.resample import check_resample
from yolov5_featviz.attribution.cam import check_method
from yolov5_featviz.attribution.explain import METHODS, check_explain
from yolov5_featviz.draw.channels import choose_channels, measure_words, parse_top
from yolov5_featviz.draw.encode import format_of
from yolov5_featviz.draw.heatmap import ALPHA
from yolov5_featviz.draw.palette import BLENDS, palette_of
from yolov5_featviz.draw.rgb import check_axes
from yolov5_featviz.draw.widths import width_of
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.figures.layout import CORNERS, Zoom, number_words
from yolov5_featviz.figures.style import Style, check_letters, plain
from yolov5_featviz.text import near, printable

SHOWS = ("input", "detections", "heatmap", "channel", "pca", "grid", "cam", "explain")
EXPLAINED = ("cam", "explain")
OF_LAYERS = ("heatmap", "channel", "pca", "grid", "cam", "explain")
OF_CHANNELS = ("heatmap", "channel", "pca", "grid")
SCALES = ("shared", "separate")
MOST = 100  # rows, and columns


class Cell(NamedTuple):
    """Specification of one panel. None selects the default of the kind shown."""

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
    alpha: float = ALPHA
    blend: str = "mix"
    desaturate: bool = False
    over: Optional[bool] = None
    boxes: bool = False
    scale: Any = None
    crop: Optional[Region] = None
    zoom: Optional[Zoom] = None
    target: Any = None
    method: str = "layer-cam"
    smooth: bool = False
    axes: str = "rgb"

    @property
    def shown(self) -> str:
        """Kind of panel; by default ``heatmap`` if a layer is given, else ``input``."""
        return self.show or ("heatmap" if self.layer is not None else "input")


@dataclass(frozen=True)
class Spec:
    """Checked figure specification; see :func:`parse`."""

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
    """Parse and check a figure specification.

    Args:
        given: see docs/figures.md.
        find: maps a kind, ``image`` or ``weights``, and a given name to a file; None if there is none.

    Raises:
        FeatvizError: something is invalid or missing; lists all errors in one line.
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
                check.fail("", f"row {r + 1} and column {c + 1} both give {name}")
            merged = {**shared, **row, **column}
            merged.pop("title", None)
            cells[-1].append(Cell(**merged))
            check.cell(f"row {r + 1}, column {c + 1}", cells[-1][-1])
    style = None
    names = ("width", "font", "font_size", "dpi", "gap", "letters", "letter", "titles")
    try:
        style = Style(**{name: figure[name] for name in names if name in figure})
    except FeatvizError as error:
        check.fail("", str(error))
    row_titles, column_titles = _titles(rows, shared, columns), _titles(columns, shared, rows)
    for words in [*row_titles, *column_titles]:
        if style is not None:
            try:
                check_letters(words, style)
            except FeatvizError as error:
                check.fail("", str(error))
    if check.errors or style is None:
        raise FeatvizError("; ".join(check.errors))
    rest = {name: figure.get(name, default) for name, default in (("imgsz", 640), ("conf", 0.25), ("iou", 0.45))}
    outputs = figure.get("output", [])
    return Spec(cells, column_titles, row_titles, style, outputs, given=dict(given), files=check.files, **rest)


def expand(part: Any) -> Any:
    """Expand the short form of a row or column: a word is a kind of panel or else an image; a number is a layer."""
    if isinstance(part, str):
        return {"show": part} if part in SHOWS else {"image": part}
    return {"layer": part} if isinstance(part, int) and not isinstance(part, bool) else part


_SHOWN = ("show", "layer", "channels", "channel", "reduce", "target", "method", "smooth")  # keys that titles name


def _titles(
    parts: Sequence[Mapping[str, Any]], shared: Mapping[str, Any], others: Sequence[Mapping[str, Any]]
) -> List[str]:
    """Return the titles of rows or columns; those that are alike also name the keys in which they differ."""
    unknown = {name for other in others for name in other}
    titles = [_title(part, shared, unknown) for part in parts]
    found = []
    for part, title in zip(parts, titles):
        same = [other for other, its in zip(parts, titles) if its == title and "title" not in other]
        keys = [name for name in part if "title" not in part and any(other.get(name) != part[name] for other in same)]
        more = [_key_words(name, part[name]) for name in keys if name not in _SHOWN and name != "image"]
        words = ", ".join(filter(None, [title, *more]))
        found.append(words if title else words[:1].upper() + words[1:])
    return found


def _key_words(name: str, value: Any) -> str:
    """Name the value of a key: ``norm robust``, ``scale 0 to 0.5``; nothing for one that is off."""
    if isinstance(value, bool):
        return name * value
    if name == "weights":
        return "/".join(Path(value).parts[-3:-1])
    words = " to ".join(f"{end:g}" for end in value) if isinstance(value, tuple) and name == "scale" else value
    return "" if name in ("crop", "zoom") else f"{name} {words}"


def _title(part: Mapping[str, Any], shared: Mapping[str, Any], others: Set[str]) -> str:
    """Return the given title of a row or column, or name what is shown.

    Args:
        part: what the row or column sets.
        shared: what the figure sets.
        others: the keys that columns, or rows, set: their values are not known here.
    """
    if "title" in part:
        return str(part["title"])
    words = [Path(part["weights"]).stem] if "weights" in part else []
    if any(name in part for name in _SHOWN):
        known = {name: value for name, value in {**shared, **part}.items() if name in part or name not in others}
        if "layer" in known and known.get("show") not in ("input", "detections"):
            words.append(f"layer {known['layer']}")
        words.append(_kind(known, others - part.keys()))
        words = list(filter(None, words))
        if "weights" not in part and words:
            words[0] = words[0][0].upper() + words[0][1:]
    return ", ".join(words)


def _kind(known: Mapping[str, Any], unknown: Set[str]) -> str:
    """Name what a row or column shows of a layer, with its channels, target and method, as far as they are known."""
    if "show" in unknown:
        return _channels_words(known["channels"]) if "channels" in known else ""
    cell = Cell(**known)
    kind = "heatmap" if cell.show is None and "layer" in unknown else cell.shown
    if kind == "channel":
        by = ranking_of(cell)
        if by:
            return top_words(measure_words(by))
        return "one channel" if cell.channel is None else f"channel {cell.channel}"
    if kind in EXPLAINED:
        method = {"cam": "class activation map"}.get(kind, "explanation")
        method = method if "method" in unknown else METHODS[cell.method]
        target = target_words(cell.target)
        return method + " smoothed 3×3" * cell.smooth + (f" of {target}" if target else "")
    if kind == "grid" or (kind == "heatmap" and "reduce" in unknown):
        return "" if "channels" in unknown else _channels_words(cell.channels or ("16" if kind == "grid" else ""))
    if kind not in ("heatmap", "pca"):
        return kind
    name = "PCA" if kind == "pca" else reduction_words(cell.reduce, cell.channels is not None)
    return name if cell.channels is None else f"{name} of {_channels_words(cell.channels)}"


def target_words(target: Any) -> str:
    """Name the target of a class activation map; empty if none is given."""
    return "" if target is None else f"{'class ' * str(target).isdigit()}{target}"


def reduction_words(reduce: str, some: bool) -> str:
    """Name a reduction of all channels, or of ``some`` that are named after it: ``L2 norm``, ``channel mean``."""
    name = REDUCTIONS[reduce].words.replace(" of channels", "")
    return (name or reduce) if some else (name or f"channel {reduce}")


def _channels_words(channels: str) -> str:
    """Name a selection of channels: ``top 9 by contrast``, ``first 16 channels``, ``channels 3, 8–15``."""
    top = parse_top(channels) if channels else None
    if top is not None:
        return f"top {top[0]} by {plain(measure_words(top[1]))}"
    end, _, count = channels.strip().lower().rpartition(":")
    if count in ("", "all"):
        return count and "all channels"
    if count.isdigit():
        return f"{end or 'first'} {count} channels"
    chosen = choose_channels(channels, 1 << 16)
    return f"channel{'s' * (len(chosen) > 1)} {number_words(chosen)}"


def top_words(measure: str) -> str:
    """Name the channel that is first by a measure: ``top channel by contrast of person``."""
    return f"top channel by {plain(measure)}"


def ranking_of(cell: Cell) -> str:
    """Return the measure that the channels of a panel are chosen by; empty if they are named, or if it has none."""
    if cell.shown not in OF_CHANNELS or (cell.shown == "channel" and cell.channel is not None):
        return ""
    top = parse_top(cell.channels or "")
    return top[1] if top else ""


def needs_model(cell: Cell) -> bool:
    return cell.shown != "input" or cell.boxes


class _Check:
    """Checker that collects errors."""

    def __init__(self, find: Callable[[str, str], Optional[Path]]) -> None:
        self.find = find
        self.errors: List[str] = []
        self.files: Dict[Tuple[str, str], str] = {}

    def fail(self, where: str, what: str) -> None:
        words = f"{where}: {what}" if where else what
        if words not in self.errors:
            self.errors.append(words)

    def keys(self, where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
        for name in given:
            if name not in known:
                self.fail(where, f"no key {_shown(name)}{near(name, known)}")

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
                self.fail(where, str(error))
        return found

    def parts(self, name: str, given: Any) -> List[Dict[str, Any]]:
        if not isinstance(given, (list, tuple)) or not given:
            self.fail("", f"no {name}: give a list of them")
            return []
        if len(given) > MOST:
            self.fail("", f"{len(given):,} {name}: a figure has at most {MOST}")
            return []
        found = []
        for i, part in enumerate(given):
            where = f"{name[:-1]} {i + 1}"
            part = expand(part)
            if not isinstance(part, Mapping):
                self.fail(where, f"{_shown(part)} is not understood: give what it shows, such as {{layer: 17}}")
                continue
            self.keys(where, part, [*_CELL, "title"])
            values = self.values(where, part, {**_CELL, "title": _words})
            if values.get("show") == "channel" and "channels" in values:
                if "channel" in values:
                    self.fail(where, "both channel and channels: give one of them")
                values["channel"] = None  # overrides that of the figure
            found.append(values)
        return found

    def cell(self, where: str, cell: Cell) -> None:
        if cell.image is None and not any("image" in error for error in self.errors):
            self.fail(where, "no image: give one there, or one for the whole figure")
        if needs_model(cell) and cell.weights is None and not any("weights" in error for error in self.errors):
            self.fail(where, "no weights: give them there, or for the whole figure")
        layered = cell.shown in OF_LAYERS and cell.shown != "explain"
        if layered and cell.layer is None and not any("layer" in error for error in self.errors):
            self.fail(where, f"no layer for its {cell.shown}")
        if cell.shown == "channel" and cell.channel is None:
            top = parse_top(cell.channels or "")
            if top is None:
                self.fail(where, "no channel: give its number, or channels: top:1:contrast")
            elif top[0] != 1:
                self.fail(where, f"show: channel shows one channel, such as top:1, not {_shown(cell.channels)}")
        if cell.shown in EXPLAINED:
            try:
                check_method(cell.method) if cell.shown == "cam" else check_explain(cell.method, cell.layer)
            except FeatvizError as error:
                self.fail(where, str(error))


def _shown(value: Any) -> str:
    """Format an invalid value for a message."""
    return printable(repr(value), 80)


def _one_of(what: str, known: Sequence[str]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in known:
            choices = f"take one of {', '.join(known)}"
            raise FeatvizError(f"no {what} {_shown(value)}{near(value, known, choices)}")
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
        inner.fail("zoom", "no box: give left, top, right and bottom edge in pixels of the image")
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
    "font_size": _number("font_size", 6, 24),
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
    "blend": _one_of("blend", BLENDS),
    "desaturate": _flag("desaturate"),
    "over": _flag("over"),
    "boxes": _flag("boxes"),
    "scale": _scale,
    "crop": _edges("crop"),
    "zoom": _zoom,
    "target": _text("target"),
    "method": _one_of("method", list(METHODS)),
    "smooth": _flag("smooth"),
    "axes": _checked(check_axes, "axes"),
}
