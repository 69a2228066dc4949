"""Resampling, against plain loops over the definitions and against OpenCV and torch where they agree."""

import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import yolov5_featviz as fv
from yolov5_featviz.arrays.resample import RESAMPLERS, resample

RNG = np.random.default_rng(0)


def cubic(d, a=-0.75):
    d = abs(d)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def plain(x, size, how, part=None):
    """Value by value."""
    height, width = x.shape
    left, top, right, bottom = part or (0, 0, width, height)

    def taps(i, out, start, stop, n):
        step = (stop - start) / out
        src = start + i * step if how == "bilinear-left" else start + (i + 0.5) * step - 0.5
        if how == "nearest":
            return [(min(max(math.floor(src + 0.5), 0), n - 1), 1.0)]
        if how == "bicubic":
            low = math.floor(src)
            return [(min(max(low + k, 0), n - 1), cubic(src - low - k)) for k in (-1, 0, 1, 2)]
        src = min(max(src, 0), n - 1)
        low = math.floor(src)
        return [(low, 1 - (src - low)), (min(low + 1, n - 1), src - low)]

    out = np.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            for y, wy in taps(i, size[0], top, bottom, height):
                for x_, wx in taps(j, size[1], left, right, width):
                    out[i, j] += wy * wx * x[y, x_]
    return out


@pytest.mark.parametrize("how", RESAMPLERS)
@pytest.mark.parametrize("size", [(40, 48), (13, 31), (3, 2), (5, 6), (1, 1)])
@pytest.mark.parametrize("part", [None, (0.3, 1.25, 5.1, 4.0), (-1, -0.5, 7, 5)])
def test_against_loops(how, size, part):
    x = RNG.normal(size=(5, 6)).astype(np.float32)
    if how == "nearest":  # a position half way between two cells may round either way
        part = part and tuple(p + 1e-3 for p in part)
    np.testing.assert_allclose(resample(x, size, how, part=part), plain(x, size, how, part), atol=3e-6)


@pytest.mark.parametrize("size", [(80, 96), (33, 47), (4, 9)])
def test_against_opencv_and_torch(size):
    x = RNG.normal(size=(10, 12)).astype(np.float32)
    other = cv2.resize(x, size[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resample(x, size, "bilinear"), other, atol=3e-5)
    for how in ("bilinear", "bicubic"):
        other = F.interpolate(torch.tensor(x)[None, None], size, mode=how, align_corners=False)[0, 0].numpy()
        np.testing.assert_allclose(resample(x, size, how), other, atol=3e-5)


def test_nearest_repeats_cells_and_stacks_stay_apart():
    x = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(resample(x, scale=8, how="nearest"), x.repeat(8, 1).repeat(8, 2))
    np.testing.assert_array_equal(resample(x, (16, 9))[1], resample(x[1], (16, 9)))


def test_left_alignment_hits_the_cells_themselves():
    """At the whole coordinates to which the article's own interpolation gave weight 0."""
    x = RNG.normal(size=(6, 7)).astype(np.float32)
    np.testing.assert_allclose(resample(x, scale=8, how="bilinear-left")[::8, ::8], x, atol=1e-6)


def test_input_is_left_alone_and_nan_stays_local():
    x = np.ones((8, 8), np.float32)
    x[2, 3] = np.nan
    keep = x.copy()
    y = resample(x, scale=4)
    np.testing.assert_array_equal(x, keep)
    assert np.isnan(y[8:12, 12:16]).all()
    assert np.isfinite(y[:, 20:]).all() and np.isfinite(y[16:]).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"how": "lanczos"}, "no resampling 'lanczos': take one of nearest"),
        ({"size": (0, 4)}, "cannot resample"),
        ({"part": (3, 0, 3, 4)}, "cannot resample"),
    ],
)
def test_refused(options, says):
    with pytest.raises(fv.FeatvizError, match=says):
        resample(np.ones((4, 4)), **{"size": (4, 4), **options})
