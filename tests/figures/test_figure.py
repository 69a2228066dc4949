"""Figures as they are written down: what is understood, what is drawn, and the two worked examples."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import cv2
import matplotlib
import numpy as np
import pytest
import torch
import yaml
from helpers import ROOT, WEIGHTS, files_below
from PIL import Image

import yolov5_featviz as fv
from yolov5_featviz.arrays.normalize import normalize
from yolov5_featviz.cli import main
from yolov5_featviz.figures.make import make
from yolov5_featviz.figures.spec import parse
from yolov5_featviz.models.layers import Layer
from yolov5_featviz.runs.provenance import read_record, sha256

pytestmark = pytest.mark.slow

WIDE, HIGH = 40, 20  # of the images that the stand-ins see, in pixels; 4 to a cell
COLOURS = np.stack([*np.mgrid[:HIGH, :WIDE] * np.array([12, 6])[:, None, None], np.full((HIGH, WIDE), 100)], axis=2)


class StandIn:
    """A model of two layers, 3 and 4, whose maps are known."""

    release = "0"

    def __init__(self, maps, boxes=None):
        self.maps, self.boxes, self.asked = maps, boxes, []

    def layers(self, selection):
        names = [part for part in str(selection).split(",") if part in self.maps]
        if not names:
            raise fv.FeatvizError(f"no layer {selection}")
        return names

    def __call__(self, image, selection, imgsz, conf, iou):
        self.asked.append((image, selection, imgsz, conf, iou))
        pixels, size = cv2.imread(str(image))[..., ::-1], (HIGH, WIDE)
        dark = pixels.mean() < 64  # of a dark image everything is half as strong
        maps = [
            fv.FeatureMap(
                torch.from_numpy(self.maps[name] * (0.5 if dark else 1)).float(),
                Layer(f"model.{name}", torch.nn.Identity(), "C3", index=int(name), name=name),
                size,
                boxes=self.boxes,
            )
            for name in (selection or "").split(",")
            if name
        ]
        return fv.Prediction("image", pixels, size, (0.0, 0.0, float(WIDE), float(HIGH)), self.boxes, maps)


MAPS = {
    "3": np.random.default_rng(0).normal(1, 1, (6, HIGH // 4, WIDE // 4)).astype(np.float32),
    "4": np.random.default_rng(1).normal(0, 2, (6, HIGH // 4, WIDE // 4)).astype(np.float32),
}


@pytest.fixture
def files(tmp_path):
    """Two images, and files that pass for checkpoints."""
    Image.fromarray(COLOURS.astype(np.uint8)).save(tmp_path / "light.png")
    Image.fromarray((COLOURS // 5).astype(np.uint8)).save(tmp_path / "dark.png")
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def draw(files, models=None, **given):
    """A figure two inches wide at dpi 100, of stand-ins."""
    models = models or {"a.pt": StandIn(MAPS), "b.pt": StandIn({name: x * 3 for name, x in MAPS.items()})}
    spec = {"width": 2, "dpi": 100, "gap": 0, "weights": "a.pt", **given}
    for part in (*spec["rows"], *spec["columns"]):
        if isinstance(part, dict):
            part.setdefault("title", "")

    @contextmanager
    def opened(weights, yolov5):
        yield [models[os.path.basename(path)] for path in weights]

    def find(kind, name):
        return files / name if (files / name).is_file() else None

    return make(parse(spec, find), opened)


def coloured(values, low, high, cmap="viridis"):
    """What matplotlib itself makes of values between two limits, uint8 ``[H, W, 3]``."""
    return np.round(matplotlib.colormaps[cmap](np.clip((values - low) / (high - low), 0, 1))[..., :3] * 255)


def apart(pixels, expected):
    return np.abs(pixels.astype(int) - expected).max()


def cells(pixels, side):
    """The middle of each cell of a panel."""
    return pixels[side // 2 :: side, side // 2 :: side]


def said(*ends):
    """Ends of a scale as they are printed: three digits for the largest, as many decimals for the other."""
    decimals = max(0, 2 - int(np.floor(np.log10(max(map(abs, ends))))))
    return [f"{end:.{decimals}f}".replace("-", "−") if end else "0" for end in ends]


def words(figure):
    return re.findall(r"<text[^>]*>([^<]+)</text>", figure.encode("svg").decode())


def test_a_shared_scale_is_really_shared(files):
    """Two images through two models: all four between the lowest and the highest of them."""
    heat = {"show": "heatmap", "layer": 3, "reduce": "max", "over": False}
    figure = draw(
        files,
        rows=[{"image": "light.png"}, {"image": "dark.png"}],
        columns=[{**heat, "weights": "a.pt"}, {**heat, "weights": "b.pt"}],
    )
    maxima = [[factor * MAPS["3"].max(axis=0) for factor in row] for row in ((1, 3), (0.5, 1.5))]
    low, high = np.min(maxima), np.max(maxima)
    pixels = figure.to_rgb()
    for r, row in enumerate(maxima):
        for c, values in enumerate(row):
            panel = pixels[50 * r : 50 * (r + 1), 100 * c : 100 * (c + 1)]
            assert apart(cells(panel, 10), coloured(values, low, high)) <= 3
    low, high = said(low, high)
    assert words(figure) == [f"min {low}", "channel max", f"max {high}"]


def test_a_scale_of_each_panel_by_itself(files):
    figure = draw(
        files,
        rows=["light.png", "dark.png"],
        columns=[{"show": "heatmap", "layer": 3, "reduce": "max", "over": False, "scale": "separate"}],
    )
    values = MAPS["3"].max(axis=0)
    for panel in np.split(figure.to_rgb()[:200], 2):
        assert apart(cells(panel, 20), coloured(values, values.min(), values.max())) <= 3
    assert words(figure) == ["min", "channel max, each on its own", "max"]
    alone = draw(files, rows=["light.png"], columns=[{"layer": 3, "reduce": "max", "scale": "separate"}])
    low, high = said(values.min(), values.max())
    assert words(alone) == [f"min {low}", "channel max", f"max {high}"]  # nothing to confuse it with


def test_layers_do_not_share_a_scale_unless_it_is_given(files):
    column = {"show": "channel", "channel": 2, "image": "light.png", "title": "x"}
    own = words(draw(files, rows=[3, 4], columns=[{**column, "norm": "channel"}]))
    for name in ("3", "4"):
        ends = MAPS[name][2].min(), MAPS[name][2].max()
        assert {f"{name} {end}" for name, end in zip(("min", "max"), said(*ends))} <= set(own)
    given = draw(files, rows=[{"layer": 3}, {"layer": 4}], columns=[{**column, "scale": [-1, 2.5], "title": ""}])
    for panel, name in zip(np.split(given.to_rgb()[:200], 2), ("3", "4")):
        assert apart(cells(panel, 20), coloured(MAPS[name][2], -1, 2.5)) <= 3
    assert MAPS["4"][2].min() < -1 and MAPS["4"][2].max() > 2.5 > MAPS["3"][2].max()
    assert words(given) == ["≤ −1.00", "channel 2", "≥ 2.50"]  # one bar, which one of the panels exceeds


def test_ends_that_clip_values_are_marked(files):
    """Against the values of the map themselves, for each kind of scale."""
    x = MAPS["4"].mean(axis=0)
    assert x.min() < -0.5 and x.max() > 0.5

    def ends(**more):
        return words(draw(files, rows=["light.png"], columns=[{"layer": 4, **more}]))

    (high,) = said(x.max())
    assert ends() == ["≤ 0", "channel mean", f"max {high}"]
    assert ends(scale=[-9, 9]) == ["−9.00", "channel mean", "9.00"]
    assert ends(scale=[-0.5, 9]) == ["≤ −0.50", "channel mean", "9.00"]
    assert ends(scale=[-9, 0.5]) == ["−9.00", "channel mean", "≥ 0.50"]
    low, high = said(*np.percentile(x, (1, 99)))
    assert " ".join(ends(norm="robust")) == f"≤ {low} ≥ {high} channel mean, 1st to 99th percentile"
    low, high = said(-np.abs(x).max(), np.abs(x).max())
    assert ends(norm="signed") == [low, "channel mean", high]
    assert ends(norm="sigmoid") == ["0", "1", "channel mean, sigmoid of the value"]
    model = StandIn({"3": -np.abs(MAPS["3"]), "4": MAPS["4"]})
    figure = draw(files, {"a.pt": model}, rows=["light.png"], columns=[{"layer": 3}, {"layer": 4}], width=6)
    assert words(figure) == ["channel mean, all values ≤ 0", "≤ 0", "channel mean", f"max {said(x.max())[0]}"]


def test_heat_over_the_image_is_mixed_with_it(files):
    figure = draw(
        files, rows=["light.png"], columns=[{"layer": 3, "alpha": 0.3, "resample": "nearest", "scale": [0, 2]}]
    )
    values = (MAPS["3"].mean(axis=0) / 2).clip(0, 1).repeat(4, axis=0).repeat(4, axis=1)
    heat, share = coloured(values, 0, 1, "inferno"), values[..., None]
    middle = figure.to_rgb()[2:100:5, 2::5]  # the image's own pixels, each of 5 by 5
    assert apart(middle, 0.3 * share * heat + (1 - 0.3 * share) * COLOURS) <= 4
    assert (values == 0).any() and apart(middle[values == 0], COLOURS[values == 0]) <= 1  # untouched
    column = {"layer": 3, "alpha": 0.3, "resample": "nearest", "scale": [0, 2]}

    def mixed(**more):
        return draw(files, rows=["light.png"], columns=[{**column, **more}]).to_rgb()[2:100:5, 2::5]

    luma = (COLOURS @ (0.299, 0.587, 0.114))[..., None]
    assert apart(mixed(desaturate=True), 0.3 * share * heat + (1 - 0.3 * share) * luma) <= 4
    assert apart(mixed(blend="even"), 0.3 * heat + 0.7 * COLOURS) <= 4
    assert apart(mixed(blend="add"), (0.3 * share * heat + COLOURS).clip(0, 255)) <= 4
    signed = MAPS["3"].mean(axis=0).repeat(4, axis=0).repeat(4, axis=1) / 4 + 0.25
    assert signed.min() > 0 and signed.max() < 1  # from -1 to 3: untouched at a quarter of the scale
    share = 0.3 * np.abs(signed - 0.25)[..., None] / 0.75
    expected = share * coloured(signed, 0, 1, "inferno") + (1 - share) * COLOURS
    assert apart(mixed(scale=[-1, 3]), expected) <= 4


def test_the_bar_of_an_overlay_has_the_colours_that_appear(files):
    """Over mid-grey, with the opacity of each value."""

    def bar(**more):
        figure = draw(files, rows=["light.png"], columns=[{"layer": 3, "scale": [0, 2], "alpha": 0.5, **more}])
        return figure.to_rgb()[100 + 3 + 2].astype(float)  # two points below the panel, and into the bar

    y = np.linspace(0, 1, 200)[:, None]
    pure = coloured(y[:, 0], 0, 1, "inferno")
    for more, expected in (
        ({}, 0.5 * y * pure + (1 - 0.5 * y) * 128),
        ({"blend": "even"}, 0.5 * pure + 64),
        ({"blend": "add"}, (0.5 * y * pure + 128).clip(0, 255)),
        ({"over": False}, coloured(y[:, 0], 0, 1, "viridis")),
    ):
        assert np.abs(bar(**more) - expected)[2:-2].max() <= 5, more


def test_crop_and_zoom_show_the_pixels_they_name(files):
    zoom = {"box": [12, 6, 16, 10], "corner": "upper left", "share": 0.4}
    row = {"image": "light.png", "crop": [10, 5, 30, 15], "zoom": zoom}
    pixels = draw(files, rows=[row], columns=[{"show": "input"}]).to_rgb()
    assert pixels.shape[:2] == (100, 200)  # of 20 by 10 pixels, ten times
    middle = pixels[5::10, 5::10]
    assert apart(middle[9:, :], COLOURS[14:15, 10:30]) <= 1
    assert apart(middle[:, 10:], COLOURS[5:15, 20:30]) <= 1
    inset = pixels[:80, :80]  # 0.4 of the width, of 4 by 4 pixels, twenty times
    assert apart(inset[30:60:20, 30:60:20], COLOURS[7:9, 13:15]) <= 1
    assert pixels[:4, 40].min() < 30 and pixels[:4, 40].max() > 200  # its frame, white between black


def test_a_crop_of_a_map_shows_its_cells(files):
    row = {"image": "light.png", "crop": [8, 4, 28, 14]}
    column = {"show": "channel", "layer": 3, "channel": 1, "norm": "layer", "scale": "shared"}
    pixels = draw(files, rows=[row], columns=[column]).to_rgb()
    x = MAPS["3"]
    values = x[1].repeat(4, axis=0).repeat(4, axis=1)[4:14, 8:28]
    assert apart(pixels[5:100:10, 5::10], coloured(values, x.min(), x.max())) <= 3


def test_a_grid_shows_the_channels_in_order(files):
    column = {"show": "grid", "layer": 3, "channels": [4, 0, 2, 5], "norm": "layer"}
    pixels = draw(files, rows=["light.png"], columns=[column]).to_rgb()
    x = MAPS["3"]
    for i, k in enumerate((4, 0, 2, 5)):
        top, left = (i // 2) * 50, (i % 2) * 100
        assert apart(cells(pixels[top : top + 50, left : left + 100], 10)[1:-1, 1:-1],
                     coloured(x[k], x.min(), x.max())[1:-1, 1:-1]) <= 3  # fmt: skip


def test_channels_of_a_grid_are_numbered_on_its_tiles_or_below(files):
    column = {"show": "grid", "layer": 3, "channels": [4, 0, 2, 5]}
    for width, expected in (
        (2, ["4", "0", "2", "5", "min", "of each channel", "max"]),
        (1, ["4", "0", "2", "5", "min", "max", "of each channel"]),
    ):
        found = words(draw(files, rows=["light.png"], columns=[column], width=width))
        assert [" ".join(found)] == [" ".join(expected)]
    svg = draw(files, rows=["light.png"], columns=[column]).encode("svg").decode()
    assert min(float(size) for size in re.findall(r"([\d.]+)px", svg)) >= 6
    pixels = draw(files, rows=["light.png"], columns=[column]).to_rgb()
    for top in (0, 50):
        for left in (0, 100):  # in the upper left corner of each, on white
            corner = pixels[top : top + 9, left + 1 : left + 7]
            assert (corner == 255).all(axis=2).any() and corner.min() < 100
            assert (pixels[top + 20 : top + 40, left + 20 : left + 90] < 255).any(axis=2).all()
    lettered = draw(files, rows=["light.png"], columns=[column], letters="panels", width=4)
    assert lettered.to_rgb()[:12, :12].min() < 50 and "4" in words(lettered)


def test_panels_with_different_channels_say_so(files):
    class Moody(StandIn):
        """What is strong in the light is weak in the dark."""

        def __call__(self, image, *more):
            seen = super().__call__(image, *more)
            if "dark" in str(image):
                seen.maps[:] = [replace(fm, data=fm.data.flip(0)) for fm in seen.maps]
            return seen

    order = np.argsort(-MAPS["3"].mean(axis=(1, 2)))
    light, dark = ([int(k) for k in found[:2]] for found in (order, 5 - order))
    assert sorted(light) != sorted(dark)
    given = {"rows": ["light.png", "dark.png"], "width": 4}
    grid = {"show": "grid", "layer": 3, "channels": "top:2"}
    figure = draw(files, {"a.pt": Moody(MAPS)}, columns=[grid, {"layer": 3, "channels": "top:2"}, 3], **given)
    found = " ".join(words(figure))
    assert "of each channel, channels differ between panels" in found
    assert "mean of 2 channels, channels differ between panels" in found
    assert found.count("differ") == 2  # not of all channels
    spans = [panel["channels"] for panel in figure.about["panels"] if panel["shows"] == "grid"]
    assert spans == [fv_spans(light), fv_spans(dark)]
    same = draw(files, columns=[grid], **given)
    assert "differ" not in " ".join(words(same))
    ranked = draw(files, columns=[{"layer": 3, "channels": "top:2:contrast"}], rows=["light.png"])
    assert "by std instead of contrast: nothing was detected" in " ".join(words(ranked))


def fv_spans(channels):
    """Channel numbers as records hold them."""
    first, second = channels
    return f"{first}-{second}" if second == first + 1 else f"{first},{second}"


CATS = fv.Boxes([[8, 4, 24, 16]], [0.75], ["cat"], [0])
DOGS = fv.Boxes([[20, 0, 40, 12]], [0.75], ["big dog"], [1])


class Named(StandIn):
    """A model of two classes that finds a cat in a light image, and in a dark one what it is told to."""

    def __init__(self, maps, dark):
        super().__init__(maps, CATS)
        self.names, self.dark = {0: "cat", 1: "big dog"}, dark

    def __call__(self, image, *more):
        seen = super().__call__(image, *more)
        if "dark" not in str(image):
            return seen
        maps = [replace(fm, data=fm.data.flip(2), boxes=self.dark) for fm in seen.maps]
        return replace(seen, boxes=self.dark, maps=maps)


def contrast(model, files, image, kind):
    """Contrast of each channel of layer 3, from the ranking's own scores."""
    ranking = fv.rank(model(files / image, "3", 0, 0, 0).maps[0], f"contrast:{kind}")
    assert not ranking.note
    return ranking.scores[ranking.by]


