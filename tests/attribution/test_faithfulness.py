"""Faithfulness: by hand where the truth is known, and against scipy and loops on YOLOv5."""

import re

import numpy as np
import pytest
import torch
from helpers import left_as_it_was
from scipy import ndimage, stats
from torch import nn

import yolov5_featviz as fv
from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.arrays.ranks import spearman
from yolov5_featviz.attribution.baselines import baselines
from yolov5_featviz.attribution.faithfulness import measure_input
from yolov5_featviz.attribution.maker import Settings
from yolov5_featviz.attribution.measured import BASELINES
from yolov5_featviz.attribution.passes import best_batch
from yolov5_featviz.attribution.randomised import randomised, stages_of
from yolov5_featviz.models.detections import Candidates, Detections

SIDE = 64


class Sums(nn.Module):
    """Each output is the sum of the pixels of the first channel, each times a weight."""

    def __init__(self, *weights):
        super().__init__()
        self.weight = nn.Parameter(torch.stack([torch.as_tensor(one, dtype=torch.float32) for one in weights]))

    def forward(self, x):
        return torch.einsum("bhw,khw->bk", x[:, 0], self.weight)


def finder(boxes):
    """A function that finds one object of class 0 at each box, whose confidence is that output."""
    boxes = torch.tensor(boxes, dtype=torch.float32)

    def find(output):
        scores = output[0].detach()[:, None]
        rows = torch.arange(len(boxes))
        candidates = Candidates(boxes, scores, lambda row, number: output[0, row])
        return Detections(boxes, scores[:, 0], torch.zeros_like(rows), {0: "object"}, rows, candidates)

    return find


def patch(top, left, size, total=0.9):
    """Weights that are equal in a square and 0 elsewhere."""
    weights = np.zeros((SIDE, SIDE), np.float32)
    weights[top : top + size, left : left + size] = total / size**2
    return weights


def measured(model, image, find, methods, **options):
    settings = Settings(methods, **{"fill": "black", "stages": 0, **options.pop("settings", {})})
    rows = measure_input(model, image, settings, find=find, **options)
    return {(row.method, row.detection): row for row in rows}


def given(*maps):
    return {"true": lambda model, image, detections: maps}


def area(curve):
    """The area under values at equal distances from 0 to 1, by trapezes."""
    return sum((a + b) / 2 for a, b in zip(curve, curve[1:])) / (len(curve) - 1)


# --- known truth ----------------------------------------------------------------------------------------------------


def test_areas_of_a_linear_detector_by_hand():
    """Half of the score is in one pixel of 4096, a quarter in another: 1, .5, .25, 0, 0... with 4096 steps."""
    weights = np.zeros((SIDE, SIDE), np.float32)
    weights[3, 5], weights[40, 9], weights[63, 63] = 0.4, 0.2, 0.2
    find = finder([[0, 0, 32, 32]])
    rows = measured(Sums(weights), torch.ones(1, 3, SIDE, SIDE), find, given(weights), settings={"steps": 4096})
    true = rows["true", 0]
    expected = (0.75 + 0.375 + 0.125) / 4096  # trapezes
    assert true.deletion == pytest.approx(expected, abs=1e-7)
    assert true.insertion == pytest.approx(1 - expected, abs=1e-6)
    assert true.deleted[:4] == pytest.approx((1, 0.5, 0.25, 0), abs=1e-6) and not any(true.deleted[4:])
    assert true.inserted[:4] == pytest.approx((0, 0.5, 0.75, 1), abs=1e-6)


