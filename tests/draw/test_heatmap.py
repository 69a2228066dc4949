"""Heat maps, overlays and PCA pictures."""

import re
import warnings

import cv2
import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import feature_map
from PIL import Image

import yolov5_featviz as fv
from yolov5_featviz.arrays.image import as_rgb
from yolov5_featviz.arrays.reduce import pca
from yolov5_featviz.draw.heatmap import aligned, blended
from yolov5_featviz.draw.lettering import text_size
from yolov5_featviz.draw.palette import COLOURS, NAN, palette_of
from yolov5_featviz.yolov5.letterbox import letterbox_region

RNG = np.random.default_rng(0)


def photo(height=120, width=160):
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_the_line_of_the_readme(tmp_path, images):
    fm = feature_map(RNG.normal(size=(8, 20, 15)), input_size=(640, 480))
    features, image = {17: fm}, str(images / "bus.jpg")
    features[17].heatmap("mean").over(image).save(tmp_path / "heat.png")
    with Image.open(tmp_path / "heat.png") as file:
        assert file.mode == "RGB" and file.width >= 810
        assert file.info["Title"] == "Layer 17 · C3 · mean of 8 channels · H×W 20×15 · stride 32"


def test_mean_is_the_article_s_formula():
    """Average over channels, clip below 0, divide by the maximum."""
    x = RNG.normal(size=(6, 9, 7)).astype(np.float32)
    mean = x.astype(float).mean(axis=0)
    expected = np.maximum(mean, 0) / mean.max()
    np.testing.assert_allclose(feature_map(x).heatmap("mean").values, expected, atol=1e-6)
    for dead in (np.zeros((3, 4, 4)), np.full((3, 4, 4), -2.0)):
        assert (feature_map(dead).heatmap("mean").values == 0).all()
    assert (feature_map(np.full((3, 4, 4), 2.0)).heatmap("mean").values == 1).all()


@pytest.mark.parametrize(
    ("reduce", "norm", "ends"),
    [
        ("mean", None, ("≤ 0", "max 2.50")),
        ("mean", "channel", ("min −0.50", "max 2.50")),
        ("mean", "signed", ("−2.50", "2.50")),
        ("mean", "none", ("≤ 0", "≥ 1")),
        ("sum", None, ("min −1.00", "max 5.00")),
        ("max", None, ("min 0", "max 3.00")),
        ("std", None, ("0", "max 0.500")),
        ("l2", None, ("0", "max 3.61")),
        ("mean", "sigmoid", ("0", "1")),
    ],
)
def test_legends_say_what_the_colours_mean(reduce, norm, ends):
    x = np.array([[[0, 2.0]], [[-1, 3.0]]])
    heat = feature_map(x).heatmap(reduce, norm=norm)
    assert (heat.legend.low, heat.legend.high) == ends
    nothing = feature_map(-x - 3).heatmap(reduce, "all", "zero").legend
    assert nothing[:2] == (("all values ≤ 0", "") if reduce in ("mean", "sum", "max") else ("0", nothing.high))


def test_channel():
    x = RNG.normal(size=(6, 9, 7)).astype(np.float32)
    fm = feature_map(x)
    np.testing.assert_allclose(fm.channel(4).values, (x[4] - x[4].min()) / np.ptp(x[4]), atol=1e-6)
    np.testing.assert_allclose(fm.channel(4, "layer").values, (x[4] - x.min()) / np.ptp(x), atol=1e-6)
    np.testing.assert_array_equal(fm.channel(4, "none").values, x[4].clip(0, 1))
    assert "channel 4" in fm.channel(4).title
    with pytest.raises(fv.FeatvizError, match="no channel 6: this layer has channels 0 to 5"):
        fm.channel(6)


def test_alone_the_map_is_drawn_in_whole_pixels():
    x = RNG.random((3, 8, 6)).astype(np.float32)
    heat = feature_map(x).heatmap("max")
    picture = heat.picture()
    x0, y0, w, h = picture.cells[0]
    scale = w // 6
    assert (w, h) == (6 * scale, 8 * scale) and w >= 3.3 * 300
    cell = picture.pixels[y0 : y0 + h, x0 : x0 + w]
    np.testing.assert_array_equal(cell, np.kron(np.rint(heat.values * 247).astype(np.uint8), np.ones((scale, scale))))
    plain = heat.picture(plain=True)
    np.testing.assert_array_equal(plain.pixels, cell)


