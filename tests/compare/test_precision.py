"""Mean average precision: against YOLOv5's own val.py on the labelled photographs, and by hand."""

import ast
import os
import re
import shutil
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from comparing import compare, rows_of
from helpers import ROOT, WEIGHTS, run
from releases import WHEELS

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.compare.precision import IOUS, average_precision, match
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.yolov5.labels import read_label
from yolov5_featviz.yolov5.predictor import Predictor, RemotePredictor
from yolov5_featviz.yolov5.validation import rounds_up

EPOCH60 = ROOT / "weights" / "epoch60.pt"

# What val.py returns: mAP@.5, mAP@.5:.95, and the latter of each class.
VAL = """
import sys
import numpy as np
np.trapz = getattr(np, "trapz", None) or np.trapezoid
from yolov5.models import common
from yolov5.utils import downloads
from yolov5.val import run
for module in (common, downloads):  # 7.0.14 first asks the network for the weights
    module.attempt_download_from_hub = lambda *arguments, **options: None
data, size, *weights = sys.argv[1:]
for file in weights:
    options = {"workers": 0, "plots": False, "device": "cpu", "project": "val"}
    result, maps, *_ = run(data=data, weights=[file], batch_size=1, imgsz=int(size), **options)
    print("RESULT", [float(result[2]), float(result[3]), *map(float, maps)])
"""


