"""The words at the ends of colour scales, and the width of pictures in print."""

import numpy as np
import pytest
from helpers import feature_map

import yolov5_featviz as fv
from yolov5_featviz.draw.lettering import text_size
from yolov5_featviz.draw.page import LEAST_DOTS, PAGE_INCHES
from yolov5_featviz.draw.scale import end_words
from yolov5_featviz.draw.widths import WIDTHS, width_of
from yolov5_featviz.runs.look import Look, render

RNG = np.random.default_rng(12)


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((-0.278, 3.2), ["−0.28", "3.20"]),
        ((0, 148.26), ["0", "148"]),
        ((0, 0.00188), ["0", "0.00188"]),
        ((-1, 1), ["−1.00", "1.00"]),
        ((-0.0004, 3.2), ["0.00", "3.20"]),
        ((1e-12, 2.5e-9), ["1.00e−12", "2.50e−9"]),
        ((-12345, 99999), ["−12345", "99999"]),
        ((0, 0), ["0", "0"]),
    ],
)
def test_ends_have_the_same_decimals(ends, words):
    assert end_words(*ends) == words


def letterboxed(data):
    """A map whose first and last row lie in the padding."""
    rows, columns = data.shape[1:]
    return feature_map(data, input_size=(rows * 8, columns * 8), region=(0.0, 8.0, columns * 8.0, rows * 8.0 - 8))


def test_an_end_in_the_padding_is_said():
    data = RNG.random((6, 10, 12)).astype(np.float32)
    data[:, [0, 9]] = 0.5
    data[[1, 4], 0, 3] = 7  # the largest value, in the padding
    data[2, 9, 5] = -7  # the smallest
    data[3, 0, 0] = np.nan
    grid = letterboxed(data).grid()
    assert any("3 with an end in the padding" in text.text for text in grid.texts)
    assert grid.about["padding"] == "1-2,4"
    assert not any("padding" in text.text for text in letterboxed(data[[0, 3, 5]]).grid().texts)
    assert "padding" not in letterboxed(data[[0, 3, 5]]).grid().about
    assert letterboxed(data).channel(4).legend.scope == "an end lies in the padding"
    assert "padding" in letterboxed(data).channel(2).legend.scope
    assert letterboxed(data).channel(2, "zero").legend.scope == ""  # whose scale starts at 0
    assert letterboxed(data).channel(0).legend.scope == ""
    assert "padding" not in str(feature_map(data).grid().texts)


def test_robust_scales_are_marked_as_clipped():
    data = RNG.normal(size=(4, 20, 20)).astype(np.float32)
    words = [text.text for text in feature_map(data).grid(norm="robust").texts]
    assert "≤ 1st" in words and "≥ 99th percentile" in words
    words = [text.text for text in feature_map(data).grid(norm="channel").texts]
    assert "min" in words and "max" in words
    words = [text.text for text in feature_map(data).grid(norm="layer").texts]
    assert any(word.startswith("min −") for word in words) and any(word.startswith("max ") for word in words)


@pytest.mark.parametrize("name", ["ieee-column", "ieee-page", "nature-single"])
@pytest.mark.parametrize("size", [(80, 80), (60, 80), (20, 15), (3, 3)])
@pytest.mark.parametrize("dpi", [300, 600])
def test_a_grid_of_given_width(name, size, dpi):
    data = RNG.random((64, *size)).astype(np.float32)
    pictures = list(feature_map(data).grids("all", width=name, dpi=dpi))
    drawn = [channel for picture in pictures for channel in picture.cells]
    assert drawn == list(range(64))  # none is lost
    for picture in pictures:
        height, width = picture.pixels.shape
        assert width == round(WIDTHS[name] * dpi)
        assert height <= (PAGE_INCHES + 1) * dpi
        assert all(w // size[1] >= LEAST_DOTS and x + w <= width for x, _, w, _ in picture.cells.values())
        assert min(text.points for text in picture.texts) >= 6
        assert all(text.dpi == dpi for text in picture.texts)


def test_what_does_not_fit_in_a_width_goes_to_further_pages_and_is_said():
    fm = feature_map(RNG.random((64, 160, 160)).astype(np.float32))
    pages = list(fm.grids("all", width=3.5))
    assert len(pages) > 1 and "page 2" in pages[1].title
    one = fm.grid("all", width=3.5)
    n = len(one.cells)
    assert 0 < n < 64 and f"{n} of 64 channels, more do not fit in 3.5 inches" in one.title
    big = feature_map(RNG.random((2, 640, 640)).astype(np.float32))
    for draw in (big.grid, big.heatmap().picture, big.pca):
        with pytest.raises(
            fv.FeatvizError, match=r"640×640 cells does not fit in 3\.5 inches with 2 dots a cell at 300 dpi"
        ):
            draw(width="ieee-column")
    assert big.heatmap().picture(width="ieee-column", dpi=400).pixels.shape[1] <= 1400


def test_a_heat_map_of_given_width():
    fm = feature_map(RNG.random((8, 20, 15)).astype(np.float32), input_size=(640, 480))
    photo = RNG.integers(0, 256, (480, 360, 3)).astype(np.uint8)
    for width in (3.5, 7.16):
        for picture in (fm.heatmap().picture(width=width), fm.heatmap().over(photo, width=width), fm.pca(width=width)):
            assert picture.pixels.shape[1] == round(width * 300)
            assert picture.pixels.shape[0] <= (PAGE_INCHES + 1) * 300
            assert min(text.points for text in picture.texts) >= 6
            assert {text.dpi for text in picture.texts} == {300}


@pytest.mark.parametrize("n", [9, 16, 32, 48, 64, 128, 256])
@pytest.mark.parametrize("size", [(80, 80), (60, 80), (80, 60), (20, 15), (12, 20), (48, 80)])
def test_the_last_row_is_full_or_nearly(n, size):
    picture = feature_map(np.zeros((n, *size), np.float32)).grid("all")
    rows = [y for _, y, _, _ in picture.cells.values()]
    columns = rows.count(min(rows))
    assert rows.count(max(rows)) >= 0.9 * columns


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("ieee-colum", "no width 'ieee-colum': did you mean ieee-column"),
        ("wide", "no width 'wide': take inches, or one of ieee-column"),
        (0.2, "width 0.2 is out of range: take 1 to 40 inches"),
        (float("nan"), "width nan is out of range"),
        (True, "no width True"),
    ],
)
def test_bad_widths(value, says):
    with pytest.raises(fv.FeatvizError, match=says):
        feature_map(np.zeros((2, 4, 4))).grid(width=value)
    assert width_of("3.5") == 3.5 and width_of("neurips") == 5.5


