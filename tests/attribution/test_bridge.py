"""What detections lose when a layer is bridged, against models in which the layer really is the identity."""

import re
from copy import deepcopy

import numpy as np
import pytest
import torch
from helpers import left_as_it_was
from torch import nn
from torchvision.ops import box_iou

import yolov5_featviz as fv
from yolov5_featviz.attribution.ablation import detect
from yolov5_featviz.attribution.bridge import bridge
from yolov5_featviz.models.detections import Candidates, Detections, Thresholds
from yolov5_featviz.models.layers import Layer, index_layers, list_layers, module_at
from yolov5_featviz.yolov5.score_lost import _layer_of


class Twice(nn.Module):
    def forward(self, x, factor=2.0):
        return x * factor


class Net(nn.Module):
    """A detector with random weights, one class at each place; modules that work in place, or are in two places."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.stem = nn.Conv2d(3, 8, 5, 4, 2)
        self.act = nn.ReLU(inplace=True)
        self.same = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), self.act)
        self.pair, self.named, self.unused = nn.Identity(), Twice(), nn.Conv2d(8, 8, 1)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.add = nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, 5, 1)
        nn.init.normal_(self.same[0].weight, std=0.3)
        nn.init.normal_(self.head.weight, std=0.4)

    def forward(self, x):
        x = self.stem(x)
        y = self.same(x)  # the last of these works on a tensor that nothing else reads
        x = self.act(x) + 0.5 * y  # this one on what was read before
        x = self.named(x, factor=1.1)
        return self.head(self.pool(self.pool(x)) + self.add(x))


PLACES = torch.stack([torch.arange(140) % 14 * 4.0, torch.arange(140) // 14 * 4.0], 1)


def rows_of(output):
    boxes = torch.cat([PLACES, PLACES + 6 + output[0, :2].flatten(1).T.sigmoid()], 1)
    return boxes, output[0, 4].flatten().sigmoid()[:, None]


def find(output):
    boxes, scores = rows_of(output)
    rows = scores[:, 0].argsort(descending=True)[:40:10]
    candidates = Candidates(boxes, scores, lambda row, number: scores[row, number])
    return Detections(boxes[rows], scores[rows, 0], rows * 0, {0: "x"}, rows, candidates)


def replaced(model, path, image, detections):
    """Best confidence at each detection's place, cell by cell, of a copy in which a module is the identity."""
    copied = deepcopy(model)
    head, _, name = path.rpartition(".")
    setattr(module_at(copied, head), name, nn.Identity())
    with torch.no_grad():
        boxes, scores = rows_of(copied(image))
    left = []
    for x0, y0, x1, y1 in detections.boxes.tolist():
        best = 0.0
        for (a0, b0, a1, b1), score in zip(boxes.tolist(), scores[:, 0].tolist()):
            both = max(0, min(x1, a1) - max(x0, a0)) * max(0, min(y1, b1) - max(y0, b0))
            either = (x1 - x0) * (y1 - y0) + (a1 - a0) * (b1 - b0) - both
            best = max(best, score) if both / either >= 0.5 else best
        left.append(best)
    return np.array(left)


def places(model, path=""):
    """Every path and its module, those in several places several times; torch 1.8 has no flag for that."""
    yield path, model
    for name, child in model._modules.items():
        if child is not None:
            yield from places(child, f"{path}.{name}".lstrip("."))


def layer(model, path):
    return Layer(path, module_at(model, path), type(module_at(model, path)).__name__, name=path)


@pytest.fixture(scope="module")
def given():
    model, image = Net().eval(), torch.randn(1, 3, 40, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model, image, find(model(image))


BRIDGED = ("same", "same.0", "same.1", "same.2", "act", "pool", "add")


def test_against_models_without_the_layer(given):
    model, image, detections = given
    layers = [layer(model, path) for path in BRIDGED]
    with left_as_it_was(model):
        every = bridge(model, image, layers, detections, find=find)
    assert np.ptp([np.abs(one).max() for one in every]) > 1e-2
    for path, found in zip(BRIDGED, every):
        expected = 1 - replaced(model, path, image, detections) / detections.scores.numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=path)
    assert np.abs(every[BRIDGED.index("same.2")] - every[BRIDGED.index("act")]).max() > 1e-3  # one module, two places
    np.testing.assert_array_equal(bridge(model, image, layers[:1], find=find)[0], every[0])


def test_what_cannot_be_bridged(given):
    """Other shapes, an argument by name, no call."""
    model, image, detections = given
    layers = [layer(model, path) for path in ("stem", "head", "named", "unused", "pair", "same")]
    *others, same = bridge(model, image, layers, detections, find=find)
    if not hasattr(nn.Identity(), "_forward_pre_hooks_with_kwargs"):  # before torch 2.0 hooks see no arguments by name
        others.pop(2)
    assert others == [None] * len(others) and same is not None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"image": torch.zeros(1, 3, 40, 56)}, "the detections are not those of this model in this image"),
        ({"image": torch.zeros(3, 40, 56)}, "bridging needs one image [1, C, H, W], not a tensor of shape [3, 40, 56]"),
        ({"find": None}, "Net is of no known family of detectors"),
        ({"detections": None, "image": torch.zeros(1, 4, 40, 56)}, "the model cannot be run: "),
    ],
)
def test_refused(given, arguments, says):
    model, image, detections = given
    given = {"image": image, "layers": [layer(model, "same")], "detections": detections, "find": find, **arguments}
    with left_as_it_was(model), pytest.raises(fv.FeatvizError, match=re.escape(says)):
        bridge(model, **given)


def test_no_detections(given):
    model, image, detections = given
    none = detections.of([], [])
    assert bridge(model, image, [layer(model, "same")], none, find=find)[0].shape == (0,)


@pytest.mark.parametrize("rows", [("2", "4", "9", "20", "23"), ("6.m.0", "6.cv1.act", "9.m", "17.m")])
def test_yolov5_against_models_without_the_layer(model, bus, rows):
    """The identity takes over what YOLOv5's models read from a layer; its activations are one module in all places."""
    image = torch.nn.functional.interpolate(bus, size=(320, 256), mode="bilinear", align_corners=False)
    detections = detect(model, image, Thresholds(0.25))
    assert len(detections) >= 3
    listed = {row.name: row for row in list_layers(model, (320, 256), 5)}
    layers = [_layer_of(index_layers(model), listed[name]) for name in rows]
    before = {name: id(module) for name, module in places(model)}
    found = bridge(model, image, layers, detections)
    assert {name: id(module) for name, module in places(model)} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for one, shares in zip(layers, found):
        copied = deepcopy(model)
        head, _, name = one.path.rpartition(".")
        parent, identity = module_at(copied, head), nn.Identity()
        for attribute in ("i", "f", "type", "np"):
            if hasattr(getattr(parent, name), attribute):
                setattr(identity, attribute, getattr(getattr(parent, name), attribute))
        parent._modules[name] = identity
        after = detect(copied, image, Thresholds(0.001))
        overlap = box_iou(detections.boxes, after.candidates.boxes) >= 0.5
        every = after.candidates.scores[:, detections.classes].T
        left = torch.where(overlap, every, torch.zeros(())).amax(1)
        np.testing.assert_allclose(shares, 1 - left / detections.scores, atol=1e-5, err_msg=one.name)
    assert max(float(np.abs(one).max()) for one in found) > 0.05
