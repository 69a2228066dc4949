"""The page about a run, without a browser: what is in it, how large it gets, and that it is one whole file."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from helpers import WEIGHTS, feature_map
from PIL import Image

import yolov5_featviz as fv
from yolov5_featviz.attribution.explain import Explanation, overview
from yolov5_featviz.draw.heatmap import HeatMap
from yolov5_featviz.draw.page import map_title
from yolov5_featviz.draw.scale import Legend
from yolov5_featviz.models.layer_output import Dependence
from yolov5_featviz.runs import report as module
from yolov5_featviz.runs import report_data, report_errors, report_explanations
from yolov5_featviz.runs.look import Look
from yolov5_featviz.runs.report import Report
from yolov5_featviz.runs.report_data import Level, contrasts
from yolov5_featviz.runs.report_maps import numbers, quantise_maps
from yolov5_featviz.runs.report_plot import correlation_words
from yolov5_featviz.runs.run_folder import RunFolder

RNG = np.random.default_rng(0)
PHOTO = np.stack(np.broadcast_arrays(np.arange(96)[:, None] * 2, np.arange(128), 90), axis=2).astype(np.uint8)
BOXES = fv.Boxes([[10, 20, 60, 90], [70, 30, 120, 80]], [0.9, 0.5], ["cat", "cup"])
NASTY = "<img src=x onerror=alert(1)> \"'& {{entries}} {{says}} </script><!-- 名字 é.jpg"
VOID = {"meta", "link", "img", "input", "br"}


def some_map(channels=6, name="17", boxes=BOXES, data=None):
    """A map of cells of 8 pixels of an image of 128x96, padded above and below to 128x128."""
    data = RNG.normal(size=(channels, 16, 16)).astype(np.float32) if data is None else data
    fm = feature_map(data, input_size=(128, 128), region=(0, 16, 128, 112))
    layer = replace(fm.layer, name=name, index=int(name))
    shifted = None if boxes is None else replace(boxes, xyxy=boxes.xyxy + np.array([0, 16, 0, 16]))
    return replace(fm, boxes=shifted, layer=layer)


class Page(HTMLParser):
    """A page taken apart; it must be whole."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.links, self.tags, self.texts = [], [], [], [], []
        self.scripts, self.styles = [], []
        self.said, self._within = {}, []  # texts by id of an element around them
        self.feed(text)
        self.close()
        assert self.open == [], "tags that were not closed"
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.tags.append((tag, known))
        self.ids += [known["id"]] if "id" in known else []
        self.links += [known[name] for name in ("src", "href", "srcset", "action", "data") if name in known]
        if tag == "script":
            self.scripts.append([known, ""])
        if tag not in VOID:
            self.open.append(tag)
            self._within.append(known.get("id"))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self._within.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1][1] += data
        elif self.open and self.open[-1] == "style":
            self.styles.append(data)
        else:
            self.texts.append(data)
            for name in filter(None, self._within):
                self.said[name] = " ".join(f"{self.said.get(name, '')} {data}".split())

    @property
    def entries(self):
        data = [json.loads(text) for known, text in self.scripts if known.get("type") == "application/json"]
        return data[:-1]  # the last are the settings


def page_of(folder, *images, **options):
    made = Report(folder, **options)
    for words in images:
        made.add(**words)
    path = made.close()
    assert [p.name for p in folder.iterdir() if p.name.startswith(".") or ".part" in p.name] == []
    return Page(path.read_text(encoding="utf-8"))


def decoded(layer):
    """The maps of a layer by number, ``mean`` the heat map, as a reader of the page gets them."""
    codes = np.frombuffer(base64.b64decode(layer["data"]), np.uint8).reshape(-1, *layer["grid"])
    low, high = np.array(layer["ends"], float).T[:, :, None, None]
    values = np.where(codes == 255, np.nan, low + codes / 254 * (high - low))
    return dict(zip(["mean", *layer["channels"]], values))


