"""Rankings, against references written out in plain Python."""

import csv
import io
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import feature_map

import yolov5_featviz as fv
from yolov5_featviz.draw.channels import check_class, choose, rank, rank_together
from yolov5_featviz.models.layer_output import Dependence

RNG = np.random.default_rng(0)


def scored(ranking, channel):
    return ranking.scores[ranking.by][channel]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int16])
@pytest.mark.parametrize("by", ["mean", "max", "std"])
def test_rankings(by, dtype):
    data = torch.as_tensor(RNG.normal(size=(20, 5, 7)) * 100).to(dtype)
    measure = {"mean": statistics.fmean, "max": max, "std": statistics.pstdev}[by]
    expected = [measure(channel.flatten().double().tolist()) for channel in data]
    ranking = rank(feature_map(data), by)
    assert ranking.by == by and ranking.note == ""
    np.testing.assert_allclose(ranking.scores[by], expected, rtol=1e-9, atol=1e-9)
    assert ranking.channels == sorted(range(20), key=lambda c: (-expected[c], c))
    assert [row["rank"] for row in ranking.rows(5)] == [1, 2, 3, 4, 5]
    assert choose(feature_map(data), f"top:6:{by}").channels == ranking.channels[:6]
    assert choose(feature_map(data), f"top:99:{by}").channels == ranking.channels


def test_what_is_not_finite_does_not_count():
    data = torch.zeros(6, 2, 2)
    data[0, 0] = torch.tensor([math.nan, 8.0])
    data[1] = math.nan
    data[2, 0, 0], data[2, 1, 1] = math.inf, 4
    data[3] = -1
    data[5] = math.inf
    ranking = rank(feature_map(data), "mean")
    np.testing.assert_allclose(ranking.scores["mean"][[0, 2, 3, 4]], [8 / 3, 4 / 3, -1, 0])
    assert ranking.channels == [0, 2, 4, 3, 1, 5]
    assert math.isnan(scored(ranking, 1)) and math.isnan(scored(ranking, 5))


def test_equals_keep_their_order():
    assert rank(feature_map(torch.ones(40, 3, 3)), "max").channels == list(range(40))


def plain_contrast(inside, outside):
    pooled = (statistics.variance(inside) * (len(inside) - 1) + statistics.variance(outside) * (len(outside) - 1)) / (
        len(inside) + len(outside) - 2
    )
    return (statistics.fmean(inside) - statistics.fmean(outside)) / math.sqrt(pooled)


def test_contrast_by_hand():
    """A map of 6x8 cells of 10 pixels, the first and last row of them padding."""
    data = RNG.normal(size=(9, 6, 8)).astype(np.float32)
    # cell centres are at 5, 15, 25...; the second box holds none of them, the third lies outside
    boxes = fv.Boxes([[14, 16, 46, 34], [61, 41, 64, 43], [-20, -20, -10, -10]])
    inside = {(2, 1), (2, 2), (2, 3), (2, 4), (4, 6)}
    outside = {(y, x) for y in range(1, 5) for x in range(8)} - inside
    fm = feature_map(data, input_size=(60, 80), region=(0, 10, 80, 50), boxes=boxes)
    ranking = rank(fm, "contrast")
    expected = [plain_contrast([float(c[p]) for p in inside], [float(c[p]) for p in outside]) for c in data]
    np.testing.assert_allclose(ranking.scores["contrast"], expected, rtol=1e-6)
    assert ranking.channels == sorted(range(9), key=lambda c: -expected[c])
    assert ranking.by == "contrast" and list(ranking.scores) == ["contrast", "mean", "max", "std"]


def test_contrast_finds_the_channel_that_fires_on_the_object():
    data = RNG.normal(size=(16, 20, 30))
    data[11, 5:10, 8:15] += 6
    data[4, 5:10, 8:15] -= 6
    ranking = rank(
        feature_map(data, input_size=(160, 240), boxes=fv.Boxes([[64, 40, 120, 80]], [0.9], ["x"])), "contrast"
    )
    assert ranking.channels[0] == 11 and ranking.channels[-1] == 4