def test_the_true_map_beats_every_baseline_and_the_box_loses_where_the_evidence_is_outside():
    """Evidence in a patch that the box does not touch, off the middle."""
    weights = patch(40, 4, 16)
    model, find = Sums(weights), finder([[30, 2, 60, 30]])
    image = torch.ones(1, 3, SIDE, SIDE)
    rows = measured(model, image, find, given(weights), settings={"steps": 64})
    true = rows["true", 0]
    share = 16 * 16 / SIDE**2
    assert true.deletion == pytest.approx(share / 2, abs=1e-4)  # a straight line down to 0 at the patch's share
    assert true.insertion == pytest.approx(1 - share / 2, abs=1e-4)
    assert true.energy == 0 and true.pointing == 0  # the map is right, and outside the box
    for baseline in BASELINES:
        row = rows[baseline, 0]
        if row.note.startswith("the map has"):  # the edges of an image of one value
            assert baseline == "edges" and np.isnan(row.deletion)
            continue
        assert row.deletion > true.deletion + 0.1 and row.insertion < true.insertion - 0.1
    box = rows["box", 0]
    assert (box.energy, box.pointing) == (1, 1)
    # nothing of the box matters, then rows from the top: the patch is in rows 40 to 55
    inside = np.zeros((SIDE, SIDE), bool)
    inside[2:30, 30:60] = True
    order = np.concatenate([np.flatnonzero(inside), np.flatnonzero(~inside)])
    left = 1 - np.cumsum(weights.ravel()[order]) / 0.9
    curve = np.concatenate([[1], left])[:: SIDE**2 // 64]
    assert box.deletion == pytest.approx(area(curve), abs=1e-4)


def test_where_the_evidence_is_the_box_it_does_as_well_as_the_truth():
    weights = patch(8, 8, 16)
    rows = measured(
        Sums(weights), torch.ones(1, 3, SIDE, SIDE), finder([[8, 8, 24, 24]]), given(weights), settings={"steps": 32}
    )
    assert rows["box", 0].deletion == pytest.approx(rows["true", 0].deletion, abs=1e-6)


def test_odi_by_hand():
    """Two boxes that overlap: energies of 1 (first alone), 2 (both) and 5 (second alone) cells' worth."""
    one, other = [0, 0, 4, 4], [2, 0, 6, 4]
    heat = np.zeros((SIDE, SIDE), np.float32)
    heat[0, 0], heat[1, 3], heat[2, 5], heat[30, 30] = 1, 2, 5, 100
    find = finder([one, other])
    image = torch.ones(1, 3, SIDE, SIDE)
    model = Sums(patch(0, 0, 4, 0.9), patch(0, 2, 4, 0.8))
    rows = measured(model, image, find, given(heat, heat), settings={"steps": 2})
    assert rows["true", 0].odi == pytest.approx(7 / 8) and rows["true", 1].odi == pytest.approx(3 / 8)
    assert rows["true", 0].energy == pytest.approx(3 / 108) and rows["true", 0].box_area == pytest.approx(16 / SIDE**2)
    # labels: the first is that of detection 0; detection 1 has none, so both labels are others
    labels = Boxes(np.array([[0, 0, 4, 4.5], [28, 28, 32, 32.0]]), classes=np.array([0, 0]))
    rows = measured(model, image, find, given(heat, heat), labels=labels, settings={"steps": 2})
    assert rows["true", 0].odi == pytest.approx(100 / 103)
    assert rows["true", 1].odi == pytest.approx(103 / 108)
    # labels without a pixel are no objects
    labels = Boxes(np.array([[0, 0, 4, 4.5], [28, 28, 28, 32.0], [70, 70, 80, 80]]), classes=np.zeros(3, int))
    none = measured(model, image, find, given(heat, heat), labels=labels, settings={"steps": 2})["true", 0]
    assert np.isnan(none.odi) and none.note == "no ODI: there is no other object"


def test_sparsity_is_hoyers():
    heat = np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE) ** 2
    find = finder([[0, 0, 9, 9]])
    row = measured(Sums(patch(0, 0, 9)), torch.ones(1, 3, SIDE, SIDE), find, given(heat), settings={"steps": 2})[
        "true", 0
    ]
    x = heat.astype(np.float64).ravel()
    assert row.sparsity == pytest.approx((SIDE - x.sum() / np.sqrt((x**2).sum())) / (SIDE - 1), rel=1e-5)


