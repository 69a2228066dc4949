"""What the flags make of a feature map: which files, what is in them, and which flags are refused."""

import csv
import io

import numpy as np
import pytest
import torch
from helpers import ROOT, WEIGHTS, feature_map, files_below, run
from PIL import Image

import yolov5_featviz as fv
from yolov5_featviz.cli.parser import run_flags as flags
from yolov5_featviz.cli.parser import split
from yolov5_featviz.cli.run import options
from yolov5_featviz.runs.look import FILE_FORMATS, Look, render

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (48, 64, 3)).astype(np.uint8)


def files(fm, image=None, tell=None, **look):
    return dict(render(fm, Look(**look), image, tell))


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.fixture(scope="module")
def fm():
    boxes = fv.Boxes([[8, 8, 40, 30]], [0.5], ["cup"])
    return feature_map(RNG.normal(size=(5, 6, 8)), input_size=(48, 64), boxes=boxes, image="street")


def test_names(fm):
    assert list(files(fm)) == ["stage17_C3_features.png"]
    found = files(fm, modes=("grid", "heatmap", "channels", "pca"), formats=("png", "pdf", "npy"), channels="1,3")
    names = ["features", "heatmap", "channel001", "channel003", "pca"]
    assert sorted(found) == sorted(
        ["stage17_C3_features.npy"] + [f"stage17_C3_{name}.{end}" for name in names for end in ("png", "pdf")]
    )
    np.testing.assert_array_equal(np.load(io.BytesIO(found["stage17_C3_features.npy"])), fm.data.float().numpy())
    assert list(files(fm, formats=("npy",), modes=("pca",))) == ["stage17_C3_features.npy"]


def test_every_format_is_what_its_name_says(fm):
    starts = {
        "png": b"\x89PNG",
        "pdf": b"%PDF",
        "svg": b"<svg",
        "jpg": b"\xff\xd8",
        "tif": b"II*\0",
        "npy": b"\x93NUMPY",
    }
    found = files(fm, formats=FILE_FORMATS)
    assert len(found) == len(starts)
    for name, content in found.items():
        assert content.startswith(starts[name[-3:]])


def test_pages():
    fm = feature_map(torch.rand(600, 3, 3))
    found = files(fm, channels="all", plain=True)
    assert list(found) == [f"stage17_C3_features{p}.png" for p in ("", "_page2", "_page3")]
    pages = list(fm.grids("all"))
    assert [sorted(page.cells)[::255] for page in pages] == [[0, 255], [256, 511], [512]]
    assert sum(len(page.cells) for page in pages) == 600
    assert "256 of 600 channels, page 2" in pages[1].title and "88 of 600 channels, page 3" in pages[2].title
    assert len(list(files(fm))) == 1 and "page" not in next(fm.grids("256")).title


def test_defaults_of_each_mode(fm):
    """Channels one by one are the first 64 in viridis; together they are all, and over the image in inferno."""
    many = feature_map(RNG.normal(size=(70, 6, 8)), input_size=(48, 64))
    found = files(many, IMAGE, modes=("grid", "heatmap", "channels", "pca"))
    assert sum("channel0" in name for name in found) == 64
    same = {
        "features": many.grid("64"),
        "heatmap": many.heatmap("mean", "all").over(IMAGE, alpha=0.8, cmap="inferno", resample="bilinear"),
        "channel007": many.channel(7).picture("viridis"),
        "pca": many.pca("all"),
    }
    for name, picture in same.items():
        np.testing.assert_array_equal(pixels(found[f"stage17_C3_{name}.png"]), picture.to_rgb())


def test_every_field_reaches_the_picture(fm):
    look = {
        "channels": "0-2", "norm": "layer", "reduce": "max", "resample": "bicubic", "cmap": "magma",
        "alpha": 0.7, "blend": "add", "boxes": True, "overlay": True, "dpi": 150, "plain": True,
        "desaturate": True, "axes": "lab",
    }  # fmt: skip
    found = files(fm, IMAGE, modes=("grid", "heatmap", "channels", "pca"), **look)
    over = {"alpha": 0.7, "blend": "add", "boxes": True, "resample": "bicubic", "cmap": "magma", "desaturate": True}
    page = {"dpi": 150, "plain": True}
    same = {
        "features": fm.grid("0-2", "layer", "magma", resample="bicubic", **page),
        "heatmap": fm.heatmap("max", "0-2", "layer").over(IMAGE, **over, **page),
        "channel001": fm.channel(1, "layer").over(IMAGE, **over, **page),
        "pca": fm.pca("0-2", resample="bicubic", axes="lab", boxes=True, **page),
    }
    for name, picture in same.items():
        np.testing.assert_array_equal(pixels(found[f"stage17_C3_{name}.png"]), picture.to_rgb())
    with Image.open(io.BytesIO(found["stage17_C3_heatmap.png"])) as file:
        assert file.info["dpi"] == pytest.approx((150, 150), abs=0.02)


def test_without_an_image_a_heat_map_stands_alone(fm):
    found = files(fm, modes=("heatmap",), boxes=True)
    np.testing.assert_array_equal(pixels(found["stage17_C3_heatmap.png"]), fm.heatmap().picture().to_rgb())


