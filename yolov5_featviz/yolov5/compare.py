"""Compare models on the same images: maps on one scale, their differences, and metrics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from yolov5_featviz import stop
from yolov5_featviz.compare.options import CompareOptions
from yolov5_featviz.compare.pages import draw_pages
from yolov5_featviz.compare.tables import Row, measure_image, table, table_files
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.features.prediction import Prediction
from yolov5_featviz.figures.style import Style, check_letters
from yolov5_featviz.files import check_writable, new_folder, write
from yolov5_featviz.leftovers import clean_run
from yolov5_featviz.runs.images import find_images
from yolov5_featviz.runs.names import image_names
from yolov5_featviz.runs.progress import progress
from yolov5_featviz.runs.provenance import identity, run_record
from yolov5_featviz.runs.saver import Failures
from yolov5_featviz.yolov5.labels import Label, read_label
from yolov5_featviz.yolov5.predictor import check_size, predictors, read_image
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
    labels = [read_label(image, o.labels) for image in images]
    if o.labels is not None and not any(label is not None and label.file for label in labels):
        raise FeatvizError(f"--labels {o.labels} has no {images[0].stem}.txt, nor one of any other image")
    selections = by_model(o.layers, names)
    check_writable(Path(o.project), o.name)
    with predictors(files, o.yolov5, o.trust, o.device) as models:
        layers = _aligned_layers(names, models, selections)
        releases = list(dict.fromkeys(model.release for model in models))
        about = {**run_record(command, files, yolov5=", ".join(releases)), "models": names, "reduce": o.reduce}
        run = _Run(o, names, about)
        failed = _show_all(run, list(zip(images, image_names(images), labels)), models, layers, log)
    if run.home is None and failed and not run.failures.errors:
        raise FeatvizError(failed[0])
    for words in failed:
        log(f"{words}; skipped")
    for line in run.failures.lines():
        log(f"error: {line}")
    if run.done and o.say >= 0:
        log("\n" + table(run.rows))
        n = len(run.done)
        log(run.words(f"{n} image{'s' * (n != 1)}"))
        if run.first is not None:
            log(f"open {run.first}")
    return int(bool(failed or run.failures.errors))


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
    layers: Sequence[Sequence[str]],
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
            seen = [
                model(pixels, ",".join(found), o.imgsz, o.conf, o.iou, name) for model, found in zip(models, layers)
            ]
            run.add(image, name, seen, layers, label, models[0].names)
            if o.say > 0:
                log(f"wrote {', '.join(map(str, run.written))}")
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


class _Run:
    """Folder and results of a comparison; the folder is created with the first image."""

    def __init__(self, options: CompareOptions, names: Sequence[str], about: Mapping[str, Any]) -> None:
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
        rows = measure_image(name, self.names, maps, truths, o.reduce)
        figures = draw_pages(name, self.names, seen, maps, None if truths is None else truths[0], o)
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
        for name, content in table_files(self.rows, about):
            try:
                write(self.home / name, content)
            except OSError as error:
                self.failures.add(name, error)
            else:
                self.tables += [] if name.endswith(".json") else [name]

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
