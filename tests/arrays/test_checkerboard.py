"""Shares of energy by parity, and the filter that removes a checkerboard."""

import cv2
import numpy as np
import pytest

from yolov5_featviz.arrays.checkerboard import is_checkerboard, parity_shares, smoothed


def strided(height, width):
    """How often each cell is read by a 3 by 3 convolution of stride 2 and padding 1, counted one by one."""
    reads = np.zeros((height, width), np.float32)
    for row in range(0, height, 2):
        for column in range(0, width, 2):
            reads[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] += 1
    return reads


def test_shares_count_what_is_positive_and_finite():
    values = np.array([[1, 2, 1, -9], [3, 4, np.nan, np.inf], [0, 0, 0, 5]], np.float32)
    np.testing.assert_allclose(parity_shares(values), np.array([2, 7, 3, 4]) / 16)
    np.testing.assert_array_equal(parity_shares(np.full((4, 4), -1.0)), np.zeros(4))
    np.testing.assert_allclose(parity_shares(np.ones((6, 8))), np.full(4, 0.25))


@pytest.mark.parametrize("shift", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_the_gradient_of_a_strided_convolution_is_a_checkerboard(shift):
    reads = np.roll(strided(40, 60), shift, (0, 1))
    shares = parity_shares(reads).reshape(2, 2)
    assert shares[1 - shift[0], 1 - shift[1]] == shares.max() == pytest.approx(4 / 9, abs=0.02)
    assert is_checkerboard(reads) and not is_checkerboard(smoothed(reads))


def test_neither_smooth_maps_nor_few_cells_are_one():
    y, x = np.mgrid[:40, :60]
    blob = np.exp(-((y - 20.3) ** 2 + (x - 31.7) ** 2) / 8).astype(np.float32)
    assert parity_shares(blob).max() < 0.26 and not is_checkerboard(blob)
    assert is_checkerboard(np.where((y % 2) & (x % 2), 4, 1) * (blob > 0.001))
    few = np.zeros((40, 60), np.float32)
    few[(3, 5, 11), (7, 31, 43)] = 1, 0.8, 0.5
    assert parity_shares(few).max() == 1 and not is_checkerboard(few)
    for shape in ((9, 9), (1, 400), (5, 101)):  # more cells of one parity than of another
        assert not is_checkerboard(np.ones(shape, np.float32)), shape
    assert not is_checkerboard(np.zeros((8, 8), np.float32)) and not is_checkerboard(np.full((8, 8), np.nan))


def test_chance_is_rarely_taken_for_one():
    random = np.random.default_rng(0)
    found = sum(is_checkerboard(random.exponential(size=(20, 20)) ** 3) for _ in range(500))
    assert found < 0.06 * 500


def test_the_filter_is_binomial():
    y, x = np.mgrid[:8, :10]
    np.testing.assert_array_equal(smoothed(np.full((8, 10), 3, np.float32)), 3)
    for alternating in ((-1.0) ** y, (-1.0) ** x, (-1.0) ** (x + y)):
        assert np.abs(smoothed(alternating)[1:-1, 1:-1]).max() == 0
    values = np.random.default_rng(1).normal(size=(7, 9)).astype(np.float32)
    kernel = np.float32([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    expected = cv2.filter2D(values, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(smoothed(values), expected, atol=1e-6)
    assert smoothed(values).dtype == np.float32 and smoothed(values[:1, :1]) == values[0, 0]