@pytest.mark.parametrize("blend", ["mix", "even", "add"])
@pytest.mark.parametrize("alpha", [0, 0.4, 1])
def test_blend(blend, alpha):
    """Every combination of heat and image value, in floating point."""
    heat = np.tile(np.arange(COLOURS, dtype=np.uint8)[:, None], (1, 256))
    image = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (COLOURS, 1, 3))
    table = matplotlib.colormaps["jet"](np.arange(256))[:, :3] * 255
    at = np.linspace(0, 255, COLOURS)
    colours = np.stack([np.interp(at, np.arange(256), part) for part in table.T], axis=1)[:, None]
    a = alpha if blend == "even" else alpha * np.arange(COLOURS)[:, None, None] / (COLOURS - 1)
    expected = a * colours + (image.astype(float) if blend == "add" else image * (1 - a))
    mixed = blended(heat, palette_of("jet"), image, alpha, blend)
    assert mixed.dtype == np.uint8
    assert np.abs(mixed - expected.clip(0, 255)).max() <= 1
    if alpha == 0:
        np.testing.assert_array_equal(mixed, image)
    elif blend != "even":
        np.testing.assert_array_equal(mixed[0], image[0])  # untouched where the map is 0


def test_over_resizes_to_the_image_and_blends():
    x = RNG.random((4, 10, 12)).astype(np.float32)
    image = photo(300, 640)
    picture = feature_map(x, input_size=(80, 96)).heatmap("mean").over(image, plain=True, cmap="gray", alpha=0.5)
    heat = cv2.resize(x.mean(axis=0) / x.mean(axis=0).max(), (640, 300), interpolation=cv2.INTER_LINEAR)
    a = 0.5 * heat[..., None]
    expected = (1 - a) * image + a * heat[..., None] * 255
    assert picture.pixels.shape == image.shape
    assert np.abs(picture.pixels - expected).max() <= 2


def test_small_images_are_enlarged_by_a_whole_factor():
    image = photo(50, 64)
    picture = feature_map(RNG.random((2, 5, 6)), input_size=(50, 60)).heatmap().over(image, alpha=0)
    x, y, w, h = picture.cells[0]
    assert w >= 600 and (w % 64, h % 50) == (0, 0)
    np.testing.assert_array_equal(picture.pixels[y : y + h, x : x + w], image.repeat(h // 50, 0).repeat(w // 64, 1))


@pytest.mark.parametrize("auto", [True, False, "validation"])
@pytest.mark.parametrize("stride", [8, 32])
def test_heat_lies_on_what_caused_it(auto, stride):
    """A white square, through YOLOv5's letterbox and a network that averages: the heat's edges are the square's."""
    from yolov5.utils.augmentations import letterbox

    shifted = 0
    shapes = [(480, 640), (1080, 810), (427, 640), (200, 900), (900, 200), (333, 500), (640, 641), (100, 80)]
    for h, w in shapes:
        y0, x0, y1, x1 = h // 5, w // 2, h // 5 + h // 3, w // 2 + w // 3
        image = np.zeros((h, w, 3), np.uint8)
        image[y0:y1, x0:x1] = 255
        scaleup = auto != "validation"
        boxed = letterbox(image, 640, color=(0, 0, 0), auto=auto is True, scaleup=scaleup)[0]
        data = F.avg_pool2d(torch.from_numpy(boxed).permute(2, 0, 1)[None].float(), stride)[0]
        region = letterbox_region((h, w), boxed.shape[:2], scaleup=scaleup)
        fm = feature_map(data, input_size=boxed.shape[:2], region=region)
        half_cell = stride / 2 * w / (region[2] - region[0])

        def edges(fm, size):
            hot = aligned(fm.heatmap("mean").values, fm, size, size) >= 0.5
            rows, columns = (np.flatnonzero(hot.any(axis=axis)) for axis in (1, 0))
            return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])

        off = np.abs(edges(fm, (h, w)) - [x0, y0, x1, y1]).max()
        assert off <= half_cell + 1, (h, w)
        stretched = feature_map(data, input_size=boxed.shape[:2])
        shifted += np.abs(edges(stretched, (h, w)) - [x0, y0, x1, y1]).max() > half_cell + 1
    assert shifted >= 2 or (auto is True and stride == 32)  # the test would notice a letterbox that was not undone


def test_the_networks_own_input_needs_no_cutting():
    x = RNG.random((2, 8, 8))
    fm = feature_map(x, input_size=(64, 64), region=(0, 16, 64, 48))
    whole = feature_map(x, input_size=(64, 64))
    tensor = torch.rand(1, 3, 64, 64)
    np.testing.assert_array_equal(fm.heatmap().over(tensor).pixels, whole.heatmap().over(tensor).pixels)


