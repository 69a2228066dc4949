"""One layout, five kinds of file: each of the right size in inches, pixels unharmed, text as text where it can be."""

import base64
import io
import re
import threading
import time
import xml.etree.ElementTree as ElementTree
import zlib
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from helpers import feature_map
from PIL import Image

import yolov5_featviz as fv
from yolov5_featviz.draw import encode
from yolov5_featviz.draw.encode import FORMATS
from yolov5_featviz.draw.lettering import text_size
from yolov5_featviz.draw.palette import PAPER, palette_of
from yolov5_featviz.draw.picture import Picture

RNG = np.random.default_rng(0)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module", params=["grid", "over", "pca"])
def picture(request):
    boxes = fv.Boxes([[8, 8, 60, 40]], [0.5], ["cup & <saucer>"])
    fm = feature_map(RNG.normal(size=(6, 8, 10)), input_size=(64, 80), boxes=boxes, image="a&b")
    if request.param == "over":
        return fm.heatmap().over(RNG.integers(0, 256, (64, 80, 3)).astype(np.uint8), boxes=True)
    return fm.grid() if request.param == "grid" else fm.pca()


@pytest.mark.parametrize("dpi", [300, 72, 457])
@pytest.mark.parametrize("format", ["png", "jpg", "tif"])
def test_pixels_and_dpi(picture, format, dpi):
    with Image.open(io.BytesIO(picture.encode(format, dpi))) as file:
        assert file.info["dpi"] == pytest.approx((dpi, dpi), abs=0.02)
        assert file.size == picture.pixels.shape[1::-1]
        found = np.asarray(file.convert("RGB")).astype(int)
    if format == "jpg":
        assert np.abs(found - picture.to_rgb()).mean() < 3
    else:
        np.testing.assert_array_equal(found, picture.to_rgb())


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 1), np.uint8),
        RNG.integers(0, 256, (1, 50)).astype(np.uint8),
        RNG.integers(0, 256, (50, 1)).astype(np.uint8),
        RNG.integers(0, 256, (61, 43)).astype(np.uint8),
        np.repeat(RNG.integers(0, 256, (7, 9)).astype(np.uint8), 5, axis=0).repeat(3, axis=1),
        RNG.integers(0, 256, (31, 17, 3)).astype(np.uint8),
        np.repeat(RNG.integers(0, 256, (4, 6, 3)).astype(np.uint8), 4, axis=0),
        np.full((9, 9), 255, np.uint8).T[::-1],
    ],
)
def test_png_of_any_pixels(pixels):
    """The writer is our own; Pillow and OpenCV must read back what went in."""
    import cv2

    picture = Picture(pixels, palette_of("jet"), 300, "Ünïcode · title")
    png = picture.to_png()
    with Image.open(io.BytesIO(png)) as file:
        file.load()
        assert file.mode == ("P" if pixels.ndim == 2 else "RGB") and file.info["Title"] == "Ünïcode · title"
        np.testing.assert_array_equal(np.asarray(file), pixels)
    found = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(found, picture.to_rgb())


def test_png_is_as_small_as_a_slow_one():
    picture = feature_map(torch.from_numpy(RNG.normal(size=(64, 40, 30)).cumsum(2))).grid()
    stream = io.BytesIO()
    Image.fromarray(picture.pixels).save(stream, "png", compress_level=6)
    assert len(replace(picture, about={}).to_png()) < 1.2 * len(stream.getvalue())


def test_svg(picture):
    root = ElementTree.fromstring(picture.encode("svg"))
    height, width = picture.pixels.shape[:2]
    assert root.get("width") == f"{width / 300:.6g}in" and root.get("viewBox") == f"0 0 {width} {height}"
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert texts == [text.text for text in picture.texts]
    assert any("a&b" in text for text in texts)
    data = root.find(f"{SVG}image").get("{http://www.w3.org/1999/xlink}href").split(",")[1]
    art = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
    assert art.shape == (height, width, 3)
    # the picture inside is ours but for the lettering, which is nowhere else
    differs = (art != picture.to_rgb()).any(axis=2)
    for text in picture.texts:
        w, h = text_size(text.text, text.points, text.dpi)
        place = slice(text.y, text.y + h), slice(text.x, text.x + w)
        assert differs[place].any() and (art[place] == text.paper).all()
        differs[place] = False
    assert not differs.any()


def streams(pdf):
    """Dictionary and content of every stream of a PDF file."""
    for head, length in re.findall(rb"<<((?:(?!endobj).)*?/Length (\d+) 0 R.*?)>>\s*stream\r?\n", pdf, re.DOTALL):
        start = pdf.index(head) + len(head)
        start = pdf.index(b"stream", start) + 6
        start += 2 if pdf[start : start + 2] == b"\r\n" else 1
        size = int(re.search(rb"\b%s 0 obj\s+(\d+)" % length, pdf).group(1))
        yield head, pdf[start : start + size]


