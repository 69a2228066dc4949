"""The same images through several models: side by side on one scale, their difference, and numbers."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from yolov5_featviz.about import KEY, dumps, number
from yolov5_featviz.boxes import Boxes
from yolov5_featviz.capture import FeatureMap
from yolov5_featviz.compose import WIDTHS, Bar, Composition, Panel, Style, compose
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.figure import heat, photograph, stretched
from yolov5_featviz.formats import check_format
from yolov5_featviz.metrics import (
    channel_sparsity,
    energy_inside,
    entropy,
    in_image,
    map_cka,
    pointing_hit,
)
from yolov5_featviz.normalize import normalize
from yolov5_featviz.prediction import Prediction
from yolov5_featviz.provenance import identity, made
from yolov5_featviz.reduce import REDUCTIONS, check_reduce, reduce_channels
from yolov5_featviz.render import check_look
from yolov5_featviz.resample import resample
from yolov5_featviz.run_images import find_images
from yolov5_featviz.save import check_writable, new_folder, write
from yolov5_featviz.table import align
from yolov5_featviz.yolov5.checkpoint import check_weights
from yolov5_featviz.yolov5.item import distinct
from yolov5_featviz.yolov5.predict import predictors, read_image
from yolov5_featviz.yolov5.preflight import locate_weights

# name in files -> name in tables, in LaTeX, factor there, digits, whether more is better
METRICS: Dict[str, Tuple[str, str, float, int, bool]] = {
    "energy_inside": ("energy inside %", r"Energy inside (\%) $\uparrow$", 100.0, 1, True),
    "pointing_hit": ("pointing %", r"Pointing (\%) $\uparrow$", 100.0, 1, True),
    "channel_sparsity": ("sparsity", "Sparsity", 1.0, 3, False),
    "entropy": ("entropy", "Entropy", 1.0, 3, False),
    "cka": ("CKA", "CKA", 1.0, 3, False),
}
LAYERS_ON_A_PAGE = 5
DIFFERENCE = "RdBu_r"


@dataclass(frozen=True)
class Options:
    """What is asked for; see ``yolov5-featviz compare --help``.

    Raises:
        FeatvizError: one of them is not understood.
    """

    weights: Sequence[str]
    layers: Sequence[str]
    source: str
    names: Sequence[str] = ()
    labels: Optional[str] = None
    imgsz: int = 640
    conf: float = 0.25
    iou: float = 0.45
    reduce: str = "mean"
    cmap: str = "jet"
    alpha: float = 0.4
    formats: Sequence[str] = ("png",)
    dpi: int = 300
    width: float = WIDTHS["ieee-page"]
    project: str = "runs/compare"
    name: str = "exp"
    yolov5: Sequence[str] = ()
    trust: bool = False

    def __post_init__(self) -> None:
        if len(self.weights) < 2:
            raise FeatvizError(f"{len(self.weights)} --weights: give two or more to compare")
        if self.names and len(self.names) != len(self.weights):
            raise FeatvizError(f"{len(self.names)} --names for {len(self.weights)} --weights: give one for each")
        if len(set(self.names)) < len(self.names):
            raise FeatvizError(f"--names {' '.join(self.names)}: give each model a name of its own")
        if self.labels is not None and not Path(self.labels).is_dir():
            raise FeatvizError(f"no folder {self.labels}: --labels takes that of the label files")
        if self.imgsz < 1:
            raise FeatvizError(f"--imgsz {self.imgsz}: take 32 or more")
        for flag, value in (("--conf-thres", self.conf), ("--iou-thres", self.iou), ("--alpha", self.alpha)):
            if not 0 <= value <= 1:
                raise FeatvizError(f"{flag} {value:g}: take 0 to 1")
        check_reduce(self.reduce)
        check_look(self.cmap, self.dpi)
        for format in self.formats:
            check_format(format)
        Style(width=self.width, dpi=self.dpi)


class Row(NamedTuple):
    """The numbers of one layer of one model for one image; NaN where there is none."""

    image: str
    layer: str
    model: str
    boxes: str
    energy_inside: float
    pointing_hit: float
    channel_sparsity: float
    entropy: float
    cka: float


def compare(options: Options, command: Sequence[str], tell: Callable[[str], None]) -> int:
    """Show each image to each model; write a figure for each image, and tables.

    Args:
        options: what is asked for.
        command: the whole command line, for the files to tell.
        tell: is told what happens.

    Returns:
        0; or 1 if an image could not be read, after all others were done.

    Raises:
        FeatvizError: something is not there, or not understood. Nothing was written.
    """
    o = options
    files = [locate_weights(path, [Path("weights")]) for path in o.weights]
    for file in files:
        check_weights(file)
    names = list(o.names) or model_names(files)
    images = find_images(o.source)
    selections = by_model(o.layers, names)
    check_writable(Path(o.project))
    with predictors(files, o.yolov5, o.trust) as models:
        layers = [model.layers(selection) for model, selection in zip(models, selections)]
        if len({len(found) for found in layers}) > 1:
            counts = ", ".join(f"{name} {len(found)}" for name, found in zip(names, layers))
            raise FeatvizError(
                f"layers are compared one by one, but their numbers differ: {counts}; name as many of each"
            )
        releases = list(dict.fromkeys(model.release for model in models))
        about = {**made(command, files, yolov5=", ".join(releases)), "models": names, "reduce": o.reduce}
        rows: List[Row] = []
        home: Optional[Path] = None
        done: List[Path] = []
        failed: List[str] = []
        try:
            for image, name in zip(images, distinct(path.stem for path in images)):
                try:
                    read_image(image)
                except FeatvizError as error:
                    failed.append(str(error))
                    tell(f"{error}; passed over")
                    continue
                seen = [
                    model(str(image), ",".join(found), o.imgsz, o.conf, o.iou, name)
                    for model, found in zip(models, layers)
                ]
                truth = ground_truth(image, seen[0], o.labels)
                maps = [[_map(one, layer) for layer in found] for one, found in zip(seen, layers)]
                rows += measure(name, names, maps, truth, o.reduce)
                home = home or new_folder(Path(o.project) / o.name)
                for file, drawn in _figures(name, names, seen, maps, truth, o):
                    for format in o.formats:
                        told = {**about, "image": identity(image), "file": f"{file}.{format}", **drawn.about}
                        write(home / f"{file}.{format}", replace(drawn, about=told).encode(format))
                done.append(image)
        finally:
            if home is not None:
                _write_tables(home, rows, {**about, "images": [identity(image) for image in done]})
    if home is None:
        raise FeatvizError(failed[0])
    tell("\n" + table(rows))
    tell(f"{len(done)} image{'s' * (len(done) != 1)} in {home}, the numbers in metrics.csv, means.csv and table.tex")
    return int(bool(failed))


def model_names(files: Sequence[str]) -> List[str]:
    """A name for each checkpoint: the file's, or of the first folder above by which they can be told apart."""
    levels = [[Path(file).stem for file in files]]
    parents = [list(Path(file).absolute().parents) for file in files]
    levels += [[folders[i].name for folders in parents] for i in range(min(map(len, parents)))]
    return next((level for level in levels if len(set(level)) == len(level) and all(level)), distinct(levels[0]))


