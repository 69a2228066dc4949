"""The same images through several models: side by side on one scale, their difference, and numbers."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from yolov5_featviz import stop
from yolov5_featviz.about import KEY, dumps, number
from yolov5_featviz.boxes import Boxes, Region
from yolov5_featviz.capture import FeatureMap
from yolov5_featviz.compose import WIDTHS, Bar, Composition, Panel, Style, check_letters, compose
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.figure import heat, limit_words, photograph, stretched
from yolov5_featviz.formats import check_format
from yolov5_featviz.leftovers import clean_run
from yolov5_featviz.metrics import (
    channel_sparsity,
    debiased_cka,
    energy_inside,
    entropy,
    image_cells,
    in_image,
    linear_cka,
    on_image,
    pointing_hit,
    same_grid,
    same_samples,
)
from yolov5_featviz.names import image_names
from yolov5_featviz.normalize import normalize
from yolov5_featviz.prediction import Prediction
from yolov5_featviz.progress import progress
from yolov5_featviz.provenance import identity, made
from yolov5_featviz.reduce import REDUCTIONS, check_reduce, reduce_channels
from yolov5_featviz.render import check_look
from yolov5_featviz.run_images import find_images
from yolov5_featviz.save import Failures, check_writable, new_folder, write
from yolov5_featviz.table import align
from yolov5_featviz.text import printable
from yolov5_featviz.yolov5.checkpoint import check_weights
from yolov5_featviz.yolov5.item import distinct
from yolov5_featviz.yolov5.predict import check_size, predictors, read_image
from yolov5_featviz.yolov5.preflight import locate_weights


class Metric(NamedTuple):
    """A number in tables: its name there and in LaTeX, factor, digits, whether more is better, whether it spreads."""

    name: str
    latex: str
    factor: float = 1.0
    digits: int = 3
    more: bool = False
    spread: bool = True


METRICS: Dict[str, Metric] = {
    "box_area": Metric("box area %", r"Box area (\%)", 100.0, 1, spread=False),
    "energy_inside": Metric("energy inside %", r"Energy inside (\%) $\uparrow$", 100.0, 1, more=True),
    "pointing_hit": Metric("pointing %", r"Pointing (\%) $\uparrow$", 100.0, 1, more=True, spread=False),
    "channel_sparsity": Metric("sparsity", "Sparsity"),
    "entropy": Metric("entropy", "Entropy"),
    "cka": Metric("CKA", "CKA"),
    "cka_debiased": Metric("CKA debiased", "CKA (debiased)"),
}
LAYERS_ON_A_PAGE = 5
LEAST_INCHES = 1.1  # of a panel's width: in narrower ones the names at the boxes hide the picture
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
    say: int = 0

    def __post_init__(self) -> None:
        if len(self.weights) < 2:
            raise FeatvizError(f"{len(self.weights)} --weights: give two or more to compare")
        if self.names and len(self.names) != len(self.weights):
            raise FeatvizError(f"{len(self.names)} --names for {len(self.weights)} --weights: give one for each")
        if len(set(self.names)) < len(self.names):
            raise FeatvizError(f"--names {' '.join(self.names)}: give each model a name of its own")
        if self.labels is not None and not os.path.isdir(self.labels):
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
    box_area: float
    energy_inside: float
    pointing_hit: float
    channel_sparsity: float
    entropy: float
    cka: float
    cka_debiased: float


class Label(NamedTuple):
    """What a label file says: class numbers, and the boxes' edges as shares of the image's width and height."""

    file: Optional[Path]
    classes: List[int]
    xyxy: np.ndarray

    def boxes(self, region: Region, names: Mapping[int, str]) -> Boxes:
        """The boxes where the image lies at ``region``, as ``GT person``."""
        left, top, right, bottom = region
        xyxy = self.xyxy * np.array([right - left, bottom - top] * 2) + np.array([left, top] * 2)
        return Boxes(xyxy, labels=[f"GT {names.get(k, k)}" for k in self.classes])


def compare(options: Options, command: Sequence[str], tell: Callable[[str], None]) -> int:
    """Show each image to each model; write a figure for each image, and tables.

    Args:
        options: what is asked for.
        command: the whole command line, for the files to tell.
        tell: is told what happens.

    Returns:
        0; 1 if an image could not be read or a file not be saved, after all others were.

    Raises:
        FeatvizError: something is not there, or not understood. Nothing was written.
        KeyboardInterrupt: it was interrupted; there are tables of the images that were done.
    """
    o = options
    files = [locate_weights(path, [Path("weights")]) for path in o.weights]
    for file in files:
        check_weights(file)
    names = list(o.names) or model_names(files)
    for name in names:
        try:
            check_letters(name, Style())
        except FeatvizError:
            raise FeatvizError(f"the figures' font lacks letters of {name!r}: give other names, with --names") from None
    images = find_images(o.source)
    labels = [read_label(image, o.labels) for image in images]
    if o.labels is not None and not any(label is not None and label.file for label in labels):
        raise FeatvizError(f"--labels {o.labels} has no {images[0].stem}.txt, nor one of any other image")
    selections = by_model(o.layers, names)
    check_writable(Path(o.project), o.name)
    with predictors(files, o.yolov5, o.trust) as models:
        layers = [_layers(*one) for one in zip(names, models, selections)]
        if len({len(found) for found in layers}) > 1:
            counts = ", ".join(f"{name} {len(found)}" for name, found in zip(names, layers))
            raise FeatvizError(
                f"layers are compared one by one, but their numbers differ: {counts}; name as many of each"
            )
        releases = list(dict.fromkeys(model.release for model in models))
        about = {**made(command, files, yolov5=", ".join(releases)), "models": names, "reduce": o.reduce}
        run = _Run(o, names, about)
        failed: List[str] = []
        work = list(zip(images, image_names(images), labels))
        try:
            for image, name, label in progress(work, "comparing") if o.say == 0 else work:
                try:
                    pixels = read_image(image)
                    check_size(pixels, -(-o.imgsz // 32) * 32, image)
                except FeatvizError as error:
                    failed.append(str(error))
                    continue
                seen = [
                    model(pixels, ",".join(found), o.imgsz, o.conf, o.iou, name) for model, found in zip(models, layers)
                ]
                run.add(image, name, seen, layers, label, models[0].names)
                if o.say > 0:
                    tell(f"wrote {', '.join(map(str, run.written))}")
            run.close()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                stop.last_words()
            run.close()
            told = f"; {run.words(f'{len(run.done)} of {len(images)} images, then stopped')}" if run.done else ""
            error.written = f"{run.count()}{told}"  # type: ignore[attr-defined]
            for line in run.failures.lines():
                tell(f"error: {line}")
            raise
    if run.home is None and failed and not run.failures.errors:
        raise FeatvizError(failed[0])
    for words in failed:
        tell(f"{words}; passed over")
    for line in run.failures.lines():
        tell(f"error: {line}")
    if run.done and o.say >= 0:
        tell("\n" + table(run.rows))
        n = len(run.done)
        tell(run.words(f"{n} image{'s' * (n != 1)}"))
        if run.first is not None:
            tell(f"open {run.first}")
    return int(bool(failed or run.failures.errors))


class _Run:
    """The folder of a comparison, with what has been measured so far. It is made with the first image."""

    def __init__(self, options: Options, names: Sequence[str], about: Mapping[str, Any]) -> None:
        self.options, self.names, self.about = options, names, about
        self.home: Optional[Path] = None
        self.first: Optional[Path] = None
        self.rows: List[Row] = []
        self.done: List[Path] = []
        self.written: List[Path] = []
        self.tables: List[str] = []
        self.failures = Failures()
        self._pictures = 0

    def add(
        self,
        image: Path,
        name: str,
        seen: Sequence[Prediction],
        layers: Sequence[Sequence[str]],
        label: Optional[Label],
        classes: Mapping[int, str],
    ) -> None:
        """Measure, draw and write one image."""
        o = self.options
        maps = [[_map(one, layer) for layer in found] for one, found in zip(seen, layers)]
        truths = None if label is None else [label.boxes(one.region, classes) for one in seen]
        rows = measure(name, self.names, maps, truths, o.reduce)
        figures = _figures(name, self.names, seen, maps, None if truths is None else truths[0], o)
        self.written = []
        try:
            self.home = home = self.home or new_folder(Path(o.project) / o.name)
        except OSError as error:
            self.failures.add(name, error)
            return
        if not self.done:
            clean_run(home)
        about = {**self.about, "image": identity(image)}
        if label is not None and label.file is not None:
            about["labels"] = identity(label.file)
        for stem, drawn in figures:
            for format in o.formats:
                file = f"{stem}.{format}"
                content = replace(drawn, about={**about, "file": file, **drawn.about}).encode(format)
                try:
                    write(home / file, content)
                except OSError as error:
                    self.failures.add(file, error)
                else:
                    self.written.append(home / file)
                    self.first = self.first or home / file
                    self._pictures += 1
        self.rows += rows
        self.done.append(image)

    def close(self) -> None:
        """Write the tables."""
        if not self.done or self.home is None:
            return
        self.tables = []
        about = {**self.about, "images": [identity(image) for image in self.done]}
        for name, content in _tables(self.rows, about):
            try:
                write(self.home / name, content)
            except OSError as error:
                self.failures.add(name, error)
            else:
                self.tables += [] if name.endswith(".json") else [name]

    def count(self) -> str:
        """How many pictures are written, and where."""
        there = "" if self.home is None else f" in {self.home}"
        return f"{self._pictures} picture{'s' * (self._pictures != 1)} written{there}"

    def words(self, images: str) -> str:
        """What there is of so many images."""
        *most, last = self.tables or [""]
        where = f"{', '.join(most)} and {last}" if most else last
        return f"{images}, in {self.home}" + (f"; the numbers are in {where}" if last else "")


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


def read_label(image: Path, labels: Optional[str] = None) -> Optional[Label]:
    """What the label file of an image says; None if the image is of no labelled folder.

    Args:
        image: its file.
        labels: the folder of the label files. None for where YOLOv5 looks for them: ``labels`` in the place of
            the last ``images`` in the image's path. In a folder that there is, an image without a file has no
            objects, as in training.

    Raises:
        FeatvizError: the file is no label file.
    """
    if labels is not None:
        file = Path(labels) / f"{image.stem}.txt"
    else:
        parts = list(image.absolute().parts)
        if "images" not in parts[:-1]:
            return None
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
        file = Path(*parts).with_suffix(".txt")
        if not file.parent.is_dir():
            return None
    if not file.is_file():
        return Label(None, [], np.zeros((0, 4)))
    classes, boxes = [], []
    for i, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            kind, *numbers = (float(word) for word in line.split())
        except ValueError:
            numbers = []
        if len(numbers) == 4:
            x, y, w, h = numbers
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        elif len(numbers) >= 6 and len(numbers) % 2 == 0:  # the outline of a mask
            box = [min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])]
        if len(numbers) not in (4, *range(6, len(numbers) + 1, 2)) or not all(0 <= n <= 1 for n in numbers):
            raise FeatvizError(
                f"{file}, line {i}: {line[:40]!r} is no label: class, then centre, width and height from 0 to 1"
            )
        classes.append(int(kind))
        boxes.append(box)
    return Label(file, classes, np.array(boxes).reshape(-1, 4))


def measure(
    image: str,
    names: Sequence[str],
    maps: Sequence[Sequence[FeatureMap]],
    truths: Optional[Sequence[Boxes]] = None,
    reduce: str = "mean",
) -> List[Row]:
    """The numbers of each layer and model for one image.

    Args:
        image: its name.
        names: of the models.
        maps: of each model, the maps of its layers.
        truths: the boxes to measure by, in pixels of each model's input; None for those that it detected.
        reduce: how channels become the heat map that energy, pointing and entropy are of.
    """
    rows = []
    for k, of_layer in enumerate(zip(*maps)):
        layer = layer_name([of_model[k] for of_model in maps])
        for i, (name, fm) in enumerate(zip(names, of_layer)):
            data = fm.data.float().numpy()
            heated = reduce_channels(data, reduce)
            boxes = (truths[i] if truths is not None else fm.boxes) or Boxes(np.zeros((0, 4)))
            stride = fm.stride or (1.0, 1.0)
            counted = in_image((data.shape[1], data.shape[2]), stride, fm.window)
            hit = pointing_hit(heated, boxes, stride, fm.window)
            samples = same_samples(of_layer[0], fm) if i else None
            rows.append(
                Row(
                    image,
                    layer,
                    name,
                    "labels" if truths is not None else "detections",
                    energy_inside(np.ones_like(heated), boxes, stride, fm.window),
                    energy_inside(heated, boxes, stride, fm.window),
                    float("nan") if hit is None else float(hit),
                    channel_sparsity(data, counted),
                    entropy(heated, counted),
                    linear_cka(*samples) if samples else float("nan"),
                    debiased_cka(*samples) if samples else float("nan"),
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
    head = ["layer", "model", *(metric.name for metric in METRICS.values())]
    body = []
    for mean in means(rows):
        words = [
            "-" if np.isnan(mean.values[key][0]) else f"{mean.values[key][0] * m.factor:.{m.digits}f}"
            for key, m in METRICS.items()
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
    """The means as a table for LaTeX, standard deviations behind where there is more than one image.

    Where all models were measured by the same boxes, the best of each layer is bold. It needs the package booktabs.
    """
    found = means(rows)
    by = sorted({row.boxes for row in rows})
    said = {"labels": "ground-truth boxes", "detections": "boxes that each model detected itself, not the same ones"}
    lines = [
        r"% needs \usepackage{booktabs}",
        f"% {len({row.image for row in rows})} images; box area, energy and pointing by the "
        + " or the ".join(said[boxes] for boxes in by),
        f"% CKA is linear, to {first}; formulas and sources: docs/compare.md",
        r"\begin{tabular}{ll" + "r" * len(METRICS) + "}",
        r"\toprule",
        " & ".join(["Layer", "Model", *(metric.latex for metric in METRICS.values())]) + r" \\",
    ]
    for layer in dict.fromkeys(mean.layer for mean in found):
        lines.append(r"\midrule")
        same = [mean for mean in found if mean.layer == layer]
        for i, mean in enumerate(same):
            words = [_latex(layer) if i == 0 else "", _latex(mean.model)]
            for key, metric in METRICS.items():
                value, deviation, n = mean.values[key]
                text = f"{value * metric.factor:.{metric.digits}f}" if n else "--"
                best = max((m.values[key][0] for m in same if m.values[key][2]), default=value)
                if metric.more and by == ["labels"] and len(same) > 1 and value == best:
                    text = rf"\textbf{{{text}}}"
                spread = rf" {{\scriptsize$\pm${deviation * metric.factor:.{metric.digits}f}}}"
                words.append(text + (spread if metric.spread and n > 1 else ""))
            lines.append(" & ".join(words) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _layers(name: str, model: Any, selection: str) -> List[str]:
    try:
        found: List[str] = model.layers(selection)
    except FeatvizError as error:
        raise FeatvizError(f"{name}: {error}") from None
    return found


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
            heats, pair = _heats(of_layer, o.reduce)
            bar = Bar(o.cmap, limit_words(pair[0]), limit_words(pair[1]))
            for row, fm, values in zip(rows, of_layer, heats):
                paint = heat(stretched(values, pair), fm, size, o.cmap, "bilinear", photo, o.alpha)
                row.append(Panel(paint, whole, bar=bar))
            apart = [difference(of_layer[0], fm, heats[0], values) for fm, values in zip(of_layer[1:], heats[1:])]
            most = max(float(np.abs(values[np.isfinite(values)]).max(initial=0)) for values, _ in apart)
            bar = Bar(DIFFERENCE, limit_words(-most), limit_words(most), "difference")
            for row, (values, there) in zip(rows[len(names) :], apart):
                scaled = stretched(values, (-most, most)) if most else np.full_like(values, 0.5)
                row.append(Panel(heat(scaled, there, size, DIFFERENCE), whole, bar=bar))
            scales[layer_name(of_layer)] = [number(end) for end in (*pair, -most, most)]
        first = "Detections" if truth is None else "Detections; labels below"
        columns = [first, *(f"Layer {layer_name([of_model[k] for of_model in maps])}" for k in shown)]
        about = {"shows": "comparison", "layers": list(scales), "scales": scales}
        page = "" if start == 0 else f"_page{start // most_shown + 1}"
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


def difference(a: FeatureMap, b: FeatureMap, first: np.ndarray, other: np.ndarray) -> Tuple[np.ndarray, FeatureMap]:
    """``other - first``, heat maps of ``b`` and ``a``, and a map that lies as the result does.

    If their grids are not the same, the image's part of both is brought to the larger height and width, bilinearly.
    """
    if same_grid(a, b):
        return other - first, a
    height, width = (max(pair) for pair in zip(image_cells(a), image_cells(b)))
    apart = on_image(other, b, (height, width)) - on_image(first, a, (height, width))
    return apart, replace(a, data=torch.from_numpy(apart)[None], input_size=None, region=None)


def _tables(rows: Sequence[Row], about: Mapping[str, Any]) -> Iterator[Tuple[str, bytes]]:
    for name, content in (("metrics.csv", to_csv(rows)), ("means.csv", means_csv(rows))):
        yield name, content.encode("utf-8", "replace")
        yield f"{name}.json", f"{dumps({**about, 'file': name, 'shows': 'numbers'})}\n".encode()
    # TeX reads no line of more than 200,000 characters, comment or not
    told = {**about, "file": "table.tex", "shows": "numbers", "images": {"name": f"{len(about['images'])} images"}}
    record = dumps(told if len(about["images"]) > 100 else {**told, "images": about["images"]})
    yield "table.tex", f"% {KEY} {record}\n{to_latex(rows, str(about['models'][0]))}".encode("utf-8", "replace")


def _csv(lines: Iterable[Iterable[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.9g}"
    return printable(value)


def _latex(words: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in printable(words))
