"""The page about a run in a real browser: `make test-report`. Screenshots go to the folder $SCREENSHOTS."""

import base64
import io
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import WEIGHTS, feature_map, run
from PIL import Image

import yolov5_featviz as fv
from yolov5_featviz.arrays.normalize import normalize
from yolov5_featviz.draw.heatmap import aligned
from yolov5_featviz.draw.palette import palette_of, quantise
from yolov5_featviz.draw.scale import Legend
from yolov5_featviz.runs.look import Look
from yolov5_featviz.runs.report import Report

CHROMIUM = os.environ.get("CHROMIUM")
if not CHROMIUM:
    pytest.skip("make test-report runs these", allow_module_level=True)

from playwright.sync_api import sync_playwright  # noqa: E402

# a browser that does not call home
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync", "--no-sandbox"]
DESKTOP = {"width": 1366, "height": 800}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
NASTY = "<b>\"quoted\" & 'so' {{says}}</b></script> 名字 é.jpg"
RNG = np.random.default_rng(0)


def some_maps(channels=(5, 40), boxes=None):
    """Maps of strides 8 and 16 of an image of 128x96, padded above and below to 128x128."""
    maps = []
    for name, n, side in zip(("17", "20"), channels, (16, 8)):
        fm = feature_map(RNG.normal(size=(n, side, side)).astype(np.float32), input_size=(128, 128))
        layer = replace(fm.layer, name=name, index=int(name))
        maps.append(replace(fm, layer=layer, region=(0, 16, 128, 112), boxes=boxes))
    return maps


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def made(model, bus, images, tmp_path_factory):
    """A page of many kinds of images, and the maps that are in it."""
    folder = tmp_path_factory.mktemp("made")
    boxes = fv.Boxes(
        [[10, 105, 470, 430], [0, 245, 55, 500], [32, 235, 160, 535], [105, 240, 215, 535], [390, 230, 479, 520]],
        [0.73, 0.93, 0.85, 0.91, 0.88],
        ["bus", "person", "person", "person", "person"],
    )
    with fv.capture(model, "17,20,23") as features, torch.no_grad():
        model(bus)
    maps = {"bus": [replace(fm, boxes=boxes) for fm in features]}
    small = fv.Boxes([[10, 40, 60, 100], [70, 50, 126, 96], [1, 1, 3, 3]], [0.9, 0.5, 0.3], [NASTY, "cup", "speck"])
    maps["padded"] = some_maps(boxes=small)
    photo = RNG.integers(0, 256, (96, 128, 3)).astype(np.uint8)
    report = Report(folder, "made for a test")
    report.add("bus", [("", maps["bus"])], images / "bus.jpg", folder="bus")
    report.add("padded", [("", maps["padded"])], photo)
    report.add(NASTY, [("first <i>", some_maps(boxes=small)), ("second", some_maps(boxes=small))], photo, folder=NASTY)
    report.add("nothing", [("", some_maps(boxes=fv.Boxes([])))], photo)
    report.add("bare", [("", some_maps())])
    for epoch in (0, 10):
        maps[epoch] = some_maps(boxes=small)
        report.add("again", [("", maps[epoch])], photo, group=f"epoch {epoch}")
    return report.close(), maps


LABELS = {  # in pixels of the photographs: of each one object that is not there, and one too small
    "bus": (
        [[40, 400, 260, 910], [660, 390, 810, 880], [0, 540, 80, 880], [0, 200, 810, 740], [520, 560, 640, 700]],
        [0, 0, 0, 1, 5],
    ),
    "zidane": ([[746, 49, 1148, 713], [125, 200, 600, 710], [436, 434, 527, 640], [960, 300, 1100, 600]], [0, 0, 2, 2]),
}


@pytest.fixture(scope="module")
def explained(images, tmp_path_factory):
    """A page with explanations in layers 9 and 17, of which the second has no feature map, and what they are."""
    folder = tmp_path_factory.mktemp("explained")
    predictor = fv.Predictor(WEIGHTS)
    report, every = Report(folder, "explained for a test"), {}
    for name in ("zidane", "bus"):
        photo = images / f"{name}.jpg"
        seen = predictor(photo, layers="6,9", imgsz=320)
        labels = fv.Boxes(np.array(LABELS[name][0], float), classes=LABELS[name][1])
        how = {"imgsz": 320, "labels": labels}
        every[name] = fv.explain(predictor, photo, layers="9", **how)
        every[name] += fv.explain(predictor, photo, "errors", layers="17", **how)
        report.add(name, [("", seen.maps)], seen.pixels, folder=name, explanations=every[name])
    plain = predictor(images / "zidane.jpg", layers="6,9", imgsz=320)
    report.add("unlabelled", [("", plain.maps)], plain.pixels)
    return report.close(), every


@pytest.fixture
def page_of(browser):
    """Opens a page; says at the end whether anything went wrong in it, or it asked for anything."""
    troubles, contexts = [], []

    def opened(path, script=True, **options):
        options = options or {"viewport": DESKTOP}
        context = browser.new_context(java_script_enabled=script, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        url = Path(path).as_uri()

        def asked(request):
            followed = request.is_navigation_request() and request.url.startswith(Path(path).parent.as_uri())
            if request.url != url and not request.url.startswith("data:") and not followed:
                troubles.append(f"asks {request.url}")

        page.on("request", asked)
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def page(page_of, made):
    return page_of(made[0])


def keep(page, name):
    if os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(os.environ["SCREENSHOTS"]) / f"{name}.png")


def open_image(page, name):
    page.locator("#images button", has_text=name).first.click()


COPY = """(id) => {
    const heat = document.getElementById(id), copy = document.createElement("canvas");
    [copy.width, copy.height] = [heat.width, heat.height];
    const context = copy.getContext("2d", { willReadFrequently: true });
    context.drawImage(heat, 0, 0);
    const { data } = context.getImageData(0, 0, copy.width, copy.height);
    let text = "";
    for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
    return [[copy.width, copy.height], btoa(text)];
}"""
FOCUSED = """() => {
    const e = document.activeElement, label = e.labels && e.labels[0];
    const name = e.getAttribute("aria-label") || (label && label.textContent) || e.textContent || "";
    return [e.id || e.className || e.tagName, name.trim(), getComputedStyle(e).outlineStyle];
}"""
COLOURS = """() => {
    const texts = "h1, .says, td, .about, .tile, #caption, footer li, .pills span, th, nav small, .errors a, "
        + ".errors small, .errors summary, .kinds th";
    return [...document.querySelectorAll(texts)].map((e) => {
        let paper = e;
        while (getComputedStyle(paper).backgroundColor === "rgba(0, 0, 0, 0)") paper = paper.parentElement;
        return [e.tagName, getComputedStyle(e).color, getComputedStyle(paper).backgroundColor];
    });
}"""