def plain_contrast(fm, boxes):
    """Cohen's d by the definition, cell by cell."""
    y, x = np.mgrid[0.5:16, 0.5:16] * 8
    left, top, right, bottom = fm.window
    image = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    inside = np.zeros((16, 16), bool)
    for x0, y0, x1, y1 in boxes.xyxy:
        inside |= (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    scores = []
    for channel in fm.data.double().numpy():
        a, b = (part[np.isfinite(part)] for part in (channel[inside & image], channel[~inside & image]))
        s = np.sqrt(
            ((a - a.mean()) ** 2).sum() / (len(a) + len(b) - 2) + ((b - b.mean()) ** 2).sum() / (len(a) + len(b) - 2)
        )
        scores.append((a.mean() - b.mean()) / s)
    return np.array(scores)


def test_the_numbers_are_those_of_the_feature_map(tmp_path):
    fms = [some_map(6, "17"), some_map(9, "20")]
    page = page_of(tmp_path, {"name": "street", "parts": [("", fms)], "image": PHOTO, "folder": "a b/street"})
    (found,) = page.entries
    assert found["name"] == "street" and found["size"] == [96, 128] and found["link"] == "a%20b/street/"
    assert found["captions"] == ["cat 0.90", "cup 0.50"] and found["detected"] == 2
    np.testing.assert_allclose(found["boxes"], BOXES.xyxy / [128, 96, 128, 96], atol=1e-4)
    for fm, layer in zip(fms, found["parts"][0]["layers"]):
        data = fm.data.numpy()
        assert layer["shape"] == list(data.shape) and layer["grid"] == [16, 16] and layer["by"] == "contrast"
        assert sorted(layer["channels"]) == list(range(len(data)))
        assert layer["window"] == [0, 2, 16, 14] and layer["stride"] == [8, 8]
        np.testing.assert_allclose(layer["limits"], [data.min(), data.max()], rtol=1e-5)
        maps = decoded(layer)
        for k, channel in enumerate(data):
            np.testing.assert_allclose(maps[k], channel, atol=np.ptp(channel) / 508 * 1.01)
        np.testing.assert_allclose(maps["mean"], data.mean(0), atol=np.ptp(data.mean(0)) / 508 * 1.01)
        for group, boxes in enumerate([fm.boxes, *(fv.Boxes(box[None]) for box in fm.boxes.xyxy)]):
            expected = plain_contrast(fm, boxes)
            np.testing.assert_allclose(layer["scores"][group], expected[layer["channels"]], rtol=1e-3)
            assert [channel for channel, _ in layer["top"][group]] == np.argsort(-expected)[:10].tolist()
    best = max((s, fm.layer.name, k) for fm in fms for k, s in enumerate(plain_contrast(fm, fm.boxes)))
    assert found["says"] == "In “street” the model found 1 × cat and 1 × cup."
    channel = f"Channel {best[2]} of layer {best[1]} (C3) stands out most on them: the picture shows it."
    assert page.said["says"] == f"{found['says']} {channel}"
    assert found["best"] == ["17", "20"].index(best[1])


def test_the_first_screen_says_it_without_a_script(tmp_path):
    fms = [some_map(6, "17"), some_map(9, "20")]
    page = page_of(
        tmp_path,
        {"name": "empty", "parts": [("", [some_map(boxes=fv.Boxes([]))])], "image": PHOTO},
        {"name": "street", "parts": [("", fms)], "image": PHOTO},
        about="detect.py <3",
    )
    words = " ".join(" ".join(page.texts).split())
    says = page.entries[1]["says"]
    assert page.said["says"].startswith(says) and "detect.py <3" in words and "cat 0.90" in words
    assert "2 images. The strongest channel is in layer" in words and "on 1 of the 1 whose detections" in words
    rows = re.findall(r"(\d+) (17|20) C3 (\d+) (−?[\d.]+)", page.said["rows"])
    scores = {(fm.layer.name, str(k)): s for fm in fms for k, s in enumerate(plain_contrast(fm, fm.boxes))}
    expected = sorted(scores, key=lambda key: -scores[key])[:10]
    assert [(layer, channel) for _, layer, channel, _ in rows] == expected
    assert [float(score.replace("−", "-")) for *_, score in rows] == pytest.approx(
        [scores[key] for key in expected], abs=0.006
    )
    (overlay,) = [known["src"] for tag, known in page.tags if known.get("id") == "photo"]
    best, k = fms[page.entries[1]["best"]], int(expected[0][1])
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(overlay.split(",")[1]))), float)
    drawn = best.channel(k).over(PHOTO, plain=True).to_rgb()
    strong = np.abs(drawn.astype(float) - PHOTO).mean(axis=2) > 30
    untouched = np.abs(drawn.astype(float) - PHOTO).max(axis=2) <= 4
    error, change = np.abs(shown - drawn), np.abs(shown - PHOTO)
    assert error.mean() < 3 and strong.any() and change[strong].mean() > 3 * error[strong].mean()  # JPEG is not exact
    assert untouched.any() and change[untouched].mean() < 4
    assert [page.said["low"], page.said["high"]] == list(best.channel(k).legend[:2])
    assert page.said["caption"].startswith(f"Layer {best.layer.name} · C3 · channel {k} · H×W 16×16 · stride 8")
    assert page.said["says"].endswith(
        f"Channel {k} of {best.layer.title} stands out most on them: the picture shows it."
    )
    (ramp,) = [known["style"] for _, known in page.tags if known.get("id") == "ramp"]
    stops = [tuple(bytes.fromhex(stop)) for stop in re.findall(r"#(\w{6})", ramp)]
    low, high = best.data[k].min().item(), best.data[k].max().item()
    away = max(-low, high)  # the value farthest from 0 has an opacity of 0.8
    for stop, value, colour in ((0, low, (0, 0, 4)), (-1, high, (252, 255, 164))):  # the ends of inferno
        opacity = 0.8 * abs(value) / away
        np.testing.assert_allclose(stops[stop], opacity * np.array(colour) + (1 - opacity) * 128, atol=1.5)
    assert len(stops) == 20 and min(np.abs(np.array(stop) - 128).max() for stop in stops) < 25  # 0 is near one of them


@pytest.mark.parametrize(("data", "low"), [(-1.0, "all values ≤ 0"), (np.nan, "no finite value")])
def test_a_map_without_a_scale_says_why(data, low, tmp_path):
    fm = some_map(data=np.full((2, 16, 16), data, np.float32))
    page = page_of(tmp_path, {"name": "x", "parts": [("", [fm])], "image": PHOTO})
    assert low in page.texts
    (ramp,) = [known for tag, known in page.tags if known.get("id") == "ramp"]
    assert "hidden" in ramp and "style" not in ramp


def test_a_class_has_one_colour_in_all_images(tmp_path):
    red, blue = "#d55e00", "#0072b2"  # the first and the seventh of Okabe and Ito's colours as they are used
    first = replace(BOXES, classes=[0, 6])
    other = fv.Boxes([[10, 20, 60, 90], [70, 30, 120, 80], [5, 5, 50, 50]], [0.3, 0.9, 0.5], "abc", [8, 14, 0])
    page = page_of(tmp_path, *({"name": "x", "parts": [("", [some_map(boxes=boxes)])]} for boxes in (first, other)))
    assert [found["colours"] for found in page.entries] == [[red, blue], [blue, red, red]]  # by score, modulo 8
    shown = [known["class"] for tag, known in page.tags if known.get("class", "").startswith("box")]
    assert shown == ["box", "box dark"]  # white letters on blue


def test_maps_whose_scale_ends_in_the_padding_are_listed(tmp_path):
    data = RNG.random((4, 16, 16)).astype(np.float32)
    data[:, [0, 1, 14, 15]] = 0.5  # the padding
    data[1, 1, 3] = 5
    data[2, 14, 3] = -1
    data[3, 2, 3:5] = 9, -9
    cases = [
        ("mean", [0, 1, 2, 3], {1, 2}),
        ("mean", [0, 1, 2], {"heat", 1, 2, "layer"}),
        ("mean", [0, 2], {1, "layer"}),  # the heat map's scale begins at 0, not at its minimum
        ("sum", [0, 2], {"heat", 1, "layer"}),
    ]
    for n, (reduce, rows, expected) in enumerate(cases):
        image = {"name": "x", "parts": [("", [some_map(data=data[rows])])]}
        layer = page_of(tmp_path / str(n), image, look=Look(reduce=reduce)).entries[0]["parts"][0]["layers"][0]
        numbered = ["heat", *layer["channels"], "layer"]
        assert {numbered[i] for i in layer["padded"]} == expected
    fm = replace(some_map(data=data), region=None)
    (found,) = page_of(tmp_path / "whole", {"name": "x", "parts": [("", [fm])]}).entries
    assert found["parts"][0]["layers"][0]["padded"] == []


