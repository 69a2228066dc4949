"""The same objects in several models: the real command on the demo checkpoints, and objects made by hand."""

import math
import pickle
import runpy
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from comparing import LABELS, compare, rows_of, write_labels
from helpers import ROOT, WEIGHTS, files_below, run

import yolov5_featviz as fv
from yolov5_featviz.attribution.cam import method_of
from yolov5_featviz.compare import object_pages
from yolov5_featviz.compare.flips import flips_of
from yolov5_featviz.compare.object_pages import UNITS, window_of
from yolov5_featviz.compare.objects import Object, check_target, find_objects, in_image, sights
from yolov5_featviz.compare.options import CompareOptions
from yolov5_featviz.models.detections import Candidates, Thresholds, select
from yolov5_featviz.models.targets import Case
from yolov5_featviz.runs.provenance import read_record
from yolov5_featviz.yolov5 import compare as module
from yolov5_featviz.yolov5.predictor import Predictor, RemotePredictor, predictors

EPOCH60 = ROOT / "weights" / "epoch60.pt"
NAMES = {0: "person", 1: "bus", 2: "tie", 3: "motorcycle", 4: "cat", 5: "cup"}
SMALL = ("--dpi", "80", "--width", "5")


def iou(a, b):
    """Of boxes ``[n, 4]`` and ``[m, 4]``, ``[n, m]``, in float64."""
    a, b = np.asarray(a, float).reshape(-1, 1, 4), np.asarray(b, float).reshape(1, -1, 4)
    sides = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(min=0)
    both = sides.prod(axis=-1)
    areas = [(x[..., 2:] - x[..., :2]).prod(axis=-1) for x in (a, b)]
    return both / (areas[0] + areas[1] - both)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """The demo checkpoint after scripts/prune_demo.py."""
    path = tmp_path_factory.mktemp("weights") / "pruned.pt"
    runpy.run_path(str(ROOT / "scripts" / "prune_demo.py"))["prune"](WEIGHTS, path, 0.4)
    return path


@pytest.fixture(scope="module")
def predict(pruned):
    return {"best": Predictor(WEIGHTS), "epoch60": Predictor(EPOCH60), "pruned": Predictor(pruned)}


def seen_by(predictor, image, imgsz, conf=0.25):
    """What a predictor detects: class names, scores, and boxes in pixels of the image."""
    seen = predictor(image, imgsz=imgsz, conf=conf)
    return list(seen.boxes.labels), seen.boxes.scores, seen.boxes.mapped(seen.region, seen.size).xyxy


def candidates_of(predictor, image, imgsz):
    """All rows of the raw output: boxes in pixels of the image, and scores ``[N, C]``."""
    x, (left, top, right, bottom) = predictor.prepare(image, imgsz)
    with torch.no_grad():
        rows = predictor.model(x)[0][0].double().numpy()
    height, width = cv2.imread(str(image)).shape[:2]
    low, high = rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2
    factor = np.array([width / (right - left), height / (bottom - top)] * 2)
    return (np.hstack([low, high]) - [left, top] * 2) * factor, rows[:, 4:5] * rows[:, 5:]


def merged(found, labels=None):
    """Objects by detections of each model, or labels: lists of name, box, and the score of each model that has it."""
    objects = [] if labels is None else [[name, box, {}] for name, box in labels]
    every = [(score, m, name, box) for m, one in enumerate(found) for name, score, box in zip(*one)]
    for score, m, name, box in sorted(every, key=lambda one: -one[0]):
        free = [one for one in objects if one[0] == name and m not in one[2]]
        shares = iou([box], [one[1] for one in free])[0] if free else np.zeros(0)
        if len(free) and shares.max() >= 0.5:
            free[int(shares.argmax())][2][m] = score
        elif labels is None:
            objects.append([name, box, {m: score}])
    return objects


@pytest.fixture(scope="module")
def flipped(tmp_path_factory, images):
    """The command as a user types it, without labels."""
    home = tmp_path_factory.mktemp("flips")
    shutil.copytree(images, home / "photos")
    words = ("--weights", WEIGHTS, EPOCH60, "--mode", "cam", "--source", "photos", *SMALL)
    return run("-m", "yolov5_featviz", "compare", *words, cwd=home, script=None, check=0), home


