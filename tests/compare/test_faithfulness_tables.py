"""Tables, sentences, curves and page of `faithfulness`: true in both directions, and no number where there is none."""

import base64
import csv
import hashlib
import io
import itertools
import json
import math
import os
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib import get_data_path
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from PIL import Image
from scipy import stats

from yolov5_featviz.arrays.statistics import LEAST
from yolov5_featviz.attribution.measured import BASELINES, METRICS, Measured
from yolov5_featviz.compare.faithfulness import (
    TESTED,
    curves_csv,
    differences_csv,
    latex,
    mean_curves,
    means_csv,
    rows_csv,
    statements,
    summarise,
    table,
)
from yolov5_featviz.compare.faithfulness_figure import TOGETHER, draw_curves, look_of
from yolov5_featviz.compare.faithfulness_page import page
from yolov5_featviz.errors import FeatvizError

NAN = float("nan")
ABOUT = {"command": ["faithfulness", "--source", "a b.jpg"], "steps": 4, "fill": "blur"}
STAGES = ("head", "neck", "all")
NASTY = "<img src=x onerror=alert(1)> \"'& {{data}} </script><!-- $x_2^3$ ~100% #1 \\end{tabular} 名字\né.jpg"
VOID = {"meta", "link", "img", "input", "br"}


def row(image, detection, method, deletion=NAN, insertion=NAN, **more):
    """A map whose curves are straight between their ends and a middle value, and have the areas that are given."""
    curves = {}
    if math.isfinite(deletion):
        curves["deleted"] = (1.0, deletion, deletion, deletion, 0.0)
    if math.isfinite(insertion):
        curves["inserted"] = (0.0, insertion, insertion, insertion, 1.0)
    return Measured(
        image, detection, "bus", 0.9, (1.0, 2.0, 30.0, 40.5), method, ("17",), deletion, insertion
    )._replace(**{**curves, **more})


def some_rows(images=20, methods=("good", "poor"), offsets=None, seed=0, most=3, **more):
    """Rows of detections, of which some images have more than others; ``offsets`` of a method are added to deletion."""
    random = np.random.default_rng(seed)
    offsets = offsets or {"good": -0.2, "poor": 0.0, "random": 0.2, "centre": 0.1, "box": 0.0, "edges": 0.15}
    found = []
    for i in range(images):
        of_image = random.normal(0, 0.05)
        for k in range(1 + i % most):
            of_detection = random.normal(0, 0.05)
            for method in (*methods, *BASELINES):
                x = 0.4 + of_image + of_detection + random.normal(0, 0.01) + offsets.get(method, 0.0)
                own = {name: float(random.random()) for name in ("odi", "energy", "sparsity")}
                own.update({"pointing": float(random.random() < 0.5), "box_area": 0.25})
                if method not in BASELINES:
                    own.update(change=0.1, seconds=1.5, sanity=(0.5, 0.3, 0.1))
                found.append(row(f"image{i}.jpg", k, method, x, 1 - x, **{**own, **more}))
    return found


def changed(rows, which, **values):
    """The rows, with those of a method changed."""
    return [one._replace(**values) if one.method == which else one for one in rows]


def lines_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def printed(text):
    """A text with its notes in LaTeX as they are printed."""
    lines = text.replace("} \\\\\n", "\n").replace("\\%", "%").replace("\\textless{}", "<")
    return " ".join(re.sub(r"\\multicolumn\{\d\}\{@\{\}l@\{\}\}\{\\scriptsize ", "", lines).split())


def outputs(rows, stages=()):
    """All that is made of rows, as text."""
    summary = summarise(rows, stages=stages)
    content = page(summary, rows, ABOUT).decode()
    made = {
        "rows": rows_csv(rows, stages),
        "curves": curves_csv(rows),
        "means": means_csv(summary),
        "differences": differences_csv(summary),
        "table": table(summary),
        "latex": latex(summary, ABOUT),
        "column": latex(summary, ABOUT, column=True),
        "statements": "\n".join(statements(summary)),
        "page": content,
    }
    return summary, made


# Numbers


def test_means_are_those_of_plain_loops():
    rows = some_rows(9)
    summary = summarise(rows)
    assert summary.images == 9 and summary.detections == 18 and summary.reference == "good"
    assert summary.methods == ("good", "poor", *BASELINES)
    for line in lines_of(means_csv(summary)):
        for metric in METRICS:
            values = [getattr(one, metric) for one in rows if one.method == line["method"]]
            values = [value for value in values if not math.isnan(value)]
            if not values:
                assert line[metric] == "" and line[f"{metric}_detections"] == "0"
                continue
            assert float(line[metric]) == pytest.approx(sum(values) / len(values), rel=1e-8)
            assert line[f"{metric}_images"] == "9" and line[f"{metric}_detections"] == "18"
            low, high = float(line[f"{metric}_low"]), float(line[f"{metric}_high"])
            assert low == high if len(set(values)) == 1 else low < float(line[metric]) < high


