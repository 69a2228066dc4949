"""Models side by side: the real command on the demo checkpoint and one that was trained for 60 epochs."""

import json
import math
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import torch
import yaml
from comparing import LABELS, SIZES, compare, rows_of, write_labels
from helpers import ROOT, WEIGHTS, feature_map, files_below, run

import yolov5_featviz as fv
from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.compare import pages
from yolov5_featviz.compare.measure import measure_image
from yolov5_featviz.compare.options import CompareOptions
from yolov5_featviz.compare.pages import difference
from yolov5_featviz.compare.summary import METRICS
from yolov5_featviz.runs.provenance import read_record, sha256
from yolov5_featviz.yolov5 import compare as module
from yolov5_featviz.yolov5.compare import by_model, model_names
from yolov5_featviz.yolov5.labels import read_label
from yolov5_featviz.yolov5.predictor import Predictor, RemotePredictor, predictors

pytestmark = pytest.mark.slow

EPOCH60 = ROOT / "weights" / "epoch60.pt"
MODELS = ("best", "epoch60")
SMALL = ("--imgsz", "320", "--dpi", "80", "--width", "4")


@pytest.fixture(scope="module")
def compared(tmp_path_factory, images):
    """The command as a user types it, with a damaged image among the good ones: the finished process, its folder."""
    home = tmp_path_factory.mktemp("comparison")
    shutil.copytree(images, home / "data" / "images")
    (home / "data" / "images" / "damaged.jpg").write_text("no image")
    write_labels(home / "data" / "labels")
    words = ("--weights", WEIGHTS, EPOCH60, "--layers", "17,23", "--source", "data/images", *SMALL)
    done = run("-m", "yolov5_featviz", "compare", *words, cwd=home, script=None, check=1)
    return done, home


@pytest.fixture(scope="module")
def predict():
    return dict(zip(MODELS, (Predictor(WEIGHTS), Predictor(EPOCH60))))


def three(x):
    """A number with three digits, zeros included."""
    return f"{x:.{max(0, 2 - math.floor(math.log10(x)))}f}"


def positive_mean(fm):
    return np.maximum(fm.data.numpy().mean(axis=0), 0)


def test_what_is_there(compared):
    done, home = compared
    exp = home / "runs" / "compare" / "exp"
    tables = [f"{name}.csv{end}" for name in ("metrics", "means", "differences", "map") for end in ("", ".json")]
    assert files_below(exp) == sorted([*tables, "table.tex", "table_column.tex", "bus.png", "zidane.png"])
    damaged, *_ = lines = done.stderr.splitlines()
    assert damaged.startswith("yolov5-featviz: cannot read the image data/images/damaged.jpg")
    assert lines[-2].startswith("yolov5-featviz: 2 images, in runs/compare/exp; ")
    assert lines[-1] == "yolov5-featviz: open runs/compare/exp/bus.png"
    assert done.stdout == "" and "\r" not in done.stderr
    pixels = cv2.imread(str(exp / "zidane.png"))
    assert pixels.shape[1] == 320 and pixels.std() > 30


