"""Tables of a comparison: means, differences, notes, and LaTeX that is measured in Computer Modern."""

import csv
import io
import math
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.ft2font import FT2Font
from scipy import stats

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.compare.measure import Row
from yolov5_featviz.compare.precision import Scored, average_precision, match
from yolov5_featviz.compare.summary import METRICS, OWN_BOXES, contrasts, means, notes, summarise
from yolov5_featviz.compare.tables import contrasts_csv, means_csv, precision_csv, table, to_csv, to_latex

NAN = math.nan
ENERGY, POINTING, SPARSITY, ENTROPY = [*["energy_inside", "pointing_hit", "channel_sparsity", "entropy"]]


def row(**more):
    return Row("x", "17", "a", "labels", 0.4, 0.5, 1.0, 0.1, 0.9, NAN, NAN)._replace(**more)


def made(images, boxes="labels", models=("a", "b"), layers=("17",), apart=0.05, seed=0):
    """Rows of models on images; the energy of each later model is higher by ``apart``, more or less."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(images):
        area, level = rng.uniform(0.2, 0.6), rng.uniform(0.3, 0.6)
        for layer in layers:
            for k, model in enumerate(models):
                energy = level + k * apart + rng.normal(0, 0.01)
                cka = rng.uniform(0.4, 0.6) if k else NAN
                numbers = (area, energy, float(rng.random() < 0.8), rng.uniform(0.1, 0.2), rng.uniform(0.9, 1))
                rows.append(Row(f"image {i}", layer, model, boxes, *numbers, cka, cka))
    return rows


def parsed(text):
    return list(csv.DictReader(io.StringIO(text)))


def check_latex(text):
    """Braces and environments close, rows have as many cells as there are columns; return the rows of cells."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    depth = 0
    for before, letter in zip(" " + body, body):
        depth += {"{": 1, "}": -1}.get(letter, 0) if before != "\\" else 0
        assert depth >= 0
    assert depth == 0 and body.count(r"\begin{tabular}") == body.count(r"\end{tabular}") == 1
    assert body.count(r"\begingroup") == body.count(r"\endgroup") == 1
    columns = len(re.search(r"tabular}\{@\{\}([lr]+)@\{\}\}", body).group(1))
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    cells = [line[: -len(r" \\")].split(" & ") for line in rows if r"\multicolumn" not in line]
    assert cells and all(len(line) == columns for line in cells)
    assert all(line.startswith(rf"\multicolumn{{{columns}}}") for line in rows if r"\multicolumn" in line)
    assert not re.search(r"\bnan\b|\binf\b", text)
    return cells


