"""Measure whether maps tell the truth: what a detection loses and gains with what its map marks.

The numbers of a map are in :class:`~yolov5_featviz.attribution.measured.Measured`. Maps that know nothing of the model
are measured beside the methods, since a number alone says little.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.arrays.metrics import energy_inside, hoyer, pointing_hit
from yolov5_featviz.attribution.ablation import detect
from yolov5_featviz.attribution.baselines import baselines
from yolov5_featviz.attribution.cam import differentiable
from yolov5_featviz.attribution.checks import with_checks
from yolov5_featviz.attribution.deletion import both_curves, part_of
from yolov5_featviz.attribution.explain import Target, explained, moved
from yolov5_featviz.attribution.maker import Made, Maker, Map, Settings, check_settings
from yolov5_featviz.attribution.measured import NAN, Measured
from yolov5_featviz.attribution.passes import Find, Progress
from yolov5_featviz.attribution.view import View
from yolov5_featviz.models.detections import Detections, Thresholds, thresholds_of
from yolov5_featviz.models.layers import index_layers
from yolov5_featviz.models.outputs import check_image
from yolov5_featviz.models.targets import OVERLAP, NothingFoundError


def measure_input(
    model: nn.Module,
    image: torch.Tensor,
    settings: Optional[Settings] = None,
    target: Target = None,
    conf: float = 0.25,
    iou: float = 0.45,
    find: Optional[Find] = None,
    region: Optional[Region] = None,
    size: Optional[Tuple[int, int]] = None,
    name: str = "",
    labels: Optional[Boxes] = None,
    progress: Optional[Progress] = None,
) -> List[Measured]:
    """Measure the maps of the detections in a prepared image by several methods, and those of the baselines.

    - **Deletion and insertion**: see :func:`yolov5_featviz.attribution.deletion.both_curves`.
    - **Object discrimination index** (C. Zhao and A. B. Chan, *IEEE Trans. Pattern Anal. Mach. Intell.* 2024): the
      map's energy in the boxes of the other objects over its energy in all boxes. Pixels in several boxes count for
      the others, too. The objects are the labels if there are some, else the detections; the one that overlaps a
      detection best, by half or more, is its own.
    - **Energy in the box** (H. Wang et al., CVPRW 2020) and **pointing game** (J. Zhang et al., IJCV 126, 2018): see
      :mod:`yolov5_featviz.arrays.metrics`; here for each detection and its own box.
    - **Sparsity**: Hoyer's, of the map's pixels.
    - **Sanity check** (J. Adebayo et al., NeurIPS 2018): see :mod:`yolov5_featviz.attribution.randomised`. Explained
      is the same row of the output; where rows are in no fixed order, the best candidate of the class that overlaps
      the box by half.
    - **Stability**: the mean of ``|m' - m| / |m|`` (Euclidean norms; maps scaled to a maximum of 1) over three draws
      of normal noise, whose standard deviation is 2 % of the range of the image's values, or 1 or 0.5 % if the
      detection is not left as it is: a box that overlaps by 0.9 or more, and a confidence that differs by less than
      0.05. Related to the sensitivity of C.-K. Yeh et al., NeurIPS 2019, which takes the largest of many draws.

    All are of the map in the image's part of the input, at the input's resolution; negative values count as 0.

    Args:
        model: a detector of a known family, or any with ``find``. It is not changed.
        image: the model's input, ``[1, C, H, W]``.
        settings: see :class:`Settings`.
        target: which detections; see :func:`yolov5_featviz.attribution.explain.explain_input`.
        conf, iou: thresholds of detectors that have none of their own.
        find: for detectors of no known family, a function from the output to :class:`Detections`.
        region: where in the input the image lies: left, top, right and bottom edge in pixels; None if it fills it.
        size: height and width of the original image in pixels; None for those of ``region``.
        name: name of the image.
        labels: what is in the image, in pixels of the image.
        progress: wraps the iterable of passes of deletion and insertion, as ``tqdm`` does.

    Returns:
        For each method, then each baseline, a :class:`~yolov5_featviz.attribution.measured.Measured` of each detection.

    Raises:
        FeatvizError: invalid argument, nothing was detected, or the model cannot be run.
    """
    check_image(image, "faithfulness")
    settings = settings or Settings()
    check_settings(settings)
    index = index_layers(differentiable(model))
    thresholds = thresholds_of(index.root, Thresholds(conf, iou))
    own = detect(index.root, image, thresholds, find)
    view = View(None, image, region, size)
    truths = None if labels is None else moved(labels, view)
    known = truths if target is not None else None  # all detections, without what was missed
    cases = explained(own, target, thresholds, view.to_input, known, view.region)
    cases = [one for one in cases if one.detection is not None]
    if not cases:
        raise NothingFoundError(f"nothing was detected at {target}")
    asked = own.of([one.row for one in cases], [one.number for one in cases])
    maker = Maker(index, settings, view, find, thresholds)
    made = {method: maker(method, image, asked) for method in settings.methods}
    boxes = _in_region([one.box for one in cases], view)
    made.update(baselines(maker.pixels(image), boxes))
    objects = boxes if truths is None else _in_region(truths.xyxy.tolist(), view)
    owners = _owners(boxes, objects) if truths is not None else list(range(len(boxes)))
    with_pixels = _with_pixels(objects, maker.size)
    others = [objects.take([i for i in with_pixels if i != owner]) for owner in owners]
    mine = [boxes.take([n]) if owner is None else objects.take([owner]) for n, owner in enumerate(owners)]
    measured: List[Measured] = []
    for method, one in made.items():
        for n, case in enumerate(cases):
            what = (name, n, own.name(case.number), case.score, view.to_image(view.cut(case.box)), method, one.layers)
            numbers, note = _numbers(one.maps[n], boxes.take([n]), mine[n], others[n])
            measured.append(Measured(*what, seconds=one.seconds, note=note)._replace(**numbers))
    measured = _with_curves(measured, made, maker, image, asked, progress)
    return with_checks(measured, made, maker, image, asked) if settings.stages else measured


def _in_region(boxes: Sequence[Sequence[float]], view: View) -> Boxes:
    """Move boxes from pixels of the input to those of the image in it, and cut them to it."""
    rows, columns = part_of(view.input, view.region)
    corner = np.array([columns.start, rows.start] * 2, np.float32)
    return Boxes(np.array([view.cut(box) for box in boxes], np.float32).reshape(-1, 4) - corner)


def _owners(boxes: Boxes, objects: Boxes) -> List[Optional[int]]:
    """Return the object that each box overlaps best, by half or more; None if there is none."""
    from torchvision.ops import box_iou

    if not len(objects):
        return [None] * len(boxes)
    shares = box_iou(torch.from_numpy(boxes.xyxy).float(), torch.from_numpy(objects.xyxy).float())
    return [int(each.argmax()) if float(each.max()) >= OVERLAP else None for each in shares]


def _with_pixels(objects: Boxes, size: Tuple[int, int]) -> List[int]:
    """Return the numbers of the objects that cover a pixel's centre of an image of ``size``."""
    region = (0.0, 0.0, float(size[1]), float(size[0]))
    flat = np.ones(size, np.float32)
    shares = (energy_inside(flat, objects.take([i]), (1.0, 1.0), region) for i in range(len(objects)))
    return [i for i, share in enumerate(shares) if share > 0]


