"""Means of metrics with intervals, paired differences to the first model with tests, and what can be concluded."""

from __future__ import annotations

from collections import Counter
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from yolov5_featviz.arrays.statistics import LEAST, Difference, Estimate, estimate, holm, least_p, paired_difference
from yolov5_featviz.compare.measure import Row
from yolov5_featviz.compare.precision import Scored

ALPHA = 0.05  # of a corrected p value
OWN_BOXES = "each model is measured by the boxes it detected itself; the numbers do not compare models"


class Metric(NamedTuple):
    """Format of a metric, and whether it is tested.

    Attributes:
        name, latex, short: its name in text, in LaTeX and in the narrow LaTeX table.
        factor, digits: by which it is multiplied, and decimals.
        by_boxes: whether it depends on the boxes.
        tested: whether models are compared by it.
    """

    name: str
    latex: str
    short: str
    factor: float = 1.0
    digits: int = 3
    by_boxes: bool = False
    tested: bool = False


METRICS: Dict[str, Metric] = {
    "box_area": Metric("box area %", r"Box area (\%)", r"Box area (\%)", 100.0, 1, by_boxes=True),
    "energy_inside": Metric("energy inside %", r"Energy inside (\%)", r"Energy (\%)", 100.0, 1, True, True),
    "pointing_hit": Metric("pointing %", r"Pointing (\%)", r"Pointing (\%)", 100.0, 1, True, True),
    "channel_sparsity": Metric("sparsity", "Sparsity", "Sparsity", tested=True),
    "entropy": Metric("entropy", "Entropy", "Entropy", tested=True),
    "cka": Metric("CKA", "CKA", "CKA"),
    "cka_debiased": Metric("CKA debiased", "CKA (debiased)", "CKA (deb.)"),
}


class Mean(NamedTuple):
    """Means of one layer of one model over the images where a metric is defined, and sample standard deviations."""

    layer: str
    model: str
    values: Dict[str, Estimate]
    deviations: Dict[str, float]


class Contrast(NamedTuple):
    """Paired difference of a model to the first, ``model - reference``, in one metric of one layer.

    Attributes:
        found: see :class:`yolov5_featviz.arrays.statistics.Difference`.
        p_holm: p by Holm's correction for all tests of the run; NaN where p is.
        note: what is not defined, and why.
    """

    layer: str
    model: str
    reference: str
    metric: str
    found: Difference
    p_holm: float
    note: str

    @property
    def is_significant(self) -> bool:
        """Whether the corrected p is below .05; False without a test."""
        return self.p_holm < ALPHA


class Summary(NamedTuple):
    """The numbers of a comparison.

    Attributes:
        rows: of each image.
        means: of each layer and model.
        contrasts: of each layer, other model and tested metric.
        scored: average precisions of the models; empty without labels.
        unscored: why there are none, though there are labels.
        same: name of an image -> that of the first one of the same content, with which it counts as one.
    """

    rows: Sequence[Row]
    means: List[Mean]
    contrasts: List[Contrast]
    scored: Sequence[Scored] = ()
    unscored: str = ""
    same: Mapping[str, str] = {}

    @property
    def images(self) -> int:
        """Number of different images."""
        return len({self.same.get(row.image, row.image) for row in self.rows})

    @property
    def layers(self) -> List[str]:
        """Names of the layers."""
        return list(dict.fromkeys(mean.layer for mean in self.means))

    @property
    def models(self) -> List[str]:
        """Names of the models."""
        return list(dict.fromkeys(mean.model for mean in self.means))

    @property
    def tests(self) -> int:
        """Number of tests that were made."""
        return sum(not np.isnan(one.p_holm) for one in self.contrasts)


def summarise(
    rows: Sequence[Row],
    scored: Sequence[Scored] = (),
    unscored: str = "",
    same: Optional[Mapping[str, str]] = None,
) -> Summary:
    """Compute means and paired differences of all rows; see :class:`Summary`."""
    return Summary(rows, means(rows, same), contrasts(rows, same), scored, unscored, same or {})


def means(rows: Sequence[Row], same: Optional[Mapping[str, str]] = None) -> List[Mean]:
    """Compute means, their intervals, and sample standard deviations over the images where a metric is defined."""
    found = []
    for (layer, model), mine in _grouped(rows).items():
        images = [(same or {}).get(image, image) for image in mine]
        values, deviations = {}, {}
        for metric in METRICS:
            x = np.array([getattr(row, metric) for row in mine.values()], float)
            values[metric] = estimate(x, images)
            x = x[~np.isnan(x)]
            deviations[metric] = float(x.std(ddof=1)) if len(x) > 1 else float("nan")
        found.append(Mean(layer, model, values, deviations))
    return found


