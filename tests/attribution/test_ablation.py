"""What detections lose without a channel, against a plain loop with hooks."""

import dataclasses
import inspect
import re

import numpy as np
import pytest
import torch
from helpers import left_as_it_was
from torch import nn

import yolov5_featviz as fv
from yolov5_featviz.attribution.ablation import ablate, detect
from yolov5_featviz.attribution.dependence import dependences
from yolov5_featviz.models.detections import Candidates, Detections
from yolov5_featviz.models.layers import Layer, index_layers, select_layers


class Net(nn.Module):
    """A detector with random weights: two classes at each place, normalisation and a layer that works in place."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.a = nn.Conv2d(3, 10, 5, 4, 2)
        self.norm = nn.BatchNorm2d(10)
        self.act = nn.SiLU(inplace=True)
        self.unused = nn.Conv2d(10, 2, 1)
        self.b = nn.Sequential(nn.Conv2d(10, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 1))
        nn.init.normal_(self.b[2].weight)

    def forward(self, x):
        return self.b(self.act(self.norm(self.a(x))))


def find(output):
    offsets, logits = output[0, :4].flatten(1).T, output[0, 4:].flatten(1).T
    scores = logits.detach().sigmoid()
    boxes = torch.tensor([0.0, 0, 9, 9]) + offsets.detach()
    candidates = Candidates(boxes, scores, lambda row, number: logits[row, number])
    rows = torch.cat([scores[:, k].argsort(descending=True)[:2] for k in (0, 1)])
    classes = torch.tensor([0, 0, 1, 1])
    return Detections(boxes[rows], scores[rows, classes], classes, {}, rows, candidates)


@pytest.fixture(scope="module")
def given():
    model, image = Net().eval(), torch.randn(1, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model, image, find(model(image))


def loop(model, image, layer, detections):
    """Scores lost, scores, and activations: one channel after the other, each through a hook of its own."""
    module = dict(model.named_modules())[layer]
    kept = []
    handle = module.register_forward_hook(lambda m, a, output: kept.append(output.clone()))
    with torch.no_grad():
        before = torch.sigmoid(model(image)[0, 4:].flatten(1).T.double())
    handle.remove()
    lost = []
    for channel in range(kept[0].shape[1]):

        def without(m, a, output, channel=channel):
            values = output.clone()
            values[0, channel, :, :] = sum(values[0, channel].flatten().tolist()) / values[0, channel].numel()
            return values

        handle = module.register_forward_hook(without)
        with torch.no_grad():
            after = torch.sigmoid(model(image)[0, 4:].flatten(1).T.double())
        handle.remove()
        lost.append(
            [float(before[row, k] - after[row, k]) for row, k in zip(detections.rows, detections.classes.tolist())]
        )
    scores = [float(before[row, k]) for row, k in zip(detections.rows, detections.classes.tolist())]
    return np.transpose(lost), np.array(scores), kept[0][0].numpy()


@pytest.mark.parametrize("layer", ["a", "norm", "act", "b.0", "b.2"])
@pytest.mark.parametrize("batch", [1, 4, None])
def test_against_a_loop(given, layer, batch):
    model, image, detections = given
    lost, scores, activations = loop(model, image, layer, detections)
    found = ablate(model, image, layer, detections, batch=batch, find=find).lost
    assert found.shape == lost.shape == (4, len(activations)) and found.dtype == np.float64
    assert lost.max() > 1e-2 and (lost.min() < -1e-3 or layer == "b.2")  # these are the scores themselves
    np.testing.assert_allclose(found, lost, atol=1e-6)
    both = ablate(model, image, layer, detections, batch=batch, find=find)
    np.testing.assert_allclose(both.scores, detections.scores, atol=1e-6)
    np.testing.assert_allclose(both.activations, activations, atol=1e-6)
    maps = ablate(model, image, layer, detections, batch=batch, find=find).maps()
    assert maps.shape == (4, *activations.shape[1:]) and maps.dtype == np.float32
    for k in range(4):
        expected = sum(lost[k, c] / scores[k] * activation for c, activation in enumerate(activations))
        np.testing.assert_allclose(maps[k], np.maximum(expected, 0), atol=1e-5)


def test_passes(given):
    """As many as there are channels, several at once, after two in which all are left, and three that try batches."""
    model, image, detections = given
    sizes, items = [], []
    handle = model.register_forward_hook(lambda module, args, output: sizes.append(len(output)))

    def progress(found):
        for item in found:
            items.append(item)
            yield item

    ablate(model, image, "a", detections, 4, progress, find)
    handle.remove()
    assert sizes == [1, 1, 1, 1, 2, 4, 4, 2] and len(items) == 10


@pytest.mark.parametrize("layer", ["a", "act", "b.2"])
def test_against_captum(given, layer):
    """``FeatureAblation`` of the layer's activations, a mask a channel, each put to its mean."""
    attribution = pytest.importorskip("captum.attr")
    model, image, detections = given
    kept = {}
    module = dict(model.named_modules())[layer]
    handle = module.register_forward_hook(lambda m, a, output: kept.update(first=output.clone()))
    with torch.no_grad():
        model(image)
    handle.remove()

    def scores(activations):
        handle = module.register_forward_hook(lambda m, a, output: activations)
        with torch.no_grad():
            found = torch.sigmoid(model(image)[:, 4:].flatten(2).transpose(1, 2).double())
        handle.remove()
        return found[:, detections.rows, detections.classes]

    channels = torch.arange(kept["first"].shape[1])[None, :, None, None].expand_as(kept["first"])
    baseline = kept["first"].mean(dim=(2, 3), keepdim=True).expand_as(kept["first"]).contiguous()
    found = attribution.FeatureAblation(scores).attribute(kept["first"], baseline, feature_mask=channels)
    lost = ablate(model, image, layer, detections, find=find).lost
    np.testing.assert_allclose(lost, found[:, :, 0, 0].numpy(), atol=1e-5)


