"""Compare models on the same images: maps on one scale, their differences, and metrics; and the same objects."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import numpy as np

from yolov5_featviz import stop
from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.attribution.explain import Explanation
from yolov5_featviz.compare.flips import (
    Flip,
    Mistake,
    flips_csv,
    flips_of,
    flips_table,
    mistakes_csv,
    mistakes_of,
    mistakes_table,
)
from yolov5_featviz.compare.measure import Row, measure_image
from yolov5_featviz.compare.object_pages import Shown, draw_objects
from yolov5_featviz.compare.objects import check_target, find_objects, in_image, sights
from yolov5_featviz.compare.options import CAM, HEATMAP, CompareOptions
from yolov5_featviz.compare.pages import draw_pages
from yolov5_featviz.compare.precision import Matches, Scored, average_precision, match
from yolov5_featviz.compare.summary import Summary, summarise
from yolov5_featviz.compare.tables import csv_file, precision_csv, precision_table, table, table_files
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.features.prediction import Prediction
from yolov5_featviz.figures.composition import Composition
from yolov5_featviz.figures.style import Style, check_letters
from yolov5_featviz.files import check_writable, new_folder, write
from yolov5_featviz.leftovers import clean_run
from yolov5_featviz.models.detections import Detections, Thresholds
from yolov5_featviz.models.targets import Case
from yolov5_featviz.runs.images import find_images
from yolov5_featviz.runs.names import image_names
from yolov5_featviz.runs.progress import progress
from yolov5_featviz.runs.provenance import identity, run_record
from yolov5_featviz.runs.saver import Failures
from yolov5_featviz.yolov5.labels import Label, read_labels
from yolov5_featviz.yolov5.predictor import MOST, check_size, predictors, read_image
from yolov5_featviz.yolov5.script.batch import distinct
from yolov5_featviz.yolov5.script.validate import locate_weights
from yolov5_featviz.yolov5.weights.checkpoint import check_weights


def compare(options: CompareOptions, command: Sequence[str], log: Callable[[str], None]) -> int:
    """Run each model on each image; write a figure per image, and tables.

    Args:
        options: see :class:`CompareOptions`.
        command: the whole command line, for the record in each file.
        log: called with each message.

    Returns:
        0; 1 if an image could not be read or a file could not be saved, after processing all others.

    Raises:
        FeatvizError: an input is missing or invalid. Nothing was written.
        KeyboardInterrupt: interrupted, after writing tables of the finished images.
    """
    o = options
    files = [locate_weights(path, [Path("weights")]) for path in o.weights]
    for file in files:
        check_weights(file)
    names = _names(o, files)
    images = find_images(o.source)
    labels = read_labels(images, o.labels)
    selections = by_model(o.layers, names)
    check_writable(Path(o.project), o.name)
    with predictors(files, o.yolov5, o.trust, o.device) as models:
        layers = _aligned_layers(names, models, selections) if o.layers else [None] * len(models)
        if CAM in o.modes:
            check_target(o.target, [model.names for model in models], any(label is not None for label in labels))
            _check_classes(labels, names[0], models[0].names)
        releases = list(dict.fromkeys(model.release for model in models))
        about = {**run_record(command, files, yolov5=", ".join(releases)), "models": names}
        run = _Run(o, names, about if HEATMAP not in o.modes else {**about, "reduce": o.reduce}, models[0].names)
        run.unscored = _why_no_precision(labels, names[0], models[0].names)
        failed = _show_all(run, list(zip(images, image_names(images), labels)), models, layers, log)
    if run.home is None and failed + run.empty and not run.failures.errors:
        raise FeatvizError((failed + run.empty)[0])
    for words in failed:
        log(f"{words}; skipped")
    for words in run.empty:
        log(words)
    for line in run.failures.lines():
        log(f"error: {line}")
    if run.done and run.home is not None and o.say >= 0:
        for text in run.said():
            log("\n" + text)
        n = len(run.done)
        log(run.words(f"{n} image{'s' * (n != 1)}"))
        if run.first is not None:
            log(f"open {run.first}")
    return int(bool(failed or run.failures.errors))


def _check_classes(labels: Sequence[Optional[Label]], name: str, classes: Mapping[int, str]) -> None:
    """Raise FeatvizError for labels with a class that the first model does not have."""
    for label in labels:
        strange = next((k for k in label.classes if k not in classes), None) if label is not None else None
        if label is not None and strange is not None:
            raise FeatvizError(
                f"{label.file} has class {strange}, {name} has classes {min(classes)} to {max(classes)}: the labels "
                "are of another class list; it has to be that of the first model"
            )


def _why_no_precision(labels: Sequence[Optional[Label]], name: str, classes: Mapping[int, str]) -> str:
    """Return why labels, if there are any, have no average precision; empty if they have."""
    if not any(label is not None and label.classes for label in labels):
        return "no labelled object" if any(label is not None for label in labels) else ""
    try:
        _check_classes(labels, name, classes)
    except FeatvizError as error:
        return str(error)
    return ""


def _names(o: CompareOptions, files: Sequence[str]) -> List[str]:
    """Return the models' names. Raises FeatvizError if the figures' font lacks glyphs of one."""
    names = list(o.names) or model_names(files)
    for name in names:
        try:
            check_letters(name, Style())
        except FeatvizError:
            raise FeatvizError(f"the figures' font lacks letters of {name!r}: give other names with --names") from None
    return names


def _aligned_layers(names: Sequence[str], models: Sequence[Any], selections: Sequence[str]) -> List[List[str]]:
    """Return the layers of each model. Raises FeatvizError if their numbers differ."""
    layers = [_layers(*one) for one in zip(names, models, selections)]
    if len({len(found) for found in layers}) > 1:
        counts = ", ".join(f"{name} {len(found)}" for name, found in zip(names, layers))
        raise FeatvizError(f"layers are compared pairwise, but their numbers differ: {counts}; give as many for each")
    return layers


def _show_all(
    run: _Run,
    work: Sequence[Tuple[Path, str, Optional[Label]]],
    models: Sequence[Any],
    layers: Sequence[Optional[Sequence[str]]],
    log: Callable[[str], None],
) -> List[str]:
    """Run the models on the images and write the tables; return the errors of images that failed."""
    o = run.options
    failed: List[str] = []
    try:
        for image, name, label in progress(work, "comparing") if o.say == 0 else work:
            try:
                pixels = read_image(image)
                check_size(pixels, -(-o.imgsz // 32) * 32, image)
            except FeatvizError as error:
                failed.append(str(error))
                continue
            result = _Result(image, name, label)
            if HEATMAP in o.modes:
                _add_heatmaps(result, run, pixels, models, [found or () for found in layers])
            if CAM in o.modes:
                _add_objects(result, run, pixels, models, layers)
            if label is not None and not run.unscored:
                _add_matches(result, run, pixels, models)
            run.add(result)
            if o.say > 0:
                log(f"wrote {', '.join(map(str, run.written))}" if run.written else f"nothing to show of {image}")
        run.close()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            stop.last_words()
        run.close()
        done = f"; {run.words(f'{len(run.done)} of {len(work)} images, then stopped')}" if run.done else ""
        error.written = f"{run.count()}{done}"  # type: ignore[attr-defined]
        for line in run.failures.lines():
            log(f"error: {line}")
        raise
    return failed


@dataclass
class _Result:
    """What was found in one image."""

    image: Path
    name: str
    label: Optional[Label]
    figures: List[Tuple[str, Composition]] = field(default_factory=list)
    rows: List[Row] = field(default_factory=list)
    flips: List[Flip] = field(default_factory=list)
    mistakes: List[Mistake] = field(default_factory=list)
    matches: List[Matches] = field(default_factory=list)  # of each model
    empty: str = ""  # why there is no object to show


def _add_heatmaps(
    result: _Result, run: _Run, pixels: np.ndarray, models: Sequence[Any], layers: Sequence[Sequence[str]]
) -> None:
    """Measure and draw the layers' maps."""
    o, name, label = run.options, result.name, result.label
    seen: List[Prediction] = [
        model(pixels, ",".join(found), o.imgsz, o.conf, o.iou, name) for model, found in zip(models, layers)
    ]
    maps = [[_map(one, layer) for layer in found] for one, found in zip(seen, layers)]
    truths = None if label is None else [label.boxes(one.region, models[0].names) for one in seen]
    result.rows += measure_image(name, run.names, maps, truths, o.reduce)
    result.figures += draw_pages(name, run.names, seen, maps, None if truths is None else truths[0], o)


