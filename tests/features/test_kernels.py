import numpy as np
import pytest
import torch
from torch import nn

import yolov5_featviz as fv
from yolov5_featviz.arrays.normalize import normalize
from yolov5_featviz.draw.palette import COLOURS, palette_of


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(5, 6, 3, bias=False), nn.ReLU())
    return nn.Sequential(nn.Conv2d(3, 7, (4, 6)), block, nn.ConvTranspose2d(6, 4, 2, groups=2), nn.Linear(2, 2))


def tiles(picture, shape):
    """The value of each pixel of each kernel, by the middle of its square."""
    height, width = shape
    found = []
    for x, y, w, h in picture.cells.values():
        rows = y + (np.arange(height) * 2 + 1) * h // (2 * height)
        columns = x + (np.arange(width) * 2 + 1) * w // (2 * width)
        found.append(picture.pixels[np.ix_(rows, columns)])
    return np.array(found)


@pytest.mark.parametrize("plain", [False, True])
def test_first_layer_in_colour(net, plain):
    picture = fv.kernels(net, 0, plain=plain)
    weights = net[0].weight.detach().numpy()
    expected = np.array(
        [
            [[[127.5 + 127.5 * v / np.abs(k).max() for v in pixel] for pixel in row] for row in rows]
            for k, rows in zip(weights, weights.transpose(0, 2, 3, 1))
        ]
    )
    assert np.abs(tiles(picture, (4, 6)).astype(float) - expected).max() <= 0.5
    assert list(picture.cells) == list(range(7))
    assert picture.title == "Layer 0 · Conv2d kernels as RGB · 7 channels · H×W 4×6"
    chosen = fv.kernels(net, 0, channels="5,2", plain=plain)
    assert list(chosen.cells) == [5, 2]
    assert np.array_equal(tiles(chosen, (4, 6))[1], tiles(picture, (4, 6))[2])


def test_norm_over_the_inputs(net):
    picture = fv.kernels(net, "1")
    weights = net[1][0].weight.detach().numpy()
    for kernel, codes in zip(weights, tiles(picture, (3, 3))):
        norms = np.sqrt((kernel.astype(float) ** 2).sum(axis=0))
        own = (norms - norms.min()) / np.ptp(norms)
        assert np.abs(codes - own * (COLOURS - 1)).max() <= 0.51
    assert picture.title == "Layer 1.0 · Conv2d kernels, norm over 5 inputs · 6 channels · H×W 3×3"


def test_one_input_is_centred_on_zero(net):
    picture = fv.kernels(net, "1.0", inputs=4)
    weights = net[1][0].weight.detach().numpy()[:, 4]
    for kernel, codes in zip(weights, tiles(picture, (3, 3))):
        expected = (kernel.astype(float) / np.abs(kernel).max() + 1) / 2 * (COLOURS - 1)
        assert np.abs(codes - expected).max() <= 0.51
    assert np.array_equal(picture.palette, palette_of("RdBu_r"))
    low, middle, high = (palette_of("RdBu_r")[i].astype(int) for i in (0, COLOURS // 2, COLOURS - 1))
    assert low[2] > low[0] and high[0] > high[2] and middle.min() > 240  # blue, white, red


def test_transposed_convolution_in_groups(net):
    """Output channel 3 is the second of the second group, whose inputs are 3 to 5."""
    picture = fv.kernels(net, 2, inputs=1, norm="layer")
    weights = net[2].weight.detach().numpy()
    expected = np.stack([weights[1, 0], weights[1, 1], weights[4, 0], weights[4, 1]])
    scaled = (expected - expected.min()) / (expected.max() - expected.min()) * (COLOURS - 1)
    assert np.abs(tiles(picture, (2, 2)) - scaled).max() <= 0.51


@pytest.mark.parametrize(
    ("layer", "options", "says"),
    [
        (3, {}, r"layer 3 \(Linear\) holds no two-dimensional convolutions$"),
        ("0-2", {}, "'0-2', which names 3 layers, holds 3 two-dimensional convolutions: take one of 0, 1.0, 2"),
        (1, {"inputs": 5}, r"no input 5 of layer 1.0 \(Conv2d\): take rgb, norm or a number, 0 to 4"),
        (1, {"inputs": "rgb"}, "has 5 inputs, not the three"),
        (1, {"inputs": "mean"}, "no input 'mean'"),
        (0, {"channels": "9-9"}, "no channel 9"),
        (9, {}, "no layer 9"),
        (0, {"dpi": 3}, "dpi 3"),
    ],
)
def test_refused(net, layer, options, says):
    with pytest.raises(fv.FeatvizError, match=says):
        fv.kernels(net, layer, **options)


def test_a_kernel_of_zeros():
    net = nn.Sequential(nn.Conv2d(3, 2, 3))
    nn.init.zeros_(net[0].weight)
    assert (tiles(fv.kernels(net, 0, plain=True), (3, 3)) == 128).all()
    assert (np.abs(tiles(fv.kernels(net, 0, inputs=0, plain=True), (3, 3)) - (COLOURS - 1) / 2) <= 0.5).all()


def test_signed_norm():
    x = np.array([[[1.0, -4.0]], [[0.0, 0.0]], [[2.0, np.nan]], [[np.inf, -1.0]]])
    y, limits = normalize(x, "signed")
    np.testing.assert_allclose(y, [[[0.625, 0]], [[0.5, 0.5]], [[1, np.nan]], [[1, 0]]])
    np.testing.assert_allclose(limits, [[-4, 4], [0, 0], [-2, 2], [-1, 1]])


def test_signed_robust_norm():
    x = np.linspace(-50, 100, 151)[None, None].repeat(3, 1)
    y, limits = normalize(x, "signed-robust")
    most = np.percentile(np.abs(x), 99)
    np.testing.assert_allclose(limits, [[-most, most]], rtol=1e-6)
    np.testing.assert_allclose(y, (x / most).clip(-1, 1) / 2 + 0.5, atol=1e-6)
    sparse = np.zeros((1, 20, 20))
    sparse[0, 3, 4] = -2
    np.testing.assert_allclose(normalize(sparse, "signed-robust")[1], [[-2, 2]])