@pytest.mark.slow
def test_flips_are_what_one_detects_and_the_other_does_not(flipped, predict, images):
    done, home = flipped
    exp = home / "runs/compare/exp"
    assert {f for f in files_below(exp) if "page" not in f} == {
        "bus_cam.png",
        "zidane_cam.png",
        "flips.csv",
        "flips.csv.json",
    }
    rows = rows_of(exp / "flips.csv")
    names = ("best", "epoch60")
    expected, count = [], 0
    for image in ("bus", "zidane"):
        objects = merged([seen_by(predict[name], images / f"{image}.jpg", 640) for name in names])
        count += len(objects)
        expected += [(image, *one) for one in sorted(objects, key=lambda one: -max(one[2].values())) if len(one[2]) < 2]
    assert len(rows) == len(expected) == 3 and count == 10
    for row, (image, name, box, scores) in zip(rows, expected):
        assert (row["image"], row["class"]) == (image, name)
        np.testing.assert_allclose([float(row[edge]) for edge in ("left", "top", "right", "bottom")], box, atol=0.06)
        ((m, score),) = scores.items()
        assert (row["found_by"], row["missed_by"]) == (f"{names[m]} {score:.2f}", names[1 - m])
        boxes, confidences = candidates_of(predict[names[1 - m]], images / f"{image}.jpg", 640)
        near = iou(boxes, [box])[:, 0] >= 0.5
        best = confidences[near, [*NAMES.values()].index(name)].max()
        assert float(row["best"]) == pytest.approx(best, rel=1e-4)
        shown = f"{best:.2f}" if best >= 0.01 else f"{best:.1g}"
        assert row["why"] == f"best candidate {shown}, below 0.25"
        assert f"{row['object']}: {name}" in done.stderr and row["found_by"] in done.stderr
    assert [row["object"] for row in rows] == ["1", "2", "3"]
    shown = [one for page in sorted(exp.glob("bus_cam*.png")) for one in read_record(page)["objects"]]
    assert [one["row"] for one in shown] == list(range(1, len(shown) + 1))
    assert [len(one["found_by"]) for one in shown] == [1] * 3 + [2] * (len(shown) - 3)


@pytest.mark.slow
def test_the_maps_of_a_row_are_on_one_scale(predict, images, tmp_path, monkeypatch):
    """Layer-CAM of the bus, worked out anew by autograd on the raw output, painted cell by cell."""
    panels = []
    compose = object_pages.compose
    monkeypatch.setattr(object_pages, "compose", lambda rows, *rest: panels.append(rows) or compose(rows, *rest))
    monkeypatch.chdir(tmp_path)
    bus = images / "bus.jpg"
    words = ("--weights", WEIGHTS, EPOCH60, "--mode", "cam", "--target", "bus:0", "--source", bus)
    assert compare(*words, *SMALL, "--cmap", "gray", "--alpha", "1", "--quiet", "--layers", "9") == 0
    ((row,),) = panels
    (about,) = read_record("runs/compare/exp/bus_cam.png")["objects"]
    maps = []
    for name in ("best", "epoch60"):
        predictor = predict[name]
        x, _ = predictor.prepare(bus, 640)  # 640 x 480, without padding
        kept = []
        handle = predictor.model.model[9].register_forward_hook(lambda m, a, out, kept=kept: kept.append(out))
        try:
            out = predictor.model(x.requires_grad_(True))[0][0]
        finally:
            handle.remove()
        boxes, scores = candidates_of(predictor, bus, 640)
        at = np.where(iou(boxes, [about["box"]])[:, 0] >= 0.5, scores[:, 1], 0).argmax()
        score = torch.logit(out[at, 4]) + torch.logit(out[at, 6])
        (slope,) = torch.autograd.grad(score, kept[0])
        maps.append((slope.clamp(min=0) * kept[0]).sum(dim=1)[0].detach().numpy())
    peaks = [values.max() for values in maps]
    np.testing.assert_allclose(about["peaks"], peaks, rtol=1e-3)
    assert about["found_by"] == ["best"]
    photo = cv2.imread(str(bus))
    window = row[1].window
    for values, panel, peak, words in zip(
        maps, row[1:], peaks, ("bus 0.73", "missed: best candidate 0.15, below 0.25")
    ):
        assert panel.note == f"{words}; peak {peak / max(peaks):.0%}"
        assert panel.bar[1:4] == ("0", f"{max(peaks):.2f}", "Layer-CAM of layer 9, logits of each model's own score")
        painted = panel.paint(values.shape, (0.0, 0.0, 810.0, 1080.0)).astype(int)
        below = cv2.resize(photo, values.shape[::-1], interpolation=cv2.INTER_AREA)[..., 2]
        share = (values / max(peaks)).clip(0, 1)
        np.testing.assert_allclose(painted[..., 0], share * share * 255 + (1 - share) * below, atol=2.1)
        row_, column = np.unravel_index(values.argmax(), values.shape)
        assert window[0] <= (column + 0.5) * 54 <= window[2] and window[1] <= (row_ + 0.5) * 54 <= window[3]
    assert row[0].boxes.labels == ("bus",) and not row[1].named


