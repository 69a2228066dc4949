"""Options of a comparison."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Mapping, Optional, Sequence

from yolov5_featviz.arrays.reduce import check_reduce
from yolov5_featviz.attribution.explain import MASKS, METHOD, check_explain
from yolov5_featviz.draw.encode import check_format
from yolov5_featviz.draw.heatmap import ALPHA
from yolov5_featviz.draw.palette import OVER, check_look
from yolov5_featviz.draw.widths import WIDTHS
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.figures.style import Style
from yolov5_featviz.models.targets import parse_target
from yolov5_featviz.text import near

HEATMAP, CAM = MODES = "heatmap", "cam"


def check_labels(folder: Optional[str]) -> None:
    """Raise FeatvizError unless ``--labels`` is a folder, or was not given."""
    if folder is not None and not os.path.isdir(folder):
        raise FeatvizError(f"no folder {folder}: --labels takes the folder of the label files")


def check_shares(flags: Mapping[str, float]) -> None:
    """Raise FeatvizError for a flag whose value is not between 0 and 1."""
    for name, value in flags.items():
        if not 0 <= value <= 1:
            raise FeatvizError(f"--{name} {value:g}: take 0 to 1")


@dataclass(frozen=True)
class CompareOptions:
    """Options of a comparison; see ``yolov5-featviz compare --help``.

    Raises:
        FeatvizError: a value is invalid.
    """

    weights: Sequence[str]
    source: str
    layers: Sequence[str] = ()
    modes: Sequence[str] = (HEATMAP,)
    method: str = METHOD
    target: Optional[str] = None
    masks: int = MASKS
    names: Sequence[str] = ()
    labels: Optional[str] = None
    imgsz: int = 640
    conf: float = 0.25
    iou: float = 0.45
    reduce: str = "mean"
    cmap: str = OVER
    alpha: float = ALPHA
    desaturate: bool = False
    formats: Sequence[str] = ("png",)
    dpi: int = 300
    width: float = WIDTHS["ieee-page"]
    project: str = "runs/compare"
    name: str = "exp"
    yolov5: Sequence[str] = ()
    trust: bool = False
    device: Optional[str] = None
    say: int = 0

    def __post_init__(self) -> None:
        if len(self.weights) < 2:
            raise FeatvizError(f"{len(self.weights)} --weights: give two or more to compare")
        for mode in self.modes:
            if mode not in MODES:
                raise FeatvizError(f"no mode {mode!r}{near(mode, MODES, f'take {CAM}, {HEATMAP}, or both')}")
        if HEATMAP in self.modes and not self.layers:
            raise FeatvizError(
                "--layers is missing: say which to compare, such as 17,20,23; only --mode cam has a default"
            )
        if CAM in self.modes:
            check_explain(self.method, self.layers if HEATMAP not in self.modes and self.layers else None)
            parse_target(self.target)
        if self.names and len(self.names) != len(self.weights):
            raise FeatvizError(f"{len(self.names)} --names for {len(self.weights)} --weights: give one for each")
        if len(set(self.names)) < len(self.names):
            raise FeatvizError(f"--names {' '.join(self.names)}: give each model a name of its own")
        check_labels(self.labels)
        if self.imgsz < 1:
            raise FeatvizError(f"--imgsz {self.imgsz}: take 32 or more")
        check_shares({"conf-thres": self.conf, "iou-thres": self.iou, "alpha": self.alpha})
        check_reduce(self.reduce)
        check_look(self.cmap, self.dpi)
        for format in self.formats:
            check_format(format)
        Style(width=self.width, dpi=self.dpi)
