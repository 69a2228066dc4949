"""Guided backpropagation and deconvolution, against ReLUs with a backward pass of their own."""

import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import yolov5_featviz as fv


class Guided(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, forward_too):
        ctx.save_for_backward(x)
        ctx.forward_too = forward_too
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        gradient = gradient.clamp(min=0)
        return gradient * (x > 0) if ctx.forward_too else gradient, None


class OtherReLU(nn.Module):
    def __init__(self, forward_too):
        super().__init__()
        self.forward_too = forward_too

    def forward(self, x):
        return Guided.apply(x, self.forward_too)


def reference(model, x, layer, response, method):
    model = deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                replaced = nn.ReLU() if method == "gradient" else OtherReLU(method == "guided-backprop")
                setattr(module, name, replaced)
    kept = []
    dict(model.named_modules())[layer].register_forward_hook(lambda m, a, out: kept.append(out))
    x = x.clone().requires_grad_(True)
    model(x)
    return torch.autograd.grad(response(kept[-1]), x)[0][0]


@pytest.fixture(scope="module")
def x():
    return torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["resnet18", "vgg11"])
def net(request):
    torch.manual_seed(0)
    return getattr(torchvision.models, request.param)().eval()


@pytest.mark.parametrize("method", ["guided-backprop", "deconvolution", "gradient"])
@pytest.mark.parametrize(
    ("options", "response"),
    [
        ({"channel": 5}, lambda out: out[0, 5].max()),
        ({"channel": 5, "cell": (1, 2)}, lambda out: out[0, 5, 1, 2]),
        ({"channel": 2, "cell": "all"}, lambda out: out[0, 2].sum()),
        ({}, lambda out: out[0].sum(0).max()),
    ],
)
def test_against_relus_of_its_own(net, x, method, options, response):
    pytest.importorskip("captum")
    layer = "layer2" if hasattr(net, "layer2") else "features.8"
    expected = reference(net, x, layer, response, method)
    fm = fv.backproject(net, x, layer, method=method, **options)
    assert fm.data.shape == (3, 48, 64) and fm.stride == (1, 1)
    torch.testing.assert_close(fm.data, expected, rtol=1e-3, atol=1e-6 * expected.abs().max().item() + 1e-9)
    assert expected.abs().max() > 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_pictures(x):
    pytest.importorskip("captum")
    model = torchvision.models.resnet18().eval()
    with torch.no_grad():
        fm = fv.backproject(model, x, "layer1", 3, region=(0, 4, 64, 44), name="photo")
    picture = fm.rgb("signed", plain=True, dpi=10)
    assert picture.title.startswith("photo, channel 3 at ") and "by guided backpropagation · layer1" in picture.title
    expected = (fm.data / fm.data.abs().max() + 1) * 127.5
    step = picture.pixels.shape[1] // 64
    assert np.abs(picture.pixels[::step, ::step] - expected.numpy().transpose(1, 2, 0)).max() <= 0.51
    assert fm.heatmap("l2").over(np.zeros((80, 128, 3), np.uint8), plain=True).pixels.shape == (80, 128, 3)
    with pytest.raises(fv.FeatvizError, match="has 64 channels, not the three of a colour picture"):
        with fv.capture(model, "layer1") as features, torch.no_grad():
            model(x)
        features["layer1"].rgb()


def test_the_model_is_left_as_it_was(x):
    pytest.importorskip("captum")
    model = torchvision.models.resnet18().eval()
    model.layer3.train()
    relus = [m.inplace for m in model.modules() if isinstance(m, nn.ReLU)]
    fv.backproject(model, x, "layer1")
    assert model.layer3.training and not model.layer1.training
    assert relus == [m.inplace for m in model.modules() if isinstance(m, nn.ReLU)]
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"method": "lrp"}, "no method 'lrp': take one of guided-backprop"),
        ({"layer": "layer*"}, r"'layer\*' names 4 layers: take one"),
        ({"layer": "fc"}, r"layer fc \(Linear\) yields a tensor of shape \[1, 1000\], not a feature map"),
        ({"channel": 64}, "no channel 64: layer layer1 .* has channels 0 to 63"),
        ({"cell": (20, 0)}, r"no cell \(20, 0\): take max, all, or \(row, column\) within 12×16"),
        ({"cell": "best"}, "no cell 'best'"),
        ({"image": torch.rand(3, 8, 8)}, r"needs one image \[1, C, H, W\]"),
        ({"model": nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU()), "layer": 1}, "defined for ReLU, .* method='gradient'"),
    ],
)
def test_refused(x, arguments, says):
    pytest.importorskip("captum")
    given = {"model": torchvision.models.resnet18().eval(), "image": x, "layer": "layer1", "channel": None, **arguments}
    with pytest.raises(fv.FeatvizError, match=says) as error:
        fv.backproject(**given)
    assert "\n" not in str(error.value)


def test_who_lacks_the_extra_is_told_what_to_install(x, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(fv.FeatvizError, match=r"needs captum: pip install 'yolov5-featviz\[backproject\]'"):
        fv.backproject(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), x, 0)


def test_yolov5_by_its_gradient(model, bus):
    pytest.importorskip("captum")
    fm = fv.backproject(model, bus, 4, 7, cell=(20, 30), method="gradient")
    weight = fm.data.abs().sum(0)
    rows, columns = weight.nonzero().T
    # layer 4 has stride 8; what cell 20, 30 sees lies around it
    assert rows.min() <= 164 <= rows.max() and columns.min() <= 244 <= columns.max()
    assert rows.max() - rows.min() < 200