def tide(found, labels):
    """Kinds of errors of detections, best first, and which labels are matched; TIDE, in plain loops."""
    truths = np.array([box for _, box in labels])
    matched, free = {}, set(range(len(labels)))
    share = iou([box for *_, box in found], truths)
    for i, (name, _, _) in enumerate(found):
        best = max((j for j in free if labels[j][0] == name), key=lambda j: share[i, j], default=None)
        if best is not None and share[i, best] >= 0.5:
            matched[i] = best
            free.discard(best)
    kinds, covered = [], set(matched.values())
    for i, (name, score, _) in enumerate(found):
        if i in matched:
            continue
        own = [share[i, j] if labels[j][0] == name else 0 for j in range(len(labels))]
        other = [share[i, j] if labels[j][0] != name else 0 for j in range(len(labels))]
        if 0.1 <= max(own) < 0.5:
            kinds.append(("poor box", name, score))
            covered.add(int(np.argmax(own)))
        elif max(other) >= 0.5:
            kinds.append(("wrong class", name, score))
            covered.add(int(np.argmax(other)))
        else:
            kinds.append(("duplicate" if max(own) >= 0.5 else "false", name, score))
    missed = [("missed", labels[j][0], None) for j in range(len(labels)) if j not in covered]
    return kinds + missed, set(matched.values())


