"""Explain the detections in images: pictures, a report, and tables of explanations and errors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set

from yolov5_featviz import stop
from yolov5_featviz.attribution.explain import MASKS, METHOD, METHODS, Explanation, check_explain, overview
from yolov5_featviz.compare.options import check_labels, check_shares
from yolov5_featviz.compare.tables import csv_text
from yolov5_featviz.draw.record import dumps
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.files import check_writable, new_folder, write, write_new
from yolov5_featviz.models.targets import parse_target
from yolov5_featviz.models.tide import KINDS, counts, is_kind
from yolov5_featviz.runs.images import about_image, find_images
from yolov5_featviz.runs.look import Look, render_cam
from yolov5_featviz.runs.names import image_names
from yolov5_featviz.runs.progress import progress
from yolov5_featviz.runs.provenance import identity, run_record
from yolov5_featviz.runs.run_folder import Files, RunFolder
from yolov5_featviz.runs.saver import Failures
from yolov5_featviz.text import align, file_name
from yolov5_featviz.version import __version__
from yolov5_featviz.yolov5.explain import explain
from yolov5_featviz.yolov5.labels import Label, read_labels
from yolov5_featviz.yolov5.named import load_detector
from yolov5_featviz.yolov5.predictor import Predictor, check_size, read_image

ALL = "all"  # target: each detection in a file of its own
HEAD = (
    *("image", "label", "class", "score", "left", "top", "right", "bottom"),
    *("detected", "kind", "note", "method", "layers", "file"),
)


@dataclass(frozen=True)
class ExplainOptions:
    """Options of ``explain``; see ``yolov5-featviz explain --help``.

    Raises:
        FeatvizError: a value is invalid.
    """

    source: str
    weights: Optional[str] = None
    model: Optional[str] = None
    target: Optional[str] = None
    method: str = METHOD
    layers: Optional[str] = None
    labels: Optional[str] = None
    imgsz: Optional[int] = None
    conf: float = 0.25
    iou: float = 0.45
    masks: int = MASKS
    batch: Optional[int] = None
    look: Look = field(default_factory=Look)
    folder: Optional[str] = None
    report: bool = True
    say: int = 0
    device: Optional[str] = None
    yolov5: Optional[str] = None
    trust: bool = False

    def __post_init__(self) -> None:
        if self.weights is None and self.model is None:
            raise FeatvizError("give --weights, a YOLOv5 checkpoint, or --model, such as ultralytics:yolo11n.yaml")
        check_explain(self.method, self.layers)
        parse_target(self.target)
        check_shares({"conf-thres": self.conf, "iou-thres": self.iou})
        check_labels(self.labels)

    @property
    def each(self) -> bool:
        """Whether each explanation is drawn in a file of its own."""
        return self.target is not None


def explain_images(options: ExplainOptions, command: Sequence[str], log: Callable[[str], None]) -> int:
    """Explain the detections in each image of ``source``.

    Without a target, one picture an image shows all explanations, the maximum of their maps; with one, each is
    in a file of its own. Where labels are known, errors are named, and what was missed is explained, too.

    Args:
        options: see :class:`ExplainOptions`.
        command: the whole command line, for the record in each file.
        log: called with each message.

    Returns:
        0; 1 if an image could not be read or explained, or a file could not be saved, after processing all others.

    Raises:
        FeatvizError: an input is missing or invalid, or nothing could be explained. Nothing was written.
        KeyboardInterrupt: interrupted, after writing the table of the finished images.
    """
    o = options
    images = find_images(o.source)
    labels = dict(zip(images, read_labels(images, o.labels)))
    if is_kind(o.target) and not any(labels.values()):
        raise FeatvizError(
            f"--target {o.target} needs labels, and {o.source} has none: give their folder with --labels"
        )
    check_writable(Path(o.folder or Path("runs") / "explain"))
    model, files, words = load_detector(o.weights, o.model, o.imgsz, o.trust, o.yolov5, o.device)
    if isinstance(model, Predictor) and o.layers is not None:
        model.layers(o.layers)
    about = {**run_record(command, files), **words}
    named = [f"YOLOv5 {words['yolov5']}" if "yolov5" in words else words["model"], *(Path(file).name for file in files)]
    line = " · ".join([*named, METHODS[o.method], f"yolov5-featviz {__version__}"])
    run = _Run(o, about, RunFolder(o.look, log, o.report, line, o.say, "explanation"))
    work = list(zip(images, image_names(images)))
    failed: List[str] = []
    try:
        with run.gallery:
            for image, name in progress(work, "explaining") if o.say == 0 else work:
                try:
                    run.add(model, image, name, labels[image])
                except FeatvizError as error:
                    failed.append(about_image(image, error))
                    if len(work) > 1:
                        log(f"{failed[-1]}; skipped")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            stop.last_words()
        run.close(log)
        raise
    if not run.gallery.folders and failed:
        raise FeatvizError(failed[0])
    run.close(log)
    return int(bool(failed or run.gallery.errors or run.failures.errors))


class _Run:
    """Run folder, and what was explained so far."""

    def __init__(self, options: ExplainOptions, about: Mapping[str, Any], gallery: RunFolder) -> None:
        self.options, self.about, self.gallery = options, about, gallery
        self.home: Optional[Path] = Path(options.folder) if options.folder else None
        self.rows: List[List[Any]] = []
        self.done: List[Path] = []
        self.labelled = False
        self.failures = Failures()

    def add(self, model: Any, image: Path, name: str, label: Optional[Label]) -> None:
        """Explain one image, and queue its pictures."""
        o = self.options
        pixels = read_image(image)
        if isinstance(model, Predictor):
            check_size(pixels, -(-(o.imgsz or 640) // 32) * 32, image)
        boxes = None if label is None else label.boxes((0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0])), {})
        passes = partial(progress, what=f"{name}: {METHODS[o.method]}") if o.say == 0 else None
        target = None if o.target == ALL else o.target
        how: Dict[str, Any] = {"imgsz": o.imgsz or 640, "conf": o.conf, "iou": o.iou, "masks": o.masks}
        how.update(batch=o.batch, progress=passes, labels=boxes, name=name)
        found = explain(model, pixels, target, o.method, o.layers, **how)
        names = stems(found) if o.each else ["all"] * len(found)
        pictures = list(zip(names, (one.heat for one in found))) if o.each else [("all", overview(found))]
        files: List[Files] = [
            ("", partial(render_cam, heat, o.look, pixels, name=f"{stem}_{o.method}")) for stem, heat in pictures
        ]
        home = self.home = self.home or new_folder(Path("runs") / "explain" / "exp")
        made = partial(_made, self.about, image)
        self.gallery.add(home, name, files, [], pixels, made=made, explanations=found)
        self.labelled |= label is not None
        self.done.append(image)
        self.rows += [_row(name, one, f"{stem}_{o.method}") for one, stem in zip(found, names)]

    def close(self, log: Callable[[str], None]) -> None:
        """Write the table, and print the errors by kind and class."""
        if self.home is None or not self.done:
            return
        about = {**self.about, "images": [identity(image) for image in self.done]}
        content = csv_text(HEAD, self.rows).encode("utf-8", "replace")
        try:
            table = write_new(self.home / "explanations.csv", [content])
            record = dumps({**about, "file": table.name, "shows": "numbers"})
            write(table.with_name(f"{table.name}.json"), f"{record}\n".encode())
        except OSError as error:
            self.failures.add("explanations.csv", error)
        for line in self.failures.lines():
            log(f"error: {line}")
        if self.labelled and self.options.say >= 0:
            log("\n" + self.kinds())

    def kinds(self) -> str:
        """Count errors by class and kind, as a table for the terminal."""
        found = counts((row[1], row[9]) for row in self.rows if row[9])
        if not found:
            return "no errors"
        lines = [[label, *(str(by[kind]) for kind in KINDS)] for label, by in found.items()]
        total = ["all", *(str(sum(by[kind] for by in found.values())) for kind in KINDS)]
        return align([["errors", *KINDS], *lines, *([total] if len(found) > 1 else [])], right=range(1, 6))


def stems(explanations: Sequence[Explanation]) -> List[str]:
    """Name the files of explanations: ``person0``, ``person1``, ``bus0_missed``, ``person2_wrong-class``."""
    seen: Counter[str] = Counter()
    taken: Set[str] = set()
    found = []
    for one in explanations:
        end = one.kind if one.detected else one.kind or "not-detected"
        stem = name = file_name(f"{one.label}{seen[one.label]}" + f"_{end.replace(' ', '-')}" * bool(end), 120)
        seen[one.label] += 1
        n = 1
        while name.lower() in taken:  # of two classes, or on a disk that does not tell the cases apart
            n, name = n + 1, f"{stem}-{n + 1}"
        taken.add(name.lower())
        found.append(name)
    return found


def _row(image: str, one: Explanation, file: str) -> List[Any]:
    edges = [f"{edge:.2f}" for edge in one.box]
    words = [one.kind, one.note, one.method, "+".join(one.layers), file]
    return [image, one.label, one.number, f"{one.score:.6g}", *edges, int(one.detected), *words]


def _made(about: Mapping[str, Any], image: Path) -> Dict[str, Any]:
    return {**about, "image": identity(image)}
