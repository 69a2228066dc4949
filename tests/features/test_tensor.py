"""fv.show and fv.save: any tensor, in one call."""

import sys
import types

import numpy as np
import pytest
import torch
from helpers import feature_map
from PIL import Image

import yolov5_featviz as fv

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)


def cell(picture, number=0):
    """The values that were drawn, one of each square, as RGB."""
    x, y, w, h = picture.cells[number]
    return picture.to_rgb()[y : y + h, x : x + w]


def shrunk(pixels, height):
    step = pixels.shape[0] // height
    np.testing.assert_array_equal(pixels, pixels[::step, ::step].repeat(step, 0).repeat(step, 1))
    return pixels[::step, ::step]


@pytest.mark.parametrize(
    "x",
    [
        PHOTO,
        PHOTO.transpose(2, 0, 1),
        torch.from_numpy(PHOTO).permute(2, 0, 1)[None],
        PHOTO[None],
        np.dstack([PHOTO, PHOTO[..., :1]]),
        torch.from_numpy(PHOTO / 255).permute(2, 0, 1),
        torch.from_numpy(PHOTO / 255).permute(2, 0, 1).requires_grad_(),
        PHOTO / np.float32(255),
        [PHOTO],
    ],
)
def test_photographs(x):
    np.testing.assert_array_equal(shrunk(cell(fv.picture(x)), 20), PHOTO)


def test_values_beyond_0_and_1_are_scaled_together():
    """As an image is after ImageNet's normalisation."""
    x = RNG.normal(size=(3, 20, 30)).astype(np.float32)
    expected = ((x - x.min()) / (x.max() - x.min()) * 255).transpose(1, 2, 0)
    assert np.abs(shrunk(cell(fv.picture(torch.from_numpy(x))), 20) - expected).max() <= 0.51
    assert (cell(fv.picture(np.full((3, 4, 4), 9.0))) == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(20, 30), (1, 20, 30), (20, 30, 1), (1, 1, 20, 30)])
def test_one_channel_is_grey(shape):
    x = RNG.random((20, 30)).astype(np.float32)
    found = shrunk(cell(fv.picture(x.reshape(shape), norm="none")), 20)
    assert np.abs(found - x[..., None] * 255).max() <= 2.1  # 248 greys
    assert len(np.unique(cell(fv.picture(x, cmap="viridis")).reshape(-1, 3), axis=0)) > 90


def test_many_channels_are_the_grid_of_a_feature_map():
    x = torch.randn(70, 8, 6)
    ours, theirs = fv.picture(x, norm="layer"), feature_map(x).grid(norm="layer")
    assert sorted(ours.cells) == list(range(64))
    for number in (0, 63):
        np.testing.assert_array_equal(shrunk(cell(ours, number), 8), shrunk(cell(theirs, number), 8))
    for x_ in (x.permute(1, 2, 0), x.permute(1, 2, 0)[None].numpy()):
        picture = fv.picture(x_, layout="hwc", norm="layer")
        np.testing.assert_array_equal(shrunk(cell(picture, 63), 8), shrunk(cell(ours, 63), 8))
    assert [t.text for t in fv.picture(x, channels="last:2").texts][-2:] == ["68", "69"]


def test_batches():
    photos = RNG.integers(0, 256, (5, 3, 12, 16)).astype(np.uint8)
    picture = fv.picture(torch.from_numpy(photos))
    for i in range(5):
        np.testing.assert_array_equal(shrunk(cell(picture, i), 12), photos[i].transpose(1, 2, 0))
    assert [t.text for t in picture.texts][-5:] == ["0", "1", "2", "3", "4"]
    maps = RNG.random((2, 7, 12, 16)).astype(np.float32)
    picture = fv.picture(maps, channels="5,6", norm="none", cmap="gray")
    assert [t.text for t in picture.texts][-4:] == ["0: 5", "0: 6", "1: 5", "1: 6"]
    assert np.abs(shrunk(cell(picture, 3), 12) - maps[1, 6][..., None] * 255).max() <= 2.1
    assert len(fv.picture(RNG.random((9, 1, 4, 4))).cells) == 9
    for deep in ((512, 3, 3), (70, 1, 1), (70, 7, 4)):
        assert len(fv.picture(np.zeros(deep)).cells) == 64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.float64])
def test_types(dtype):
    x = (torch.rand(9, 5, 5) * 3).to(dtype)
    assert len(fv.picture(x).cells) == 9
    title = fv.picture(x).title
    assert float(title.split(" to ")[1]) == pytest.approx(x.float().max().item(), rel=0.01)


def test_nan_does_not_spoil_it():
    x = np.full((3, 4, 4), np.nan)
    assert fv.picture(x).pixels.size
    assert fv.picture(np.full((5, 4, 4), np.nan)).pixels.size


def test_ours_go_through():
    fm = feature_map(RNG.random((4, 6, 6)))
    assert fv.picture(fm).title == fm.grid().title
    assert fv.picture(fm.heatmap()).title == fm.heatmap().title
    grid = fm.grid()
    assert fv.picture(grid) is grid


def test_save(tmp_path):
    fv.save(torch.rand(3, 20, 30), tmp_path / "a.png", dpi=150)
    with Image.open(tmp_path / "a.png") as file:
        assert file.mode == "RGB" and file.info["dpi"] == pytest.approx((150, 150), abs=0.02)
    fv.save(np.zeros((5, 5)), str(tmp_path / "b.pdf"))
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")


def test_show(monkeypatch):
    shown = []
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    monkeypatch.setattr("PIL.ImageShow.show", lambda image, title=None: shown.append((image.size, title)) or True)
    fv.show(torch.rand(3, 20, 30))
    assert shown[0][0][0] >= 1800 and "[3, 20, 30] float32" in shown[0][1]
    monkeypatch.setattr("PIL.ImageShow.show", lambda image, title=None: False)
    with pytest.raises(fv.FeatvizError, match="write a file with"):
        fv.show(torch.rand(3, 20, 30))
    notebook = types.SimpleNamespace(
        get_ipython=lambda: types.SimpleNamespace(kernel=1), display=types.SimpleNamespace(display=shown.append)
    )
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    fv.show(torch.rand(7, 5, 5))
    assert isinstance(shown[-1], fv.Picture) and len(shown[-1].cells) == 7


def test_notebooks_get_png():
    fm = feature_map(RNG.random((4, 6, 6)))
    for thing in (fm, fm.grid(), fm.heatmap()):
        assert thing._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("x", "options", "says"),
    [
        (np.zeros(4), {}, r"cannot draw ndarray of shape \[4\], float64: give numbers"),
        ("bus.jpg", {}, "cannot draw str"),
        (np.zeros((0, 4)), {}, "cannot draw"),
        (np.zeros((2, 2), complex), {}, "complex128"),
        ([np.zeros((2, 2)), np.zeros((3, 2))], {}, "give one shape"),
        (np.zeros((9, 4, 4)), {"layout": "nchw"}, "no layout 'nchw'"),
        (np.zeros((9, 4, 4)), {"channels": "9-9"}, "no channel 9"),
        (np.zeros((9, 4, 4)), {"norm": "max"}, "no normalisation 'max'"),
    ],
)
def test_refused(tmp_path, x, options, says):
    with pytest.raises(fv.FeatvizError, match=says) as error:
        fv.save(x, tmp_path / "never.png", **options)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
