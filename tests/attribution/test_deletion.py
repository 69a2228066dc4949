"""Deletion and insertion: by hand where scores are sums of pixels; on YOLOv5 against a loop."""

import re

import cv2
import numpy as np
import pytest
import torch
from helpers import left_as_it_was
from torch import nn
from torch.nn.functional import interpolate

import yolov5_featviz as fv
from yolov5_featviz.attribution.deletion import FILLS, both_curves, curves
from yolov5_featviz.models.detections import Candidates, Detections, Thresholds, select, watching

ALONE = ("boxes", "scores", "classes", "rows")
BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 40]])


class Passes(nn.Module):
    """Hands its input on, and keeps it."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()
        self.given = []

    def forward(self, x):
        self.given.append(x.clone())
        return x


def steps_of(model, insert=False):
    """What the model was given for one map, by step: the image and what it is replaced by are run first."""
    image, filled, *between = model.given
    return [filled, *between, image] if insert else [image, *between, filled]


def summed(*weights):
    """A function that finds one object for each ``[H, W]``, the weights of pixels of which its score is the sum."""
    weights = torch.stack([torch.as_tensor(one, dtype=torch.float64) for one in weights])

    def find(output):
        scores = (output[0, 0].double() * weights).sum(dim=(1, 2)).float()[:, None]
        rows = torch.arange(len(weights))
        candidates = Candidates(BOXES[rows], scores, lambda row, number: scores[row, number])
        return Detections(BOXES[rows], scores[:, 0], torch.zeros_like(rows), {0: "object"}, rows, candidates)

    return find


def sparse(*entries, shape=(4, 4)):
    weights = np.zeros(shape)
    for row, column, value in entries:
        weights[row, column] = value
    return weights


THREE = sparse((0, 1, 0.4), (1, 3, 0.24), (2, 2, 0.16))  # 0.8 together: half of it is in one pixel of sixteen


def test_areas_by_hand():
    """All pixels 1, replaced by black one by one: the score loses the weight of each."""
    model, image, find = Passes(), torch.ones(1, 3, 4, 4), summed(THREE, THREE)
    detections = find(image)
    assert detections.scores.tolist() == pytest.approx([0.8, 0.8])
    worst = sparse((0, 1, 1), (1, 3, 2), (2, 2, 3))  # of the three, the least first
    deleted = curves(model, image, detections, [THREE, worst], steps=16, fill="black", find=find)
    np.testing.assert_allclose(deleted.scores[0], [1, 0.5, 0.2] + [0] * 14, atol=1e-6)
    np.testing.assert_allclose(deleted.scores[1], [1, 0.8, 0.5] + [0] * 14, atol=1e-6)
    np.testing.assert_allclose(deleted.areas, [(0.5 + 0.5 + 0.2) / 16, (0.5 + 0.8 + 0.5) / 16], atol=1e-6)
    np.testing.assert_allclose(deleted.shares, np.arange(17) / 16)
    inserted = curves(model, image, detections, [THREE, worst], steps=16, fill="black", insert=True, find=find)
    np.testing.assert_allclose(inserted.scores, 1 - deleted.scores, atol=1e-6)
    np.testing.assert_allclose(inserted.areas, 1 - deleted.areas, atol=1e-6)


def test_steps_are_equal_shares():
    """Four shares of four pixels; three of sixteen by 6, 5 and 5."""
    model, image, find = Passes(), torch.ones(1, 3, 4, 4), summed(np.full((4, 4), 1 / 16))
    four = curves(model, image, find(image), [np.arange(16).reshape(4, 4)], steps=4, fill="black", find=find)
    np.testing.assert_allclose(four.scores, [[1, 0.75, 0.5, 0.25, 0]], atol=1e-6)
    assert four.areas == pytest.approx([0.5])
    three = curves(model, image, find(image), [np.zeros((4, 4))], steps=3, fill="black", find=find)
    np.testing.assert_allclose(three.scores, [[1, 10 / 16, 5 / 16, 0]], atol=1e-6)


def test_the_true_map_is_the_best():
    random = np.random.default_rng(0)
    weights = random.random((6, 8)) ** 3
    weights *= 0.9 / weights.sum()
    model, image, find = Passes(), torch.ones(1, 3, 6, 8), summed(weights)

    def area(values, insert=False):
        found = curves(model, image, find(image), [values], 12, "black", insert, find=find)
        return float(found.areas[0])

    others = [random.random((6, 8)) for _ in range(30)]
    assert area(weights) < min(area(other) for other in others) < 0.5 < area(-weights)
    assert area(weights, True) > max(area(other, True) for other in others) > 0.5 > area(-weights, True)
    assert area(weights * 1000 - 7) == area(weights)  # only the order counts


def test_ties_go_from_the_upper_left():
    """A level map is a wipe by rows; within the level parts of a map of two values, too."""
    model, image, find = Passes(), torch.ones(1, 3, 2, 3), summed(np.full((2, 3), 1 / 6))
    level, two = np.zeros((2, 3)), [[0, 0, 1], [1, 0, 0]]
    for values, order in ((level, [0, 1, 2, 3, 4, 5]), (two, [2, 3, 0, 1, 4, 5])):
        model.given.clear()
        curves(model, image, find(image), [values], 6, "black", batch=1, find=find)
        planes = [one[0, 0].flatten() for one in steps_of(model)]
        gone = [int((before - after).argmax()) for before, after in zip(planes, planes[1:])]
        assert gone == order and all(torch.equal(one[0, 0], one[0, 2]) for one in model.given)


def test_coarse_maps_are_interpolated():
    random = np.random.default_rng(1)
    coarse = random.random((2, 3)).astype(np.float32)
    weights = random.random((8, 12)) / 96
    model, image, find = Passes(), torch.ones(1, 3, 8, 12), summed(weights)
    fine = interpolate(torch.from_numpy(coarse)[None, None], size=(8, 12), mode="bilinear", align_corners=False)[0, 0]
    found = curves(model, image, find(image), [torch.from_numpy(coarse).requires_grad_(True)], 10, "black", find=find)
    expected = curves(model, image, find(image), [fine], 10, "black", find=find)
    np.testing.assert_array_equal(found.scores, expected.scores)
    nearest = np.kron(coarse, np.ones((4, 4)))
    assert not np.array_equal(curves(model, image, find(image), [nearest], 10, "black", find=find).scores, found.scores)


# --- what pixels are replaced by ------------------------------------------------------------------------------------


def last_input(image, fill, insert=False):
    """What the model is given when all pixels are replaced."""
    model, find = Passes(), summed(np.full(tuple(image.shape[2:]), 1e-4))
    curves(model, image, find(image), [np.zeros((1, 1))], 2, fill, insert, batch=1, find=find)
    unchanged, half, replaced = steps_of(model, insert)[:: -1 if insert else 1]
    assert torch.equal(unchanged, image)
    rows = image.shape[2] // 2
    above, below = (unchanged, replaced) if insert else (replaced, unchanged)
    assert torch.equal(half[:, :, :rows], above[:, :, :rows]) and torch.equal(half[:, :, rows:], below[:, :, rows:])
    return replaced


@pytest.fixture
def noise():
    return torch.rand(1, 3, 40, 100, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("insert", [False, True])
def test_fills(noise, insert):
    planes = noise[0].numpy().transpose(1, 2, 0)
    how = {"ksize": (121, 121), "sigmaX": 10.0, "borderType": cv2.BORDER_CONSTANT}  # a tenth of 100
    blurred = cv2.GaussianBlur(planes, **how) / cv2.GaussianBlur(np.ones_like(planes), **how)
    found = last_input(noise, "blur", insert)[0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(found, blurred, atol=1e-4)
    expected = np.broadcast_to(planes.mean(axis=(0, 1)), planes.shape)
    np.testing.assert_allclose(last_input(noise, "mean", insert)[0].numpy().transpose(1, 2, 0), expected, atol=1e-6)
    assert not last_input(noise, "black", insert).any()
    other = torch.randn(noise.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(last_input(noise, other, insert), other)


def test_noise_has_the_mean_and_deviation_of_each_channel():
    image = (
        torch.rand(1, 3, 200, 300, generator=torch.Generator().manual_seed(0))
        ** torch.tensor([1.0, 2, 5])[:, None, None]
    )
    found = last_input(image, "noise")
    for own, given in zip(found[0], image[0]):
        assert float(own.mean()) == pytest.approx(float(given.mean()), abs=0.005)
        assert float(own.std()) == pytest.approx(float(given.std()), abs=0.005)
    assert torch.equal(found, last_input(image, "noise", True))


@pytest.mark.parametrize("fill", FILLS)
def test_what_lies_outside_the_region_stays(noise, fill):
    """As in the crop alone: shares, fill and map are those of the region."""
    model, find = Passes(), summed(np.full((40, 100), 1e-4))
    region = (10.4, 3.0, 89.6, 33.2)  # rounded
    curves(model, noise, find(noise), [[[1, 0], [0, 0]]], 4, fill, batch=1, find=find, region=region)
    whole = steps_of(model)
    crop = noise[:, :, 3:33, 10:90]
    model.given.clear()
    find = summed(np.full((30, 80), 1e-4))
    curves(model, crop, find(crop), [[[1, 0], [0, 0]]], 4, fill, batch=1, find=find)
    for one, alone in zip(whole, steps_of(model)):
        assert torch.equal(one[:, :, 3:33, 10:90], alone)
        rest = one.clone()
        rest[:, :, 3:33, 10:90] = crop
        assert torch.equal(rest, noise)


def test_both_curves_of_several_maps(noise):
    """Equal maps are run once, and what all share once; the curves are those of each map alone."""
    random = np.random.default_rng(5)
    weights = [random.random((40, 100)) / 4000 for _ in range(2)]
    model, find = Passes(), summed(*weights)
    detections = find(noise)
    maps, of = [random.random((4, 10)), np.ones((2, 2)), weights[1], np.ones((2, 2))], [0, 0, 1, 1]
    found = both_curves(model, noise, detections, maps, of, 5, "blur", batch=3, find=find)
    assert sum(len(one) for one in model.given) == 2 + 3 * 4 * 2 + 4  # and what tells whether batches are the same
    for i, (values, number) in enumerate(zip(maps, of)):
        one = Detections(**{**vars(detections), **{k: getattr(detections, k)[[number]] for k in ALONE}})
        for insert, both in zip((False, True), found):
            alone = curves(model, noise, one, [values], 5, "blur", insert, find=find)
            np.testing.assert_allclose(both.scores[i], alone.scores[0], atol=1e-6)
            assert both.areas[i] == pytest.approx(alone.areas[0], abs=1e-6)


@pytest.mark.parametrize("fill", FILLS)
def test_half_precision_and_gradients(noise, fill):
    image = noise.half().requires_grad_(True)
    replaced = last_input(image.detach(), fill)
    assert replaced.dtype == torch.float16 and replaced.isfinite().all()
    model, find = Passes(), summed(np.full((40, 100), 1e-4))
    curves(model, image, find(image.detach()), [np.zeros((2, 2))], 1, fill, find=find)
    assert not any(one.requires_grad for one in model.given)


# --- which candidate counts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [False, True], ids=["one box", "a box a class"])
def test_the_best_candidate_of_the_class_at_the_place(each):
    """One at another place, of another class, or too far off does not count, however high it is; a neighbour does."""
    place = [0.0, 0, 10, 10]
    boxes = torch.tensor([place, [0, 0, 10, 5.1], [0, 0, 10, 4.9], [50, 50, 60, 60], place])

    def find(output):
        own = float(output[0, 0, 0, 0])  # the first pixel is the detection; the others are as they are
        scores = torch.tensor([[0, 0.8 * own], [0, 0.3], [0, 0.7], [0, 0.9], [0.95, 0]])
        located = boxes
        if each:  # the boxes of the other class are all at the place
            located = torch.stack([torch.tensor(place).expand(5, 4), boxes], dim=1)
        candidates = Candidates(located, scores, lambda row, number: scores[row, number])
        one = torch.tensor([0])
        return Detections(boxes[:1], scores[:1, 1], one + 1, {}, one, candidates)

    image = torch.ones(1, 3, 2, 2)
    found = curves(Passes(), image, find(image), [[[1, 0], [0, 0]]], 4, "black", find=find)
    np.testing.assert_allclose(found.scores, [[1, *[0.3 / 0.8] * 4]], atol=1e-6)


def test_a_box_that_moves_away():
    def find(output):
        off = 100 * (1 - output[0, 0, 1, 1])
        boxes = torch.tensor([[0.0, 0, 10, 10]]) + off
        scores = torch.tensor([[0.6]])
        candidates = Candidates(boxes, scores, lambda row, number: scores[row, number])
        return select(candidates, {}, Thresholds())

    image = torch.ones(1, 3, 2, 2)
    found = curves(Passes(), image, find(image), [[[3, 2], [0, 1]]], 4, "black", find=find)
    np.testing.assert_allclose(found.scores, [[1, 1, 1, 0, 0]])


def test_no_candidates_are_left():
    def find(output):
        count = int(output[0, 0, 0, 0] > 0.5)
        scores = torch.full((count, 1), 0.6)
        candidates = Candidates(torch.tensor([[0.0, 0, 9, 9]])[:count], scores, lambda row, number: scores[row, number])
        return select(candidates, {}, Thresholds())

    image = torch.ones(1, 3, 2, 2)
    found = curves(Passes(), image, find(image), [[[1, 0], [0, 0]]], 2, "black", find=find)
    np.testing.assert_allclose(found.scores, [[1, 0, 0]])


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 5, 8, 100, None])
def test_the_batch_size(batch):
    random = np.random.default_rng(2)
    weights = [random.random((6, 8)) / 60 for _ in range(2)]
    model, find = Passes(), summed(*weights)
    image = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(4)) + 0.5
    maps = [random.random((6, 8)), random.random((3, 4))]
    passed = []

    def progress(items):
        for item in items:
            passed.append(item)
            yield item

    expected = [curves(model, image, find(image), maps, 9, "blur", insert, 1, find=find) for insert in (False, True)]
    model.given.clear()
    for insert in (False, True):
        found = curves(model, image, find(image), maps, 9, "blur", insert, batch, progress, find)
        np.testing.assert_allclose(found.scores, expected[insert].scores, atol=1e-6)
    assert len(passed) == 2 * (2 + 2 * 8) and all(isinstance(one, Candidates) for one in passed)
    assert max(len(one) for one in model.given) == min(batch or 8, 18)


def test_no_detections():
    model, image, find = Passes(), torch.ones(1, 3, 4, 4), summed(THREE)
    none = select(find(image).candidates, {}, Thresholds(1))
    for insert in (False, True):
        found = curves(model, image, none, [], 5, insert=insert, find=find)
        assert found.scores.shape == (0, 6) and found.areas.shape == (0,) and found.shares.shape == (6,)
    assert not model.given


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"image": torch.zeros(2, 3, 4, 4)},
            "deletion needs one image [1, C, H, W], not a tensor of shape [2, 3, 4, 4",
        ),
        ({"steps": 0}, "0 steps: take 1 or more"),
        ({"maps": []}, "0 maps for 1 detections: give one for each, in order"),
        ({"maps": [np.zeros((2, 2, 2))]}, "map 0 is of shape [2, 2, 2]: give [h, w]"),
        ({"maps": [[[1, 2], [3]]]}, "map 0 is no array of numbers: give [h, w]"),
        ({"maps": [np.full((2, 2), np.nan)]}, "map 0 has values that are not finite"),
        ({"fill": "red"}, "no fill 'red': take one of blur, mean, noise, black, or a tensor [1, 3, 4, 4]"),
        (
            {"fill": np.zeros(3)},
            "no fill of type ndarray: take one of blur, mean, noise, black, or a tensor [1, 3, 4, 4]",
        ),
        ({"fill": torch.zeros(3)}, "the fill is of shape [3]: give the image's, [1, 3, 4, 4]"),
        ({"image": torch.full((1, 3, 4, 4), 0.5)}, "the detections are not those of this model in this image"),
        ({"image": torch.full((1, 3, 4, 4), 0.5), "insert": True}, "the detections are not those of this model in"),
        ({"batch": 0}, "a batch of 0 images: take 1 or more"),
        ({"find": None}, "Passes is of no known family of detectors: give as "),
    ],
)
def test_refused(arguments, says):
    image, find = torch.ones(1, 3, 4, 4), summed(THREE)
    given = {"image": image, "detections": find(image), "maps": [THREE], "find": find, **arguments}
    with pytest.raises(fv.FeatvizError, match=re.escape(says)) as error:
        curves(Passes(), **given)
    assert "\n" not in str(error.value)


def test_the_model_is_left_as_it_was():
    image, find = torch.ones(1, 3, 4, 4), summed(THREE)
    model = Passes().train()
    model.act.eval()
    model.act.register_forward_hook(lambda module, given, output: None)
    with left_as_it_was(model):
        curves(model, image, find(image), [THREE], find=find)
        detections = find(image)
        with pytest.raises(ZeroDivisionError):
            curves(model, image, detections, [THREE], find=lambda output: 1 / 0)


# --- on YOLOv5 ------------------------------------------------------------------------------------------------------


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / sum([(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)], -shared)


def test_yolov5_against_a_loop(model, bus):
    """The bus of ``bus.jpg``, from YOLOv5's own rows: centre, size, objectness, class confidences."""
    image = interpolate(bus, size=(320, 256), mode="bilinear", align_corners=False)
    with torch.no_grad(), watching(model) as found:
        detections = found(model(image), Thresholds())
    at = [detections.label(i)[:3] for i in range(len(detections))].index("bus")
    (box,), kind = detections.boxes[at : at + 1].tolist(), int(detections.classes[at])
    one = Detections(
        detections.boxes[at : at + 1],
        detections.scores[at : at + 1],
        detections.classes[at : at + 1],
        detections.names,
        detections.rows[at : at + 1],
        detections.candidates,
    )
    values = np.random.default_rng(0).random((320, 256)).astype(np.float32)
    values[60:230] += 1
    order = np.argsort(-values, axis=None, kind="stable")
    expected = []
    for share in np.linspace(0, 1, 6):
        changed = image.clone().reshape(1, 3, -1)
        changed[..., order[: round(share * len(order))]] = 0
        with torch.no_grad():
            rows = model(changed.reshape(image.shape))[0][0].double().numpy()
        scores = [
            row[4] * row[5 + kind]
            for row in rows[rows[:, 4] > 1e-4]
            if overlap(box, [*(row[:2] - row[2:4] / 2), *(row[:2] + row[2:4] / 2)]) >= 0.5
        ]
        expected.append(max(scores, default=0))
    found = curves(model, image, one, [values], 5, "black")
    np.testing.assert_allclose(found.scores[0], np.divide(expected, expected[0]), atol=2e-4)
    assert found.scores[0, 0] == 1 and found.scores[0, 4] < 0.5


def test_an_explanation_beats_chance(model, bus):
    """The default method's maps, of all detections in ``bus.jpg``, given as explanations."""
    image = interpolate(bus, size=(320, 256), mode="bilinear", align_corners=False)
    with torch.no_grad(), watching(model) as found:
        detections = found(model(image), Thresholds())
    explanations = fv.explain(model, image)
    assert [round(one.score, 4) for one in explanations] == [round(float(one), 4) for one in detections.scores]
    random = np.random.default_rng(0).random((len(detections), 10, 8))
    ours, chance = (curves(model, image, detections, maps, 10) for maps in (explanations, random))
    assert (ours.areas < chance.areas).all() and ours.areas.mean() < chance.areas.mean() / 2
    ours, chance = (curves(model, image, detections, maps, 10, insert=True) for maps in (explanations, random))
    assert ours.areas.mean() > chance.areas.mean()
