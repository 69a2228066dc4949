"""Colour maps, the colours of boxes, and the opacity of overlays."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.draw.heatmap import blended
from yolov5_featviz.draw.palette import (
    ALONE,
    BOX_COLOURS,
    COLOURS,
    NAN,
    OVER,
    box_colours,
    over_grey,
    palette_of,
)

VALUES = np.arange(COLOURS) / (COLOURS - 1)


def cie_lab(colours):
    """L*a*b* under D65 of sRGB ``[n, 3]`` in [0, 255], by CIE 15 and IEC 61966-2-1."""
    rgb = np.asarray(colours) / 255
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    t = light @ np.transpose(to_xyz) / np.sum(to_xyz, axis=1)
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("name", [ALONE, OVER])
def test_the_lightness_of_the_default_maps_rises_with_the_value(name):
    lightness = cie_lab(palette_of(name)[:COLOURS])[:, 0]
    assert np.diff(lightness).min() > -0.1  # the rounding to eight bits
    assert np.diff(lightness[::4]).min() > 0.3 and lightness[-1] - lightness[0] > 70


def test_the_lightness_of_jet_falls_again():
    lightness = cie_lab(palette_of("jet")[:COLOURS])[:, 0]
    assert lightness.max() - lightness[-1] > 50


def test_the_page_gives_the_measured_colour_differences():
    """The least CIE76 difference, and that of lightness, of values a quarter of the scale apart."""
    text = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `(\w+)` \| (yes|no) \| (\d+) \| \d+ \| (\d+) \|$", text)
    assert len(rows) == 6 and {ALONE, OVER, "jet"} <= {row[0] for row in rows}
    for name, rises, normal, grey in rows:
        lab = cie_lab(palette_of(name)[:COLOURS])
        assert least_differences(lab) == pytest.approx((int(normal), int(grey)), abs=0.6), name
        assert (rises == "yes") == (np.diff(lab[:, 0]).min() > -0.1), name
    overlays = re.findall(r"(?m)^\| `(even:)?(0\.\d)`.* \| `(\w+)` \| (\d+) \| \d+ \| (\d+) \|", text)
    assert len(overlays) == 6
    for even, alpha, name, normal, grey in overlays:
        share = float(alpha) * (VALUES[:, None] ** (not even))
        lab = cie_lab(palette_of(name)[:COLOURS] * share + 128 * (1 - share))
        assert least_differences(lab) == pytest.approx((int(normal), int(grey)), abs=0.6), name


def least_differences(lab):
    pairs = [(i, j) for i in range(COLOURS) for j in range(COLOURS) if VALUES[j] - VALUES[i] >= 0.25]
    first, second = lab[np.array(pairs).T]
    return np.sqrt(((first - second) ** 2).sum(axis=1)).min(), np.abs(first - second)[:, 0].min()


def boxes(labels=(), classes=None):
    count = len(labels) or len(classes)
    return Boxes(np.tile([0, 0, 9, 9], (count, 1)), labels=labels, classes=classes)


def test_the_colour_of_a_box_depends_on_its_class_number_only():
    colours = box_colours(boxes(["person", "bus", "person", "tie"], [0, 5, 0, 27]))
    assert colours == [BOX_COLOURS[0], BOX_COLOURS[5], BOX_COLOURS[0], BOX_COLOURS[3]]
    assert box_colours(boxes(["tie"], [27])) == colours[3:]  # another picture, without the other classes
    assert box_colours(boxes(["kravatte", "x"], [27, 1]))[0] == colours[3]  # another model's name for it
    assert box_colours(boxes(classes=range(16))) == BOX_COLOURS * 2
    assert len(set(BOX_COLOURS)) == 8


def test_numbers_stay_with_their_boxes():
    some = boxes(["person", "bus", "tie"], [0, 5, 27])
    colours = box_colours(some)
    assert box_colours(some.take([2, 0])) == [colours[2], colours[0]]
    assert box_colours(some.mapped((0, 0, 10, 10), (40, 40))) == colours


def test_without_numbers_a_name_has_one_colour_in_every_process():
    names = ["person", "bus", "tie", "图", "cat", "cup"]
    together = box_colours(boxes(names))
    assert [box_colours(boxes([name]))[0] for name in names] == together and len(set(together)) > 1
    code = (
        "from yolov5_featviz.arrays.boxes import Boxes\nfrom yolov5_featviz.draw.palette import box_colours\n"
        f"print(box_colours(Boxes([[0, 0, 9, 9]] * {len(names)}, labels={names!a})))"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(together)
    unknown = Boxes([[0, 0, 9, 9]] * 2)
    assert box_colours(unknown) == [BOX_COLOURS[0]] * 2


def overlay(cmap, alpha, blend, centre=0.0):
    """Every value of the map over every grey: the overlay and the image ``[248, 256, 3]``."""
    heat = np.tile(np.arange(COLOURS, dtype=np.uint8)[:, None], (1, 256))
    image = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (COLOURS, 1, 3))
    return blended(heat, palette_of(cmap), image, alpha, blend, centre), image


@pytest.mark.parametrize("cmap", [OVER, "jet"])
@pytest.mark.parametrize("blend", ["mix", "add"])
@pytest.mark.parametrize("alpha", [0, 0.4, 0.8, 1])
def test_opacity_follows_the_value(cmap, blend, alpha):
    mixed, image = overlay(cmap, alpha, blend)
    np.testing.assert_array_equal(mixed[0], image[0])
    share = alpha * VALUES[:, None, None]
    heat = palette_of(cmap)[:COLOURS, None].astype(float)
    expected = share * heat + image * (1.0 if blend == "add" else 1 - share)
    assert mixed.dtype == np.uint8 and np.abs(mixed - expected.clip(0, 255)).max() <= 1


@pytest.mark.parametrize("alpha", [0, 0.4, 1])
def test_even_opacity_is_constant(alpha):
    mixed, image = overlay(OVER, alpha, "even")
    heat = palette_of(OVER)[:COLOURS, None].astype(float)
    assert np.abs(mixed - (alpha * heat + (1 - alpha) * image)).max() <= 1


@pytest.mark.parametrize("blend", ["mix", "add"])
def test_a_signed_map_is_transparent_at_its_centre(blend):
    """248 colours have no middle one: the two beside it leave the image as it is."""
    mixed, image = overlay("RdBu_r", 0.8, blend, 0.5)
    np.testing.assert_array_equal(mixed[123:125], image[123:125])
    share = 0.8 * np.abs(2 * VALUES - 1)[:, None, None]
    heat = palette_of("RdBu_r")[:COLOURS, None].astype(float)
    expected = share * heat + image * (1.0 if blend == "add" else 1 - share)
    assert np.abs(mixed - expected.clip(0, 255)).max() <= 2  # a step of the opacity is 0.8 / 123


@pytest.mark.parametrize("blend", ["mix", "even"])
def test_nan_is_grey_of_full_opacity(blend):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    mixed = blended(np.full((5, 7), NAN, np.uint8), palette_of(OVER), image, 0.8, blend)
    grey = palette_of("viridis")[NAN].astype(float)
    assert len(set(grey)) == 1 and 0 < grey[0] < 255
    assert np.abs(mixed - (0.8 * grey + 0.2 * image)).max() <= 1


@pytest.mark.parametrize("cmap", [OVER, "jet"])
@pytest.mark.parametrize("blend", ["mix", "even", "add"])
@pytest.mark.parametrize("centre", [0.0, 0.5])
def test_the_key_shows_the_colours_as_over_mid_grey(cmap, blend, centre):
    palette = over_grey(cmap, 0.8, blend, centre)
    mixed, _ = overlay(cmap, 0.8, blend, centre)
    assert np.abs(palette[:COLOURS].astype(int) - mixed[:, 128]).max() <= 1
    np.testing.assert_array_equal(palette[COLOURS:], palette_of(cmap)[COLOURS:])