@pytest.mark.slow
def test_flips_and_errors_against_labels(predict, pruned, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_labels(tmp_path / "true")
    names = ("best", "epoch60", "pruned")
    words = ("--weights", WEIGHTS, EPOCH60, pruned, "--mode", "cam", "--source", images, "--labels", "true")
    assert compare(*words, "--imgsz", "320", *SMALL) == 0
    table = capsys.readouterr().err
    errors, flips = (rows_of(f"runs/compare/exp/{name}.csv") for name in ("errors", "flips"))
    expected_flips, counts = (
        [],
        {name: dict.fromkeys(("missed", "false", "wrong class", "poor box", "duplicate"), 0) for name in names},
    )
    for image in ("bus", "zidane"):
        labels = [(NAMES[k], box) for k, *box in LABELS[image]]
        found_by = {}
        for name in names:
            found = list(zip(*seen_by(predict[name], images / f"{image}.jpg", 320)))
            kinds, found_by[name] = tide(found, labels)
            mine = [row for row in errors if (row["image"], row["model"]) == (image, name)]
            assert sorted((row["kind"], row["class"]) for row in mine) == sorted(kind[:2] for kind in kinds)
            for kind, label, score in kinds:
                counts[name][kind] += 1
                assert score is None or any(
                    (row["kind"], row["class"]) == (kind, label) and float(row["score"]) == pytest.approx(score)
                    for row in mine
                )
        for j, (label, box) in enumerate(labels):
            has = [name for name in names if j in found_by[name]]
            expected_flips += [
                (image, label, box, len(has), name) for name in names if len(has) > 0 and name not in has
            ]
    told = [
        (
            row["image"],
            row["class"],
            [float(row[e]) for e in ("left", "top", "right", "bottom")],
            len(row["found_by"].split(", ")),
            row["missed_by"],
        )
        for row in flips
    ]
    assert sorted(told) == sorted(expected_flips) and len(told) == 3
    assert sum(counts["pruned"].values()) > sum(counts["best"].values()) > 0
    for name in names:
        assert [str(n) for n in counts[name].values()] == next(
            line for line in table.splitlines() if line.startswith(name)
        ).split()[1:]
    assert "poor box: overlaps a person by 0.40, less than half" in [row["why"] for row in flips]
    record = read_record("runs/compare/exp/errors.csv")
    assert record["models"] == list(names) and record["shows"] == "numbers" and "reduce" not in record


@pytest.mark.slow
def test_redo(flipped):
    """A figure and a table, from their records."""
    _, home = flipped
    shutil.copytree(ROOT / "weights", home / "weights", dirs_exist_ok=True)
    for name in ("zidane_cam.png", "flips.csv"):
        done = run("-m", "yolov5_featviz", "redo", f"runs/compare/exp/{name}", cwd=home, script=None)
        assert done.stdout.splitlines()[-1] == f"runs/compare/exp/{name}: identical, byte for byte"


def renamed(predictor, names):
    """Let a model number its classes as ``names`` do; it never finds one that it does not know."""
    head = predictor.model.model[-1]
    old = list(predictor.names.values())
    left = [k for k, name in enumerate(old) if name not in names]
    order = [old.index(name) if name in old else left.pop(0) for name in names]
    rows = [*range(5), *(5 + k for k in order)]
    for conv in head.m:
        for name in ("weight", "bias"):
            values = getattr(conv, name).data
            parts = values.reshape(head.na, head.no, *values.shape[1:])
            parts = parts[:, rows]
            for k in (k for k, one in enumerate(names) if one not in old):
                parts[:, 5 + k] = -12 if name == "bias" else 0
            getattr(conv, name).data = parts.reshape(values.shape)
    predictor.model.names = dict(enumerate(names))
    return predictor


@pytest.mark.slow
def test_classes_are_matched_by_name(images, tmp_path, monkeypatch, capsys):
    """Of the same model with its classes in another order, and without ties."""

    @contextmanager
    def models(*arguments):
        yield [Predictor(WEIGHTS), renamed(Predictor(WEIGHTS), ["cup", "bus", "person", "sofa", "cat", "motorcycle"])]

    monkeypatch.setattr(module, "predictors", models)
    monkeypatch.chdir(tmp_path)
    panels = []
    compose = object_pages.compose
    monkeypatch.setattr(object_pages, "compose", lambda rows, *rest: panels.append(rows) or compose(rows, *rest))
    write_labels(tmp_path / "true")
    both = ("--weights", WEIGHTS, EPOCH60, "--names", "a", "b", "--mode", "cam", "--imgsz", "320", *SMALL)
    for labels in ((), ("--labels", "true")):
        assert compare(*both, "--source", images, *labels, "--name", f"n{len(labels)}") == 0
        (flip,) = rows_of(f"runs/compare/n{len(labels)}/flips.csv")
        assert (flip["class"], flip["missed_by"], flip["best"]) == ("tie", "b", "")
        assert flip["why"] == "the model has no class tie" and flip["found_by"].startswith("a 0.83")
        tie = next(row for rows in panels for row in rows if row[0].boxes.labels == ("tie",))
        assert tie[2].note == "the model has no class tie" and tie[2].bar is None
        assert (tie[2].paint((4, 5), tie[2].window) == 235).all()
        others = [row for rows in panels for row in rows if row is not tie]
        assert len(others) > 2
        for row in others:
            a, b = (panel.paint((40, 40), panel.window).astype(int) for panel in row[1:])
            assert np.abs(a - b).max() <= 3 and row[1].note[:10] == row[2].note[:10]
        panels.clear()
    kinds = [(row["model"], row["kind"], row["class"]) for row in rows_of("runs/compare/n2/errors.csv")]
    assert [kind for kind in kinds if kind[2] == "tie"] == [("b", "missed", "tie")]
    of_each = [sorted(kind[1:] for kind in kinds if kind[0] == name and kind[2] != "tie") for name in "ab"]
    assert of_each[0] == of_each[1] and len(of_each[0]) > 0

    capsys.readouterr()
    source = ("--source", images / "zidane.jpg", "--name", "other")
    assert compare(*both, *source, "--target", "sofa@93,183,1190,740") == 0  # a class of the second model alone
    assert panels[-1][0][1].note == "the model has no class sofa" and "sofa" in panels[-1][0][0].boxes.labels
    assert compare(*both, *source, "--target", "soffa") == 2
    assert "no class 'soffa': did you mean sofa?" in capsys.readouterr().err
    assert compare(*both, *source, "--target", "7") == 2
    assert "no class '7'" in capsys.readouterr().err


@pytest.mark.slow
def test_checkouts_of_their_own(images, tmp_path, monkeypatch):
    """One checkpoint under two releases, each in a process of its own: the same objects, and the same maps."""
    kinds = []

    @contextmanager
    def keep(*arguments):
        with predictors(*arguments) as found:
            kinds.extend(map(type, found))
            yield found

    monkeypatch.setattr(module, "predictors", keep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    wheel = Path(sys.prefix) / "wheels" / "6.2.3" / "yolov5"
    words = ("--weights", WEIGHTS, WEIGHTS, "--names", "new", "old", "--yolov5", images.parents[1], wheel)
    assert compare(*words, "--mode", "cam", "--source", images / "zidane.jpg", "--imgsz", "320", *SMALL, "--quiet") == 0
    assert kinds == [RemotePredictor] * 2
    assert rows_of("runs/compare/exp/flips.csv") == []
    objects = read_record("runs/compare/exp/zidane_cam.png")["objects"]
    assert [one["class"] for one in objects] == ["person", "person", "tie"]
    for one in objects:
        assert one["peaks"][0] == pytest.approx(one["peaks"][1], rel=1e-3) and one["peaks"][0] > 0


@pytest.mark.slow
def test_detections_with_their_candidates(predict, images):
    """Those of the predictor to the last bit, among all candidates; they can be sent to another process."""
    model = predict["best"].model
    hooks = [len(part) for one in model.modules() for part in (one._forward_hooks, one._forward_pre_hooks)]
    found, region = predict["best"].detections(images / "zidane.jpg", 320)
    assert hooks == [len(part) for one in model.modules() for part in (one._forward_hooks, one._forward_pre_hooks)]
    seen = predict["best"](images / "zidane.jpg", imgsz=320)
    assert region == seen.region
    for one in (found, pickle.loads(pickle.dumps(found))):
        assert np.array_equal(one.boxes.numpy(), seen.boxes.xyxy) and np.array_equal(
            one.scores.numpy(), seen.boxes.scores
        )
        assert torch.equal(one.candidates.boxes[one.rows], one.boxes)
        with pytest.raises(fv.FeatvizError, match="without gradients"):
            one.why(0)


BOTH = ("--weights", WEIGHTS, EPOCH60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--mode", "cma"), "no mode 'cma': did you mean cam?"),
        (("--mode", "grid"), "no mode 'grid': take cam, heatmap, or both"),
        (("--mode", "heatmap"), "--layers is missing"),
        (("--mode", "cam,heatmap"), "--layers is missing"),
        (("--mode", "cam", "--method", "gradcam"), "no method 'gradcam': take one of layer-cam"),
        (("--mode", "cam", "--method", "d-rise", "--layers", "9"), "d-rise looks at the input alone"),
        (("--mode", "cam", "--masks", "0"), "--masks 0: take 1 or more"),
        (("--mode", "cam", "--target", "dog"), "no class 'dog': there are person (0), bus (1)"),
        (("--mode", "cam", "--target", "preson"), "no class 'preson': did you mean person?"),
        (("--mode", "cam", "--target", "person:x"), "target 'person:x' is not understood"),
        (("--mode", "cam", "--target", "@5,5,1,1"), "target '@5,5,1,1' is empty"),
        (
            ("--mode", "cam", "--target", "@900,900,950,950"),
            "no candidate of any model overlaps 900,900,950,950 by half",
        ),
        (("--mode", "cam", "--target", "missed"), "target 'missed' needs labels, and none are known: give --labels"),
        (("--mode", "cam"), "image: no model detects anything above 0.25: take a lower --conf-thres"),
        (("--mode", "cam", "--layers", "99"), "best: no layer 99"),
        (("--mode", "cam", "--layers", "24", "--conf-thres", "1e-6"), "image: layer 24 (Detect) yields"),
        (
            ("--mode", "cam", "--labels", "wrong"),
            "wrong/image.txt has class 7, best has classes 0 to 5: the labels are of",
        ),
        (("--layers", "17", "--method", "odam"), "--method does nothing here: it goes with --mode cam"),
        (("--layers", "17", "--target", "bus"), "--target does nothing here: it goes with --mode cam"),
        (("--mode", "cam", "--reduce", "l2"), "--reduce does nothing here: it goes with --mode heatmap"),
    ],
)
def test_errors(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("image.png", np.full((64, 64, 3), 99, np.uint8))
    Path("wrong").mkdir()
    Path("wrong/image.txt").write_text("7 0.5 0.5 1 0.2\n")
    before = files_below(tmp_path)
    assert compare(*BOTH, *words, "--source", "image.png", "--imgsz", "64") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("yolov5-featviz: error: ") and says in line
    assert files_below(tmp_path) == before and not Path("runs").exists()


@pytest.mark.slow
def test_images_without_objects_and_names_that_clash(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("many").mkdir()
    cv2.imwrite("many/grey.png", np.full((64, 64, 3), 99, np.uint8))
    for name in ("zidane", "zidane_cam"):
        shutil.copy(images / "zidane.jpg", f"many/{name}.jpg")
    words = (*BOTH, "--source", "many", "--imgsz", "160", "--conf-thres", "0.2", *SMALL)
    assert compare(*words, "--mode", "heatmap,cam", "--layers", "23", "--target", ":0") == 1
    told = capsys.readouterr().err
    assert "grey: no model detects anything above 0.2: take a lower --conf-thres\n" in told
    assert "could not save: two figures have this name: rename an image: zidane_cam" in told
    made = [f for f in files_below("runs/compare/exp") if f.endswith("png")]
    assert made == ["grey.png", "zidane.png", "zidane_cam.png", "zidane_cam_cam.png"]
    assert {row["image"] for row in rows_of("runs/compare/exp/metrics.csv")} == {"grey", "zidane", "zidane_cam"}
    # errors without an object: an image that is labelled as empty, in which something is found
    Path("none").mkdir()
    Path("none/other.txt").touch()
    shutil.copy(images / "zidane.jpg", "other.jpg")
    words = (*BOTH, "--source", "other.jpg", "--imgsz", "160", "--conf-thres", "0.2", *SMALL, "--labels", "none")
    assert compare(*words, "--mode", "cam", "--name", "none") == 0
    assert "other: no object is labelled" in capsys.readouterr().err
    assert [f for f in files_below("runs/compare/none") if f.endswith(("png", "csv"))] == ["errors.csv", "flips.csv"]
    errors = rows_of("runs/compare/none/errors.csv")
    assert errors and {row["kind"] for row in errors} == {"false"}


@pytest.mark.slow
def test_a_layer_of_one_level(images, tmp_path, monkeypatch):
    """Layer 23 is of the coarsest of three levels: what is detected at another has a map of 0, as the panel says."""
    panels = []
    compose = object_pages.compose
    monkeypatch.setattr(object_pages, "compose", lambda rows, *rest: panels.extend(rows) or compose(rows, *rest))
    monkeypatch.chdir(tmp_path)
    words = (*BOTH, "--mode", "cam", "--source", images / "zidane.jpg", "--imgsz", "320", *SMALL, "--quiet")
    assert compare(*words, "--layers", "23") == 0
    notes = {row[0].boxes.labels[0]: [panel.note for panel in row[1:]] for row in panels}
    assert notes["tie"] == ["tie 0.83; no value above 0", "tie 0.82; no value above 0"]
    assert any("peak 100%" in note for note in notes["person"])
    tie = next(row for row in panels if row[0].boxes.labels == ("tie",))
    assert tie[1].bar[1:4] == ("", "", "Layer-CAM of layer 23, all values ≤ 0")


def test_an_object_that_cannot_be_explained_does_not_stop_the_others():
    """Of a model whose layer feeds some detections only: each of the others is tried alone, and its error kept."""

    class Model:
        def explain(self, image, numbers, *arguments, found, **options):
            if any(found.labels[number] == "bus" for number in numbers):
                raise fv.FeatvizError("layer 9 does not feed bus 0.90: take another")
            return [f"map of {found.labels[number]}" for number in numbers]

    found = detected([(A, {"person": 0.8}), (B, {"bus": 0.9})])
    cases = [Case(1, 1, B, 0.9, 0), Case(-1, -1, A, 0.0), Case(0, 0, A, 0.8, 1)]
    o = CompareOptions(("a", "b"), "", modes=("cam",))
    shown = module._explained(Model(), np.zeros((9, 9, 3), np.uint8), found, cases, None, o, "i")
    assert shown == ["layer 9 does not feed bus 0.90: take another", "", "map of person"]
    one = Object("bus", 1, B, (cases[0], cases[0]), (True, False))
    scale = object_pages.scale_of(shown[:1] * 2, o, "logits")
    assert object_pages._caption(one, 0, scale, shown[0]) == "bus 0.90; layer 9 does not feed bus 0.90"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["eigen-cam", "ablation", "d-rise", "ss-grad-cam++"])
def test_methods(method, images, tmp_path, monkeypatch):
    """What has no common unit is on a scale of its own, and says so."""
    panels = []
    compose = object_pages.compose
    monkeypatch.setattr(object_pages, "compose", lambda rows, *rest: panels.append(rows) or compose(rows, *rest))
    monkeypatch.chdir(tmp_path)
    words = (*BOTH, "--mode", "cam", "--target", "tie", "--source", images / "zidane.jpg", "--imgsz", "160", *SMALL)
    assert compare(*words, "--method", method, "--conf-thres", "0.05", "--masks", "16", "--quiet") == 0
    about = read_record("runs/compare/exp/zidane_cam.png")
    assert about["method"] == method and about["layers"] == ([] if method == "d-rise" else ["9"])
    together = method in UNITS
    assert together == (method in ("d-rise", "ss-grad-cam++"))
    for one, row in zip(about["objects"], panels[0]):
        bar = row[1].bar or row[2].bar
        assert ("each map to its own maximum" not in bar.words) == together
        notes = [panel.note for panel in row[1:] if panel.bar is not None]
        assert notes and len(one["peaks"]) == 2 and max(one["peaks"]) > 0
        assert all(("peak" in note) == together for note in notes)


def test_methods_on_one_scale_do_not_depend_on_the_scale_of_activations():
    """Activations times 100, and gradients by 100, as if the next layer's weights undid it."""
    random = np.random.default_rng(0)
    x, slope = (random.normal(size=(1, 16, 5, 7)).astype(np.float32) for _ in range(2))
    for method in set(UNITS) - {"d-rise"}:
        one, other = method_of(method)(x, slope), method_of(method)(x * 100, slope / 100)
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * np.abs(one).max(), err_msg=method)
    one, other = (method_of("grad-cam++")(x * times, slope / times) for times in (1, 100))
    assert np.abs(other / one).min() < 0.9  # it has a small constant in its denominator
    one, other = (method_of("eigen-cam")(x * times, None) for times in (1, 100))
    np.testing.assert_allclose(other, one * 100, rtol=1e-3, atol=1e-3)


def detected(rows, names=NAMES, conf=0.25, iou=0.45):
    """Detections among candidates ``(box, {class: score})`` made by hand."""
    scores = torch.zeros(len(rows), len(names))
    for i, (_, kinds) in enumerate(rows):
        for name, score in kinds.items():
            scores[i, list(names.values()).index(name)] = score
    boxes = torch.tensor([box for box, _ in rows], dtype=torch.float32).reshape(-1, 4)
    found = Candidates(boxes, scores, lambda row, kind: scores[row, kind])
    return select(found, dict(names), Thresholds(conf, iou))


def labelled(*objects):
    boxes = np.array([box for _, box in objects], np.float32).reshape(-1, 4)
    classes = np.array([list(NAMES.values()).index(name) for name, _ in objects], np.int64)
    return fv.Boxes(boxes, classes=classes)


def objects_of(models, labels=None, target=None, **how):
    thresholds = Thresholds(**how)
    seen = sights(models, labels, NAMES, thresholds)
    return find_objects(seen, labels, NAMES, target, thresholds)


A, B = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)
NEAR_A = (0.0, 0.0, 10.0, 12.0)


