"""The real thing: YOLOv5 from its wheel, the bundled checkpoint, the two photographs of the wheel."""

import inspect
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import yolov5_featviz as fv
from yolov5_featviz.models.layers import Layer

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "weights" / "best.pt"


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


def feature_map(data, **kwargs):
    """A FeatureMap of anything, as if layer 17 had put it out."""
    layer = Layer("model.17", torch.nn.Identity(), "C3", index=17, name="17")
    return fv.FeatureMap(torch.as_tensor(data), layer, **kwargs)


def independent_hooks(model, indices, image):
    """Activations by hooks that share no code with the package."""
    found = {}
    handles = [
        model.model[i].register_forward_hook(lambda m, a, out, i=i: found.__setitem__(i, out.detach().clone().numpy()))
        for i in indices
    ]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return found


def run(*words, cwd, script=ROOT / "detect.py", check=0, env=None):
    """Run the launcher as a user would; return the finished process. ``check``: the exit code to insist on."""
    words = [sys.executable, *([str(script)] if script else []), *map(str, words)]
    home = {"HOME": str(Path(cwd).parent), "YOLOV5_ROOT": ""}
    done = subprocess.run(words, cwd=cwd, env={**os.environ, **home, **(env or {})}, capture_output=True, text=True)
    assert check is None or done.returncode == check, done.stdout + done.stderr
    return done


def torch_load(path):
    """What torch alone makes of a file that is trusted; the keyword came with 1.13."""
    known = "weights_only" in inspect.signature(torch.load).parameters
    return torch.load(path, **({"weights_only": False} if known else {}))


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def other_weights(out, change, path=WEIGHTS):
    """A checkpoint whose fp16 weights are those of ``path``, changed; nothing of YOLOv5 is needed for that."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.infolist():
            content = old.read(member)
            if "/data/" in member.filename and len(content) > 2048:  # convolutions; what is smaller are norms, biases
                content = change(np.frombuffer(content, np.float16).astype(np.float32)).astype(np.float16).tobytes()
            new.writestr(member, content)
    return out