def test_numbers(compared, predict, images):
    """Each in metrics.csv, worked out anew on whole pixels from the maps."""
    _, home = compared
    rows = rows_of(home / "runs" / "compare" / "exp" / "metrics.csv")
    keys = [(row["image"], row["layer"], row["model"]) for row in rows]
    assert keys == [(i, k, m) for i in ("bus", "zidane") for k in ("17", "23") for m in MODELS]
    samples = {}
    for row in rows:
        image, layer, model = row["image"], row["layer"], row["model"]
        seen = predict[model](images / f"{image}.jpg", layers="17,23", imgsz=320)
        fm = seen[layer]
        left, top, right, bottom = (round(edge) for edge in seen.region)
        stride = seen.input_size[0] // fm.data.shape[1]
        heat = np.kron(positive_mean(fm), np.ones((stride, stride)))[top:bottom, left:right]
        inside = np.zeros(heat.shape, bool)
        height, width = SIZES[image]
        y, x = np.indices(heat.shape) + 0.5
        for _, x0, y0, x1, y1 in LABELS[image]:
            across, down = heat.shape[1] / width, heat.shape[0] / height
            inside |= (x >= x0 * across) & (x < x1 * across) & (y >= y0 * down) & (y < y1 * down)
        assert row["boxes"] == "labels"
        assert float(row["box_area"]) == pytest.approx(inside.mean(), rel=1e-6)
        assert float(row["energy_inside"]) == pytest.approx(heat[inside].sum() / heat.sum(), rel=1e-5)

        cells = np.zeros(fm.data.shape[1:], bool)
        for i, j in np.ndindex(cells.shape):
            cells[i, j] = top <= (i + 0.5) * stride < bottom and left <= (j + 0.5) * stride < right
        p = positive_mean(fm)[cells].astype(float) / positive_mean(fm)[cells].sum(dtype=float)
        p = p[p > 0]
        assert float(row["entropy"]) == pytest.approx(-(p * np.log(p)).sum() / math.log(cells.sum()), rel=1e-5)
        data = fm.data.numpy().astype(float)[:, cells]
        means_ = np.abs(data).mean(axis=1)
        root = math.sqrt(len(data))
        sparse = (root - means_.sum() / np.linalg.norm(means_)) / (root - 1)
        assert float(row["channel_sparsity"]) == pytest.approx(sparse, rel=1e-5)
        i, j = np.unravel_index(np.where(cells, positive_mean(fm), -1).argmax(), cells.shape)
        reach = np.zeros(heat.shape, bool)
        at = ((i + 0.5) * stride - top, (j + 0.5) * stride - left)
        reach[(y - at[0]) ** 2 + (x - at[1]) ** 2 <= 14**2] = True  # well within the tolerance
        if inside[reach].any():
            assert row["pointing_hit"] == "1"
        samples[image, layer, model] = data.T
        if model == "best":
            assert row["cka"] == row["cka_debiased"] == ""
            continue
        a, b = (samples[image, layer, m] - samples[image, layer, m].mean(axis=0) for m in MODELS)
        gram = a @ a.T, b @ b.T
        cka = (gram[0] * gram[1]).sum() / math.sqrt((gram[0] ** 2).sum() * (gram[1] ** 2).sum())
        assert float(row["cka"]) == pytest.approx(cka, rel=1e-5)
        assert 0 < float(row["cka_debiased"]) < cka
    assert {row["pointing_hit"] for row in rows} <= {"0", "1"}


def test_means(compared):
    exp = compared[1] / "runs" / "compare" / "exp"
    rows = rows_of(exp / "metrics.csv")
    found = rows_of(exp / "means.csv")
    assert [(row["layer"], row["model"]) for row in found] == [(k, m) for k in ("17", "23") for m in MODELS]
    for mean in found:
        same = [row for row in rows if (row["layer"], row["model"]) == (mean["layer"], mean["model"])]
        for metric in METRICS:
            values = [float(row[metric]) for row in same if row[metric]]
            assert int(mean[f"{metric}_n"]) == len(values) == (0 if "cka" in metric and mean["model"] == "best" else 2)
            if values:
                assert float(mean[metric]) == pytest.approx(sum(values) / 2)
                assert float(mean[f"{metric}_sd"]) == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2), abs=1e-8)
            assert mean[f"{metric}_low"] == mean[f"{metric}_high"] == ""  # of two images