def test_objects_without_labels():
    """One of each class and place; the box of the best; at most one detection of a model."""
    first = detected([(A, {"person": 0.6}), (B, {"bus": 0.9})])
    second = detected([(NEAR_A, {"person": 0.8}), (B, {"tie": 0.7, "bus": 0.2}), ((50, 50, 60, 60), {"cat": 0.3})])
    objects = objects_of([first, second])
    assert [(one.name, one.found) for one in objects] == [
        ("bus", (True, False)),
        ("tie", (False, True)),
        ("cat", (False, True)),
        ("person", (True, True)),  # not a flip, so last
    ]
    bus, tie, cat, person = objects
    assert person.box == NEAR_A and person.score == pytest.approx(0.8) and person.cases[0].box == A
    assert bus.cases[1].note == "best candidate 0.20, below 0.25" and bus.cases[1].row == 1 and bus.number == 1
    assert tie.cases[0].score == 0 and tie.cases[0].row == 1  # the candidate that is there, of another class
    assert cat.cases[0].row == -1 and cat.cases[0].note == "no candidate overlaps it by half"
    flips = flips_of("i", ["a", "b"], objects)
    assert [(f.object, f.name, f.found_by, f.missed_by) for f in flips] == [
        (1, "bus", "a 0.90", "b"),
        (2, "tie", "b 0.70", "a"),
        (3, "cat", "b 0.30", "a"),
    ]
    assert math.isnan(flips[2].best) and flips[0].best == pytest.approx(0.2)


