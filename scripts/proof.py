"""Measure how faithful the methods of explanation are, on three detectors: the tables of docs/proof.md.

    make proof
    python scripts/proof.py --detectors yolov5 --methods layer-cam,heatmap --steps 10 --print   # not into the page

The detectors are the demo checkpoint and those of small_detectors.py, which are trained first where their weights are
not yet below runs/; the images are the photographs of train_demo.py, which all three have memorised. The numbers of
each map go to a CSV file a detector.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Tuple

import cv2
import numpy as np
import torch
from small_detectors import FOLDER, SIDE, YOLOV5, load
from torch import nn
from train_demo import LABELS, folder_of

import yolov5_featviz as fv
from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.attribution.deletion import FILLS
from yolov5_featviz.attribution.faithfulness import measure_input
from yolov5_featviz.attribution.maker import NAMES, Settings
from yolov5_featviz.attribution.measured import BASELINES, Measured
from yolov5_featviz.attribution.passes import best_batch
from yolov5_featviz.compare.faithfulness import Summary, rows_csv, significant, statements, summarise
from yolov5_featviz.models.targets import NothingFoundError
from yolov5_featviz.yolov5.faithfulness import stage_names
from yolov5_featviz.yolov5.letterbox import letterboxed

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "proof.md"
WEIGHTS = ROOT / "weights" / "best.pt"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
SHOWN = {"deletion": 3, "insertion": 3, "odi": 2, "energy": 2, "pointing": 2, "sparsity": 2, "change": 2}


class Detector(NamedTuple):
    """A detector, the layer whose maps are measured, the end of the backbone, and methods that are left out."""

    title: str
    load: Callable[[], nn.Module]
    layer: str
    without: Tuple[str, ...] = ()


SLOW = ("d-rise", "ablation")  # on a detector whose passes are slow; the latter cannot follow its candidates besides
DETECTORS: Dict[str, Detector] = {
    "yolov5": Detector("YOLOv5n", lambda: fv.load(WEIGHTS), "9"),
    "yolo11n": Detector("YOLO11n", lambda: load("yolo11n"), "10"),
    "faster-rcnn": Detector("Faster R-CNN", lambda: load("faster-rcnn"), "backbone.body.layer4", SLOW),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", default=",".join(DETECTORS), help=f"some of {', '.join(DETECTORS)}")
    parser.add_argument("--methods", default=",".join(NAMES), help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--steps", type=int, default=20, help="shares in which pixels are replaced (%(default)s)")
    parser.add_argument("--fill", default="blur", choices=FILLS, help="what they are replaced by (%(default)s)")
    parser.add_argument("--masks", type=int, default=200, help="of D-RISE (%(default)s)")
    parser.add_argument("--stages", type=int, default=2, help="of the randomisation (%(default)s)")
    parser.add_argument("--checks", type=int, default=2, help="photographs for the checks (%(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER.parent / "proof", help="of the CSV files (%(default)s)")
    parser.add_argument("--print", action="store_true", help="print the tables, and leave docs/proof.md as it is")
    o = parser.parse_args()
    lines: List[str] = []
    for name in o.detectors.split(","):
        detector, started = DETECTORS[name], time.perf_counter()
        methods = [method for method in o.methods.split(",") if method not in detector.without]
        settings = Settings(methods, detector.layer, o.steps, o.fill, o.masks, o.stages)
        rows = measured(detector.load().eval(), settings, o.checks)
        summary = summarise(rows, None, stage_names(o.stages))
        o.folder.mkdir(parents=True, exist_ok=True)
        (o.folder / f"{name}.csv").write_text(rows_csv(rows, summary.stages), encoding="utf-8")
        lines += described(detector.title, summary, settings)
        print(f"{detector.title}: {time.perf_counter() - started:.0f} s", flush=True)
    print("\n".join(["", *lines]))
    if not o.print:
        text = PAGE.read_text(encoding="utf-8")
        between = f"{BEGIN}\n{chr(10).join(lines)}\n{END}"
        changed = re.sub(f"{BEGIN}.*{END}", lambda found: between, text, flags=re.DOTALL)
        PAGE.write_text(changed, encoding="utf-8")


def inputs() -> Iterator[Tuple[str, torch.Tensor, Region, Tuple[int, int]]]:
    """Yield the photographs as inputs ``[1, 3, H, W]``, with their names, region and size."""
    for name in LABELS:
        package, file = name.split("/")
        pixels = cv2.imread(str(folder_of(package, YOLOV5) / file))[..., ::-1]
        small, region = letterboxed(pixels, SIDE, 32)
        x = torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1)))[None].float() / 255
        yield Path(file).stem, x, region, (int(pixels.shape[0]), int(pixels.shape[1]))


def measured(model: nn.Module, settings: Settings, checks: int) -> List[Measured]:
    """Return the numbers of all maps of all photographs in which something is detected, with checks of the first."""
    rows: List[Measured] = []
    for n, (name, x, region, size) in enumerate(inputs()):
        if settings.batch is None:
            settings = settings._replace(batch=best_batch(model, x))
        try:
            how = settings if n < checks else settings._replace(stages=0)
            rows += measure_input(model, x, how, region=region, size=size, name=name)
        except NothingFoundError:
            continue
        print(f"  {name}: {max(row.detection for row in rows if row.image == name) + 1} detections", flush=True)
    return rows


def described(title: str, summary: Summary, settings: Settings) -> List[str]:
    """Return the lines of a detector: a table of means with intervals, and what it shows."""
    head = ["map", *SHOWN, *(f"randomised {stage}" for stage in summary.stages)]
    lines = [f"### {title}", "", f"{summary.detections} detections in {summary.images} photographs.", ""]
    lines += [row(*head), row(*["---"] * len(head))]
    for method in summary.methods:
        cells = [words_of(summary, method, metric, digits) for metric, digits in SHOWN.items()]
        alike = summary.sanity.get(method, ())
        cells += [f"{one.mean:.2f}" if np.isfinite(one.mean) else "–" for one in alike] or ["–"] * len(summary.stages)
        lines.append(row(f"*{BASELINES[method]}*" if method in BASELINES else NAMES[method], *cells))
    return [*lines, "", *(f"- {line}" for line in statements(summary)), ""]


def words_of(summary: Summary, method: str, metric: str, digits: int) -> str:
    """Return a mean with its interval, marked if it differs from that of the reference."""
    one = summary.means[method, metric]
    if not np.isfinite(one.mean):
        return "–"
    apart = next(
        (c for c in summary.comparisons if (c.metric, c.method, c.other) == (metric, method, summary.reference)), None
    )
    mark = r"\*" if significant(apart) else ""
    between = (
        f" [{one.low:.{digits}f}, {one.high:.{digits}f}]"
        if np.isfinite(one.low) and metric in ("deletion", "insertion")
        else ""
    )
    return f"{one.mean:.{digits}f}{mark}{between}"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
