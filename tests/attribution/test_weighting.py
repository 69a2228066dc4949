"""ODAM and SSGrad-CAM++, against the formulas written out, and against grad-cam's own weights."""

import sys

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

import yolov5_featviz as fv
from yolov5_featviz.attribution.cam import CAM_METHODS
from yolov5_featviz.attribution.weighting import FORMULAS, odam, ss_grad_cam_plus_plus


@pytest.fixture
def pair():
    """Activations of both signs, and gradients, some of them zero."""
    random = np.random.default_rng(0)
    activations, gradients = random.normal(size=(2, 1, 6, 7, 9)).astype(np.float32)
    gradients[random.random(gradients.shape) < 0.3] = 0
    return activations, gradients


def blur(gradient):
    """A Gaussian's discrete counterpart, as a 5 by 5 kernel, by another package."""
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    variance = (kernel * np.arange(-2, 3)[:, None] ** 2).sum()
    assert kernel.sum() == 1 and variance == 1
    return convolve(gradient.astype(np.float64), kernel, mode="nearest")


def spatially_sensitive(activations, gradients):
    """The formulas of the paper, cell by cell; M is where the gradient is not zero."""
    total = np.zeros(activations.shape[1:])
    for a, g in zip(activations.astype(np.float64), gradients.astype(np.float64)):
        if not g.any():
            continue
        counted = sum(max(x, 0) for x, slope in zip(a.flat, g.flat) if slope != 0)
        weight = sum(s**2 / (2 * s**2 + counted * s**3) * s for s in g.flat if s > 0)
        total += weight * np.abs(g) / np.abs(g).max() * a
    return total


def test_odam(pair):
    activations, gradients = pair
    expected = sum(blur(g) * a for a, g in zip(activations[0], gradients[0]))
    found = odam(activations, gradients)
    assert found.dtype == np.float32 and found.min() < 0
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_odam_of_a_strided_layer_has_no_checkerboard():
    gradients = np.zeros((1, 2, 8, 10), np.float32)
    gradients[:, :, 1::2, ::2] = 4
    inner = odam(np.ones_like(gradients), gradients)[2:-2, 2:-2]
    np.testing.assert_allclose(inner, 2, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2)])
def test_small_maps(size):
    random = np.random.default_rng(1)
    activations, gradients = random.normal(size=(2, 1, 3, *size)).astype(np.float32)
    expected = sum(blur(g) * a for a, g in zip(activations[0], gradients[0]))
    np.testing.assert_allclose(odam(activations, gradients), expected, atol=1e-5)
    expected = spatially_sensitive(activations[0], gradients[0])
    np.testing.assert_allclose(ss_grad_cam_plus_plus(activations, gradients), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-6, 1, 1e3])
def test_ss_grad_cam(pair, scale):
    """Also for gradients so small that a number added to the denominator would decide."""
    activations, gradients = pair[0], pair[1] * np.float32(scale)
    gradients[0, 2] = 0
    expected = spatially_sensitive(activations[0], gradients[0])
    found = ss_grad_cam_plus_plus(activations, gradients)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_the_weights_are_those_of_grad_cam_plus_plus(pair):
    """For positive activations and gradients without zeros: the package's weights, times the space map."""
    lib = pytest.importorskip("pytorch_grad_cam")
    activations, gradients = np.abs(pair[0]) + 0.1, pair[1] + np.float32(0.5)
    assert gradients.all() and (gradients < 0).any()
    engine = lib.GradCAMPlusPlus(torch.nn.Linear(1, 1), [])
    weights = engine.get_cam_weights(None, None, None, activations, gradients)[0]
    space = np.abs(gradients[0]) / np.abs(gradients[0]).max((1, 2), keepdims=True)
    expected = (weights[:, None, None] * space * activations[0]).sum(0)
    np.testing.assert_allclose(ss_grad_cam_plus_plus(activations, gradients), expected, rtol=1e-4)


def test_a_score_that_no_channel_raises(pair):
    activations, gradients = np.abs(pair[0]), -np.abs(pair[1])
    assert not ss_grad_cam_plus_plus(activations, gradients).any()
    assert (odam(activations, gradients) <= 0).all()
    assert not odam(activations, 0 * gradients).any()


@pytest.mark.parametrize("method", ["odam", "ss-grad-cam++"])
def test_as_a_method_of_cam(net, x, method, monkeypatch):
    """By autograd and the formula; without the grad-cam package, and without a change to the model."""
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    kept = []
    handle = net.layer2.register_forward_hook(lambda module, given, out: kept.append(out))
    before = net(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(before[0, 2], kept)
    a, g = kept[0].detach()[0].numpy(), gradient[0].numpy()
    expected = sum(blur(one) * b for b, one in zip(a, g)) if method == "odam" else spatially_sensitive(a, g)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    (heat,) = fv.cam(net, x, "layer2", 2, method)
    data = heat.feature_map.data[0].numpy()
    np.testing.assert_allclose(data, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(heat.values, np.maximum(data, 0) / data.max(), atol=1e-6)
    assert f"{CAM_METHODS[method][0]} of class 2" in heat.title
    assert torch.equal(net(x), before) and all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module.training or module._forward_hooks for module in net.modules())


def test_every_method_has_one_formula():
    """Ours, or the name of the package's."""
    assert {name for name, (_, theirs) in CAM_METHODS.items() if not theirs} == set(FORMULAS)
