"""Channel choice and normalisation, against references written out in plain Python."""

import math

import numpy as np
import pytest
import torch
from helpers import feature_map
from torchvision.transforms.functional import to_pil_image

import yolov5_featviz as fv
from yolov5_featviz.arrays.normalize import NORMS, normalize
from yolov5_featviz.draw.channels import choose_channels

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("spec", "count", "expected"),
    [
        ("64", 256, list(range(64))),
        ("64", 3, [0, 1, 2]),
        ("all", 5, [0, 1, 2, 3, 4]),
        ("0,5,9", 10, [0, 5, 9]),
        ("9,0", 10, [9, 0]),
        ("8-11", 16, [8, 9, 10, 11]),
        ("1-3,2,7-7", 16, [1, 2, 3, 7]),
        ("first:3", 16, [0, 1, 2]),
        ("last:3", 16, [13, 14, 15]),
        ("last:9", 4, [0, 1, 2, 3]),
        (" ALL ", 2, [0, 1]),
        (3, 16, [0, 1, 2]),
        ([5], 16, [5]),
        ((7, 2), 16, [7, 2]),
    ],
)
def test_channels(spec, count, expected):
    assert choose_channels(spec, count) == expected


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "not understood"),
        ("0", "select nothing"),
        ("first:0", "select nothing"),
        ("5,", "not understood"),
        ("-1", "not understood"),
        ("9-3", "ascending"),
        ("16-16", "no channel 16: this layer has channels 0 to 15"),
        ("best:3", "first:8"),
    ],
)
def test_channels_refused(spec, says):
    with pytest.raises(fv.FeatvizError, match=says):
        choose_channels(spec, 16)


def reference(x, together):
    """Scale by hand, value by value."""
    finite = [[v for row in channel for v in row if math.isfinite(v)] for channel in x.tolist()]
    if together:
        finite = [[v for values in finite for v in values]] * len(finite)
    out = []
    for channel, values in zip(x.tolist(), finite):
        low, high = (min(values), max(values)) if values else (0.0, 0.0)

        def scale(v, low=low, high=high):
            if math.isnan(v):
                return math.nan
            if math.isinf(v):
                return 1.0 if v > 0 else 0.0
            return (v - low) / (high - low) if high > low else 0.0

        out.append([[scale(v) for v in row] for row in channel])
    return np.array(out)


HARD = np.array(
    [
        [[1, 2], [3, 4]],
        [[-8, -4], [-2, -1]],
        [[5, 5], [5, 5]],
        [[0, np.nan], [1, 2]],
        [[np.inf, 0], [-np.inf, 4]],
        [[np.nan, np.nan], [np.nan, np.nan]],
        [[np.inf, 3], [3, 3]],
        [[1000, 1000.1], [1000.2, 1000.05]],
    ],
    dtype=np.float32,
)