@pytest.mark.parametrize("dark", [CATS, DOGS, None])
def test_one_channel_for_all_images_has_the_highest_mean_score(files, dark):
    """Of those with a score: where there is no cat, the other image decides alone."""
    x = np.random.default_rng(8).normal(1, 1, MAPS["3"].shape).astype(np.float32)
    model = Named({"3": x}, dark)
    scores = [contrast(model, files, "light.png", "cat")]
    if dark is CATS:
        scores.append(contrast(model, files, "dark.png", "cat"))
        assert len({int(np.argmax(one)) for one in [*scores, np.mean(scores, axis=0)]}) == 3  # else it proves nothing
    k = int(np.argmax(np.mean(scores, axis=0)))
    column = {"show": "channel", "layer": 3, "channels": "top:1:contrast:cat", "norm": "layer"}
    figure = draw(files, {"a.pt": model}, rows=["light.png", "dark.png"], columns=[column])
    low, high = x.min(), x.max()
    pixels = figure.to_rgb()
    assert apart(cells(pixels[:100], 20), coloured(x[k], low, high)) <= 3
    second = int(np.nonzero((pixels[100:] < 250).any(axis=2).all(axis=1))[0][0]) + 100  # below the words
    assert apart(cells(pixels[second : second + 100], 20), coloured(x[k, :, ::-1] * 0.5, low, high)) <= 3
    assert words(figure).count(f"channel {k}") == 2 and "top channel by contrast of cat" in " ".join(words(figure))
    for panel in figure.about["panels"]:
        assert (panel["channels"], panel["by"]) == (f"{k}-{k}", "contrast of cat")


