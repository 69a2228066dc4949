"""Numbers of feature maps, against plain loops, matrices and figures worked out by hand."""

import math

import numpy as np
import pytest
import torch
from helpers import feature_map

import yolov5_featviz as fv
from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.arrays.cells import in_region
from yolov5_featviz.arrays.metrics import energy_inside, entropy, hoyer, pointing_hit
from yolov5_featviz.compare.metrics import channel_sparsity, debiased_cka, linear_cka, same_grid, same_samples

WHOLE = (0.0, 0.0, 32.0, 16.0)  # 2 × 4 cells of 8 pixels
STRIDE = (8.0, 8.0)
NONE = Boxes(np.zeros((0, 4)))


def boxes(*xyxy):
    return Boxes(np.array(xyxy, float))


def energy_by_pixel(heat, found, stride, window):
    """Pixel by pixel, with loops."""
    inside = total = 0.0
    for y in range(round(heat.shape[0] * stride[0])):
        for x in range(round(heat.shape[1] * stride[1])):
            if window[0] <= x + 0.5 < window[2] and window[1] <= y + 0.5 < window[3]:
                value = max(0.0, float(heat[int((y + 0.5) / stride[0]), int((x + 0.5) / stride[1])]))
                total += value
                if any(x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 for x0, y0, x1, y1 in found.xyxy):
                    inside += value
    return inside / total


def test_energy_by_hand():
    heat = np.array([[1, 2, 3, 4], [0, 0, 0, 0]], float)
    assert energy_inside(heat, boxes([0, 0, 16, 16]), STRIDE, WHOLE) == pytest.approx(3 / 10)
    assert energy_inside(heat, boxes([0, 0, 4, 8]), STRIDE, WHOLE) == pytest.approx(0.5 / 10)  # half of a cell
    assert energy_inside(heat, boxes([-50, -50, 99, 99]), STRIDE, WHOLE) == 1
    assert energy_inside(heat, boxes([0, 8, 32, 16]), STRIDE, WHOLE) == 0


def test_energy_counts_overlaps_once():
    heat = np.ones((2, 4))
    assert energy_inside(heat, boxes([0, 0, 16, 16], [8, 0, 24, 16]), STRIDE, WHOLE) == pytest.approx(24 / 32)


def test_energy_leaves_the_padding_out():
    heat = np.array([[1, 2, 3, 4], [9, 9, 9, 9]], float)
    upper = (0.0, 0.0, 32.0, 8.0)
    assert energy_inside(heat, boxes([24, 0, 32, 16]), STRIDE, upper) == pytest.approx(4 / 10)
    middle = (0.0, 4.0, 32.0, 12.0)  # half of each row
    assert energy_inside(heat, boxes([0, 0, 32, 8]), STRIDE, middle) == pytest.approx(10 / 46)


def test_energy_of_negative_values_and_of_none():
    heat = np.array([[-5, 2, np.nan, 4], [-1, 0, 0, 2]], float)
    assert energy_inside(heat, boxes([0, 0, 16, 16]), STRIDE, WHOLE) == pytest.approx(2 / 8)
    for nothing in (-np.ones((2, 4)), np.zeros((2, 4)), np.full((2, 4), np.nan)):
        assert math.isnan(energy_inside(nothing, boxes([0, 0, 16, 16]), STRIDE, WHOLE))
    assert math.isnan(energy_inside(heat, NONE, STRIDE, WHOLE))
    assert energy_inside(heat, boxes([100, 100, 110, 110]), STRIDE, WHOLE) == 0


def test_energy_of_an_even_map_is_the_area():
    share = energy_inside(np.ones((2, 4)), boxes([3, 2, 13, 14]), STRIDE, (0.0, 2.0, 32.0, 14.0))
    assert share == pytest.approx(10 * 12 / (32 * 12))


@pytest.mark.parametrize("seed", range(5))
def test_energy_as_with_loops(seed):
    random = np.random.default_rng(seed)
    heat = random.normal(size=(4, 6))
    stride = (8.0, 5.5)  # 33 pixels wide
    window = (2.0, 3.0, 31.0, 30.0)
    corners = np.sort(random.uniform(-3, 35, (3, 2, 2)), axis=1).reshape(3, 4)
    found = Boxes(corners)
    assert energy_inside(heat, found, stride, window) == pytest.approx(energy_by_pixel(heat, found, stride, window))


def peak(row, column):
    heat = np.full((2, 4), 0.1)
    heat[row, column] = 1
    return heat