def test_differences_and_their_tests_are_those_of_scipy_and_of_holm_by_hand():
    rows = some_rows(8, offsets={"good": -0.05, "poor": 0.01, "random": 0.02, "box": 0.0, "centre": 0.1})
    lines = lines_of(differences_csv(summarise(rows)))
    for metric in TESTED:
        family = [line for line in lines if line["metric"] == metric]
        pairs = [(line["method"], line["other"]) for line in family]
        expected = [("good", name) for name in BASELINES]
        expected += [("poor", "good"), *(("poor", name) for name in BASELINES)]
        assert pairs == expected
        for line in family:
            values = {}
            for one in rows:
                values[one.image, one.detection, one.method] = getattr(one, metric)
            apart = {}
            for image, detection, method in values:
                if method == line["method"]:
                    own = values[image, detection, method] - values[image, detection, line["other"]]
                    apart.setdefault(image, []).append(own)
            every = [one for own in apart.values() for one in own]
            assert float(line["difference"]) == pytest.approx(sum(every) / len(every), abs=1e-8)
            assert (line["images"], line["detections"]) == ("8", str(len(every)))
            sums = np.array([sum(own) for own in apart.values()])
            tested = stats.permutation_test(
                (sums, np.zeros(8)), lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples"
            )
            assert float(line["p"]) == pytest.approx(tested.pvalue, abs=1e-8)
            means = np.array([sum(own) / len(own) for own in apart.values()])
            assert float(line["effect"]) == pytest.approx(means.mean() / means.std(ddof=1), rel=1e-6)
            assert float(line["low"]) < float(line["difference"]) < float(line["high"])
        order = sorted(family, key=lambda line: float(line["p"]))
        largest = 0.0
        for k, line in enumerate(order):  # Holm: the smallest times 9, the next times 8...
            largest = max(largest, min(1.0, float(line["p"]) * (len(order) - k)))
            assert float(line["p_holm"]) == pytest.approx(largest, rel=1e-6)


def test_the_same_detections_are_compared_whatever_the_order_and_what_lacks():
    rows = some_rows(12)
    before = summarise(rows)
    shuffled = [rows[k] for k in np.random.default_rng(1).permutation(len(rows))]
    after = summarise(shuffled, "good")
    for metric, other in itertools.product(TESTED, BASELINES):
        a, b = (one.compared(metric, "good", other).result for one in (before, after))
        assert (a.difference, a.p, a.images, a.values) == pytest.approx((b.difference, b.p, b.images, b.values))
    gone = ("image3.jpg", 0)
    less = [one for one in rows if (one.image, one.detection) != gone or one.method != "box"]
    undefined = [
        one._replace(deletion=NAN) if (one.image, one.detection, one.method) == (*gone, "good") else one for one in rows
    ]
    values = [
        one.deletion - other.deletion
        for one in rows
        for other in rows
        if (one.method, other.method) == ("good", "box")
        and (one.image, one.detection) == (other.image, other.detection) != gone
    ]
    for some in (less, undefined):
        found = summarise(some).compared("deletion", "good", "box").result
        assert found.difference == pytest.approx(sum(values) / len(values)) and found.values == len(values)


def test_a_comparison_is_found_in_either_order_with_its_sign_turned():
    summary = summarise(some_rows(10))
    one, other = summary.compared("deletion", "good", "box"), summary.compared("deletion", "box", "good")
    assert other.result.difference == -one.result.difference and other.result.effect == -one.result.effect
    assert (other.result.low, other.result.high) == (-one.result.high, -one.result.low)
    assert other.p_holm == one.p_holm and summary.compared("deletion", "random", "box") is None


@pytest.mark.parametrize("reference", ["poor", "box"])
def test_another_reference(reference):
    summary = summarise(some_rows(10), reference)
    pairs = [(one.method, one.other) for one in summary.comparisons if one.metric == "deletion"]
    assert len(pairs) == len(set(pairs)) == len({frozenset(pair) for pair in pairs})
    assert all(method not in BASELINES for method, _ in pairs)
    assert all(("good", name) in pairs for name in {*BASELINES, reference})


def test_wrong_requests_are_one_line():
    rows = some_rows(3)
    with pytest.raises(FeatvizError, match="no reference 'god': did you mean good"):
        summarise(rows, "god")
    with pytest.raises(FeatvizError, match=r"^two rows of good for detection 0 of image0.jpg: give images different"):
        summarise([*rows, rows[0]])
    with pytest.raises(FeatvizError, match="3 rank correlations for 2 stages"):
        summarise(rows, stages=["a", "b"])
    with pytest.raises(FeatvizError, match="curves of 3 and 5 values"):
        mean_curves([rows[0]._replace(deleted=(1.0, 0.5, 0.0)), *rows[1:]])
    bare = [one._replace(deleted=(), inserted=()) for one in rows]
    with pytest.raises(FeatvizError, match="no curves"):
        draw_curves(bare)


# Sentences