def test_models_and_layers_have_their_own_top_channel(files):
    models = {"a.pt": Named(MAPS, CATS), "b.pt": Named({"3": MAPS["3"][::-1].copy(), "4": MAPS["4"]}, CATS)}
    top = {"show": "channel", "channels": "top:1:contrast:0"}
    columns = [{**top, "weights": weights, "layer": layer} for weights in models for layer in (3, 4)]
    figure = draw(files, models, rows=["light.png", "dark.png", {"image": "dark.png"}], columns=columns, width=6)
    first, second = figure.about["panels"][:4], figure.about["panels"][4:8]
    found = [panel["channels"] for panel in first]
    assert (
        found == [panel["channels"] for panel in second] == [panel["channels"] for panel in figure.about["panels"][8:]]
    )
    k = int(found[0].split("-")[0])
    assert found[2] == f"{5 - k}-{5 - k}" != found[0] and found[1] == found[3]


def test_a_channel_that_no_image_has_a_score_for_is_refused(files):
    column = {"show": "channel", "layer": 3, "channels": "top:1:contrast:big dog"}
    with pytest.raises(
        fv.FeatvizError,
        match=r"^layer 3 of a\.pt: the channels cannot be ranked by contrast of big dog: no big dog was",
    ):
        draw(files, {"a.pt": Named(MAPS, CATS)}, rows=["light.png", "dark.png"], columns=[column])


