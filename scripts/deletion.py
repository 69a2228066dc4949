"""Measure the explanation methods by deletion, on three small detectors: the table of docs/reading.md.

    make deletion
    python scripts/deletion.py --fill mean                         # another fill
    python scripts/deletion.py --insert                            # insertion in place of deletion
    python scripts/deletion.py --steps 10 --detectors yolov5 --methods layer-cam,odam

The detectors are the demo checkpoint and those of small_detectors.py, which are trained first where their weights are
not yet below runs/; the images are bus.jpg and zidane.jpg. The area of each detection goes to a JSON file.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from small_detectors import FOLDER, SIDE, demo_inputs, load
from torch import nn

import yolov5_featviz as fv
from yolov5_featviz.attribution.deletion import FILLS, curves
from yolov5_featviz.attribution.explain import METHODS, explain_input
from yolov5_featviz.models.detections import Detections, Thresholds, watching

WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "best.pt"
SEEDS = range(3)  # of random maps
CELL = 32  # side of their cells in pixels

# Where a map is taken: at the last layer of the backbone, at one of half its stride, at what the head reads, merged,
# at both, and at the coarsest layer that the head reads, alone.
END, FINER, HEAD, BOTH, COARSEST = "end of backbone", "stride 16", "head", "end of backbone + head", "head, coarsest"
PLACES = {
    "layer-cam": (END, FINER, HEAD, BOTH, COARSEST),
    **dict.fromkeys(("grad-cam", "grad-cam++", "odam", "ss-grad-cam++"), (END, FINER, HEAD, BOTH)),
    **dict.fromkeys(("eigen-cam", "ablation"), (END, FINER)),
    "d-rise": ("",),
}
HEAT, BOX, GAUSSIAN, RANDOM = "heat map (`mean`)", "box, filled", "Gaussian in the box", "random (mean of three)"

Key = Tuple[str, str]  # map, place
Maps = List[Optional[np.ndarray]]  # one for each detection; None where there is none
Areas = Dict[Key, List[float]]  # of each detection and map, NaN where there is none


class Detector(NamedTuple):
    """A detector, the longer side of its inputs in pixels, and its layers by place."""

    title: str
    load: Callable[[], nn.Module]
    side: int
    layers: Dict[str, str]


def places(*layers: str) -> Dict[str, str]:
    return dict(zip((END, FINER, HEAD, BOTH, COARSEST), layers))


BODY, LEVEL = "backbone.body.layer", "backbone.fpn.layer_blocks."
DETECTORS: Dict[str, Detector] = {
    "yolov5": Detector("YOLOv5n", lambda: fv.load(WEIGHTS), 640, places("9", "13", "17,20,23", "9,17,20,23", "23")),
    "yolo11n": Detector("YOLO11n", lambda: load("yolo11n"), SIDE, places("10", "13", "16,19,22", "10,16,19,22", "22")),
    "faster-rcnn": Detector(
        "Faster R-CNN",
        lambda: load("faster-rcnn"),
        SIDE,
        places(f"{BODY}4", f"{BODY}3", "backbone", f"{BODY}4,backbone", f"{LEVEL}2"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", default=",".join(DETECTORS), help=f"some of {', '.join(DETECTORS)}")
    parser.add_argument("--methods", default=",".join(PLACES), help=f"some of {', '.join(PLACES)}")
    parser.add_argument("--steps", type=int, default=20, help="shares in which pixels are replaced (%(default)s)")
    parser.add_argument("--fill", default="blur", choices=FILLS, help="what they are replaced by (%(default)s)")
    parser.add_argument("--insert", action="store_true", help="insertion in place of deletion")
    parser.add_argument("--json", type=Path, default=FOLDER / "areas.json", help="where the numbers go (%(default)s)")
    o = parser.parse_args()
    how = {"steps": o.steps, "fill": o.fill, "insert": o.insert}
    found: Dict[str, Areas] = {}
    for name in o.detectors.split(","):
        detector = DETECTORS[name]
        model, started = detector.load().eval(), time.perf_counter()
        areas = found.setdefault(detector.title, {})
        for file, image in demo_inputs(detector.side).items():
            with torch.no_grad(), watching(model) as watched:
                detections = watched(model(image), Thresholds())
            labels = ", ".join(detections.label(i) for i in range(len(detections)))
            print(f"{detector.title}, {file}, {list(image.shape)}: {labels}", flush=True)
            for key, maps in every_map(detector, model, image, detections, o.methods.split(",")):
                areas.setdefault(key, []).extend(measured(model, image, detections, maps, how))
        print(f"{time.perf_counter() - started:.0f} s", flush=True)
    o.json.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: {", ".join(filter(None, key)): areas[key] for key in areas} for name, areas in found.items()}
    o.json.write_text(json.dumps(plain, indent=1) + "\n")
    print("\n".join(["", *table(found, o.insert)]))


def every_map(
    detector: Detector, model: nn.Module, image: torch.Tensor, detections: Detections, methods: Sequence[str]
) -> Iterator[Tuple[Key, Maps]]:
    """Yield all maps that are measured on an image: of the methods, and those they are compared with."""
    for method in methods:
        for place in PLACES[method]:
            layers = detector.layers.get(place)
            yield (METHODS[method], place), explained(model, image, len(detections), method, layers)
    for place in (END, FINER):
        with fv.capture(model, detector.layers[place]) as features, torch.no_grad():
            model(image)
        heat = features[detector.layers[place]].heatmap("mean")
        yield (HEAT, place), [heat.values] * len(detections)
    boxes, size = detections.boxes.tolist(), (int(image.shape[2]), int(image.shape[3]))
    yield (GAUSSIAN, ""), [gaussian(box, size) for box in boxes]
    yield (BOX, ""), [filled(box, size) for box in boxes]
    for seed in SEEDS:
        cells = len(boxes), size[0] // CELL, size[1] // CELL
        yield (RANDOM, ""), list(np.random.default_rng(seed).random(cells))


def explained(model: nn.Module, image: torch.Tensor, count: int, method: str, layers: Optional[str]) -> Maps:
    """Return the maps as they are drawn, None for detections that do not depend on the layers, or cannot be followed.

    ``count``: the number of detections.
    """
    try:
        return [one.map for one in explain_input(model, image, None, method, layers)]
    except fv.FeatvizError as error:
        if "no fixed order" in str(error):
            return [None] * count
        if "does not feed" not in str(error):
            raise
    maps: Maps = []
    for i in range(count):
        try:
            maps.append(explain_input(model, image, [i], method, layers)[0].map)
        except fv.FeatvizError as error:
            if "does not feed" not in str(error):
                raise
            maps.append(None)
    return maps


def gaussian(box: Sequence[float], size: Tuple[int, int]) -> np.ndarray:
    """Return the logarithm of a Gaussian in the middle of a box, whose standard deviation is a quarter of its sides."""
    left, top, right, bottom = box
    y, x = (np.arange(length) + 0.5 for length in size)
    down, across = (y - (top + bottom) / 2) / (bottom - top), (x - (left + right) / 2) / (right - left)
    return np.asarray(-8 * (down[:, None] ** 2 + across**2))


def filled(box: Sequence[float], size: Tuple[int, int]) -> np.ndarray:
    """Return 1 in a box, else 0."""
    left, top, right, bottom = box
    y, x = (np.arange(length) + 0.5 for length in size)
    return (((y > top) & (y < bottom))[:, None] & (x > left) & (x < right)).astype(np.float32)


def measured(
    model: nn.Module, image: torch.Tensor, detections: Detections, maps: Maps, how: Dict[str, Any]
) -> List[float]:
    """Return the area of each detection, NaN where it has no map."""
    rows = [i for i, one in enumerate(maps) if one is not None]
    parts = {name: getattr(detections, name)[rows] for name in ("boxes", "scores", "classes", "rows")}
    areas = np.full(len(maps), np.nan)
    areas[rows] = curves(model, image, replace(detections, **parts), [maps[i] for i in rows], **how).areas
    found: List[float] = areas.tolist()
    return found


def table(found: Dict[str, Areas], insert: bool) -> List[str]:
    """Return the lines of a Markdown table, the best map first, those that not all detectors have at the end."""
    keys = dict.fromkeys(key for areas in found.values() for key in areas)
    means = {key: [mean(areas.get(key, ())) for areas in found.values()] for key in keys}
    rows = {key: [*values, float(np.mean(values))] for key, values in means.items()}
    order = sorted(rows, key=lambda key: np.nan_to_num(-rows[key][-1] if insert else rows[key][-1], nan=np.inf))
    lines = [row("map", "layers", *found, "mean"), row(*["---"] * (len(found) + 3))]
    return lines + [row(*key, *("–" if np.isnan(one) else f"{one:.3f}" for one in rows[key])) for key in order]


def mean(values: Sequence[float]) -> float:
    """Return the mean of the finite values, NaN if there is none."""
    known = [one for one in values if np.isfinite(one)]
    return sum(known) / len(known) if known else float("nan")


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