def test_what_beats_and_what_does_not_is_said_of_both_metrics():
    summary = summarise(some_rows(20, seed=1))
    said = statements(summary)
    every = "the random map, the Gaussian at the centre, the box, filled, and the edge detector"
    three = "the random map, the Gaussian at the centre and the edge detector"
    for metric in ("deletion", "insertion"):
        assert any(line.startswith(f"good beats {every} on {metric} (differences ") for line in said)
        assert any(line.startswith(f"poor beats {three} on {metric} (differences ") for line in said)
        (one,) = [line for line in said if line.startswith("poor does not beat") and metric in line]
        result = summary.compared(metric, "poor", "box")
        sign = "+" if result.result.difference > 0 else "−"
        number = f"{sign}{abs(result.result.difference):.3f}"
        assert one == f"poor does not beat the box, filled, on {metric} (difference {number}, p {result.p_holm:.2g})"
    assert not any("good does not" in line or "worse" in line for line in said)


def test_a_significant_difference_in_the_wrong_direction_is_no_victory():
    """Of deletion lower is better, of insertion higher: what is good on one is turned on the other."""
    rows = [one._replace(insertion=one.deletion) for one in some_rows(20)]
    said = statements(summarise(rows))
    assert any(re.match(r"good beats .* on deletion \(", line) for line in said)
    assert not any(re.match(r"good beats .* on insertion", line) for line in said)
    (line,) = [line for line in said if line.startswith("good does not beat") and "insertion" in line]
    assert re.search(r"on insertion: it is worse \(differences −0\.\d+ to −0\.\d+, p < 0\.001 each\)$", line)


def test_equal_maps_do_not_beat():
    rows = [one._replace(deletion=0.5, insertion=0.5) for one in some_rows(10)]
    said = statements(summarise(rows))
    assert not any(" beats " in line for line in said)
    every = "the random map, the Gaussian at the centre, the box, filled, and the edge detector"
    assert f"good does not beat {every} on deletion (differences 0.000, p 1 each)" in said


def test_the_p_value_that_is_said_is_the_one_farthest_from_what_is_said():
    """Of several that are significant the largest, of several that are not the smallest."""
    offsets = {"good": -0.1, "poor": 0.0, "random": -0.094, "centre": 0.003, "box": 0.0, "edges": 0.001}
    summary = summarise(some_rows(12, offsets=offsets, seed=2))
    said = statements(summary)
    for verb, method, inside in (("beats", "good", True), ("does not beat", "poor", False)):
        (line,) = [x for x in said if x.startswith(f"{method} {verb}") and x.endswith(")") and " on deletion (" in x]
        p = [summary.compared("deletion", method, name).p_holm for name in BASELINES]
        p = [x for x in p if (x < 0.05) == inside]
        assert len({f"{x:.2g}" for x in p}) > 1
        bound = f"p {max(p):.2g} or less)" if inside else f"p {min(p):.2g} or more)"
        assert line.endswith(bound), line


@pytest.mark.parametrize("images", [1, 2, LEAST - 1])
def test_few_images_are_no_conclusion(images):
    rows = some_rows(images)
    summary, made = outputs(rows, STAGES)
    words = f"{images} image{'s' * (images > 1)}: no conclusion"
    assert statements(summary)[0] == words and not any("beat" in line for line in statements(summary))
    for name in ("table", "latex", "column", "page"):
        assert words in printed(made[name]), name
        assert "95 %" not in printed(made[name]).split("<footer>")[0].split("What the numbers mean")[0]
    assert "*" not in made["table"] and "rlap" not in made["latex"] + made["column"]
    for line in lines_of(made["differences"]):
        assert line["p"] == line["p_holm"] == line["low"] == line["high"] == line["effect"] == ""
        assert line["difference"] and line["note"] == f"both in {words}"
    assert all(line["deletion_low"] == "" and "no interval" in line["note"] for line in lines_of(made["means"]))


def test_images_that_are_too_few_for_so_many_comparisons_are_no_conclusion():
    """With 7 images p is 1/64 at least, times 9 comparisons 0.14: nothing can be shown, so nothing is said."""
    said = statements(summarise(some_rows(7)))
    assert said[0] == (
        "deletion and insertion: 7 images are too few for 9 comparisons, since the smallest p possible is 0.14 after "
        "Holm's correction: no conclusion"
    )
    assert not any("beat" in line for line in said)
    alone = [one for one in some_rows(7) if one.method in ("good", "random")]
    assert statements(summarise(alone))[0].startswith("good beats the random map on deletion (difference −0.")


def test_a_comparison_of_few_of_many_images_is_no_conclusion():
    there = ("image0.jpg", "image1.jpg")
    rows = [
        one._replace(deletion=NAN) if one.method == "poor" and one.image not in there else one for one in some_rows()
    ]
    said = statements(summarise(rows))
    assert "poor and the box, filled, on deletion, with both of them in 2 images: no conclusion" in said
    assert not any(re.match(r"poor (beats|does not beat) .* on deletion", line) for line in said)
    assert any(re.match(r"good beats .* on deletion", line) for line in said)
    assert any(re.match(r"poor beats .* on insertion", line) for line in said)