class Linear(nn.Module):
    """Scores that are weighted sums of two cells of a layer's channels, with weights that are known."""

    weights = torch.tensor([[0.5, -0.25, 0.0, 0.125], [0.0, 0.0, 0.5, 0.25]])
    cells = ((0, 0), (1, 2))

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(4, 4, 1, groups=4, bias=False)
        self.body.weight.data[:] = torch.tensor([1.0, 2, 1, 4])[:, None, None, None]

    def forward(self, x):
        y = self.body(x)
        return torch.stack([(y[:, :, i, j] * w).sum(1) for (i, j), w in zip(self.cells, self.weights)], 1)


def test_a_linear_detector_by_hand():
    """What is lost is the weight times the difference of the cell from the channel's mean."""
    values = [[[0.8, 0.2, 0.2], [0.2, 0.2, 0.2]], [[0.5] * 3] * 2, [[0.1, 0.1, 0.1], [0.1, 0.1, 0.7]]]
    values.append([[0.3, 0.0, 0.0], [0.0, 0.0, 0.3]])
    image = torch.tensor(values)[None]

    def found(output):
        at = torch.arange(2)
        boxes = torch.tensor([[0.0, 0, 1, 1], [2.0, 1, 3, 2]])
        scores = torch.zeros(2, 2)
        scores[at, at] = output[0].detach()
        return Detections(boxes, output[0].detach(), at, {0: "cat", 1: "dog"}, at, Candidates(boxes, scores, None))

    model = Linear()
    ablation = ablate(model, image, "body", find=found)
    scores = [0.5 * 0.8 - 0.25 * 1.0 + 0.125 * 1.2, 0.5 * 0.7 + 0.25 * 1.2]  # means: 0.3, 1, 0.2, 0.4
    lost = [[0.5 * (0.8 - 0.3), 0, 0, 0.125 * (1.2 - 0.4)], [0, 0, 0.5 * (0.7 - 0.2), 0.25 * (1.2 - 0.4)]]
    np.testing.assert_allclose(ablation.scores, scores, atol=1e-6)
    np.testing.assert_allclose(ablation.lost, lost, atol=1e-6)
    with fv.capture(model, "body") as features:
        model(image)
    ranking = fv.rank(features["body"].with_dependence(ablation), "ablation")
    np.testing.assert_allclose(
        ranking.scores["ablation"], np.divide(lost, np.array(scores)[:, None]).mean(0), atol=1e-6
    )
    assert ranking.channels[0] == 0 and ranking.channels[-1] == 1
    assert list(ranking.lost) == ["lost: dog 0.65", "lost: cat 0.30"][::-1]
    assert fv.rank(features["body"].with_dependence(ablation), "ablation:dog").channels[:2] == [2, 3]


