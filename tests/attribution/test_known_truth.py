"""Every method on a detector of known truth: its score depends on one patch of the image, and on nothing else.

The detector has convolutions with random weights that respond all over a photograph. Its one score is a sum over the
cells of a patch, so the true map is 0 outside what these cells see. The table of docs/explain.md is checked here.
"""

import re

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT
from torch import nn

import yolov5_featviz as fv
from yolov5_featviz.attribution.explain import METHOD, METHODS
from yolov5_featviz.models.detections import Candidates, Detections

SIDE, CELLS = 96, (slice(4, 9), slice(13, 18))  # rows and columns of the patch, in cells of 4 pixels
SEEN = (slice(13, 36), slice(49, 72))  # the pixels that these cells see: 2 * (2 i - 1) - 1 to 2 * (2 i + 1) + 1
LAYERS = ("body", "stem")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.SiLU())
        self.head = nn.Conv2d(16, 1, 1)
        self.head.weight.data.abs_()

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


def find(output):
    """One box, the whole image, so that D-RISE is not told where to look."""
    logit = 4 * output[0, 0][CELLS].mean()
    boxes, scores = torch.tensor([[0.0, 0, SIDE, SIDE]]), logit.detach().sigmoid().reshape(1, 1)
    candidates = Candidates(boxes, scores, lambda row, kind: logit)
    return Detections(boxes, scores[0], torch.tensor([0]), {0: "patch"}, torch.tensor([0]), candidates)


@pytest.fixture(scope="module")
def net():
    return Net().eval()


@pytest.fixture(scope="module")
def x(images):
    pixels = cv2.resize(cv2.imread(str(images / "bus.jpg")), (SIDE, SIDE), interpolation=cv2.INTER_AREA)[..., ::-1]
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].float() / 255


def energies(net, x, method, layer):
    """Share of the map's energy in the pixels that matter, and of that above half its maximum."""
    given = {} if method == "d-rise" else {"layers": layer}
    (one,) = fv.explain(net, x, method=method, find=find, masks=2000, **given)
    high = np.where(one.map >= 0.5 * one.map.max(), one.map, 0)
    return one.map[SEEN].sum() / one.map.sum(), high[SEEN].sum() / high.sum()


def test_the_score_depends_on_these_pixels_and_on_no_other(net, x):
    inside = x.clone().requires_grad_(True)
    find(net(inside)).why(0).backward()
    where = inside.grad.abs().sum(1)[0]
    assert (where[SEEN] > 0).float().mean() > 0.99
    where[SEEN] = 0
    assert not where.any()


def documented():
    """The rows of the table in docs/explain.md: method -> shares in percent."""
    text = (ROOT / "docs" / "explain.md").read_text(encoding="utf-8").split("known truth")[1].split("## Flags")[0]
    rows = re.findall(r"(?m)^\| `([a-z][\w+-]+)` \|(.*)\|$", text)
    return {name: [int(word) for word in re.findall(r"(\d+) %", values)] for name, values in rows}


def test_the_documented_table(net, x):
    pytest.importorskip("pytorch_grad_cam")
    found = {}
    for method in METHODS:
        layers = LAYERS[:1] if method == "d-rise" else LAYERS
        shares = [energies(net, x, method, layer) for layer in layers]
        found[method] = [100 * whole for whole, _ in shares] + [100 * shares[0][1]]
    known = documented()
    assert known.keys() == found.keys()
    for method, shares in found.items():
        assert shares == pytest.approx(known[method], abs=2), method
    assert min(found[METHOD]) > 90 and found["d-rise"][-1] > 90