def test_maps_that_do_not_depend_on_the_model_are_named():
    rows = some_rows(10, ("good", "poor", "fixed"))
    rows = changed(rows, "fixed", sanity=(0.99, 0.98, 0.97))
    rows = changed(rows, "edges", sanity=(1.0, 1.0, 0.97))
    rows = changed(rows, "poor", sanity=(0.9, 0.2, 0.7))
    said = statements(summarise(rows, stages=STAGES))
    assert (
        "fixed and edges: rank correlation 0.97 with all layers randomised: the maps do not depend on the model" in said
    )
    assert "poor: rank correlation 0.70 with all layers randomised: the map depends on the model only in part" in said
    assert not any("good" in line and "randomised" in line for line in said)
    placed = statements(summarise(changed(rows, "fixed", lit=0.6), stages=STAGES))
    line = "fixed: rank correlation 0.97 (0.60 over the cells that are above 0 in either) with all layers randomised: "
    assert f"{line}the map is at the same place whatever the weights are" in placed
    rows = [one if one.image in ("image0.jpg", "image1.jpg") else one._replace(sanity=()) for one in rows]
    said = statements(summarise(rows, stages=STAGES))
    assert any("with all layers randomised, on 2 images: the maps do not" in line for line in said)
    bare = summarise([one._replace(sanity=()) for one in rows], stages=STAGES)
    assert bare.stages == () and not any("randomised" in line for line in statements(bare))


def test_intervals_are_cut_to_what_a_number_can_be():
    """One image of eight is another extreme: the studentised interval would leave the range."""
    rows = [one._replace(energy=float(one.image != "image3.jpg"), lit=1.0) for one in some_rows(8)]
    rows = [one._replace(deletion=3.0 if one.image == "image3.jpg" else 0.01) for one in rows]
    summary = summarise(rows)
    for (_, metric), one in summary.means.items():
        low, high = METRICS[metric].limits
        assert not one.values or (low <= one.low <= one.mean <= one.high <= high), metric
    assert any(one.high == 1 for (_, metric), one in summary.means.items() if metric == "energy")


def test_what_is_not_defined_is_said_with_the_reasons_counted():
    rows = some_rows(10)
    n = sum(one.detection == 0 for one in rows)
    rows = [
        one._replace(odi=NAN, note="no ODI: there is no other object") if one.detection == 0 else one for one in rows
    ]
    rows = changed(rows, "poor", **dict.fromkeys(METRICS, NAN), deleted=(), inserted=(), note="the map is flat")
    summary = summarise(rows, stages=STAGES)
    poor = sum(one.method == "poor" for one in rows)
    own = sum(one.method in ("good", "poor") for one in rows)
    said = statements(summary)
    kept = n - 10  # those of poor have the other reason
    every = f"there is no other object ({kept}); the map is flat ({poor})"
    assert f"ODI is not defined for {kept + poor} of {len(rows)} maps: {every}" in said
    together = "deletion, insertion, energy in box, pointing game, box area and sparsity are"
    assert f"{together} not defined for {poor} of {len(rows)} maps: the map is flat ({poor})" in said
    flat = f"change by noise and seconds are not defined for {poor} of {own} maps: the map is flat ({poor})"
    assert flat in said  # baselines are not counted: it is not measured of them
    assert not any("poor" in line for line in said)
    assert re.search(r"^poor +- +- +-$", table(summary), re.M)
    assert r"Poor & -- & -- & -- & -- & -- & -- & -- & -- \\" in latex(summary, ABOUT)
    (line,) = [line for line in lines_of(means_csv(summary)) if line["method"] == "poor"]
    assert line["deletion"] == "" and f"deletion: not defined for {poor} of {poor}: the map is flat" in line["note"]
    assert {one.method for one in summary.comparisons} == {"good"}


def test_a_metric_that_was_not_measured_at_all_has_no_column():
    rows = [one._replace(odi=NAN, change=NAN) for one in some_rows(8)]
    summary = summarise(rows)
    assert "ODI" not in latex(summary, ABOUT, True).split(r"\midrule")[0]
    assert f"ODI is not defined for all {len(rows)} maps: not measured ({len(rows)})" in statements(summary)
    assert not any("change by noise" in line for line in statements(summary))  # may be left out


# No number where there is none