def contrasts(rows: Sequence[Row], same: Optional[Mapping[str, str]] = None) -> List[Contrast]:
    """Compute and test the paired differences of each other model to the first.

    Metrics that depend on boxes are left out unless all rows were measured with the same ones, the labels.
    """
    same_boxes = all(row.boxes == "labels" for row in rows)
    tested = [name for name, metric in METRICS.items() if metric.tested and (same_boxes or not metric.by_boxes)]
    groups = _grouped(rows)
    found: List[Contrast] = []
    for layer in dict.fromkeys(layer for layer, _ in groups):
        (reference, first), *others = ((model, of) for (own, model), of in groups.items() if own == layer)
        for model, mine in others:
            images = [image for image in mine if image in first]
            for metric in tested:
                a, b = ([getattr(of[image], metric) for image in images] for of in (mine, first))
                result = paired_difference(a, b, [(same or {}).get(image, image) for image in images])
                found.append(Contrast(layer, model, reference, metric, result, float("nan"), _note(result)))
    corrected = holm([one.found.p for one in found])
    return [one._replace(p_holm=float(p)) for one, p in zip(found, corrected)]


def _grouped(rows: Sequence[Row]) -> Dict[Tuple[str, str], Dict[str, Row]]:
    """Return layer and model -> image -> row."""
    found: Dict[Tuple[str, str], Dict[str, Row]] = {}
    for row in rows:
        found.setdefault((row.layer, row.model), {})[row.image] = row
    return found


def _note(found: Difference) -> str:
    if not found.images:
        return "no image in which both are defined"
    if found.images < LEAST:
        return no_conclusion(found.images)
    if np.isnan(found.effect):
        return "no difference in any image" if found.difference == 0 else "the same difference in all images"
    return ""


def no_conclusion(images: int) -> str:
    """Say that images are too few."""
    return f"{count(images, 'image')}: no conclusion"


def has_interval(one: Union[Estimate, Difference]) -> bool:
    """Whether there is an interval that says something: none of too few images, or of values that are all equal."""
    return one.low < one.high


def count(n: int, what: str) -> str:
    """Return ``1 image`` or ``2 images``."""
    return f"{n} {what}{'s' * (n != 1)}"


def notes(summary: Summary) -> List[str]:
    """Say what the numbers can and cannot show: for below the tables."""
    found = [no_conclusion(summary.images)] if summary.images < LEAST else []
    if summary.images >= LEAST:
        found.append(f"in brackets: 95 % interval, bootstrap over {summary.images} images")
        found += _too_few(summary.contrasts)
    copies = len({row.image for row in summary.rows}) - summary.images
    if copies:
        which = "are copies of others: each counts" if copies > 1 else "is a copy of another, and counts"
        found.append(f"{count(copies, 'image')} {which} as one with it in intervals and tests")
    measured = Counter(row.boxes for row in summary.rows)
    by_boxes = "box area, energy and pointing"
    if not measured["detections"]:
        found.append(f"{by_boxes}: by the labelled boxes, the same for all models")
    elif not measured["labels"]:
        found.append(f"{by_boxes}: {OWN_BOXES}")
    else:
        unlabelled = len({row.image for row in summary.rows if row.boxes == "detections"})
        found.append(f"{by_boxes}: {unlabelled} of {count(summary.images, 'image')} have no labels; there {OWN_BOXES}")
    ends = [(one.low, one.high) for mean in summary.means for one in mean.values.values()]
    ends += [(one.found.low, one.found.high) for one in summary.contrasts]
    if any(low == high for low, high in ends):
        found.append("without an interval: all values are equal")
    if summary.tests:
        found.append(f"difference: paired, to {summary.models[0]}; d_z: Cohen's, of the paired differences")
        tests = count(summary.tests, "test")
        found.append(f"p: sign-flip test over images, Holm's correction for {tests}; * p < .05")
        least = least_p(summary.images, summary.tests)
        if least >= 0.05:
            few = f"{count(summary.images, 'image')} are too few for {tests}"
            found.append(f"{few}: the smallest p possible is {least:.2g} after Holm's correction")
    found.append(f"CKA: to {summary.models[0]}, not tested")
    if summary.scored:
        found.append("mAP: as val.py --batch-size 1 computes it; no interval, not tested")
    if summary.unscored:
        found.append(f"no mAP: {summary.unscored}")
    return found


def _too_few(found: Sequence[Contrast]) -> List[str]:
    """Say of which metrics there are too few images."""
    few: Dict[int, List[str]] = {}
    for one in found:
        if one.found.images < LEAST:
            few.setdefault(one.found.images, []).append(METRICS[one.metric].name.replace(" %", ""))
    return [f"{', '.join(dict.fromkeys(names))}: {no_conclusion(images)}" for images, names in few.items()]