def test_contrasts_are_those_of_the_ranking():
    data = RNG.normal(size=(8, 16, 16)).astype(np.float32)
    data[2, 4, 4:8] = np.nan
    data[3, 9, 9] = np.inf
    data[4] = 0.1
    data[5] = np.nan
    data[6, 5:13, 2:8] = 3
    for values in (data[:2], data, data.astype(np.float64)):
        fm = some_map(data=torch.as_tensor(values))
        before = fm.data.clone()
        groups = [fm.boxes, fv.Boxes(fm.boxes.xyxy[:1]), fv.Boxes(fm.boxes.xyxy[1:]), fv.Boxes([])]
        found = contrasts(fm, groups)
        for row, boxes in zip(found, groups[:3]):
            expected = fv.rank(replace(fm, boxes=boxes), "contrast")
            assert expected.by == "contrast"
            np.testing.assert_allclose(row, expected.scores["contrast"], rtol=1e-6, atol=1e-9)
        assert np.isnan(found[3]).all()
        torch.testing.assert_close(fm.data, before, equal_nan=True, rtol=0, atol=0)
    box, edge = np.zeros((1, 16, 16), np.float32), fv.Boxes([[16, 32, 64, 96]])
    box[0, 4:12, 2:8] = 0.3  # constant on either side of the box, but not the same
    assert np.isposinf(contrasts(some_map(data=box), [edge])).all()
    assert contrasts(some_map(data=-box), [edge]) == -np.inf


def test_what_is_no_number_and_what_is_constant():
    maps = np.zeros((4, 2, 2), np.float32)
    maps[0] = [[np.nan, 1], [2, 3]]
    maps[1] = [[np.inf, 1], [2, -np.inf]]
    maps[2] = 7
    maps[3] = np.nan
    codes, ends = quantise_maps(maps)
    assert codes.tolist() == [[[255, 0], [127, 254]], [[254, 0], [254, 0]], [[0, 0], [0, 0]], [[255, 255], [255, 255]]]
    assert ends.tolist() == [[1, 3], [1, 2], [7, 7], [0, 0]]


def test_values_that_json_has_not(tmp_path):
    data = np.zeros((3, 16, 16), np.float32)
    data[0, 4:12, 2:8] = 1
    data[1] = np.nan
    fm = replace(some_map(data=data), boxes=fv.Boxes([[16, 32, 64, 96], [1, 1, 2, 2]], [0.5, 0.4]))
    page = page_of(tmp_path, {"name": "x", "parts": [("", [fm])]})
    layer = page.entries[0]["parts"][0]["layers"][0]
    assert layer["top"][0] == [[0, "inf"], [2, 0.0], [1, None]]
    assert layer["top"][2] == [[0, None], [1, None], [2, None]]  # that box lies in the padding
    assert page.entries[0]["captions"] == ["0.50", "0.40"]
    assert "Channel 0 of layer 17 (C3) stands out most on them" in page.said["says"]


@pytest.mark.parametrize(
    ("boxes", "says", "note"),
    [
        (None, "No detections of “x” are known.", "no detections are known"),
        (fv.Boxes([]), "Nothing was detected in “x”.", "nothing was detected"),
        (fv.Boxes([[0, 0, 128, 96]]), "In “x” the model found 1 × object.", "the boxes leave too few cells to compare"),
    ],
)
def test_without_anything_to_compare_it_says_so(boxes, says, note, tmp_path):
    fm = some_map(boxes=boxes)
    page = page_of(tmp_path, {"name": "x", "parts": [("", [fm])], "image": PHOTO})
    layer = page.entries[0]["parts"][0]["layers"][0]
    std = fm.data.numpy().std(axis=(1, 2))
    assert (layer["by"], layer["note"]) == ("std", note)
    np.testing.assert_allclose(layer["scores"], [std[layer["channels"]]], rtol=1e-3)
    channel = f"Channel {std.argmax()} of layer 17 (C3) varies most over the image: the picture shows it."
    assert page.said["says"] == f"{says} {channel}"


def test_names_of_any_kind(tmp_path):
    """Nothing that a file or a class may be called ends a tag, a script or an attribute."""
    boxes = fv.Boxes([[10, 20, 60, 90]], [0.5], [NASTY])
    surrogate = "\udcff.jpg"  # what Python makes of a byte that is no UTF-8
    images = [
        {"name": name, "parts": [(NASTY, [some_map(boxes=boxes)]), ("b", [some_map(boxes=boxes)])], "image": PHOTO,
         "group": NASTY, "folder": f"{name}/é"} for name in (NASTY, surrogate)
    ]  # fmt: skip
    page = page_of(tmp_path, *images, about=NASTY)
    plain = page_of(tmp_path, {"name": "a", "parts": [("", [some_map()])], "image": PHOTO})
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    assert [entry["name"] for entry in page.entries] == [NASTY, surrogate]
    assert page.entries[0]["group"] == page.entries[0]["parts"][0]["name"] == NASTY
    assert page.entries[0]["captions"] == [f"{NASTY} 0.50"]
    text = " ".join(page.texts)
    assert text.count(NASTY) >= 4
    items = [known for tag, known in page.tags if tag == "li" and "data-index" in known]
    assert items[0]["data-name"] == items[0]["data-group"] == NASTY
    assert not any(name.startswith("on") for _, known in page.tags for name in known)
    assert page.entries[0]["link"].startswith("%3Cimg%20src%3Dx") and page.entries[0]["link"].endswith("/%C3%A9/")
    assert page.entries[1]["link"] == "%FF.jpg/%C3%A9/"


def ablated_map(channels=20, name="17", lost=None):
    """Of the two boxes, the first depends on the first channels, the second on the last."""
    fm = some_map(channels, name)
    values = np.linspace(1, -0.2, channels)
    lost = np.array([0.9 * values, 0.5 * values[::-1] ** 3]) if lost is None else lost
    return fm.with_dependence(Dependence(fm.boxes, np.array([0.9, 0.5]), lost))


