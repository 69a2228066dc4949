"""Every release that has a wheel: it loads, draws once, the maps are exact, the detections the same, no network."""

import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from helpers import WEIGHTS, files_below, run
from releases import ALONE, BUILD, CHECKOUTS, LAYERS, RELEASES, SITE, WHEELS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("release", RELEASES)
def test_wheel(release, images, tmp_path, record_property):
    check(WHEELS / release / "yolov5", WHEELS / release, images, tmp_path, record_property)


@pytest.mark.parametrize("checkout", CHECKOUTS, ids=[path.name for path in CHECKOUTS])
def test_checkout(checkout, images, tmp_path, record_property):
    """The plain checkouts that make test-releases was given."""
    check(checkout, None, images, tmp_path, record_property)


@contextmanager
def column(record, name):
    """What is asserted inside is a column of the table of scripts/compatibility.py."""
    try:
        yield
    except Exception:
        record(name, "no")
        raise
    record(name, "yes")


def paths(*first):
    return os.pathsep.join([*map(str, first), *filter(None, [os.environ.get("PYTHONPATH")])])


def check(root, wheel, images, tmp_path, record):
    before = {f: (root / f).stat().st_mtime_ns for f in files_below(root) if "__pycache__" not in f}
    site, ours, alone = tmp_path / "site", tmp_path / "ours", tmp_path / "alone"
    for folder in (site / "settings", site / "hub" / "huggingface_hub" / "utils", ours, alone):
        folder.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(SITE)
    on_path = [str(wheel)] if wheel else []
    environment = {
        "PYTHONPATH": paths(site, *on_path),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    # what YOLOv5 alone needs on this machine: a font, torch's old default, no pip, a hub that knows nothing
    import matplotlib

    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    (site / "settings" / "Arial.ttf").write_bytes(font.read_bytes())
    error = "class HFValidationError(ValueError): pass\nRepositoryNotFoundError = HFValidationError\n"
    hub = site / "hub" / "huggingface_hub"
    (hub / "utils" / "__init__.py").write_text("")
    (hub / "utils" / "_errors.py").write_text(error)
    (hub / "utils" / "_validators.py").write_text("from huggingface_hub.utils._errors import HFValidationError\n")
    (hub / "__init__.py").write_text(
        "from huggingface_hub.utils._errors import HFValidationError\n"
        "def list_repo_files(*a, **k): raise HFValidationError\n"
        "hf_hub_download = list_repo_files\n"
    )
    old = {
        **environment,
        "PYTHONPATH": os.pathsep.join([str(site / "hub"), *on_path]),
        "YOLOV5_CONFIG_DIR": str(site / "settings"),
        "YOLOv5_AUTOINSTALL": "false",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    }
    (tmp_path / "build.py").write_text(BUILD)
    (tmp_path / "alone.py").write_text(ALONE.format(LAYERS=LAYERS))
    prefix = "yolov5." if wheel else ""
    weights = root.parent / f"{root.name}.pt"  # for a release that this torch cannot build a model of
    if wheel or not weights.is_file():
        weights = tmp_path / "w.pt"
        run(weights, root, prefix, cwd=tmp_path, script=tmp_path / "build.py", env=old)

    words = ["--weights", weights, "--source", images, "--img-size", "320", "--conf-thres", "0.3", "--save-txt"]
    detect = (root / "detect.py").read_text()
    words += ["--save-conf"] if "--save-conf" in detect or wheel else []
    if not wheel:  # which would write into the checkout
        flag = next(flag for flag in ("--project", "--save-dir", "--output") if flag in detect)
        words += [flag, "runs/detect" if flag == "--project" else "runs/detect/exp"]
    run(root, *words, cwd=alone, script=tmp_path / "alone.py", env=old)
    layers = ("--visualize-layers", ",".join(map(str, LAYERS)), "--visualize-format", "png,npy")
    script = "detect.py" if wheel else root / "detect.py"
    with column(record, "loads"):
        done = run("-m", "yolov5_featviz", "run", script, *words, *layers, cwd=ours, script=None, env=environment)
        how = f"YOLOv5 {wheel.name} (installed package: {root})" if wheel else f"(the script's folder: {root})"
        assert how in done.stderr.splitlines()[0]

    exp = Path("runs/detect/exp")
    expected = [f for f in files_below(alone) if f.endswith("_features.npy")]
    assert len(expected) == 2 * len(LAYERS)
    with column(record, "draws once"):
        pictures = [f.replace(".npy", ".png") for f in expected]
        assert [f for f in files_below(ours / exp) if "stage" in f] == sorted([*expected, *pictures])
    with column(record, "maps exact"):
        for file in expected:
            np.testing.assert_array_equal(np.load(ours / exp / file), np.load(alone / file))
    with column(record, "detections identical"):
        for image in ("bus", "zidane"):
            (labels,) = (alone / exp).rglob(f"{image}.txt")
            assert labels.read_bytes()
            assert (ours / labels.relative_to(alone)).read_bytes() == labels.read_bytes()
    with column(record, "nothing left, no network"):
        assert not list(tmp_path.rglob("NETWORK"))
        after = {f: (root / f).stat().st_mtime_ns for f in files_below(root) if "__pycache__" not in f}
        assert after == before


def test_in_python_too(tmp_path):
    """Whoever reads a checkpoint without running a script gets the same help."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    words = "import sys, importlib.util, yolov5_featviz as fv; fv.load(sys.argv[1]); "
    words += (
        "import socket; print(importlib.util.find_spec('pkg_resources')); socket.create_connection(('localhost', 9))"
    )
    done = run("-c", words, WEIGHTS, cwd=tmp_path, script=None, check=1, env={"PYTHONPATH": paths(tmp_path)})
    assert done.stdout == "None\n"
    assert done.stderr.splitlines()[-1] == "network: (('localhost', 9),)"


BUILD_OTHER = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from models.yolo import ClassificationModel, DetectionModel, SegmentationModel
torch.manual_seed(0)
segment = SegmentationModel(sys.argv[1] + "/models/segment/yolov5n-seg.yaml")
classify = ClassificationModel(model=DetectionModel(sys.argv[1] + "/models/yolov5n.yaml"), nc=10)
for name, model in (("segment", segment), ("classify", classify)):
    model.names = [str(i) for i in range(80)]
    torch.save({"epoch": -1, "model": model.half()}, name + ".pt")
"""


def test_segmentation_and_classification(checkout, images, tmp_path):
    """Their checkpoints hold other heads, and one of them a method; their scripts prepare images in their own way."""
    (tmp_path / "build.py").write_text(BUILD_OTHER)
    run(checkout, cwd=tmp_path, script=tmp_path / "build.py")
    for task, expected in (("segment", ["stage17_C3", "stage9_SPPF"]), ("classify", ["stage2_C3", "stage4_C3"])):
        layers = ",".join(stem[5:].split("_")[0] for stem in expected)
        words = (
            "--weights",
            f"{task}.pt",
            "--source",
            images / "bus.jpg",
            "--project",
            task,
            "--visualize-layers",
            layers,
        )
        run("-m", "yolov5_featviz", "run", checkout / task / "predict.py", *words, cwd=tmp_path, script=None)
        assert files_below(tmp_path / task / "exp" / "bus") == [f"{stem}_features.png" for stem in expected]
