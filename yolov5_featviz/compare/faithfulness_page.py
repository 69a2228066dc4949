"""The page about the faithfulness of methods of explanation: one HTML file."""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
import shlex
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from yolov5_featviz.arrays.statistics import LEAST, Estimate
from yolov5_featviz.attribution.measured import BASELINES, METRICS, Measured
from yolov5_featviz.compare.faithfulness import (
    CURVES,
    MINUS,
    TESTED,
    Comparison,
    Curves,
    Summary,
    digits,
    lacking,
    mark_of,
    mean_curves,
    note_of,
    number,
    p_words,
    remark_of,
    signed,
    significant,
    statements,
    title_of,
)
from yolov5_featviz.compare.faithfulness_figure import AXES, CONFIDENCE, TOGETHER, top_of
from yolov5_featviz.compare.summary import ALPHA, count, has_interval, no_conclusion
from yolov5_featviz.runs.report import as_json, web_file
from yolov5_featviz.text import printable
from yolov5_featviz.version import __version__

FILE = "faithfulness.html"
MEANINGS: Dict[str, str] = {
    "deletion": "Area under the curve of the detection's confidence, relative to that in the image, while pixels are "
    "replaced in the order of the map, the highest value first. Lower is better",
    "insertion": "The same area while these pixels are shown first and all others are replaced. Higher is better",
    "odi": "Object discrimination index: the map's energy in the boxes of other objects over its energy in those of "
    "all objects, 0 to 1. Lower is better",
    "energy": "Share of the map's energy in the box of the detection, 0 to 1. A map that is the same everywhere has "
    "the box's share of the image",
    "pointing": "Pointing game: 1 if the map's highest value is in the box, or within 15 pixels of it, else 0",
    "box_area": "The box's share of the image, 0 to 1",
    "sparsity": "Hoyer's sparsity of the map: 0 if it is the same everywhere, 1 if it is one pixel. Neither is better",
    "change": "Relative change of the map under noise that leaves the detection as it is: 0 for none. Lower is better",
    "lit": "Rank correlation with the map of the model with all layers randomised, over the cells that are above 0 in "
    "either map, -1 to 1",
    "seconds": "Wall time a detection. Lower is better",
}
_BOX = (52.0, 8.0, 300.0, 190.0)  # left, top, width and height of a chart's frame
_SIZE = (364.0, 246.0)  # of a chart
_MARKED = 6  # markers along a line
_LISTED = 5  # most files named


def page(
    summary: Summary, rows: Sequence[Measured], about: Mapping[str, Any], curves: Optional[Curves] = None
) -> bytes:
    """Render statements, tables, charts and each map's numbers as one HTML page, which needs no other file.

    Args:
        summary: of the rows.
        rows: one a detection and method.
        about: how the numbers were made: ``command``, ``weights``, ``steps``, ``fill``...; all of it is listed.
        curves: of :func:`~yolov5_featviz.compare.faithfulness.mean_curves`, if they were computed already.
    """
    curves = mean_curves(rows) if curves is None else curves
    script = web_file("faithfulness.js")
    own = [name for name in summary.methods if name not in BASELINES]
    n = f"{count(summary.images, 'image')}, {count(summary.detections, 'detection')}"
    how = "the mean over detections"
    how += ", below it the 95 % interval by a studentised bootstrap over images" * summary.enough
    few = "" if summary.enough else f" {no_conclusion(summary.images)}, and no interval."
    values = {
        "hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "version": _escaped(__version__),
        "style": f"{web_file('report.css')}\n{web_file('faithfulness.css')}",
        "about": _escaped(f"{n}, {count(len(own), 'method')}, {count(len(summary.methods) - len(own), 'baseline')}"),
        "statements": "\n".join(f"<li>{_escaped(words)}.</li>" for words in statements(summary)),
        "means_note": _escaped(f"{n}: {how}.{few}{_marks(summary)}"),
        "means": _means(summary, list(METRICS)),
        "lacking": "\n".join(f"<li>{_escaped(words)}</li>" for words in lacking(summary, list(METRICS))),
        "meanings": _terms((title_of(metric), f"{words}.") for metric, words in MEANINGS.items()),
        "differences_note": _escaped(_differences_note(summary)),
        "differences": _differences(summary),
        "curves_note": _escaped(
            f"{n}: means{'; bands: pointwise 95 % intervals' * summary.enough}. Baselines are grey and dashed."
        ),
        "curves": _curves(summary, curves),
        "sanity": _sanity(summary),
        "stability": _stability(summary),
        "made": _terms(_made(summary, about)),
        "data": as_json(_data(summary, rows)),
        "script": script,
    }
    template = web_file("faithfulness.html")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found.group(1)], template).encode("utf-8", "replace")