def validate(home, data, size, *weights, wheel=None):
    """What YOLOv5's val.py makes of each checkpoint."""
    (home / "val_alone.py").write_text(VAL)
    (home / "settings").mkdir(exist_ok=True)
    shutil.copy(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", home / "settings" / "Arial.ttf")
    env = {
        "YOLOV5_CONFIG_DIR": str(home / "settings"),
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
        "YOLOv5_AUTOINSTALL": "false",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [wheel and str(wheel), os.environ.get("PYTHONPATH", "")])),
    }
    done = run(data, size, *weights, cwd=home, script=home / "val_alone.py", env=env)
    return [ast.literal_eval(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The ten photographs and their labels, made harder: one label file lacks, one has a line twice and a mask outline,
    one labels what is not there; and a photograph of a size that leaves an odd number of pixels of padding."""
    home = tmp_path_factory.mktemp("labelled")
    run("--only-data", "data", cwd=home, script=ROOT / "scripts" / "train_demo.py")
    images, labels = home / "data" / "images" / "val", home / "data" / "labels" / "val"
    (labels / "flower_00.txt").unlink()
    text = (labels / "bus_00.txt").read_text()
    (labels / "bus_00.txt").write_text(f"{text}{text.splitlines()[0]}\n")
    (labels / "china_00.txt").write_text("0 0.31 0.3 0.2 0.2\n5 0.7 0.6 0.1 0.25\n")
    (labels / "chelsea_00.txt").write_text("4 0.02 0.05 0.9 0.02 0.95 0.5 0.5 0.98 0.05 0.9\n")
    cv2.imwrite(str(images / "odd.png"), cv2.resize(cv2.imread(str(images / "zidane_00.jpg")), (767, 331)))
    shutil.copy(labels / "zidane_00.txt", labels / "odd.txt")
    return home


def ours(predictor, folder, size):
    """The average precisions of a predictor."""
    images = []
    for image in sorted(folder.iterdir()):
        found, placed = predictor.validated(image, size)
        images.append(match(found, placed.cut(read_label(image).boxes(placed.labels(), {}))))
    return average_precision(images)


def check(found, expected):
    map50, mean, *classes = expected
    assert (found.map50, found.map) == pytest.approx((map50, mean), abs=1e-6)
    assert found.values.mean(axis=1) == pytest.approx([classes[k] for k in found.classes], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [320, 640])
def test_it_is_that_of_val(data, size, tmp_path, monkeypatch, capsys):
    """The numbers of two checkpoints, in memory and in the tables of the command."""
    expected = validate(data, data / "data" / "data.yaml", size, WEIGHTS, EPOCH60)
    assert 0.3 < expected[1][1] < expected[0][1] < 0.9  # neither finds everything
    folder = data / "data" / "images" / "val"
    for weights, numbers in zip((WEIGHTS, EPOCH60), expected):
        check(ours(Predictor(weights, device="cpu"), folder, size), numbers)
    monkeypatch.chdir(tmp_path)
    words = ("--weights", WEIGHTS, EPOCH60, "--layers", "17", "--source", folder, "--imgsz", size, "--device", "cpu")
    assert compare(*words, "--dpi", "80", "--width", "3") == 0
    rows = [row for row in rows_of("runs/compare/exp/map.csv") if row["class"] == "all"]
    screen = capsys.readouterr().err
    for row, (map50, mean, *_) in zip(rows, expected):
        assert (float(row["map50"]), float(row["map50_95"])) == pytest.approx((map50, mean), abs=1e-6)
        assert (row["images"], row["objects"]) == ("11", "19")
        line = next(line for line in screen.splitlines() if line.startswith(row["model"]) and line.endswith("19"))
        assert line.split()[1:3] == [f"{100 * map50:.1f}", f"{100 * mean:.1f}"]


@pytest.mark.slow
def test_it_is_that_of_a_release_that_rounds_sizes_up(data, tmp_path):
    """From a checkout, in a process of its own."""
    wheel = WHEELS / "7.0.14"
    checkout = tmp_path / "checkout"
    shutil.copytree(wheel / "yolov5", checkout, ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "__init__.py").unlink()
    for file in checkout.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"\b(from|import) yolov5\.", r"\1 ", text), encoding="utf-8")
    assert rounds_up(checkout) and not rounds_up(WHEELS / "6.2.3" / "yolov5")
    (expected,) = validate(data, data / "data" / "data.yaml", 320, EPOCH60, wheel=wheel)
    predictor = RemotePredictor(EPOCH60, str(checkout), False, "cpu")
    try:
        predictor.ready()
        check(ours(predictor, data / "data" / "images" / "val", 320), expected)
    finally:
        predictor.close()


@pytest.mark.slow
def test_labels_of_another_class_list_have_no_precision(data, tmp_path, monkeypatch, capsys):
    """The maps and their numbers are there, and what is missing is said."""
    monkeypatch.chdir(tmp_path)
    Path("labels").mkdir()
    words = ("--weights", WEIGHTS, EPOCH60, "--layers", "17", "--imgsz", "64", "--dpi", "80", "--labels", "labels")
    source = data / "data" / "images" / "val" / "bus_00.jpg"
    Path("labels/bus_00.txt").write_text("17 0.5 0.5 0.5 0.5\n")
    assert compare(*words, "--source", source) == 0
    said = "no mAP: labels/bus_00.txt has class 17, best has classes 0 to 5"
    assert said in capsys.readouterr().err and not Path("runs/compare/exp/map.csv").exists()
    assert "No mAP: labels/bus\\_00.txt has class 17" in Path("runs/compare/exp/table.tex").read_text()
    Path("labels/bus_00.txt").write_text("")
    assert compare(*words, "--source", source) == 0
    assert "no mAP: no labelled object" in capsys.readouterr().err
    assert not Path("runs/compare/exp2/map.csv").exists()


@pytest.mark.slow
def test_a_model_that_cannot_be_validated(data, tmp_path, monkeypatch, capsys):
    """It is said, and the rest is there; with --mode cam as well."""

    def fail(self, *arguments):
        raise FeatvizError("the model in x.pt is no detector: its output has no boxes")

    monkeypatch.setattr(Predictor, "validated", fail)
    monkeypatch.chdir(tmp_path)
    source = data / "data" / "images" / "val" / "bus_00.jpg"
    words = ("--weights", WEIGHTS, EPOCH60, "--layers", "9", "--imgsz", "64", "--dpi", "80", "--source", source)
    for mode, table in (("heatmap", "means.csv"), ("cam", "errors.csv")):
        assert compare(*words, "--mode", mode, "--name", mode) == 0
        assert "no mAP: best: the model in x.pt is no detector" in capsys.readouterr().err
        assert Path(f"runs/compare/{mode}/{table}").is_file() and not Path(f"runs/compare/{mode}/map.csv").exists()


def boxes(*edges, scores=None, classes=None):
    return Boxes(np.array(edges), scores, classes=np.array(classes if classes is not None else [0] * len(edges)))


def test_matching_by_hand():
    """IoU of boxes of the same left, top and bottom edges is the ratio of their widths."""
    truths = boxes([0, 0, 100, 10], [200, 0, 300, 10], classes=[0, 1])
    found = boxes(
        [0, 0, 76, 10],  # .76 of the first label
        [0, 0, 91, 10],  # .91, with a lower score: a true positive only where the one above is none
        [200, 0, 251, 10],  # .51 of the second
        [200, 0, 300, 10],  # of another class
        [0, 0, 40, 10],
        scores=[0.9, 0.8, 0.7, 0.6, 0.5],
        classes=[0, 0, 1, 0, 0],
    )
    hits = match(found, truths).hits
    assert [row.nonzero()[0].tolist() for row in hits] == [[0, 1, 2, 3, 4, 5], [6, 7, 8], [0], [], []]
    assert IOUS.tolist() == pytest.approx([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])


def test_the_order_of_detections_is_that_of_scores():
    truths = boxes([0, 0, 100, 10])
    worse, better = [0, 0, 60, 10], [0, 0, 100, 10]
    hits = match(boxes(worse, better, scores=[0.2, 0.9]), truths)
    assert hits.scores.tolist() == pytest.approx([0.9, 0.2]) and hits.hits.sum(axis=1).tolist() == [10, 0]


def test_average_precision_by_hand():
    """Two objects: found with the highest score, a false positive, then the other."""
    truths = boxes([0, 0, 10, 10], [20, 0, 30, 10])
    found = boxes([0, 0, 10, 10], [50, 0, 60, 10], [20, 0, 30, 10], scores=[0.9, 0.8, 0.7])
    # precision 1 below a recall of 1/2, from there 2/3, and 0 at 1 itself: 50 + 51 values, of which the ends count half
    expected = (0.5 + 49 + 50 * 2 / 3 + 0.0) / 100
    result = average_precision([match(found, truths)])
    assert result.map50 == pytest.approx(expected) and result.map == pytest.approx(expected)
    perfect = average_precision([match(boxes([0, 0, 10, 10], [20, 0, 30, 10], scores=[0.9, 0.7]), truths)])
    assert perfect.map == pytest.approx(0.995)


def test_classes_without_labels_do_not_count_and_those_without_detections_do():
    truths = boxes([0, 0, 10, 10], [20, 0, 30, 10], classes=[0, 2])
    found = boxes([0, 0, 10, 10], [20, 0, 30, 10], scores=[0.9, 0.8], classes=[0, 1])
    result = average_precision([match(found, truths), match(boxes(), boxes())])
    assert result.classes.tolist() == [0, 2] and result.objects.tolist() == [1, 1] and result.images == 2
    assert result.values[:, 0].tolist() == pytest.approx([0.995, 0])


def test_nothing():
    empty, one = boxes(), boxes([0, 0, 1, 1])
    assert np.isnan(average_precision([]).map) and np.isnan(average_precision([match(empty, empty)]).map50)
    assert average_precision([match(empty, one)]).map == 0
    none = average_precision([match(boxes([0, 0, 1, 1], scores=[0.5]), empty)])
    assert np.isnan(none.map) and none.images == 1
    flat = match(boxes([3, 3, 3, 3], scores=[0.5]), boxes([3, 3, 3, 3]))  # without an area
    assert not flat.hits.any()


def test_classes_are_matched_by_name():
    from yolov5_featviz.yolov5.compare import _renumbered

    found = boxes([0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3], scores=[0.9, 0.8, 0.7], classes=[0, 1, 2])
    assert _renumbered(found, {0: "a", 1: "b"}, {0: "a", 1: "b"}) is found
    other = _renumbered(found, {0: "bus", 1: "cat", 2: "dog"}, {0: "cat", 5: "bus"})
    assert other.classes.tolist() == [5, 0, -1]
