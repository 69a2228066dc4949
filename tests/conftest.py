"""The real thing: YOLOv5 from its wheel, the bundled checkpoint, the two photographs of the wheel."""

import re
import shutil
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import WEIGHTS

import yolov5_featviz as fv


@pytest.fixture(scope="session")
def yolov5() -> Path:
    """The installed package's folder."""
    return Path(str(metadata.distribution("yolov5").locate_file("yolov5")))


@pytest.fixture(scope="session")
def images(yolov5):
    return yolov5 / "data" / "images"


@pytest.fixture(scope="session")
def checkout(yolov5, tmp_path_factory):
    """The same release as a plain checkout, whose modules are ``models.yolo`` and so on."""
    root = tmp_path_factory.mktemp("checkout") / "yolov5"
    shutil.copytree(yolov5, root, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "__init__.py").unlink()
    for file in root.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r"\b(from|import) yolov5\.", r"\1 ", text), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def model():
    return fv.load(WEIGHTS)


@pytest.fixture(scope="session")
def bus(images):
    """``bus.jpg`` as the network gets it: ``[1, 3, 640, 480]`` in [0, 1]; at this size there is no letterbox."""
    image = cv2.resize(cv2.imread(str(images / "bus.jpg")), (480, 640), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))[None]).float() / 255