@pytest.mark.parametrize("show", ["channel", "heatmap", "grid", "pca"])
def test_a_class_that_the_model_does_not_have_is_refused_before_anything_is_run(files, show):
    models = {"a.pt": Named(MAPS, CATS), "b.pt": StandIn(MAPS)}
    column = {"show": show, "layer": 3, "channels": "top:1:contrast:bigdog"}
    with pytest.raises(fv.FeatvizError, match=r"^a\.pt: channels .* no class 'bigdog': did you mean big dog\?$"):
        draw(files, models, rows=["light.png"], columns=[column])
    assert models["a.pt"].asked == []
    if show != "channel":  # a model whose class names are not known
        figure = draw(files, models, rows=["light.png"], columns=[{**column, "weights": "b.pt"}])
        assert "no bigdog was detected" in " ".join(words(figure))
    unused = {"layer": 3, "show": "channel", "channel": 1}
    draw(files, models, rows=["light.png"], columns=[unused], channels="top:1:contrast:bigdog")


def test_panels_name_their_channels_unless_each_tile_has_its_number(files):
    model = Named(MAPS, None)
    top = {"layer": 3, "channels": "top:4:contrast:cat"}
    light = fv.rank(model(files / "light.png", "3", 0, 0, 0).maps[0], "contrast:cat").channels
    dark = fv.rank(model(files / "dark.png", "3", 0, 0, 0).maps[0], "std").channels
    names = ["channels " + ", ".join(map(str, channels[:4])) for channels in (light, dark)]
    for show in ("heatmap", "pca"):
        figure = draw(files, {"a.pt": model}, rows=["light.png", "dark.png"], columns=[{**top, "show": show}], width=3)
        found = words(figure)
        assert found[:2] == [names[0], f"by std: {names[1]}"]
        note = "by std instead of contrast of cat: no cat was detected, channels differ between panels"
        assert note in " ".join(found[2:])
        assert [panel["by"] for panel in figure.about["panels"]] == ["contrast of cat", "std"]
    grid = {**top, "show": "grid"}
    figure = draw(files, {"a.pt": model}, rows=["light.png", "dark.png"], columns=[grid], width=3)
    found = " ".join(words(figure))
    assert names[0] not in found and names[1] not in found and "by std" in words(figure)
    tiny = draw(files, {"a.pt": model}, rows=["light.png", "dark.png"], columns=[grid] + ["input"] * 5, width=3)
    found = " ".join(words(tiny))
    assert names[0] in found and f"by std: {names[1]}" in found
    for column in ({"layer": 3}, {"layer": 3, "channels": [1, 2]}, {"layer": 3, "show": "channel", "channel": 2}):
        assert len(words(draw(files, {"a.pt": model}, rows=["light.png"], columns=[column], width=6))) == 3