def test_contrast_of_constant_channels():
    data = torch.zeros(3, 4, 4)
    data[0, :2], data[1], data[2, 2:] = 0.1, 0.3, 0.1
    ranking = rank(feature_map(data, input_size=(4, 4), boxes=fv.Boxes([[0, 0, 4, 2]])), "contrast")
    assert ranking.scores["contrast"].tolist() == [math.inf, 0, -math.inf]
    assert ranking.channels == [0, 1, 2]


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        (None, "nothing was detected"),
        (fv.Boxes([]), "nothing was detected"),
        (fv.Boxes([[0, 0, 32, 32]]), "too few cells"),
        (fv.Boxes([[90, 90, 95, 95]]), "too few cells"),
    ],
)
def test_contrast_without_boxes_says_so(boxes, says):
    fm = feature_map(RNG.normal(size=(8, 4, 4)), input_size=(32, 32), boxes=boxes)
    ranking = choose(fm, "top:3:contrast").ranking
    assert ranking.by == "std" and says in ranking.note
    assert ranking.channels == rank(fm, "std").channels


def two_classes(**more):
    """A map of 6x8 cells of 10 pixels with boxes of two classes that overlap in the cells (3, 3) and (3, 4)."""
    data = np.random.default_rng(5).normal(size=(9, 6, 8)).astype(np.float32)
    names = {"labels": ["person", "traffic light"], "classes": [0, 9], **more}
    boxes = fv.Boxes([[10, 20, 50, 40], [30, 30, 70, 60]], [0.9, 0.8], **names)
    persons = {(y, x) for y in (2, 3) for x in (1, 2, 3, 4)}
    lights = {(y, x) for y in (3, 4, 5) for x in (3, 4, 5, 6)}
    return feature_map(data, input_size=(60, 80), boxes=boxes), persons, lights


@pytest.mark.parametrize(
    ("kind", "name"),
    [("person", "person"), ("0", "person"), ("traffic light", "traffic light"), ("9", "traffic light")],
)
def test_contrast_of_a_class_has_the_boxes_of_other_classes_outside(kind, name):
    fm, persons, lights = two_classes()
    inside = persons if name == "person" else lights
    outside = {(y, x) for y in range(6) for x in range(8)} - inside
    ranking = rank(fm, f"contrast:{kind}")
    expected = [plain_contrast([float(c[p]) for p in inside], [float(c[p]) for p in outside]) for c in fm.values]
    np.testing.assert_allclose(ranking.scores[ranking.by], expected, rtol=1e-6)
    assert ranking.by == f"contrast of {name}" and ranking.note == ""
    assert ranking.channels == sorted(range(9), key=lambda c: -expected[c])
    assert ranking.channels != rank(fm, "contrast").channels
    for spec in (f"top:4:contrast:{kind}", f" TOP:4:Contrast:{kind} "):
        assert choose(fm, spec).channels == ranking.channels[:4]


def test_a_class_without_names_is_found_by_number_and_without_numbers_by_name():
    fm, _, _ = two_classes()
    expected = rank(fm, "contrast:traffic light").channels
    numbers, _, _ = two_classes(labels=())
    assert rank(numbers, "contrast:9").by == "contrast of class 9"
    assert rank(numbers, "contrast:9").channels == expected
    names, _, _ = two_classes(classes=None)
    assert rank(names, "contrast:traffic light").channels == expected
    for unknown, by in ((numbers, "contrast:person"), (two_classes(labels=(), classes=None)[0], "contrast:9")):
        assert rank(unknown, by).note.endswith(": the classes of the boxes are not known")


def test_a_class_whose_name_is_a_number_is_not_taken_for_another():
    fm, _, _ = two_classes(labels=["1", "2"], classes=[0, 1])  # the class "1" is number 0
    assert rank(fm, "contrast:1").channels == rank(two_classes()[0], "contrast:person").channels
    assert rank(fm, "contrast:0").note == "by std instead of contrast of class 0: no class 0 was detected"
    some, _, _ = two_classes(labels=["person", "9"])  # YOLOv5's label of a class without a name
    for kind in ("0", "9"):
        assert rank(some, f"contrast:{kind}").channels == rank(two_classes()[0], f"contrast:{kind}").channels