def test_channels_ranked_by_ablation(tmp_path):
    """The share of the score that all detections lose, or each, and beside it the contrast."""
    fm = ablated_map()
    page = page_of(tmp_path, {"name": "street", "parts": [("", [fm])], "image": PHOTO})
    (found,) = page.entries
    (layer,) = found["parts"][0]["layers"]
    ranking, shares = fv.rank(fm, "ablation"), fm.dependence.shares
    assert layer["by"] == "ablation"
    groups = [(ranking.scores["ablation"], ranking.scores["contrast"])]
    groups += [(shares[i], contrasts(fm, [fm.boxes.take([i])])[0]) for i in (0, 1)]
    for (expected, contrast), top in zip(groups, layer["top"]):
        order = np.argsort(-expected, kind="stable")[:10].tolist()
        assert [row[0] for row in top] == order
        np.testing.assert_allclose([row[1] for row in top], expected[order], rtol=1e-3)
        np.testing.assert_allclose([row[2] for row in top], contrast[order], rtol=1e-3)
    best = ranking.channels[0]
    assert f"Without channel {best} of layer 17 (C3) the score falls most: the picture shows it." in page.said["says"]
    assert page.said["by"] == "score lost" and page.said["heading"] == "What is needed most by"
    first = page.said["rows"].split()[:5]
    assert first[:4] == ["1", "17", "C3", str(best)] and float(first[4]) == pytest.approx(
        layer["top"][0][0][1], rel=1e-2
    )
    assert "hidden" not in next(known for tag, known in page.tags if known.get("id") == "beside")
    plain = page_of(tmp_path / "plain", {"name": "street", "parts": [("", [some_map()])], "image": PHOTO})
    assert "hidden" in next(known for tag, known in plain.tags if known.get("id") == "beside")
    assert plain.entries[0]["parts"][0]["layers"][0]["plot"] is None


@pytest.mark.parametrize(
    ("channels", "names", "n"),
    [
        (None, ["contrast", "score lost"], 10),
        ("top:3:ablation", ["contrast", "score lost"], 3),
        ("top:4:ablation:cup", ["contrast of cup", "score lost of cup"], 4),
        ("5-9", ["contrast", "score lost"], 10),
    ],
)
def test_the_plot_has_all_channels(channels, names, n, tmp_path):
    fm = ablated_map()
    look = Look(channels=channels)
    page = page_of(tmp_path, {"name": "street", "parts": [("", [fm])], "image": PHOTO}, look=look)
    plot = page.entries[0]["parts"][0]["layers"][0]["plot"]
    ranking = fv.rank(fm, "ablation:cup" if "cup" in names[0] else "ablation")
    x, y = ranking.scores[names[0]], ranking.scores[ranking.by]
    assert plot["names"] == names and plot["shown"] == ranking.channels[:n]
    assert [point[0] for point in plot["points"]] == ranking.channels
    np.testing.assert_allclose([point[1:] for point in plot["points"]], np.array([x, y]).T[ranking.channels], rtol=6e-3)
    order = [sorted(values.tolist()).index(value) for values in (x, y) for value in values]
    rho = 1 - 6 * sum((a - b) ** 2 for a, b in zip(order[:20], order[20:])) / (20 * (20**2 - 1))  # without equals
    assert plot["said"].startswith(f"Spearman’s rank correlation of the two is {rho:.2f}".replace("-", "−"))


@pytest.mark.parametrize(
    ("rho", "words"),
    [
        (1, "1.00, very strong and positive."),
        (-0.65, "−0.65, strong and negative."),
        (0.4, "0.40, moderate and positive."),
        (0.004, "0.00, very weak."),
        (-0.004, "0.00, very weak."),
        (np.nan, "so they have no rank correlation."),
    ],
)
def test_a_correlation_in_words(rho, words):
    assert correlation_words(rho).endswith(words)


def test_a_plot_leaves_out_what_has_no_place(tmp_path):
    """A channel without values, and a layer that nothing depends on."""
    fm = ablated_map(8)
    fm.data[2] = np.nan
    same = fm.with_dependence(replace(fm.dependence, lost=np.zeros((2, 8))))
    page = page_of(tmp_path, {"name": "street", "parts": [("", [fm, same])], "image": PHOTO})
    one, other = page.entries[0]["parts"][0]["layers"]
    assert 2 not in [point[0] for point in one["plot"]["points"]]
    assert one["plot"]["said"].startswith("1 channel has no finite contrast and is left out. ")
    assert (other["by"], other["plot"]) == ("contrast", None)