def unpredicted(head, data):
    """Pixels of a PDF image that was deflated with PNG's filters."""
    columns, colors = (int(re.search(rb"/%s (\d+)" % name, head).group(1)) for name in (b"Columns", b"Colors"))
    lines = np.frombuffer(zlib.decompress(data), np.uint8).reshape(-1, 1 + columns * colors)
    out = np.zeros((len(lines), columns * colors), np.uint8)
    above = np.zeros(columns * colors, np.uint8)
    for i, line in enumerate(lines):
        kind, row = line[0], line[1:].copy()
        if kind == 2:
            row += above
        elif kind == 1:
            row = row.reshape(-1, colors).cumsum(axis=0, dtype=np.uint8).ravel()
        elif kind in (3, 4):
            for j in range(len(row)):
                left = int(row[j - colors]) if j >= colors else 0
                up, corner = int(above[j]), int(above[j - colors]) if j >= colors else 0
                if kind == 3:
                    guess = (left + up) // 2
                else:
                    p = left + up - corner
                    guess = min((left, up, corner), key=lambda v, p=p: abs(p - v))
                row[j] = (int(row[j]) + guess) & 255
        out[i] = above = row
    return out.reshape(len(lines), columns, colors)


def test_pdf(picture):
    pdf = picture.encode("pdf")
    height, width = picture.pixels.shape[:2]
    box = [float(v) for v in re.search(rb"/MediaBox \[([^\]]*)\]", pdf).group(1).split()]
    assert box == pytest.approx([0, 0, width * 72 / 300, height * 72 / 300], abs=0.01)
    assert pdf.count(b"/FontFile2") >= 1 and b"/Type3" not in pdf  # TrueType, embedded
    images = [(head, data) for head, data in streams(pdf) if b"/Subtype /Image" in head]
    assert len(images) == 1
    head, data = images[0]
    assert int(re.search(rb"/Width (\d+)", head).group(1)) == width
    assert int(re.search(rb"/Height (\d+)", head).group(1)) == height
    pixels = unpredicted(head, data)
    if pixels.shape[2] == 1:
        table = re.search(rb"/Indexed /DeviceRGB \d+\s*\((.*)\)\s*\]", head, re.DOTALL).group(1)
        escapes = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
        table = re.sub(rb"\\(.)", lambda m: escapes.get(m.group(1), m.group(1)), table, flags=re.DOTALL)
        pixels = np.frombuffer(table, np.uint8).reshape(-1, 3)[pixels[..., 0]]
    np.testing.assert_array_equal(pixels, picture.without_text().to_rgb())


def test_vector_formats_are_quick_enough():
    picture = feature_map(RNG.normal(size=(64, 80, 60))).grid()
    for format in ("pdf", "svg"):
        picture.encode(format)
        spent = []
        for _ in range(3):
            start = time.thread_time()
            picture.encode(format)
            spent.append(time.thread_time() - start)
        assert min(spent) < 0.5, format


def test_matplotlibs_parameters_stay_as_they_are(picture):
    before = dict(matplotlib.rcParams)
    errors = []

    def work():
        try:
            picture.encode("pdf")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and dict(matplotlib.rcParams) == before


def test_same_picture_same_bytes(picture):
    for format in FORMATS:
        assert picture.encode(format) == picture.encode(format), format


def test_save_knows_the_format_by_the_ending(picture, tmp_path):
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<svg", "jpeg": b"\xff\xd8", "TIFF": b"II*\0"}
    for ending, start in starts.items():
        picture.save(tmp_path / f"p.{ending}")
        assert (tmp_path / f"p.{ending}").read_bytes().startswith(start)
    with pytest.raises(fv.FeatvizError, match="no format 'gif': take one of png, pdf, svg, jpg, tif"):
        picture.encode("gif")


def test_lettering_is_taken_out_again():
    picture = feature_map(RNG.normal(size=(4, 8, 8))).grid()
    bare = picture.without_text()
    outside = np.ones(bare.pixels.shape, bool)
    for x, y, w, h in picture.cells.values():
        outside[y : y + h, x : x + w] = False
    outside[: min(y for _, y, _, _ in picture.cells.values()) - 40] = False
    assert (bare.pixels[outside] == PAPER).all() and (picture.pixels[outside] > PAPER).any()


@pytest.mark.parametrize("library", ["ISA-L", "zlib"])
def test_png_in_bands_by_either_library(library, monkeypatch):
    """Whatever compresses them, and wherever a band ends, the lines in the file are the same."""
    if library == "zlib":
        monkeypatch.setattr(encode, "isal_zlib", None)
    elif encode.isal_zlib is None:
        pytest.skip("isal is not installed")
    cells = RNG.integers(0, 256, (40, 30)).astype(np.uint8)
    for pixels in (cells.repeat(9, axis=0).repeat(8, axis=1), RNG.integers(0, 256, (70, 11, 3)).astype(np.uint8)):
        for band in (1, 999, pixels.size // 3, 1 << 30):
            monkeypatch.setattr(encode, "BAND", band)
            lines = encode.filtered(pixels)
            assert zlib.decompress(encode.compressed(pixels)) == lines.tobytes()
            with Image.open(io.BytesIO(Picture(pixels, palette_of("jet"), 300).to_png())) as file:
                np.testing.assert_array_equal(np.asarray(file), pixels)


def test_png_is_compressed_in_less_time_than_zlib_takes():
    if encode.isal_zlib is None:
        pytest.skip("isal is not installed")
    picture = feature_map(torch.from_numpy(RNG.normal(size=(64, 80, 60)).cumsum(2))).grid()
    lines = encode.filtered(picture.pixels)

    def floor():
        deflate = encode.run_lengths()
        return deflate.compress(lines.data) + deflate.flush()

    times = {}
    for work in (floor, picture.to_png):
        spent = []
        for _ in range(5):
            start = time.thread_time()
            work()
            spent.append(time.thread_time() - start)
        times[work] = min(spent)
    assert times[picture.to_png] < times[floor]