def test_baselines_are_what_they_say():
    image = torch.rand(1, 3, SIDE, 96, generator=torch.Generator().manual_seed(0))
    box = [10, 20, 40, 50]
    model = Sums(np.full((SIDE, 96), 1e-4))
    rows = measured(model, image, finder([box]), given(np.random.default_rng(0).random((8, 12))), settings={"steps": 4})
    seen = {name: made.maps[0].values for name, made in baselines(image, Boxes(np.array([box], np.float32))).items()}
    assert tuple(seen) == tuple(BASELINES) and all(one.shape == (SIDE, 96) for one in seen.values())
    assert seen["box"][20:50, 10:40].all() and seen["box"].sum() == 30 * 30
    row, column = np.unravel_index(seen["centre"].argmax(), (SIDE, 96))
    assert row in (31, 32) and column in (47, 48)
    assert seen["centre"][31, 24] / seen["centre"].max() == pytest.approx(np.exp(-0.5), abs=0.02)  # a quarter off
    grey = image[0].mean(0).numpy()
    along = [ndimage.sobel(grey, axis, mode="mirror") for axis in (0, 1)]
    np.testing.assert_allclose(seen["edges"][1:-1, 1:-1], np.hypot(*along)[1:-1, 1:-1], atol=1e-4)
    assert seen["random"].min() >= 0 and seen["random"].max() <= 1 and seen["random"].std() > 0.1
    assert all(np.isnan(rows[name, 0].change) and rows[name, 0].sanity == () for name in BASELINES)


def test_only_the_images_part_of_the_input_is_measured():
    """An image in padding gives the numbers of the image alone."""
    random = np.random.default_rng(3)
    weights = (random.random((40, SIDE)) ** 3 / 2000).astype(np.float32)
    image = torch.rand(1, 3, 40, SIDE, generator=torch.Generator().manual_seed(1))
    padded = torch.full((1, 3, SIDE, SIDE), 0.447)
    padded[:, :, 12:52] = image
    whole = np.zeros((SIDE, SIDE), np.float32)
    whole[12:52] = weights
    heat = np.zeros((SIDE, SIDE), np.float32) + 5  # what lies in the padding does not count
    heat[12:52] = random.random((40, SIDE))
    settings = {"steps": 10, "fill": "blur"}
    alone = measured(Sums(weights), image, finder([[4, 4, 30, 30]]), given(heat[12:52]), settings=settings)
    inside = measured(
        Sums(whole),
        padded,
        finder([[4, 16, 30, 42]]),
        given(heat),
        region=(0.0, 12.0, 64.0, 52.0),
        size=(80, 128),
        settings=settings,
    )
    assert inside["true", 0].box == pytest.approx((8, 8, 60, 60))  # in pixels of the image, of twice the size
    for key, row in alone.items():
        for name in ("deletion", "insertion", "energy", "pointing", "box_area", "sparsity"):
            assert getattr(inside[key], name) == pytest.approx(getattr(row, name), abs=1e-5), (key, name)


# --- what is not defined --------------------------------------------------------------------------------------------