def test_boxes_are_drawn_where_they_are():
    """In the image's pixels: the input is twice as large as the image, with 40 of padding on the left."""
    boxes = fv.Boxes([[140, 100, 340, 240], [40, 0, 680, 480]], [0.912, 0.4], ["person", "bus"])
    fm = feature_map(np.zeros((1, 60, 90)), input_size=(480, 720), region=(40, 0, 680, 480), boxes=boxes)
    image = np.full((240, 320, 3), 90, np.uint8)
    with_boxes = fm.heatmap().over(image, boxes=True, alpha=0, plain=True, dpi=96)
    changed = (with_boxes.pixels != 90).any(axis=2)
    assert changed[49:52, 50:150].all() and changed[119:122, 50:150].all()
    assert changed[50:120, 49:52].all() and changed[50:120, 149:152].all()
    assert not changed[60:110, 60:140].any() and not changed[130:230, 200:300].any()
    assert [text.text for text in with_boxes.texts] == ["person 0.91", "bus 0.40"]
    for text in with_boxes.texts:
        block = with_boxes.pixels[text.y : text.y + 8, text.x : text.x + 30].astype(int)
        assert np.abs(block - text.paper).sum(axis=2).max() > 100  # lettering on its own ground
    assert not (fm.heatmap().over(image, alpha=0, plain=True).pixels != 90).any()
    with pytest.raises(fv.FeatvizError, match="no boxes"):
        feature_map(np.zeros((1, 6, 9))).heatmap().over(image, boxes=True)