def test_a_constant_channel_is_worth_nothing(given):
    model, image, _ = given
    weight = model.a.weight.data.clone()
    with torch.no_grad():
        model.a.weight[3] = 0
        changed = find(model(image))
        lost = ablate(model, image, "a", changed, find=find).lost
        model.a.weight.copy_(weight)
    assert np.abs(lost[:, 3]).max() < 1e-7 and (np.abs(np.delete(lost, 3, 1)).max(0) > 1e-6).all()


def test_no_detections(given):
    model, image, detections = given
    none = torch.zeros(0, dtype=torch.long)
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), none, {}, none, detections.candidates)
    assert ablate(model, image, "a", empty, find=find).lost.shape == (0, 10)
    assert ablate(model, image, "a", empty, find=find).maps().shape == (0, 10, 14)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def changed(detections, **values):
    fields = {name: getattr(detections, name) for name in ("boxes", "scores", "classes", "names", "rows", "candidates")}
    return Detections(**{**fields, **values})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"layer": "a,norm"}, "an ablation is of one layer, not of a, norm: name one"),
        ({"layer": "c"}, "no layer 'c'"),
        ({"layer": "unused"}, "layer unused (Conv2d) was not run in the forward pass"),
        ({"image": torch.zeros(3, 8, 8)}, "an ablation needs one image [1, C, H, W], not a tensor of shape [3, 8, 8]"),
        ({"image": torch.zeros(1, 3, 40, 56)}, "the detections are not those of this model in this image"),
        ({"image": torch.zeros(1, 3, 16, 16)}, "the detections are not those of this model in this image"),
        ({"image": torch.zeros(1, 4, 8, 8)}, "the model cannot be run: "),
        ({"find": None}, "Net is of no known family of detectors: give as "),
        ({"batch": -1}, "a batch of -1 images"),
    ],
)
def test_refused(given, arguments, says):
    model, image, detections = given
    given = {"image": image, "layer": "a", "detections": detections, "find": find, **arguments}
    with pytest.raises(fv.FeatvizError, match=re.escape(says)) as error:
        ablate(model, **given)
    assert "\n" not in str(error.value)


def test_without_detections_the_model_finds_its_own(given):
    model, image, detections = given
    own, same = ablate(model, image, "a", find=find), ablate(model, image, "a", detections, find=find)
    np.testing.assert_array_equal(own.lost, same.lost)
    np.testing.assert_array_equal(own.boxes.xyxy, detections.boxes)
    with pytest.raises(fv.FeatvizError, match="Net is of no known family of detectors"):
        ablate(model, image, "a")


def test_a_layer_that_is_run_twice_is_refused(given):
    model, image, _ = given
    twice = nn.Sequential(nn.Identity(), nn.ReLU(), model)
    twice[0] = twice[1]
    with pytest.raises(fv.FeatvizError, match=r"^layer 1 \(ReLU\) is run 2 times in a forward pass, not once$"):
        ablate(twice, image.abs(), Layer("1", twice[1], "ReLU", name="1"), None, find=find)


def test_layers_that_return_no_map(given):
    model, image, detections = given
    whole = nn.Sequential(Pair(), nn.Identity())
    with pytest.raises(fv.FeatvizError, match=r"layer 0 \(Pair\) yields .*, not one feature map \[1, C, H, W\]"):
        ablate(whole, image, 0, detections, find=lambda output: find(model(output[0])))
    flat = nn.Sequential(nn.Flatten(), nn.Unflatten(1, tuple(image.shape[1:])), model)
    with pytest.raises(fv.FeatvizError, match=r"layer 0 \(Flatten\) yields a tensor of shape \[1, 6720\], not one"):
        ablate(flat, image, 0, detections, find=find)