def test_the_record_has_the_scale_and_channels_of_each_panel(files):
    """Three panels of one layer, each on a scale of its own."""
    columns = [3, {"layer": 3, "scale": "separate"}, {"layer": 3, "scale": [0, 0.5]}, "input"]
    figure = draw(files, rows=["light.png", "dark.png"], columns=columns, width=6)
    panels = figure.about["panels"]
    assert [(one["row"], one["column"]) for one in panels] == [(r, c) for r in (1, 2) for c in (1, 2, 3, 4)]
    most = float(MAPS["3"].mean(axis=0).max())
    for one, expected in zip(panels, [most, most, 0.5, None, most, most / 2, 0.5, None]):
        if expected is None:
            assert one == {"row": one["row"], "column": 4, "image": one["image"], "shows": "input"}
        else:
            assert one["scale"] == [0, pytest.approx(expected, rel=1e-5)]
            assert (one["layer"], one["norm"], one["reduce"], one["channels"]) == ("3", "zero", "mean", "0-5")
    assert [one["image"] for one in panels] == ["light.png"] * 4 + ["dark.png"] * 4


@pytest.mark.parametrize("padded", [False, True])
def test_an_end_that_only_padding_has_is_said(files, padded):
    """The highest value in the first row of cells, of which the image begins at the second, or not."""
    x = MAPS["3"] + 0
    x[:, 0, 0] = 99
    top = 4.0 if padded else 0.0

    class Letterboxed(StandIn):
        def __call__(self, *asked):
            seen = super().__call__(*asked)
            region = (0.0, top, float(WIDE), float(HIGH))
            return replace(seen, region=region, maps=[replace(fm, region=region) for fm in seen.maps])

    def told(**more):
        model = Letterboxed({"3": x})
        figure = draw(files, {"a.pt": model}, rows=["light.png"], columns=[{"layer": 3, **more}], width=6)
        return "in the padding" in " ".join(words(figure))

    assert told() == told(show="channel", channel=1) == told(show="grid") == padded
    assert not told(scale=[0, 1]) and not told(norm="sigmoid") and not told(norm="robust")


class Explained(StandIn):
    """A model that explains its layers by a map of their first channel."""

    def cam(self, image, layer, target, method, imgsz, conf, iou, smooth=False):
        self.asked.append((layer, target, method, smooth))
        (fm,) = self(image, str(layer), imgsz, 0, 0).maps
        kept = replace(fm, data=fm.data[:1])
        scaled, _ = normalize(kept.values, "zero")
        about = {"shows": f"Layer-CAM of {'dog 0.90' if 'dark' in str(image) else 'cat 0.80'}", "parity": [1, 0, 0, 0]}
        return fv.HeatMap(scaled[0], None, "image · C3 · Layer-CAM · checkerboard: 99%", kept, about)


def test_a_class_activation_map_names_its_target_and_has_no_units(files):
    boxes = fv.Boxes([[8, 4, 24, 16]], [0.75], ["cat"])
    cam = {"show": "cam", "layer": 3, "title": ""}

    def found(rows=("light.png",), **more):
        return " ".join(
            words(draw(files, {"a.pt": Explained(MAPS, boxes)}, rows=rows, columns=[{**cam, **more}], width=6))
        )

    assert MAPS["3"][0].min() < 0
    board = "of the energy on one cell in four"
    assert found() == f"≤ 0 Layer-CAM of cat 0.80, checkerboard: 100% {board} max"
    both = found(("light.png", "dark.png"))
    assert both == f"≤ 0 Layer-CAM of all detections, each on its own, checkerboard: up to 100% {board} max"
    assert "Layer-CAM of cat, each" in found(("light.png", "dark.png"), target="cat")
    assert found(("light.png", "dark.png"), scale="shared").startswith("≤ 0 Layer-CAM of all detections, check")
    assert found(scale=[0, 0.5]).split()[:2] == ["≤", "0"] and found(scale=[0, 0.5]).endswith("≥ 0.500")
    model = Explained(MAPS, boxes)
    draw(files, {"a.pt": model}, rows=["light.png"], columns=[{**cam, "smooth": True, "target": 1}])
    assert ("3", "1", "layer-cam", True) in model.asked


def test_boxes_and_models_are_asked_for_once_each(files):
    boxes = fv.Boxes([[8, 4, 24, 16]], [0.75], ["cat"])
    model = StandIn(MAPS, boxes)
    figure = draw(
        files,
        {"a.pt": model},
        rows=["light.png"],
        columns=["detections", {"layer": 3, "boxes": True}, 4],
        imgsz=64,
        conf=0.1,
        iou=0.6,
    )
    assert model.asked == [(str(files / "light.png"), "3,4", 64, 0.1, 0.6)]
    assert " ".join(words(figure)).count("cat 0.75") == 1  # named where detections are what is shown
    assert figure.about["shows"] == "figure" and "Detections" in words(figure)


def test_pca_and_titles_by_themselves(files):
    given = {"rows": [{"image": "light.png", "title": None}], "weights": "a.pt"}
    columns = ["input", 3, {"layer": 4, "show": "pca"}, {"show": "channel", "layer": 3, "channel": 0}]
    spec = parse({**given, "columns": columns}, lambda kind, name: files / name)
    assert spec.columns == ["Input", "Layer 3, channel mean", "Layer 4, PCA", "Layer 3, channel 0"]
    spec = parse({"image": "x.png", "rows": [3, 4], "columns": [{"weights": "n/a.pt"}, {"weights": "n/b.pt"}]})
    assert (spec.rows, spec.columns) == (["Layer 3, channel mean", "Layer 4, channel mean"], ["a", "b"])
    spec = parse({"image": "x.png", "weights": "a.pt", "rows": [3], "columns": [{"show": "heatmap"}, {"show": "pca"}]})
    assert (spec.rows, spec.columns) == (["Layer 3"], ["Channel mean", "PCA"])
    pixels = draw(files, rows=["light.png"], columns=[{"layer": 3, "show": "pca"}]).to_rgb()
    x = MAPS["3"].reshape(6, -1).astype(np.float64)
    first = np.linalg.svd(x - x.mean(axis=1, keepdims=True))[2][0]
    red = cells(pixels[:100], 20)[..., 0].ravel().astype(float)
    inner = (red > 0) & (red < 255)
    assert abs(np.corrcoef(red[inner], first[inner])[0, 1]) > 0.999


