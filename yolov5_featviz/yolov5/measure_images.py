"""Measure the maps of the detections in a folder of images, resumably: tables, curves and a page."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from yolov5_featviz import stop
from yolov5_featviz.attribution.explain import MASKS, METHOD
from yolov5_featviz.attribution.maker import STAGES, STEPS, Settings, check_settings
from yolov5_featviz.attribution.measured import BASELINES, METRICS, Measured
from yolov5_featviz.compare.faithfulness import (
    curves_csv,
    differences_csv,
    latex,
    mean_curves,
    means_csv,
    rows_csv,
    statements,
    summarise,
    table,
)
from yolov5_featviz.compare.faithfulness_figure import draw_curves
from yolov5_featviz.compare.faithfulness_page import page
from yolov5_featviz.compare.options import check_labels, check_shares
from yolov5_featviz.compare.tables import csv_file
from yolov5_featviz.draw.encode import check_format
from yolov5_featviz.draw.record import KEY, dumps
from yolov5_featviz.draw.widths import WIDTHS
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.figures.style import Style
from yolov5_featviz.files import check_writable, head, new_folder, write, write_new
from yolov5_featviz.models.targets import NothingFoundError, parse_target
from yolov5_featviz.models.tide import is_kind
from yolov5_featviz.runs.images import about_image, find_images
from yolov5_featviz.runs.names import image_names
from yolov5_featviz.runs.progress import progress
from yolov5_featviz.runs.provenance import identity, run_record, sha256
from yolov5_featviz.runs.saver import Failures
from yolov5_featviz.text import printable
from yolov5_featviz.version import __version__
from yolov5_featviz.yolov5.faithfulness import Subject, stage_names
from yolov5_featviz.yolov5.labels import read_label, read_labels
from yolov5_featviz.yolov5.named import load_detector

PARTS, PLAN = "parts", "faithfulness.json"  # folder of the images' results, and file of what is measured
LONGEST = 1 << 28  # bytes of either that are read
ROUNDING = 1e-6  # by which a number may be out of its range


@dataclass(frozen=True)
class MeasureOptions:
    """Options of ``faithfulness``; see ``yolov5-featviz faithfulness --help``.

    Raises:
        FeatvizError: a value is invalid.
    """

    source: str
    weights: Optional[str] = None
    model: Optional[str] = None
    methods: Sequence[str] = (METHOD, "heatmap")
    target: Optional[str] = None
    layers: Optional[str] = None
    reference: Optional[str] = None
    labels: Optional[str] = None
    steps: int = STEPS
    fill: str = "blur"
    masks: int = MASKS
    stages: int = STAGES
    checks: int = 8
    imgsz: Optional[int] = None
    conf: float = 0.25
    iou: float = 0.45
    batch: Optional[int] = None
    formats: Sequence[str] = ("png",)
    dpi: int = 300
    width: float = WIDTHS["ieee-column"]
    folder: Optional[str] = None
    resume: Optional[str] = None
    say: int = 0
    device: Optional[str] = None
    yolov5: Optional[str] = None
    trust: bool = False

    def __post_init__(self) -> None:
        if self.weights is None and self.model is None:
            raise FeatvizError("give --weights, a YOLOv5 checkpoint, or --model, such as ultralytics:yolo11n.yaml")
        check_settings(self.settings)
        parse_target(self.target)
        if is_kind(self.target):
            raise FeatvizError(f"--target {self.target}: only detections can be measured; give a class")
        if self.reference is not None and self.reference not in self.methods:
            raise FeatvizError(f"--reference {self.reference} is not among --methods {','.join(self.methods)}")
        check_shares({"conf-thres": self.conf, "iou-thres": self.iou})
        if self.checks < 0:
            raise FeatvizError(f"--checks {self.checks}: take 0 or more")
        check_labels(self.labels)
        if self.resume is not None and self.folder is not None:
            raise FeatvizError("--resume and --dir: take one of them; --resume names the folder to go on in")
        for format in self.formats:
            check_format(format)
        Style(width=self.width, dpi=self.dpi)

    @property
    def settings(self) -> Settings:
        """How maps are made and measured."""
        return Settings(tuple(self.methods), self.layers, self.steps, self.fill, self.masks, self.stages, self.batch)


def measure_images(options: MeasureOptions, command: Sequence[str], log: Callable[[str], None]) -> int:
    """Measure the maps of the detections in each image of ``source``.

    The result of each image is kept in the folder, so that a run can be resumed.

    Args:
        options: see :class:`MeasureOptions`.
        command: the whole command line, for the record in each file.
        log: called with each message.

    Returns:
        0; 1 if an image could not be read or measured, or a file could not be saved, after processing all others.

    Raises:
        FeatvizError: an input is missing or invalid, or nothing could be measured. Nothing was written.
        KeyboardInterrupt: interrupted, after writing the tables of the finished images.
    """
    o = options
    images = find_images(o.source)
    if o.labels is not None:
        read_labels(images, o.labels)
    if o.resume is not None and not (Path(o.resume) / PLAN).is_file():
        raise FeatvizError(f"{o.resume} has no {PLAN}: --resume takes the folder of an earlier run of faithfulness")
    if o.folder is not None and (Path(o.folder) / PLAN).exists():
        raise FeatvizError(f"{o.folder} has a run already: go on with --resume {o.folder}, or name another folder")
    check_writable(Path(o.resume or o.folder or Path("runs") / "faithfulness"))
    model, files, words = load_detector(o.weights, o.model, o.imgsz, o.trust, o.yolov5, o.device)
    subject = Subject(model, o.imgsz or 640, o.conf, o.iou)
    subject.check(o.layers, o.target)
    run = _Run(o, subject, {**run_record(command, files), **words})
    work = _different(list(zip(images, image_names(images))), log)
    failed: List[str] = []
    try:
        for n, (image, name) in enumerate(progress(work, "measuring") if o.say == 0 and len(work) > 1 else work):
            try:
                run.add(image, name, n < o.checks, len(work) == 1)
            except FeatvizError as error:
                failed.append(about_image(image, error))
                if len(work) > 1:
                    log(f"{failed[-1]}; skipped")
            if o.say > 0:
                log(f"measured {name}")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            stop.last_words()
        run.close(lambda line: None)
        if run.home is not None:
            error.written = f"{len(run.rows)} rows; go on with --resume {run.home}"  # type: ignore[attr-defined]
        raise
    if not run.rows:
        raise FeatvizError((failed + run.empty)[0])
    for line in run.empty:
        log(line)
    run.close(log)
    return int(bool(failed or run.failures.errors))


def _different(work: Sequence[Tuple[Path, str]], log: Callable[[str], None]) -> List[Tuple[Path, str]]:
    """Return the images without copies of others, which would count as if they were other images."""
    first: Dict[str, str] = {}
    kept = []
    for image, name in work:
        key = sha256(image) if image.is_file() else name
        if key in first:
            log(f"{printable(image.name)} is the same file as {first[key]}: left out")
            continue
        first[key] = printable(image.name)
        kept.append((image, name))
    return kept


class _Run:
    """Folder and results; the folder is created with the first result."""

    def __init__(self, options: MeasureOptions, subject: Subject, about: Mapping[str, Any]) -> None:
        self.options, self.subject, self.about = options, subject, about
        self.settings = options.settings
        self.home: Optional[Path] = None if options.resume is None else Path(options.resume)
        self.rows: List[Measured] = []
        self.empty: List[str] = []
        self.done: List[Dict[str, Any]] = []
        self.failures = Failures()
        self._pending: Dict[str, Mapping[str, Any]] = {}
        plan = _plan(options, about)
        if self.home is not None:
            kept = _read(self.home / PLAN)
            apart = [name for name in plan if kept.get(name) != plan[name]]
            if apart:
                was, now = (", ".join(f"{name} {one.get(name)}" for name in apart) for one in (kept, plan))
                raise FeatvizError(f"{self.home} was made with {was}, and now it is {now}: give the same to --resume")
            batch = kept.get("batch")
            if batch is not None and (type(batch) is not int or batch < 1):
                raise FeatvizError(f"{self.home / PLAN} is damaged: begin in another folder")
            self.settings = self.settings._replace(batch=batch)
        self.plan = plan
        self.digest = hashlib.sha256(dumps(plan).encode()).hexdigest()

    def add(self, image: Path, name: str, check: bool, alone: bool) -> None:
        """Measure one image, unless its result is there."""
        o, what = self.options, identity(image)
        label = read_label(image, o.labels) if o.labels is not None else None
        file = None if label is None or label.file is None else identity(label.file)
        key = {"image": what, "labels": file, "checked": check, "plan": self.digest}
        path = self.home / PARTS / f"{name}.json" if self.options.resume is not None and self.home is not None else None
        result = None if path is None or not path.is_file() else self._kept(path, name, key)
        if result is None:
            settings = self.settings if check else self.settings._replace(stages=0)
            shown = partial(progress, what=f"{name}: deletion and insertion") if alone and o.say == 0 else None
            known = None if label is None else o.labels
            try:
                if settings.batch is None:
                    self.settings = self.settings._replace(batch=self.subject.best_batch(image))
                    settings = settings._replace(batch=self.settings.batch)
                rows = self.subject.measure(image, name, settings, o.target, known, shown)
                result = {**key, "rows": rows, "empty": ""}
            except NothingFoundError as error:
                result = {**key, "rows": [], "empty": str(error)}
            self._keep(name, result)
        self.rows += result["rows"]
        self.empty += [f"{name}: {result['empty']}"] if result["empty"] else []
        self.done.append(what)

    def _kept(self, path: Path, name: str, key: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
        """Return the result of an image that is there; None if it is one of other files. Raises FeatvizError."""
        found = _read(path)
        if not all(found.get(part) == value for part, value in key.items()):
            return None
        try:
            rows, empty = [_measured(row, name, self.options) for row in found["rows"]], found["empty"]
            methods = (*self.settings.methods, *BASELINES)
            count = len(rows) // len(methods)
            if [(row.method, row.detection) for row in rows] != [(m, n) for m in methods for n in range(count)]:
                raise ValueError
            if not isinstance(empty, str) or bool(empty) == bool(rows):
                raise ValueError
        except (KeyError, TypeError, ValueError, OverflowError):
            raise FeatvizError(f"{path} is damaged: remove it, and it is measured again") from None
        return {**found, "rows": rows}

    def _keep(self, name: str, result: Mapping[str, Any]) -> None:
        """Write the result of an image; the folder is created with the first that has rows."""
        self._pending[name] = result
        if self.home is None:
            if not result["rows"]:
                return
            folder = self.options.folder
            home = Path(folder) if folder else new_folder(Path("runs") / "faithfulness" / "exp")
            plan = f"{dumps({**self.plan, 'batch': self.settings.batch})}\n"
            written = write_new(home / PLAN, [plan.encode()])
            if written.name != PLAN:  # another process began here meanwhile
                written.unlink()
                self._pending.clear()
                raise FeatvizError(f"{home} has a run already: name another folder")
            self.home = home
        for stem, one in self._pending.items():
            # NaN is written as such, and other floats so that they are read back exactly
            write(self.home / PARTS / f"{stem}.json", f"{json.dumps(one, ensure_ascii=False)}\n".encode())
        self._pending.clear()

    def close(self, log: Callable[[str], None]) -> None:
        """Write tables, curves and page of what was measured, and print the table and what it shows."""
        if self.home is None or not self.rows:
            return
        o = self.options
        stages = stage_names(o.stages) if o.stages and o.checks else []
        summary, curves = summarise(self.rows, o.reference, stages), mean_curves(self.rows)
        about = {**self.about, "images": self.done}
        how = {"steps": o.steps, "fill": o.fill, "masks": o.masks, "batch": self.settings.batch}
        files: List[Tuple[str, bytes]] = []
        tables = {
            "faithfulness.csv": rows_csv(self.rows, stages),
            "curves.csv": curves_csv(self.rows),
            "means.csv": means_csv(summary),
            "differences.csv": differences_csv(summary),
        }
        for name, content in tables.items():
            files += csv_file(name, content, about)
        described = {**self.about, **how}
        for name, column in (("table.tex", False), ("table_column.tex", True)):
            record = dumps({**described, "file": name, "shows": "numbers"})
            files.append((name, f"% {KEY} {record}\n{latex(summary, described, column)}".encode("utf-8", "replace")))
        files.append(("faithfulness.html", page(summary, self.rows, described, curves)))
        try:
            drawn = draw_curves(self.rows, o.width, o.dpi, about, curves)
            files += [(f"curves.{format}", drawn.encode(format)) for format in o.formats]
        except FeatvizError as error:
            self.failures.add("curves", error)
        for name, written in files:
            try:
                write(self.home / name, written)
            except OSError as error:
                self.failures.add(name, error)
        for line in self.failures.lines():
            log(f"error: {line}")
        if o.say >= 0:
            log(f"\n{table(summary)}\n")
            for line in statements(summary):
                log(line)
            log(f"\nopen {self.home / 'faithfulness.html'}")


def _plan(o: MeasureOptions, about: Mapping[str, Any]) -> Dict[str, Any]:
    """Return what is measured, and how: two runs with the same plan give the same numbers."""
    settings = o.settings._asdict()
    del settings["batch"]
    model = {"weights": about.get("weights", []), "model": o.model, "yolov5": about.get("yolov5")}
    found = {**settings, "methods": list(o.methods), "target": o.target, "labels": o.labels is not None}
    return {
        "version": __version__,
        **model,
        **found,
        "checks": o.checks,
        "imgsz": o.imgsz,
        "conf": o.conf,
        "iou": o.iou,
        "baselines": list(BASELINES),
    }


def _read(path: Path) -> Dict[str, Any]:
    """Read a JSON object. Raises FeatvizError if it is none."""
    try:
        found = json.loads(head(path, LONGEST).decode("utf-8"), parse_constant=float)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        again = "begin in another folder" if path.name == PLAN else "remove it, and it is measured again"
        raise FeatvizError(f"{path} is damaged: {again}")
    return found


def _measured(row: Any, name: str, o: MeasureOptions) -> Measured:
    """Return a row as it was before it was written. Raises ValueError or TypeError if it is none."""
    if not isinstance(row, list) or len(row) != len(Measured._fields):
        raise ValueError
    values: Any = [tuple(value) if isinstance(value, list) else value for value in row]
    one = Measured(*values)
    curve = (0, o.steps + 1)
    lists: List[Tuple[Any, Sequence[int]]] = [(one.box, (4,)), (one.sanity, (0, o.stages))]
    lists += [(one.deleted, curve), (one.inserted, curve), (one.layers, range(1000))]
    numbers = [one.score, *(getattr(one, metric) for metric in METRICS)]
    numbers += [x for values, _ in lists[:-1] for x in values]
    limits = (known.limits for known in METRICS.values())
    fits = (
        all(isinstance(values, tuple) and len(values) in sizes for values, sizes in lists)
        and all(type(x) is float for x in numbers)
        and all(isinstance(word, str) for word in (one.label, one.note, *one.layers))
        and one.image == name
        and type(one.detection) is int
        and one.method in (*o.methods, *BASELINES)
        and not any(x < low - ROUNDING or x > high + ROUNDING for x, (low, high) in zip(numbers[1:], limits))
    )
    if not fits:
        raise ValueError
    return one