def _marks(summary: Summary) -> str:
    if not any(mark_of(summary, metric, method) for metric in TESTED for method in summary.methods):
        return ""
    return f" * differs from {summary.reference}: p < {ALPHA:g}, paired by detection, with Holm's correction."


# Tables


def _means(summary: Summary, metrics: Sequence[str]) -> str:
    head = "".join(
        f'<th scope="col" class="number" title="{_escaped(MEANINGS[metric])}">{_escaped(title_of(metric))}'
        f"<small>{METRICS[metric].better}</small></th>"
        for metric in metrics
    )
    bodies = []
    for known in (False, True):
        lines = [
            f'<tr><th scope="row" class="name" title="{_escaped(name)}">{_escaped(name)}</th>'
            f"{''.join(_mean(summary, name, metric) for metric in metrics)}</tr>\n"
            for name in summary.methods
            if (name in BASELINES) == known
        ]
        if lines:
            bodies.append(f'<tbody class="{"baselines" if known else "methods"}">\n{"".join(lines)}</tbody>')
    return f'<table>\n<thead><tr><th scope="col">method</th>{head}</tr></thead>\n' + "\n".join(bodies) + "\n</table>"


def _mean(summary: Summary, method: str, metric: str) -> str:
    one = summary.means[method, metric]
    if not one.values:
        return f'<td class="number" title="{_escaped(f"{method}: {note_of(summary, method, [metric])}")}">–</td>'
    ends = f"{digits(one.low)} to {digits(one.high)}" if has_interval(one) else ""
    of = f"{count(one.values, 'detection')} in {count(one.images, 'image')}"
    words = f"{title_of(metric)} of {method}: mean of {of}{f'; 95 % interval {ends}' * bool(ends)}. {MEANINGS[metric]}"
    mark = mark_of(summary, metric, method)
    small = f"<small>{ends}</small>" if ends else ""
    return f'<td class="number" title="{_escaped(words)}">{digits(one.mean)}{mark}{small}</td>'


def _differences_note(summary: Summary) -> str:
    if not summary.enough:
        return f"{no_conclusion(summary.images)}. Tests need {LEAST} images or more."
    if not summary.comparisons:
        return "There is nothing to compare."
    return (
        "Each method minus the other, for the same detections. p: sign-flip permutation test over images, two-sided; "
        "corrected by Holm's procedure for all comparisons of the metric. d_z: Cohen's effect size over images. "
        f"Bold: corrected p < {ALPHA:g}."
    )


def _differences(summary: Summary) -> str:
    if not summary.enough:
        return ""
    found: List[str] = []
    for metric in TESTED:
        family = [one for one in summary.comparisons if one.metric == metric]
        if family:
            n = sum(significant(one) for one in family)
            better = METRICS[metric].better
            title = f"{title_of(metric)}{f' ({better} is better)' * bool(better)}"
            found.append(
                f"<details{' open' * (not found)}><summary>{_escaped(title)}: {n} of {len(family)} differences with "
                f"corrected p &lt; {ALPHA:g}</summary>\n{_family(family)}\n</details>"
            )
    return "\n".join(found)


_HEADS = (
    ("difference", "Mean of the paired differences, over detections"),
    ("95 % interval", "By a studentised bootstrap over images"),
    ("p", "Two-sided sign-flip permutation test over images"),
    ("p corrected", "By Holm's procedure, for all comparisons of this metric"),
    ("d_z", "Cohen's effect size: mean over standard deviation of the images' mean differences"),
    ("images", "Images with both maps"),
    ("detections", "Detections with both maps"),
)


