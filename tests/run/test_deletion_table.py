"""scripts/deletion.py and proof.py on the demo checkpoint; what the detectors of small_detectors.py are trained on."""

import csv
import importlib.util
import json
import sys

import numpy as np
import pytest
from helpers import ROOT, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small_detectors():
    sys.path.insert(0, str(ROOT / "scripts"))  # it reads train_demo.py
    try:
        spec = importlib.util.spec_from_file_location("small_detectors", ROOT / "scripts" / "small_detectors.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def test_the_table(tmp_path):
    """Rows are the means of the areas that are saved, the least first; maps beat chance."""
    saved = tmp_path / "areas.json"
    words = ("--detectors", "yolov5", "--methods", "layer-cam", "--steps", "2", "--json", saved)
    done = run(*words, cwd=tmp_path, script=ROOT / "scripts" / "deletion.py", env={"OMP_NUM_THREADS": "1"})
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert lines[0].startswith("| map | layers | YOLOv5n | mean |")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    means = [float(row[2]) for row in rows]
    assert means == sorted(means) and len(rows) == 10
    areas = json.loads(saved.read_text())["YOLOv5n"]
    for name, layers, value, average in rows:
        found = areas[", ".join(filter(None, (name, layers)))]
        assert len(found) == (24 if "random" in name else 8) and value == average
        assert float(value) == pytest.approx(np.nanmean(found), abs=6e-4)
    order = [row[0] for row in rows]
    assert order.index("Layer-CAM") < order.index("random (mean of three)")


def test_labels_follow_the_photograph(small_detectors):
    """The box of a red rectangle, wherever the photograph is put, unless the rectangle is partly hidden."""
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[60:200, 100:180, 0] = 255
    photograph = small_detectors.Photograph(pixels, np.array([[100.0, 60, 180, 200]]), np.array([3]))
    random = np.random.default_rng(0)
    apart = []
    for _ in range(100):
        image, boxes, classes = small_detectors.varied(photograph, (192, 320), random)
        red = ((image[0] - image[1] > 0.3) & (image[1] == image[2])).numpy()
        if len(boxes) and red.any():
            assert classes.tolist() == [3]
            (top, bottom), (left, right) = (np.flatnonzero(red.any(axis=axis))[[0, -1]] for axis in (1, 0))
            apart.append(np.abs(np.array([left, top, right + 1, bottom + 1]) - boxes[0].numpy()).max())
    assert len(apart) > 90 and np.median(apart) < 1


def test_the_tables_of_faithfulness(tmp_path):
    """A row for each method and baseline, whose means are those of the rows that are saved; the page is left alone."""
    page = ROOT / "docs" / "proof.md"
    before = page.read_bytes()
    words = ("--detectors", "yolov5", "--methods", "heatmap", "--steps", "2", "--stages", "0", "--print")
    script = ROOT / "scripts" / "proof.py"
    done = run(*words, "--folder", tmp_path, cwd=tmp_path, script=script, env={"OMP_NUM_THREADS": "1"})
    assert page.read_bytes() == before
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert lines[0].startswith("| map | deletion | insertion | odi |") and len(lines) == 2 + 5
    with open(tmp_path / "yolov5.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    mean = np.mean([float(row["deletion"]) for row in rows if row["method"] == "heatmap"])
    assert lines[2].split("|")[1].strip() == "heat map"
    assert float(lines[2].split("|")[2].split()[0].rstrip("\\*")) == pytest.approx(mean, abs=6e-4)
    assert "does not beat" in done.stdout or "no conclusion" in done.stdout
