"""What is measured of the map of one detection by one method."""

from __future__ import annotations

import math
from typing import Dict, NamedTuple, Tuple

from yolov5_featviz.models.targets import Edges

NAN = float("nan")


class Metric(NamedTuple):
    """A number that is measured.

    Attributes:
        title: in tables.
        better: whether ``lower`` or ``higher`` is better; empty for neither.
        limits: between which it lies.
    """

    title: str
    better: str = ""
    limits: Tuple[float, float] = (0.0, 1.0)


METRICS: Dict[str, Metric] = {
    "deletion": Metric("deletion", "lower", (0.0, math.inf)),
    "insertion": Metric("insertion", "higher", (0.0, math.inf)),
    "odi": Metric("ODI", "lower"),
    "energy": Metric("energy in box"),
    "pointing": Metric("pointing game"),
    "box_area": Metric("box area"),
    "sparsity": Metric("sparsity"),
    "change": Metric("change by noise", "lower", (0.0, math.inf)),
    "lit": Metric("randomised, lit cells", "", (-1.0, 1.0)),
    "seconds": Metric("seconds", "lower", (0.0, math.inf)),
}
# name -> name in captions; maps that know nothing of why, which a method has to beat
BASELINES: Dict[str, str] = {
    "random": "random map",
    "centre": "Gaussian at the centre",
    "box": "box, filled",
    "edges": "edge detector",
}


class Measured(NamedTuple):
    """The numbers of one map; NaN where one is not defined, or was not asked for, and then ``note`` says why.

    Attributes:
        image: name of the image.
        detection: number of the detection in the image, best first.
        label: class name.
        score: confidence.
        box: left, top, right and bottom edge in pixels of the image.
        method: a method of explanation, ``heatmap``, or one of ``BASELINES``.
        layers: names of its layers; none for those that look at none.
        deletion, insertion: area under the curve, see :mod:`yolov5_featviz.attribution.deletion`; 0 to 1 in general.
        odi: object discrimination index: energy on other objects over energy on all objects, 0 to 1.
        energy: share of the map's energy in the box, 0 to 1.
        pointing: 1 if the map's highest value is within 15 pixels of the box in the input, else 0.
        box_area: the box's share of the image, 0 to 1.
        sparsity: Hoyer's, 0 to 1.
        change: relative change of the map under noise that leaves the detection as it is, 0 for none.
        lit: the last value of ``sanity``, over those cells alone that are above 0 in either map.
        seconds: wall time a detection.
        sanity: Spearman's rank correlation with the map of the model with ever more layers randomised from the head
            downwards, -1 to 1, a value a stage; empty if it was not asked for.
        deleted, inserted: the curves, ``steps + 1`` values each; empty where there is no map.
        note: what is not defined, and why; empty if everything is.
    """

    image: str
    detection: int
    label: str
    score: float
    box: Edges
    method: str
    layers: Tuple[str, ...] = ()
    deletion: float = NAN
    insertion: float = NAN
    odi: float = NAN
    energy: float = NAN
    pointing: float = NAN
    box_area: float = NAN
    sparsity: float = NAN
    change: float = NAN
    lit: float = NAN
    seconds: float = NAN
    sanity: Tuple[float, ...] = ()
    deleted: Tuple[float, ...] = ()
    inserted: Tuple[float, ...] = ()
    note: str = ""
