"""Tables and statements of how faithful methods of explanation are: means, paired differences, curves."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from yolov5_featviz.arrays.statistics import (
    LEAST,
    Difference,
    Estimate,
    estimate,
    holm,
    least_p,
    paired_difference,
)
from yolov5_featviz.attribution.explain import METHODS
from yolov5_featviz.attribution.measured import BASELINES, METRICS, NAN, Measured, Metric
from yolov5_featviz.compare.summary import ALPHA, count, has_interval, no_conclusion
from yolov5_featviz.compare.tables import NARROW, WIDE, csv_text, tex_text
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.text import align, near, printable

TESTED = ("deletion", "insertion", "odi", "energy")  # metrics whose differences are tested
BEATEN = ("deletion", "insertion")  # metrics on which a method has to beat the baselines
CURVES = {"deletion": "deleted", "insertion": "inserted"}  # name -> field of a row
SAME, ALIKE = 0.9, 0.5  # rank correlations above which a map does not depend on the model, or only in part
RESAMPLES = 500  # of the bootstrap at each step of a curve
NOTES = 5  # most reasons in a sentence
NAMES: Dict[str, str] = {**METHODS, "heatmap": "heat map", **BASELINES}  # names in captions
NOT_MEASURED = ("change", "lit", "seconds")  # of baselines
OPTIONAL = ("change", "lit")  # may have been left out, which needs no reason
UNMEASURED = "not measured"
MINUS = "\N{MINUS SIGN}"

Curves = Mapping[Tuple[str, str], Sequence[Estimate]]  # method and kind of curve -> an estimate a step


class Comparison(NamedTuple):
    """Paired difference of a method to another, of the same detections.

    Attributes:
        metric: one of ``TESTED``.
        method, other: the difference is that of ``method`` minus that of ``other``.
        result: see :class:`yolov5_featviz.arrays.statistics.Difference`.
        p_holm: p by Holm's correction for all comparisons of the metric; NaN where p is.
    """

    metric: str
    method: str
    other: str
    result: Difference
    p_holm: float


class Summary(NamedTuple):
    """Means and differences of all methods.

    Attributes:
        methods: in the order of the rows, then the baselines.
        reference: the method that the others are compared with; empty if there are only baselines.
        images, detections: how many there are.
        means: method and metric -> the mean over detections, its interval by a bootstrap over images.
        comparisons: of each method with the reference and with each baseline.
        stages: names of the stages of randomisation, from the head downwards.
        sanity: method -> mean rank correlation at each stage; only methods of which there is one.
        missing: method and metric -> reason -> number of maps for which the metric is not defined.
    """

    methods: Tuple[str, ...]
    reference: str
    images: int
    detections: int
    means: Dict[Tuple[str, str], Estimate]
    comparisons: Tuple[Comparison, ...]
    stages: Tuple[str, ...]
    sanity: Dict[str, Tuple[Estimate, ...]]
    missing: Dict[Tuple[str, str], Dict[str, int]]

    @property
    def enough(self) -> bool:
        """Whether there are enough images for intervals and tests."""
        return self.images >= LEAST

    def compared(self, metric: str, method: str, other: str) -> Optional[Comparison]:
        """Return the comparison of two methods, whichever comes first; None if they are not compared."""
        for one in self.comparisons:
            if one.metric == metric and (one.method, one.other) == (method, other):
                return one
            if one.metric == metric and (one.method, one.other) == (other, method):
                return one._replace(method=method, other=other, result=_reversed(one.result))
        return None


def summarise(rows: Sequence[Measured], reference: Optional[str] = None, stages: Sequence[str] = ()) -> Summary:
    """Compute means, intervals and paired differences.

    Of the metrics in ``TESTED`` each method is compared with the reference and with each baseline, over the detections
    for which both are defined. The comparisons of one metric are one family for Holm's correction. Values that are not
    finite are not defined.

    Args:
        rows: one a detection and method.
        reference: a method; by default the first that is no baseline.
        stages: names of the stages of the sanity check, by default their numbers.

    Raises:
        FeatvizError: no such reference, two rows of one method for one detection, or other stages than the rows have.
    """
    values = _values(rows)
    methods = methods_of(rows)
    if reference is not None and reference not in methods:
        raise FeatvizError(
            f"no reference {printable(repr(reference), 80)}"
            + near(reference, methods, f"take one of {', '.join(methods) or 'no methods'}")
        )
    first = next((name for name in methods if name not in BASELINES), "")
    reference = first if reference is None else reference
    stages = stage_names(rows, stages)
    keys = {(row.image, row.detection) for row in rows}
    return Summary(
        methods,
        reference,
        len({image for image, _ in keys}),
        len(keys),
        {
            (name, metric): _estimate({key: number(row, metric) for key, row in values[name].items()}, METRICS[metric])
            for name in methods
            for metric in METRICS
        },
        _comparisons(values, methods, reference),
        stages,
        {name: found for name in methods for found in [_sanity(values[name], len(stages))] if found},
        {
            (name, metric): dict(found)
            for name in methods
            for metric in METRICS
            for found in [_reasons(values[name].values(), metric)]
            if found
        },
    )


def number(row: Measured, metric: str) -> float:
    """Return the value of a metric, NaN where it is not finite."""
    return _finite(getattr(row, metric))


def reason_of(row: Measured, metric: str) -> str:
    """Return why a metric of a row is not defined.

    Of the parts of the note, separated by ``; ``, one such as ``no ODI: there is no other object`` is about that metric
    alone, one without ``no`` and a title about all.
    """
    heads = {name: f"no {known.title}: " for name, known in METRICS.items()}
    parts = row.note.split("; ") if row.note else []
    own = [part[len(heads[metric]) :] for part in parts if part.startswith(heads[metric])]
    general = [part for part in parts if not part.startswith(tuple(heads.values()))]
    if own or general:
        return "; ".join(own or general)
    return UNMEASURED


def stage_names(rows: Sequence[Measured], stages: Sequence[str] = ()) -> Tuple[str, ...]:
    """Return the names of the stages of the sanity check, by default ``1``, ``2``...

    Raises FeatvizError if there are not as many as the rows have.
    """
    most = max((len(row.sanity) for row in rows), default=0)
    wrong = sorted({len(row.sanity) for row in rows if row.sanity} - {len(stages) if stages else most})
    if wrong:
        raise FeatvizError(f"{wrong[0]} rank correlations for {len(stages) or most} stages: give one for each stage")
    return tuple(stages or (str(k + 1) for k in range(most))) if most else ()


def mean_curves(rows: Sequence[Measured]) -> Dict[Tuple[str, str], Tuple[Estimate, ...]]:
    """Compute the mean curve of each method, with a pointwise 95 % interval by a bootstrap over images.

    Returns:
        Method and kind of curve (``deletion``, ``insertion``) -> an estimate a step; only those that have a curve.

    Raises:
        FeatvizError: curves of one method with different numbers of steps.
    """
    found: Dict[Tuple[str, str], Tuple[Estimate, ...]] = {}
    for method in methods_of(rows):
        for kind, field in CURVES.items():
            mine = [row for row in rows if row.method == method and len(getattr(row, field))]
            if not mine:
                continue
            lengths = sorted({len(getattr(row, field)) for row in mine})
            if len(lengths) > 1:
                raise FeatvizError(f"curves of {lengths[0]} and {lengths[-1]} values: measure all with the same steps")
            images = [row.image for row in mine]
            steps = zip(*(map(_finite, getattr(row, field)) for row in mine))
            curve = tuple(estimate(values, images, resamples=RESAMPLES) for values in steps)
            if any(point.values for point in curve):
                found[method, kind] = curve
    return found


def methods_of(rows: Iterable[Measured]) -> Tuple[str, ...]:
    """Return the methods in the order of the rows, then the baselines in theirs."""
    names = dict.fromkeys(row.method for row in rows)
    return (*(name for name in names if name not in BASELINES), *(name for name in BASELINES if name in names))


def significant(one: Optional[Comparison]) -> bool:
    """Return whether the corrected p value of a comparison is below ``ALPHA``."""
    return one is not None and one.p_holm < ALPHA


# Statements


def statements(summary: Summary) -> List[str]:
    """Return what follows from the numbers, in sentences without a full stop.

    Which baselines each method beats, and which it does not; which maps do not depend on the model; and which metrics
    are not defined, and why. With fewer than ``LEAST`` images nothing is compared.
    """
    return [*_beaten(summary), *_dependence(summary), *_empty(summary)]


def _beaten(summary: Summary) -> List[str]:
    if not summary.enough:
        return [no_conclusion(summary.images)]
    found = _too_few(summary, BEATEN)
    for metric in BEATEN:
        family = [one for one in summary.comparisons if one.metric == metric]
        if _least(family) >= ALPHA:
            continue
        for method in dict.fromkeys(one.method for one in family):
            against = [one for one in family if one.method == method and one.other in BASELINES]
            found += [*_verdicts(metric, method, against)]
    return found


def _least(family: Sequence[Comparison]) -> float:
    """Return the smallest p value that a family of comparisons can have, corrected; 0 if nothing is tested."""
    tested = [one for one in family if math.isfinite(one.result.p)]
    n = max((one.result.images for one in tested), default=0)
    return least_p(n, len(tested))


def _too_few(summary: Summary, metrics: Sequence[str]) -> List[str]:
    """Return in which metrics no comparison can be significant, and why."""
    groups: Dict[str, List[str]] = {}
    for metric in metrics:
        family = [one for one in summary.comparisons if one.metric == metric]
        least = _least(family)
        if least >= ALPHA:
            tested = [one.result.images for one in family if math.isfinite(one.result.p)]
            n = f"{count(max(tested), 'image')} are too few for {count(len(tested), 'comparison')}"
            words = f"{n}, since the smallest p possible is {min(least, 1):.2g} after Holm's correction: no conclusion"
            groups.setdefault(words, []).append(METRICS[metric].title)
    return [f"{_all(titles)}: {words}" for words, titles in groups.items()]


def _verdicts(metric: str, method: str, against: Sequence[Comparison]) -> Iterable[str]:
    """Yield what the comparisons of a method with the baselines show."""
    title, lower = METRICS[metric].title, METRICS[metric].better == "lower"
    tested = [one for one in against if math.isfinite(one.result.p)]
    better = [one for one in tested if significant(one) and (one.result.difference < 0) == lower]
    worse = [one for one in tested if significant(one) and one not in better]
    level = [one for one in tested if not significant(one)]
    for verb, end, group in (
        ("beats", "", better),
        ("does not beat", "", level),
        ("does not beat", ": it is worse", worse),
    ):
        if group:
            yield f"{method} {verb} {_all([_the(one.other) for one in group])} on {title}{end} ({_evidence(group)})"
    for one in against:
        if one not in tested:
            yield f"{method} and {_the(one.other)} on {title}, with both of them in {no_conclusion(one.result.images)}"


def _evidence(group: Sequence[Comparison]) -> str:
    """Return the range of differences, and the p value farthest from what is said; all significant, or none."""
    found = sorted(group, key=lambda one: one.result.difference)
    differences = list(dict.fromkeys(signed(found[k].result.difference) for k in (0, -1)))
    p = list(dict.fromkeys(p_words(one.p_holm) for one in sorted(group, key=lambda one: one.p_holm)))
    bound, words = (p[-1], "or less") if significant(group[0]) else (p[0], "or more")
    end = "" if len(group) == 1 else " each" if len(p) == 1 else f" {words}"
    return f"difference{'s' * (len(group) > 1)} {' to '.join(differences)}, {bound}{end}"


def _dependence(summary: Summary) -> List[str]:
    """Return which maps stay alike when all layers are randomised."""
    last = {name: found[-1].mean for name, found in summary.sanity.items()}
    lit = {name: summary.means[name, "lit"].mean for name in last}
    same = [name for name, mean in last.items() if mean > SAME]
    groups = (
        (
            [name for name in same if not lit[name] <= SAME],
            ("the map does", "the maps do"),
            "not depend on the model",
        ),
        (
            [name for name in same if lit[name] <= SAME],
            ("the map is", "the maps are"),
            "at the same place whatever the weights are",
        ),
        (
            [name for name, mean in last.items() if ALIKE <= mean <= SAME],
            ("the map depends", "the maps depend"),
            "on the model only in part",
        ),
    )
    found = []
    for names, verbs, words in groups:
        if names:
            images = max(summary.sanity[name][-1].images for name in names)
            where = f", on {count(images, 'image')}" * (images < max(summary.images, LEAST))
            means = _all(list(dict.fromkeys(f"{last[name]:.2f}" for name in names)))
            within = _all(list(dict.fromkeys(f"{lit[name]:.2f}" for name in names if math.isfinite(lit[name]))))
            means += f" ({within} over the cells that are above 0 in either)" * bool(within)
            found.append(
                f"{_all(names)}: rank correlation {means} with all layers randomised{where}: "
                f"{verbs[len(names) > 1]} {words}"
            )
    return found


def _empty(summary: Summary) -> List[str]:
    """Return which metrics are not defined for how many maps, and why; those with the same reasons together."""
    groups: Dict[Tuple[int, Tuple[Tuple[str, int], ...]], List[str]] = {}
    for metric in METRICS:
        maps, reasons = undefined(summary, metric)
        if reasons:
            groups.setdefault((maps, reasons), []).append(metric)
    found = []
    for (maps, reasons), metrics in groups.items():
        missing = sum(n for _, n in reasons)
        which = f"all {maps}" if missing == maps else f"{missing} of {maps}"
        verb = "are" if len(metrics) > 1 else "is"
        titles = _all([METRICS[metric].title for metric in metrics])
        found.append(f"{titles} {verb} not defined for {which} maps: {_reason_words(reasons)}")
    return found


def undefined(summary: Summary, metric: str) -> Tuple[int, Tuple[Tuple[str, int], ...]]:
    """Return the number of maps that a metric is measured of, and for how many it is not defined, by reason."""
    reasons: Counter[str] = Counter()
    for method in summary.methods:
        reasons.update(summary.missing.get((method, metric), {}))
    if metric in OPTIONAL:
        del reasons[UNMEASURED]
    defined = sum(summary.means[method, metric].values for method in summary.methods)
    return defined + sum(reasons.values()), tuple(reasons.most_common())


def _reason_words(reasons: Sequence[Tuple[str, int]]) -> str:
    words = [f"{printable(why, 120)} ({n})" for why, n in reasons[:NOTES]]
    rest = sum(n for _, n in reasons[NOTES:])
    return "; ".join([*words, *([f"other reasons ({rest})"] if rest else [])])


# CSV


def rows_csv(rows: Sequence[Measured], stages: Sequence[str] = ()) -> str:
    """Format all metrics as CSV, one line a detection and method; empty where one is not defined, with a note."""
    stages = stage_names(rows, stages)
    box = ("left", "top", "right", "bottom")
    head = ["image", "detection", "class", "score", *box, "method", "layers", *METRICS]
    head += [*(f"sanity_{stage}" for stage in stages), "note"]
    return csv_text(
        head,
        (
            [
                *(row.image, row.detection, row.label, _finite(row.score), *map(_finite, row.box)),
                *(row.method, ",".join(row.layers)),
                *(number(row, metric) for metric in METRICS),
                *(map(_finite, row.sanity) if row.sanity else [NAN] * len(stages)),
                row.note,
            ]
            for row in rows
        ),
    )


def curves_csv(rows: Sequence[Measured]) -> str:
    """Format the curves as CSV, two lines a detection and method, one column a step; empty where there is no map."""
    steps = max((len(getattr(row, field)) for row in rows for field in CURVES.values()), default=0)
    lines = []
    for row in rows:
        for kind, field in CURVES.items():
            values = [*map(_finite, getattr(row, field))]
            lines.append([row.image, row.detection, row.method, kind, *values, *[NAN] * (steps - len(values))])
    return csv_text(["image", "detection", "method", "kind", *(f"step_{step}" for step in range(steps))], lines)


def means_csv(summary: Summary) -> str:
    """Format means, ends of their intervals, numbers of images and detections as CSV, one line a method."""
    head = ["method", "kind", *(f"{metric}{end}" for metric in METRICS for end in _ENDS)]
    head += [*(f"sanity_{stage}" for stage in summary.stages), "note"]
    lines = []
    for method in summary.methods:
        numbers: List[Any] = [x for metric in METRICS for x in summary.means[method, metric]]
        numbers += [one.mean for one in summary.sanity.get(method, ())] or [NAN] * len(summary.stages)
        lines.append([method, kind_of(method), *numbers, note_of(summary, method)])
    return csv_text(head, lines)


_ENDS = ("", "_low", "_high", "_images", "_detections")


def differences_csv(summary: Summary) -> str:
    """Format paired differences as CSV, one line a comparison."""
    head = ["metric", "method", "other", "difference", "low", "high", "p", "p_holm", "effect", "images", "detections"]
    lines = []
    for one in summary.comparisons:
        r = one.result
        numbers = [r.difference, r.low, r.high, r.p, one.p_holm, r.effect, r.images, r.values]
        lines.append([one.metric, one.method, one.other, *numbers, remark_of(one)])
    return csv_text([*head, "note"], lines)


def kind_of(method: str) -> str:
    """Return ``method`` or ``baseline``."""
    return "baseline" if method in BASELINES else "method"


def note_of(summary: Summary, method: str, metrics: Iterable[str] = tuple(METRICS)) -> str:
    """Return which numbers of a method are not defined, and why."""
    words, metrics = [], list(metrics)
    for metric in metrics:
        reasons = Counter(summary.missing.get((method, metric), {}))
        if reasons:
            n = sum(reasons.values())
            which = f"{n} of {n + summary.means[method, metric].values}"
            words.append(f"{METRICS[metric].title}: not defined for {which}: {_reason_words(reasons.most_common())}")
    without = _unmeasured(summary, [method], metrics)
    words += [f"{without}: not measured for baselines"] if without else []
    few = [METRICS[m].title for m in metrics if 0 < summary.means[method, m].images < LEAST]
    if few:
        words.append(f"{_all(few) if summary.enough else 'all'}: fewer than {LEAST} images, no interval")
    return "; ".join(words)


def remark_of(one: Comparison) -> str:
    """Return which numbers of a comparison are not defined, and why."""
    if one.result.images < LEAST:
        return f"both in {no_conclusion(one.result.images)}"
    if math.isfinite(one.result.effect):
        return ""
    return f"{'the same' if one.result.difference else 'no'} difference in all images: no effect size"


# The terminal

_WITH_INTERVAL = ("deletion", "insertion", "odi")
_MEANS_ONLY = ("energy", "pointing", "box_area", "sparsity", "change", "seconds")
_SHORT = {
    **{name: known.title for name, known in METRICS.items()},
    "energy": "energy",
    "pointing": "pointing",
    "change": "change",
    "lit": "lit cells",
}
WIDTH = 100  # columns of the screen
_NAME = 22  # most characters of a method's name on the screen


def table(summary: Summary) -> str:
    """Format the means for the terminal, in tables of at most 100 columns; ``*`` marks differences to the reference."""
    parts = [_screen(summary, _WITH_INTERVAL, True), _screen(summary, _MEANS_ONLY, False), _screen_sanity(summary)]
    notes = "\n".join(textwrap.fill(note, WIDTH) for note in _footnotes(summary))
    return "\n\n".join(part for part in [*parts, notes] if part)


def _screen(summary: Summary, metrics: Sequence[str], intervals: bool) -> str:
    head = [f"{_SHORT[m]}{f' ({METRICS[m].better})' * bool(METRICS[m].better)}" for m in metrics]
    body = []
    for method in summary.methods:
        words = []
        for metric in metrics:
            one = summary.means[method, metric]
            ends = f" [{digits(one.low)}, {digits(one.high)}]" if intervals and has_interval(one) else ""
            marked = any(mark_of(summary, metric, name) for name in summary.methods)
            mark = mark_of(summary, metric, method) or " " * marked
            words.append(f"{digits(one.mean) or '-'}{ends}{mark}")
        body.append([printable(method, _NAME), *words])
    return align([["method", *head], *body], right=range(1, len(head) + 1))


def _screen_sanity(summary: Summary) -> str:
    if not summary.sanity:
        return ""
    last = len(summary.stages) - 1
    at = sorted({round(last * k / 4) for k in range(5)})
    head = ["rank correlation when randomised", *(printable(summary.stages[k], 11) for k in at)]
    body = [
        [printable(name, _NAME), *(digits(found[k].mean) or "-" for k in at)] for name, found in summary.sanity.items()
    ]
    return align([head, *body], right=range(1, len(head)))


def _footnotes(summary: Summary) -> List[str]:
    """Return what the tables are of, and what their marks mean."""
    n = count(summary.images, "image"), count(summary.detections, "detection")
    if not summary.enough:
        return [f"{n[1]}; {no_conclusion(summary.images)}"]
    found = [f"{', '.join(n)}; mean over detections [95 % interval, bootstrap over images]"]
    if any(mark_of(summary, metric, method) for metric in TESTED for method in summary.methods):
        found.append(f"* differs from {printable(summary.reference, 60)}: p < {ALPHA:g}, paired, Holm's correction")
    found += _too_few(summary, TESTED)
    if any(set(reasons) - {UNMEASURED} for reasons in summary.missing.values()):
        found.append("- not defined; the note of each row says why")
    return found


def mark_of(summary: Summary, metric: str, method: str) -> str:
    """Return ``*`` if a method differs significantly from the reference in a metric, else nothing."""
    return "*" if significant(summary.compared(metric, method, summary.reference)) else ""


# LaTeX

_WIDE = ("deletion", "insertion", "odi", "energy", "pointing", "sparsity", "change", "seconds")
_PLAIN = ("seconds",)  # metrics without an interval


def latex(summary: Summary, about: Mapping[str, Any], column: bool = False) -> str:
    """Format the means as a LaTeX tabular: two lines a method, the mean and its interval; baselines below a rule.

    Needs the package booktabs. A metric that is not defined for any map has no column.

    Args:
        summary: the numbers.
        about: ``steps`` and ``fill`` of the curves are named in the notes, if they are there.
        column: for one column of 3.5 inches: deletion, insertion and ODI only.
    """
    wanted = _WITH_INTERVAL if column else _WIDE
    shown = [m for m in wanted if any(summary.means[name, m].values for name in summary.methods)]
    columns = 1 + len(shown)
    better = [rf"\scriptsize {METRICS[m].better} is better" if METRICS[m].better else "" for m in shown]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begingroup\footnotesize\setlength{\tabcolsep}{3pt}%",
        rf"\begin{{tabular}}{{@{{}}l{'r' * len(shown)}@{{}}}}",
        r"\toprule",
        " & ".join(["Method", *(_capital(_SHORT[m]) for m in shown)]) + r" \\",
        *([" & ".join(["", *better]) + r" \\"] if any(better) else []),
    ]
    own = [name for name in summary.methods if name not in BASELINES]
    for group in (own, [name for name in summary.methods if name in BASELINES]):
        lines += [r"\midrule"] if group else []
        for name in group:
            lines += _latex_rows(summary, name, shown)
    lines.append(r"\bottomrule")
    for note in _latex_notes(summary, about, shown):
        for line in textwrap.wrap(note, NARROW if column else WIDE, break_on_hyphens=False):
            lines.append(rf"\multicolumn{{{columns}}}{{@{{}}l@{{}}}}{{\scriptsize {tex_text(line)}}} \\")
    return "\n".join([*lines, r"\end{tabular}\endgroup", ""])


def _latex_rows(summary: Summary, method: str, metrics: Sequence[str]) -> List[str]:
    name = tex_text(printable(_capital(NAMES.get(method, method)), 40))
    means, ends = [f"{{{name}}}" if name[:1] in "[*" else name], [""]  # after a line end either would be its argument
    for metric in metrics:
        one = summary.means[method, metric]
        mark = "\\rlap{*}" if mark_of(summary, metric, method) else ""
        means.append((_latex_number(one.mean) or "--") + mark)
        interval = has_interval(one) and metric not in _PLAIN
        ends.append(rf"\scriptsize [{_latex_number(one.low)}, {_latex_number(one.high)}]" if interval else "")
    return [" & ".join(means) + r" \\", *([" & ".join(ends) + r" \\"] if any(ends) else [])]


def _latex_notes(summary: Summary, about: Mapping[str, Any], metrics: Sequence[str]) -> List[str]:
    """Return the notes below the table, not escaped."""
    n = f"{count(summary.images, 'image')}, {count(summary.detections, 'detection')}"
    how = [f"{about['steps']} steps"] if "steps" in about else []
    how += [f"fill: {printable(about['fill'], 60)}"] if "fill" in about else []
    found = [f"{'; '.join([n, *how])}."]
    if summary.enough:
        found[0] += " Mean over detections, and its 95 % interval by a bootstrap over images."
    else:
        found[0] += f" {no_conclusion(summary.images)}."
    if any(mark_of(summary, metric, method) for metric in metrics for method in summary.methods):
        named = _capital(NAMES.get(summary.reference, summary.reference))
        found.append(f"* differs from {printable(named, 60)}: p < {ALPHA:g}, paired by detection, Holm's correction.")
    areas = [summary.means[name, "box_area"].mean for name in summary.methods]
    area = next((mean for mean in areas if math.isfinite(mean)), NAN)
    found += [f"{_capital(words)}." for words in _too_few(summary, [m for m in TESTED if m in metrics])]
    if "energy" in metrics and math.isfinite(area):
        found.append(f"Energy: share of the map inside the box, which covers {digits(area)} of the image.")
    return [*found, *(f"{_capital(words)}." for words in lacking(summary, metrics))]


def lacking(summary: Summary, metrics: Sequence[str]) -> List[str]:
    """Return of how many maps each metric is not defined, and why, without full stops."""
    found = []
    for metric in metrics:
        maps, reasons = undefined(summary, metric)
        if reasons:
            n = sum(lacked for _, lacked in reasons)
            found.append(f"{METRICS[metric].title}: not defined for {n} of {maps} maps: {_reason_words(reasons)}")
    without = _unmeasured(summary, summary.methods, metrics)
    return [*found, *([f"not measured for baselines: {without}"] if without else [])]


def _latex_number(x: float) -> str:
    return digits(x).replace(MINUS, "$-$")


# Values and words


def digits(x: float) -> str:
    """Format a number with three decimals, above 100 with fewer; empty if it is not finite."""
    if not math.isfinite(x):
        return ""
    words = f"{x:.{3 if abs(x) < 100 else 1 if abs(x) < 1e6 else 0}f}"
    return (words if float(words) else words.lstrip("-")).replace("-", MINUS)


def signed(x: float) -> str:
    """Format a difference with its sign; empty if it is not finite."""
    words = digits(x)
    return f"+{words}" if words and not words.startswith(MINUS) and float(words) else words


def title_of(metric: str) -> str:
    """Return the title of a metric in tables."""
    return METRICS[metric].title


def p_words(p: float) -> str:
    """Format a p value as ``p 0.43`` or ``p < 0.001``; empty if it is not finite."""
    if not math.isfinite(p):
        return ""
    return "p < 0.001" if p < 0.001 else f"p {p:.2g}"


def _finite(x: Any) -> float:
    value = float(x)
    return value if math.isfinite(value) else NAN


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _the(baseline: str) -> str:
    name = BASELINES[baseline]
    return f"the {name}{',' * (',' in name)}"


def _all(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def _unmeasured(summary: Summary, methods: Sequence[str], metrics: Sequence[str]) -> str:
    """Return the titles of the metrics that are not measured of the baselines among some methods."""
    baselines = [name for name in methods if name in BASELINES]
    wanted = [metric for metric in NOT_MEASURED if metric in metrics]
    lacking = [m for m in wanted if any(not summary.means[name, m].values for name in baselines)]
    return _all([METRICS[metric].title for metric in lacking])


def _values(rows: Sequence[Measured]) -> Dict[str, Dict[Tuple[str, int], Measured]]:
    """Return the rows of each method by image and number of the detection."""
    found: Dict[str, Dict[Tuple[str, int], Measured]] = {}
    for row in rows:
        mine = found.setdefault(row.method, {})
        if (row.image, row.detection) in mine:
            where = f"detection {row.detection} of {printable(row.image, 200)}"
            raise FeatvizError(f"two rows of {printable(row.method, 80)} for {where}: give images different names")
        mine[row.image, row.detection] = row
    return found


def _reasons(rows: Iterable[Measured], metric: str) -> Counter[str]:
    left_out = BASELINES if metric in NOT_MEASURED else ()
    there = (row for row in rows if row.method not in left_out)
    return Counter(reason_of(row, metric) for row in there if math.isnan(number(row, metric)))


def _estimate(values: Mapping[Tuple[str, int], float], metric: Metric) -> Estimate:
    """Return the mean and its interval, cut to the range that the metric can have."""
    found = estimate(list(values.values()), [image for image, _ in values])
    low, high = metric.limits
    return found._replace(low=max(found.low, low), high=min(found.high, high)) if found.images >= LEAST else found


def _sanity(rows: Mapping[Tuple[str, int], Measured], stages: int) -> Tuple[Estimate, ...]:
    """Return the mean rank correlation at each stage; empty if there is none."""
    there = {key: row.sanity for key, row in rows.items() if row.sanity}
    if not there:
        return ()
    found = tuple(_estimate({key: _finite(of[k]) for key, of in there.items()}, METRICS["lit"]) for k in range(stages))
    return found if any(one.values for one in found) else ()


def _comparisons(
    values: Mapping[str, Mapping[Tuple[str, int], Measured]], methods: Sequence[str], reference: str
) -> Tuple[Comparison, ...]:
    own = [name for name in methods if name not in BASELINES]
    others = list(dict.fromkeys([reference, *(name for name in methods if name in BASELINES)]))
    pairs = [(name, other) for name in own for other in others if other != name]
    found: List[Comparison] = []
    for metric in TESTED:
        results = [_difference(values[name], values[other], metric) for name, other in pairs]
        adjusted = holm([result.p for result in results])
        family = (Comparison(metric, *pair, result, float(p)) for pair, result, p in zip(pairs, results, adjusted))
        found += [one for one in family if one.result.values]
    return tuple(found)


def _difference(
    rows: Mapping[Tuple[str, int], Measured], others: Mapping[Tuple[str, int], Measured], metric: str
) -> Difference:
    both = [key for key in rows if key in others]
    return paired_difference(
        [number(rows[key], metric) for key in both],
        [number(others[key], metric) for key in both],
        [image for image, _ in both],
    )


def _reversed(result: Difference) -> Difference:
    return result._replace(difference=-result.difference, low=-result.high, high=-result.low, effect=-result.effect)