def luminance(colour):
    values = np.array([int(v) for v in colour[4:-1].split(",")[:3]]) / 255
    return np.where(values <= 0.03928, values / 12.92, ((values + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def ratio(ink, paper):
    """Contrast of two colours, WCAG 2.1."""
    light, dark = sorted([luminance(ink), luminance(paper)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def pixels_of(page, canvas):
    size, data = page.evaluate(COPY, canvas)
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(size[1], size[0], 4)


def assert_drawn(page, values, limits, fm, how="bilinear", cmap="inferno"):
    """What is on the canvas over a photograph: colours of the values, with an opacity by their distance from 0."""
    found = pixels_of(page, "heat").astype(int)
    low, high = limits
    scaled = ((values - low) / (high - low)).clip(0, 1).astype(np.float32)
    height, width = (fm.window[3] - fm.window[1], fm.window[2] - fm.window[0])
    expected = quantise(aligned(scaled, fm, (int(height), int(width)), found.shape[:2], how)).astype(int)
    zero = 247 * min(max(-low / (high - low), 0), 1)
    opacity = np.abs(np.arange(248) - zero) / max(zero, 247 - zero)
    near = np.stack([(expected + shift).clip(0, 247) for shift in (-2, -1, 0, 1, 2)])
    alpha = np.abs(255 * opacity[near] - found[..., 3])
    # a canvas stores colours times opacity, in bytes
    error = np.abs(palette_of(cmap)[near].astype(int) - found[..., :3]).max(axis=-1) * found[..., 3] / 255
    assert np.maximum(alpha, error).min(axis=0).max() <= 2.5
    assert np.maximum(alpha, error)[2].mean() < 1.5


def rows(page):
    cells = [row.split() for row in page.locator("#rows tr").all_inner_texts()]
    return [(layer, int(channel), float(score.replace("−", "-"))) for _, layer, _, channel, score in cells]


def expected_rows(maps, boxes):
    scored = []
    for fm in maps:
        ranking = fv.rank(replace(fm, boxes=boxes), "contrast")
        if ranking.by == "contrast":
            scored += [(s, fm.layer.name, k) for k, s in enumerate(ranking.scores["contrast"])]
    return [(layer, channel, round(score, 2)) for score, layer, channel in sorted(scored, reverse=True)[:10]]


def same(found, expected):
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in expected], abs=0.011)


def test_the_first_screen_answers(page, made):
    """Without a click: a sentence, the image with its boxes under the heat, and what responds most."""
    maps = made[1]["bus"]
    assert page.locator("h1").inner_text() == "What is the model looking at?"
    expected = expected_rows(maps, maps[0].boxes)
    same(rows(page), expected)
    layer, channel, _ = expected[0]
    says = page.locator("#says").inner_text()
    assert says.startswith("In “bus” the model found 4 × person and 1 × bus.")
    assert says.endswith(f"Channel {channel} of layer {layer} (C3) stands out most on them: the picture shows it.")
    for selector in ("#says", "#photo", "#heat", "#rows tr:nth-child(10)"):
        box = page.locator(selector).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= DESKTOP["height"] and box["x"] + box["width"] <= 1366
    assert page.locator(".box").count() == 5
    fm = next(fm for fm in maps if fm.layer.name == layer)
    data = fm.data.numpy()[channel]
    assert_drawn(page, data, (data.min(), data.max()), fm)
    sizes = page.evaluate(
        "[document.querySelector('#photo').naturalWidth, document.querySelector('#photo').naturalHeight]"
    )
    assert sizes == [600, 800]
    keep(page, "light")


def test_boxes_lie_where_they_were_found(page, made):
    area = page.locator("#sheet").bounding_box()
    boxes = made[1]["bus"][0].boxes
    for i, (x0, y0, x1, y1) in enumerate(boxes.xyxy / [480, 640, 480, 640], 1):
        order = np.argsort(-boxes.scores, kind="stable").tolist().index(i - 1) + 1
        box = page.locator(f".box[data-box='{order}']").bounding_box()
        assert (box["x"] - area["x"]) / area["width"] == pytest.approx(x0, abs=0.01)
        assert (box["y"] - area["y"]) / area["height"] == pytest.approx(y0, abs=0.01)
        assert box["width"] / area["width"] == pytest.approx(x1 - x0, abs=0.01)
        assert box["height"] / area["height"] == pytest.approx(y1 - y0, abs=0.01)


NAMES = """() => [...document.querySelectorAll(".box span")].filter((e) => getComputedStyle(e).visibility === "visible")
    .map((e) => e.getBoundingClientRect()).map((r) => [r.left, r.top, r.right, r.bottom])"""


def test_no_name_covers_another(page_of, made, tmp_path):
    def check(page, least):
        sheet = page.locator("#sheet").bounding_box()
        names = page.evaluate(NAMES)
        assert least <= len(names) <= page.locator(".box").count()
        for i, (left, top, right, bottom) in enumerate(names):
            assert sheet["x"] - 3 <= left and right <= sheet["x"] + sheet["width"] + 3
            assert sheet["y"] - 3 <= top and bottom <= sheet["y"] + sheet["height"] + 3
            for x0, y0, x1, y1 in names[:i]:
                assert right <= x0 or x1 <= left or bottom <= y0 or y1 <= top

    page = page_of(made[0])
    check(page, 5)
    page.set_viewport_size({"width": 390, "height": 844})
    check(page, 4)
    page.locator("#in").click()
    check(page, 5)
    page.locator("#outlines").uncheck()
    page.locator("#outlines").check()
    check(page, 5)
    crowd = fv.Boxes(np.tile([40, 30, 60, 60], (30, 1)) + RNG.integers(0, 8, (30, 1)), labels=["person"] * 30)
    report = Report(tmp_path)
    report.add("crowd", [("", some_maps(boxes=crowd))], np.zeros((96, 128, 3), np.uint8))
    page = page_of(report.close())
    check(page, 2)
    hidden = page.locator(".box.crowded").first
    hidden.evaluate("e => e.click()")
    assert hidden.locator("span").is_visible()


def test_layers_channels_colours_and_scale(page, made):
    maps = made[1]["padded"]
    open_image(page, "padded")
    for fm in maps:
        data = fm.data.numpy()
        page.locator("#layers label", has_text=fm.layer.name).click()
        assert_drawn(page, data.mean(0).clip(0), (0, data.mean(0).max()), fm)
        mean = f"The picture shows the mean of all {fm.channels} channels of layer {fm.layer.name} (C3)."
        assert page.locator("#says").inner_text().endswith(mean)
        tiles = page.locator("#tiles button")
        assert tiles.count() == 1 + fm.channels
        best = fv.rank(fm, "contrast").channels
        assert [int(text.split()[1]) for text in tiles.all_inner_texts()[1:]] == best
        page.locator("#tiles button").nth(3).click()
        k = best[2]
        assert page.locator("#caption").inner_text().startswith(f"Layer {fm.layer.name} · C3 · channel {k} · ")
        assert_drawn(page, data[k], (data[k].min(), data[k].max()), fm)
        page.locator("#cmap").select_option("magma")
        assert_drawn(page, data[k], (data[k].min(), data[k].max()), fm, cmap="magma")
        page.locator("#scale").select_option("layer")
        assert_drawn(page, data[k], (data.min(), data.max()), fm, cmap="magma")
        assert page.locator("#low").inner_text().startswith("min −")
        assert page.locator("#high").inner_text() == f"max {data.max():.2f} of the layer"
        page.locator("#smooth").uncheck()
        assert_drawn(page, data[k], (data.min(), data.max()), fm, "nearest", "magma")
        page.locator("#smooth").check()
        page.locator("#scale").select_option("own")
        page.locator("#cmap").select_option("inferno")
        page.locator("#shows label", has_text="heat map").click()
        assert_drawn(page, data.mean(0).clip(0), (0, data.mean(0).max()), fm)


def shown(page, selector):
    image = Image.open(io.BytesIO(page.locator(selector).screenshot()))
    return np.asarray(image.convert("RGB")).astype(float)


def test_the_photograph_is_untouched_where_the_map_is_0(page_of, tmp_path):
    """What is on the screen is, by the definition, opacity * heat + (1 - opacity) * photograph."""
    values = np.array([[-3, 0, 0.5, 1], [1.5, 2, 4, np.nan]], np.float32)
    photo = np.full((96, 192, 3), (200, 80, 40), np.uint8)
    fm = replace(feature_map(values[None], input_size=(96, 192)), boxes=fv.Boxes([]))
    report = Report(tmp_path)
    report.add("x", [("", [fm])], photo)
    page = page_of(report.close())
    page.locator("#shows label", has_text="heat map").click()
    page.locator("#smooth").uncheck()
    heat = palette_of("inferno")[quantise((values / 4).clip(0, 1))].astype(float)
    below = {False: photo[0, 0], True: np.full(3, np.dot(photo[0, 0], (0.2126, 0.7152, 0.0722)))}

    def assert_shown(strength, grey):
        found = shown(page, "#sheet")
        height, width = found.shape[0] // 2, found.shape[1] // 4
        cells = found[height // 2 :: height, width // 2 :: width][:2, :4]
        opacity = strength * np.where(np.isnan(values), 1, (values / 4).clip(0, 1))[..., None]
        np.testing.assert_allclose(cells, opacity * heat + (1 - opacity) * below[grey], atol=4)  # JPEG, bytes

    assert_shown(0.8, False)
    page.locator("#alpha").fill("40")
    assert_shown(0.4, False)
    page.locator("#grey").check()
    assert_shown(0.4, True)
    ramp = shown(page, "#ramp")[4:8].mean(axis=0)
    at = (np.arange(len(ramp)) + 0.5) / len(ramp)
    opacity = 0.4 * at[:, None]
    expected = opacity * palette_of("inferno")[np.rint(247 * at).astype(int)] + (1 - opacity) * 128
    np.testing.assert_allclose(ramp[5:-5], expected[5:-5], atol=5)


def assert_said(page, legend):
    found = [page.locator(f"#{end}").inner_text() for end in ("low", "high")]
    assert found == [legend.low, legend.high]
    assert page.locator("#ramp").is_visible() == bool(legend.high)
    assert ("an end lies in the padding" in page.locator("#caption").inner_text()) == bool(legend.scope)


def test_the_words_at_the_scale_are_those_of_the_pictures(page_of, tmp_path):
    """By the same rule with a script, without one, and in pictures."""
    padding = np.r_[0:2, 14:16]
    cases = {}
    for k, (low, high) in enumerate([(-0.278, 3.2), (0.0001, 0.0042), (-123, 9), (0, 1), (-7, -2), (-20000, 40000)]):
        data = np.linspace(low, high, 256, dtype=np.float32).reshape(1, 16, 16)
        data[0, padding] = (low + high) / 2
        data[0, 2, 0], data[0, 13, 15] = low, high
        cases[f"case{k}"] = data
    cases["padded"] = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 16, 16)
    cases["empty"] = np.full((1, 16, 16), np.nan, np.float32)
    legends = {
        "case0": Legend("≤ 0", "max 3.20"),
        "case1": Legend("0", "max 0.00420"),
        "case4": Legend("all values ≤ 0", ""),
        "padded": Legend("0", "max 1.00", "an end lies in the padding"),
        "empty": Legend("no finite value", ""),
    }
    for name, data in cases.items():
        fm = feature_map(data, input_size=(128, 128))
        fm = replace(fm, region=(0, 16, 128, 112), boxes=fv.Boxes([]))
        report = Report(tmp_path / name)
        report.add(name, [("", [fm])], np.zeros((96, 128, 3), np.uint8))
        path = report.close()
        page, still = page_of(path), page_of(path, script=False, viewport=DESKTOP)

        if name in legends:
            assert fm.heatmap().legend == legends[name]
        shown = fm.heatmap().legend if name == "empty" else fm.channel(0).legend  # nothing varies in an empty map
        assert_said(still, shown)
        assert_said(page, shown)
        page.locator("#tiles button").first.click()
        assert_said(page, fm.heatmap().legend)
        page.locator("#tiles button").nth(1).click()
        assert_said(page, fm.channel(0).legend)
        assert "H×W 16×16" in page.locator("#caption").inner_text()


def test_a_tile_shows_its_channel(page, made):
    fm = made[1]["padded"][0]
    open_image(page, "padded")
    page.locator("#layers label", has_text="17").click()
    k = fv.rank(fm, "contrast").channels[0]
    data = page.evaluate(
        "(() => { const c = document.querySelectorAll('#tiles canvas')[1];"
        " return [c.width, c.height, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]; })()"
    )
    assert data[:2] == [16, 12]  # without the padding
    found = np.array(data[2:], int).reshape(12, 16, 4)[..., :3]
    codes = quantise(normalize(fm.data.numpy()[k][None])[0])[0, 2:14].astype(int)
    palette = palette_of("inferno").astype(int)
    near = np.stack([palette[(codes + shift).clip(0, 247)] for shift in (-1, 0, 1)])
    assert (np.abs(near - found).sum(axis=-1).min(axis=0) == 0).all()


def test_a_box_says_which_channels_respond_to_it(page, made):
    maps = made[1]["bus"]
    order = np.argsort(-maps[0].boxes.scores, kind="stable")
    for position in (1, 5):
        page.locator(f".box[data-box='{position}']").dispatch_event("click")
        one = fv.Boxes(maps[0].boxes.xyxy[order[position - 1]][None])
        expected = expected_rows(maps, one)
        same(rows(page), expected)
        caption = maps[0].boxes.caption(order[position - 1])
        layer, channel, _ = expected[0]
        channels = f"Channel {channel} of layer {layer} (C3) stands out most on it: the picture shows it."
        assert page.locator("#says").inner_text().endswith(f"Picked: {caption}. {channels}")
        fm = next(fm for fm in maps if fm.layer.name == layer)
        data = fm.data.numpy()[channel]
        assert_drawn(page, data, (data.min(), data.max()), fm)
        assert page.locator(f".box[data-box='{position}']").get_attribute("aria-pressed") == "true"
        assert page.locator("#group").input_value() == str(position)
        pills = dict(label.split()[::2] for label in page.locator("#layers label").all_inner_texts())
        for fm in maps:
            top = fv.rank(replace(fm, boxes=one), "contrast")
            assert float(pills[fm.layer.name]) == pytest.approx(top.scores["contrast"].max(), abs=0.011)
    keep(page, "picked")
    row = page.locator("#rows button:enabled").nth(1)
    channel = row.inner_text()
    row.click()
    assert f"channel {channel} ·" in page.locator("#caption").inner_text()
    assert f"The picture shows channel {channel} of layer" in page.locator("#says").inner_text()
    page.locator("#group").select_option("0")
    same(rows(page), expected_rows(maps, maps[0].boxes))
    assert f"channel {channel} ·" in page.locator("#caption").inner_text()  # what was chosen stays
    assert page.locator("#picked").inner_text() == ""


@pytest.fixture(scope="module")
def ablated(images, tmp_path_factory):
    """A page with a layer ranked by ablation, and one that is not, and their maps."""
    seen = fv.Predictor(WEIGHTS)(images / "bus.jpg", "17,23", 320, ablate=23)
    report = Report(tmp_path_factory.mktemp("ablated"), "ablated for a test", Look(channels="top:5:ablation"))
    report.add("bus", [("", seen.maps)], seen.pixels)
    return report.close(), seen


def dot(page, channel):
    at = page.evaluate(
        "(words) => [...document.querySelectorAll('#chart circle')].findIndex((e) => e.textContent.startsWith(words))",
        f"channel {channel}:",
    )
    return page.locator("#chart circle").nth(at)


@pytest.mark.parametrize("options", [{"viewport": DESKTOP}, PHONE, {"viewport": DESKTOP, "color_scheme": "dark"}])
def test_the_plot_of_what_responds_and_what_is_needed(page_of, ablated, options):
    """A dot for each channel where its values are; by pointer and keys its values are read, and its map is shown."""
    path, seen = ablated
    page = page_of(path, **options)
    ranking = fv.rank(seen[23], "ablation")
    x, y = ranking.scores["contrast"], ranking.scores["ablation"]
    assert page.locator("#plot-title").inner_text() == "Layer 23 (C3): what responds, and what is needed"
    dots = page.evaluate(
        "[...document.querySelectorAll('#chart circle')].map((e) => [Number(e.querySelector('title').textContent"
        ".match(/^channel (\\d+):/)[1]), Number(e.getAttribute('cx')), Number(e.getAttribute('cy')), e.classList[0]])"
    )
    assert sorted(k for k, *_ in dots) == list(range(256))
    assert {k for k, *_, kind in dots if kind == "drawn"} == set(ranking.channels[:5])
    places = {k: (cx, cy) for k, cx, cy, _ in dots}
    for values, axis, sign in ((x, 0, 1), (y, 1, -1)):
        found = np.array([places[k][axis] for k in range(256)])
        scale = np.polyfit(values, found, 1)
        assert scale[0] * sign > 0 and np.abs(np.polyval(scale, values) - found).max() < 0.5
    frame = page.locator("#chart").bounding_box()
    assert frame["x"] >= 0 and frame["x"] + frame["width"] <= options["viewport"]["width"]
    assert min(cx for cx, _ in places.values()) > 40 and max(cx for cx, _ in places.values()) < frame["width"]
    second, third = ranking.channels[1:3]

    def reads(k):
        words = page.locator("#point").inner_text().replace("−", "-")
        said = re.match(r"channel (\d+): contrast (-?[\d.]+), score lost (-?[\d.]+), in the pictures$", words)
        assert said and int(said[1]) == k
        assert (float(said[2]), float(said[3])) == pytest.approx((x[k], y[k]), rel=0.01, abs=0.006)

    page.locator("#chart").focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    reads(second)
    assert page.locator("#point").get_attribute("aria-live") == "polite"
    page.keyboard.press("Enter")
    assert f"channel {second} ·" in page.locator("#caption").inner_text()
    dot(page, third).dispatch_event("pointerenter")
    reads(third)
    dot(page, third).dispatch_event("click")
    assert f"channel {third} ·" in page.locator("#caption").inner_text()
    for colour, paper in page.evaluate(
        "[...document.querySelectorAll('#chart text')].map((e) => [getComputedStyle(e).fill, "
        "getComputedStyle(document.body).backgroundColor])"
    ):
        assert ratio(colour, paper) >= 4.5
    keep(page, f"plot_{'dark' if 'color_scheme' in options else options['viewport']['width']}")
    page.locator("#layers label", has_text="17").click()
    assert page.locator("#plot").is_hidden()  # it was not ablated


def test_the_ranking_by_ablation(page_of, ablated):
    """The score lost, and the contrast beside it; a box has its own."""
    path, seen = ablated
    page = page_of(path)
    shares, boxes = seen[23].dependence.shares, seen.boxes
    best = int(fv.rank(seen[23], "ablation").channels[0])
    says = page.locator("#says").inner_text()
    assert says.endswith(f"Without channel {best} of layer 23 (C3) the score falls most: the picture shows it.")
    assert page.locator("#heading").inner_text() == "What is needed most by"
    for box in (0, 1 + boxes.labels.index("bus")):
        page.locator("#group").select_option(str(box))
        expected = shares.mean(axis=0) if box == 0 else shares[box - 1]
        only = replace(seen[23], boxes=boxes if box == 0 else boxes.take([box - 1]))
        contrasts = fv.rank(only, "contrast").scores["contrast"]
        found = [row.replace("−", "-").split() for row in page.locator("#rows tr").all_inner_texts()]
        order = np.argsort(-expected, kind="stable")[:10].tolist()
        assert [int(row[3]) for row in found] == order
        np.testing.assert_allclose([float(row[4]) for row in found], expected[order], atol=6e-4)
        np.testing.assert_allclose([float(row[5]) for row in found], contrasts[order], atol=0.006)
    assert "score lost of bus" in page.locator("#tiles-title").inner_text()


def test_a_box_too_small_to_compare_says_so(page):
    open_image(page, "padded")
    page.locator("#group").select_option("3")
    assert page.locator("#picked").inner_text() == "speck 0.30 covers too few cells of these layers to compare."
    assert page.locator("#rows tr").count() == 0


def test_values_under_the_pointer(page, made):
    fm = made[1]["padded"][0]
    open_image(page, "padded")
    page.locator("#layers label", has_text="17").click()
    page.locator("#tiles button").nth(1).click()
    k = fv.rank(fm, "contrast").channels[0]
    channel = fm.data.numpy()[k]
    page.locator("#stage").scroll_into_view_if_needed()
    area = page.locator("#sheet").bounding_box()
    for row, column in ((2, 0), (7, 5), (13, 15)):
        x, y = (column + 0.5) / 16, (row - 2 + 0.5) / 12
        page.mouse.move(area["x"] + x * area["width"], area["y"] + y * area["height"])
        said = page.locator("#readout").inner_text()
        assert (
            f"channel {k} of layer 17 (C3) · row {row}, column {column} · pixel {int(x * 128)}, {int(y * 96)}" in said
        )
        value = float(said.split()[0].replace("−", "-"))
        assert value == pytest.approx(channel[row, column], abs=float(np.ptp(channel)) / 500 + 0.005 * abs(value))


def test_zoom(page):
    stage, sheet = page.locator("#stage"), page.locator("#sheet")
    before = sheet.bounding_box()
    outer = stage.bounding_box()
    for _ in range(3):
        page.locator("#in").click()
    assert page.locator("#zoom").inner_text() == "338%"
    stage.scroll_into_view_if_needed()
    after = sheet.bounding_box()
    assert after["width"] == pytest.approx(before["width"] * 3.375, rel=0.01)
    assert stage.bounding_box()["height"] == pytest.approx(outer["height"], abs=2)
    # a drag moves it, and picks no box
    outer = stage.bounding_box()
    left = page.evaluate("document.querySelector('#stage').scrollLeft")
    x, y = outer["x"] + outer["width"] / 2, outer["y"] + outer["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y, steps=5)
    page.mouse.up()
    assert page.evaluate("document.querySelector('#stage').scrollLeft") == left + 60
    assert page.locator("#group").input_value() == "0"
    keep(page, "zoomed")
    page.mouse.move(x, y)
    page.keyboard.down("Control")
    page.mouse.wheel(0, 2000)
    page.keyboard.up("Control")
    page.wait_for_function("document.querySelector('#zoom').textContent === '100%'")
    assert sheet.bounding_box()["width"] == pytest.approx(before["width"], abs=1)


def test_by_keyboard_alone(page, made):
    press = page.keyboard.press

    def caption():
        return page.locator("#caption").inner_text()

    first = page.locator("#tiles button").nth(1).inner_text().split()[1]
    start = caption()
    assert f"channel {first} ·" in start
    press("l")
    assert caption() != start and "mean of" in caption()
    press("Shift+L")
    assert caption() != start and "mean of" in caption()
    press("c")
    assert caption() == start
    press("m")
    assert "mean of" in caption()
    press("b")
    assert page.locator("#group").input_value() == "1"
    assert "Picked: person 0.93. The picture shows the mean" in page.locator("#says").inner_text()
    press("Escape")
    assert page.locator("#group").input_value() == "0" and caption() == start
    press("p")
    assert page.locator("#cmap").input_value() == "viridis"
    press("h")
    assert page.evaluate("getComputedStyle(document.querySelector('#heat')).opacity") == "0"
    press("h")
    press("g")
    assert page.locator("#grey").is_checked()
    press("g")
    assert not page.locator("#grey").is_checked()
    press("+")
    assert page.locator("#zoom").inner_text() == "150%"
    press("-")
    press("]")
    assert "padded" in page.locator("#says").inner_text()
    press("[")
    assert "bus" in page.locator("#says").inner_text()
    # from the top by Tab: all that can be used can be reached, and is named
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(200):
        press("Tab")
        found = page.evaluate(FOCUSED)
        if found[0] == "BODY":
            break
        reached.append(found)
    assert all(name for _, name, _ in reached)
    ids = [what for what, *_ in reached]
    for wanted in (
        "stage",
        "cmap",
        "scale",
        "alpha",
        "smooth",
        "grey",
        "outlines",
        "in",
        "group",
        "box",
        "tile",
        "folder",
    ):
        assert any(what.split()[0] == wanted for what in ids), wanted
    # values by arrows
    page.locator("#stage").focus()
    press("ArrowRight")
    before = page.locator("#readout").inner_text()
    press("ArrowRight")
    press("ArrowDown")
    after = page.locator("#readout").inner_text()

    def place(said):
        return [int(said.split(word)[1].split(",")[0].split()[0]) for word in (" row ", " column ")]

    assert place(after) == [place(before)[0] + 1, place(before)[1] + 1]
    assert page.locator("#readout").get_attribute("aria-live") == "polite"


def test_names_of_any_kind_are_words(page):
    open_image(page, "quoted")
    assert f"In “{NASTY}” the model found" in page.locator("#says").inner_text()
    assert page.locator("b, i").count() == 0
    assert NASTY in page.locator("#group").inner_text()
    assert page.locator("#parts option").all_inner_texts() == ["first <i>", "second"]
    heat = pixels_of(page, "heat")
    page.locator("#parts").select_option("1")
    assert (pixels_of(page, "heat") != heat).any()
    link = page.locator("#folder").evaluate("e => decodeURIComponent(e.href)")
    assert link.endswith("/" + NASTY + "/")


def test_without_detections_or_an_image(page):
    open_image(page, "nothing")
    assert "Nothing was detected in “nothing”." in page.locator("#says").inner_text()
    assert page.locator("#by").inner_text() == "standard deviation" and page.locator("#rows tr").count() == 10
    assert len({len(score.partition(".")[2]) for score in page.locator("#rows .bar").all_inner_texts()}) == 1
    assert page.locator("#group").inner_text().strip() == "nothing detected"
    open_image(page, "bare")
    assert page.locator("#photo").is_hidden() and page.locator("#heat").is_visible()
    assert page.evaluate("getComputedStyle(document.querySelector('#heat')).opacity") == "1"
    for canvas in ("heat", "ramp"):  # the colours themselves
        pixels = pixels_of(page, canvas)
        assert (pixels[..., 3] == 255).all()
        assert {tuple(pixel) for pixel in pixels[..., :3].reshape(-1, 3)} <= set(
            map(tuple, palette_of("inferno").tolist())
        )
    assert page.locator("#alpha").is_hidden() and page.locator("#grey").is_hidden()


def test_epochs_are_variants(page, made):
    page.locator("#images li[data-group='epoch 0'] button").click()
    assert page.locator("#groups option").all_inner_texts() == ["epoch 0", "epoch 10"]
    page.locator("#layers label", has_text="20").click()
    page.locator("#shows label", has_text="heat map").click()
    page.locator("#groups").select_option(label="epoch 10")
    assert page.locator("#images li[data-group='epoch 10'] button").get_attribute("aria-current") == "true"
    fm = made[1][10][1]  # the layer stays
    mean = fm.data.numpy().mean(0)
    assert_drawn(page, mean.clip(0), (0, mean.max()), fm)


@pytest.mark.parametrize("which", ["made", "explained"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dark", {"color_scheme": "dark", "viewport": DESKTOP}),
        ("phone", PHONE),
        ("phone_dark", {**PHONE, "color_scheme": "dark"}),
    ],
)
def test_dark_and_on_a_phone(name, options, which, page_of, request):
    page = page_of(request.getfixturevalue(which)[0], **options)
    keep(page, name + "_explained" * (which == "explained"))
    width, inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= inner
    for tag, ink, paper in page.evaluate(COLOURS):
        assert ratio(ink, paper) >= 4.5, (tag, ink, paper)  # WCAG 2.1, AA
        assert (luminance(paper) < 0.5) == ("dark" in name) or tag in ("SPAN", "BUTTON")
    if "phone" in name:
        for button in page.locator("#layers label, .zoom button").all():
            assert button.bounding_box()["height"] >= 34
        page.locator(".box").first.tap()
        assert "Picked: " in page.locator("#says").inner_text()
        page.screenshot(full_page=True)


def test_without_scripts(page_of, made):
    page = page_of(made[0], script=False, viewport=DESKTOP)
    keep(page, "without_scripts")
    assert page.locator("#low").inner_text().startswith("min −0.") and page.locator("#high").inner_text()[:4] == "max "
    assert "In “bus” the model found" in page.locator("#says").inner_text()
    assert page.locator("#photo").is_visible() and page.locator("#rows tr").count() == 10
    assert page.locator("noscript").is_visible() and not page.locator("#controls").is_visible()


def test_five_hundred_images(page_of, tmp_path):
    boxes = fv.Boxes([[10, 40, 60, 100], [70, 50, 126, 96]], [0.9, 0.5], ["cat", "cup"])
    photo = RNG.integers(0, 256, (480, 640, 3)).astype(np.uint8)
    report, maps = Report(tmp_path), some_maps(channels=(64, 64), boxes=boxes)
    for i in range(500):
        report.add(f"image{i:03d}", [("", maps)], photo)
    path = report.close()
    pages = sorted(tmp_path.iterdir(), key=lambda page: (len(page.name), page.name))
    assert pages[0] == path and report.images == 500 and len(pages) > 3
    assert max(page.stat().st_size for page in pages) < 20_000_000
    page = page_of(path)
    page.wait_for_selector("html:not(.still)", timeout=20_000)
    spent = page.evaluate("performance.timing.domInteractive - performance.timing.navigationStart")
    assert spent < 5_000
    assert page.evaluate("performance.memory.usedJSHeapSize") < 100_000_000
    links = page.locator(".pages a")
    assert links.count() == len(pages) and links.first.get_attribute("aria-current") == "page"
    assert page.locator(".overall").inner_text().startswith("500 images.")
    keep(page, "five_hundred")
    links.last.click()
    page.wait_for_selector("html:not(.still)", timeout=20_000)
    assert page.url.endswith(pages[-1].name) and "of 500" in page.locator(".pages").inner_text()
    page.locator("#filter").fill("image49")
    assert page.locator("#images li:visible").count() == 10
    page.locator("#images button", has_text="image499").click()
    assert "image499" in page.locator("#says").inner_text() and page.locator("#rows tr").count() == 10
    keep(page, "five_hundred_last")


def test_the_demo(page_of, tmp_path):
    """The report of a run of the real detect.py."""
    done = run("--weights", WEIGHTS, "--visualize-layers", "17,20,23", cwd=tmp_path)
    path = tmp_path / "runs/detect/exp/index.html"
    assert done.stderr.splitlines()[-1] == f"yolov5-featviz: open {path.relative_to(tmp_path)}"
    for name, options in (("demo_light", {}), ("demo_dark", {"color_scheme": "dark"}), ("demo_phone", PHONE)):
        page = page_of(path, **{"viewport": DESKTOP, **options})
        assert "In “bus” the model found 4 × person and 1 × bus." in page.locator("#says").inner_text()
        keep(page, name)
        open_image(page, "zidane")
        assert "2 × person and 1 × tie" in page.locator("#says").inner_text()
        page.locator(".box").last.dispatch_event("click")
        keep(page, f"{name}_picked")
        assert page.locator("#folder").get_attribute("href") == "zidane/"


def assert_explained(page, one):
    assert_drawn(page, one.heat.values, (0, 1), one.heat.feature_map)
    said = page.locator("#says").inner_text()
    place = f"Layer-CAM of layer {one.layers[0]} "
    assert f" Picked: {one.caption}. The picture shows what raised its score: {place}" in said
    assert page.locator("#caption").inner_text().startswith(f"Layer {one.layers[0]} · ")


def number_of(page, one):
    """The number of the box of an explanation on the page."""
    area = page.locator("#sheet").bounding_box()
    height, width = one.size
    x, y = (one.box[0] + one.box[2]) / 2 / width, (one.box[1] + one.box[3]) / 2 / height
    away = {}
    for box in page.locator(".box").all():
        found = box.bounding_box()
        label = box.get_attribute("aria-label")
        if one.label in label:
            middle = found["x"] + found["width"] / 2 - area["x"], found["y"] + found["height"] / 2 - area["y"]
            away[box.get_attribute("data-box")] = np.hypot(
                middle[0] - x * area["width"], middle[1] - y * area["height"]
            )
    return min(away, key=away.get)


def test_the_page_opens_with_the_worst_error(page_of, explained):
    path, every = explained
    worst = max((one for one in every["bus"] + every["zidane"] if one.layers == ("9",) and one.kind), key=severity)
    page, still = page_of(path), page_of(path, script=False, viewport=DESKTOP)
    assert worst.kind == "missed"
    assert_explained(page, worst)
    for selector in ("#says", "#caption", "#low", "#high"):
        assert page.locator(selector).inner_text() == still.locator(selector).inner_text()
    assert still.locator(".box.unseen.on").count() == 1 and still.locator("#errors a").count() == 4
    pressed = page.locator(".box[aria-pressed='true']")
    assert "unseen" in pressed.get_attribute("class") and pressed.locator(".kind").inner_text() == "missed"
    assert page.locator("#errors a").first.get_attribute("aria-current") == "true"
    keep(page, "errors")
    keep(still, "errors_without_scripts")


def severity(one):
    return 1 - one.score if one.kind == "missed" else one.score


def test_a_box_shows_its_explanation(page_of, explained):
    path, every = explained
    page = page_of(path)
    open_image(page, "bus")
    mine = [one for one in every["bus"] if one.layers == ("9",)]
    found = "In “bus” the model found 4 × person and 1 × bus; 2 errors ("
    assert page.locator("#says").inner_text().startswith(found)
    assert "The picture shows what raised the score of each: Layer-CAM of layer 9" in page.locator("#says").inner_text()
    together = np.max([one.heat.values for one in mine], axis=0)
    assert_drawn(page, together, (0, 1), mine[0].heat.feature_map)
    for one in mine:
        page.locator(f".box[data-box='{number_of(page, one)}']").dispatch_event("click")
        assert_explained(page, one)
        assert (page.locator(".box[aria-pressed='true'] .kind").count() == 1) == bool(one.kind)
        if one.kind:
            assert page.locator(".box[aria-pressed='true'] .kind").inner_text() == one.kind
        assert page.locator("#truth").is_visible() == (one.truth is not None)
    keep(page, "explanation")
    # values
    page.locator("#stage").scroll_into_view_if_needed()
    area = page.locator("#sheet").bounding_box()
    page.mouse.move(area["x"] + area["width"] / 2, area["y"] + area["height"] / 2)
    value = one.heat.values[one.heat.values.shape[0] // 2, one.heat.values.shape[1] // 2]
    said = page.locator("#readout").inner_text()
    assert "of its maximum · row 5, column 4" in said and float(said.split()[0]) == pytest.approx(value, abs=0.005)
    # the gallery, the heat map, and back
    tiles = page.locator("#explanations button")
    assert tiles.count() == 1 + len(mine)
    tiles.first.click()
    assert page.locator("#group").input_value() == "0"
    page.locator("#shows label", has_text="heat map").click()
    assert "The picture shows the mean of all 256 channels of layer 9" in page.locator("#says").inner_text()
    assert page.locator("#scale").is_enabled()
    tiles.nth(2).click()
    assert_explained(
        page, mine[int(np.argmin([number_of(page, one) != tiles.nth(2).get_attribute("data-box") for one in mine]))]
    )
    assert page.locator("#scale").is_disabled()


def test_a_layer_without_an_explanation_says_which_have_one(page_of, explained):
    path, every = explained
    page = page_of(path)
    open_image(page, "bus")
    page.locator("#layers label", has_text="6 C3").click()
    assert "mean of all" in page.locator("#says").inner_text()
    good = next(one for one in every["bus"] if not one.kind)
    wrong = next(one for one in every["bus"] if one.kind == "poor box" and one.layers == ("17",))
    page.locator(f".box[data-box='{number_of(page, wrong)}']").dispatch_event("click")
    said = page.locator("#absent").inner_text()
    assert said == "No explanation of person 0.85 in layer 6 (C3). There is one in layer 9 (SPPF), layer 17 (C3)."
    assert "mean of all" in page.locator("#says").inner_text()
    page.locator("#absent button", has_text="layer 17").click()
    assert page.locator("#absent").is_hidden()
    assert_explained(page, wrong)
    page.locator(f".box[data-box='{number_of(page, good)}']").dispatch_event("click")
    assert page.locator("#absent").inner_text().endswith(" in layer 17 (C3). There is one in layer 9 (SPPF).")
    assert page.locator("#heat").evaluate("e => getComputedStyle(e).opacity") == "0"  # there is nothing to show
    assert page.locator("#tiles button").count() == 0 and page.locator("#high").inner_text() == ""
    page.keyboard.press("Escape")
    assert page.locator("#absent").is_hidden()
    open_image(page, "unlabelled")
    assert page.locator("#absent").is_hidden() and page.locator("#explained").is_hidden()
    assert "stands out most on them" in page.locator("#says").inner_text()


def test_the_list_of_errors(page_of, explained):
    path, every = explained
    page = page_of(path)
    errors = sorted((one for name in every for one in every[name] if one.layers == ("9",) and one.kind), key=severity)
    links = page.locator("#errors a")
    names = {id(one): name for name in every for one in every[name]}
    assert links.count() == len(errors) == 4 and page.locator("#errors-title").inner_text() == "4 errors, worst first"
    for i, one in enumerate(errors[::-1]):
        words = " ".join(links.nth(i).inner_text().split())
        assert words == f"{one.kind} {one.label} {one.caption.split()[1].rstrip(',')} in {names[id(one)]} {one.note}"
    for i in (3, 1, 2):
        one = errors[::-1][i]
        links.nth(i).click()
        assert f"“{names[id(one)]}”" in page.locator("#says").inner_text()
        assert_explained(page, one)
        assert links.nth(i).get_attribute("aria-current") == "true"
    # by keyboard
    page.keyboard.press("x")
    assert links.nth(3).get_attribute("aria-current") == "true"
    page.keyboard.press("x")
    assert links.nth(0).get_attribute("aria-current") == "true"
    page.keyboard.press("Shift+X")
    assert_explained(page, errors[0])
    links.nth(1).focus()
    page.keyboard.press("Enter")
    assert_explained(page, errors[-2])
    page.keyboard.press("]")
    links.nth(1).click()  # the same place again
    assert_explained(page, errors[-2])
    page.go_back()
    assert links.nth(2).get_attribute("aria-current") == "true"
    # a place in an address, and one that there is not
    page.goto(f"{path.as_uri()}#2.0")
    page.reload()
    assert "“unlabelled”" in page.locator("#says").inner_text()
    page.goto(f"{path.as_uri()}#99.1")
    page.reload()
    assert_explained(page, errors[-1])
    page.goto(f"{path.as_uri()}#2.99")
    page.reload()
    assert "“unlabelled”" in page.locator("#says").inner_text() and "Picked" not in page.locator("#says").inner_text()
    rows = [row.split("\t") for row in page.locator(".kinds tr").all_inner_texts()]
    assert rows[0] == ["class", "missed", "false", "wrong class", "poor box", "duplicate"]
    assert rows[-1] == ["all", "2", "–", "–", "2", "–"]


def test_explanations_by_keyboard_alone(page_of, explained):
    page = page_of(explained[0])
    open_image(page, "bus")
    start = page.locator("#says").inner_text()
    for box in range(1, 7):
        page.keyboard.press("b")
        assert page.locator("#group").input_value() == str(box)
        assert "Picked: " in page.locator("#says").inner_text()
        assert "what raised its score: Layer-CAM of layer 9" in page.locator("#says").inner_text()
    page.keyboard.press("b")
    assert page.locator("#says").inner_text() == start
    page.keyboard.press("m")
    assert "mean of all" in page.locator("#says").inner_text()
    page.keyboard.press("e")
    assert page.locator("#says").inner_text() == start
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(200):
        page.keyboard.press("Tab")
        found = page.evaluate(FOCUSED)
        if found[0] == "BODY":
            break
        reached.append(found)
    assert all(name for _, name, _ in reached)
    assert sum("explanation" in name or "person" in name for _, name, _ in reached) >= 5
    page.locator("#shows input").first.focus()
    page.keyboard.press("ArrowRight")
    assert "mean of all" in page.locator("#says").inner_text()
    assert page.evaluate("document.activeElement.name") == "show"  # the focus stays


def test_explanations_without_feature_maps(page_of, images, tmp_path):
    every = fv.explain(WEIGHTS, images / "bus.jpg", imgsz=320)
    report = Report(tmp_path)
    report.add("bus", [], images / "bus.jpg", explanations=every)
    path = report.close()
    page = page_of(path)
    assert page.locator("#ranking").is_hidden() and page.locator("#explanations button").count() == 6
    page.locator(".box").nth(2).dispatch_event("click")
    assert "Picked: " in page.locator("#says").inner_text()
    for key in ("l", "c", "m", "e", "b", "x", "ArrowRight"):
        page.keyboard.press(key)
    page.locator("#stage").focus()
    page.keyboard.press("ArrowDown")
    assert "of its maximum" in page.locator("#readout").inner_text()
    keep(page, "explanations_alone")


def test_errors_on_several_pages(page_of, explained, tmp_path, monkeypatch):
    monkeypatch.setattr("yolov5_featviz.runs.report.PAGE", 30_000)
    _, every = explained
    report = Report(tmp_path)
    for name in every:
        photo = np.zeros((*every[name][0].size, 3), np.uint8)[::4, ::4]
        report.add(name, [], photo, size=every[name][0].size, explanations=every[name])
        report.add(f"{name} with maps", [("", some_maps())], RNG.integers(0, 256, (96, 128, 3)).astype(np.uint8))
    path = report.close()
    page = page_of(path)
    links = page.locator("#errors a")
    other = links.nth([link.get_attribute("href")[0] for link in links.all()].index("i"))
    words = other.inner_text()
    other.click()
    page.wait_for_url("**/index*.html#*")
    assert page.locator("#errors a[aria-current='true']").inner_text() == words
    assert page.locator(".box[aria-pressed='true']").count() == 1
