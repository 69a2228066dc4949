import io
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from helpers import feature_map, independent_hooks
from matplotlib.font_manager import get_font
from PIL import Image

import yolov5_featviz as fv
from yolov5_featviz.draw.lettering import font_file, letters
from yolov5_featviz.draw.palette import COLOURS, NAN, PAPER


def decode(png, cells):
    """Values in [0, 1] of each cell, from the colours of the file alone: viridis looked up backwards."""
    image = Image.open(io.BytesIO(png))
    rgb = np.asarray(image.convert("RGB")).astype(int)
    table = matplotlib.colormaps["viridis"](np.arange(256))[:, :3] * 255
    colours = np.stack([np.interp(np.linspace(0, 255, 2048), np.arange(256), c) for c in table.T], axis=1)
    decoded = {}
    for channel, (x, y, w, h) in cells.items():
        cell = rgb[y : y + h, x : x + w].reshape(-1, 3)
        seen, back = np.unique(cell, axis=0, return_inverse=True)
        nearest = np.abs(seen[:, None] - colours[None]).sum(-1).argmin(1)
        decoded[channel] = (nearest[back.reshape(-1)] / 2047).reshape(h, w)
    return decoded


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["channel", "layer"])
def test_the_picture_holds_the_activations(model, bus, norm):
    activation = independent_hooks(model, [17], bus)[17][0]
    with fv.capture(model, "17") as features, torch.no_grad():
        model(bus)
    picture = features[17].grid(channels="64", norm=norm)
    assert sorted(picture.cells) == list(range(64))
    limits = None if norm == "channel" else (activation.min(), activation.max())
    for channel, values in decode(picture.to_png(), picture.cells).items():
        a = activation[channel]
        low, high = limits or (a.min(), a.max())
        scale = values.shape[0] // 80
        assert values.shape == (80 * scale, 60 * scale)
        expected = np.kron((a - low) / (high - low), np.ones((scale, scale)))
        assert np.abs(values - expected).max() < 0.005  # half a level, and the rounding of 8-bit colours


def test_file(model, bus, tmp_path):
    with fv.capture(model, "17") as features, torch.no_grad():
        model(bus)
    features[17].grid().save(tmp_path / "new" / "17.png")
    with Image.open(tmp_path / "new" / "17.png") as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
        assert image.width >= 1400 and image.mode == "P"
        assert image.info["Title"] == "Layer 17 · C3 · 64 channels · H×W 80×60 · stride 8"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["17.png"]
    features[17].grid().save(tmp_path / "17.png", dpi=600)
    assert Image.open(tmp_path / "17.png").info["dpi"] == pytest.approx((600, 600), abs=0.02)
    for name in ("17.bmp", "17", "png"):
        with pytest.raises(fv.FeatvizError, match="use one of png, pdf, svg, jpg, tif"):
            features[17].grid().save(tmp_path / name)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 100, 300])
@pytest.mark.parametrize("size", [(80, 60), (1, 1), (1, 40), (40, 1), (12, 20)])
def test_every_cell_is_whole_and_apart(count, size):
    data = torch.arange(count * size[0] * size[1], dtype=torch.float32).reshape(count, *size)
    picture = feature_map(data).grid(channels="all")
    assert picture.pixels.shape[1] >= 1400
    taken = np.zeros(picture.pixels.shape, int)
    for channel, (x, y, w, h) in picture.cells.items():
        assert w % size[1] == 0 and h % size[0] == 0 and w // size[1] == h // size[0]
        taken[y : y + h, x : x + w] += 1
        cell = picture.pixels[y : y + h, x : x + w]
        top = COLOURS - 1 if size != (1, 1) else 0
        assert cell.max() == top and cell.min() == 0, channel
    assert taken.max() == 1
    assert len(picture.cells) == count
    # outside the cells and the legend in the head, there is only paper and ink
    first = min(y for _, y, _, _ in picture.cells.values())
    rest = picture.pixels[first:][taken[first:] == 0]
    assert rest.min() >= PAPER