def test_labels_stay_in_the_picture_and_apart():
    xyxy = [[-30, -20, 60, 50], [290, 5, 400, 300], [100, 100, 140, 130], [100, 100, 141, 131], [0, 230, 90, 239]]
    boxes = fv.Boxes(xyxy, [0.5] * 5, ["something long", "b", "c", "c", "d"])
    fm = feature_map(np.zeros((1, 60, 80)), input_size=(240, 320), boxes=boxes)
    texts = fm.heatmap().over(np.zeros((240, 320, 3), np.uint8), boxes=True, plain=True, dpi=96).texts
    assert len(texts) == 3  # two boxes are almost equal: the name of one would read as the name of both
    places = []
    for text in texts:
        width, height = text_size(text.text, text.points, text.dpi)
        assert text.x >= 0 and text.x + width <= 320 and text.y >= 0 and text.y + height <= 240
        places.append((text.x, text.y, text.x + width, text.y + height))
    for i, a in enumerate(places):
        for b in places[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_nan_is_grey():
    x = np.ones((2, 4, 4), np.float32)
    x[1, 1, 2] = np.nan
    x[0, 3, 3] = 5
    fm = feature_map(x, input_size=(16, 16))
    picture = fm.heatmap().picture(plain=True)
    scale = picture.pixels.shape[0] // 4
    assert (picture.pixels[scale : 2 * scale, 2 * scale : 3 * scale] == NAN).all()
    assert (picture.pixels == NAN).sum() == scale**2
    over = fm.heatmap().over(photo(16, 16), alpha=1, plain=True)
    assert (over.pixels[6, 10] == palette_of("jet")[NAN]).all()
    pca = fm.pca(plain=True)
    assert (pca.pixels[scale + 1, 2 * scale + 1] == palette_of("jet")[NAN]).all()


def test_pca_picture():
    x = RNG.normal(size=(12, 8, 6))
    rgb, explained = pca(x)
    picture = feature_map(x).pca(plain=True)
    scale = picture.pixels.shape[0] // 8
    np.testing.assert_array_equal(picture.pixels[::scale, ::scale], np.rint(rgb * 255))
    numbers = re.findall(r"(red|green|blue) (\d+)%", feature_map(x).pca().title)
    assert [int(n) for _, n in numbers] == [round(100 * e) for e in explained]
    np.testing.assert_array_equal(
        feature_map(x).pca("3-7", plain=True).pixels, feature_map(x[3:8]).pca(plain=True).pixels
    )


# Images of every kind


@pytest.fixture(scope="module")
def original():
    """Smooth, so that what compression does to it stays small."""
    y, x = np.mgrid[0:40, 0:60]
    return np.stack([x * 4, y * 6, (x + y) * 2], axis=2).astype(np.uint8)


def test_images_from_files(tmp_path, original):
    Image.fromarray(original).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(as_rgb(tmp_path / "rgb.png"), original)
    np.testing.assert_array_equal(as_rgb(str(tmp_path / "rgb.png")), original)
    np.testing.assert_array_equal(as_rgb(Image.fromarray(original)), original)
    alpha = np.dstack([original, np.arange(2400, dtype=np.uint8).reshape(40, 60)])
    Image.fromarray(alpha).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(as_rgb(tmp_path / "rgba.png"), original)
    grey = original[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(as_rgb(tmp_path / "grey.png"), np.dstack([grey] * 3))
    deep = grey.astype(np.uint16) * 257 + 3
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    np.testing.assert_array_equal(as_rgb(tmp_path / "deep.png"), np.dstack([grey] * 3))
    cv2.imwrite(str(tmp_path / "deep3.png"), original[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(as_rgb(tmp_path / "deep3.png"), original)
    Image.fromarray(original).quantize(256).save(tmp_path / "palette.png", transparency=bytes(range(256)))
    assert np.abs(as_rgb(tmp_path / "palette.png").astype(int) - original).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, original, orientation):
    """As OpenCV turns it, whose reader YOLOv5 uses."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(original).save(tmp_path / "turned.jpg", exif=exif, quality=100, subsampling=0)
    found = as_rgb(tmp_path / "turned.jpg")
    expected = cv2.imread(str(tmp_path / "turned.jpg"))[..., ::-1]
    assert found.shape == expected.shape and found.shape[:2] == ((40, 60) if orientation < 5 else (60, 40))
    assert np.abs(found.astype(int) - expected).max() <= 3


def test_images_from_arrays(original):
    for same in (
        original,
        original.transpose(2, 0, 1),
        original[None],
        original.transpose(2, 0, 1)[None],
        original / 255,
        torch.from_numpy(original.transpose(2, 0, 1).copy()),
        torch.from_numpy(original / 255).permute(2, 0, 1)[None].half().float(),
        original.astype(np.uint16) << 8,
        original.astype(np.int64),
        np.dstack([original, original[..., :1]]),
    ):
        np.testing.assert_array_equal(as_rgb(same), original)
    np.testing.assert_array_equal(
        as_rgb(original[..., 0] > 90), np.dstack([np.where(original[..., 0] > 90, 255, 0)] * 3)
    )
    assert as_rgb(original[..., :1]).shape == as_rgb(original[..., 0]).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("nowhere.jpg", "no image nowhere.jpg"),
        ("/dev/zero", "cannot read the image /dev/zero: it is a pipe or device"),
        (__file__, "cannot read the image"),
        (np.zeros((5, 5, 7)), r"array of shape \[5, 5, 7\]"),
        (np.zeros((0, 4, 3)), r"array of shape"),
        (np.zeros(5), r"array of shape \[5\]"),
    ],
)
def test_what_is_no_image(image, says):
    with pytest.raises(fv.FeatvizError, match=says) as error:
        feature_map(np.zeros((1, 4, 4))).heatmap().over(image)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"alpha": 1.5}, "alpha 1.5"),
        ({"alpha": float("nan")}, "alpha nan"),
        ({"blend": "multiply"}, "no blend 'multiply': take one of mix, even, add"),
        ({"resample": "area"}, "no resampling 'area'"),
        ({"cmap": "jett"}, "no colour map 'jett'"),
    ],
)
def test_bad_overlays(options, says):
    with pytest.raises(fv.FeatvizError, match=says):
        feature_map(np.zeros((1, 4, 4))).heatmap().over(photo(), **options)


def test_bad_heat_maps():
    fm = feature_map(np.zeros((4, 4, 4)))
    for call, says in (
        (lambda: fm.heatmap("median"), "no reduction 'median'"),
        (lambda: fm.heatmap(norm="z"), "no normalisation 'z'"),
        (lambda: fm.heatmap(channels="9-9"), "no channel 9"),
        (lambda: fm.pca("top:0"), "select nothing"),
        (lambda: feature_map(np.zeros((4, 0, 4))).heatmap(), "empty map"),
    ):
        with pytest.raises(fv.FeatvizError, match=says):
            call()


def test_photographs_of_any_size(tmp_path, monkeypatch):
    """Pillow warns from a number of pixels on, and refuses twice as many; YOLOv5 reads more."""
    Image.fromarray(RNG.integers(0, 256, (40, 60, 3)).astype(np.uint8)).save(tmp_path / "large.png")
    for limit in (1500, 1000):  # which would warn, and refuse
        monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert as_rgb(tmp_path / "large.png").shape == (40, 60, 3)
        assert limit == Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr("yolov5_featviz.arrays.image.MOST_PIXELS", 2000)
    with pytest.raises(fv.FeatvizError, match="60 x 40 pixels are more than 2,000"):
        as_rgb(tmp_path / "large.png")