def test_what_is_not_defined_is_empty_and_says_why():
    flat = np.full((8, 8), 0.3)
    holes = np.where(np.eye(8), np.nan, 1.0)
    negative = -np.eye(8)
    model, image, find = Sums(patch(0, 0, 9)), torch.rand(1, 3, SIDE, SIDE) + 0.5, finder([[0, 0, 9, 9]])

    def row(plane):
        return measured(model, image, find, given(plane), settings={"steps": 3})["true", 0]

    for plane in (flat, np.zeros((8, 8))):
        found = row(plane)
        assert found.note == "the map has the same value everywhere"
        assert np.isnan([found.deletion, found.insertion, found.energy, found.odi, found.sparsity]).all()
        assert found.deleted == found.inserted == ()
    assert row(holes).note == "map 0 has values that are not finite: they have no order"
    assert row(None).note == "the method made no map" and np.isnan(row(None).deletion)
    found = row(negative)  # there is an order, but no energy
    assert found.note == "no value of the map is above 0"
    assert np.isfinite([found.deletion, found.insertion]).all() and np.isnan([found.energy, found.pointing]).all()
    found = row(np.eye(8))
    assert found.note == "no ODI: there is no other object" and np.isnan(found.odi) and np.isfinite(found.energy)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"methods": ()}, "methods (): give a list, such as layer-cam, odam"),
        ({"methods": "layer-cam"}, "methods 'layer-cam': give a list"),
        ({"methods": ("gradcam",)}, "no method 'gradcam': did you mean grad-cam?"),
        ({"methods": ("box",)}, "method 'box' is a baseline, which is always measured: leave it out"),
        ({"methods": ("odam", "odam")}, "methods odam, odam: name each once"),
        ({"fill": "blurr"}, "no fill 'blurr': did you mean blur?"),
        ({"steps": 1}, "1 steps: take 2 or more"),
        ({"steps": "5"}, "steps '5': give a whole number"),
        ({"methods": {"mine": 5}}, "method 'mine': give a function from model, input and detections to maps"),
        ({"fill": torch.zeros(1)}, "a fill of type Tensor: give one of blur, mean, noise, black"),
        ({"stages": -1}, "-1 stages: take 0 or more"),
        ({"methods": {"mine": lambda *_: []}}, "mine returned 0 maps for 1 detections: return one for each"),
        ({"layers": "nothing"}, "nothing"),
    ],
)
def test_refused(settings, says):
    model, image, find = Sums(patch(0, 0, 9)), torch.ones(1, 3, SIDE, SIDE), finder([[0, 0, 9, 9]])
    with pytest.raises(fv.FeatvizError, match=re.escape(says)) as error:
        measure_input(model, image, Settings(**{"stages": 0, "methods": ("heatmap",), **settings}), find=find)
    assert "\n" not in str(error.value)


# --- checks ---------------------------------------------------------------------------------------------------------


def test_spearman_against_scipy():
    random = np.random.default_rng(0)
    for ties in (1000, 5, 2):
        x, y = random.integers(ties, size=(2, 300))
        y = y + x // 2
        assert spearman(x.reshape(30, 10), y.reshape(30, 10)) == pytest.approx(
            stats.spearmanr(x, y).statistic, abs=1e-12
        )
    assert np.isnan(spearman(np.ones(5), np.arange(5))) and np.isnan(spearman(np.array([1, np.nan]), np.arange(2)))
    assert spearman(np.arange(5), -np.arange(5)) == -1


