"""Rankings, against references written out in plain Python."""

import csv
import io
import math
import statistics

import numpy as np
import pytest
import torch
from helpers import feature_map

import yolov5_featviz as fv
from yolov5_featviz.draw.channels import choose, rank

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
        ("top:4:std:x", "not understood"),
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