def _numbers(one: Map, own: Boxes, mine: Boxes, others: Boxes) -> Tuple[Dict[str, Any], str]:
    """Return what is measured of a map without the model, and why what is missing is not defined.

    Args:
        one: the map.
        own: the detection's box.
        mine: that of the object that it is, its own if none is known.
        others: those of the other objects.
    """
    if one.values is None:
        return {}, one.note
    heat = one.values.clip(min=0)
    if not heat.any():
        return {}, "no value of the map is above 0"
    height, width = heat.shape
    where = (1.0, 1.0), (0.0, 0.0, float(width), float(height))
    hit = pointing_hit(heat, own, *where)
    found: Dict[str, Any] = {
        "box_area": energy_inside(np.ones_like(heat), own, *where),
        "energy": energy_inside(heat, own, *where),
        "pointing": NAN if hit is None else float(hit),
        "sparsity": hoyer(heat),
    }
    if not len(others):
        return found, "no ODI: there is no other object"
    on_all = energy_inside(heat, Boxes(np.concatenate([mine.xyxy, others.xyxy])), *where)
    if not on_all > 0:
        return found, "no ODI: no energy on any object"
    return {**found, "odi": energy_inside(heat, others, *where) / on_all}, ""


def _with_curves(
    measured: List[Measured],
    made: Mapping[str, Made],
    maker: Maker,
    image: torch.Tensor,
    asked: Detections,
    progress: Optional[Progress],
) -> List[Measured]:
    """Return rows with deletion and insertion of all maps that there are."""
    s = maker.settings
    maps = [made[row.method].maps[row.detection].values for row in measured]
    drawn = [i for i, one in enumerate(maps) if one is not None]
    found = both_curves(
        maker.index.root,
        image,
        asked,
        [maps[i] for i in drawn],
        [measured[i].detection for i in drawn],
        *(s.steps, s.fill, s.batch, progress, maker.find, maker.view.region),
    )
    rows = list(measured)
    for k, i in enumerate(drawn):
        deleted, inserted = (tuple(one.scores[k].tolist()) for one in found)
        deletion, insertion = (float(one.areas[k]) for one in found)
        rows[i] = rows[i]._replace(deletion=deletion, insertion=insertion, deleted=deleted, inserted=inserted)
    return rows