def _family(family: Sequence[Comparison]) -> str:
    head = "".join(f'<th scope="col" class="number" title="{_escaped(words)}">{name}</th>' for name, words in _HEADS)
    lines = []
    for one in family:
        r = one.result
        ends = f"{signed(r.low)} to {signed(r.high)}" if has_interval(r) else ""
        p, corrected = (p_words(x).replace("p ", "", 1) for x in (r.p, one.p_holm))
        shown = [signed(r.difference), ends, p, corrected, signed(r.effect), str(r.images), str(r.values)]
        strong = [significant(one) and name == "p corrected" for name, _ in _HEADS]
        cells = "".join(
            f'<td class="number{" strong" * bold}" title="{_escaped(words)}">{_escaped(word) or "–"}</td>'
            for word, bold, (_, words) in zip(shown, strong, _HEADS)
        )
        names = f'<th scope="row" class="name">{_escaped(one.method)}</th><td class="name">{_escaped(one.other)}</td>'
        lines.append(f'<tr>{names}{cells}<td class="note">{_escaped(remark_of(one))}</td></tr>\n')
    return (
        '<div class="wide"><table>\n<thead><tr><th scope="col">method</th><th scope="col">minus</th>'
        f'{head}<th scope="col">note</th></tr></thead>\n<tbody>\n{"".join(lines)}</tbody>\n</table></div>'
    )


def _stability(summary: Summary) -> str:
    own = [name for name in summary.methods if summary.means[name, "change"].values]
    if not own:
        return "<p>It was not measured.</p>"
    some = summary._replace(methods=tuple(own))
    return f'<div class="wide narrow">{_means(some, ["change"])}</div>'


def _terms(pairs: Iterable[Tuple[str, str]]) -> str:
    return "\n".join(f"<dt>{_escaped(name)}</dt><dd>{_escaped(words)}</dd>" for name, words in pairs)


def _made(summary: Summary, about: Mapping[str, Any]) -> Iterator[Tuple[str, str]]:
    """Yield what is known about how the numbers were made."""
    n = f"{count(summary.images, 'image')}, {count(summary.detections, 'detection')}"
    yield "measured", f"{n}; reference: {summary.reference or 'none'}"
    for name, value in about.items():
        if name == "command" and isinstance(value, (list, tuple)):
            yield name, " ".join(["yolov5-featviz", *(shlex.quote(str(word)) for word in value)])
        elif isinstance(value, (list, tuple)) and len(value) > _LISTED:
            yield name, f"{len(value)}: {', '.join(map(_named, value[:_LISTED]))}…"
        elif isinstance(value, (list, tuple)):
            yield name, ", ".join(map(_named, value))
        else:
            yield name, _named(value)
    yield "yolov5-featviz", __version__


def _named(value: Any) -> str:
    if isinstance(value, Mapping) and "name" in value:
        known = f" (SHA-256 {str(value['sha256'])[:12]}…)" if "sha256" in value else ""
        return f"{value['name']}{known}"
    if isinstance(value, float):
        return f"{value:g}" if math.isfinite(value) else "–"
    return str(value)


# The maps


def _data(summary: Summary, rows: Sequence[Measured]) -> Dict[str, Any]:
    """Return the columns and rows of the table of all maps."""
    columns: List[Dict[str, Any]] = [
        _column("image", "Name of the image"),
        _column("detection", "Number of the detection in the image, from 0", 0),
        _column("class", "Class of the detection"),
        _column("score", "Confidence of the detection", 2),
        _column("method", "Method of explanation, or baseline"),
        *({**_column(metric, MEANINGS[metric], 3), "title": title_of(metric)} for metric in METRICS),
    ]
    for stage in summary.stages:
        words = f"Rank correlation with the map after the layers were randomised: stage {printable(stage, 80)}"
        columns.append({**_column("sanity", words, 3), "title": f"randomised {printable(stage, 80)}"})
    columns.append(_column("note", "What is not defined, and why"))
    values = [
        [
            *(printable(row.image), row.detection, printable(row.label), _json(row.score), printable(row.method)),
            *(_json(number(row, metric)) for metric in METRICS),
            *([_json(value) for value in row.sanity] or [None] * len(summary.stages)),
            printable(row.note),
        ]
        for row in rows
    ]
    return {"columns": columns, "rows": values}


def _column(name: str, meaning: str, digits: Optional[int] = None) -> Dict[str, Any]:
    return {"name": name, "title": name, "meaning": meaning, "number": digits is not None, "digits": digits or 0}