@pytest.mark.parametrize("boxes", [None, fv.Boxes([]), fv.Boxes([[0, 0, 16, 16]], [0.9], ["cat"], [1])])
def test_contrast_of_a_class_that_was_not_detected_says_so(boxes):
    fm = feature_map(RNG.normal(size=(8, 4, 4)), input_size=(32, 32), boxes=boxes)
    ranking = choose(fm, "top:3:contrast:a: person").ranking
    assert ranking.note == "by std instead of contrast of a: person: no a: person was detected"
    assert ranking.by == "std" and ranking.channels == rank(fm, "std").channels
    everything = feature_map(fm.data, input_size=(32, 32), boxes=fv.Boxes([[0, 0, 32, 32]], [0.9], ["cat"], [1]))
    assert rank(everything, "contrast:1").note == "by std instead of contrast of cat: " + (
        "the boxes leave too few cells to compare"
    )


def test_a_ranking_by_class_is_a_table_whatever_the_name():
    name = 'tie, "striped"'
    fm, _, _ = two_classes(labels=["person", name])
    ranking = rank(fm, f"contrast:{name}")
    rows = list(csv.DictReader(io.StringIO(ranking.to_csv())))
    assert list(rows[0]) == ["rank", "channel", f"contrast of {name}", "mean", "max", "std"]
    for row in rows:
        assert float(row[f"contrast of {name}"]) == pytest.approx(scored(ranking, int(row["channel"])), rel=1e-8)
    assert f"contrast of {name}" in str(ranking).splitlines()[0]


def test_ranking_several_images_is_by_the_mean_of_those_with_a_score():
    maps = [
        feature_map(RNG.normal(size=(7, 6, 8)), input_size=(60, 80), boxes=boxes)
        for boxes in (
            fv.Boxes([[10, 20, 50, 40]], [0.9], ["person"], [0]),
            fv.Boxes([[10, 20, 50, 40]], [0.9], ["cat"], [1]),
            fv.Boxes([[30, 0, 80, 40]], [0.9], ["person"], [0]),
        )
    ]
    scores = [rank(maps[i], "contrast:person").scores["contrast of person"] for i in (0, 2)]
    expected = [(a + b) / 2 for a, b in zip(*scores)]
    ranking = rank_together(maps, "contrast:0")
    np.testing.assert_allclose(ranking.scores["contrast of person"], expected)
    assert ranking.channels == sorted(range(7), key=lambda c: -expected[c]) and ranking.by == "contrast of person"
    means = [statistics.fmean(float(fm.data[c].mean()) for fm in maps) for c in range(7)]
    assert rank_together(maps, "mean").channels == sorted(range(7), key=lambda c: -means[c])
    dead = [replace(maps[0], data=torch.full((7, 6, 8), math.nan)), maps[2]]
    maps[0].data[3] = math.nan
    assert rank_together(maps, "mean").channels[-1] == 3  # it has a score in two of three images
    for several, by, says in (
        (maps, "contrast:dog", "the channels cannot be ranked by contrast of dog: no dog was detected"),
        (dead, "std", "the channels cannot be ranked by std: none has finite values in each image"),
    ):
        with pytest.raises(fv.FeatvizError, match=f"^{says}$"):
            rank_together(several, by)


@pytest.mark.parametrize("names", [["person", "traffic light"], {0: "person", 1: "traffic light"}])
def test_a_class_that_a_model_does_not_have_is_refused(names):
    for spec in ("top:4:contrast:person", "top:4:contrast:1", "top:4:ablation:person", "top:4", "64", 5, [1]):
        check_class(spec, names)
    for kind in ("persn", "2", "Person", "person:0"):
        with pytest.raises(fv.FeatvizError, match=f"^channels 'top:4:contrast:{kind}': no class '{kind}'"):
            check_class(f"top:4:contrast:{kind}", names)
        check_class(f"top:4:contrast:{kind}", ())