def test_pointing():
    heat = peak(1, 2)  # its centre is at x 20, y 12
    assert pointing_hit(heat, boxes([18, 10, 30, 16]), STRIDE, WHOLE) is True
    far = boxes([0, 0, 4.9, 16])
    assert pointing_hit(heat, far, STRIDE, WHOLE) is False  # 15.1 pixels away
    assert pointing_hit(heat, boxes([0, 0, 5, 16]), STRIDE, WHOLE) is True  # 15
    assert pointing_hit(heat, far, STRIDE, WHOLE, tolerance=16) is True
    assert pointing_hit(heat, boxes([0, 0, 17, 8]), STRIDE, WHOLE, tolerance=4.9) is False  # 3 and 4 pixels: 5 away
    assert pointing_hit(heat, boxes([0, 0, 17, 8]), STRIDE, WHOLE, tolerance=5) is True
    assert pointing_hit(heat, boxes([0, 0, 1, 1], [19, 11, 21, 13]), STRIDE, WHOLE, 0) is True  # any of them


def test_pointing_only_within_the_image():
    heat = np.array([[1, 2, 3, 4], [9, 9, 9, 9]], float)
    upper = (0.0, 0.0, 32.0, 8.0)
    assert pointing_hit(heat, boxes([24, 0, 32, 8]), STRIDE, upper, 0) is True
    assert pointing_hit(heat, boxes([0, 8, 8, 16]), STRIDE, upper, 0) is False
    assert pointing_hit(heat, boxes([0, 8, 8, 16]), STRIDE, WHOLE, 0) is True  # the first of equals


def test_pointing_at_nothing():
    assert pointing_hit(peak(0, 0), NONE, STRIDE, WHOLE) is None
    assert pointing_hit(-np.ones((2, 4)), boxes([0, 0, 9, 9]), STRIDE, WHOLE) is None
    heat = peak(0, 3)
    heat[1, 0] = np.nan
    assert pointing_hit(heat, boxes([24, 0, 32, 8]), STRIDE, WHOLE, 0) is True


def test_entropy():
    assert entropy(np.full((3, 5), 7.0)) == pytest.approx(1)
    assert entropy(peak(0, 0) * (peak(0, 0) == 1)) == 0
    assert entropy(np.array([[1, 1, 0, 0]])) == pytest.approx(math.log(2) / math.log(4))
    by_hand = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)) / math.log(4)
    assert entropy(np.array([[2, 1], [1, -3]])) == pytest.approx(by_hand)
    assert entropy(np.array([[2, 1], [1, np.nan]])) == pytest.approx(by_hand)
    assert entropy(np.array([[2, 1, 99], [1, 0, 99]]), np.array([[1, 1, 0], [1, 1, 0]], bool)) == pytest.approx(by_hand)
    assert entropy(1e-30 * np.array([[2, 1], [1, 0]])) == pytest.approx(by_hand)
    for nothing in (np.zeros((2, 2)), -np.ones((2, 2)), np.ones((1, 1))):
        assert math.isnan(entropy(nothing))


def test_hoyer():
    assert hoyer(np.array([3.0, 4.0])) == pytest.approx((math.sqrt(2) - 7 / 5) / (math.sqrt(2) - 1))
    assert hoyer(np.array([0, 0, -9.0, 0])) == pytest.approx(1)
    assert hoyer(np.array([-2.0, 2, 2])) == pytest.approx(0, abs=1e-12)
    assert math.isnan(hoyer(np.zeros(3))) and math.isnan(hoyer(np.ones(1)))


def test_channel_sparsity():
    data = np.zeros((4, 2, 2))
    data[2] = [[1, -1], [np.inf, np.nan]]
    assert channel_sparsity(data) == pytest.approx(1)  # one channel does all
    data[1] = [[-2, 0], [0, 0]]
    assert channel_sparsity(data) == pytest.approx(hoyer(np.array([0, 0.5, 0.5, 0])))
    left = np.array([[True, False], [True, False]])
    assert channel_sparsity(data, left) == pytest.approx(hoyer(np.array([0, 1, 0.5, 0])))
    assert math.isnan(channel_sparsity(data, np.zeros((2, 2), bool)))
    assert channel_sparsity(7 * data) == pytest.approx(channel_sparsity(data))


def hsic_cka(x, y):
    """By Gram matrices that are centred: tr(KHLH) / sqrt(tr(KHKH) tr(LHLH))."""
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n
    k, m = centre @ (x @ x.T) @ centre, centre @ (y @ y.T) @ centre
    return np.trace(k @ m) / math.sqrt(np.trace(k @ k) * np.trace(m @ m))