def _add_matches(result: _Result, run: _Run, pixels: np.ndarray, models: Sequence[Any]) -> None:
    """Match what each model detects as in validation with the labels."""
    if result.label is None:
        return
    for name, model in zip(run.names, models):
        try:
            found, placed = model.validated(pixels, run.options.imgsz)
        except FeatvizError as error:
            run.unscored = f"{name}: {error}"
            return
        truths = placed.cut(result.label.boxes(placed.labels(), models[0].names))
        result.matches.append(match(_renumbered(found, model.names, models[0].names), truths))


def _renumbered(found: Boxes, own: Mapping[int, str], first: Mapping[int, str]) -> Boxes:
    """Return detections with the class numbers of the first model, by name; -1 where it has no such class."""
    if own == first or found.classes is None:
        return found
    numbers = {name: number for number, name in reversed(list(first.items()))}
    classes = np.array([numbers.get(own.get(int(k), ""), -1) for k in found.classes], np.int64)
    return replace(found, classes=classes)


def _add_objects(
    result: _Result, run: _Run, pixels: np.ndarray, models: Sequence[Any], layers: Sequence[Optional[Sequence[str]]]
) -> None:
    """Find the objects, explain and draw them, and list flips and errors."""
    o, name, label = run.options, result.name, result.label
    size = int(pixels.shape[0]), int(pixels.shape[1])
    raw, placed = [], []
    for model in models:
        detections, region = model.detections(pixels, o.imgsz, o.conf, o.iou)
        raw.append(detections)
        placed.append(in_image(detections, region, size))
    thresholds = Thresholds(o.conf, o.iou, MOST)
    true = None if label is None else label.boxes((0.0, 0.0, float(size[1]), float(size[0])), {})
    seen = sights(placed, true, models[0].names, thresholds)
    result.mistakes += mistakes_of(name, run.names, seen)
    try:
        objects = find_objects(seen, true, models[0].names, o.target, thresholds)
    except FeatvizError as error:
        result.empty = f"{name}: {error}"
        return
    result.flips += flips_of(name, run.names, objects)
    every = []
    for m, model in enumerate(models):
        every.append(_explained(model, pixels, raw[m], [one.cases[m] for one in objects], layers[m], o, name))
    maps = list(zip(*every))
    why = next((one for row in maps for one in row if isinstance(one, str) and one), "")
    if why and not any(isinstance(one, Explanation) for row in maps for one in row):
        result.empty = f"{name}: {why}"
        return
    result.figures += draw_objects(name, run.names, pixels, objects, maps, o)