def ablated(lost, boxes=None, note="", **more):
    """A map of 6x8 cells of 10 pixels, with what detections of two classes, of scores 0.9, 0.8 and 0.5, lose."""
    edges, labels, classes = (
        [[10, 20, 50, 40], [30, 30, 70, 60], [0, 0, 20, 20]],
        ["person", "bus", "person"],
        [0, 1, 0],
    )
    found = fv.Boxes(edges[: len(lost)], [0.9, 0.8, 0.9][: len(lost)], labels[: len(lost)], classes[: len(lost)])
    scores = np.array([0.9, 0.8, 0.9])[: len(lost)]
    data = np.random.default_rng(5).normal(size=(4, 6, 8)).astype(np.float32)
    fm = feature_map(data, input_size=(60, 80), boxes=boxes, **more)
    return fm.with_dependence(Dependence(found, scores, np.array(lost, float), note))


LOST = [[0.09, 0.0, -0.45, 0.9], [0.4, 0.08, 0.0, 0.0], [0.0, 0.18, 0.0, 0.45]]


def test_ablation_by_hand():
    """Shares of the score: 0.1, 0, -0.5, 1; then 0.5, 0.1, 0, 0; then 0, 0.2, 0, 0.5."""
    fm = ablated(LOST)
    ranking = rank(fm, "ablation")
    np.testing.assert_allclose(ranking.scores["ablation"], [0.2, 0.1, -0.5 / 3, 0.5])
    assert ranking.channels == [3, 0, 1, 2] and (ranking.by, ranking.note) == ("ablation", "")
    columns = ["ablation", "contrast", "mean", "max", "std"]
    columns += ["lost: person 0.90", "lost: bus 0.80", "lost: person 0.90 (2)"]
    assert list(ranking.columns) == columns
    for name, lost in zip(columns[5:], LOST):
        assert ranking.columns[name].tolist() == lost
    expected = rank(replace(fm, boxes=fm.dependence.boxes), "contrast").scores["contrast"]
    np.testing.assert_array_equal(ranking.scores["contrast"], expected)
    (row,) = ranking.rows(1)
    assert (row["rank"], row["channel"], row["lost: person 0.90 (2)"]) == (1, 3, 0.45)
    rows = list(csv.DictReader(io.StringIO(ranking.to_csv())))
    assert list(rows[0]) == ["rank", "channel", *columns] and float(rows[3]["lost: person 0.90"]) == -0.45
    assert ranking.table().splitlines()[1].split()[:3] == ["1", "3", "0.5"]
    assert choose(fm, "top:2:ablation").channels == [3, 0]


@pytest.mark.parametrize("kind", ["person", "0"])
def test_ablation_of_a_class(kind):
    ranking = rank(ablated(LOST), f"ablation:{kind}")
    np.testing.assert_allclose(ranking.scores["ablation of person"], [0.05, 0.1, -0.25, 0.75])
    names = ["ablation of person", "contrast of person", "mean", "max", "std"]
    assert list(ranking.columns) == [*names, "lost: person 0.90", "lost: person 0.90 (2)"]
    assert choose(ablated(LOST), f"TOP:1:Ablation:{kind}").channels == [3]


def test_ablation_beside_the_contrast_of_all_boxes():
    """Of a script's detections, some may be no candidates of the model: they count for the contrast alone."""
    boxes = fv.Boxes([[10, 20, 50, 40], [60, 0, 80, 20]], [0.9, 0.4], ["person", "bus"], [0, 1])
    fm = ablated(LOST[:1], boxes)
    ranking = rank(fm, "ablation")
    np.testing.assert_array_equal(ranking.scores["contrast"], rank(fm, "contrast").scores["contrast"])
    np.testing.assert_allclose(ranking.scores["ablation"], [0.1, 0, -0.5, 1])
    whole = ablated(LOST, fv.Boxes([[0, 0, 80, 60]], [0.9], ["person"], [0]))
    assert list(rank(whole, "ablation").scores) == ["ablation", "mean", "max", "std"]  # no cell is outside