@pytest.mark.parametrize(
    "part, expected",
    [
        ({"show": "cam", "layer": 17, "target": "person"}, "Layer 17, Layer-CAM of person"),
        ({"show": "cam", "layer": 17, "target": "0", "method": "grad-cam++"}, "Layer 17, Grad-CAM++ of class 0"),
        ({"show": "cam", "layer": 9, "smooth": True}, "Layer 9, Layer-CAM smoothed 3×3"),
        ({"show": "grid", "layer": 17, "channels": "top:9:contrast"}, "Layer 17, top 9 by contrast"),
        ({"show": "grid", "layer": 17}, "Layer 17, first 16 channels"),
        ({"show": "grid", "layer": 17, "channels": [3, 17, 40]}, "Layer 17, channels 3, 17, 40"),
        ({"show": "grid", "layer": 17, "channels": "last:4"}, "Layer 17, last 4 channels"),
        ({"layer": 17, "reduce": "l2"}, "Layer 17, L2 norm"),
        ({"layer": 17, "reduce": "select-max"}, "Layer 17, strongest channel"),
        ({"layer": 17, "channels": "8-15"}, "Layer 17, mean of channels 8–15"),
        ({"layer": 17, "channels": "top:4", "show": "pca"}, "Layer 17, PCA of top 4 by mean"),
        ({"layer": 17, "show": "channel", "channel": 5}, "Layer 17, channel 5"),
        (
            {"layer": 17, "show": "channel", "channels": "top:1:contrast:traffic light"},
            "Layer 17, top channel by contrast of traffic light",
        ),
        ({"layer": 17, "channels": "top:4:contrast:0"}, "Layer 17, mean of top 4 by contrast of class 0"),
        ({"layer": 17, "show": "pca", "channels": "TOP:4:STD"}, "Layer 17, PCA of top 4 by std"),
        ({"layer": 17, "channels": "top:4:ablation:0"}, "Layer 17, mean of top 4 by ablation of class 0"),
        (
            {"layer": 17, "show": "channel", "channels": "top:1:ablation"},
            "Layer 17, top channel by ablation",
        ),
        ({"show": "detections", "weights": "x/b.pt"}, "b, detections"),
        ({"layer": 17, "weights": "x/b.pt"}, "b, layer 17, channel mean"),
    ],
)
def test_a_title_names_what_is_shown(part, expected):
    spec = parse({"rows": ["x.png"], "weights": "a.pt", "columns": [part]})
    assert spec.columns == [expected]
    assert parse({"image": "x.png", "weights": "a.pt", "rows": [part], "columns": [{}]}).rows == [expected]


@pytest.mark.parametrize(
    "rows, columns, expected",
    [
        ([{"reduce": "mean"}, {"reduce": "l2"}], [3, 4], (["Channel mean", "L2 norm"], ["Layer 3", "Layer 4"])),
        (
            [{"method": "layer-cam"}, {"method": "grad-cam"}],
            [{"layer": 3, "show": "cam", "target": "dog"}],
            (["", ""], ["Layer 3, class activation map of dog"]),
        ),
        (
            [{"layer": 3, "scale": [0, 0.5]}, 3],
            [{}],
            (["Layer 3, channel mean, scale 0 to 0.5", "Layer 3, channel mean"], [""]),
        ),
        (["x.png", "y.png"], [{"layer": 3, "title": "A"}, {"layer": 3, "title": "A"}], (["", ""], ["A", "A"])),
        (
            ["x.png"],
            [{"weights": "exp/weights/best.pt"}, {"weights": "exp2/weights/best.pt"}],
            ([""], ["best, exp/weights", "best, exp2/weights"]),
        ),
    ],
)
def test_titles_say_what_distinguishes_panels_and_nothing_that_the_other_axis_sets(rows, columns, expected):
    image = {} if "x.png" in rows else {"image": "x.png"}
    spec = parse({"weights": "a.pt", "rows": rows, "columns": columns, **image})
    assert (spec.rows, spec.columns) == expected


