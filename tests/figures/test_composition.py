"""Panels to figures: sizes, places, letters, scales, and files that come out the same."""

import base64
import io
import os
import re
import struct
import subprocess
import sys
import zlib

import matplotlib
import matplotlib.style
import numpy as np
import pytest
from helpers import ROOT
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox
from PIL import Image, ImageFont

import yolov5_featviz as fv
from yolov5_featviz.draw.widths import WIDTHS
from yolov5_featviz.figures.composition import compose
from yolov5_featviz.figures.layout import Bar, Panel, Place, Zoom, lay_out, named_channels, number_places
from yolov5_featviz.figures.style import LINES, Style, check_letters, font_file_of, wrap

INCHES = {
    "ieee-column": 3.5,
    "ieee-page": 7.16,
    "cvpr-column": 3.25,
    "cvpr-page": 6.875,
    "lncs": 4.8,
    "neurips": 5.5,
    "elsevier-column": 3.543,
    "elsevier-page": 7.480,
    "nature-single": 3.504,
    "nature-double": 7.205,
}


def noise(size, window=None, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def plain(colour=(9, 99, 199), width=40, height=30, **more):
    """A panel of one colour, of an image of this size."""
    return Panel(lambda size, window: np.full((*size, 3), colour, np.uint8), (0.0, 0.0, width, height), **more)


def texts(composition):
    """Every text of the figure as an SVG reader finds it."""
    return re.findall(r"<text[^>]*>([^<]+)</text>", composition.encode("svg").decode())


def example(style=None):
    """One of everything."""
    boxes = fv.Boxes([[4, 4, 20, 25], [6, 5, 30, 28]], [0.9, 0.8], ["cat", "dog"])
    bar = Bar("jet", "0", "1.5", "channel mean")
    row = [plain(boxes=boxes), plain(bar=bar, zoom=Zoom((2, 2, 10, 10))), Panel(noise, (0.0, 0.0, 40.0, 30.0), bar=bar)]
    style = style or Style(letters="panels", dpi=100)
    return compose([row, row], ["One", "Two $x^2$", "Three"], ["a", "b"], style, "title", {"shows": "figure"})


@pytest.mark.parametrize("name", sorted(INCHES))
def test_named_widths(name):
    assert set(INCHES) == set(WIDTHS)
    for dpi in (100, 300):
        style = Style(width=WIDTHS[name], dpi=dpi)
        assert abs(compose([[plain()]], style=style).to_rgb().shape[1] - INCHES[name] * dpi) <= 1
    svg = compose([[plain()]], style=style).encode("svg").decode()
    pdf = compose([[plain()]], style=style).encode("pdf")
    assert abs(float(re.search(r'<svg[^>]*width="([\d.]+)pt"', svg)[1]) - INCHES[name] * 72) < 0.3
    assert abs(float(re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", pdf)[1]) - INCHES[name] * 72) < 0.3


def test_pixels_of_a_panel_reach_every_format_as_they_were_painted():
    painted = {}

    def paint(size, window):
        return painted.setdefault(size, noise(size))

    figure = compose([[Panel(paint, (0.0, 0.0, 40.0, 30.0))]], style=Style(width=2, dpi=100))
    ((size, pixels),) = painted.items()
    assert size == (150, 200)
    np.testing.assert_array_equal(figure.to_rgb(), pixels)
    for format in ("png", "tif"):
        np.testing.assert_array_equal(Image.open(io.BytesIO(figure.encode(format))).convert("RGB"), pixels)
    (inside,) = re.findall(r'xlink:href="data:image/png;base64,\s*([^"]+)"', figure.encode("svg").decode())
    np.testing.assert_array_equal(Image.open(io.BytesIO(base64.b64decode(inside))).convert("RGB"), pixels)
    pdf = figure.encode("pdf")
    assert sorted(re.findall(rb"/(Height|Width) (\d+)", pdf)) == [(b"Height", b"150"), (b"Width", b"200")]
    streams = [zlib.decompress(body) for body in re.findall(rb"stream\r?\n(x.*?)\r?\nendstream", pdf, re.S)]
    (lines,) = [np.frombuffer(body, np.uint8).reshape(150, 601) for body in streams if len(body) == 150 * 601]
    page = next(body for body in streams if b"/I1 Do" in body)
    upside_down = bool(re.search(rb"144 0 0 -108 0 108 cm", page))
    assert upside_down or re.search(rb"144 0 0 108 0 0 cm", page)  # two inches by one and a half, in points
    stored = np.asarray(Image.open(io.BytesIO(chunks(lines))))
    np.testing.assert_array_equal(stored[::-1] if upside_down else stored, pixels)


def chunks(lines):
    """The filtered lines of an RGB picture, as a PDF holds them, as a PNG file."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", (lines.shape[1] - 1) // 3, len(lines), 8, 2, 0, 0, 0)
    body = zlib.compress(lines.tobytes())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_columns_are_of_one_width_with_the_gap_between_them():
    red, blue = plain((255, 0, 0)), plain((0, 0, 255))
    pixels = compose([[red, blue], [blue, red]], style=Style(width=2, dpi=100, gap=7.2)).to_rgb()
    side = (200 - 10) // 2
    high = round(side * 3 / 4)
    assert pixels.shape[:2] == (2 * high + 10, 200)
    for y, x, colour in ((0, 0, (255, 0, 0)), (0, side + 10, (0, 0, 255)), (high + 10, 0, (0, 0, 255))):
        assert (pixels[y : y + high, x : x + side] == colour).all()
    assert (pixels[:, side : side + 10] == 255).all() and (pixels[high : high + 10] == 255).all()


def test_rows_are_of_one_height_where_columns_differ_in_shape():
    upright, flat = plain((255, 0, 0), 30, 60), plain((0, 0, 255), 60, 30)
    pixels = compose([[upright, flat]], style=Style(width=3, dpi=100, gap=0)).to_rgb()
    assert (pixels[:, :60] == (255, 0, 0)).all() and (pixels[:, 60:300] == (0, 0, 255)).all()
    assert pixels.shape[:2] == (120, 300)


def test_an_empty_place_stays_white_and_an_odd_panel_stands_in_its_middle():
    odd = plain((255, 0, 0), 10, 40)
    pixels = compose([[plain(), None], [plain(), odd], [odd, plain()]], style=Style(width=2, dpi=100, gap=0)).to_rgb()
    assert pixels.shape[:2] == (75 + 400 + 400, 200)
    assert (pixels[:75, 100:] == 255).all()
    assert (pixels[75:475, 100:] == (255, 0, 0)).all() and (pixels[475:, :100] == (255, 0, 0)).all()
    ys, xs = np.nonzero((pixels[475:] == (9, 99, 199)).all(axis=2))
    assert (xs.min(), xs.max()) == (100, 199) and abs((ys.min() + ys.max()) / 2 - 199.5) <= 1 and np.ptp(ys) == 74
    with pytest.raises(fv.FeatvizError, match="at least one row and one column"):
        compose([[None]])


@pytest.mark.parametrize(
    "letters, how, expected",
    [
        ("panels", "(a)", ["(a)", "(b)", "(c)", "(d)"]),
        ("panels", "A", ["A", "B", "C", "D"]),
        ("columns", "a)", ["a) One", "b) Two"]),
        ("rows", "(a)", ["(a) x", "(b) y"]),
        ("none", "(a)", []),
    ],
)
def test_letters(letters, how, expected):
    style = Style(letters=letters, letter=how)
    found = texts(compose([[plain(), plain()]] * 2, ["One", "Two"], ["x", "y"], style))
    titles = {
        "panels": ["One", "Two", "x", "y"],
        "columns": ["x", "y"],
        "rows": ["One", "Two"],
        "none": ["One", "Two", "x", "y"],
    }
    assert sorted(found) == sorted(titles[letters] + expected)


def test_letters_go_on_after_z():
    found = texts(compose([[plain()] * 4] * 7, style=Style(width=8, dpi=72, letters="panels", letter="a")))
    assert found[-3:] == ["z", "aa", "ab"]


def test_titles_wrap_within_their_column():
    room, style = 60.0, Style(font_size=8)
    letters = ImageFont.truetype(font_file_of("sans"), 80)  # tenths of a point
    words = "several words that need more than one line"
    lines = wrap(words, room, style).split("\n")
    assert " ".join(lines) == words and len(lines) > 2
    for line, following in zip(lines, [*lines[1:], ""]):
        assert letters.getlength(line) / 10 <= room * 1.02
        if following:
            assert letters.getlength(f"{line} {following.split()[0]}") / 10 > room * 0.98
    broken = wrap("averyverylongwordindeed", room, style).split("\n")
    assert "".join(broken) == "averyverylongwordindeed" and len(broken) > 1
    long = wrap("word " * 60, room, style).split("\n")
    assert len(long) == LINES and long[-1].endswith("…")


def test_titles_take_room_from_the_panels_and_are_not_cut():
    style = Style(width=2, dpi=100)
    without = compose([[plain()]], style=style).to_rgb()
    with_row = compose([[plain()]], ["Column"], ["A row with a title that is long"], style).to_rgb()
    blue = (with_row == (9, 99, 199)).all(axis=2)
    left, top = np.nonzero(blue.any(axis=0))[0][0], np.nonzero(blue.any(axis=1))[0][0]
    assert without.shape[1] == with_row.shape[1] == 200 and left > 10 and top > 10
    assert (with_row[:, :left] < 128).any() and (with_row[:top] < 128).any()
    for edge in (with_row[0], with_row[:, 0]):
        assert (edge > 200).all()  # no letter touches it
    below = compose([[plain()]], ["Column"], (), Style(width=2, dpi=100, titles="bottom")).to_rgb()
    assert (below[0] == (9, 99, 199)).all() and (below[155:-1] < 128).any()


def test_row_titles_too_long_for_a_narrow_figure_do_not_push_panels_out():
    flat = plain(width=160, height=40)
    pixels = compose([[flat] * 3], (), ["word " * 40], Style(width=2, dpi=100)).to_rgb()
    xs = np.nonzero((pixels == (9, 99, 199)).all(axis=2).any(axis=0))[0]
    assert xs[-1] < 200 and xs[0] < 80


def test_a_shared_scale_stands_once_below_all_of_its_panels():
    bar = Bar("viridis", "0", "2.5", "mean")
    style = Style(width=3, dpi=100, gap=7.2)
    figure = compose([[plain(), plain(bar=bar), plain(bar=bar)]] * 2, style=style)
    assert sorted(texts(figure)) == ["0", "2.5", "mean"]
    pixels, side = figure.to_rgb(), (300 - 20) // 3
    high = round(side * 3 / 4)
    line = pixels[2 * high + 10 + 3 + 2].astype(int)  # two points below the last row, and into the scale
    colours = (matplotlib.colormaps["viridis"](np.linspace(0, 1, 256))[:, :3] * 255).round()
    left, right = side + 10, 3 * side + 20
    at = np.rint(np.linspace(0, 255, right - left)).astype(int)
    assert np.abs(line[left + 2 : right - 2] - colours[at][2:-2]).max() <= 4
    assert (line[: left - 2] == 255).all()


def test_different_scales_stand_each_below_its_own_column():
    figure = compose(
        [[plain(bar=Bar("jet", "0", "1")), plain(bar=Bar("jet", "0", "2"))]], style=Style(width=2, dpi=100)
    )
    assert texts(figure) == ["0", "1", "0", "2"]


def test_what_a_scale_measures_is_told_however_narrow():
    words = "strongest channel, each on its own"
    figure = compose([[plain(bar=Bar("jet", "min", "max", words)), plain()]], style=Style(width=1.5, dpi=100))
    assert " ".join(word for word in texts(figure) if word not in ("min", "max")) == words


def test_ends_of_a_narrow_scale_do_not_run_into_each_other():
    """Beside each other where they fit, else one below the other; letters have 6 points or more at any size."""
    bar = Bar("jet", "min −0.278", "max 12.345", "channel mean")
    for width, font_size, rows in ((2.5, 8, 1), (1.5, 8, 2), (1, 8, 3), (2, 6, 1)):
        svg = compose([[plain(bar=bar)]], style=Style(width=width, font_size=font_size)).encode("svg").decode()
        found = re.findall(r'([\d.]+)px.*? y="([\d.]+)"[^>]*>([^<]+)</text>', svg)
        assert {words for _, _, words in found} == {"min −0.278", "max 12.345", "channel mean"}
        assert len({y for _, y, _ in found}) == rows, (width, font_size)
        assert {float(size) for size, _, _ in found} == {max(6, font_size - 1)}


def test_a_scale_without_ends_is_only_words():
    figure = compose([[plain(bar=Bar("jet", "", "", "all values ≤ 0"))]], style=Style(width=2, dpi=100))
    assert texts(figure) == ["all values ≤ 0"]
    below = figure.to_rgb()[150:].astype(int)
    assert np.ptp(below, axis=2).max() == 0 and below.min() < 100  # letters, no colours


def test_numbers_of_tiles_without_room_are_listed_below_for_the_panels_that_lack_them():
    bar = Bar("jet", "min", "max", "of each channel")
    large = plain(bar=bar, numbers=[7, 70, 8, 9])
    small = Panel(noise, (0.0, 0.0, 40.0, 4.0), bar=bar, numbers=[1, 2, 3, 30])
    figure = compose([[large], [small]], style=Style(width=2))
    assert texts(figure) == ["7", "70", "8", "9", "min", "max", *texts(figure)[6:]]
    assert " ".join(texts(figure)[6:]) == "of each channel; tiles without numbers, row by row: 1–3, 30"
    places = number_places(large, Place(0, 0, 600, 450), Style(width=2))
    assert [(x, y) for x, y, _, _ in places] == [(0, 0), (302, 0), (0, 227), (302, 227)]
    lettered = number_places(large, Place(0, 0, 600, 450), Style(width=2, letters="panels"))
    assert lettered[1:] == places[1:] and lettered[0].y > 40  # below the letter


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ([5], "channel 5"),
        ([9, 3, 4], "channels 9, 3, 4"),
        (range(7), "channels 0, 1, 2, 3, 4, 5, 6"),
        ([*range(9, 1, -1)], "channels 9, 8, 7, 6, 5, 4 and 2 more"),
        (range(64), "channels 0, 1, 2, 3, 4, 5 and 58 more"),
    ],
)
def test_a_list_of_channels_has_six_of_them(channels, expected):
    assert named_channels(channels) == expected


@pytest.mark.parametrize("style", [Style(), Style(width=1.2, font_size=6), Style(gap=0, font="serif", titles="bottom")])
def test_words_below_a_panel_lie_between_it_and_the_next(style):
    """Within its column, in 6 points or more, above the bar and apart from all other words."""
    bar = Bar("jet", "0", "1.5", "mean of 16 channels")
    named = {"bar": bar, "channels": named_channels(range(110, 126)), "note": "by std"}
    wide = {"bar": bar, "channels": "channel 110"}
    panels = [[plain(**named), plain(**wide)], [plain(**wide), plain(width=20, **named)]]
    figure = compose(panels, ["One", "Two"], ["a", "b"], style)
    found = " ".join(texts(figure))
    assert found.count("by std: channels 110, 111, 112, 113, 114, 115 and 10 more") == found.count("channel 110") == 2
    sizes = [float(size) for size in re.findall(r"([\d.]+)px", figure.encode("svg").decode())]
    assert min(sizes) >= 6
    canvas = FigureCanvasAgg(figure.figure)
    renderer = canvas.get_renderer()
    drawn = [text for axes in figure.figure.axes for text in axes.texts] + figure.figure.texts
    areas = [text.get_window_extent(renderer) for text in drawn]
    layout = lay_out(panels, ["One", "Two"], ["a", "b"], style)
    high = figure.figure.bbox.height
    for place in (place for row in layout.panels for place in row):  # pictures, from above
        areas.append(Bbox([[place.x, high - place.y - place.height], [place.x + place.width, high - place.y]]))
    for i, one in enumerate(areas):
        assert one.x0 >= -1 and one.x1 <= figure.figure.bbox.width + 1 and one.y0 >= -1 and one.y1 <= high + 1
        for other in areas[:i]:
            shared = Bbox.intersection(one, other)
            assert shared is None or min(shared.width, shared.height) <= 0.06 * style.dpi / 72 * style.small
    for place in layout.panels[0]:
        bottom, middle = high - place.y - place.height, place.x + place.width / 2
        below = [area for area in areas[: len(drawn)] if area.y1 <= bottom and area.x0 < middle < area.x1]
        first = max(below, key=lambda area: area.y1)
        assert place.x <= first.x0 and first.x1 <= place.x + place.width
        assert bottom - first.y1 < style.small * style.dpi / 72


def test_an_enlarged_detail_shows_that_part_and_is_framed_where_it_comes_from():
    def paint(size, window):
        """Green where the image's x is below 20, else blue."""
        x = np.linspace(window[0], window[2], size[1], endpoint=False) + (window[2] - window[0]) / size[1] / 2
        row = np.where((x < 20)[:, None], (0, 255, 0), (0, 0, 255)).astype(np.uint8)
        return np.broadcast_to(row, (*size, 3)).copy()

    zoom = Zoom((0, 0, 10, 10), "lower right", 0.4)
    panel = Panel(paint, (0.0, 0.0, 40.0, 40.0), zoom=zoom)
    pixels = compose([[panel]], style=Style(width=2, dpi=100)).to_rgb()
    assert tuple(pixels[160, 160]) == (0, 255, 0) and tuple(pixels[110, 160]) == (0, 0, 255)  # inside it, and above
    assert tuple(pixels[30, 30]) == (0, 255, 0) and pixels[25, 50].min() > 200  # the frame's right edge, in white
    own = compose([[Panel(paint, (0.0, 0.0, 40.0, 40.0), zoom=Zoom((28, 28, 38, 38)))]], style=Style(width=2, dpi=100))
    assert tuple(own.to_rgb()[40, 40]) == (0, 0, 255)  # it went to the corner farthest from what it shows


def test_boxes_lie_where_they_belong_in_a_cropped_panel():
    boxes = fv.Boxes([[20, 20, 30, 30]], [0.9], ["cat"])
    style = Style(width=2, dpi=100)
    white = Panel(lambda size, window: np.full((*size, 3), 255, np.uint8), (10.0, 10.0, 50.0, 50.0), boxes, named=False)
    dark = (compose([[white]], style=style).to_rgb() < 200).any(axis=2)
    ys, xs = np.nonzero(dark)
    for found, expected in ((xs, (50, 100)), (ys, (50, 100))):  # (20 - 10) * 200 / 40, and so on
        assert abs(found.min() - expected[0]) <= 2 and abs(found.max() - expected[1]) <= 2
    away = Panel(white.paint, (40.0, 40.0, 50.0, 50.0), boxes)
    assert texts(compose([[away]], style=style)) == []
    assert texts(compose([[Panel(white.paint, white.window, boxes)]], style=style)) == ["cat 0.90"]


def twin_boxes(n=3, name="cat"):
    """Boxes that have no place for a name: each touches all edges of the others."""
    return fv.Boxes([[10, 10, 30, 25]] * n, [0.9 - i / 100 for i in range(n)], [name] * n)


def test_boxes_without_room_for_names_get_numbers_listed_below():
    style = Style(width=3, dpi=100)
    boxes = twin_boxes()
    figure = compose([[plain(boxes=boxes), plain(boxes=boxes)], [plain(boxes=boxes), plain()]], style=style)
    found = texts(figure)
    assert found[-1] == "1: cat 0.90 · 2: cat 0.89 · 3: cat 0.88"
    assert sorted(found[:-1]) == ["1"] * 3 + ["2"] * 3 + ["3"] * 3  # a box keeps its number in other panels
    other = fv.Boxes([[1, 1, 9, 9]] * 2, [0.7, 0.6], ["$dog$"] * 2)
    found = texts(compose([[plain(boxes=boxes), plain(boxes=other)]], style=style))
    assert found[-2:] == ["1: cat 0.90 · 2: cat 0.89 · 3: cat 0.88 · 4: $dog$ 0.70", "5: $dog$ 0.60"]
    assert texts(compose([[plain(boxes=boxes, named=False)]], style=style)) == []


def test_boxes_without_room_for_numbers_are_counted():
    figure = compose([[plain(boxes=twin_boxes(40))]], style=Style(width=1, dpi=100))
    svg = figure.encode("svg").decode()
    found = texts(figure)
    numbers = [int(words) for words in found if words.isdigit()]
    assert sorted(numbers) == list(range(1, len(numbers) + 1)) and 3 < len(numbers) < 40
    assert " ".join(found).endswith(f"{40 - len(numbers)} boxes without a name")
    assert len(re.findall("patch_", svg)) >= 80


def test_a_list_of_numbers_extends_the_figure_and_leaves_panels_as_they_are():
    style = Style(width=2, dpi=100, letters="panels")
    names = twin_boxes(9, "a name of several words")
    panels = [[Panel(noise, (0.0, 0.0, 40.0, 30.0))], [plain(boxes=names)]]
    hidden = [[panels[0][0]], [plain(boxes=names, named=False)]]
    figure = compose(panels, ["Column"], ["Row", "Other"], style)
    long, short = figure.to_rgb(), compose(hidden, ["Column"], ["Row", "Other"], style).to_rgb()
    half = 15 + len(short) // 2 - 10  # the first row, with its titles
    np.testing.assert_array_equal(long[:half], short[:half])
    below = long[len(short) :]
    inked = (below < 128).any(axis=2)
    lines = [words for words in texts(figure) if "several" in words or "without" in words]
    assert len(lines) > 2 and abs(len(below) - len(lines) * 1.25 * 6.5 / 0.72) <= 4
    assert inked.any() and not inked[:, -1].any() and not inked[-1].any()
    for format in ("svg", "pdf"):
        content = figure.encode(format)
        found = re.search(rb'<svg[^>]*height="([\d.]+)pt"|/MediaBox \[ ?0 0 [\d.]+ ([\d.]+)', content)
        assert abs(float(found[1] or found[2]) - len(long) * 0.72) < 0.1
    assert {text.get_fontsize() for text in figure.figure.texts if "several" in text.get_text()} == {6.5}


@pytest.mark.parametrize("size", [6.0, 6.5, 8.0, 14.0])
def test_letters_at_boxes_are_not_smaller_than_six_points(size):
    apart = fv.Boxes([[2, 9, 12, 25], [25, 9, 35, 25]], [0.5, 0.6], ["person", "person"])
    for boxes in (twin_boxes(), apart):
        found = sizes_of(compose([[plain(boxes=boxes)]], style=Style(width=1.5, dpi=100, font_size=size)))
        assert found and min(found) >= 6 and max(found) <= max(size - 1, 6)


@pytest.mark.parametrize("name", ["cat", "aeroplane", "fire hydrant", "traffic light"])
def test_a_name_is_as_large_as_fits(name):
    boxes = fv.Boxes([[10, 15, 30, 25]], [0.5], [name])
    (found,) = sizes_of(compose([[plain(boxes=boxes)]], style=Style(width=1, dpi=300, font_size=11)))
    length = ImageFont.truetype(font_file_of("sans"), 1000).getlength(f"{name} 0.50") / 1000
    assert found == next(points for points in (10, 9, 8, 7, 6) if length * points + 1.6 <= 72)


def sizes_of(composition):
    """Font sizes of all texts in points."""
    svg = composition.encode("svg").decode()
    return {float(found) for found in re.findall(r"<text[^>]*?([\d.]+)px", svg)}


@pytest.mark.parametrize("format", ["png", "jpg", "tif", "pdf", "svg"])
def test_the_same_figure_is_the_same_bytes(format):
    first = example()
    assert first.encode(format) == first.encode(format) == example().encode(format)


def test_nothing_that_a_user_set_changes_a_figure():
    before = {format: example().encode(format) for format in ("png", "pdf", "svg")}
    other = {
        "pdf.fonttype": 3, "svg.fonttype": "path", "svg.hashsalt": "x", "savefig.bbox": "tight", "savefig.dpi": 50,
        "figure.dpi": 33, "figure.facecolor": "red", "savefig.transparent": True, "text.color": "green",
        "font.family": "serif", "font.size": 30, "font.weight": "bold", "axes.facecolor": "pink", "lines.linewidth": 9,
        "patch.linewidth": 9, "image.interpolation": "bicubic", "image.cmap": "gray", "image.origin": "lower",
        "figure.autolayout": True, "text.hinting": "none", "mathtext.fontset": "cm", "pdf.compression": 0,
        "axes.xmargin": 0.3, "axes.grid": True, "path.sketch": (1, 100, 2),
    }  # fmt: skip
    with matplotlib.rc_context():
        matplotlib.style.use("dark_background")
        matplotlib.rcParams.update(other)
        for format, content in before.items():
            assert example().encode(format) == content, format
        assert matplotlib.rcParams["pdf.fonttype"] == 3 and matplotlib.rcParams["text.color"] == "green"


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(tmp_path):
    code = (
        "import sys; sys.path[:0] = ['tests/support', 'tests/figures']; from test_composition import example\n"
        f"for f in ('png', 'tif', 'pdf', 'svg'): example().save(r'{tmp_path}/fig.' + f)"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=env)
    for format in ("png", "tif", "pdf", "svg"):
        assert (tmp_path / f"fig.{format}").read_bytes() == example().encode(format), format


@pytest.mark.parametrize("name", ["sans", "serif"])
def test_fonts_are_embedded_as_truetype_and_text_stays_text(name):
    figure = example(Style(font=name, letters="panels", dpi=100))
    pdf = figure.encode("pdf")
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf and b"/Type1" not in pdf
    family = {b"sans": b"DejaVuSans", b"serif": b"STIXGeneral"}[name.encode()]
    assert family in pdf
    svg = figure.encode("svg").decode()
    assert ">One</text>" in svg and ">1: cat 0.90 · 2: dog 0.80</text>" in svg and f"'{family.decode()[:6]}" in svg
    long = re.search(r'textLength="([\d.]+)"[^>]*>Three</text>', svg)
    expected = ImageFont.truetype(font_file_of(name), 800).getlength("Three") / 100
    assert abs(float(long[1]) - expected) < 0.05 * expected


def test_what_is_not_understood_is_told():
    for options, words in (
        ({"width": 0.5}, "width 0.5 is out of range"),
        ({"dpi": 5}, "dpi 5 is out of range: take 72 to 2400"),
        ({"letters": "rowss"}, "no letters for 'rowss'"),
        ({"letter": "("}, "write how the first one looks"),
        ({"titles": "left"}, "no titles 'left': take top or bottom"),
        ({"font": "DejaVu Snas"}, "no font 'DejaVu Snas': did you mean DejaVu Sans?"),
        ({"font": "qqqqqq"}, "no font 'qqqqqq': take sans, serif, or one that is installed here"),
    ):
        with pytest.raises(fv.FeatvizError, match=re.escape(words)):
            Style(**options)
    with pytest.raises(fv.FeatvizError, match=r"the font sans has no .*, which .* needs: install"):
        check_letters("\U0010fffd 17", Style())
    with pytest.raises(fv.FeatvizError, match="40 columns do not fit in 1 inches: take a larger width"):
        compose([[plain()] * 40], style=Style(width=1))


def test_a_figure_is_saved_whole_in_the_format_that_its_name_says(tmp_path):
    figure = example()
    for ending, start in (
        ("png", b"\x89PNG"),
        ("pdf", b"%PDF"),
        ("svg", b"<?xml"),
        ("tif", b"II*"),
        ("jpg", b"\xff\xd8"),
    ):
        figure.save(tmp_path / f"a.{ending}")
        assert (tmp_path / f"a.{ending}").read_bytes().startswith(start)
    with Image.open(tmp_path / "a.png") as png, Image.open(tmp_path / "a.tif") as tif:
        assert [round(x) for x in png.info["dpi"]] == [round(x) for x in tif.info["dpi"]] == [100, 100]
    with pytest.raises(fv.FeatvizError, match="has an unsupported extension"):
        figure.save(tmp_path / "a.bmp")
    assert figure._repr_png_() == (tmp_path / "a.png").read_bytes()