def _explained(
    model: Any,
    pixels: np.ndarray,
    detections: Detections,
    cases: Sequence[Case],
    layers: Optional[Sequence[str]],
    o: CompareOptions,
    name: str,
) -> List[Shown]:
    """Return the explanation of each case by a model, or why there is none; empty where there is no candidate."""
    there = [case for case in cases if case.row >= 0]
    asked = detections.of([case.row for case in there], [case.number for case in there]).to_boxes()
    chosen = None if layers is None or o.method == "d-rise" else ",".join(layers)

    def explain(numbers: Sequence[int]) -> List[Shown]:
        options = {"imgsz": o.imgsz, "name": name, "found": asked, "masks": o.masks}
        found: List[Shown] = model.explain(pixels, list(numbers), o.method, chosen, **options)
        return found

    def alone(number: int) -> Shown:
        try:
            return explain([number])[0]
        except FeatvizError as error:
            return str(error)

    try:
        every = explain(range(len(there))) if there else []
    except FeatvizError:  # a layer may feed some and not others
        every = [alone(number) for number in range(len(there))]
    found = iter(every)
    return [next(found) if case.row >= 0 else "" for case in cases]


class _Run:
    """Folder and results of a comparison; the folder is created with the first image."""

    def __init__(
        self, options: CompareOptions, names: Sequence[str], about: Mapping[str, Any], classes: Mapping[int, str]
    ) -> None:
        self.options, self.names, self.about, self.classes = options, names, about, classes
        self.unscored = ""  # why there is no average precision, though there are labels
        self.home: Optional[Path] = None
        self.first: Optional[Path] = None
        self.rows: List[Row] = []
        self.flips: List[Flip] = []
        self.mistakes: List[Mistake] = []
        self.matches: List[List[Matches]] = []  # of each image and model
        self.empty: List[str] = []
        self.done: List[Tuple[Path, str]] = []
        self.written: List[Path] = []
        self.tables: List[str] = []
        self.failures = Failures()
        self._labelled = False
        self._summed: Optional[Summary] = None
        self._pictures = 0
        self._stems: Set[str] = set()

    def add(self, result: _Result) -> None:
        """Write the figures of one image, and keep its numbers."""
        self.written = []
        self.empty += [result.empty] if result.empty else []
        if (result.figures or result.mistakes) and not self._open(result.name):
            return
        about = {**self.about, "image": identity(result.image)}
        if result.label is not None and result.label.file is not None:
            about["labels"] = identity(result.label.file)
        for stem, drawn in result.figures:
            if stem in self._stems:
                self.failures.add(stem, FeatvizError("two figures have this name: rename an image"))
                continue
            self._stems.add(stem)
            for format in self.options.formats:
                self._write(f"{stem}.{format}", drawn, about, format)
        self.rows += result.rows
        self.flips += result.flips
        self.mistakes += result.mistakes
        self.matches += [result.matches] if result.matches else []
        self._labelled = self._labelled or result.label is not None
        self.done.append((result.image, result.name))

    def _open(self, name: str) -> bool:
        """Create the folder, unless there is one; return whether there is."""
        try:
            new = self.home is None
            self.home = self.home or new_folder(Path(self.options.project) / self.options.name)
        except OSError as error:
            self.failures.add(name, error)
            return False
        if new:
            clean_run(self.home)
        return True

    def _write(self, file: str, drawn: Composition, about: Mapping[str, Any], format: str) -> None:
        assert self.home is not None
        content = replace(drawn, about={**about, "file": file, **drawn.about}).encode(format)
        try:
            write(self.home / file, content)
        except OSError as error:
            self.failures.add(file, error)
        else:
            self.written.append(self.home / file)
            self.first = self.first or self.home / file
            self._pictures += 1

    def close(self) -> None:
        """Write the tables."""
        if not self.done or self.home is None:
            return
        self.tables = []
        about = {**self.about, "images": [identity(image) for image, _ in self.done]}
        for name, content in self._table_files(about):
            try:
                write(self.home / name, content)
            except OSError as error:
                self.failures.add(name, error)
            else:
                self.tables += [] if name.endswith(".json") else [name]

    def _table_files(self, about: Mapping[str, Any]) -> Iterator[Tuple[str, bytes]]:
        scored = self._scored()
        if HEATMAP in self.options.modes:
            yield from table_files(self._summary(), about)
        if scored:
            yield from csv_file("map.csv", precision_csv(scored, self.classes), about)
        if CAM in self.options.modes:
            yield from csv_file("flips.csv", flips_csv(self.flips), about)
            if self._labelled:
                yield from csv_file("errors.csv", mistakes_csv(self.mistakes), about)

    def _scored(self) -> List[Scored]:
        """Return the average precisions of the models, if they are known for all images with labels."""
        if self.unscored or not self.matches:
            return []
        found = [average_precision(of_model) for of_model in zip(*self.matches)]
        return [Scored(name, one) for name, one in zip(self.names, found)]

    def _summary(self) -> Summary:
        if self._summed is None or len(self._summed.rows) != len(self.rows):
            first: Dict[str, str] = {}
            same = {name: first.setdefault(identity(image).get("sha256", name), name) for image, name in self.done}
            self._summed = summarise(self.rows, self._scored(), self.unscored, same)
        return self._summed

    def said(self) -> List[str]:
        """Format the numbers for the terminal."""
        found = [table(self._summary())] if HEATMAP in self.options.modes else []
        if CAM in self.options.modes:
            found += [mistakes_table(self.names, self.mistakes)] if self._labelled else []
            found.append(flips_table(self.flips))
        if HEATMAP not in self.options.modes:
            found += [precision_table(self._scored())] if self._scored() else []
            found += [f"no mAP: {self.unscored}"] if self.unscored else []
        return found

    def count(self) -> str:
        """Describe how many pictures were written, and where."""
        there = "" if self.home is None else f" in {self.home}"
        return f"{self._pictures} picture{'s' * (self._pictures != 1)} written{there}"

    def words(self, images: str) -> str:
        """Describe the results of ``images``."""
        *most, last = self.tables or [""]
        where = f"{', '.join(most)} and {last}" if most else last
        return f"{images}, in {self.home}" + (f"; the numbers are in {where}" if last else "")


def model_names(files: Sequence[str]) -> List[str]:
    """Name each checkpoint by its file, or by the nearest parent folder that distinguishes them."""
    levels = [[Path(file).stem for file in files]]
    parents = [list(Path(file).absolute().parents) for file in files]
    levels += [[folders[i].name for folders in parents] for i in range(min(map(len, parents)))]
    return next((level for level in levels if len(set(level)) == len(level) and all(level)), distinct(levels[0]))


def by_model(layers: Sequence[str], names: Sequence[str]) -> List[str]:
    """Return each model's layer selection from ``["17,20"]``, for all, or ``["a=17", "b=20"]``.

    Raises FeatvizError if the selections are ambiguous or incomplete.
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
        raise FeatvizError(f"--layers lacks {missing[0]}: add {missing[0]}=17")
    return [",".join(found[name]) for name in names]


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
