"""scripts/deletion.py on the demo checkpoint; what the detectors of small_detectors.py are trained on."""

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