def odd_rows():
    usual = some_rows(8)
    bare = dict.fromkeys(METRICS, NAN)
    yield "usual", usual
    yield "none", []
    yield "one", usual[:1]
    yield "one image", some_rows(1)
    yield "only baselines", [one for one in usual if one.method in BASELINES]
    yield "no baselines", [one for one in usual if one.method not in BASELINES]
    yield "all equal", [one._replace(deletion=0.5, insertion=0.5, odi=0.0, energy=0.0) for one in usual]
    yield "no map", changed(usual, "good", **bare, deleted=(), inserted=(), sanity=(), note="flat")
    yield "no map at all", [one._replace(**bare, deleted=(), inserted=(), sanity=(), note="flat") for one in usual]
    yield "infinite", changed(usual, "poor", deletion=math.inf, change=-math.inf, sanity=(math.inf, NAN, 0.1))
    yield "curves with gaps", changed(usual, "poor", deleted=(NAN, NAN, math.inf, 0.2, 0.0))
    yield "no sanity", changed(usual, "good", sanity=(NAN, NAN, NAN))
    yield "huge", changed(usual, "good", seconds=1e9, change=12345.678)
    yield "tiny", changed(usual, "good", deletion=-1e-12, insertion=1e-300)
    yield "numpy", [one._replace(deletion=np.float32(one.deletion), sanity=()) for one in usual]
    yield "many", some_rows(8, tuple(f"method {k}" for k in range(12)))


@pytest.mark.parametrize("rows", [pytest.param(rows, id=name) for name, rows in odd_rows()])
def test_no_output_has_a_number_that_is_none(rows):
    stages = STAGES if any(one.sanity for one in rows) else ()
    _, made = outputs(rows, stages)
    for name, text in made.items():
        text = re.sub(r"<style>.*?</style>", "", text, flags=re.S)
        found = re.search(r"\b(nan|-?inf(inity)?)\b", text, re.I)
        assert found is None, f"{name}: ...{text[max(0, found.start() - 80) : found.end() + 20]}"
        assert not re.search(r"[-−]0\.000(?!\d)", text), name
    assert max(map(len, made["table"].splitlines())) <= 100
    for name in ("latex", "column"):
        check_latex(made[name])
    Page(made["page"])
    if any(one.deleted for one in rows):
        assert draw_curves(rows).to_png()[:4] == b"\x89PNG"


# Tables


def test_rows_and_curves_are_read_back_as_they_were():
    rows = some_rows(3)
    lines = lines_of(rows_csv(rows, STAGES))
    assert len(lines) == len(rows)
    for line, one in zip(lines, rows):
        assert (line["image"], line["detection"], line["class"]) == (one.image, str(one.detection), "bus")
        assert [line[side] for side in ("left", "top", "right", "bottom")] == ["1", "2", "30", "40.5"]
        assert (line["method"], line["layers"]) == (one.method, "17")
        for metric in METRICS:
            value = getattr(one, metric)
            assert line[metric] == "" if math.isnan(value) else float(line[metric]) == pytest.approx(value, rel=1e-8)
        sanity = one.sanity or ("", "", "")
        assert [line[f"sanity_{stage}"] for stage in STAGES] == [str(value) for value in sanity]
    assert "sanity_1" in rows_csv(rows).split("\n")[0]  # stages without names have numbers
    curves = lines_of(curves_csv(rows))
    assert [line["kind"] for line in curves] == ["deletion", "insertion"] * len(rows)
    for line, one in zip(curves[::2], rows):
        assert [float(line[f"step_{k}"]) for k in range(5)] == pytest.approx(one.deleted, rel=1e-8)


def test_the_table_on_the_screen_has_the_means_the_intervals_and_the_marks():
    summary = summarise(some_rows(20))
    text = table(summary)
    one = summary.means["good", "deletion"]
    assert f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]" in text
    assert "deletion (lower)" in text and "insertion (higher)" in text and "↓" not in text
    marked = {line.split()[0] for line in text.split("\n\n")[0].splitlines() if "*" in line}
    assert marked == {
        name for name in summary.methods for m in ("deletion", "insertion", "odi") if is_marked(summary, m, name)
    }
    assert "* differs from good: p < 0.05" in text and "20 images, 39 detections" in text
    wide = changed(
        some_rows(20), "poor", method="a method of a name that is far too long for a narrow table", seconds=1e7
    )
    assert max(map(len, table(summarise(wide)).splitlines())) <= 100


def is_marked(summary, metric, method):
    one = summary.compared(metric, method, summary.reference)
    return one is not None and one.p_holm < 0.05


def check_latex(text):
    """Insist on balanced braces, one environment, and as many cells in each row as there are columns."""
    text = "\n".join(line for line in text.split("\n") if not line.startswith("%"))
    plain = re.sub(r"\\[\\{}&%$#_]", lambda found: r"\\" if found[0] == r"\\" else "", text)
    depth = 0
    for letter in plain:
        depth += (letter == "{") - (letter == "}")
        assert depth >= 0
    assert depth == 0 and text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    spec = re.search(r"\\begin\{tabular\}\{@\{\}(\w+)@\{\}\}", plain)[1]
    body = plain.split("@{}}\n", 1)[1].split(r"\end{tabular}")[0]
    rows = re.sub(r"\\(toprule|midrule|bottomrule)", "", body).split(r"\\")[:-1]
    assert rows
    for line in rows:
        assert not line.strip().startswith(("[", "*")), "an argument of the line end before"
        assert r"\multicolumn{" + str(len(spec)) in line or line.count("&") == len(spec) - 1, line
    return rows