def by_model(layers: Sequence[str], names: Sequence[str]) -> List[str]:
    """The layer selection of each model, from ``["17,20"]``, for all, or ``["a=17", "b=20"]``.

    Raises FeatvizError if that is not clear.
    """
    parts = [word.partition("=") for word in layers]
    if not any(equals for _, equals, _ in parts):
        return [",".join(layers)] * len(names)
    found: Dict[str, List[str]] = {}
    for name, equals, selection in parts:
        if not equals or name not in names or not selection:
            raise FeatvizError(
                f"--layers {name}{equals}{selection}: give one selection for all, or one for each of "
                + ", ".join(f"{one}=17" for one in names)
            )
        found.setdefault(name, []).append(selection)
    missing = [name for name in names if name not in found]
    if missing:
        raise FeatvizError(f"--layers says nothing of {missing[0]}: add {missing[0]}=17")
    return [",".join(found[name]) for name in names]


def ground_truth(image: Path, seen: Prediction, labels: Optional[str] = None) -> Optional[Boxes]:
    """The boxes of an image's label file, in pixels of the network's input; None if there is none.

    Args:
        image: its file.
        seen: what a model made of it, from which it is known where the image lies.
        labels: the folder of the label files. None for where YOLOv5 looks for them: ``labels`` in the place of
            ``images`` in the image's path. In a folder that is named, an image without a file has no objects.

    Raises:
        FeatvizError: the file is no label file.
    """
    if labels is not None:
        file = Path(labels) / f"{image.stem}.txt"
        if not file.is_file():
            return Boxes(np.zeros((0, 4)))
    else:
        parts = list(image.absolute().parts)
        if "images" not in parts[:-1]:
            return None
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
        file = Path(*parts).with_suffix(".txt")
        if not file.is_file():
            return None
    boxes = []
    for i, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            numbers = [float(word) for word in line.split()][1:]
            if len(numbers) == 4:
                x, y, w, h = numbers
                boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            elif len(numbers) >= 6 and len(numbers) % 2 == 0:  # the outline of a mask
                boxes.append([min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])])
            elif line.strip():
                raise ValueError
        except ValueError:
            raise FeatvizError(
                f"{file}, line {i}: {line[:40]!r} is no label: class, centre, width and height"
            ) from None
    left, top, right, bottom = seen.region
    whole = np.array([right - left, bottom - top] * 2)
    return Boxes(np.array(boxes).reshape(-1, 4) * whole + np.array([left, top] * 2))


