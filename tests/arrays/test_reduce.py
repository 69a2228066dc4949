"""Reductions and PCA, against references that share no code with the package."""

import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA

import yolov5_featviz as fv
from yolov5_featviz.arrays.reduce import REDUCTIONS, pca, reduce_channels

RNG = np.random.default_rng(0)


def by_cell(x, f):
    return np.array([[f([float(v) for v in x[:, i, j]]) for j in range(x.shape[2])] for i in range(x.shape[1])])


PLAIN = {
    "mean": lambda v: math.fsum(v) / len(v),
    "sum": math.fsum,
    "max": max,
    "l2": lambda v: math.sqrt(math.fsum(a * a for a in v)),
    "std": lambda v: math.sqrt(math.fsum((a - math.fsum(v) / len(v)) ** 2 for a in v) / len(v)),
}


@pytest.mark.parametrize("how", PLAIN)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
@pytest.mark.parametrize("channels", [1, 2, 33])
def test_reductions(how, dtype, channels):
    x = (RNG.normal(size=(channels, 5, 4)) * 50).astype(dtype)
    keep = x.copy()
    y = reduce_channels(x, how)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, by_cell(x, PLAIN[how]), rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(x, keep)


def test_select_max_is_the_channel_with_the_largest_sum():
    x = RNG.normal(size=(7, 5, 4)).astype(np.float32)
    sums = [math.fsum(c.ravel().tolist()) for c in x]
    np.testing.assert_array_equal(reduce_channels(x, "select-max"), x[sums.index(max(sums))])
    same = np.stack([x[0], x[1], x[0]])
    np.testing.assert_array_equal(reduce_channels(same, "select-max"), max((x[0], x[1]), key=np.sum))
    x[3] = np.nan
    assert np.isfinite(reduce_channels(x, "select-max")).all()


def test_nan_and_infinity_follow_arithmetic():
    x = np.ones((3, 2, 2), np.float32)
    x[0, 0, 0], x[1, 1, 1] = np.nan, np.inf
    for how in REDUCTIONS:
        y = reduce_channels(x, how)
        assert y[0, 1] == y[1, 0] == REDUCTIONS[how].apply(np.ones((3, 1, 1), np.float32))[0, 0]
    assert np.isnan(reduce_channels(x, "mean")[0, 0]) and reduce_channels(x, "sum")[1, 1] == np.inf


def test_unknown_reduction():
    with pytest.raises(fv.FeatvizError, match="take one of mean, sum, max, select-max, l2, std"):
        reduce_channels(np.ones((2, 2, 2)), "avg")


@pytest.mark.parametrize(("n", "size"), [(64, (20, 15)), (5, (9, 7)), (200, (6, 6)), (16, (150, 130))])
def test_pca_against_scikit_learn(n, size):
    mixing = RNG.normal(size=(n, 6)) * np.array([9, 5, 3, 1, 0.5, 0.2])
    x = (mixing @ RNG.normal(size=(6, size[0] * size[1]))).reshape(n, *size).astype(np.float32) + 4
    rgb, explained = pca(x)
    samples = x.reshape(n, -1).T.astype(np.float64)
    reference = PCA(3, svd_solver="full").fit(samples)
    np.testing.assert_allclose(explained, reference.explained_variance_ratio_, rtol=1e-5)
    scores = reference.transform(samples)
    for k in range(3):
        axis = reference.components_[k]
        score = scores[:, k] * np.sign(axis[np.abs(axis).argmax()])
        low, high = np.percentile(score, [1, 99])
        np.testing.assert_allclose(rgb[..., k].ravel(), ((score - low) / (high - low)).clip(0, 1), atol=1e-4)


def test_pca_does_not_depend_on_signs_and_repeats():
    x = RNG.normal(size=(10, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(pca(x)[0], pca(x.copy())[0])
    np.testing.assert_allclose(pca(x[:, :, ::-1])[0][:, ::-1], pca(x)[0], atol=1e-4)
    np.testing.assert_allclose(pca(x * 1e6)[0], pca(x)[0], atol=1e-4)


@pytest.mark.parametrize("n", [1, 2])
def test_pca_of_fewer_channels_than_colours(n):
    rgb, explained = pca(RNG.normal(size=(n, 6, 5)))
    assert (rgb[..., n:] == 0).all() and (explained[n:] == 0).all()
    assert rgb[..., :n].min() == 0 and rgb[..., :n].max() == 1
    assert explained.sum() == pytest.approx(1)


def test_pca_in_blocks_is_that_of_the_whole():
    x = RNG.normal(size=(12, 140, 130)).astype(np.float32) * np.arange(1, 13, dtype=np.float32)[:, None, None]
    x[3, 5, 6], x[0, 139, 129], x[:, 7] = np.nan, np.inf, np.nan
    rgb, explained = pca(x)
    whole = np.isfinite(x).all(axis=0)
    reference = PCA(3, svd_solver="full").fit(x[:, whole].T.astype(np.float64))
    np.testing.assert_allclose(explained, reference.explained_variance_ratio_, rtol=1e-6)
    assert (np.isnan(rgb).all(axis=2) == ~whole).all() and np.isfinite(rgb[whole]).all()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts in kilobytes")
def test_pca_takes_little_memory():
    """Of a map of 1024 x 1024 x 256, eight times as much as the map was more than most machines have."""
    code = (
        "import resource, numpy as np\n"
        "from yolov5_featviz.arrays.reduce import pca\n"
        "pca(np.ones((4, 9, 9), np.float32) * np.arange(81, dtype=np.float32).reshape(9, 9))\n"
        "x = np.random.default_rng(0).standard_normal((64, 512, 512), dtype=np.float32)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "pca(x)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / x.nbytes)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2  # beside the map itself; it was 6


def test_pca_of_maps_without_enough_in_them():
    for x in (np.full((8, 4, 4), 7.0), np.zeros((8, 4, 4)), np.ones((8, 1, 1))):
        rgb, explained = pca(x)
        assert (rgb == 0).all() and (explained == 0).all()
    one = RNG.normal(size=(6, 7))
    rgb, explained = pca(np.stack([one, 2 * one, one * 0, 5 - one]))  # one component in four channels
    assert (rgb[..., 1:] == 0).all()
    np.testing.assert_allclose(explained, [1, 0, 0], atol=1e-6)


def test_pca_leaves_out_what_is_not_finite():
    x = RNG.normal(size=(5, 8, 6))
    x[2, 3, 4], x[0, 0, 0] = np.nan, np.inf
    rgb, explained = pca(x)
    assert np.isnan(rgb[3, 4]).all() and np.isnan(rgb[0, 0]).all() and np.isnan(rgb).sum() == 6
    samples = x.reshape(5, -1).T
    reference = PCA(3).fit(samples[np.isfinite(samples).all(axis=1)])
    np.testing.assert_allclose(explained, reference.explained_variance_ratio_, rtol=1e-5)
    assert np.isnan(pca(np.full((4, 2, 2), np.nan))[0]).all()


def test_pca_of_some_cells_is_that_of_those_alone():
    x = RNG.normal(size=(9, 10, 8)).astype(np.float32)
    image = np.zeros((10, 8), bool)
    image[2:8, 1:] = True
    parts, explained = pca(x, image)
    alone, reference = pca(x[:, 2:8, 1:])
    np.testing.assert_allclose(parts[2:8, 1:], alone, atol=1e-6)
    np.testing.assert_allclose(explained, reference, rtol=1e-9)
    assert (np.isnan(parts).all(axis=2) == ~image).all()