def _json(value: float) -> Optional[float]:
    return float(f"{value:.6g}") if math.isfinite(value) else None


# Charts


class _Line(NamedTuple):
    """A line of a chart: what it is of, its class in the style sheet, and a point a step."""

    title: str
    style: str
    points: Sequence[Estimate]


class _Axes(NamedTuple):
    """Ticks of a chart's axes, with positions, and the words at them."""

    label: str
    across: str
    up: str
    x: Sequence[Tuple[float, str]]
    y: Sequence[Tuple[float, str]]
    span: Tuple[float, float]


def _classes(methods: Sequence[str]) -> Dict[str, str]:
    """Return the class in the style sheet of each method; all the same if each has a chart of its own."""
    own = [name for name in methods if name not in BASELINES]
    together = len(own) <= TOGETHER
    found = {name: f"m{i if together else 0}" for i, name in enumerate(own)}
    return {**found, **{name: f"b{[*BASELINES].index(name) % 4}" for name in methods if name in BASELINES}}


def _curves(summary: Summary, curves: Curves) -> str:
    if not curves:
        return "<p>There are none: no method made a map.</p>"
    top = top_of(curves)
    ticks = [(y, f"{y:g}") for y in (0, 0.5, 1, 1.5, 2) if y <= 1.02 * top]
    parts = []
    for kind in CURVES:
        there = {name: curves[name, kind] for name in summary.methods if (name, kind) in curves}
        label = f"{kind} ({METRICS[kind].better} is better)"
        x = [(0.0, "0"), (0.5, "0.5"), (1.0, "1")]
        parts.append((label, there, _Axes(label, AXES[kind], CONFIDENCE, x, ticks, (0.0, 1.02 * top))))
    return _charts(summary, parts)


def _sanity(summary: Summary) -> str:
    if not summary.sanity:
        return "<p>It was not made.</p>"
    values = [one.mean for of in summary.sanity.values() for one in of if one.values]
    low = -1.0 if min(values) < -0.5 else -0.5 if min(values) < 0 else 0.0
    n = max(len(summary.stages) - 1, 1)
    every = max(1, math.ceil(len(summary.stages) / 8))
    x = [(k / n, printable(stage, 9)) for k, stage in enumerate(summary.stages) if k % every == 0]
    y = [(value, f"{value:g}".replace("-", MINUS)) for value in (-1, -0.5, 0, 0.5, 1) if value >= low]
    label = "rank correlation by stage"
    axes = _Axes(label, "randomised down to", "rank correlation", x, y, (low, 1.02))
    return _charts(summary, [("", dict(summary.sanity), axes)])


def _charts(summary: Summary, parts: Sequence[Tuple[str, Mapping[str, Sequence[Estimate]], _Axes]]) -> str:
    """Render charts of lines, or if there are many methods one chart for each of them."""
    methods = [name for name in summary.methods if any(name in there for _, there, _ in parts)]
    classes, own = _classes(methods), [name for name in methods if name not in BASELINES]
    if len(own) <= TOGETHER:
        figures = [
            _figure(head, _chart([_line(n, classes, there) for n in there], axes)) for head, there, axes in parts
        ]
        look = "charts one" if len(parts) == 1 else "charts"
        return f'{_key(methods, classes)}\n<div class="{look}">\n{"".join(figures)}</div>'
    baselines = [name for name in methods if name in BASELINES]
    groups = []
    for head, there, axes in parts:
        figures = [
            _figure(name, _chart([_line(n, classes, there) for n in [*baselines, name] if n in there], axes))
            for name in own
            if name in there
        ]
        groups.append(
            f"<h3>{_escaped(head)}</h3>\n" * bool(head) + f'<div class="charts small">\n{"".join(figures)}</div>'
        )
    return f"{_key(baselines, classes)}\n" + "\n".join(groups)


def _line(name: str, classes: Mapping[str, str], there: Mapping[str, Sequence[Estimate]]) -> _Line:
    return _Line(name, classes[name], there[name])


def _figure(caption: str, chart: str) -> str:
    words = f"<figcaption>{_escaped(caption)}</figcaption>" if caption else ""
    return f"<figure>{words}{chart}</figure>\n"


