"""Principal components in colours."""

import numpy as np
import pytest
from helpers import feature_map

import yolov5_featviz as fv
from yolov5_featviz.draw.palette import NAN, palette_of
from yolov5_featviz.draw.rgb import pca_colours

RNG = np.random.default_rng(5)


def lab(rgb):
    """CIE L*a*b* (D65) of sRGB in [0, 1], by the formulas of CIE 15 and IEC 61966-2-1."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    x, y, z = np.moveaxis(linear @ np.array(matrix).T / [0.950456, 1, 1.088754], -1, 0)
    f = [np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116) for t in (x, y, z)]
    return np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])], axis=-1)


def deuteranopia(rgb):
    """Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009, severity 1."""
    matrix = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.array(matrix).T
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_lab_axes_are_lightness_blue_yellow_and_green_red():
    inner = 0.5 + 0.2 * (RNG.random((6, 7, 3)) - 0.5)  # inside sRGB
    found = lab(pca_colours(inner.astype(np.float32), "lab").astype(float))
    expected = np.stack([20 + 70 * inner[..., 0], 100 * inner[..., 2] - 50, 100 * inner[..., 1] - 50], axis=-1)
    np.testing.assert_allclose(found, expected, atol=0.5)
    missing = np.full((1, 1, 3), np.nan, np.float32)
    assert np.isnan(pca_colours(missing, "lab")).all()


@pytest.mark.parametrize("k", [0, 1])
def test_the_first_two_lab_axes_are_told_apart_in_deuteranopia(k):
    """A step of 0.5 along either component; red, green and blue of equal lightness would be confused."""
    ends = np.full((1, 2, 3), 0.5, np.float32)
    ends[0, :, k] = 0.25, 0.75
    a, b = lab(deuteranopia(pca_colours(ends, "lab").astype(float)))[0]
    assert np.linalg.norm(a - b) > 20


def test_padding_is_left_out_of_pca_and_said():
    data = RNG.normal(size=(8, 10, 12)).astype(np.float32)
    data[:, 0] = 100  # in the padding
    fm = feature_map(data, input_size=(80, 96), region=(0.0, 8.0, 96.0, 72.0))
    picture = fm.pca()
    x, y, w, h = picture.cells[0]
    scale = h // 10
    cells = picture.pixels[y : y + h : scale, x : x + w : scale]
    grey = palette_of("viridis")[NAN]
    assert (cells[[0, 9]] == grey).all() and not (cells[1:9] == grey).all(axis=2).any()
    assert "without padding" in picture.title
    inside = feature_map(data[:, 1:9], input_size=(64, 96)).pca()
    assert picture.about["variance"] == inside.about["variance"] and "padding" not in inside.title


def test_boxes_and_axes_on_request():
    boxes = fv.Boxes([[16, 16, 64, 64]], [0.9], ["cup"], [2])
    fm = feature_map(RNG.normal(size=(8, 10, 12)), input_size=(80, 96), boxes=boxes)
    bare, drawn = fm.pca(), fm.pca(boxes=True)
    x, y, w, h = drawn.cells[0]
    changed = (bare.pixels != drawn.pixels).any(axis=2)
    at = x + 16 * w // 96, y + 40 * h // 80
    assert changed[at[1], at[0] - 4 : at[0] + 5].any() and not changed[y + h // 2, x + 40 * w // 96]
    assert [text.text for text in drawn.texts if "cup" in text.text] == ["cup 0.90"]
    assert "lightness" in fm.pca(axes="lab").title and fm.pca(axes="lab").about["axes"] == "lab"
    for call, says in (
        (lambda: fm.pca(axes="hsv"), "no axes 'hsv': take one of rgb, lab"),
        (lambda: feature_map(RNG.normal(size=(4, 5, 5))).pca(boxes=True), "no boxes to draw"),
    ):
        with pytest.raises(fv.FeatvizError, match=says):
            call()