def test_nan_infinite_and_constant_maps():
    data = torch.zeros(4, 4, 4)
    data[0, 0, 0] = float("nan")
    data[0, 3, 3] = 2
    data[1, 0, 0], data[1, 3, 3], data[1, 1, 1] = float("inf"), float("-inf"), 7
    data[2] = 0.25
    data[3] = float("nan")
    picture = feature_map(data).grid()

    def cell(channel):
        x, y, w, h = picture.cells[channel]
        return picture.pixels[y : y + h, x : x + w][:: h // 4, :: w // 4]

    assert cell(0)[0, 0] == NAN and cell(0)[3, 3] == COLOURS - 1 and cell(0)[1, 1] == 0
    assert cell(1)[0, 0] == COLOURS - 1 and cell(1)[3, 3] == 0 and cell(1)[1, 1] == COLOURS - 1
    assert (cell(2) == 0).all() and (cell(3) == NAN).all()


def test_labels_say_which_channel_it_is():
    """The label of a channel is the same picture wherever it stands, and differs between channels."""
    data = torch.rand(40, 6, 6)

    def label(picture, channel):
        x, y, _, _ = picture.cells[channel]
        return picture.pixels[y - 25 : y - 4, x : x + 60]

    both = feature_map(data).grid("7,31"), feature_map(data).grid("31,7")
    for channel in (7, 31):
        np.testing.assert_array_equal(label(both[0], channel), label(both[1], channel))
    assert not np.array_equal(label(both[0], 7), label(both[0], 31))
    assert (label(both[0], 7) > PAPER).any()


def test_title_tells_what_it_is():
    fm = feature_map(torch.rand(100, 10, 20), input_size=(80, 160), image="street.jpg")
    assert fm.grid("16").title == "street.jpg · Layer 17 · C3 · 16 of 100 channels · H×W 10×20 · stride 8"
    assert (
        feature_map(torch.rand(1, 3, 9), input_size=(9, 9)).grid().title
        == "Layer 17 · C3 · 1 channel · H×W 3×9 · stride 3×1"
    )


def test_plain_is_cells_only():
    picture = feature_map(torch.rand(4, 8, 8)).grid(plain=True)
    assert sorted(set(picture.pixels[picture.pixels >= COLOURS])) == [PAPER]
    assert min(y for _, y, _, _ in picture.cells.values()) < 10


def test_same_input_same_bytes():
    data = torch.rand(64, 20, 20)
    assert feature_map(data).grid().to_png() == feature_map(data).grid().to_png()


def test_dpi_scales_lettering_and_picture():
    small, large = (feature_map(torch.rand(4, 8, 8)).grid(dpi=dpi) for dpi in (100, 600))
    assert large.pixels.shape[1] / small.pixels.shape[1] == pytest.approx(6, rel=0.1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cmap": "virids"}, "no colour map 'virids'"),
        ({"dpi": 0}, "dpi 0"),
        ({"dpi": 10**6}, "10 to 2400"),
        ({"norm": "z"}, "no normalisation 'z'"),
        ({"channels": "64-70"}, "channels 0 to 3"),
    ],
)
def test_bad_arguments(options, says):
    with pytest.raises(fv.FeatvizError, match=says):
        feature_map(torch.rand(4, 8, 8)).grid(**options)


def test_empty_map():
    with pytest.raises(fv.FeatvizError, match="empty map"):
        feature_map(torch.rand(4, 0, 8)).grid()


def test_nothing_is_left_open():
    before = dict(matplotlib.rcParams)  # which settles the backend, if nothing has yet
    feature_map(torch.rand(4, 8, 8)).grid()
    assert dict(matplotlib.rcParams) == before
    import sys

    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_letters_that_our_font_lacks_come_from_another():
    """STIX, which is installed wherever matplotlib is, stands for a Chinese font here."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    stix, own = (set(get_font(str(fonts / f"{name}.ttf")).get_charmap()) for name in ("STIXGeneral", "DejaVuSans"))
    letter, nowhere = chr(min(stix - own)), chr(0x10FFFD)
    assert font_file() == font_file("bus é·") == str(fonts / "DejaVuSans.ttf")
    assert ord(letter) in get_font(font_file(letter)).get_charmap() and "LastResort" not in font_file(letter)
    assert font_file(nowhere) == font_file(f"{letter}{nowhere}") == font_file()
    drawn, frame = letters(letter, 10, 300), letters(nowhere, 10, 300)
    assert drawn.shape[0] == frame.shape[0] and not np.array_equal(drawn, frame)
    picture = feature_map(np.random.default_rng(0).normal(size=(1, 8, 8)), image=letter).grid()
    assert b"/FontDescriptor" in picture.encode("pdf") and picture.encode("pdf").count(b"/FontFile2") > 1
