"""Check whether maps depend on the model, and whether they change with noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch

from yolov5_featviz.arrays.ranks import spearman
from yolov5_featviz.attribution.ablation import is_ordered
from yolov5_featviz.attribution.maker import Made, Maker, Map
from yolov5_featviz.attribution.measured import NAN, Measured
from yolov5_featviz.attribution.randomised import randomised, stages_of
from yolov5_featviz.models.detections import Candidates, Detections
from yolov5_featviz.models.targets import OVERLAP, overlaps

DRAWS = 3  # of noise
NOISE = (0.02, 0.01, 0.005)  # standard deviations that are tried, in ranges of the image's values
SAME_IOU, SAME_CONFIDENCE = 0.9, 0.05  # by which a detection is left as it is


def with_checks(
    measured: List[Measured], made: Mapping[str, Made], maker: Maker, image: torch.Tensor, asked: Detections
) -> List[Measured]:
    """Return rows with the checks by randomised layers and by noise; baselines do not look at the model."""
    root, settings = maker.index.root, maker.settings
    fixed = is_ordered(maker.candidates(image), maker.candidates(image / 2))

    def run() -> None:
        maker.candidates(image)

    keys = [(method, n) for method in settings.methods for n in range(len(asked))]
    alike: Dict[Tuple[str, int], List[float]] = {key: [] for key in keys}
    lit: Dict[Tuple[str, int], float] = {}
    changes: Dict[Tuple[str, int], List[float]] = {key: [] for key in keys}
    for modules in stages_of(root, run, settings.stages):
        with randomised(modules):
            candidates = maker.candidates(image)
            rows = [_same_place(candidates, asked, n, fixed) for n in range(len(asked))]
            now = {(method, n): one for method, n, one in _again(maker, image, asked, candidates, rows)}
        for key in keys:
            then, other = made[key[0]].maps[key[1]].cells, now.get(key, Map()).cells
            if then is None or other is None or then.shape != other.shape:
                alike[key].append(NAN)
                lit[key] = NAN
            else:
                alike[key].append(spearman(then, other))
                lit[key] = _over_lit(then, other)
    for noisy, candidates, rows in _draws(maker, image, asked):
        for method, n, one in _again(maker, noisy, asked, candidates, rows):
            then = made[method].maps[n].values
            if then is not None and one.values is not None:
                before, after = _scaled(then), _scaled(one.values)
                changes[method, n].append(float(np.linalg.norm(after - before) / np.linalg.norm(before)))
    return [
        row._replace(
            sanity=tuple(alike.get((row.method, row.detection), ())),
            lit=lit.get((row.method, row.detection), NAN),
            change=float(np.mean(changes.get((row.method, row.detection)) or NAN)),
        )
        for row in measured
    ]


def _again(
    maker: Maker, image: torch.Tensor, asked: Detections, candidates: Candidates, rows: Sequence[Optional[int]]
) -> Iterator[Tuple[str, int, Map]]:
    """Yield each method, detection and map in a changed image or model, in which detections are at other rows."""
    there = [n for n, row in enumerate(rows) if row is not None]
    if not there:
        return
    found = replace(asked, candidates=candidates)
    found = found.of([row for row in rows if row is not None], asked.classes[there].tolist())
    for method in maker.settings.methods:
        for n, one in zip(there, maker(method, image, found).maps):
            yield method, n, one


def _same_place(candidates: Candidates, asked: Detections, n: int, fixed: bool) -> Optional[int]:
    """Return the row of a detection in a randomised model: the same, or of no order the best of its class there."""
    row, kind = int(asked.rows[n]), int(asked.classes[n])
    if fixed:
        return row if row < len(candidates) else None
    there = overlaps(candidates, kind, asked.boxes[n : n + 1])[:, 0] >= OVERLAP
    return _best(candidates, kind, there)


def _unchanged(candidates: Candidates, asked: Detections, n: int) -> Optional[int]:
    """Return the row of a detection in a changed image if it is left as it is."""
    row, kind = int(asked.rows[n]), int(asked.classes[n])
    there = overlaps(candidates, kind, asked.boxes[n : n + 1])[:, 0] >= SAME_IOU
    there &= (candidates.scores[:, kind] - asked.scores[n]).abs() < SAME_CONFIDENCE
    return row if row < len(there) and bool(there[row]) else _best(candidates, kind, there)


def _best(candidates: Candidates, kind: int, there: torch.Tensor) -> Optional[int]:
    rows = there.nonzero()[:, 0]
    return int(rows[torch.nan_to_num(candidates.scores[rows, kind]).argmax()]) if len(rows) else None


def _draws(
    maker: Maker, image: torch.Tensor, asked: Detections
) -> Iterator[Tuple[torch.Tensor, Candidates, List[Optional[int]]]]:
    """Yield images with noise, their candidates, and the row of each detection that is left as it is there.

    A detection is in one image a draw at most: that with the most noise.
    """
    pixels = maker.pixels(image)
    low, high = float(pixels.min()), float(pixels.max())
    generator = torch.Generator().manual_seed(0)
    for _ in range(DRAWS):
        normal = torch.randn(pixels.shape, generator=generator).to(image)
        pending = set(range(len(asked)))
        for deviation in NOISE:
            noisy = image.clone()
            maker.pixels(noisy).copy_((pixels + deviation * (high - low) * normal).clamp(low, high))
            candidates = maker.candidates(noisy)
            found = [_unchanged(candidates, asked, n) if n in pending else None for n in range(len(asked))]
            pending -= {n for n, row in enumerate(found) if row is not None}
            yield noisy, candidates, found
            if not pending:
                break


def _over_lit(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's rank correlation over the cells that are above 0 in either map; NaN for fewer than three."""
    there = (one > 0) | (other > 0)
    return spearman(one[there], other[there]) if there.sum() > 2 else NAN


def _scaled(values: np.ndarray) -> np.ndarray:
    """Return a map from 0 up, scaled to a maximum of 1."""
    positive = values.clip(min=0)
    return positive / max(float(positive.max()), 1e-12)
