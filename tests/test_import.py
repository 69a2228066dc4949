"""What importing the package costs, and what it brings along."""

import json
import subprocess
import sys

import pytest
from helpers import ROOT

MEASURE = """
import json, sys, time
import torch
known = set(sys.modules)
start = time.process_time()
import yolov5_featviz
print(json.dumps([time.process_time() - start, sorted({name.split(".")[0] for name in set(sys.modules) - known})]))
"""
OPTIONAL = {"captum", "mmdet", "mmengine", "pytorch_grad_cam", "thop", "timm", "torchvision", "ultralytics", "yolov5"}
LATER = {"PIL", "cv2", "matplotlib"}  # required, but not before something is drawn


@pytest.mark.slow
def test_import_is_quick_and_brings_nothing_along():
    """Beyond torch's own import: under 0.3 s of the processor, and no package that is not needed for it."""
    runs = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    assert "yolov5_featviz" in runs[0][1]
    assert not (OPTIONAL | LATER) & set(runs[0][1])
    assert min(seconds for seconds, _ in runs) < 0.3, runs