def test_the_latex_table_has_methods_then_baselines_and_says_what_it_is_of():
    summary = summarise(some_rows(20))
    text = latex(summary, ABOUT)
    check_latex(text)
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 2, 1]
    first, second = text.split(r"\midrule")[1:]
    assert "Good &" in first and "Poor &" in first and "Random map &" in second and "Box, filled &" in second
    assert "lower is better" in text and "higher is better" in text and "arrow" not in text
    mean = summary.means["good", "insertion"]
    assert f"{mean.mean:.3f}" in first and f"[{mean.low:.3f}, {mean.high:.3f}]" in first
    marks = first.count(r"\rlap{*}") + second.split(r"\bottomrule")[0].count(r"\rlap{*}")
    metrics = ("deletion", "insertion", "odi", "energy")
    assert marks == sum(is_marked(summary, m, name) for m in metrics for name in summary.methods)
    notes = printed(text)
    assert "20 images, 39 detections; 4 steps; fill: blur. Mean over" in notes
    assert "* differs from Good: p < 0.05, paired by detection, Holm's correction." in notes
    assert "steps" not in latex(summary, {})


def points(words, size):
    """Width of a line in Computer Modern, the font of LaTeX's articles."""
    prop = FontProperties(fname=f"{get_data_path()}/fonts/ttf/cmr10.ttf", size=size)
    return text_to_path.get_text_width_height_descent(words, prop, False)[0]


@pytest.mark.parametrize(("column", "room"), [(True, 3.5 * 72.27), (False, 7.16 * 72.27)])
def test_the_latex_table_fits(column, room):
    """In articles of 10 points \\footnotesize is 8 and \\scriptsize 7; \\tabcolsep is 3 points a side."""
    rows = some_rows(20, ("layer-cam", "ss-grad-cam++", "grad-cam++"))
    rows = [one._replace(odi=NAN, note="no ODI: there is no other object") if one.detection else one for one in rows]
    widths = {}
    for line in check_latex(latex(summarise(rows), ABOUT, column)):
        words = re.sub(r"\\(rlap\{\*\}|scriptsize|textless\{\})", "", line.replace("$-$", "-")).strip()
        if r"\multicolumn" in words:
            note = re.search(r"\}\{ *([^{}]*)\}$", words)[1]
            assert points(note, 7) < room
            continue
        for k, cell in enumerate(line.split("&")):
            size = 7 if "scriptsize" in cell else 8
            widths[k] = max(widths.get(k, 0), points(words.split("&")[k].strip(), size))
    assert sum(widths.values()) + 6 * (len(widths) - 1) < room


@pytest.mark.parametrize("method", [NASTY, "[2pt] x", "* y", "\\", "a & b_{c}", ""])
def test_hostile_names_do_no_harm(method):
    rows = changed(some_rows(8), "good", method=method)
    rows = [one._replace(image=f"{NASTY}{one.image}", label=NASTY, note=NASTY * (one.detection == 1)) for one in rows]
    rows = [one._replace(odi=NAN) if one.note else one for one in rows]
    _, made = outputs(rows, ("<b>", "\\", "{{data}}"))
    clean = NASTY.replace("\n", "\ufffd")
    lines = lines_of(made["rows"])
    assert lines[0]["image"] == f"{clean}image0.jpg" and lines[0]["class"] == clean
    assert lines[0]["method"] == method.replace("\n", "\ufffd") and len(lines) == len(rows)
    assert len(lines_of(made["curves"])) == 2 * len(rows)
    for name in ("latex", "column"):
        check_latex(made[name])
        assert r"\end{tabular} 名" not in made[name] and not re.search(r"(?<!\\)\$x", made[name])
    assert all(letter.isprintable() or letter == "\n" for letter in made["table"])
    found = Page(made["page"])
    assert not any(tag in ("img", "b") for tag, _ in found.tags) and len(found.scripts) == 2
    assert clean in {row[0][: len(clean)] for row in found.data["rows"]}


# Curves


def test_mean_curves_are_those_of_plain_loops():
    rows = some_rows(9)
    found = mean_curves(rows)
    assert set(found) == {(name, kind) for name in ("good", "poor", *BASELINES) for kind in ("deletion", "insertion")}
    for method in ("good", "edges"):
        values = [one.deleted for one in rows if one.method == method]
        for k, point in enumerate(found[method, "deletion"]):
            assert point.mean == pytest.approx(sum(curve[k] for curve in values) / len(values))
            assert point.low <= point.mean <= point.high
    assert all(math.isnan(point.low) for points in mean_curves(some_rows(2)).values() for point in points)
    gone = changed(rows, "poor", deleted=(), inserted=())
    assert ("poor", "deletion") not in mean_curves(gone)


