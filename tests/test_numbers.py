"""Channel choice and normalisation, against references written out in plain Python."""

import math

import numpy as np
import pytest

import yolov5_featviz as fv
from yolov5_featviz.channels import choose_channels
from yolov5_featviz.normalize import normalize


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
        ("0", "nothing to show"),
        ("first:0", "nothing to show"),
        ("5,", "not understood"),
        ("-1", "not understood"),
        ("9-3", "upwards"),
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


def test_normalize_leaves_its_input_alone():
    x = HARD.copy()
    normalize(x)
    np.testing.assert_array_equal(x, HARD)


def test_unknown_norm():
    with pytest.raises(fv.FeatvizError, match="channel, layer"):
        normalize(HARD, "minmax")
