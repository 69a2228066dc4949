"""Errors in ``run``: labels from val.py's loader, and from the files beside the images of detect.py."""

import re
import shutil
from collections import Counter

import pytest
import yaml
from helpers import WEIGHTS, files_below, run

from yolov5_featviz.runs.provenance import read_record

pytestmark = pytest.mark.slow

NAMES = ["person", "bus", "tie", "motorcycle", "cat", "cup"]
LABELS = "1 0.5 0.44 0.98 0.45\n5 0.5 0.1 0.2 0.1\n"  # the bus as it is, and a cup in the sky; no person
CAM = ("--visualize-mode", "cam", "--visualize-layers", "9")


@pytest.fixture
def data(images, tmp_path):
    shutil.copytree(images, tmp_path / "data" / "images")
    (tmp_path / "data" / "labels").mkdir()
    (tmp_path / "data" / "labels" / "bus.txt").write_text(LABELS)
    sets = {"path": str(tmp_path / "data"), "train": "images", "val": "images", "nc": 6, "names": NAMES}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(sets))
    return tmp_path


def kinds(page):
    """How many explanations of each kind are in a report."""
    return Counter(re.findall(r'"kind":"([a-z ]*)"', page.read_text(encoding="utf-8")))


def test_val_knows_the_labels_of_its_loader(data):
    words = ("run", "val.py", "--weights", WEIGHTS, "--data", "data.yaml", "--imgsz", "320", "--workers", "0")
    run("-m", "yolov5_featviz", *words, "--batch-size", "2", *CAM, cwd=data, script=None)
    found = kinds(data / "runs" / "val" / "exp" / "index.html")
    assert found["missed"] == 1 and found[""] == 1  # the cup, and the bus
    assert found["false"] == 4 + 3  # the persons of both, and the tie: zidane has no label file
    shown = read_record(data / "runs" / "val" / "exp" / "bus" / "stage9_SPPF_cam.png")["shows"]
    assert shown.startswith("Layer-CAM of 4 × person, 1 × bus")  # what the script detected


def test_detect_explains_what_was_missed(data):
    words = ("--weights", WEIGHTS, "--source", "data/images", "--imgsz", "320", "--nosave", "--visualize-report", "off")
    done = run(*words, *CAM, "--visualize-target", "missed", cwd=data)
    assert "zidane: nothing is missed; no class activation map" in done.stderr
    assert files_below(data / "runs" / "detect" / "exp") == ["bus/stage9_SPPF_cam.png"]
    shown = read_record(data / "runs" / "detect" / "exp" / "bus" / "stage9_SPPF_cam.png")["shows"]
    assert re.match(r"Layer-CAM of cup \S+, missed: no candidate of this class overlaps by half; nearest: ", shown)


def test_a_target_that_needs_labels_where_there_are_none(images, tmp_path):
    shutil.copy(images / "bus.jpg", tmp_path / "bus.jpg")
    words = ("--weights", WEIGHTS, "--source", "bus.jpg", "--imgsz", "320", "--nosave", *CAM)
    done = run(*words, "--visualize-target", "errors", cwd=tmp_path, check=1)
    assert "bus: target 'errors' needs labels, and none are known; no class activation map" in done.stderr