def measure(
    image: str, names: Sequence[str], maps: Sequence[Sequence[FeatureMap]], truth: Optional[Boxes], reduce: str = "mean"
) -> List[Row]:
    """The numbers of each layer and model for one image.

    Args:
        image: its name.
        names: of the models.
        maps: of each model, the maps of its layers.
        truth: the boxes to measure by; None for those that each model detected.
        reduce: how channels become the heat map that energy, pointing and entropy are of.
    """
    rows = []
    for k, of_layer in enumerate(zip(*maps)):
        layer = layer_name([of_model[k] for of_model in maps])
        for name, fm in zip(names, of_layer):
            data = fm.data.float().numpy()
            heated = reduce_channels(data, reduce)
            boxes = truth if truth is not None else fm.boxes or Boxes(np.zeros((0, 4)))
            stride = fm.stride or (1.0, 1.0)
            counted = in_image((data.shape[1], data.shape[2]), stride, fm.window)
            hit = pointing_hit(heated, boxes, stride, fm.window)
            rows.append(
                Row(
                    image,
                    layer,
                    name,
                    "labels" if truth is not None else "detections",
                    energy_inside(heated, boxes, stride, fm.window),
                    float("nan") if hit is None else float(hit),
                    channel_sparsity(data, counted),
                    entropy(heated, counted),
                    float("nan") if fm is of_layer[0] else map_cka(of_layer[0], fm),
                )
            )
    return rows


def layer_name(maps: Sequence[FeatureMap]) -> str:
    """``17``, or ``17 / 20`` where models differ."""
    return " / ".join(dict.fromkeys(fm.layer.name for fm in maps))


class Mean(NamedTuple):
    """Means over images of one layer of one model: metric -> mean, standard deviation and number of images."""

    layer: str
    model: str
    values: Dict[str, Tuple[float, float, int]]