def test_ranking(fm):
    told = []
    found = files(
        fm, tell=lambda fm, choice: told.append(choice.ranking), modes=("grid", "channels"), channels="top:2:contrast"
    )
    ranking = fv.rank(fm, "contrast")
    first, second = ranking.channels[:2]
    names = ["ranking.csv", "features.png", f"channel{first:03d}.png", f"channel{second:03d}.png"]
    assert list(found) == [f"stage17_C3_{name}" for name in names]
    rows = list(csv.DictReader(io.StringIO(found["stage17_C3_ranking.csv"].decode())))
    assert [int(row["channel"]) for row in rows] == ranking.channels
    lines = told[0].table(2).splitlines()
    assert lines[0].split()[:3] == ["rank", "channel", "contrast"]
    assert [line.split()[1] for line in lines[1:]] == [str(first), str(second)]
    words = [text.text for text in fm.grid("top:2:contrast").texts]
    assert f"#1  ch {first}  {ranking.scores['contrast'][first]:#.3g}".rstrip(".") in words


def test_ranking_that_fell_back_says_so_everywhere():
    fm, told = feature_map(RNG.normal(size=(5, 6, 8)), input_size=(48, 64)), []
    found = files(fm, tell=lambda fm, choice: told.append(choice.ranking), channels="top:2:contrast")
    assert "by std instead of contrast: nothing was detected" in told[0].note
    assert "by std instead of contrast: nothing was detected" in fm.grid("top:2:contrast").title
    assert found["stage17_C3_ranking.csv"].startswith(b"rank,channel,std,")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--visualize-mode grid,hetmap", "no mode 'hetmap': take one or more of grid, heatmap, channels, pca"),
        ("--visualize-mode=", "no mode ''"),
        ("--visualize-norm minmax", "no normalisation 'minmax': take one of channel, layer, robust"),
        ("--visualize-reduce avg", "no reduction 'avg': take one of mean, sum"),
        ("--visualize-resample lanczos", "no resampling 'lanczos': take one of nearest"),
        ("--visualize-alpha 2", "alpha 2 is out of range"),
        ("--visualize-alpha much", "alpha 'much' is not understood"),
        ("--visualize-width colum", "no width 'colum'"),
        ("--visualize-width 300", "width 300 is out of range"),
        ("--visualize-mode pca --visualize-axes hsv", "no axes 'hsv': take one of rgb, lab"),
        ("--visualize-alpha mul:0.4", "alpha 'mul:0.4' is not understood"),
        ("--visualize-format png,gif", "no format 'gif': take one or more of png, pdf, svg, jpg, tif, npy"),
        ("--visualize-channels top:4:best", "no ranking by 'best'"),
        ("--visualize-cmap virids", "no colour map 'virids'"),
        ("--visualize-dpi 5", "dpi 5 is out of range"),
        ("--visualize-dpi few", "dpi 'few' is not a whole number"),
    ],
)
def test_flags_refused(words, says):
    with pytest.raises(fv.FeatvizError, match=says) as error:
        options(split(words.split())[0])
    assert "\n" not in str(error.value)


def test_flags():
    words = (
        "--visualize-layers 17 --visualize-mode heatmap,channels,pca --visualize-channels top:9:std "
        "--visualize-norm robust "
        "--visualize-reduce l2 --visualize-resample bicubic --visualize-cmap gray --visualize-alpha add:.25 "
        "--visualize-boxes --visualize-desaturate --visualize-overlay --visualize-format pdf,svg,pdf "
        "--visualize-dpi 600 --visualize-plain --visualize-width ieee-column --visualize-axes lab"
    )
    found = options(split(words.split())[0])
    first = ["heatmap", "channels", "pca"], "top:9:std", "robust", "l2", "bicubic", "gray", 0.25
    expected = Look(*first, "add", True, True, True, ["pdf", "svg"], 600, True, 3.5, "lab")
    assert all(getattr(found, name) == getattr(expected, name) for name in vars(expected))
    assert options([]).modes == ("grid",)
    plain = Look()
    assert all(
        getattr(options([]), name) == value or name in ("modes", "formats") for name, value in vars(plain).items()
    )


def test_the_readme_lists_every_flag():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for action in flags()._actions:
        assert f"| `{action.option_strings[0]}` |" in text


@pytest.mark.slow
def test_from_the_command_line(tmp_path, images):
    words = (
        "--visualize-layers",
        "17,9",
        "--visualize-mode",
        "grid,heatmap,channels,pca",
        "--visualize-format",
        "png,pdf",
    )
    done = run("--weights", WEIGHTS, "--source", images, *words, "--visualize-channels", "top:2", cwd=tmp_path)
    found = files_below(tmp_path / "runs/detect/exp")
    for image in ("bus", "zidane"):
        for stem in ("stage17_C3", "stage9_SPPF"):
            mine = [f.split("/")[1] for f in found if f.startswith(f"{image}/{stem}")]
            assert len(mine) == 2 + 2 * 5 and f"{stem}_ranking.csv" in mine and f"{stem}_pca.pdf" in mine
    assert done.stderr.count("best channels by mean") == 2 and "bus, layer 17 (C3)" in done.stderr
    assert done.stderr.splitlines()[-2] == "yolov5-featviz: 4 feature maps in runs/detect/exp: bus/, zidane/"