@pytest.mark.parametrize("norm", ["channel", "layer", "signed", "zero", "none", "sigmoid"])
def test_an_overlay_leaves_the_image_where_the_map_is_0(norm):
    data = np.zeros((2, 4, 4), np.float32)
    data[0, 0, 0], data[0, 3, 3], data[1] = -1, 3, np.linspace(-2, 5, 16).reshape(4, 4)
    photo = RNG.integers(0, 256, (40, 40, 3)).astype(np.uint8)
    over = feature_map(data, input_size=(40, 40)).channel(0, norm).over(photo, plain=True, resample="nearest").pixels
    changed = (over != photo).any(axis=2)
    assert not changed[:10, 10:].any() and not changed[10:30].any() and changed[30:, 30:].all()
    assert changed[:10, :10].all() == (norm not in ("zero", "none"))


def test_a_map_of_one_value_has_no_scale_but_its_value():
    fm = feature_map(np.stack([np.zeros((3, 3)), np.full((3, 3), -0.278)]))
    assert fm.channel(0, "signed").legend[:2] == ("all values 0", "")
    assert fm.channel(1).legend[:2] == ("all values −0.278", "")
    assert fm.channel(1, "zero").legend[:2] == ("all values ≤ 0", "")
    negative = np.stack([-RNG.random((3, 3)) - 1, RNG.random((3, 3))])
    assert [text.text for text in feature_map(negative).grid(norm="zero").texts][-2:] == ["0 ≤ 0", "1"]


def test_scores_have_minus_signs_and_the_same_decimals():
    data = np.stack([np.full((3, 3), value) + RNG.normal(size=(3, 3)) / 1e6 for value in (-0.98, 12.345, 0.01)])
    words = [text.text for text in feature_map(data).grid("top:3:mean").texts][-3:]
    assert words == ["#1  ch 1  12.3", "#2  ch 2  0.0", "#3  ch 0  −1.0"]


@pytest.mark.parametrize("width", [None, 1, 1.5, 2, 3.5])
def test_no_words_leave_the_picture(width):
    fm = letterboxed(RNG.normal(size=(8, 20, 30)).astype(np.float32))
    photo = RNG.integers(0, 256, (120, 160, 3)).astype(np.uint8)
    pictures = [fm.grid(width=width), fm.channel(0, "signed-robust").over(photo, width=width), fm.pca(width=width)]
    for picture in [*pictures, fm.channel(1, "layer").over(photo, width=width), fm.heatmap().picture(width=width)]:
        for text in picture.texts:
            assert text.x + text_size(text.text, text.points, text.dpi)[0] <= picture.pixels.shape[1]


def test_what_does_not_fit_keeps_nothing_else_from_being_drawn():
    fm = feature_map(RNG.random((4, 160, 160)).astype(np.float32), input_size=(320, 320))
    photo = RNG.integers(0, 256, (320, 320, 3)).astype(np.uint8)
    found = render(fm, Look(modes=("grid", "heatmap", "pca"), width=1.0, dpi=72), photo)
    assert [name for name, _ in (next(found),)] == ["stage17_C3_heatmap.png"]
    says = r"layer 17 \(C3\), grid: a map of 160×160 cells .*; layer 17 \(C3\), pca: a map of 160×160 cells"
    with pytest.raises(fv.FeatvizError, match=says):
        next(found)