def hsic1(x, y):
    """Equation 5 of Song et al. with whole matrices."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    one = np.ones(n)
    middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


@pytest.fixture
def samples():
    random = np.random.default_rng(0)
    x = random.normal(3, 1, (40, 6))
    return x, x @ random.normal(size=(6, 9)) + random.normal(size=(40, 9))


def test_linear_cka_is_that_of_gram_matrices(samples):
    x, y = samples
    assert 0.2 < linear_cka(x, y) < 0.98
    assert linear_cka(x, y) == pytest.approx(hsic_cka(x, y))
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y))
    assert linear_cka(x, y) == pytest.approx(linear_cka(x.astype(np.float32), y.astype(np.float32)), rel=1e-5)


def test_debiased_cka_is_that_of_gram_matrices(samples):
    x, y = samples
    assert debiased_cka(x, y) == pytest.approx(hsic1(x, y) / math.sqrt(hsic1(x, x) * hsic1(y, y)))
    assert math.isnan(debiased_cka(x[:3], y[:3]))


@pytest.mark.parametrize("cka", [linear_cka, debiased_cka])
def test_cka_does_not_see_rotation_scale_and_shift(samples, cka):
    x, y = samples
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    assert cka(-0.01 * x @ rotation + 5, y) == pytest.approx(cka(x, y))
    assert cka(x, x @ rotation * 3) == pytest.approx(1)
    stretched = x * [1, 1, 1, 1, 1, 9]
    assert cka(stretched, y) != pytest.approx(cka(x, y), rel=1e-2)  # it does see stretching
    assert math.isnan(cka(np.ones((40, 6)), y))
    with pytest.raises(fv.FeatvizError, match="40 samples and 39"):
        cka(x, y[1:])


def test_only_one_of_them_is_biased():
    """With more channels than cells, nothing in common looks like much."""
    random = np.random.default_rng(2)
    pairs = random.normal(size=(30, 2, 60, 200))
    assert min(linear_cka(x, y) for x, y in pairs) > 0.7
    found = [debiased_cka(x, y) for x, y in pairs]
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(len(found)) < 0.03


def test_cells_in_the_image():
    found = in_region((2, 4), STRIDE, (4.0, 4.1, 28.0, 16.0))
    assert found.tolist() == [[False] * 4, [True, True, True, False]]
    found = in_region((2, 4), STRIDE, (4.1, 0.0, 28.0, 12.0))  # left and upper edges are in it, others not
    assert found.tolist() == [[False, True, True, False], [False] * 4]


def in_input(data, region=None, size=(16, 32)):
    return feature_map(torch.tensor(np.asarray(data, np.float32)), input_size=size, region=region)


def test_samples_of_one_grid():
    random = np.random.default_rng(3)
    x, y = random.normal(size=(3, 2, 4)), random.normal(size=(5, 2, 4))
    x[0, 1, 1] = np.nan
    region = (0.0, 8.0, 24.0, 16.0)  # cells 0 to 2 of the lower row
    a, b = in_input(x, region), in_input(y, region)
    assert same_grid(a, b)
    found = same_samples(a, b)
    expected = x[:, 1, :3].T
    expected[1, 0] = 0
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    np.testing.assert_allclose(found[1], y[:, 1, :3].T, rtol=1e-6)


def test_samples_of_different_sizes_and_paddings():
    """What shows the same place stands side by side, at the size of the coarser map."""
    ramp = np.tile(np.arange(8) + 0.5, (4, 1))  # a value says where it lies, in cells of 4 pixels
    fine = in_input([ramp], (0.0, 0.0, 32.0, 16.0))
    coarse = in_input([np.tile(np.arange(4) + 0.5, (2, 1))], (0.0, 0.0, 32.0, 16.0))
    assert not same_grid(fine, coarse)
    x, y = same_samples(fine, coarse)
    assert x.shape == y.shape == (8, 1)
    np.testing.assert_allclose(x, 2 * y)

    padded = in_input([np.tile(np.arange(8) + 0.5, (8, 1))], (0.0, 8.0, 32.0, 24.0), (32, 32))  # above and below
    padded.data[0, :2] = padded.data[0, 6:] = 99
    x, y = same_samples(padded, coarse)
    assert x.shape == (8, 1)
    np.testing.assert_allclose(x, 2 * y)
    assert linear_cka(x, y) == pytest.approx(1)