@pytest.mark.parametrize("width", [3.5, 7.16])
@pytest.mark.parametrize("methods", [1, 2, TOGETHER, 12])
def test_the_figure_has_the_curves_its_width_and_letters_of_6_points(methods, width):
    names = [f"method {k}" for k in range(methods)]
    rows = some_rows(8, names)
    curves = mean_curves(rows)
    drawn = draw_curves(rows, width, about={"command": ["faithfulness"]}, curves=curves)
    pixels = drawn.to_rgb()
    assert pixels.shape[1] == round(width * 300)
    assert np.ptp(pixels[[0, -1]]) == 0 or (pixels[[0, -1]] == 255).all(axis=(1, 2)).any()  # nothing is cut off
    lines = [line for axes in drawn.figure.axes for line in axes.lines if line.get_xdata()[-1] == 1]
    for (method, kind), points in curves.items():
        means = [point.mean for point in points]
        same = [line for line in lines if np.allclose(line.get_ydata(), means, atol=1e-12)]
        assert same, (method, kind)
        assert all((line.get_linestyle() == "-") == (method not in BASELINES) for line in same)
    height = pixels.shape[0]
    for text in drawn.figure.findobj(Text):
        if text.get_text() and text.get_visible():
            assert text.get_fontproperties().get_size_in_points() >= 6
            box = text.get_window_extent()
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= pixels.shape[1] + 1 and box.y1 <= height + 1, text
    said = " ".join(text.get_text() for text in drawn.figure.findobj(Text))
    assert all(name in said for name in names) and "lower is better" in said and "edge detector" in said


def test_methods_are_told_apart_in_grey_and_by_the_colour_blind():
    names = [*(f"m{k}" for k in range(TOGETHER)), *BASELINES]
    looks = [look_of(name, names) for name in names]
    assert len({look.marker for look in looks[:TOGETHER]}) == TOGETHER  # in grey, by the marker
    assert len({look.colour for look in looks[:TOGETHER]}) == TOGETHER
    assert len({str(look.dashes) for look in looks[TOGETHER:]}) == len(BASELINES)
    assert all(float(look.colour) < 0.7 and not look.marker for look in looks[TOGETHER:])


def test_the_figure_s_files_are_reproducible_and_hold_the_record():
    rows = some_rows(8)
    first, second = (draw_curves(rows, about={"command": ["faithfulness"]}) for _ in range(2))
    for format in ("png", "pdf", "svg"):
        assert first.encode(format) == second.encode(format)
    with Image.open(io.BytesIO(first.to_png())) as image:
        record = json.loads(image.text["yolov5-featviz"])
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert record["command"] == ["faithfulness"] and record["shows"] == "curves" and record["steps"] == 4
    assert record["methods"] == ["good", "poor", *BASELINES]
    assert b"/Subject" in first.encode("pdf") and b"<metadata>" in first.encode("svg")
    few = draw_curves(some_rows(2))
    assert any("2 images: no conclusion" in text.get_text() for text in few.figure.findobj(Text))
    assert not any("interval" in text.get_text() for text in few.figure.findobj(Text))


def test_a_wrong_width_or_an_unknown_letter_is_one_line():
    rows = some_rows(2)
    with pytest.raises(FeatvizError, match=r"width 0\.2 is out"):
        draw_curves(rows, 0.2)
    with pytest.raises(FeatvizError, match="font sans has no"):
        draw_curves(changed(rows, "good", method="\ue000\U00013000"))


# The page