def test_rows_that_come_and_go(given):
    """As proposals do."""
    model, image, detections = given
    calls = []

    def shrinking(output):
        calls.append(1)
        found = find(output)
        rows = slice(max(len(calls) - 2, 0), None)
        candidates = Candidates(found.candidates.boxes[rows], found.candidates.scores[rows], found.candidates.score)
        return changed(found, candidates=candidates)

    with pytest.raises(
        fv.FeatvizError, match=r"35 candidates, and 34 without channel 0: .* no fixed order .*: take d-r"
    ):
        ablate(model, image, "a", detections, 1, find=shrinking)


def test_rows_in_another_order(given):
    """As many proposals by scores that hardly differ: refused, while the same boxes in place are not."""
    model, image, detections = given
    at = torch.arange(35)
    places = torch.stack([at % 7, at // 7, at % 7 + 1, at // 7 + 1], 1) * 8.0

    def placed(output, by_score):
        found = find(output).candidates
        order = (found.scores[:, 0] * 1e3 % 1).argsort() if by_score else at
        rows = order.argsort()[detections.rows]
        candidates = Candidates(places[order], found.scores[order], found.score)
        scores = candidates.scores[rows, detections.classes]
        return changed(detections, boxes=places[detections.rows], scores=scores, rows=rows, candidates=candidates)

    for by_score in (False, True):
        start = placed(model(image), by_score)
        torch.testing.assert_close(start.scores, detections.scores)
        if not by_score:
            same = ablate(model, image, "a", start, find=lambda output: placed(output, False)).lost
            np.testing.assert_allclose(same, ablate(model, image, "a", detections, find=find).lost, atol=1e-6)
            continue
        with pytest.raises(fv.FeatvizError, match="the candidates of this detector are in no fixed order by"):
            ablate(model, image, "a", start, find=lambda output: placed(output, True))


def test_the_model_is_left_as_it_was(given):
    model, image, detections = given
    model.train()
    model.norm.eval()
    model.a.register_forward_hook(lambda module, args, output: None)
    with left_as_it_was(model):
        ablate(model, image, "a", detections, find=find)
        with pytest.raises(ZeroDivisionError):
            ablate(model, image, "a", detections, find=lambda output: 1 / 0)
    model.eval()
    with torch.no_grad():
        assert torch.equal(find(model(image)).candidates.scores, detections.candidates.scores)
    model.a._forward_hooks.clear()


def measured(given, layers="a,act", found=None, **more):
    model, image, _ = given
    return dependences(model, image, select_layers(index_layers(model), layers), found, find=find, **more)


def test_the_models_own_detections(given):
    model, image, detections = given
    asked = []

    def progress(layer):
        asked.append(layer.name)
        return lambda passes: passes

    with left_as_it_was(model):
        known = measured(given, progress=progress)
    assert list(known) == asked == ["a", "act"]
    for name, one in known.items():
        expected = ablate(model, image, name, detections, find=find)
        np.testing.assert_array_equal(one.lost, expected.lost)
        np.testing.assert_array_equal(one.boxes.xyxy, detections.boxes)
        assert one.note == ""


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1], [2]])
def test_detections_of_a_script(given, order):
    """Some of the model's, in their own order; one of another score is told and does not count."""
    every = measured(given, "a")["a"]
    found = given[2].to_boxes().take(order)
    lost = []
    known = measured(given, "a", found, lost=lost.append)["a"]
    assert lost == []
    np.testing.assert_array_equal(known.lost, every.lost[order])
    with_stranger = fv.Boxes(
        np.append(found.xyxy, [[0, 0, 9, 9]], axis=0), np.append(found.scores, 0.77), (), np.append(found.classes, 1)
    )
    known = measured(given, "a", with_stranger, lost=lost.append)["a"]
    assert lost == [1]
    np.testing.assert_array_equal(known.lost, every.lost[order])