def test_a_detection_is_of_one_object():
    """Two detections of one model that overlap by half, and one of the other that overlaps both."""
    first = detected([((0, 0, 10, 10), {"person": 0.9}), ((0, 3, 10, 13), {"person": 0.8})], iou=0.9)
    second = detected([((0, 1, 10, 11), {"person": 0.7})])
    one, other = objects_of([first, second], iou=0.9)
    assert (one.found, other.found) == ((True, False), (True, True)) and one.box == (0, 3, 10, 13)
    assert one.cases[1].note == "person 0.70 there counts for another object"


def test_objects_with_labels():
    """Found, with a poor box, taken for another class, missed, and of a class that a model does not have."""
    labels = labelled(("person", A), ("bus", B), ("cat", (40, 0, 50, 10)), ("tie", (60, 0, 70, 10)))
    first = detected(
        [(A, {"person": 0.9}), (B, {"bus": 0.8}), ((40, 0, 50, 10), {"cat": 0.7}), ((60, 0, 70, 10), {"tie": 0.6})]
    )
    names = {0: "cat", 1: "bus", 2: "person"}
    second = detected(
        [((0, 0, 10, 22), {"person": 0.5}), (B, {"person": 0.4, "bus": 0.1}), ((40, 1, 50, 11), {"cat": 0.2})], names
    )
    seen = sights([first, second], labels, NAMES, Thresholds())
    assert not seen[0].errors
    kinds = {seen[1].names[case.number]: case.kind for case in seen[1].errors}
    assert [case.kind for case in seen[1].errors].count("missed") == 2 and kinds["tie"] == "missed"
    objects = find_objects(seen, labels, NAMES)
    assert [one.name for one in objects] == ["person", "bus", "cat", "tie"] and all(one.is_flip for one in objects)
    cases = {one.name: one.cases[1] for one in objects}
    assert cases["person"].kind == "poor box" and cases["person"].note == "overlaps a person by 0.45, less than half"
    assert cases["bus"].kind == "wrong class" and cases["bus"].number == 1 and cases["bus"].score == pytest.approx(0.1)
    assert cases["bus"].note == "person 0.40; best candidate 0.10, below 0.25"
    assert cases["cat"].kind == "missed" and cases["cat"].note == "best candidate 0.20, below 0.25"
    assert cases["tie"].row == -1 and cases["tie"].note == "the model has no class tie"
    whys = [flip.why for flip in flips_of("i", "ab", objects)]
    assert whys[1].startswith("wrong class: person 0.40") and whys[3] == "the model has no class tie"

    def named(target):
        return [one.title for one in find_objects(seen, labels, NAMES, target)]

    assert named("missed") == ["cat", "tie"] and named("wrong class") == ["bus"] and named("poor box") == ["person"]
    assert named("errors") == ["person", "bus", "cat", "tie"]
    with pytest.raises(fv.FeatvizError, match="nothing for target 'false'; there is: 1 × person, 1 × bus"):
        named("false")


