"""Draw and save what the watcher delivers."""

from __future__ import annotations

import os
import sys
import types
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from yolov5_featviz.attribution.explain import Explanation
from yolov5_featviz.console import say as log
from yolov5_featviz.draw.channels import is_by_ablation
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.files import new_folder
from yolov5_featviz.models.targets import NothingFoundError
from yolov5_featviz.runs.look import Look, render, render_cam
from yolov5_featviz.runs.provenance import identity, run_record
from yolov5_featviz.runs.run_folder import Files, RunFolder
from yolov5_featviz.version import __version__
from yolov5_featviz.yolov5.script.batch import Batch
from yolov5_featviz.yolov5.script.cam import Explained, explained
from yolov5_featviz.yolov5.script.dependence import with_dependence
from yolov5_featviz.yolov5.script.validate import values
from yolov5_featviz.yolov5.source import Source

Parted = Tuple[str, List[FeatureMap]]  # name of a folder, and its maps


@dataclass(frozen=True)
class RunOptions(Look):
    """Options of ``run``; see the command line's help."""

    layers: Optional[str] = None
    folder: Optional[str] = None
    summary: bool = False
    every: Optional[int] = None
    limit: Optional[int] = None
    yolov5: Optional[str] = None
    trust: bool = False
    report: bool = True
    say: int = 0  # verbosity: 1 for everything, -1 for errors only

    @property
    def reruns(self) -> bool:
        """Whether the models are run again on each image, on their input."""
        return "cam" in self.modes or self.ablates

    @property
    def ablates(self) -> bool:
        """Whether channels are ranked by what the detections lose without them."""
        return self.shows_maps and is_by_ablation(self.channels)


class Artist:
    """Draw and save the batches that a :class:`~yolov5_featviz.yolov5.script.watcher.Watcher` delivers.

    Attributes:
        gallery: the run's folder.
        seen: whether an image was delivered.
        failed: whether an image could not be explained though there was something to explain.
    """

    def __init__(
        self, script: str, arguments: List[str], source: Source, options: RunOptions, command: Sequence[str] = ()
    ) -> None:
        self.script, self.source, self.options, self.command = script, source, options, command
        self._release = source.release
        weights = [Path(name).name for name in values(arguments, "--weights") if name]
        about = [Path(script).name, f"YOLOv5 {self._release}", *weights, f"layers {options.layers}"]
        about.append(f"yolov5-featviz {__version__}")  # no paths, since reports are shared
        self.gallery = RunFolder(options, log, options.report, " · ".join(about), options.say)
        self._home: Optional[Path] = Path(options.folder) if options.folder else None
        self.seen = self.failed = False
        self._common: Dict[Tuple[str, ...], Dict[str, Any]] = {}

    def begin(self) -> None:
        """Determine the output folder while the script's functions are running."""
        if self._home is None:
            self._home = run_folder(self.script, self.source) or new_folder(Path("runs") / "featviz" / "exp")

    def draw(self, item: Batch, i: int, parts: List[Parted]) -> None:
        """Queue the pictures of image ``i`` in its own folder, each part in a sub-folder."""
        o, image = self.options, item.image(i)
        self.seen = True
        explanations: List[Explanation] = []
        parts = self._ablated(item, i, parts) if o.ablates else parts
        maps = [(part, fm) for part, maps in parts for fm in maps] if o.shows_maps else []
        files: List[Files] = [(part, partial(render, fm, o, image, self.gallery.ranked)) for part, fm in maps]
        if "cam" in o.modes:
            for part, found in self._explain(item, i, [part for part, _ in parts]):
                files += [(part, partial(render_cam, heat, o, image)) for heat in found.heats]
                explanations += found.explanations
        if self._home is not None and files:
            group = "" if item.epoch is None else f"epoch{item.epoch:03d}"
            record = partial(self._made, item.weights, item.path(i) or item.name(i), item.frame, item.epoch)
            shown = item.photo(i), group, record, item.size(i), explanations
            self.gallery.add(self._home, item.name(i), files, parts, *shown)

    def _explain(self, item: Batch, i: int, parts: List[str]) -> Iterator[Tuple[str, Explained]]:
        """Yield class activation maps of image ``i`` with their folders, for the first pass only."""
        for visit in item.visits:
            part, parts = parts[0], parts[len(visit.passes) :]
            part = part if len(visit.passes) == 1 else os.path.dirname(part)
            where = ", ".join(filter(None, [item.name(i), part]))
            try:
                found = explained(item, i, visit, self.options.layers or "", self.options, partial(_say, where))
            except FeatvizError as error:
                _say(where, f"{error}; no class activation map")
                self.failed = self.failed or not isinstance(error, NothingFoundError)
            else:
                yield part, found

    def _ablated(self, item: Batch, i: int, parts: Sequence[Parted]) -> List[Parted]:
        """Return the maps of image ``i`` with what the detections lose without each channel."""
        found: List[Parted] = []
        for visit in item.visits:
            mine = parts[len(found) : len(found) + len(visit.passes)]
            folders = [folder for folder, _ in mine]
            folder = os.path.dirname(folders[0]) if len(mine) > 1 else folders[0]
            where = ", ".join(filter(None, [item.name(i), folder]))
            maps = [maps for _, maps in mine]
            found += zip(folders, with_dependence(item, i, visit, maps, partial(_say, where), self.options.say == 0))
        return found

    def _made(self, weights: Sequence[str], image: str, frame: Optional[int], epoch: Optional[int]) -> Dict[str, Any]:
        """Build the record of an image's files; called in the background, since it computes hashes."""
        place = {name: n for name, n in (("frame", frame), ("epoch", epoch)) if n is not None}
        known = tuple(weights)
        if epoch is not None or known not in self._common:  # a training changes its checkpoints
            self._common[known] = run_record(self.command, weights, yolov5=self._release)
        return {**self._common[known], "image": identity(image, **place)}


def _say(where: str, words: str) -> None:
    log(f"{where}: {words}")


def run_folder(script: str, source: Source) -> Optional[Path]:
    """Find YOLOv5's run folder, which every release keeps in a local variable of a running function.

    Functions of the script are searched first, then those of the rest of the checkout.
    """
    root = os.path.join(os.path.realpath(str(source.root)), "")
    own: List[types.FrameType] = []
    others: List[types.FrameType] = []
    frame: Optional[types.FrameType] = sys._getframe()
    while frame is not None:
        file = frame.f_code.co_filename
        (own if file == script else others if os.path.realpath(file).startswith(root) else []).append(frame)
        frame = frame.f_back
    for frame in [*own, *others]:
        for name in ("save_dir", "out", "log_dir"):
            folder = frame.f_locals.get(name)
            if isinstance(folder, (str, Path)) and Path(folder) != Path():
                return Path(folder)
    return None
