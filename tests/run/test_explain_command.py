"""``yolov5-featviz explain`` as a user types it: files, tables, planted errors, other models, bad input."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from helpers import WEIGHTS, files_below, run

import yolov5_featviz as fv
from yolov5_featviz.cli import main
from yolov5_featviz.runs.provenance import read_record

pytestmark = pytest.mark.slow

SMALL = ("--imgsz", "320", "--dpi", "100")
SIZES = {"bus": (810, 1080), "zidane": (1280, 720)}


def explain(*words):
    return main(["explain", *map(str, words)])


def rows_of(folder):
    with open(folder / "explanations.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def found(images):
    """What the demo checkpoint detects at 320 pixels: name -> class numbers, and boxes in pixels of the image."""
    see = fv.Predictor(WEIGHTS)
    every = {}
    for name, (width, height) in SIZES.items():
        seen = see(images / f"{name}.jpg", imgsz=320)
        boxes = seen.boxes.mapped(seen.region, (height, width))
        every[name] = list(zip(boxes.classes.tolist(), boxes.xyxy.tolist()))
    return every


def write_labels(file, objects, size):
    width, height = size
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, edges in objects:
        x0, y0, x1, y1 = np.clip(edges, 0, [width, height] * 2)
        place = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
        lines.append(" ".join(map(str, (number, *place))) + "\n")
    file.write_text("".join(lines))


@pytest.fixture(scope="module")
def planted(tmp_path_factory, images, found):
    """A folder with labels as detected, damaged on purpose, and what was planted: image, kind, class."""
    home = tmp_path_factory.mktemp("planted")
    shutil.copytree(images, home / "data" / "images")
    bus = [number for number, _ in found["bus"]].index(1)
    persons = [i for i, (number, _) in enumerate(found["bus"]) if number == 0]
    labels = dict(enumerate(found["bus"]))
    errors = [("bus", "wrong class", "bus"), ("bus", "false", "person"), ("bus", "poor box", "person")]
    labels[bus] = (4, labels[bus][1])  # the bus is labelled a cat
    del labels[persons[0]]  # a person without label
    x0, y0, x1, y1 = labels[persons[2]][1]
    labels[persons[2]] = (0, [x0, y0, x1, y0 + 0.4 * (y1 - y0)])  # a label of its upper 40 %
    labels[99] = (5, [300, 20, 360, 80])  # a cup in the sky
    errors.append(("bus", "missed", "cup"))
    write_labels(home / "data" / "labels" / "bus.txt", labels.values(), SIZES["bus"])
    write_labels(home / "data" / "labels" / "zidane.txt", [*found["zidane"], (3, [30, 30, 200, 200])], SIZES["zidane"])
    errors.append(("zidane", "missed", "motorcycle"))
    return home, errors


def test_every_planted_error_is_found_and_named(planted, monkeypatch, capfd):
    home, errors = planted
    monkeypatch.chdir(home)
    assert explain("--weights", WEIGHTS, "--source", "data/images", *SMALL, "--dir", "planted") == 0
    rows = rows_of(home / "planted")
    assert sorted((row["image"], row["kind"], row["label"]) for row in rows if row["kind"]) == sorted(errors)
    assert len(rows) == 8 + 2  # all detections, and what was missed
    notes = {(row["image"], row["kind"]): row["note"] for row in rows}
    assert notes["bus", "wrong class"] == "labelled cat (overlap 1.00)"
    assert notes["bus", "poor box"] == "overlaps a person by 0.40, less than half"
    assert [row["kind"] != "" for row in rows if row["image"] == "bus"][:4] == [True] * 4  # the errors first
    said = capfd.readouterr().err
    lines = [line.split() for line in said.splitlines()]
    assert ["errors", "missed", "false", "wrong", "class", "poor", "box", "duplicate"] in lines
    assert ["person", "0", "1", "0", "1", "0"] in lines and ["all", "2", "1", "1", "1", "0"] in lines
    assert files_below(home / "planted") == sorted(
        ["explanations.csv", "explanations.csv.json", "index.html"]
        + [f"{name}/all_layer-cam.png" for name in ("bus", "zidane")]
    )
    about = json.loads((home / "planted" / "explanations.csv.json").read_text())
    assert [one["name"] for one in about["images"]] == ["bus.jpg", "zidane.jpg"] and about["command"][0] == "explain"
    assert read_record(home / "planted" / "bus" / "all_layer-cam.png")["weights"][0]["name"] == "best.pt"


def test_two_detections_of_one_object_are_a_duplicate(planted, found, monkeypatch):
    """Suppression from an overlap of 0.8 leaves several boxes of an object, of which the labels know one."""
    home, _ = planted
    monkeypatch.chdir(home)
    labels = home / "clean"
    write_labels(labels / "zidane.txt", found["zidane"], SIZES["zidane"])
    loose = ("--iou-thres", "0.8", "--labels", labels, "--source", "data/images/zidane.jpg", "--report", "off")
    assert explain("--weights", WEIGHTS, *loose, *SMALL, "--dir", "duplicates") == 0
    rows = rows_of(home / "duplicates")
    assert len(rows) > len(found["zidane"])
    assert sorted(row["kind"] for row in rows) == ["", "", "", *["duplicate"] * (len(rows) - 3)]


@pytest.mark.parametrize("method", ["layer-cam", "odam", "ss-grad-cam++", "eigen-cam", "d-rise", "ablation"])
def test_each_detection_in_a_file_of_its_own(planted, monkeypatch, method):
    home, _ = planted
    monkeypatch.chdir(home)
    fast = ("--imgsz", "160", "--masks", "20", "--report", "off", "--format", "png,npy", "--conf-thres", "0.4")
    images = ("--source", "data/images/zidane.jpg", "--labels", home / "data" / "labels")
    assert explain("--weights", WEIGHTS, *images, *fast, "--target", "person", "--method", method, "--dir", method) == 0
    rows = rows_of(home / method)
    assert rows and {row["label"] for row in rows} == {"person"}
    stems = [row["file"] for row in rows]
    assert files_below(home / method) == sorted(
        ["explanations.csv", "explanations.csv.json"] + [f"zidane/{s}.{end}" for s in stems for end in ("npy", "png")]
    )
    assert all(stem.startswith(f"person{i}") and stem.endswith(method) for i, stem in enumerate(stems))


def test_a_place_where_nothing_was_detected(planted, monkeypatch):
    home, _ = planted
    monkeypatch.chdir(home)
    given = ("--weights", WEIGHTS, "--source", "data/images/bus.jpg", *SMALL, "--report", "off")
    assert explain(*given, "--target", "tie@57,400,246,901", "--dir", "place") == 0
    (row,) = rows_of(home / "place")
    assert (row["label"], row["detected"], row["kind"]) == ("tie", "0", "")
    assert row["note"] == f"best candidate {float(row['score']):.1g}, below 0.25"
    assert row["file"] == "tie0_not-detected_layer-cam"


def test_it_can_be_made_again(planted):
    home, _ = planted
    run(
        "-m",
        "yolov5_featviz",
        "explain",
        "--weights",
        WEIGHTS,
        "--source",
        "data/images/bus.jpg",
        *SMALL,
        cwd=home,
        script=None,
    )
    picture = "runs/explain/exp/bus/all_layer-cam.png"
    again = run("-m", "yolov5_featviz", "redo", picture, "--weights", WEIGHTS, cwd=home, script=None)
    assert "identical, byte for byte" in again.stdout


def test_other_models(planted, monkeypatch, tmp_path):
    """Random weights: what counts is that rows come, with maps, and that state dicts are read."""
    pytest.importorskip("ultralytics")
    home, _ = planted
    monkeypatch.chdir(tmp_path)
    source = ("--source", home / "data" / "images" / "bus.jpg", "--target", ":0", "--imgsz", "160", "--report", "off")
    yolo = ("--model", "ultralytics:yolo11n.yaml")
    assert explain(*yolo, *source, "--conf-thres", "0", "--dir", "a") == 0
    assert len(rows_of(tmp_path / "a")) == 1
    from ultralytics import YOLO

    model = YOLO("yolo11n.yaml")
    torch.save(model.model.state_dict(), "state.pth")
    assert explain(*yolo, "--weights", "state.pth", *source, "--conf-thres", "0", "--dir", "b") == 0
    model.save("whole.pt")
    assert (
        explain("--model", "ultralytics:whole.pt", *source, "--conf-thres", "0", "--dir", "c", "--trust-weights") == 0
    )
    same = [{**row, "image": ""} for row in (*rows_of(tmp_path / "b"), *rows_of(tmp_path / "c"))]
    assert same[0]["label"] == same[1]["label"] and float(same[0]["score"]) == pytest.approx(
        float(same[1]["score"]), abs=1e-3
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "give --weights, a YOLOv5 checkpoint, or --model"),
        ("--weights best.pt --target person:x", "target 'person:x' is not understood: take person, person:0"),
        ("--weights best.pt --target dog", "no class 'dog': there are person (0), bus (1)"),
        ("--weights best.pt --target cup", "no cup was detected; found: 4 × person, 1 × bus"),
        ("--weights best.pt --target bus:7", "no bus number 7 was detected"),
        ("--weights best.pt --target bus@0,0,9", "is not understood"),
        ("--weights best.pt --target bus@790,1060,800,1070", "no candidate overlaps 790,1060,800,1070 by half"),
        ("--weights best.pt --target missed", "needs labels, and bus.jpg has none: give their folder with --labels"),
        ("--weights best.pt --labels nowhere", "no folder nowhere: --labels takes the folder"),
        ("--weights best.pt --labels empty", "--labels empty has no bus.txt"),
        ("--weights best.pt --labels strange", "labels have class 17, the model has classes 0 to 5"),
        ("--weights best.pt --method cam", "no method 'cam': take one of layer-cam"),
        ("--weights best.pt --method d-rise --layers 9", "d-rise looks at the input alone: leave layers 9 out"),
        ("--weights best.pt --layers 99", "99"),
        ("--weights best.pt --layers 24", "24"),
        ("--weights best.pt --conf-thres 2", "--conf-thres 2: take 0 to 1"),
        ("--weights best.pt --conf-thres 0.9999", "nothing was detected above 0.9999: take a lower"),
        ("--weights nowhere.pt", "nowhere.pt"),
        ("--weights exported.torchscript", "exported.torchscript"),
        ("--model torchvision:resnet18", "ResNet is of no known family of detectors"),
        ("--model ultralytics:yolo99.yaml", "ultralytics:yolo99.yaml cannot be built"),
        ("--model ultralytics:whole.pt", "add --trust-weights if you know where it comes from"),
        ("--model ultralytics:yolo11n", "no model ultralytics:yolo11n: give a .yaml"),
    ],
)
def test_bad_input_is_told_in_one_line(planted, images, tmp_path, monkeypatch, capfd, words, says):
    if "ultralytics" in words:
        pytest.importorskip("ultralytics")
    monkeypatch.chdir(tmp_path)
    shutil.copy(images / "bus.jpg", "bus.jpg")
    shutil.copy(WEIGHTS, "best.pt")
    (tmp_path / "empty").mkdir()
    write_labels(tmp_path / "strange" / "bus.txt", [(17, [0, 0, 99, 99])], SIZES["bus"])
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(3, 1, 1)), "exported.torchscript")
    before = files_below(tmp_path)
    assert explain(*words.split(), "--source", "bus.jpg", *SMALL) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if "error" in line]
    assert len(said) == 1 and says in said[0], said
    assert files_below(tmp_path) == before


def test_an_image_without_objects_does_not_stop_the_others(planted, tmp_path, images, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    shutil.copy(images / "bus.jpg", "in/bus.jpg")
    import cv2

    cv2.imwrite("in/black.png", np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "in" / "damaged.jpg").write_text("no image")
    sure = ("--conf-thres", "0.9", "--report", "off")
    assert explain("--weights", WEIGHTS, "--source", "in", *SMALL, *sure, "--dir", "out") == 1
    said = capfd.readouterr().err
    assert "black.png: nothing was detected above 0.9: take a lower confidence threshold; skipped" in said
    assert "cannot read the image in/damaged.jpg" in said and "Traceback" not in said
    assert {row["image"] for row in rows_of(tmp_path / "out")} == {"bus"}