def test_false_detections_are_shown_but_are_no_flips():
    labels = labelled(("bus", B))
    first = detected([(A, {"person": 0.9}), (B, {"bus": 0.5}), ((20, 0, 30, 9), {"bus": 0.4})], iou=0.95)
    second = detected([((0, 1, 10, 11), {"person": 0.6}), (B, {"bus": 0.7})])
    third = detected([(A, {"person": 0.2}), (B, {"bus": 0.1})])
    every = objects_of([first, second, third], labels, "errors", iou=0.95)
    assert [(one.title, one.found) for one in every] == [
        ("bus", (True, True, False)),
        ("false person", (True, True, False)),
        ("duplicate bus", (True, False, False)),
    ]
    assert [one.is_flip for one in every] == [True, False, False]
    assert every[1].cases[2].note == "best candidate 0.20, below 0.25"
    assert every[2].cases[1].note == "bus 0.70 there counts for another object"
    assert [one.title for one in objects_of([first, second, third], labels, "duplicate", iou=0.95)] == ["duplicate bus"]
    assert [flip.name for flip in flips_of("i", "abc", every)] == ["bus"]


def test_targets():
    first = detected([(A, {"person": 0.6}), (B, {"person": 0.9}), ((50, 50, 60, 60), {"cup": 0.1})])
    second = detected([(A, {"person": 0.7}), ((50, 50, 60, 60), {"cat": 0.2})])

    def found(target):
        return [(one.name, one.box[0], one.found) for one in objects_of([first, second], None, target)]

    person = [("person", 20.0, (True, False)), ("person", 0.0, (True, True))]
    assert found("person") == found("0") == found(None) == person
    assert found("person:1") == found(":1") == person[1:] and found(":0") == person[:1]
    assert found("person@0,0,9,10") == found("@0,0,9,10") == person[1:]
    assert found("@50,50,60,60") == [("cat", 50.0, (False, False))]
    assert found("cup@50,50,60,60") == [("cup", 50.0, (False, False))]
    (cat,) = objects_of([first, second], None, "@50,50,60,60")
    assert cat.cases[0].score == 0 and cat.cases[1].score == pytest.approx(0.2) and not cat.is_flip
    for target, says in (
        (":2", "nothing for target ':2'"),
        ("bus", "there is: 2 × person"),
        ("@90,90,99,99", "overlaps"),
    ):
        with pytest.raises(fv.FeatvizError, match=says):
            found(target)
    for target, says in (("dog", "no class 'dog'"), ("17", "no class '17'"), ("false", "needs labels")):
        with pytest.raises(fv.FeatvizError, match=says):
            check_target(target, [NAMES, {0: "sofa"}], False)
    check_target("sofa:1", [NAMES, {0: "sofa"}], False)
    check_target("missed", [NAMES, {0: "missed"}], False)  # a class of that name