def test_two_images_are_no_conclusion(compared):
    """Neither on the screen nor in a table: no interval, no p value, no star."""
    done, home = compared
    exp = home / "runs" / "compare" / "exp"
    assert "\n2 images: no conclusion\n" in done.stderr and "nan" not in done.stderr.lower()
    rows = rows_of(exp / "differences.csv")
    metrics = ("energy_inside", "pointing_hit", "channel_sparsity", "entropy")
    assert [(row["layer"], row["metric"]) for row in rows] == [(k, m) for k in ("17", "23") for m in metrics]
    of_image = rows_of(exp / "metrics.csv")
    for row in rows:
        assert (row["model"], row["reference"], row["n"]) == ("epoch60", "best", "2")
        assert row["note"] == "2 images: no conclusion"
        assert {row[key] for key in ("low", "high", "p", "p_holm", "effect")} == {""}
        of = {
            m: [float(one[row["metric"]]) for one in of_image if (one["layer"], one["model"]) == (row["layer"], m)]
            for m in MODELS
        }
        assert float(row["difference"]) == pytest.approx(sum(of["epoch60"]) / 2 - sum(of["best"]) / 2, abs=1e-8)
    for name in ("table.tex", "table_column.tex"):
        text = (exp / name).read_text()
        assert (
            "2 images: no conclusion." in text
            and "*" not in text.split("toprule")[1]
            and "[" not in text.split("toprule")[1]
        )


def test_one_scale_for_a_layer(predict, images, tmp_path, monkeypatch):
    """Painted cell by cell: both models' heat from 0 to the larger maximum, as strong over the image as it is high;
    the difference around 0. Bars say what they measure."""
    panels = []
    compose = pages.compose
    monkeypatch.setattr(pages, "compose", lambda rows, *rest: panels.append(rows) or compose(rows, *rest))
    monkeypatch.chdir(tmp_path)
    bus = images / "bus.jpg"  # 640 × 480 for the network, without padding
    words = ("--weights", WEIGHTS, EPOCH60, "--layers", "17,20", "--source", bus, "--cmap", "gray", "--alpha", "1")
    assert compare(*words, "--dpi", "80", "--width", "4", "--quiet", "--project", "out", "--name", "n") == 0
    record = read_record("out/n/bus.png")
    (rows,) = panels
    assert [[panel is not None for panel in row] for row in rows] == [[True] * 3, [True] * 3, [False, True, True]]
    whole = rows[0][0].window
    assert whole == (0, 0, 810, 1080)
    photo = cv2.imread(str(bus))
    for k, layer in enumerate((17, 20)):
        maps = [positive_mean(predict[model](bus, layers=[layer])[layer]) for model in MODELS]
        most = max(x.max() for x in maps)
        for heat, panel in zip(maps, (rows[0][k + 1], rows[1][k + 1])):
            painted = panel.paint(heat.shape, whole).astype(int)
            below = cv2.resize(photo, heat.shape[::-1], interpolation=cv2.INTER_AREA)[..., 2]
            share = heat / most
            np.testing.assert_allclose(painted[..., 0], share * share * 255 + (1 - share) * below, atol=2.01)
            assert panel.bar[1:4] == ("0", f"max {three(most)}", "channel mean")
        apart = maps[1] - maps[0]
        end = np.abs(apart).max()
        panel = rows[2][k + 1]
        colours = matplotlib.colormaps["RdBu_r"]((apart / end + 1) / 2)[..., :3] * 255
        np.testing.assert_allclose(panel.paint(apart.shape, whole).astype(float), colours, atol=5)
        assert panel.bar[1:4] == (f"−{three(end)}", three(end), "difference")
        assert record["scales"][str(layer)] == pytest.approx([0, most, -end, end], rel=1e-5)
    assert record["models"] == ["best", "epoch60"] and "labels" not in record
    assert rows_of("out/n/metrics.csv")[0]["boxes"] == "detections"
    boxes = rows[1][0].boxes
    assert len(boxes) == len(predict["epoch60"](bus).boxes) and set(boxes.labels) == {"person"}


