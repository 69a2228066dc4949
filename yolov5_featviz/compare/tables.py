"""Tables of metrics of several models as CSV, LaTeX and text."""

from __future__ import annotations

import csv
import io
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.arrays.cells import in_region
from yolov5_featviz.arrays.reduce import reduce_channels
from yolov5_featviz.compare.metrics import (
    channel_sparsity,
    debiased_cka,
    energy_inside,
    entropy,
    linear_cka,
    pointing_hit,
    same_samples,
)
from yolov5_featviz.draw.record import KEY, dumps
from yolov5_featviz.models.layer_output import LayerOutput
from yolov5_featviz.text import align, printable


class Metric(NamedTuple):
    """Format of a metric: names in text and LaTeX, factor, digits, whether more is better, whether to show spread."""

    name: str
    latex: str
    factor: float = 1.0
    digits: int = 3
    more: bool = False
    spread: bool = True


METRICS: Dict[str, Metric] = {
    "box_area": Metric("box area %", r"Box area (\%)", 100.0, 1, spread=False),
    "energy_inside": Metric("energy inside %", r"Energy inside (\%) $\uparrow$", 100.0, 1, more=True),
    "pointing_hit": Metric("pointing %", r"Pointing (\%) $\uparrow$", 100.0, 1, more=True, spread=False),
    "channel_sparsity": Metric("sparsity", "Sparsity"),
    "entropy": Metric("entropy", "Entropy"),
    "cka": Metric("CKA", "CKA"),
    "cka_debiased": Metric("CKA debiased", "CKA (debiased)"),
}


class Row(NamedTuple):
    """Metrics of one layer of one model for one image; NaN where undefined."""

    image: str
    layer: str
    model: str
    boxes: str
    box_area: float
    energy_inside: float
    pointing_hit: float
    channel_sparsity: float
    entropy: float
    cka: float
    cka_debiased: float


def measure_image(
    image: str,
    names: Sequence[str],
    maps: Sequence[Sequence[LayerOutput]],
    truths: Optional[Sequence[Boxes]] = None,
    reduce: str = "mean",
) -> List[Row]:
    """Compute the metrics of each layer and model for one image.

    Args:
        image: name of the image.
        names: names of the models.
        maps: for each model, the maps of its layers.
        truths: ground-truth boxes in pixels of each model's input; None to use the model's detections.
        reduce: reduction to the heat map used for energy, pointing and entropy.
    """
    rows = []
    for k, of_layer in enumerate(zip(*maps)):
        layer = layer_name([of_model[k] for of_model in maps])
        for i, (name, fm) in enumerate(zip(names, of_layer)):
            data = fm.values
            heated = reduce_channels(data, reduce)
            boxes = (truths[i] if truths is not None else fm.boxes) or Boxes(np.zeros((0, 4)))
            stride = fm.stride or (1.0, 1.0)
            counted = in_region((data.shape[1], data.shape[2]), stride, fm.window)
            hit = pointing_hit(heated, boxes, stride, fm.window)
            samples = same_samples(of_layer[0], fm) if i else None
            rows.append(
                Row(
                    image,
                    layer,
                    name,
                    "labels" if truths is not None else "detections",
                    energy_inside(np.ones_like(heated), boxes, stride, fm.window),
                    energy_inside(heated, boxes, stride, fm.window),
                    float("nan") if hit is None else float(hit),
                    channel_sparsity(data, counted),
                    entropy(heated, counted),
                    linear_cka(*samples) if samples else float("nan"),
                    debiased_cka(*samples) if samples else float("nan"),
                )
            )
    return rows


def layer_name(maps: Sequence[LayerOutput]) -> str:
    """Return ``17``, or ``17 / 20`` where models differ."""
    return " / ".join(dict.fromkeys(fm.layer.name for fm in maps))


class Mean(NamedTuple):
    """Means of one layer of one model: metric -> mean, standard deviation and number of images."""

    layer: str
    model: str
    values: Dict[str, Tuple[float, float, int]]


def means(rows: Sequence[Row]) -> List[Mean]:
    """Compute means and sample standard deviations over the images where a metric is defined."""
    found = []
    for layer, model in dict.fromkeys((row.layer, row.model) for row in rows):
        mine = [row for row in rows if (row.layer, row.model) == (layer, model)]
        values = {}
        for metric in METRICS:
            x = np.array([getattr(row, metric) for row in mine])
            x = x[~np.isnan(x)]
            values[metric] = (
                float(x.mean()) if len(x) else float("nan"),
                float(x.std(ddof=1)) if len(x) > 1 else float("nan"),
                len(x),
            )
        found.append(Mean(layer, model, values))
    return found