def test_it_asks_for_nothing_and_runs_nothing_but_its_own(tmp_path):
    page = page_of(tmp_path, {"name": "x", "parts": [("", [some_map()])], "image": PHOTO})
    assert all(link.startswith("data:") for link in page.links)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", "".join(page.styles))
    (script,) = [text for known, text in page.scripts if "type" not in known]
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(|WebSocket|innerHTML", script)
    (policy,) = [known["content"] for _, known in page.tags if known.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_the_page_is_the_same_again_and_replaces_nothing(tmp_path):
    images = [{"name": "x", "parts": [("", [some_map()])], "image": PHOTO}]
    page_of(tmp_path, *images)
    first = (tmp_path / "index.html").read_bytes()
    page_of(tmp_path, *images)
    assert (tmp_path / "index2.html").read_bytes() == first == (tmp_path / "index.html").read_bytes()
    assert Report(tmp_path).close() is None and len(list(tmp_path.iterdir())) == 2


def test_its_folder_is_made_when_there_is_something_to_put_in(tmp_path):
    assert Report(tmp_path / "a" / "b").close() is None and not (tmp_path / "a").exists()
    page_of(tmp_path / "a" / "b", {"name": "x", "parts": [("", [some_map()])]})
    assert (tmp_path / "a" / "b" / "index.html").is_file()


def test_later_images_are_shown_at_less(tmp_path, monkeypatch):
    """Where it stops is the size of the page, not the number of images."""
    monkeypatch.setattr(
        module, "LEVELS", (Level(60_000, 5, 9999, 100), Level(90_000, 3, 600, 64), Level(120_000, 0, 0, 32))
    )
    image = {"parts": [("", [some_map(), some_map(name="20")])], "image": PHOTO}
    page = page_of(tmp_path, *({**image, "name": f"n{i}"} for i in range(40)))
    kept = [[len(layer["channels"]) for layer in found["parts"][0]["layers"]] for found in page.entries]
    assert [kept.index(n) for n in ([5, 5], [1, 1], [0, 0])] == sorted(kept.index(n) for n in ([5, 5], [1, 1], [0, 0]))
    assert all(n in ([5, 5], [1, 1], [0, 0]) for n in kept) and 5 < len(kept) < 40
    sizes = {
        len(n): Image.open(io.BytesIO(base64.b64decode(found["photo"].split(",")[1]))).size
        for n, found in zip(kept, page.entries)
    }
    assert max(sizes.values()) == (32, 24)
    assert "40 images" not in " ".join(page.texts)
    assert f"{40 - len(kept)} more did not fit into this report" in " ".join(page.texts)
    chrome = len((tmp_path / "index.html").read_bytes()) - 120_000
    assert 0 < chrome < 85_000
    for found in page.entries:  # scores and rankings are there all the same
        assert len(found["parts"][0]["layers"][0]["top"][0]) == 6


def test_half_of_the_channels_are_the_best_of_single_boxes():
    whole, first, second = list(range(10)), [9, 8, 7, 0, 1, 2, 3, 4, 5, 6], [9, 6, 5, 0, 1, 2, 3, 4, 7, 8]
    assert report_data._chosen([whole, first, second], 6) == [0, 1, 2, 6, 8, 9]
    assert report_data._chosen([whole], 4) == [0, 1, 2, 3]
    assert report_data._chosen([whole, first], 10) == whole
    assert report_data._chosen([whole, first], 1) == [0]
    assert report_data._chosen([whole, first], 0) == []


def test_a_large_map_is_thinned_evenly(tmp_path):
    data = torch.arange(1100 * 700, dtype=torch.float32).reshape(1, 1100, 700)
    fm = feature_map(data, input_size=(2200, 1400))
    (found,) = page_of(tmp_path, {"name": "x", "parts": [("", [fm])]}).entries
    layer = found["parts"][0]["layers"][0]
    assert layer["shape"] == [1, 1100, 700] and layer["grid"] == [550, 350]
    assert layer["window"] == [0, 0, 350, 550]
    expected = data[0].numpy()[1::2, 1::2]
    np.testing.assert_allclose(decoded(layer)["mean"], expected, atol=1100 * 700 / 508 + 1)


def test_many_boxes_and_no_scores(tmp_path):
    xyxy = np.tile([8, 24, 40, 60], (80, 1)) + RNG.integers(0, 30, (80, 1))
    scores = RNG.random(80).astype(np.float32)
    for boxes in (fv.Boxes(xyxy, scores), fv.Boxes(xyxy)):
        fm = replace(some_map(), boxes=boxes)
        found = page_of(tmp_path, {"name": "x", "parts": [("", [fm])]}).entries[0]
        assert found["detected"] == 80 and len(found["boxes"]) == 50
        assert len(found["parts"][0]["layers"][0]["scores"]) == 51
        if boxes.scores is not None:
            assert found["captions"][0] == f"{scores.max():.2f}"


def test_an_image_that_cannot_be_written_leaves_the_others_whole(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, content):
            if b"boom" in content:
                super().write(content[:1000])
                raise OSError(28, "No space left on device")
            return super().write(content)

    monkeypatch.setattr(module.tempfile, "TemporaryFile", lambda dir: Full())
    made = Report(tmp_path)
    made.add("a", [("", [some_map()])], PHOTO)
    with pytest.raises(OSError, match="No space"):
        made.add("boom", [("", [some_map()])], PHOTO)
    made.add("b", [("", [some_map()])], PHOTO)
    page = Page(made.close().read_text(encoding="utf-8"))
    assert [found["name"] for found in page.entries] == ["a", "b"]


def test_memory_stays_flat(tmp_path):
    import tracemalloc

    made = Report(tmp_path)
    fms = [some_map(32)]
    made.add("first", [("", fms)], PHOTO)
    tracemalloc.start()
    for i in range(150):
        made.add(f"n{i}", [("", fms)], PHOTO)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = made.close().stat().st_size
    assert size > 2_000_000 and kept < 200_000 and peak < 1_500_000


def test_a_long_report_goes_on_in_further_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAGE", 60_000)
    (tmp_path / "index2.html").write_text("somebody else's")
    made = Report(tmp_path)
    nothing = [("", [some_map(boxes=fv.Boxes([]))])]
    for i in range(13):
        parts = nothing if i % 3 == 0 else [("", [some_map(6, "17"), some_map(9, "20")])]
        made.add(f"n{i}", parts, PHOTO, group=f"epoch {i // 7}")
    path = made.close()
    paths = [path, *(tmp_path / f"index{n}.html" for n in (3, 4, 5, 6, 7, 8) if (tmp_path / f"index{n}.html").exists())]
    assert path.name == "index.html" and len(paths) > 2
    assert (tmp_path / "index2.html").read_text() == "somebody else's"
    names, n = [], 0
    for k, path in enumerate(paths, 1):
        text = path.read_text(encoding="utf-8")
        page = Page(text)
        body = text[text.index('<ol id="images">') : text.index("</ol>")]
        assert 0 < len(body.encode()) <= 60_100
        links = [known for tag, known in page.tags if tag == "a" and "html" in known.get("href", "")]
        assert [known["href"] for known in links] == [other.name for other in paths]
        assert [known["href"] for known in links if known.get("aria-current") == "page"] == [path.name]
        words = " ".join(" ".join(page.texts).split())
        count = len(page.entries)
        span = f"{n + 1} to {n + count}" if count > 1 else str(n + 1)
        assert f"Page {k} of {len(paths)}, images {span} of 13:" in words and "13 images." in words
        items = [known for tag, known in page.tags if tag == "li" and "data-index" in known]
        assert [known["data-index"] for known in items] == [str(i) for i in range(count)]
        first = json.loads(page.scripts[-2][1])["first"]
        shown = next((i for i, found in enumerate(page.entries) if found["detected"]), 0)
        assert first == shown and page.entries[shown]["says"] in words
        assert f'<li class="group">{page.entries[0]["group"]}</li>' in body
        names += [found["name"] for found in page.entries]
        n += count
    assert names == [f"n{i}" for i in range(13)]


def test_pages_whose_names_are_taken_meanwhile_are_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAGE", 15_000)
    made = Report(tmp_path)
    for i in range(4):
        made.add(f"n{i}", [("", [some_map()])], PHOTO)
    rival = iter([tmp_path / "index2.html"])

    def write_new(path, content):
        for other in rival:
            other.write_text("a rival's")
        return written(path, content)

    written = module.write_new
    monkeypatch.setattr(module, "write_new", write_new)
    assert made.close() == tmp_path / "index.html"
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    pages = re.findall(r'<a href="(index\d*\.html)"', text)
    assert pages[:2] == ["index.html", "index3.html"] and (tmp_path / "index2.html").read_text() == "a rival's"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*pages, "index2.html"])


