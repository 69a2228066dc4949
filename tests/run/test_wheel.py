"""What `python -m build` makes: a wheel that does the main job where nothing else of ours is installed."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from helpers import ROOT, WEIGHTS, files_below

pytestmark = pytest.mark.slow
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "yolov5_featviz", "patches")


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder of the sdist and the wheel, made from a copy without what is not part of the package."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return source / "dist"


def test_what_is_in_them(dist):
    names = sorted(path.name for path in dist.iterdir())
    assert len(names) == 2 and names[0].endswith(".whl") and names[1].endswith(".tar.gz")
    with zipfile.ZipFile(dist / names[0]) as wheel:
        inside = set(wheel.namelist())
    expected = {f"yolov5_featviz/{name}" for name in files_below(ROOT / "yolov5_featviz") if "__pycache__" not in name}
    assert expected <= inside and "yolov5_featviz/patches/detect.diff" in inside
    assert not [name for name in inside if not name.startswith(("yolov5_featviz/", "yolov5_featviz-"))]


def test_the_wheel_does_the_main_job(dist, images, tmp_path):
    """In an environment of its own, to which only the packages that it asks for, and YOLOv5, are lent."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    bin = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    (wheel,) = dist.glob("*.whl")
    pip = [bin / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", wheel]
    subprocess.run(pip, check=True)
    site = subprocess.check_output(
        [bin / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    (Path(site) / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")  # whose own .pth files are not read
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = ["--weights", WEIGHTS, "--source", images, "--imgsz", "320", "--visualize-layers", "17,20,23"]
    command = [bin / "yolov5-featviz", "run", "detect.py", *map(str, words)]
    done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pictures = [name for name in files_below(tmp_path / "runs") if name.endswith("_features.png")]
    assert len(pictures) == 6 and (tmp_path / "runs/detect/exp/index.html").is_file()
    where = [bin / "python", "-c", "import yolov5_featviz; print(yolov5_featviz.__file__)"]
    assert subprocess.check_output(where, cwd=tmp_path, env=alone, text=True).startswith(str(tmp_path / "env"))


def test_it_asks_for_what_it_needs(dist):
    """Every package that a module imports at its head is among the dependencies."""
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        (name,) = [name for name in file.namelist() if name.endswith("/METADATA")]
        asked = re.findall(r"(?m)^Requires-Dist: ([\w-]+)", file.read(name).decode())
        heads = {
            found.split(".")[0]
            for name in file.namelist()
            if name.endswith(".py") and not name.endswith("mmdet.py")
            for found in re.findall(r"(?m)^(?:from|import) (\w[\w.]*)", file.read(name).decode())
        }
    owners = metadata.packages_distributions()
    third = {head for head in heads if head not in sys.stdlib_module_names and head != "yolov5_featviz"}
    assert {"torch", "numpy"} <= third
    for head in third:
        assert {owner.lower() for owner in owners[head]} & {name.lower() for name in asked}, head