def _key(methods: Sequence[str], classes: Mapping[str, str]) -> str:
    """Render the names of lines with a sample of each."""
    items = "".join(
        f'<li><svg viewBox="0 0 34 12" aria-hidden="true"><g class="{classes[name]}"><path class="line" d="M0 6H34"/>'
        f"{_marker(classes[name], 17, 6)}</g></svg>{_escaped(name)}</li>"
        for name in methods
    )
    return f'<ul class="key">{items}</ul>' if items else ""


def _chart(lines: Sequence[_Line], axes: _Axes) -> str:
    """Render lines with their intervals as an inline SVG, baselines first."""
    left, top, width, height = _BOX
    low, high = axes.span

    def place(x: float, y: float) -> Tuple[float, float]:
        return left + x * width, top + height * (1 - (min(max(y, low), high) - low) / (high - low))

    parts = [
        f'<svg class="chart" viewBox="0 0 {_SIZE[0]:g} {_SIZE[1]:g}" role="img" '
        f'aria-label="{_escaped(_described(lines, axes))}">'
    ]
    for y, words in axes.y:
        down = place(0, y)[1]
        parts.append(f'<path class="guide" d="M{left:g} {down:.1f}H{left + width:g}"/>')
        parts.append(f'<text x="{left - 6:g}" y="{down + 4:.1f}" text-anchor="end">{_escaped(words)}</text>')
    for x, words in axes.x:
        at = place(x, 0)[0]
        parts.append(f'<text x="{at:.1f}" y="{top + height + 16:g}" text-anchor="middle">{_escaped(words)}</text>')
    middle = f"{left + width / 2:g}", f"{top + height / 2:g}"
    parts.append(
        f'<text class="label" x="{middle[0]}" y="{_SIZE[1] - 8:g}" text-anchor="middle">{_escaped(axes.across)}</text>'
    )
    turned = f'transform="translate(13 {middle[1]}) rotate(-90)" text-anchor="middle"'
    parts.append(f'<text class="label" {turned}>{_escaped(axes.up)}</text>')
    parts.append(f'<path class="frame" d="M{left:g} {top:g}V{top + height:g}H{left + width:g}"/>')
    for k, line in enumerate(sorted(lines, key=lambda one: one.title not in BASELINES)):
        steps = max(len(line.points) - 1, 1)
        known = [(i / steps, point) for i, point in enumerate(line.points) if point.values]
        ends = [(x, one) for x, one in known if math.isfinite(one.low)]
        band = [place(x, one.low) for x, one in ends] + [place(x, one.high) for x, one in reversed(ends)]
        drawn = [place(x, one.mean) for x, one in known]
        every = max(1, len(drawn) // _MARKED)
        parts.append(f'<g class="{line.style}"><title>{_escaped(line.title)}</title>')
        parts.append(f'<path class="band" d="{_path(band)}Z"/>' if band else "")
        parts.append(f'<path class="line" d="{_path(drawn)}"/>' if drawn else "")
        parts += [_marker(line.style, *point) for point in drawn[k % every :: every]]
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def _described(lines: Sequence[_Line], axes: _Axes) -> str:
    """Return a chart in words: the middle of each line, since all may begin and end alike."""
    words = [
        f"{line.title} {digits(line.points[len(line.points) // 2].mean) or 'not defined'}"
        for line in lines
        if line.points
    ]
    return f"{axes.label}; in the middle: {', '.join(words)}"


def _path(points: Sequence[Tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


_SHAPES = (  # relative to the centre, in units of the chart
    "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
    "m-2.7 -2.7h5.4v5.4h-5.4z",
    "m0 -3.4l3.3 5.8h-6.6z",
    "m0 -3.8l3.8 3.8l-3.8 3.8l-3.8 -3.8z",
    "m0 3.4l3.3 -5.8h-6.6z",
    "m-1.2 -3.6h2.4v2.4h2.4v2.4h-2.4v2.4h-2.4v-2.4h-2.4v-2.4h2.4z",
)


def _marker(style: str, x: float, y: float) -> str:
    """Render the marker of a method; baselines have none."""
    if not style.startswith("m"):
        return ""
    return f'<path class="dot" d="M{x:.1f} {y:.1f}{_SHAPES[int(style[1:])]}"/>'


def _escaped(words: Any) -> str:
    return html.escape(printable(words))