def test_no_page_is_larger_than_20_mb(tmp_path):
    """At full size: noise, which no browser's or disk's compression makes smaller, in as many channels as go in."""
    fms = [some_map(64, name, data=RNG.normal(size=(64, 80, 80)).astype(np.float32)) for name in ("17", "20", "23")]
    photo = RNG.integers(0, 256, (640, 640, 3)).astype(np.uint8)
    made = Report(tmp_path)
    for i in range(10):
        made.add(f"n{i}", [("", fms)], photo)
    assert made.close() == tmp_path / "index.html"
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert len(sizes) == 2 and max(sizes) < 20_000_000 < sum(sizes)


def test_an_image_too_large_for_a_page_is_shown_at_less(tmp_path, monkeypatch):
    monkeypatch.setattr(report_data, "HEAT", 12 * 2500)
    fms = [some_map(1, str(i), data=RNG.normal(size=(1, 100, 100)).astype(np.float32)) for i in range(12)]
    (found,) = page_of(tmp_path, {"name": "many layers", "parts": [("", fms)], "image": PHOTO}).entries
    assert [layer["grid"] for layer in found["parts"][0]["layers"]] == [[50, 50]] * 12  # together within bounds
    monkeypatch.setattr(module, "PAGE", 30_000)
    made = Report(tmp_path)
    made.add("a", [("", [some_map(64), some_map(64, "20")])], PHOTO)
    made.add("b", [("", fms)], PHOTO)
    made.add("c", [("", [some_map()])], PHOTO)
    assert (made.images, made.left_out) == (2, 1)
    page = Page(made.close().read_text(encoding="utf-8"))
    assert page.entries[0]["name"] == "a" and len(page.entries[0]["parts"][0]["layers"][0]["channels"]) == 16
    assert "1 more did not fit into this report" in " ".join(page.texts)


def test_spreads_are_those_of_the_ranking():
    data = RNG.normal(size=(40, 90, 90)).astype(np.float32)
    for values in (data, np.where(data > 3, np.nan, data), np.where(data > 3, np.inf, data)):
        fm = some_map(data=values, boxes=None)
        np.testing.assert_allclose(report_data._spreads(fm), fv.rank(fm, "std").scores["std"], rtol=1e-9)


def test_numbers_are_rounded_as_they_are_written():
    values = np.concatenate([RNG.normal(size=500) * 10.0 ** RNG.integers(-30, 30, 500), [0, 1, -1, 1e300, 5e-324]])
    for digits in (4, 6):
        expected = [float(f"{value:.{digits}g}") for value in values]
        assert numbers(values, digits) == pytest.approx(expected, rel=1e-12)
    assert numbers(np.array([[1.23456, np.nan], [np.inf, -np.inf]])) == [[1.235, None], ["inf", "-inf"]]


def test_a_smaller_copy_of_the_image_will_do(tmp_path):
    small = PHOTO[::2, ::2]
    words = {"name": "x", "parts": [("", [some_map()])], "image": small, "size": (96, 128)}
    (found,) = page_of(tmp_path, words).entries
    (whole,) = page_of(tmp_path / "b", {**words, "image": PHOTO, "size": None}).entries
    assert found["size"] == whole["size"] == [96, 128] and found["boxes"] == whole["boxes"]
    photo = Image.open(io.BytesIO(base64.b64decode(found["photo"].split(",")[1])))
    assert photo.size == (64, 48)


def explanation(box, label="cat", score=0.9, layers=("9",), data=None, side=8, **words):
    """An explanation in an image of 128x96, padded above and below to 128x128; by default of noise."""
    data = RNG.random((side, side)).astype(np.float32) if data is None else data
    fm = feature_map(data[None], input_size=(128, 128), region=(0, 16, 128, 112))
    fm = replace(fm, layer=replace(fm.layer, name="+".join(layers), type="SPPF"), image="x")
    legend = Legend("0", "max") if data.max() > 0 else Legend("all values ≤ 0", "")
    heat = HeatMap(data / (data.max() or 1), legend, map_title(fm, f"Layer-CAM of {label}"), fm)
    return Explanation(heat, tuple(map(float, box)), label, score, "layer-cam", layers, (96, 128), **words)


def cat(**words):
    return explanation([10, 20, 60, 90], "cat", 0.9, **words)


def cup(**words):
    return explanation([70, 30, 120, 80], "cup", 0.5, **words)


def lost(score=0.18, label="cat", box=(5, 5, 30, 40), **words):
    note = f"best candidate {score:.2f}, below 0.25"
    words = {"kind": "missed", "note": note, "detected": False, "truth": (4.0, 4.0, 32.0, 48.0), **words}
    return explanation(box, label, score, **words)


def explained(spot):
    """The maps of an explained layer by box as a reader of the page gets them."""
    return dict(zip(spot["boxes"], decoded({**spot, "channels": range(len(spot["boxes"]) - 1)}).values()))


def street(*explanations, name="street", **words):
    return {"name": name, "parts": [("", [some_map()])], "image": PHOTO, "explanations": explanations, **words}


def test_explanations_are_those_of_the_model(images, tmp_path):
    predictor = fv.Predictor(WEIGHTS)
    seen = predictor(images / "bus.jpg", layers="9,17", imgsz=320)
    every = fv.explain(predictor, images / "bus.jpg", layers="9", imgsz=320)
    page = page_of(
        tmp_path, {"name": "bus", "parts": [("", seen.maps)], "image": seen.pixels, "explanations": every[::-1]}
    )
    (found,) = page.entries
    (spot,) = found["spots"]
    assert (found["detected"], len(found["boxes"]), found["left_out"]) == (5, 5, 0)
    assert spot["name"] == found["parts"][0]["layers"][0]["name"] == "9" and spot["grid"] == [10, 8]
    np.testing.assert_allclose(spot["window"], every[0].heat.feature_map.to_cells(), rtol=1e-5)
    maps = explained(spot)
    assert sorted(maps) == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(maps[0], np.max([one.heat.values for one in every], axis=0), atol=1 / 500)
    height, width = every[0].size
    for box, edges in enumerate(np.clip(found["boxes"], 0, 1), 1):  # best score first, as the explanations were
        one = min(every, key=lambda one: np.abs(np.array(one.box) / ([width, height] * 2) - edges).max())
        np.testing.assert_allclose(np.array(one.box) / ([width, height] * 2), edges, atol=1e-3)
        np.testing.assert_allclose(maps[box], one.heat.values, atol=1 / 500)
        assert found["captions"][box - 1] == one.caption
    whole = "In “bus” the model found 4 × person and 1 × bus. The picture shows what raised the score of each: "
    assert page.said["says"] == f"{whole}Layer-CAM of layer 9 (SPPF)."
    assert page.said["caption"] in overview(every).title and "Layer-CAM of 4 × person, 1 × bus" in page.said["caption"]
    (overlay,) = [known["src"] for tag, known in page.tags if known.get("id") == "photo"]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(overlay.split(",")[1]))), float)
    small = np.asarray(Image.fromarray(seen.pixels).resize(shown.shape[1::-1], Image.BILINEAR))
    drawn = overview(every).over(small, plain=True).to_rgb().astype(float)
    assert np.abs(shown - drawn).mean() < 4 < np.abs(shown - small).mean()