def test_bars_of_maps_that_are_clipped_alike_or_all_negative(tmp_path):
    """Of stand-ins: channel mean ``x`` of one model, ``y`` of the other, below a photograph in grey or not."""
    pixels = np.dstack([np.full((8, 16), value, np.uint8) for value in (200, 100, 50)])
    given = {"weights": ("a", "b"), "layers": ("1",), "source": "", "width": 4, "dpi": 80}

    def panels(x, y, **more):
        maps = [[feature_map(np.array(values, np.float32)[None], input_size=(8, 16))] for values in (x, y)]
        seen = [fv.Prediction("i", pixels, (8, 16), (0.0, 0.0, 16.0, 8.0), None, found) for found in maps]
        composed = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pages, "compose", lambda rows, *rest: composed.append(rows))
            pages.draw_pages("i", "ab", seen, maps, None, CompareOptions(**given, **more))
        return [row[1] for row in composed[0]]

    upper, _, lower = panels([[0.5, -0.25]], [[0.5, 2.0]])
    assert upper.bar[1:4] == ("≤ 0", "max 2.00", "channel mean") and lower.bar[1:4] == ("−2.00", "2.00", "difference")
    upper, _, lower = panels([[-1, -2]], [[-1, -2]])
    assert upper.bar[1:4] == ("", "", "channel mean, all values ≤ 0") and lower.bar[1:4] == ("", "", "no difference")
    upper, _, _ = panels([[-1, -2]], [[-1, 4]], reduce="max")
    assert upper.bar[1:4] == ("min −2.00", "max 4.00", "channel max")
    luma = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    for more, expected in (({}, (200, 100, 50)), ({"desaturate": True}, (luma,) * 3)):
        upper, _, _ = panels([[0, 1]], [[0, 1]], **more)
        assert tuple(upper.paint((8, 16), upper.window)[4, 0]) == expected  # untouched where the map is 0


def test_different_layers_of_each(predict, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images, "images")
    write_labels(tmp_path / "true", ["bus"])
    words = (
        "--weights",
        WEIGHTS,
        EPOCH60,
        "--layers",
        "epoch60=20",
        "best=17",
        "--source",
        "images",
        "--labels",
        "true",
    )
    assert compare(*words, *SMALL, "--verbose") == 0
    assert "wrote runs/compare/exp/zidane.png" in capsys.readouterr().err
    rows = rows_of("runs/compare/exp/metrics.csv")
    assert [row["layer"] for row in rows] == ["17 / 20"] * 4
    assert all(row["boxes"] == "labels" for row in rows)
    assert [bool(row["energy_inside"]) for row in rows] == [True, True, False, False]  # no file: no objects
    assert read_record("runs/compare/exp/bus.png")["labels"]["sha256"] == sha256("true/bus.txt")

    a, b = predict["best"]("images/bus.jpg", [17])[17], predict["epoch60"]("images/bus.jpg", [20])[20]
    larger = torch.nn.functional.interpolate(torch.tensor(positive_mean(b))[None, None], (80, 60), mode="bilinear")
    apart, there = difference(a, b, positive_mean(a), positive_mean(b))
    np.testing.assert_allclose(apart, larger[0, 0].numpy() - positive_mean(a), atol=1e-5)
    assert there.window == (0, 0, 60, 80)


def test_difference_where_paddings_differ():
    """A layer of stride 4 of an image without padding, one of stride 8 below eight pixels of it."""
    fine = np.tile(np.arange(8, dtype=np.float32), (4, 1))
    coarse = np.vstack([[[99.0] * 4], np.tile(np.arange(4) * 2 + 0.5, (2, 1))]).astype(np.float32)
    a = feature_map(fine[None], input_size=(16, 32))
    b = feature_map(coarse[None], input_size=(24, 32), region=(0.0, 8.0, 32.0, 24.0))
    apart, _ = difference(a, b, fine, coarse)
    assert apart.shape == (4, 8)
    np.testing.assert_allclose(apart[2:, 1:7], 0, atol=1e-6)  # at the edges there is nothing beyond


def test_measured_by_what_each_detected(predict, images):
    seen = [predict[model](images / "bus.jpg", [23]) for model in MODELS]
    rows = measure_image("bus", MODELS, [one.maps for one in seen])
    assert [row.boxes for row in rows] == ["detections"] * 2
    assert rows[0].box_area > rows[1].box_area + 0.1  # one sees the bus, the other does not
    same = measure_image("bus", MODELS, [one.maps for one in seen], [seen[0].boxes] * 2)
    assert same[0][:8] == rows[0]._replace(boxes="labels")[:8] and same[1].box_area == same[0].box_area
    nothing = measure_image("bus", MODELS, [one.maps for one in seen], [Boxes(np.zeros((0, 4)))] * 2)
    assert all(math.isnan(row.energy_inside) and math.isnan(row.pointing_hit) for row in nothing)