def means(rows: Sequence[Row]) -> List[Mean]:
    """Means and standard deviations (of the sample) over the images for which there is a number."""
    found = []
    for layer, model in dict.fromkeys((row.layer, row.model) for row in rows):
        mine = [row for row in rows if (row.layer, row.model) == (layer, model)]
        values = {}
        for metric in METRICS:
            x = np.array([getattr(row, metric) for row in mine])
            x = x[~np.isnan(x)]
            values[metric] = (
                float(x.mean()) if len(x) else float("nan"),
                float(x.std(ddof=1)) if len(x) > 1 else float("nan"),
                len(x),
            )
        found.append(Mean(layer, model, values))
    return found


def table(rows: Sequence[Row]) -> str:
    """The means, for the terminal."""
    head = ["layer", "model", *(name for name, *_ in METRICS.values())]
    body = []
    for mean in means(rows):
        words = [
            "-" if np.isnan(mean.values[m][0]) else f"{mean.values[m][0] * factor:.{digits}f}"
            for m, (_, _, factor, digits, _) in METRICS.items()
        ]
        body.append([mean.layer, mean.model, *words])
    return align([head, *body], right=range(2, len(head)))


def to_csv(rows: Sequence[Row]) -> str:
    """All numbers, a line for each image, layer and model; empty where there is none."""
    return _csv([Row._fields, *(map(_cell, row) for row in rows)])


def means_csv(rows: Sequence[Row]) -> str:
    """Means, standard deviations and numbers of images, a line for each layer and model."""
    head = ["layer", "model", *(f"{metric}{end}" for metric in METRICS for end in ("", "_sd", "_n"))]
    lines = [[m.layer, m.model, *(_cell(x) for metric in METRICS for x in m.values[metric])] for m in means(rows)]
    return _csv([head, *lines])