def table(rows: Sequence[Row]) -> str:
    """Format the means for the terminal."""
    head = ["layer", "model", *(metric.name for metric in METRICS.values())]
    body = []
    for mean in means(rows):
        words = [
            "-" if np.isnan(mean.values[key][0]) else f"{mean.values[key][0] * m.factor:.{m.digits}f}"
            for key, m in METRICS.items()
        ]
        body.append([mean.layer, mean.model, *words])
    return align([head, *body], right=range(2, len(head)))


def to_csv(rows: Sequence[Row]) -> str:
    """Format all metrics as CSV, one line per image, layer and model; empty where undefined."""
    return csv_text(Row._fields, rows)


def means_csv(rows: Sequence[Row]) -> str:
    """Format means, standard deviations and numbers of images as CSV, one line per layer and model."""
    head = ["layer", "model", *(f"{metric}{end}" for metric in METRICS for end in ("", "_sd", "_n"))]
    return csv_text(head, ([m.layer, m.model, *(x for k in METRICS for x in m.values[k])] for m in means(rows)))


def to_latex(rows: Sequence[Row], first: str) -> str:
    """Format the means as a LaTeX table, with standard deviations if there is more than one image.

    If all models were measured with the same boxes, the best value of each layer is bold. Needs the package booktabs.
    """
    found = means(rows)
    by = sorted({row.boxes for row in rows})
    sources = {"labels": "ground-truth boxes", "detections": "boxes that each model detected itself, not the same ones"}
    lines = [
        r"% needs \usepackage{booktabs}",
        f"% {len({row.image for row in rows})} images; box area, energy and pointing by the "
        + " or the ".join(sources[boxes] for boxes in by),
        f"% CKA is linear, to {first}; formulas and sources: docs/compare.md",
        r"\begin{tabular}{ll" + "r" * len(METRICS) + "}",
        r"\toprule",
        " & ".join(["Layer", "Model", *(metric.latex for metric in METRICS.values())]) + r" \\",
    ]
    for layer in dict.fromkeys(mean.layer for mean in found):
        lines.append(r"\midrule")
        same = [mean for mean in found if mean.layer == layer]
        for i, mean in enumerate(same):
            words = [_latex(layer) if i == 0 else "", _latex(mean.model)]
            for key, metric in METRICS.items():
                value, deviation, n = mean.values[key]
                text = f"{value * metric.factor:.{metric.digits}f}" if n else "--"
                best = max((m.values[key][0] for m in same if m.values[key][2]), default=value)
                if metric.more and by == ["labels"] and len(same) > 1 and value == best:
                    text = rf"\textbf{{{text}}}"
                spread = rf" {{\scriptsize$\pm${deviation * metric.factor:.{metric.digits}f}}}"
                words.append(text + (spread if metric.spread and n > 1 else ""))
            lines.append(" & ".join(words) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def table_files(rows: Sequence[Row], about: Mapping[str, Any]) -> Iterator[Tuple[str, bytes]]:
    """Yield name and content of the tables of metrics, and of their records."""
    for name, content in (("metrics.csv", to_csv(rows)), ("means.csv", means_csv(rows))):
        yield from csv_file(name, content, about)
    # TeX limits lines to 200,000 characters, comments included
    described = {**about, "file": "table.tex", "shows": "numbers", "images": {"name": f"{len(about['images'])} images"}}
    record = dumps(described if len(about["images"]) > 100 else {**described, "images": about["images"]})
    yield "table.tex", f"% {KEY} {record}\n{to_latex(rows, str(about['models'][0]))}".encode("utf-8", "replace")


def csv_file(name: str, content: str, about: Mapping[str, Any]) -> Iterator[Tuple[str, bytes]]:
    """Yield name and content of a CSV file, and of its record."""
    yield name, content.encode("utf-8", "replace")
    yield f"{name}.json", f"{dumps({**about, 'file': name, 'shows': 'numbers'})}\n".encode()


def csv_text(head: Iterable[str], lines: Iterable[Iterable[Any]]) -> str:
    """Format lines as CSV; NaN is empty, control characters are replaced."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([head, *(map(_cell, line) for line in lines)])
    return stream.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.9g}"
    return printable(value)


def _latex(words: str) -> str:
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in printable(words))