def test_nothing_at_all():
    nothing = detected([])
    with pytest.raises(fv.FeatvizError, match=r"no model detects anything above 0\.25"):
        objects_of([nothing, nothing])
    with pytest.raises(fv.FeatvizError, match="no object is labelled"):
        objects_of([nothing, nothing], labelled())
    (bus,) = objects_of([nothing, detected([(B, {"bus": 0.9})])], labelled(("bus", B)))
    assert bus.is_flip and bus.cases[0].row == -1 and bus.cases[0].note == "the detector has no candidate"
    (bus,) = objects_of([nothing, nothing], labelled(("bus", (3, 3, 3, 9))))  # without an area
    assert not bus.is_flip and bus.score == 0


def test_boxes_in_pixels_of_the_image():
    """An input of 64 x 32 with eight pixels of padding above and below, of an image four times as large."""
    found = in_image(detected([((4, 8, 20, 16), {"bus": 0.9})]), (0.0, 8.0, 64.0, 24.0), (64, 256))
    assert found.boxes.tolist() == [[16, 0, 80, 32]] and torch.equal(found.candidates.boxes, found.boxes)


def test_the_part_of_an_image_that_is_shown():
    """It has all boxes, lies in the image, and is neither tiny nor far from the shape of the others."""

    def shown(box, size, other=None):
        cases = (Case(0, 0, box, 0.9), Case(0, 0, other or box, 0.9))
        one = Object("bus", 0, box, cases, (True, True))
        return window_of(one, ["", ""], size)

    for size in ((480, 640), (640, 480), (100, 1000), (1000, 100)):
        height, width = size
        for x, y in ((0, 0), (width - 9, height - 9), (width / 2, height / 2)):
            left, top, right, bottom = shown((x, y, x + 8.5, y + 8.5), size)
            assert left <= x and top <= y and right >= x + 8.5 and bottom >= y + 8.5
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
            assert right - left >= 0.39 * width and all(edge == round(edge) for edge in (left, top, right, bottom))
    assert shown((-20, -30, 700, 500), (480, 640)) == (0, 0, 640, 480)


def test_pages_and_their_stems(monkeypatch):
    """Rows go on to the next page where the first one is full."""
    made = []
    monkeypatch.setattr(object_pages, "compose", lambda rows, *rest: made.append(rows))
    pixels = np.zeros((480, 640, 3), np.uint8)
    absent = Case(-1, -1, A, 0.0, note="no candidate overlaps it by half")
    objects = [Object("bus", 1, (0.0, 0.0, 600.0, 400.0), (Case(0, 1, A, 0.9), absent), (True, False))] * 8
    o = CompareOptions(("a", "b"), "", modes=("cam",), width=7)
    pages = object_pages.draw_objects("i", "ab", pixels, objects, [("", "")] * 8, o)
    assert [stem for stem, _ in pages] == ["i_cam", "i_cam_page2", "i_cam_page3"]
    assert [len(rows) for rows in made] == [3, 3, 2]
    assert made[0][0][2].note == "no candidate overlaps it by half" and made[0][0][1].note == "bus 0.90"
