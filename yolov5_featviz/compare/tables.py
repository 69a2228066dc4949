"""Tables of metrics of several models as CSV, LaTeX and text."""

from __future__ import annotations

import csv
import io
import textwrap
from typing import Any, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from yolov5_featviz.arrays.statistics import Difference, Estimate
from yolov5_featviz.compare.measure import Row
from yolov5_featviz.compare.precision import Scored
from yolov5_featviz.compare.summary import METRICS, Contrast, Mean, Metric, Summary, count, has_interval, notes
from yolov5_featviz.draw.record import KEY, dumps
from yolov5_featviz.text import align, printable

WIDE, NARROW = 120, 68  # characters in small print below the LaTeX table, and below that of one column
_OF_COLUMN = ("energy_inside", "pointing_hit", "channel_sparsity", "entropy", "cka")


def table(summary: Summary) -> str:
    """Format means, differences and mAP for the terminal, with notes."""
    parts = [_means_table(summary), _contrasts_table(summary), precision_table(summary.scored)]
    return "\n\n".join([*filter(None, parts), "\n".join(notes(summary))])


def _means_table(summary: Summary) -> str:
    found = {(mean.layer, mean.model): mean for mean in summary.means}
    lines = []
    for layer in summary.layers:
        own = [found[layer, model] for model in summary.models]
        for key, metric in METRICS.items():
            words = [_with_interval(mean.values[key], metric) for mean in own]
            lines.append([layer, metric.name, *words, _images(own, key)])
    head = ["layer", "metric", *summary.models, "images"]
    return align([head, *lines], right=range(2, len(head)))


def _contrasts_table(summary: Summary) -> str:
    shown = [one for one in summary.contrasts if one.found.images]
    if not shown:
        return ""
    lines = []
    for one in shown:
        metric, d = METRICS[one.metric], one.found
        ends = f"[{_number(d.low, metric)}, {_number(d.high, metric)}]" if has_interval(d) else "-"
        mark = "*" if one.is_significant else " "
        words = [f"{_number(d.difference, metric, '+')}{mark}", ends, _p(one.p_holm), _d(d.effect), str(d.images)]
        lines.append([one.layer, metric.name, f"{one.model} - {one.reference}", *words])
    head = ["layer", "metric", "models", "difference ", "95 % interval", "p", "d_z", "images"]
    return align([head, *lines], right=range(3, len(head)))


def precision_table(scored: Sequence[Scored]) -> str:
    """Format mAP for the terminal; empty if there is none."""
    head = ["model", "mAP@.5 %", "mAP@.5:.95 %", "images", "objects"]
    lines = [
        [name, f"{100 * one.map50:.1f}", f"{100 * one.map:.1f}", str(one.images), str(int(one.objects.sum()))]
        for name, one in scored
    ]
    return align([head, *lines], right=range(1, len(head))) if lines else ""


def _with_interval(one: Estimate, metric: Metric) -> str:
    if not one.values:
        return "-"
    ends = f" [{_number(one.low, metric)}, {_number(one.high, metric)}]" if has_interval(one) else ""
    return _number(one.mean, metric) + ends


def _images(own: Sequence[Mean], key: str) -> str:
    """Return the number of images of a metric, or those of the models where they differ."""
    counts = [mean.values[key].images for mean in own if mean.values[key].images]
    return "/".join(map(str, counts if len(set(counts)) > 1 else counts[:1])) or "0"


def _number(x: float, metric: Metric, sign: str = "") -> str:
    """Format a value of a metric; 0 has no sign."""
    words = f"{x * metric.factor:{sign}.{metric.digits}f}"
    return words if float(words) else words.lstrip("+-")


def _p(p: float) -> str:
    return "-" if np.isnan(p) else "<.001" if p < 0.001 else f"{p:.3f}"


def _d(effect: float) -> str:
    return "-" if np.isnan(effect) else f"{effect:.2f}"


# CSV


def to_csv(rows: Sequence[Row]) -> str:
    """Format all metrics as CSV, one line per image, layer and model; empty where undefined."""
    return csv_text(Row._fields, rows)