class Chain(nn.Module):
    """Three layers, registered in another order than that in which they are run."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.stem = nn.Linear(8, 4), nn.Linear(8, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.odd = nn.Parameter(torch.arange(3.0))

    def forward(self, x):
        return self.head(self.body(self.stem(x)) + self.odd.sum())


def test_stages_go_from_the_head_downwards():
    model = Chain().eval()
    sets = stages_of(model, lambda: model(torch.rand(2, 8)), 5)
    order = [model, model.head, model.body[1], model.body[0], model.stem]  # what holds all is run last
    assert [set(map(id, one)) for one in sets] == [set(map(id, order[: n + 1])) for n in range(5)]
    assert [len(one) for one in stages_of(model, lambda: model(torch.rand(2, 8)), 2)] == [3, 5]


def test_randomised_shuffles_and_restores_exactly():
    model = Chain().eval()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with left_as_it_was(model):
        with randomised([model.body[0], model.head]):
            for name, one in model.state_dict().items():
                if name.startswith(("body.0", "head")):
                    assert torch.equal(one.flatten().sort().values, before[name].flatten().sort().values)
                    assert "weight" not in name or not torch.equal(one, before[name])
                else:
                    assert torch.equal(one, before[name])
        assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
        with pytest.raises(ZeroDivisionError), randomised([model.stem]):
            raise ZeroDivisionError
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())


def test_sanity_and_stability_of_maps_that_are_known():
    """A map of the weights is another one of another model; one of the image is not; noise changes only that one."""
    random = np.random.default_rng(0)
    weights = random.random((SIDE, SIDE)).astype(np.float32) / 4096
    model, image, find = Sums(weights), torch.rand(1, 3, SIDE, SIDE), finder([[0, 0, 30, 30]])
    methods = {
        "weights": lambda model, image, detections: [model.weight[0].detach().numpy()],
        "image": lambda model, image, detections: [image[0].mean(0).numpy()],
        "fixed": lambda model, image, detections: [np.eye(SIDE)],
    }
    rows = measured(model, image, find, methods, settings={"steps": 2, "stages": 2})
    assert np.abs(rows["weights", 0].sanity).max() < 0.1
    assert rows["image", 0].sanity == rows["fixed", 0].sanity == (1, 1)
    assert rows["weights", 0].change == rows["fixed", 0].change == 0
    # by hand: 2 % of the range, the mean of three channels, relative to the norm of the image (scaled alike)
    level = image[0].mean(0).numpy()
    expected = 0.02 / np.sqrt(3) * SIDE / np.linalg.norm(level)
    assert rows["image", 0].change == pytest.approx(expected, rel=0.2)


def test_noise_that_changes_the_detection_does_not_count():
    """A score that leaps at the least noise: no draw leaves the detection as it is."""

    class Leaps(Sums):
        def forward(self, x):
            return 0.9 * (x[:, :1].amax(dim=(2, 3)) == x[:, :1].amin(dim=(2, 3))) + 0.05

    image = torch.ones(1, 3, SIDE, SIDE)
    image[0, 1, 0, 0] = 0.0  # so that there is a range
    rows = measured(
        Leaps(patch(0, 0, 9)), image, finder([[0, 0, 30, 30]]), given(np.eye(8)), settings={"steps": 2, "stages": 1}
    )
    assert np.isnan(rows["true", 0].change) and rows["true", 0].sanity == (1,)


# --- on YOLOv5 ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(model, bus):
    image = torch.nn.functional.interpolate(bus, size=(320, 256), mode="bilinear", align_corners=False)
    settings = Settings(("layer-cam", "heatmap", "eigen-cam", "ablation"), steps=5, stages=2)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    found = measure_input(model, image, settings, name="bus")
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    return image, found


def test_every_method_and_baseline_has_a_row_for_each_detection(rows):
    _, found = rows
    count = max(row.detection for row in found) + 1
    methods = ("layer-cam", "heatmap", "eigen-cam", "ablation", *BASELINES)
    assert [(row.method, row.detection) for row in found] == [(m, n) for m in methods for n in range(count)]
    assert count >= 3
    for row in found:
        assert row.image == "bus" and 0 < row.deletion < 1.2 and 0 < row.insertion < 1.2 and row.note == ""
        assert row.deleted[0] == row.inserted[-1] == 1 and row.deleted[-1] == row.inserted[0]
        assert len(row.deleted) == len(row.inserted) == 6
        assert row.deletion == pytest.approx(area(row.deleted))
        assert (row.method in BASELINES) == (row.sanity == ()) == np.isnan(row.change)
    heat = [row for row in found if row.method in ("heatmap", "eigen-cam")]
    assert all(len({row.sparsity for row in heat if row.method == m}) == 1 for m in ("heatmap", "eigen-cam"))


def test_the_map_is_that_which_explain_returns(rows, model):
    """Deletion of Layer-CAM in a loop: pixels in the order of ``Explanation.map`` become the blurred image."""
    image, found = rows
    (one,) = fv.explain(model, image, [0])
    row = next(row for row in found if (row.method, row.detection) == ("layer-cam", 0))
    assert row.layers == one.layers and row.score == pytest.approx(one.score) and row.label == one.label
    sums = one.map.sum()
    left, top, right, bottom = (round(edge) for edge in one.box)
    assert row.energy == pytest.approx(one.map[top:bottom, left:right].sum() / sums, abs=0.02)


def test_the_best_batch(model, bus):
    image = torch.nn.functional.interpolate(bus, size=(64, 64))
    found = best_batch(model, image)
    assert found in (1, 2, 4, 8, 16, 32, 64, 128, 256)
    with pytest.raises(fv.FeatvizError, match="of no known family"):
        best_batch(nn.Conv2d(3, 3, 1), image)