def test_without_any_of_a_scripts_detections_those_of_the_same_classes_count(given):
    lost = []
    stranger = fv.Boxes([[0, 0, 9, 9], [1, 1, 9, 9]], [0.77, 0.66], (), [1, 1])
    known = measured(given, "a", stranger, lost=lost.append)["a"]
    assert lost == [2] and known.boxes.classes.tolist() == [1, 1]
    np.testing.assert_array_equal(known.lost, measured(given, "a")["a"].lost[2:])
    other = measured(given, "a", fv.Boxes([[0, 0, 9, 9]], [0.77], (), [7]), lost=lost.append)["a"]
    assert other.note == "the model alone detects nothing of these classes" and not len(other.boxes)


def test_what_cannot_be_measured_is_said(given):
    """Of each layer by itself; the others are measured."""
    model, image, _ = given
    known = measured(given, "unused,a")
    assert known["unused"].note == "layer unused (Conv2d) was not run in the forward pass" and known["a"].note == ""
    assert measured(given, "a", fv.Boxes([], [], (), []))["a"].note == "nothing was detected"
    unknown = dependences(model, image, select_layers(index_layers(model), "a"))
    assert unknown["a"].note == "Net is no detector of a known family"
    assert "without scores and classes" in measured(given, "a", fv.Boxes([[0, 0, 9, 9]]))["a"].note
    whole = nn.Sequential(Pair(), nn.Identity())
    layers = select_layers(index_layers(whole), "0")
    pair = dependences(whole, image, layers, find=lambda output: find(model(output[0])))
    assert pair["0"].note.startswith("layer 0 (Pair) yields tensors of shapes")

    calls = []

    def shuffled(output):
        """As proposals by their scores: other rows in every pass."""
        calls.append(1)
        found = find(output)
        order = torch.arange(35) if len(calls) < 3 else torch.randperm(35, generator=torch.Generator().manual_seed(1))
        places = torch.stack([order % 7, order // 7, order % 7 + 1, order // 7 + 1], 1) * 8.0
        scores = found.candidates.scores
        candidates = type(found.candidates)(places, scores, found.candidates.score)
        return type(found)(places[found.rows], found.scores, found.classes, {}, found.rows, candidates)

    layers = select_layers(index_layers(model), "a")
    note = dependences(model, image, layers, find=shuffled)["a"].note
    assert note == "the candidates of this detector are in no fixed order by which to follow a detection"


def test_a_detector_that_resizes_its_input():
    """The detections are then in pixels of what the layers see, 320 a side, whose maps the contrast compares."""
    zoo = pytest.importorskip("torchvision.models.detection")
    torch.manual_seed(0)
    none = {"weights": None, "weights_backbone": None, "pretrained": False, "pretrained_backbone": False}
    takes = inspect.signature(zoo.ssdlite320_mobilenet_v3_large).parameters
    none = {key: value for key, value in none.items() if key in takes}
    whole = zoo.ssdlite320_mobilenet_v3_large(num_classes=3, detections_per_img=2, **none).eval()
    image = torch.rand(1, 3, 108, 192, generator=torch.Generator().manual_seed(0))
    for norm in (module for module in whole.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0  # statistics of one batch, so that activations do not vanish
    with torch.no_grad():
        whole.backbone.train()(torch.rand(2, 3, 320, 320))
    whole.eval()
    found = detect(whole, image)
    ablation = ablate(whole, image, "backbone.features.0.0.0")
    assert ablation.lost.shape == (2, 16) and np.abs(ablation.lost).max() > 1e-5
    expected = found.boxes.numpy() * np.array([320 / 192, 320 / 108] * 2)
    np.testing.assert_allclose(ablation.boxes.xyxy, expected, rtol=1e-5)
    with fv.capture(whole, "backbone.features.0.0.0") as features, torch.no_grad():
        whole(list(image))
    (fm,) = features
    boxes = fv.Boxes(expected, labels=["x"] * 2)
    ranking = fv.rank(fm.with_dependence(ablation), "ablation")
    contrast = fv.rank(dataclasses.replace(fm, boxes=boxes), "contrast")
    np.testing.assert_allclose(ranking.scores["contrast"], contrast.scores["contrast"], rtol=1e-5)