def test_errors_are_listed_the_worst_first(tmp_path):
    """By the score of a mistake, and one minus the score of what was missed."""
    false = replace(cat(), kind="false", note="no labelled object there")
    later = [
        street(replace(cup(), kind="poor box", note="overlaps"), lost(0.24), cat(), name="second", group="epoch 1")
    ]
    layers = [replace(false, layers=("17",)), lost(0.03, "cup", layers=("17",))]
    missed = lost(0.03, "cup")
    page = page_of(tmp_path, street(name="good"), street(false, missed, *layers, name="first"), *later)
    lines = [known for tag, known in page.tags if tag == "a" and "#" in known.get("href", "")]
    assert [line["href"] for line in lines] == ["#1.3", "#1.1", "#2.3", "#2.2"]
    assert page.said["errors-title"] == "4 errors, worst first"
    assert page.said["errors"].startswith(
        "missed cup 0.03 in first best candidate 0.03, below 0.25 false cat 0.90 in first"
    )
    assert "missed cat 0.24 in epoch 1, second best candidate 0.24" in page.said["errors"]
    table = (tmp_path / "index.html").read_text(encoding="utf-8").split('class="kinds"')[1].split("</section>")[0]
    rows = [re.findall(r">([^<>\n]+)</t[hd]>", row) for row in table.split("<tr>")[1:]]
    assert rows == [
        ["class", "missed", "false", "wrong class", "poor box", "duplicate"],
        ["cat", "1", "1", "–", "–", "–"],
        ["cup", "1", "–", "–", "1", "–"],
        ["all", "2", "1", "–", "1", "–"],
    ]
    settings = json.loads(page.scripts[-2][1])
    assert (settings["first"], settings["box"]) == (1, 3)
    picked = "Picked: cup 0.03, missed: best candidate 0.03, below 0.25. The picture shows what raised its score: "
    found = "In “first” the model found 1 × cat and 1 × cup; 2 errors (1 missed and 1 false). "
    assert page.said["says"] == f"{found}{picked}Layer-CAM of layer 17 (SPPF)."  # there are feature maps of that one
    items = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'<b class="wrong">(.*?)</b>', items) == ["2 errors", "2 errors"]
    boxes = [known["class"] for _, known in page.tags if known.get("class", "").split(" ")[0] == "box"]
    assert ["unseen" in look and "on" in look.split() for look in boxes] == [False, False, True]


def test_one_image_has_no_table_and_no_errors_no_list(tmp_path):
    page = page_of(tmp_path / "one", street(lost()))
    assert page.said["errors-title"] == "1 error" and not [1 for _, known in page.tags if known.get("class") == "kinds"]
    page = page_of(tmp_path / "none", street(cat(), cup()), street())
    assert "errors" not in page.said and "kinds" not in page.said and "error" not in page.said["says"]


def test_what_was_missed_is_a_box_of_its_own(tmp_path):
    page = page_of(tmp_path, street(cat(), lost(), lost(layers=("17",)), lost(0.1, box=(90, 50, 128, 96))))
    (found,) = page.entries
    assert found["detected"] == 2 and found["captions"] == ["cat 0.90", "cup 0.50", "cat 0.18", "cat 0.10"]
    np.testing.assert_allclose(found["boxes"][2], np.array([5, 5, 30, 40]) / [128, 96, 128, 96], rtol=1e-3)
    mark = found["marks"][2]
    np.testing.assert_allclose(mark.pop("truth"), np.array([4, 4, 32, 48]) / [128, 96, 128, 96], rtol=1e-3)
    assert mark == {"kind": "missed", "said": "cat 0.18, missed: best candidate 0.18, below 0.25", "detected": False}
    assert found["marks"][1] == {}
    assert [spot["boxes"] for spot in found["spots"]] == [[0, 1, 3, 4], [0, 3]]
    layer = found["parts"][0]["layers"][0]
    assert len(layer["scores"]) == len(layer["top"]) == 5


def test_channels_are_compared_for_what_was_missed_too(tmp_path):
    fm = some_map()
    words = {"name": "x", "parts": [("", [fm])], "image": PHOTO, "explanations": [lost()]}
    (found,) = page_of(tmp_path, words).entries
    layer = found["parts"][0]["layers"][0]
    expected = plain_contrast(fm, fv.Boxes(np.array([[5, 21, 30, 56]])))  # in pixels of the input
    np.testing.assert_allclose(layer["scores"][3], expected[layer["channels"]], rtol=1e-3)


def test_maps_of_layers_that_differ_by_box_are_in_one_place(tmp_path):
    """Merged maps: of the layers chosen only some feed a detection."""
    first, second = cat(layers=("17",), side=16), cup(layers=("17", "20"), side=8)
    (spot,) = page_of(tmp_path, street(first, second)).entries[0]["spots"]
    assert spot["name"] == "17, 20" and spot["grid"] == [16, 16] and spot["boxes"] == [0, 1, 2]
    maps = explained(spot)
    np.testing.assert_allclose(maps[1], first.heat.values, atol=1 / 500)
    assert spot["says"][1:] == [
        "The picture shows what raised its score: Layer-CAM of layer 17 (SPPF).",
        "The picture shows what raised its score: Layer-CAM of layers 17, 20.",
    ]


def test_layers_of_one_name_are_told_apart(tmp_path):
    """Of several models."""
    first, second = cat(), cat()
    spots = page_of(tmp_path, street(first, second)).entries[0]["spots"]
    assert [spot["name"] for spot in spots] == ["9", "9 (2)"] and [spot["boxes"] for spot in spots] == [[0, 1]] * 2
    np.testing.assert_allclose(explained(spots[1])[1], second.heat.values, atol=1 / 500)