class Page(HTMLParser):
    """A page taken apart; it must be whole, and need no other file."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.tags, self.texts, self.scripts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], "tags that were not closed"
        assert len(self.ids) == len(set(self.ids))
        links = [known[name] for _, known in self.tags for name in ("src", "href", "action") if name in known]
        assert links == ["data:,"]
        assert not any(name.startswith("on") for _, known in self.tags for name in known)
        (policy,) = [known["content"] for _, known in self.tags if known.get("http-equiv")]
        digest = base64.b64encode(hashlib.sha256(self.scripts[1][1].encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy
        self.data = json.loads(self.scripts[0][1])

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.tags.append((tag, known))
        self.ids += [known["id"]] if "id" in known else []
        if tag == "script":
            self.scripts.append([known, ""])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1][1] += data
        elif not self.open or self.open[-1] != "style":
            self.texts.append(data)


def test_the_page_says_it_first_and_has_every_number():
    rows = some_rows(20)
    summary = summarise(rows, stages=STAGES)
    content = page(summary, rows, {**ABOUT, "weights": [{"name": "best.pt", "sha256": "ab" * 32}]})
    found = Page(content.decode())
    said = " ".join(" ".join(found.texts).split())
    sentences = statements(summary)
    assert all(f"{words}." in said for words in sentences)
    assert said.index(sentences[-1]) < said.index("Means") < said.index("Differences") < said.index("Each map")
    assert "yolov5-featviz faithfulness --source 'a b.jpg'" in said and "best.pt (SHA-256 abababababab…)" in said
    for name in summary.methods:
        for metric in METRICS:
            one = summary.means[name, metric]
            title = next(
                (x["title"] for _, x in found.tags if x.get("title", "").startswith(f"{title_of(metric)} of {name}:")),
                "",
            )
            assert bool(title) == bool(one.values)
            assert not one.values or f"mean of {one.values} detections in {one.images} images" in title
    strong = sum(known.get("class") == "number strong" for _, known in found.tags)
    assert strong == sum(one.p_holm < 0.05 for one in summary.comparisons) > 0
    columns = [column["name"] for column in found.data["columns"]]
    assert len(found.data["rows"]) == len(rows) and columns.count("sanity") == 3
    for values, one in zip(found.data["rows"], rows):
        shown = dict(zip(columns, values))
        assert (shown["image"], shown["method"], shown["detection"]) == (one.image, one.method, one.detection)
        for metric in METRICS:
            value = getattr(one, metric)
            assert shown[metric] is None if math.isnan(value) else shown[metric] == pytest.approx(value, rel=1e-5)


def title_of(metric):
    return METRICS[metric].title


@pytest.mark.parametrize("methods", [2, 12])
def test_the_charts_of_the_page_are_the_curves(methods):
    """The points of a line, converted back from the units of the chart."""
    rows = some_rows(8, [f"m{k}" for k in range(methods)])
    curves = mean_curves(rows)
    text = page(summarise(rows, stages=STAGES), rows, ABOUT, curves).decode()
    charts = re.findall(r'<svg class="chart".*?</svg>', text, re.S)
    assert len(charts) == (3 if methods <= TOGETHER else 3 * methods)
    (group,) = re.findall(r"<title>m1</title>(.*?)</g>", charts[0 if methods == 2 else 1], re.S)
    path = re.search(r'class="line" d="M([^"]*)"', group)[1]
    at = np.array([[float(x) for x in pair.split()] for pair in path.split("L")])
    expected = [point.mean for point in curves["m1", "deletion"]]
    np.testing.assert_allclose((at[:, 0] - 52) / 300, np.linspace(0, 1, 5), atol=1e-3)
    top = max(1.0, max(point.high for points in curves.values() for point in points))
    np.testing.assert_allclose((198 - at[:, 1]) / 190 * 1.02 * top, expected, atol=1e-3)
    assert 'class="band"' in group and "randomised down to" in text


def test_a_page_of_thousands_of_maps_stays_small():
    rows = some_rows(120, ("a", "b"))
    assert len(rows) > 1400
    content = page(summarise(rows), rows, ABOUT, {})
    assert len(content) < 1_000_000 and len(zlib.compress(content)) < 300_000


CHROMIUM = os.environ.get("CHROMIUM")


@pytest.mark.skipif(not CHROMIUM, reason="make test-report runs it")
def test_the_page_in_a_browser(tmp_path):
    """Sorting, filtering, more rows, no error, no request, no scrolling sideways on a phone; light and dark."""
    from playwright.sync_api import sync_playwright

    rows = some_rows(20, ("good", NASTY))
    rows = [one._replace(odi=NAN, note="no ODI: why") if one.detection == 1 else one for one in rows]
    path = tmp_path / "faithfulness.html"
    path.write_bytes(page(summarise(rows, stages=STAGES), rows, ABOUT))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for look in ("light", "dark"):
            for size in ({"width": 1366, "height": 800}, {"width": 390, "height": 844}):
                view = browser.new_page(viewport=size, color_scheme=look)
                wrong, asked = [], []
                view.on("console", lambda message, wrong=wrong: wrong.append(message.text))
                view.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
                view.on("request", lambda request, asked=asked: asked.append(request.url))
                view.goto(path.as_uri())
                cells = "[...document.querySelectorAll('#rows tbody tr')].map((row) => row.cells[%d].textContent)"
                assert view.text_content("#count") == f"100 of {len(rows)} maps shown"
                view.click("#more")
                assert len(view.evaluate(cells % 0)) == min(200, len(rows))
                view.click("#rows th:nth-child(6) button")
                shown = [float(x) for x in view.evaluate(cells % 5)]
                assert shown == sorted(shown) and len(shown) == 100
                view.click("#rows th:nth-child(6) button")
                assert view.get_attribute("#rows th:nth-child(6)", "aria-sort") == "descending"
                assert float(view.evaluate(cells % 5)[0]) == pytest.approx(max(x.deletion for x in rows), abs=6e-4)
                view.click("#rows th:nth-child(8) button")
                view.fill("#find", "image1.jpg")
                odi = view.evaluate(cells % 7)
                assert odi and odi[-1] == "" and odi[0] != ""  # what is not defined comes last
                view.fill("#find", "")
                view.check("#lacking")
                assert set(
                    view.evaluate("[...document.querySelectorAll('#rows .note')].map((x) => x.textContent)")
                ) == {"no ODI: why"}
                view.uncheck("#lacking")
                view.select_option("#method", index=2)
                assert set(view.evaluate(cells % 4)) == {NASTY.replace("\n", "\ufffd")}
                assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
                assert wrong == [] and asked == [path.as_uri()]
                view.close()
        browser.close()