def width(text, points=8.0, small=7.0, gap=3.0):
    """Estimate the width of a tabular in points, with letters as wide as in Computer Modern, 8 and 7 points high."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "cmr10.ttf"

    def of(cell):
        size = small if r"\scriptsize" in cell else points
        cell = re.sub(r"\\rlap\{\*\}|\\scriptsize|\$|\\textless\{\}", lambda m: "<" * ("less" in m[0]), cell)
        cell = cell.replace(r"\quad", "MM").replace("\\", "")
        font = FT2Font(str(fonts))
        font.set_size(100, 72)
        font.set_text(cell.strip().replace("_", ""), 0.0)
        return font.get_width_height()[0] / 64 / 100 * size

    cells = check_latex(text)
    columns = [max(map(of, column)) for column in zip(*cells)]
    table_width = sum(columns) + 2 * gap * (len(columns) - 1)
    across = re.findall(r"\\multicolumn\{\d+\}\{@\{\}l@\{\}\}\{(.*)\} \\\\", text)
    return max(table_width, *map(of, across))


def test_means_leave_out_what_there_is_not():
    rows = [row(energy_inside=0.25), row(image="y", energy_inside=NAN), row(image="z", energy_inside=0.75)]
    (found,) = means(rows)
    assert found.values["energy_inside"][0] == 0.5 and found.values["energy_inside"].images == 2
    assert found.deviations["energy_inside"] == pytest.approx(math.sqrt(0.125))
    assert found.values["cka"].images == 0 and math.isnan(found.values["cka"].mean)
    (line,) = parsed(means_csv([found]))
    assert (line["energy_inside"], line["energy_inside_low"], line["energy_inside_n"]) == ("0.5", "", "2")
    assert (line["cka"], line["cka_sd"], line["cka_n"]) == ("", "", "0")


def test_a_difference_is_tested_with_the_correction_of_all_tests():
    """Energy differs in each of ten images; the other seven tests of the run compare random values."""
    rows = made(10, layers=("17", "20"), seed=1)
    found = contrasts(rows)
    assert [(one.layer, one.metric) for one in found] == [
        (layer, metric) for layer in ("17", "20") for metric in (ENERGY, POINTING, SPARSITY, ENTROPY)
    ]
    of = {(one.layer, one.metric): one for one in found}
    for layer in ("17", "20"):
        a, b = ([r.energy_inside for r in rows if (r.layer, r.model) == (layer, m)] for m in "ab")
        one = of[layer, ENERGY]
        assert one.found.difference == pytest.approx(np.mean(b) - np.mean(a)) and one.found.low > 0.03
        assert one.found.p == 2 / 2**10 and one.is_significant
        assert one.found.effect == pytest.approx(np.mean(np.subtract(b, a)) / np.std(np.subtract(b, a), ddof=1))
    smallest = sorted(one.found.p for one in found)
    assert smallest[0] == smallest[1] == 2 / 2**10
    assert of["17", ENERGY].p_holm == of["20", ENERGY].p_holm == pytest.approx(8 * 2 / 2**10)
    others = [one for one in found if one.metric != ENERGY]
    assert not any(one.is_significant for one in others)
    lines = parsed(contrasts_csv(found))
    assert [line["n"] for line in lines] == ["10"] * 8 and float(lines[0]["p_holm"]) == pytest.approx(8 / 512)


@pytest.mark.slow
def test_a_run_without_a_difference_seldom_has_a_star():
    """Of eight tests of random values, corrected: a star in at most 5 % of the runs."""
    runs = 300
    starred = sum(
        any(one.is_significant for one in contrasts(made(8, layers=("17", "20"), apart=0, seed=seed)))
        for seed in range(runs)
    )
    assert starred / runs < 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


def test_copies_count_as_one_image():
    """Ten rows of one file: no interval and no test; of eight files and two copies: those of the eight."""
    rows = made(10)
    names = list(dict.fromkeys(one.image for one in rows))
    summary = summarise(rows, same=dict.fromkeys(names, names[0]))
    assert summary.images == 1 and not summary.tests
    assert all(np.isnan(one.low) for mean in summary.means for one in mean.values.values())
    assert "9 images are copies of others: each counts as one with it in intervals and tests" in notes_of(summary)
    eight = summarise(rows, same={names[8]: names[0], names[9]: names[0]})
    assert eight.images == 8 and {one.found.images for one in eight.contrasts} == {8}
    assert "copies" not in notes_of(summarise(rows))


def notes_of(summary):
    return "\n".join(notes(summary))


def test_a_significant_difference_has_a_star_everywhere():
    summary = summarise(made(10))
    screen, wide, narrow = table(summary), to_latex(summary), to_latex(summary, column=True)
    (line,) = [line for line in screen.splitlines() if "energy inside %" in line and "b - a" in line]
    difference = 100 * summary.contrasts[0].found.difference
    assert f"+{difference:.1f}* " in line and line.split()[-1] == "10"
    assert screen.count("*") == 2  # and in the note
    assert rf"+{difference:.1f}\rlap{{*}}" in wide and wide.count(r"\rlap{*}") == narrow.count(r"\rlap{*}") == 1
    for text in (screen, wide, narrow):
        assert "4 tests" in text and "bootstrap over 10 images" in text and r"\textbf" not in text
        assert "uparrow" not in text


@pytest.mark.parametrize("column", [False, True])
def test_without_labels_nothing_that_depends_on_boxes_is_tested(column):
    """However large the difference; and it is said on the screen and in what is printed of the tables."""
    summary = summarise(made(12, boxes="detections", apart=0.3))
    assert {one.metric for one in summary.contrasts} == {SPARSITY, ENTROPY}
    text = to_latex(summary, column)
    printed = " ".join(re.findall(r"\\scriptsize (.*)\} \\\\", text))
    assert OWN_BOXES in printed and OWN_BOXES in table(summary)
    assert r"\rlap{*}" not in text
    cells = [line for line in check_latex(text) if "difference" in " ".join(line) or "Energy" in line[0]]
    assert cells and (cells[-1][3] == "" if column else cells[-1][3] == cells[-1][4] == "")


def test_images_without_labels_among_others_are_said():
    rows = [one._replace(boxes="detections") if one.image == "image 3" else one for one in made(8)]
    summary = summarise(rows)
    assert {one.metric for one in summary.contrasts} == {SPARSITY, ENTROPY}
    assert any(
        note.startswith("box area, energy and pointing: 1 of 8 images have no labels") for note in notes(summary)
    )


@pytest.mark.parametrize(("images", "words"), [(1, "1 image: no conclusion"), (5, "5 images: no conclusion")])
def test_too_few_images(images, words):
    summary = summarise(made(images, apart=0.3))
    screen = table(summary)
    assert words in screen and "nan" not in screen and "[" not in screen and "*" not in screen
    for column in (False, True):
        text = to_latex(summary, column)
        body = text.split(r"\toprule")[1]
        assert f"{words}." in body and "[" not in body and "*" not in body
    assert {line["note"] for line in parsed(contrasts_csv(summary.contrasts))} == {words}


def test_too_few_images_of_one_metric():
    """Ten images, four of which have boxes."""
    rows = [
        one._replace(box_area=NAN, energy_inside=NAN, pointing_hit=NAN) if int(one.image[-1]) > 3 else one
        for one in made(10)
    ]
    summary = summarise(rows)
    assert "energy inside, pointing: 4 images: no conclusion" in notes(summary)
    lines = parsed(contrasts_csv(summary.contrasts))
    assert [line["n"] for line in lines] == ["4", "4", "10", "10"]
    assert [bool(line["p"]) for line in lines] == [False, False, True, True]
    assert summary.tests == 2 and summary.contrasts[2].p_holm <= 2 * summary.contrasts[2].found.p
    cells = check_latex(to_latex(summary))
    assert cells[-1] == ["", "$n$", "4", "4", "4", "10", "10", "10", "10"]


def test_a_model_that_detects_nothing():
    """Its energy is undefined in every image: it has no mean, no difference, and no NaN."""
    rows = [
        one._replace(boxes="detections", box_area=NAN, energy_inside=NAN, pointing_hit=NAN)
        if one.model == "b"
        else one._replace(boxes="detections")
        for one in made(8)
    ]
    summary = summarise(rows)
    screen = table(summary)
    (line,) = [line for line in screen.splitlines() if "energy inside %" in line]
    assert line.split()[-2:] == ["-", "8"] and "nan" not in screen
    labelled = summarise([one._replace(boxes="labels") for one in rows])
    energy = parsed(contrasts_csv(labelled.contrasts))[0]
    assert energy["n"] == "0" and energy["difference"] == "" and energy["note"].startswith("no image in which both")
    for text in (table(labelled), to_latex(labelled), to_latex(labelled, column=True), to_csv(rows)):
        assert "nan" not in text.lower()
    check_latex(to_latex(labelled, column=True))


def test_models_that_are_equal():
    """The same checkpoint twice: no difference, p is 1, and there is no effect size."""
    rows = [one for one in made(9) if one.model == "a"]
    summary = summarise([again for one in rows for again in (one, one._replace(model="b"))])
    for one in summary.contrasts:
        assert one.found[:4] == (0, 0, 0, 1) and one.p_holm == 1 and one.note == "no difference in any image"
    (line, *_) = parsed(contrasts_csv(summary.contrasts))
    assert (line["difference"], line["p_holm"], line["effect"]) == ("0", "1", "")
    screen = table(summary)
    assert "without an interval: all values are equal" in screen and "[0.0, 0.0]" not in screen
    (energy,) = [line.split() for line in screen.splitlines() if "energy inside %" in line and "b - a" in line]
    assert energy[-5:] == ["0.0", "-", "1.000", "-", "9"]
    check_latex(to_latex(summary))


def test_three_models_are_compared_with_the_first():
    rows = made(8, models=("a", "b", "c"), layers=("17", "20"))
    summary = summarise(rows)
    assert {(one.model, one.reference) for one in summary.contrasts} == {("b", "a"), ("c", "a")}
    assert summary.tests == 2 * 2 * 4
    by_hand = stats.ttest_rel(*([r.energy_inside for r in rows if (r.layer, r.model) == ("17", m)] for m in "ca"))
    (one,) = [one for one in summary.contrasts if (one.layer, one.model, one.metric) == ("17", "c", ENERGY)]
    assert one.found.effect == pytest.approx(by_hand.statistic / math.sqrt(8))
    head, *cells = check_latex(to_latex(summary))
    assert [line[1] for line in cells if line[1] in "abc" and line[1]] == ["a", "b", "c"] * 2
    assert len(head) == 2 + len(METRICS)
    narrow = to_latex(summary, column=True)
    assert re.findall(r"\{(Layer [^}]*)\}", narrow) == [
        f"Layer {layer}: {model} to a" for layer in ("17", "20") for model in "bc"
    ]


def test_odd_names():
    odd = r"my_model & 50% {v#2} $a^b~\<"
    text = to_latex(summarise([row(model=odd), row(model="b", energy_inside=NAN)]))
    escaped = r"my\_model \& 50\% \{v\#2\} \$a\textasciicircum{}b\textasciitilde{}\textbackslash{}\textless{}"
    _, first, second, *_ = check_latex(text.replace(r"\&", "and"))
    assert first[1] == escaped.replace(r"\&", "and") and second[3] == "--"
    text = to_latex(summarise(made(8, models=("a", "old_z"))), column=True)
    assert r"{Layer 17: old\_z to a}" in text and "; $d_z$: Cohen's" in text
    long = summarise([row(model="a" * 300), row(model="b")])
    assert "a" * 300 not in to_latex(long, column=True)


@pytest.mark.parametrize("boxes", ["labels", "detections"])
@pytest.mark.parametrize("images", [2, 30])
def test_widths(boxes, images):
    """With numbers as wide as they get: 252 points are a column of 3.5 inches, 516 a page of 7.16."""
    rng = np.random.default_rng(0)
    rows = [
        one._replace(energy_inside=1 - (one.model == "b") * rng.uniform(0, 1) ** 9, entropy=1 - rng.uniform(0, 1e-3))
        for one in made(images, boxes, ("best", "epoch60"), ("17", "20 / 23"))
    ]
    rows = [one._replace(model={"best": "a", "epoch60": "b"}[one.model]) for one in rows]
    scored = scored_models() if boxes == "labels" else ()
    summary = summarise(rows, scored)
    assert width(to_latex(summary, column=True)) <= 252
    assert width(to_latex(summary)) <= 516
    assert max(map(len, to_latex(summary).splitlines())) < 2000


def scored_models():
    truths = Boxes([[0, 0, 10, 10]], classes=np.array([1]))
    good = match(Boxes([[0, 0, 10, 9]], [0.9], classes=np.array([1])), truths)
    bad = match(Boxes([[0, 0, 10, 5.5]], [0.9], classes=np.array([1])), truths)
    return [Scored("a", average_precision([good])), Scored("b", average_precision([bad]))]


def test_average_precision_is_in_the_tables():
    scored = scored_models()
    summary = summarise(made(8), scored)
    lines = table(summary).splitlines()
    start = next(i for i, line in enumerate(lines) if "mAP@.5:.95 %" in line)
    assert [line.split() for line in lines[start + 1 : start + 3]] == [
        ["a", "99.5", f"{100 * scored[0].precision.map:.1f}", "1", "1"],
        ["b", "99.5", f"{100 * scored[1].precision.map:.1f}", "1", "1"],
    ]
    assert any("val.py --batch-size 1" in line and "not tested" in line for line in lines)
    for column in (False, True):
        text = " ".join(to_latex(summary, column).split())
        assert f"mAP@.5 / mAP@.5:.95 (\\%): a 99.5 / {100 * scored[0].precision.map:.1f}; b 99.5" in text
    found = parsed(precision_csv(scored, {1: "bus"}))
    assert [(one["model"], one["class"], one["objects"]) for one in found] == [
        ("a", "all", "1"),
        ("a", "bus", "1"),
        ("b", "all", "1"),
        ("b", "bus", "1"),
    ]
    assert precision_csv(scored, {}).splitlines()[2].startswith("a,class 1,")
    assert "no mAP: no labelled object" in table(summarise(made(8), (), "no labelled object"))