@pytest.mark.parametrize("norm", ["channel", "layer"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_normalize(norm, dtype):
    x = HARD.astype(dtype)
    y, limits = normalize(x, norm)
    assert y.dtype == np.float32 and limits.shape == (8, 2)
    np.testing.assert_allclose(y, reference(x.astype(np.float32), norm == "layer"), atol=2e-6)
    assert np.array_equal(np.isnan(y), np.isnan(x))


def test_normalize_integers_and_extremes():
    x = np.array([[[-128, 127], [0, 64]]], dtype=np.int8)
    np.testing.assert_allclose(normalize(x)[0], reference(x.astype(float), False), atol=1e-6)
    top = np.finfo(np.float32).max
    np.testing.assert_allclose(normalize(np.array([[[-top, 0, top]]], np.float32))[0], [[[0, 0.5, 1]]])


def test_normalize_by_the_layer_that_the_channels_came_from():
    layer = np.arange(24, dtype=np.float32).reshape(4, 2, 3) - 4
    y, limits = normalize(layer[1:3], "layer", layer)
    np.testing.assert_allclose(y, (layer[1:3] + 4) / 23, atol=1e-6)
    np.testing.assert_array_equal(limits, [[-4, 19]] * 2)


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_keeps_its_promises(norm):
    """[0, 1], float32, NaN only where NaN was, and the input left as it is."""
    for dtype in (np.float32, np.float16, np.float64):
        x = HARD.astype(dtype)
        keep = x.copy()
        y, limits = normalize(x, norm)
        np.testing.assert_array_equal(x, keep)
        assert y.dtype == np.float32 and y.shape == x.shape and limits.shape == (8, 2)
        assert np.nanmin(y) >= 0 and np.nanmax(y) <= 1
        assert np.array_equal(np.isnan(y), np.isnan(x) & (norm != "byte"))
        if norm != "byte":
            assert (y[np.isposinf(x)] == 1).all() and (y[np.isneginf(x)] == 0).all()
    for x in (np.arange(-6, 6).reshape(1, 3, 4), np.full((1, 2, 2), -3, np.int8), np.zeros((2, 3, 3), np.uint8)):
        y, _ = normalize(x, norm)
        np.testing.assert_array_equal(y, normalize(x.astype(np.float32), norm)[0])


def quantile(values, percent):
    """Linear between order statistics."""
    values = sorted(values)
    at = (len(values) - 1) * percent / 100
    low = math.floor(at)
    return values[low] + (values[min(low + 1, len(values) - 1)] - values[low]) * (at - low)


def test_robust():
    x = RNG.standard_t(2, size=(5, 13, 17)).astype(np.float32)
    x[1, 0, 0], x[1, 0, 1], x[2, 5, 5] = np.nan, np.inf, -np.inf
    y, limits = normalize(x, "robust")
    for channel, scaled, (low, high) in zip(x, y, limits):
        finite = [v for v in channel.ravel().tolist() if math.isfinite(v)]
        assert (low, high) == pytest.approx((quantile(finite, 1), quantile(finite, 99)), rel=1e-5)
        ok = np.isfinite(channel)
        np.testing.assert_allclose(scaled[ok], ((channel[ok] - low) / (high - low)).clip(0, 1), atol=1e-5)
    # one spike in a thousand cells lies beyond both percentiles, yet it must not vanish
    spike = np.zeros((1, 25, 40), np.float32)
    spike[0, 3, 7] = 5
    np.testing.assert_array_equal(normalize(spike, "robust")[0], spike / 5)


def test_zero():
    x = np.array([[[-1, 0], [2, 4]], [[-4, -3], [-2, -1]], [[0, 0], [0, 0]], [[3, 3], [3, 3]]], np.float32)
    y, limits = normalize(x, "zero")
    np.testing.assert_allclose(y, [[[0, 0], [0.5, 1]], np.zeros((2, 2)), np.zeros((2, 2)), np.ones((2, 2))])
    np.testing.assert_array_equal(limits, [[0, 4], [0, 0], [0, 0], [0, 3]])


def test_sigmoid():
    x = np.array([[[-1000, -5, -1e-3], [0, 0.5, 1000]]], np.float32)
    expected = [1 / (1 + math.exp(-v)) if v > -700 else 0 for v in x.ravel().tolist()]
    np.testing.assert_allclose(normalize(x, "sigmoid")[0].ravel(), expected, atol=1e-7)


def test_none():
    x = np.array([[[-1, 0, 0.25], [1, 1.5, np.nan]]], np.float32)
    np.testing.assert_array_equal(normalize(x, "none")[0], [[[0, 0, 0.25], [1, 1, np.nan]]])


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_byte_is_what_torchvision_does():
    """The wrap-around of pictures made by ToPILImage from values outside [0, 1]."""
    x = np.concatenate([RNG.normal(0, s, 4000) for s in (0.3, 3, 1e3, 1e6, 1e12)]).astype(np.float32)
    x = np.concatenate([x, np.float32([0, 1, -1, 0.5, 255, 256 / 255, -0.001, 1e16, 1e18])]).reshape(1, 11, -1)
    expected = np.asarray(to_pil_image(torch.from_numpy(x)))
    np.testing.assert_array_equal(torch.from_numpy(x).mul(255).byte()[0].numpy(), expected)  # older releases' words
    y = normalize(x, "byte")[0]
    np.testing.assert_array_equal(np.rint(y[0] * 255).astype(np.uint8), expected)
    assert expected.min() == 0 and expected.max() == 255
    for special in (np.nan, np.inf, -np.inf, 1e30, -1e30):
        special = np.full((1, 2, 16), special, np.float32)
        np.testing.assert_array_equal(
            normalize(special, "byte")[0][0] * 255, np.asarray(to_pil_image(torch.from_numpy(special)))
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_reaches_normalisation_exactly(dtype):
    data = torch.tensor([[[0.1, 0.7], [-3.3, 12.5]]]).to(dtype)
    picture = feature_map(data).grid(norm="layer", plain=True)
    x, y, w, h = picture.cells[0]
    codes = picture.pixels[y : y + h, x : x + w][h // 4 :: h // 2, w // 4 :: w // 2].astype(float)
    low, high = data.float().min(), data.float().max()
    np.testing.assert_allclose(codes / 247, ((data.float() - low) / (high - low))[0], atol=0.5 / 247)


def test_unknown_norm():
    with pytest.raises(fv.FeatvizError, match="channel, layer"):
        normalize(HARD, "minmax")