def means_csv(found: Sequence[Mean]) -> str:
    """Format means, intervals, standard deviations and numbers of images as CSV, one line per layer and model."""
    head = ["layer", "model", *(f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high", "_sd", "_n"))]
    lines = []
    for mean in found:
        every = [(mean.values[metric], mean.deviations[metric]) for metric in METRICS]
        numbers = [x for one, deviation in every for x in (*one[:3], deviation, one.images)]
        lines.append([mean.layer, mean.model, *numbers])
    return csv_text(head, lines)


def contrasts_csv(found: Sequence[Contrast]) -> str:
    """Format paired differences as CSV, one line per layer, other model and tested metric; empty where undefined."""
    head = ["layer", "model", "reference", "metric", "difference", "low", "high", "p", "p_holm", "effect", "n", "note"]
    lines = []
    for one in found:
        d = one.found
        numbers = [d.difference, d.low, d.high, d.p, one.p_holm, d.effect, d.images]
        lines.append([one.layer, one.model, one.reference, one.metric, *numbers, one.note])
    return csv_text(head, lines)


def precision_csv(scored: Sequence[Scored], names: Mapping[int, str]) -> str:
    """Format average precisions as CSV: for each model a line for all classes, then one for each with labels.

    Args:
        scored: the models.
        names: class number -> name.
    """
    lines: List[List[Any]] = []
    for model, found in scored:
        lines.append([model, "all", found.images, int(found.objects.sum()), found.map50, found.map])
        for kind, objects, values in zip(found.classes.tolist(), found.objects.tolist(), found.values):
            name = names.get(kind, f"class {kind}")
            lines.append([model, name, found.images, objects, float(values[0]), float(values.mean())])
    return csv_text(["model", "class", "images", "objects", "map50", "map50_95"], lines)


# LaTeX


def to_latex(summary: Summary, column: bool = False) -> str:
    """Format the numbers as a LaTeX tabular, with notes below that say what they can show. Needs the package booktabs.

    A tabular without a float around it can be put into any, with a caption of the author's; the notes are rows of it,
    so that they are printed with it.

    Args:
        summary: the numbers.
        column: for one column of 3.5 inches: means without intervals, and no box area or debiased CKA.
    """
    spec, head, body = _narrow(summary) if column else _wide(summary)
    columns = len(head)

    def across(words: str, size: str = "") -> List[str]:
        letters = (NARROW if column else WIDE) * (8 if size else 7) // 8
        wrapped = textwrap.wrap(printable(words), letters, break_on_hyphens=False)
        return [rf"\multicolumn{{{columns}}}{{@{{}}l@{{}}}}{{{size}{_prose(line)}}} \\" for line in wrapped]

    lines = [
        r"% needs \usepackage{booktabs}; formulas and sources: docs/compare.md",
        r"\begingroup\footnotesize\setlength{\tabcolsep}{3pt}%",
        rf"\begin{{tabular}}{{@{{}}{spec}@{{}}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
    ]
    for title, block in body:
        lines += [r"\midrule", *(across(title) if title else [])]
        lines += [" & ".join(row) + r" \\" for row in block]
    if summary.scored:
        lines += [r"\midrule", *across(_precision_words(summary.scored))]
    lines.append(r"\bottomrule")
    for note in notes(summary):
        starts_a_word = note[:2].isalpha() and note[:2].islower()
        lines += across(f"{note[0].upper() if starts_a_word else note[0]}{note[1:]}.", r"\scriptsize ")
    return "\n".join([*lines, r"\end{tabular}\endgroup", ""])


_Block = Tuple[str, List[List[str]]]  # title across the table, and rows of cells


def _wide(summary: Summary) -> Tuple[str, List[str], List[_Block]]:
    """Return column types, head and a block for each layer: means and differences below each other."""
    head = ["Layer", "Model", *(metric.latex for metric in METRICS.values())]
    found = {(one.layer, one.model, one.metric): one for one in summary.contrasts if one.found.images}
    blocks: List[_Block] = []
    for layer in summary.layers:
        own = [mean for mean in summary.means if mean.layer == layer]
        rows: List[List[str]] = []
        for mean in own:
            rows.append([tex_text(mean.model), *(_tex(one.mean, METRICS[k]) for k, one in mean.values.items())])
            rows.append(["", *(_tex_ends(one, METRICS[k]) for k, one in mean.values.items())])
            mine = [found.get((layer, mean.model, key)) for key in METRICS]
            rows.append([r"\quad difference", *(_tex_difference(one) for one in mine)])
            rows.append(["", *("" if one is None else _tex_ends(one.found, METRICS[one.metric]) for one in mine)])
            rows.append([r"\quad $p$; $d_z$", *(_tex_test(one) for one in mine)])
        rows = [row for row in rows if any(row[1:])]
        rows.append(["$n$", *(_images(own, key) for key in METRICS)])
        blocks.append(("", [[tex_text(layer) if i == 0 else "", *row] for i, row in enumerate(rows)]))
    return "ll" + "r" * len(METRICS), head, blocks


def _narrow(summary: Summary) -> Tuple[str, List[str], List[_Block]]:
    """Return column types, head and a block for each layer and other model: a row for each metric."""
    head = ["", "Ref.", "Model", "Difference", "$p$", "$d_z$", "$n$"]
    found = {(one.layer, one.model, one.metric): one for one in summary.contrasts if one.found.images}
    means = {(mean.layer, mean.model): mean for mean in summary.means}
    reference, *others = summary.models
    blocks: List[_Block] = []
    for layer in summary.layers:
        for model in others:
            first, mine = means[layer, reference], means[layer, model]
            rows: List[List[str]] = []
            for key in _OF_COLUMN:
                metric, one = METRICS[key], found.get((layer, model, key))
                values = [_tex(mean.values[key].mean, metric) for mean in (first, mine)]
                tested = [_p_tex(one.p_holm), _d_tex(one.found.effect)] if one is not None else ["", ""]
                rows.append([metric.short, *values, _tex_difference(one), *tested, _images([first, mine], key)])
                ends = _tex_ends(one.found, metric) if one is not None else ""
                rows += [["", "", "", ends, "", "", ""]] if ends else []
            blocks.append((f"Layer {layer}: {model} to {reference}", rows))
    return "lrrrrrr", head, blocks


def _tex(x: float, metric: Metric, sign: str = "") -> str:
    return "--" if np.isnan(x) else _number(x, metric, sign).replace("-", "$-$")


def _tex_ends(one: Union[Estimate, Difference], metric: Metric) -> str:
    """Return an interval in small print; empty if there is none."""
    return rf"\scriptsize [{_tex(one.low, metric)}, {_tex(one.high, metric)}]" if has_interval(one) else ""


def _tex_difference(one: Optional[Contrast]) -> str:
    if one is None:
        return ""
    return _tex(one.found.difference, METRICS[one.metric], "+") + (r"\rlap{*}" if one.is_significant else "")


def _tex_test(one: Optional[Contrast]) -> str:
    if one is None or np.isnan(one.p_holm):
        return ""
    return rf"\scriptsize {_p_tex(one.p_holm)}; {_d_tex(one.found.effect) or '--'}"


def _prose(words: str) -> str:
    return tex_text(words).replace(r"; d\_z: ", "; $d_z$: ")


def _p_tex(p: float) -> str:
    return "" if np.isnan(p) else _p(p).replace("<", "$<$")


def _d_tex(effect: float) -> str:
    return "" if np.isnan(effect) else _d(effect).replace("-", "$-$")


def _precision_words(scored: Sequence[Scored]) -> str:
    first = scored[0].precision
    models = "; ".join(f"{name} {100 * one.map50:.1f} / {100 * one.map:.1f}" for name, one in scored)
    of = f"{count(first.images, 'image')}, {count(int(first.objects.sum()), 'object')}"
    return f"mAP@.5 / mAP@.5:.95 (%): {models} ({of})"


# Files


def table_files(summary: Summary, about: Mapping[str, Any]) -> Iterator[Tuple[str, bytes]]:
    """Yield name and content of the tables of metrics, and of their records."""
    contents = {"metrics": to_csv(summary.rows), "means": means_csv(summary.means)}
    for name, content in {**contents, "differences": contrasts_csv(summary.contrasts)}.items():
        yield from csv_file(f"{name}.csv", content, about)
    for name, column in (("table.tex", False), ("table_column.tex", True)):
        # TeX limits lines to 200,000 characters, comments included
        described = {**about, "file": name, "shows": "numbers", "images": {"name": f"{len(about['images'])} images"}}
        record = dumps(described if len(about["images"]) > 100 else {**described, "images": about["images"]})
        yield name, f"% {KEY} {record}\n{to_latex(summary, column)}".encode("utf-8", "replace")


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


def tex_text(words: str) -> str:
    """Escape text for LaTeX."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
    }
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in printable(words))