@pytest.mark.parametrize(
    ("lost", "note", "by", "says"),
    [
        ([], "", "ablation", "by std instead of ablation: nothing was detected"),
        ([], "it is odd", "ablation", "by std instead of ablation: it is odd"),
        (LOST, "", "ablation:dog", "by std instead of ablation of dog: no dog was detected"),
        (
            [[1e-8] * 4, LOST[1]],
            "",
            "ablation:person",
            "by std instead of ablation of person: the detections depend on no single channel of this layer",
        ),
    ],
)
def test_without_an_ablation_the_ranking_is_by_std(lost, note, by, says):
    fm = ablated(np.reshape(lost, (-1, 4)), note=note)
    ranking = rank(fm, by)
    assert (ranking.by, ranking.note, ranking.lost) == ("std", says, {})
    assert ranking.channels == rank(fm, "std").channels and list(ranking.columns) == ["std", "mean", "max"]


def test_an_ablation_of_another_layer_is_refused():
    with pytest.raises(
        fv.FeatvizError, match=r"^layer 17 \(C3\) has 4 channels: the ablation is 1x3, of another layer$"
    ):
        ablated([[0.1, 0.2, 0.3]])


def test_ablation_of_several_images():
    """Each image has detections of its own; one without does not count."""
    maps = [ablated(LOST), ablated(LOST[:1]), ablated(np.zeros((0, 4)))]
    ranking = rank_together(maps, "ablation")
    np.testing.assert_allclose(ranking.scores["ablation"], np.mean([[0.2, 0.1, -0.5 / 3, 0.5], [0.1, 0, -0.5, 1]], 0))
    assert list(ranking.columns) == ["ablation", "contrast", "mean", "max", "std"]
    with pytest.raises(fv.FeatvizError, match="the channels cannot be ranked by ablation: nothing was detected"):
        rank_together(maps[2:], "ablation")


def test_table_and_csv():
    ranking = rank(feature_map(RNG.normal(size=(12, 4, 4))), "max")
    rows = list(csv.DictReader(io.StringIO(ranking.to_csv())))
    assert list(rows[0]) == ["rank", "channel", "max", "mean", "std"]
    assert [int(row["channel"]) for row in rows] == ranking.channels
    for row in rows:
        for name in ("max", "mean", "std"):
            assert float(row[name]) == pytest.approx(ranking.scores[name][int(row["channel"])], rel=1e-8)
    assert str(ranking).splitlines()[0].split() == ["rank", "channel", "max", "mean", "std"]
    assert len(str(ranking).splitlines()) == 13


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("top:0", "select nothing"),
        ("top:", "not understood"),
        ("top:4:best", "no ranking by 'best': take one of mean, max, std, contrast"),
        (
            "top:4:std:person",
            "channels 'top:4:std:person': no ranking by 'std:person': only contrast and ablation take a class",
        ),
        ("top:4:contrast:", "no ranking by 'contrast:': name the class, as in contrast:person"),
        ("top:4:ablation: ", "no ranking by 'ablation:': name the class, as in ablation:person"),
        ("top:4:ablation", "has no ablation to rank by: take Predictor"),
        ("top:4::person", "not understood"),
    ],
)
def test_top_refused(spec, says):
    with pytest.raises(fv.FeatvizError, match=says):
        choose(feature_map(torch.zeros(4, 2, 2)), spec)


def test_boxes():
    boxes = fv.Boxes([[10, 20, 50, 60]], [0.876], ["person"])
    assert boxes.caption(0) == "person 0.88"
    assert fv.Boxes([[0, 0, 1, 1]]).caption(0) == ""
    np.testing.assert_allclose(boxes.mapped((10, 0, 90, 80), (160, 40)).xyxy, [[0, 40, 20, 120]])
    for wrong in ({"xyxy": [1, 2, 3, 4]}, {"xyxy": [[1, 2, 3, 4]], "scores": [1, 2]}):
        with pytest.raises(fv.FeatvizError):
            fv.Boxes(**wrong)
    with pytest.raises(fv.FeatvizError, match="2 labels for 1 boxes"):
        fv.Boxes([[1, 2, 3, 4]], [1], ["a", "b"])