def to_latex(rows: Sequence[Row], first: str) -> str:
    """The means as a table for LaTeX, the best of each layer in bold where more is better.

    Standard deviations stand behind where there is more than one image. It needs the package booktabs.
    """
    found = means(rows)
    measured = {row.boxes for row in rows}
    by = "ground-truth boxes" if measured == {"labels"} else "boxes that each model detected"
    if len(measured) > 1:
        by = "ground-truth boxes where there are any, else boxes that each model detected"
    lines = [
        r"% needs \usepackage{booktabs}",
        f"% energy and pointing by the {by}; CKA is linear, to {first}; formulas and sources: docs/compare.md",
        r"\begin{tabular}{ll" + "r" * len(METRICS) + "}",
        r"\toprule",
        " & ".join(["Layer", "Model", *(latex for _, latex, *_ in METRICS.values())]) + r" \\",
    ]
    for layer in dict.fromkeys(mean.layer for mean in found):
        lines.append(r"\midrule")
        same = [mean for mean in found if mean.layer == layer]
        for i, mean in enumerate(same):
            words = [_latex(layer) if i == 0 else "", _latex(mean.model)]
            for metric, (_, _, factor, digits, more) in METRICS.items():
                value, deviation, n = mean.values[metric]
                text = "--" if np.isnan(value) else f"{value * factor:.{digits}f}"
                best = np.nanmax([m.values[metric][0] for m in same] + [-np.inf])
                if more and len(same) > 1 and not np.isnan(value) and value == best:
                    text = rf"\textbf{{{text}}}"
                words.append(text + (rf" {{\scriptsize$\pm${deviation * factor:.{digits}f}}}" if n > 1 else ""))
            lines.append(" & ".join(words) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _map(seen: Prediction, layer: str) -> FeatureMap:
    found = [fm for fm in seen.maps if fm.layer.name == layer]
    if not found:
        raise FeatvizError(f"layer {layer} yields no feature map to compare")
    return found[0]


def _figures(
    image: str,
    names: Sequence[str],
    seen: Sequence[Prediction],
    maps: Sequence[Sequence[FeatureMap]],
    truth: Optional[Boxes],
    o: Options,
) -> List[Tuple[str, Composition]]:
    """Rows are models, then differences to the first; columns are detections, then layers."""
    size = seen[0].size
    whole = (0.0, 0.0, float(size[1]), float(size[0]))
    photo = photograph(seen[0].pixels)
    style = Style(width=o.width, font_size=7, dpi=o.dpi)
    found = []
    count = len(maps[0])
    for start in range(0, count, LAYERS_ON_A_PAGE):
        shown = range(start, min(start + LAYERS_ON_A_PAGE, count))
        rows: List[List[Optional[Panel]]] = []
        for one in seen:
            boxes = None if one.boxes is None else one.boxes.mapped(one.region, size)
            rows.append([Panel(photo, whole, boxes)])
        titles = list(names)
        for i in range(1, len(names)):
            true = None if truth is None or i > 1 else truth.mapped(seen[0].region, size)
            rows.append([None if true is None else Panel(photo, whole, true)])
            titles.append(f"{names[i]} − {names[0]}")
        scales: Dict[str, Any] = {}
        for k in shown:
            of_layer = [of_model[k] for of_model in maps]
            heats, pair = _heats(of_layer, o.reduce)
            bar = Bar(o.cmap, _words(pair[0]), _words(pair[1]))
            for row, fm, values in zip(rows, of_layer, heats):
                paint = heat(stretched(values, pair), fm, size, o.cmap, "bilinear", photo, o.alpha)
                row.append(Panel(paint, whole, bar=bar))
            apart = [difference(heats[0], values) for values in heats[1:]]
            most = max(float(np.nanmax(np.abs(values), initial=0)) for values in apart)
            bar = Bar(DIFFERENCE, _words(-most), _words(most), "difference")
            for row, values in zip(rows[len(names) :], apart):
                there = replace(of_layer[0], data=torch.from_numpy(values)[None])
                scaled = stretched(values, (-most, most)) if most else np.full_like(values, 0.5)
                row.append(Panel(heat(scaled, there, size, DIFFERENCE), whole, bar=bar))
            scales[layer_name(of_layer)] = [number(end) for end in (*pair, -most, most)]
        columns = ["Detections", *(f"Layer {layer_name([of_model[k] for of_model in maps])}" for k in shown)]
        about = {"shows": "comparison", "layers": list(scales), "scales": scales}
        page = "" if start == 0 else f"_page{start // LAYERS_ON_A_PAGE + 1}"
        title = f"{image}: {', '.join(names)}; layers {', '.join(scales)}"
        found.append((image + page, compose(rows, columns, titles, style, title, about)))
    return found


def _heats(maps: Sequence[FeatureMap], reduce: str) -> Tuple[List[np.ndarray], Tuple[float, float]]:
    """The heat maps of one layer of each model, in its units, and the two values between which all are shown."""
    norm = REDUCTIONS[reduce].norm
    heats = [reduce_channels(fm.data.float().numpy(), reduce) for fm in maps]
    ends = [normalize(values[None], norm)[1][0] for values in heats]
    pair = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
    return [np.maximum(values, 0) if norm == "zero" else values for values in heats], pair


def difference(first: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``other - first``; if they are not of one size, both brought to the larger height and width, bilinearly."""
    size = max(first.shape[0], other.shape[0]), max(first.shape[1], other.shape[1])
    first, other = (x if x.shape == size else resample(x, size) for x in (first, other))
    apart: np.ndarray = other - first
    return apart


def _write_tables(home: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    for name, content in (("metrics.csv", to_csv(rows)), ("means.csv", means_csv(rows))):
        write(home / name, content.encode())
        write(home / f"{name}.json", f"{dumps({**about, 'file': name, 'shows': 'numbers'})}\n".encode())
    record = dumps({**about, "file": "table.tex", "shows": "numbers"})
    write(home / "table.tex", f"% {KEY} {record}\n{to_latex(rows, str(about['models'][0]))}".encode())


def _csv(lines: Iterable[Iterable[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.9g}"
    return str(value)


def _latex(words: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in words)


def _words(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