GOOD = {"weights": "a.pt", "rows": ["light.png"], "columns": ["input", {"layer": 3}]}


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"widht": 3}, "no key 'widht': did you mean width?"),
        ({"columns": [{"layer": 3, "chanels": "4"}]}, "column 1: no key 'chanels': did you mean channels?"),
        ({"columns": [{"layer": 3, "show": "heatmp"}]}, "column 1: no show 'heatmp': did you mean heatmap?"),
        ({"rows": [{"image": "light.png", "zoom": {"bx": [1, 2, 3, 4]}}]}, "no key 'bx': did you mean box?"),
        ({"rows": [{"image": "light.png", "zoom": [4, 4, 4, 8]}]}, "zoom [4, 4, 4, 8] is empty"),
        ({"width": "ieee-colum"}, "no width 'ieee-colum': did you mean ieee-column?"),
        ({"width": 99}, "width 99 is out of range: take 1 to 40 inches"),
        ({"dpi": 300.5}, "dpi 300.5: give a whole number, 72 to 2400"),
        ({"font": "sanss"}, "no font 'sanss': did you mean sans?"),
        ({"letters": "rowz"}, "no letters for 'rowz'"),
        ({"rows": ["missing.png"]}, "row 1: no image missing.png"),
        ({"weights": "missing.pt"}, "no weights missing.pt"),
        ({"weights": None}, "row 1, column 2: no weights: give them there, or for the whole figure"),
        ({"rows": [{"title": "x"}]}, "row 1, column 1: no image: give one there, or one for the whole figure"),
        ({"columns": [{"show": "pca"}]}, "row 1, column 1: no layer for its pca"),
        ({"columns": [{"show": "channel", "layer": 3}]}, "row 1, column 1: no channel: give its number"),
        (
            {"columns": [{"show": "channel", "layer": 3, "channels": "top:3"}]},
            "row 1, column 1: show: channel shows one channel, such as top:1, not 'top:3'",
        ),
        (
            {"columns": [{"show": "channel", "layer": 3, "channels": [5]}]},
            "row 1, column 1: no channel: give its number",
        ),
        (
            {"columns": [{"show": "channel", "layer": 3, "channels": "top:1", "channel": 5}]},
            "column 1: both channel and channels: give one of them",
        ),
        ({"columns": [{"layer": 3, "channels": "top:4:max:cat"}]}, "column 1: channels 'top:4:max:cat': no ranking by"),
        (
            {"rows": [{"image": "light.png", "layer": 4}]},
            "row 1 and column 2 both give layer",
        ),
        ({"columns": [{"layer": 3, "cmap": "jett"}]}, "no colour map 'jett'"),
        ({"columns": [{"layer": 3, "norm": "minmax"}]}, "no normalisation 'minmax'"),
        ({"columns": [{"layer": 3, "reduce": "avg"}]}, "no reduction 'avg'"),
        ({"columns": [{"layer": 3, "alpha": 2}]}, "alpha 2: give a number, 0 to 1"),
        ({"columns": [{"layer": 3, "over": "yes"}]}, "over 'yes': write true or false"),
        ({"columns": [{"layer": 3, "scale": [2, 1]}]}, "scale [2, 1]: give the lower end first"),
        ({"columns": [{"layer": 3, "title": "\U0010fffd"}]}, "the font sans has no '\\U0010fffd', which"),
        ({"columns": []}, "no columns: give a list of them"),
        ({"rows": None}, "no rows: give a list of them"),
        ({"columns": [1.5]}, "column 1: 1.5 is not understood"),
        ({"output": "figure.bmp"}, "'figure.bmp' has an unsupported extension"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(files, change, expected):
    find = {name: files / name for name in ("a.pt", "light.png")}
    with pytest.raises(fv.FeatvizError) as told:
        parse({**GOOD, **change}, lambda kind, name: find.get(name))
    assert expected in str(told.value) and "\n" not in str(told.value)


def test_channels_of_a_panel_override_the_channel_of_the_figure(files):
    given = {**GOOD, "channel": 5, "columns": [{"show": "channel", "layer": 3, "channels": "top:1"}]}
    spec = parse(given, lambda kind, name: name)
    assert spec.columns == ["Layer 3, top channel by mean"] and spec.cells[0][0].channel is None
    given = {**GOOD, "channels": "top:9", "columns": [{"show": "channel", "layer": 3, "channel": 5}]}
    assert parse(given, lambda kind, name: name).columns == ["Layer 3, channel 5"]


def test_all_that_is_wrong_is_told_at_once(files):
    given = {"widht": 3, "dpi": "x", "rows": ["no.png"], "columns": [{"layer": 3, "sow": "pca", "alpha": -1}]}
    with pytest.raises(fv.FeatvizError) as told:
        parse(given, lambda kind, name: None)
    for expected in ("'widht'", "dpi 'x'", "no image no.png", "'sow': did you mean show?", "alpha -1", "no weights"):
        assert expected in str(told.value), expected


def test_what_only_the_model_can_tell_is_told_before_anything_is_run(files):
    model = StandIn(MAPS)
    with pytest.raises(fv.FeatvizError, match=r"^a\.pt: no layer 9; a\.pt: no layer 8$"):
        draw(files, {"a.pt": model}, rows=["light.png"], columns=[9, 8, 3])
    assert model.asked == []
    with pytest.raises(fv.FeatvizError, match=r"layer '3,4' names 2 layers of a\.pt: name one"):
        draw(files, rows=["light.png"], columns=[{"layer": "3,4"}])
    with pytest.raises(fv.FeatvizError, match="channel"):
        draw(files, rows=["light.png"], columns=[{"show": "channel", "layer": 3, "channel": 6}])
    with pytest.raises(fv.FeatvizError, match=r"crop \[0, 0, 41, 20\] lies outside light.png, 40×20 pixels"):
        draw(files, rows=[{"image": "light.png", "crop": [0, 0, 41, 20]}], columns=["input"])


def test_a_detail_outside_its_crop_is_refused(files):
    row = {"image": "light.png", "crop": [0, 0, 20, 20], "zoom": [18, 2, 24, 8]}
    with pytest.raises(fv.FeatvizError, match=r"zoom \[18, 2, 24, 8\] lies outside the crop \[0, 0, 20, 20\]"):
        draw(files, rows=[row], columns=["input"])


# With YOLOv5 and the demo checkpoint


def write_yaml(path, **given):
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    return path


def test_files_are_written_and_others_are_left_alone(files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    (files / "fig").mkdir()
    given = {"output": ["out/a.png", "out/a.pdf"], "dpi": 72, "rows": ["../light.png"], "columns": ["input"]}
    write_yaml(files / "fig" / "f.yaml", **given)
    figure = "fig/f.yaml"
    assert main(["figure", figure]) == 0
    assert files_below(files / "fig") == ["f.yaml", "out/a.pdf", "out/a.png"]
    first = (files / "fig/out/a.png").read_bytes()
    told = capsys.readouterr()
    assert told.out == "" and told.err == "".join(f"yolov5-featviz: wrote fig/out/a.{x}\n" for x in ("png", "pdf"))
    assert main(["figure", figure]) == 0 and (files / "fig/out/a.png").read_bytes() == first  # ours: replaced
    about = read_record(files / "fig/out/a.png")
    assert about["command"] == ["figure", "fig/f.yaml"] and about["figure"]["rows"] == [{"image": "light.png"}]
    assert about["images"] == [{"name": "light.png", "sha256": sha256(files / "light.png")}]
    (files / "fig/out/a.pdf").write_bytes(b"%PDF somebody else's")
    assert main(["figure", figure]) == 2
    assert "a.pdf exists and is not a figure of this kind: give another output" in capsys.readouterr().err
    assert (files / "fig/out/a.pdf").read_bytes() == b"%PDF somebody else's"
    assert main(["figure", figure, "--output", "light.png"]) == 2  # the photograph itself
    assert sha256(files / "light.png") == about["images"][0]["sha256"]


@pytest.mark.parametrize(
    "text, expected",
    [
        (None, "no figure f.yaml: No such file or directory"),
        ("rows: [", "f.yaml, line 1: not YAML"),
        ("- a", "f.yaml: a figure is a mapping with rows and columns"),
        (
            "rows: [light.png]\ncolumns: [input]",
            "f.yaml: no output: give one there, such as figure.pdf, or with --output",
        ),
        ("rows: [light.png]\ncolumns: [input]\noutput: light.png/a.pdf", "cannot write into light.png"),
    ],
)
def test_a_file_that_is_no_figure(files, capsys, monkeypatch, text, expected):
    monkeypatch.chdir(files)
    before = files_below(files)
    if text is not None:
        (files / "f.yaml").write_text(text)
    assert main(["figure", "f.yaml"]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert files_below(files) == sorted([*before, *(["f.yaml"] if text is not None else [])])


def test_in_python_as_from_a_file(tmp_path, images):
    given = {"dpi": 72, "weights": str(WEIGHTS), "rows": [str(images / "bus.jpg")], "columns": ["detections", 23]}
    figure = fv.figure(given)
    again = fv.figure(write_yaml(tmp_path / "f.yaml", **given))
    assert isinstance(figure, fv.Composition)
    for format in ("png", "pdf", "svg", "tif"):
        assert figure.encode(format) == again.encode(format), format
    see = fv.Predictor(WEIGHTS)(images / "bus.jpg", 23)
    detections, heat = figure.about["panels"]
    assert detections == {"row": 1, "column": 1, "image": "bus.jpg", "weights": "best.pt", "shows": "detections"}
    np.testing.assert_allclose(heat["scale"], [0, see[23].data.mean(dim=0).max()], rtol=1e-5)
    for i in range(len(see.boxes)):
        assert see.boxes.caption(i) in " ".join(words(figure))
    assert "command" not in figure.about and str(tmp_path) not in str(figure.about)
    with pytest.raises(fv.FeatvizError, match="no layer"):
        fv.figure({**given, "columns": [99]})


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """The two examples as a user runs them, from a copy of what they need."""
    home = tmp_path_factory.mktemp("examples")
    for folder in ("scripts", "weights"):
        (home / folder).mkdir()
    for script in ("paper_figure.py", "prune_demo.py", "figure_layers.yaml", "figure_comparison.yaml"):
        shutil.copy(ROOT / "scripts" / script, home / "scripts")
    shutil.copy(WEIGHTS, home / "weights")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    def tool(*words):
        done = subprocess.run([sys.executable, *words], cwd=home, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    tool("scripts/prune_demo.py")
    tool("scripts/paper_figure.py", "scripts/figure_layers.yaml", "--output", "runs/figures/layers.pdf")
    tool("scripts/paper_figure.py", "scripts/figure_comparison.yaml")
    return home, tool


def test_the_examples_run(examples):
    home, _ = examples
    for name in ("layers", "comparison"):
        pdf = (home / f"runs/figures/{name}.pdf").read_bytes()
        assert b"/FontFile2" in pdf and b"/Type3" not in pdf
        about = read_record(home / f"runs/figures/{name}.pdf")
        assert about["weights"][0] == {"name": "best.pt", "sha256": sha256(WEIGHTS)}
        assert str(home).encode() not in pdf and "command" in about
    with Image.open(home / "runs/figures/comparison.png") as picture:
        assert picture.size[0] == round(6.875 * 300) and [round(x) for x in picture.info["dpi"]] == [300, 300]
    found = [one["scale"] for one in read_record(home / "runs/figures/comparison.svg")["panels"] if "scale" in one]
    assert len(found) == 4 and found == found[:1] * 4  # one scale for both models and both images


def test_redo_says_that_a_figure_is_identical(examples):
    """In another process, from the record in the file."""
    _, tool = examples
    said = tool("-m", "yolov5_featviz", "redo", "runs/figures/comparison.png").splitlines()
    assert said[-1] == "runs/figures/comparison.png: identical, byte for byte"
    assert [line for line in said if "the same file" in line] == [
        f"{name}: the same file" for name in ("best.pt", "pruned.pt", "bus.jpg", "zidane.jpg")
    ]
    assert "YOLOv5" in tool("-m", "yolov5_featviz", "info", "runs/figures/comparison.pdf")


def test_the_pruned_checkpoint_is_what_it_says(examples):
    home, _ = examples
    dense, pruned = (fv.load(home / "weights" / name) for name in ("best.pt", "pruned.pt"))
    for (name, one), (_, other) in zip(dense.named_parameters(), pruned.named_parameters()):
        if one.dim() == 4 and one.numel() > 1024:
            zero = float((other == 0).float().mean())
            assert abs(zero - 0.4) < 0.02, name
            kept = other != 0
            assert torch.equal(one[kept], other[kept])
            assert one[~kept].abs().max() <= one[kept].abs().min()
        else:
            assert torch.equal(one, other) or one.numel() <= 1024