def test_large_maps_of_explanations_are_averaged(tmp_path):
    data = np.zeros((128, 128), np.float32)
    data[32:64, 64:96] = 1
    one = replace(cat(data=data), method="d-rise", layers=())
    page = page_of(tmp_path, street(one))
    (spot,) = page.entries[0]["spots"]
    assert spot["grid"] == [80, 80] and spot["name"] == "input" and spot["shape"] == [128, 128]
    np.testing.assert_allclose(spot["window"], [0, 10, 80, 70])
    values = explained(spot)[1]
    assert values.shape == (80, 80) and values.max() == 1
    np.testing.assert_allclose(values.sum() / 80**2, data.mean(), rtol=0.02)
    np.testing.assert_allclose(values[25:35, 45:55], 1, atol=0.01)
    assert page.said["says"].endswith("The picture shows what raised the score of cat 0.90: D-RISE.")


def test_a_map_of_zeros_says_that_nothing_raised_the_score(tmp_path):
    page = page_of(tmp_path, street(lost(data=np.zeros((8, 8), np.float32)), cat()))
    assert page.said["says"].endswith("Nothing raised its score: Layer-CAM of layer 9 (SPPF) is 0 everywhere.")
    assert page.said["low"] == "all values ≤ 0" and "high" not in page.said
    (spot,) = page.entries[0]["spots"]
    assert spot["legends"] == [["0", "max"], ["all values ≤ 0", ""], ["0", "max"]]


def test_explanations_that_do_not_fit_are_counted_and_errors_fit_first(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LEVELS", (Level(60_000, 5, 9999, 100, 3 * 64, 80),))
    page = page_of(tmp_path, street(cat(), cup(), cat(layers=("17",)), cup(layers=("17",)), lost()))
    (found,) = page.entries
    assert [spot["boxes"] for spot in found["spots"]] == [[0, 1, 3], [0, 1]]
    assert found["left_out"] == 2
    monkeypatch.setattr(module, "LEVELS", (Level(60_000, 0, 0, 100, 0, 4),))
    (found,) = page_of(tmp_path, street(cat(), cup())).entries
    assert [(spot["boxes"], spot["grid"]) for spot in found["spots"]] == [([0], [4, 4])] and found["left_out"] == 2


def test_many_errors_are_counted_and_the_worst_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(report_errors, "LISTED", 5)
    monkeypatch.setattr(report_explanations, "ADDED", 3)
    crowd = [lost(0.2 - i / 100, box=(i, i, i + 20, i + 30), truth=None) for i in range(9)]
    page = page_of(tmp_path, street(*crowd), street(cat(), name="other"))
    lines = [known["href"] for tag, known in page.tags if tag == "a" and "#" in known.get("href", "")]
    assert lines == ["#0.0"] * 5  # the boxes of the worst have no room
    assert page.said["errors-title"] == "The worst 5 of 9 errors"
    assert "9 errors (9 missed)" in page.entries[0]["says"]
    assert page.entries[0]["left_out"] == 6 and len(page.entries[0]["boxes"]) == 5


def test_errors_link_to_the_pages_that_they_are_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAGE", 15_000)
    made = Report(tmp_path)
    for i in range(4):
        made.add(**street(lost(0.2 - i / 20), name=f"n{i}"))
    texts = [made.close(), *(tmp_path / f"index{n}.html" for n in (2, 3, 4))]
    for i, path in enumerate(texts):
        page = Page(path.read_text(encoding="utf-8"))
        links = [known["href"] for tag, known in page.tags if tag == "a" and "#" in known.get("href", "")]
        expected = ["index4.html#0.3", "index3.html#0.3", "index2.html#0.3", "index.html#0.3"]
        expected[3 - i] = "#0.3"
        assert links == expected and page.said["errors-title"] == "4 errors, worst first"


def test_explanations_alone(tmp_path):
    """Without feature maps: those of a method that looks at the image alone."""
    words = {"name": "x", "parts": [], "image": PHOTO}
    page = page_of(tmp_path / "a", {**words, "explanations": [cat(), cup()]})
    (found,) = page.entries
    assert (found["parts"], found["detected"], found["captions"]) == ([], 2, ["cat 0.90", "cup 0.50"])
    assert page.said["says"].startswith("In “x” the model found 1 × cat and 1 × cup. The picture shows what raised")
    assert "hidden" in next(known for _, known in page.tags if known.get("id") == "ranking")
    (found,) = page_of(tmp_path / "b", {**words, "explanations": [lost()], "image": None}).entries
    assert found["detected"] is None and found["says"] == "“x” has 1 error (1 missed)." and found["size"] == [96, 128]
    assert Report(tmp_path / "c").add("x", [], PHOTO) is None and not (tmp_path / "c").exists()


def test_explained_names_of_any_kind(tmp_path):
    boxes = fv.Boxes([[10, 20, 60, 90]], [0.5], [NASTY])
    one = replace(cat(), label=NASTY, score=0.5, kind="false", note=NASTY)
    other = lost(label="\udcff\x00", note=NASTY)
    words = {"name": NASTY, "parts": [("", [some_map(boxes=boxes)])], "image": PHOTO, "explanations": [one, other]}
    page = page_of(tmp_path, words)
    plain = page_of(tmp_path / "plain", street(replace(cat(), kind="false", note="a"), lost()))
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    (found,) = page.entries
    assert len(found["boxes"]) == 2 and found["marks"][0]["said"] == f"{NASTY} 0.50, false: {NASTY}"
    assert NASTY in page.said["errors"] and NASTY in page.said["says"]


def test_half_precision_boxes_are_recognised(tmp_path):
    shifted = [float(np.float16(edge + 0.1)) for edge in (10, 20, 60, 90)]
    (found,) = page_of(tmp_path, street(replace(cat(), box=tuple(shifted), score=0.9002))).entries
    assert len(found["boxes"]) == 2 and found["spots"][0]["boxes"] == [0, 1]


def test_a_run_folder_passes_explanations_on(tmp_path):
    said = []
    with RunFolder(Look(), said.append) as gallery:
        files = [("", lambda made: [("a.png", b"")])]
        gallery.add(tmp_path, "street", files, [("", [some_map()])], PHOTO, explanations=[cat(), lost()])
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.entries[0]["spots"][0]["boxes"] == [0, 1, 3] and page.said["errors-title"] == "1 error"
