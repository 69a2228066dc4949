"""D-RISE against a loop in numpy; all methods on a network of which it is known what it looks at."""

import re

import cv2
import numpy as np
import pytest
import torch
from helpers import left_as_it_was
from torch import nn

import yolov5_featviz as fv
from yolov5_featviz.attribution.ablation import ablate
from yolov5_featviz.attribution.cam import CAM_METHODS
from yolov5_featviz.attribution.d_rise import d_rise
from yolov5_featviz.models.detections import Candidates, Detections, Thresholds, select


class Known(nn.Module):
    """A detector whose cells look at 32 by 32 pixels each, and at nothing else: no window overlaps another.

    ``[B, 3, H, W]`` to ``[B, 1, H / 32, W / 32]``, the logit of the brightness within the cell.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4, bias=False), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 12, 2, 2, bias=False), nn.ReLU())
        self.neck = nn.Sequential(nn.Conv2d(12, 16, 4, 4, bias=False), nn.ReLU())
        self.head = nn.Conv2d(16, 1, 1)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, 0.5, 1)
        with torch.no_grad():  # black: 0.001, white: 0.99
            white = self.head(self.neck(self.body(self.stem(torch.ones(1, 3, 32, 32))))) - self.head.bias
            self.head.weight *= 12 / white
            self.head.bias.fill_(-7)

    def forward(self, x):
        return self.head(self.neck(self.body(self.stem(x))))


def find_known(output):
    columns = output.shape[3]
    logits = output[0].flatten(1).T
    at = torch.arange(len(logits))
    corners = torch.stack([at % columns, at // columns], 1) * 32.0
    candidates = Candidates(
        torch.cat([corners, corners + 32], 1), logits.detach().sigmoid(), lambda row, number: logits[row, number]
    )
    return select(candidates, {0: "square"}, Thresholds(0.5))


@pytest.fixture(scope="module")
def known():
    """The network, an image with two bright squares on a dim ground, and the detections: the two squares."""
    model = Known().eval()
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1)) * 0.1
    image[..., 64:96, 32:64] += 0.9
    image[..., :32, 96:] += 0.85
    detections = find_known(model(image))
    assert detections.boxes.tolist() == [[32, 64, 64, 96], [96, 0, 128, 32]]
    return model, image, detections


def share(values, box):
    """How much of the energy is in the box, in pixels of an image of 128 by 128."""
    left, top, right, bottom = (int(edge) for edge in box)
    large = np.kron(values, np.ones([128 // side for side in values.shape]))
    assert large.shape == (128, 128) and large.min() >= 0
    return large[top:bottom, left:right].sum() / large.sum()


def test_what_is_known_of_the_network(known):
    """The score of a detection depends on all of its square, and on nothing else."""
    model, image, detections = known
    for i in range(2):
        x = image.clone().requires_grad_(True)
        find_known(model(x)).why(i).backward()
        left, top, right, bottom = detections.boxes[i].int().tolist()
        inside = torch.zeros(128, 128, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        assert torch.equal((x.grad[0] != 0).all(0), inside) and torch.equal((x.grad[0] != 0).any(0), inside)


def test_energy_where_the_network_looks(known):
    """The share of each detection's energy in its own square, a sixteenth of the image; another one is as bright.

    Methods that weight a channel as a whole show both squares, and the ground.
    """
    pytest.importorskip("pytorch_grad_cam")
    model, image, detections = known
    rows = {}
    for layer in ("stem", "body", "neck"):
        for method in CAM_METHODS:
            for i, box in enumerate(detections.boxes):
                target = None if method == "eigen-cam" else lambda output, i=i: find_known(output).why(i)
                (heat,) = fv.cam(model, image, layer, target, method)
                rows.setdefault((method, layer), []).append(share(heat.values, box))
        maps = ablate(model, image, layer, detections, find=find_known).maps()
        rows["ablation", layer] = [share(one, box) for one, box in zip(maps, detections.boxes)]
    maps = d_rise(model, image, detections, find=find_known)
    above = [(one - np.median(one)).clip(min=0) for one in maps]
    halves = [one * (one > one.max() / 2) for one in above]
    rows["d-rise", "1000 masks"] = [share(one, box) for one, box in zip(above, detections.boxes)]
    rows["d-rise", "its upper half"] = [share(one, box) for one, box in zip(halves, detections.boxes)]
    print()
    for (method, where), shares in rows.items():
        print(f"{method:14} {where:15} {' '.join(f'{one:7.1%}' for one in shares)}")
    for layer in ("stem", "body"):
        assert min(rows["odam", layer]) > 0.95  # the blur crosses the edge
    for layer in ("stem", "body", "neck"):
        assert min(*rows["layer-cam", layer], *rows["ss-grad-cam++", layer]) > 0.999
        for method in ("grad-cam", "grad-cam++", "eigen-cam", "ablation"):
            assert max(rows[method, layer]) < 0.55
    # the mask's cells blur its edge, and chance adds to the ground: what is above half the maximum is in the square
    assert min(rows["d-rise", "its upper half"]) > 0.95 and min(rows["d-rise", "1000 masks"]) > 0.5
    for one, box in zip(halves, detections.boxes.int().tolist()):
        assert (one[box[1] : box[3], box[0] : box[2]] > 0).mean() > 0.75


# --- the formula ----------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """A detector of three classes and boxes of its own, of random weights, whose cells see what is around them."""

    def __init__(self, each=False):
        super().__init__()
        torch.manual_seed(5)
        self.each = each
        self.a, self.norm, self.act = nn.Conv2d(3, 8, 5, 4, 2), nn.BatchNorm2d(8), nn.SiLU()
        self.b = nn.Conv2d(8, 4 * (3 if each else 1) + 3, 5, 4, 2)

    def forward(self, x):
        y = self.b(self.act(self.norm(self.a(x))))
        return y[:, :-3], y[:, -3:] * 3

    def find(self, output):
        offsets, logits = (part[0].flatten(1).T for part in output)
        columns = output[0].shape[3]
        at = torch.arange(len(logits))
        centre = torch.stack([at % columns, at // columns], 1) * 16.0 + 8
        shape = (-1, 3, 4) if self.each else (-1, 4)
        moved = offsets.detach().reshape(shape) * 10
        boxes = torch.cat([centre - 14, centre + 14], 1).reshape(-1, *([1] * self.each), 4) + moved
        scores = logits.detach().sigmoid()
        candidates = Candidates(boxes, scores, lambda row, number: logits[row, number])
        rows = scores.max(1).values.argsort(descending=True)[:3]
        best, kinds = scores[rows].max(1)
        return Detections(candidates.boxes_of(kinds, rows), best, kinds, {}, rows, candidates)


@pytest.fixture(scope="module", params=[False, True], ids=["one box", "a box a class"])
def small(request):
    model = Small(request.param).eval()
    image = torch.rand(1, 3, 50, 76, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model, image, model.find(model(image))


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    return shared / sum([(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)], -shared)


def reference(model, image, detections, masks, cells, keep, seed):
    """The definition, one mask, one detection and one candidate after the other."""
    random = np.random.default_rng(seed)
    grids, shifts = (random.random((masks, cells, cells)) < keep).astype(float), random.random((masks, 2))
    height, width = image.shape[2:]
    high, wide = -(-height // cells), -(-width // cells)
    sums, seen = np.zeros((len(detections), height, width)), np.zeros((height, width))
    for grid, (down, across) in zip(grids, shifts):
        large = cv2.resize(grid, ((cells + 1) * wide, (cells + 1) * high), interpolation=cv2.INTER_LINEAR)
        y, x = int(down * high), int(across * wide)
        mask = large[y : y + height, x : x + width]
        assert mask.shape == (height, width)
        with torch.no_grad():
            found = model.find(model(image * torch.from_numpy(mask).float())).candidates
        for k, target in enumerate(detections.candidates.scores[detections.rows].numpy()):
            kind, best = int(detections.classes[k]), 0.0
            for row, scores in enumerate(found.scores.numpy()):
                box = found.boxes[row, kind] if found.boxes.dim() == 3 else found.boxes[row]
                cosine = target @ scores / np.sqrt((target @ target) * (scores @ scores))
                best = max(best, overlap(detections.boxes[k].tolist(), box.tolist()) * cosine * scores.max())
            sums[k] += best * mask
        seen += mask
    return sums / seen


def test_the_definition(small):
    arguments = {"masks": 14, "cells": 5, "keep": 0.6, "seed": 7}
    expected = reference(*small, **arguments)
    found = d_rise(*small, **arguments, find=small[0].find)
    assert found.shape == (3, 50, 76) and found.dtype == np.float32 and np.ptp(found) > 0.02
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 50, None])
def test_the_batch_size_and_the_seed(small, batch):
    model, image, detections = small
    expected = d_rise(model, image, detections, 20, 6, batch=1, find=model.find)
    sizes = []
    handle = model.register_forward_hook(lambda module, given, output: sizes.append(len(given[0])))
    found = d_rise(model, image, detections, 20, 6, batch=batch, find=model.find)
    handle.remove()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    size = min(batch or 8, 20)
    tried = [1, 1, 2] * (size > 1)
    assert sizes == tried + [size] * (20 // size) + [20 % size] * (20 % size > 0)
    assert np.abs(d_rise(model, image, detections, 20, 6, seed=1, find=model.find) - expected).max() > 1e-3


def test_masks_are_as_dark_as_said(known):
    """Their mean is the probability of a cell to be kept, at the edges too; most pixels are in between."""
    seen = []

    def keep(output):
        seen.append(output[0, 1])
        return known[2]

    d_rise(nn.Identity(), torch.ones(1, 3, 48, 64), known[2], 1000, 8, 0.3, batch=1, find=keep)
    masks = torch.stack(seen)
    assert len(masks) == 1000 and masks.min() == 0 and abs(float(masks.max()) - 1) < 1e-6
    mean = masks.mean(0)
    assert mean.shape == (48, 64) and (mean - 0.3).abs().max() < 0.06 and abs(float(mean.mean()) - 0.3) < 0.005
    assert ((masks > 0) & (masks < 1)).float().mean() > 0.5


def test_only_the_first_image_of_a_pass_is_seen(known):
    """As through hooks: it is noticed, and images are run one by one."""
    model, image, detections = known
    expected = d_rise(model, image, detections, 12, find=find_known)
    sizes, kept = [], []
    handle = model.neck.register_forward_hook(
        lambda module, given, output: sizes.append(len(output)) or kept.append(output)
    )
    found = d_rise(model, image, detections, 12, find=lambda output: find_known(model.head(kept[-1])))
    handle.remove()
    assert sizes == [1, 1, 2] + [1] * 12
    np.testing.assert_allclose(found, expected, atol=1e-6)


class Reluctant(nn.Module):
    """Runs a model on at most ``most`` images."""

    def __init__(self, model, most, words="CUDA out of memory. Tried to allocate 2 GiB"):
        super().__init__()
        self.model, self.most, self.words, self.sizes = model, most, words, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise RuntimeError(self.words)
        return self.model(x)


def test_a_batch_too_large_is_halved(known):
    model, image, detections = known
    expected = d_rise(model, image, detections, 21, find=find_known)
    small = Reluctant(model, 2)
    np.testing.assert_allclose(d_rise(small, image, detections, 21, find=find_known), expected, atol=1e-6)
    assert small.sizes == [1, 1, 2, 8, 4] + [2] * 10 + [1]
    single = Reluctant(model, 1, "expected a batch of 1")
    np.testing.assert_allclose(d_rise(single, image, detections, 21, find=find_known), expected, atol=1e-6)
    assert single.sizes == [1, 1, 2] + [1] * 21


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "CUDA out of memory. Tried to allocate 2 GiB\nmore",
            r"cpu has no memory left for one image \[1, 3, 128, 128\]",
        ),
        ("a layer is broken\nmore", "the model cannot be run: a layer is broken"),
    ],
)
def test_a_model_that_cannot_be_run(known, words, says):
    model, image, detections = known
    with pytest.raises(fv.FeatvizError, match=says) as error:
        d_rise(Reluctant(model, 0, words), image, detections, 4, find=find_known)
    assert "\n" not in str(error.value)


def test_progress_in_order(known):
    model, image, detections = known
    passed = []

    def progress(items):
        for item in items:
            passed.append(item)
            yield item

    d_rise(model, image, detections, 11, progress=progress, find=find_known)
    assert len(passed) == 11 and all(isinstance(one, Candidates) for one in passed)


def test_what_no_mask_changes_is_level(known):
    """Not the density of the masks: a score that ignores the image gives a flat map."""
    model, image, detections = known
    output = model(image).detach()
    maps = d_rise(nn.Identity(), image, detections, 50, find=lambda _: find_known(output))
    np.testing.assert_allclose(maps[0], float(detections.scores[0]), rtol=1e-4)


def test_nothing_found(known):
    model, image, detections = known
    none = select(detections.candidates, {}, Thresholds(1))
    assert d_rise(model, image, none, find=find_known).shape == (0, 128, 128)
    empty = Candidates(torch.zeros(0, 4), torch.zeros(0, 1), lambda row, number: torch.zeros(()))
    gone = select(empty, {}, Thresholds())
    assert not d_rise(model, image, detections, 5, find=lambda _: gone).any()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"masks": 0}, "0 masks of 16 cells a side: take 1 or more of each"),
        ({"cells": 0}, "1000 masks of 0 cells"),
        ({"keep": 1.0}, "kept with a probability of 1: take one between 0 and 1"),
        ({"batch": 0}, "a batch of 0 images: take 1 or more"),
        ({"image": torch.zeros(2, 3, 8, 8)}, "D-RISE needs one image [1, C, H, W], not a tensor of shape [2, 3, 8, 8]"),
        ({"find": None}, "Known is of no known family of detectors: give as "),
    ],
)
def test_refused(known, arguments, says):
    model, image, detections = known
    given = {"image": image, "detections": detections, "find": find_known, **arguments}
    with pytest.raises(fv.FeatvizError, match=re.escape(says)) as error:
        d_rise(model, **given)
    assert "\n" not in str(error.value)


def test_the_model_is_left_as_it_was(small):
    model, image, detections = small
    model.train()
    model.act.eval()
    model.b.register_forward_hook(lambda module, given, output: None)
    with left_as_it_was(model):
        d_rise(model, image, detections, 10, find=model.find)
        with pytest.raises(ZeroDivisionError):
            d_rise(model, image, detections, 10, find=lambda output: 1 / 0)
    model.eval()
    with torch.no_grad():
        assert torch.equal(model.find(model(image)).scores, detections.scores)
    model.b._forward_hooks.clear()