def test_checkouts_of_their_own(images, tmp_path, monkeypatch):
    """One checkpoint under two releases, which cannot be imported together: the maps are the same."""
    kept = []

    @contextmanager
    def keep(*arguments):
        with predictors(*arguments) as found:
            kept.extend(found)
            assert all(isinstance(one, RemotePredictor) and one._process.poll() is None for one in found)
            yield found

    monkeypatch.setattr(module, "predictors", keep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    wheel = Path(sys.prefix) / "wheels" / "6.2.3" / "yolov5"
    words = ("--weights", WEIGHTS, WEIGHTS, "--names", "new", "old", "--yolov5", images.parents[1], wheel)
    assert compare(*words, "--layers", "17,20", "--source", images / "zidane.jpg", *SMALL, "--quiet") == 0
    assert len({one._process.pid for one in kept}) == 2 and [one._process.poll() for one in kept] == [0, 0]
    assert kept[0].release != kept[1].release

    record = read_record("runs/compare/exp/zidane.png")
    assert record["yolov5"] == f"{kept[0].release}, {kept[1].release}"
    new, old = ([row for row in rows_of("runs/compare/exp/metrics.csv") if row["model"] == n] for n in ("new", "old"))
    assert len(new) == len(old) == 2
    for a, b in zip(new, old):
        assert float(b["cka"]) == pytest.approx(1) and a["boxes"] == b["boxes"] == "detections"
        for metric in ("box_area", "energy_inside", "entropy", "channel_sparsity"):
            assert float(a[metric]) == pytest.approx(float(b[metric]), rel=1e-4)
    assert all(scale[3] < 1e-3 * scale[1] for scale in record["scales"].values())


def test_info_and_redo(compared):
    _, home = compared
    shutil.copytree(ROOT / "weights", home / "weights", dirs_exist_ok=True)
    figure = "runs/compare/exp/zidane.png"
    told = run("-m", "yolov5_featviz", "info", figure, cwd=home, script=None).stdout
    for words in (
        "compare --weights best.pt epoch60.pt --layers 17,23",
        sha256(WEIGHTS),
        sha256(EPOCH60),
        "zidane.txt",
    ):
        assert words in told
    assert str(home) not in told and str(ROOT) not in told
    done = run("-m", "yolov5_featviz", "redo", figure, cwd=home, script=None)
    assert done.stdout.splitlines()[-1] == f"{figure}: identical, byte for byte"
    assert done.stdout.count("the same file") == 3 and "metrics.csv" not in done.stderr
    table = json.loads((home / "runs/compare/exp/metrics.csv.json").read_text())
    assert [image["name"] for image in table["images"]] == ["bus.jpg", "zidane.jpg"]
    assert read_record(home / "runs/compare/exp/table.tex")["weights"] == table["weights"]
    for name in ("differences.csv", "map.csv", "table_column.tex"):
        done = run("-m", "yolov5_featviz", "redo", f"runs/compare/exp/{name}", cwd=home, script=None)
        assert done.stdout.splitlines()[-1] == f"runs/compare/exp/{name}: identical, byte for byte"


BOTH = ("--weights", WEIGHTS, EPOCH60)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--weights", WEIGHTS, "--layers", "17"), "1 --weights: give two or more to compare"),
        ((*BOTH, "--layers", "99"), "best: no layer 99: this model has layers 0 to 24"),
        ((*BOTH, "--layers", "24"), "layer 24 (Detect) yields"),
        ((*BOTH, "--layers", "best=17", "other=20"), "--layers other=20: give one selection for all, or one for each"),
        ((*BOTH, "--layers", "best=17"), "--layers lacks epoch60: add epoch60=17"),
        ((*BOTH, "--layers", "best=17,20", "epoch60=20"), "their numbers differ: best 2, epoch60 1"),
        ((*BOTH, "--layers", "17", "--names", "one"), "1 --names for 2 --weights: give one for each"),
        ((*BOTH, "--layers", "17", "--names", "a", "a"), "give each model a name of its own"),
        ((*BOTH, "--layers", "17", "--names", "\U0010fffd", "b"), "give other names with --names"),
        (("--weights", WEIGHTS, "none.pt", "--layers", "17"), "no weights at none.pt"),
        ((*BOTH, "--layers", "17", "--source", "none"), "no image none"),
        ((*BOTH, "--layers", "17", "--source", "damaged.jpg"), "cannot read the image damaged.jpg"),
        ((*BOTH, "--layers", "17", "--labels", "none"), "no folder none"),
        ((*BOTH, "--layers", "17", "--labels", "empty"), "--labels empty has no image.txt, nor one of any other image"),
        ((*BOTH, "--layers", "17", "--labels", "wrong"), "line 2: '0 0.5 0.5 3 0.2' is not a label"),
        ((*BOTH, "--layers", "17", "--conf-thres", "2"), "--conf-thres 2: take 0 to 1"),
        ((*BOTH, "--layers", "17", "--width", "narrow"), "no width 'narrow'"),
        ((*BOTH, "--layers", "17", "--width", "0.5"), "width 0.5 is out of range: take 1 to 40 inches"),
        ((*BOTH, "--layers", "17", "--quiet", "--verbose"), "take one of them"),
        ((*BOTH, "--layers", "17", "--yolov5", "empty"), "empty holds no YOLOv5"),
    ],
)
def test_errors(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("image.png", np.full((64, 64, 3), 99, np.uint8))
    Path("damaged.jpg").write_text("no image")
    Path("empty").mkdir()
    Path("wrong").mkdir()
    Path("wrong/image.txt").write_text("1 0.5 0.5 1 0.2\n0 0.5 0.5 3 0.2\n")
    source = () if "--source" in words else ("--source", "image.png")
    before = files_below(tmp_path)
    assert compare(*words, *source, "--imgsz", "64") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("yolov5-featviz: error: ") and says in line
    assert files_below(tmp_path) == before and not Path("runs").exists()


def test_interrupted(images, tmp_path, monkeypatch, capsys):
    """After one image of three: complete files of that one, and nothing is overwritten the next time."""
    monkeypatch.chdir(tmp_path)
    Path("many").mkdir()
    for name in "abc":
        shutil.copy(images / "bus.jpg", f"many/{name}.jpg")
    look = module.read_image

    def stop(path):
        if Path(path).stem == "b":
            raise KeyboardInterrupt
        return look(path)

    words = (*BOTH, "--layers", "17", "--source", "many", *SMALL, "--project", "out", "--name", "n")
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_image", stop)
        assert compare(*words) == 130
    assert "1 of 3 images, then stopped, in out/n;" in capsys.readouterr().err
    assert [f for f in files_below("out/n") if f.endswith(("png", "csv", "part"))] == [
        "a.png",
        "differences.csv",
        "means.csv",
        "metrics.csv",
    ]
    assert {row["image"] for row in rows_of("out/n/metrics.csv")} == {"a"}
    before = {f: (Path("out/n") / f).read_bytes() for f in files_below("out/n")}
    assert compare(*words, "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert {f: (Path("out/n") / f).read_bytes() for f in files_below("out/n")} == before
    assert {row["image"] for row in rows_of("out/n2/metrics.csv")} == set("abc")


def test_pages(tmp_path, monkeypatch):
    """Panels of 1.1 inches at least: three layers do not fit in a column of a journal."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("image.png", np.full((64, 64, 3), 99, np.uint8))
    words = (*BOTH, "--layers", "0-2", "--source", "image.png", "--imgsz", "64", "--dpi", "80", "--quiet")
    assert compare(*words, "--width", "ieee-column") == compare(*words, "--width", "ieee-page") == 0
    home = Path("runs/compare")
    assert [f for f in files_below(home / "exp") if f.endswith("png")] == ["image.png", "image_page2.png"]
    assert read_record(home / "exp/image.png")["layers"] == ["0", "1"]
    assert read_record(home / "exp/image_page2.png")["layers"] == ["2"]
    assert [f for f in files_below(home / "exp2") if f.endswith("png")] == ["image.png"]
    assert (home / "exp/metrics.csv").read_bytes() == (home / "exp2/metrics.csv").read_bytes()


def test_labels(tmp_path):
    image = tmp_path / "images" / "set" / "images" / "a.jpg"
    assert read_label(tmp_path / "a.jpg") is None and read_label(image) is None
    folder = tmp_path / "images" / "set" / "labels"  # in the place of the last `images`
    folder.mkdir(parents=True)
    assert read_label(image).classes == []  # an image without objects
    (folder / "a.txt").write_text("1 0.5 0.5 0.5 0.25\n\n7 0.1 0.2 0.3 0.2 0.3 0.9\n")
    label = read_label(image)
    assert label.classes == [1, 7] and label.file == folder / "a.txt"
    np.testing.assert_allclose(label.xyxy, [[0.25, 0.375, 0.75, 0.625], [0.1, 0.2, 0.3, 0.9]])
    found = label.boxes((0.0, 10.0, 100.0, 60.0), {1: "bus"})
    np.testing.assert_allclose(found.xyxy, [[25, 28.75, 75, 41.25], [10, 20, 30, 55]], rtol=1e-6)
    assert found.labels == ("GT bus", "GT 7")
    (tmp_path / "other").mkdir()
    assert read_label(image, str(tmp_path / "other")).file is None
    for wrong in ("1 0.5 0.5 0.5", "x 0.5 0.5 0.5 0.5", "1 0.5 0.5 0.5 nan", "1 0.5 0.5 0.5 0.5 0.5", "1 -0.1 0 0 0"):
        (folder / "a.txt").write_text(wrong)
        with pytest.raises(fv.FeatvizError, match=r"line 1.*is not a label"):
            read_label(image)


def test_demo_data(tmp_path):
    """The photographs with the boxes that the card speaks of, where a comparison finds them; other hyperparameters."""
    script = ROOT / "scripts" / "train_demo.py"
    words = ("--only-data", "data", "--epochs", "60", "--hyp", "mosaic=0.5", "scale=0.6")
    run(*words, cwd=tmp_path, script=script)
    photographs = sorted((tmp_path / "data" / "images" / "val").iterdir())
    assert len(photographs) == 10
    boxes = {path.stem: read_label(path) for path in photographs}
    assert all(label.file for label in boxes.values()) and len(boxes["china_00"].xyxy) == 0
    k, *edges = LABELS["zidane"][1]
    assert boxes["zidane_00"].classes[2] == k
    np.testing.assert_allclose(boxes["zidane_00"].xyxy[2] * [1280, 720, 1280, 720], edges, atol=0.01)

    recorded = fv.load(EPOCH60).hyp  # what it was trained with is what the script would train it with
    written = yaml.safe_load((tmp_path / "data" / "hyp.yaml").read_text())
    for name in ("mosaic", "scale", "warmup_epochs", "lr0", "degrees", "mixup", "hsv_h"):
        assert recorded[name] == written[name], name
    done = run("--only-data", "other", "--hyp", "mosiac=1", cwd=tmp_path, script=script, check=1)
    assert done.stderr.startswith("no hyperparameter mosiac: YOLOv5 has")


def test_names():
    assert model_names(["a/best.pt", "b/last.pt"]) == ["best", "last"]
    assert model_names(["runs/exp/weights/best.pt", "runs/exp2/weights/best.pt"]) == ["exp", "exp2"]
    assert model_names(["best.pt", "best.pt"]) == ["best", "best2"]
    assert by_model(["17", "20"], ["a", "b"]) == ["17,20", "17,20"]
    assert by_model(["b=20", "a=17", "b=23"], ["a", "b"]) == ["17", "20,23"]
