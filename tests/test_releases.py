"""Every release that has a wheel: it loads, draws once, the maps are exact, the detections the same, no network."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import files_below, run

WHEELS = Path(sys.prefix) / "wheels"  # laid there by make test
RELEASES = ["4.0.14", "5.0.10", "6.0.7", "6.1.9", "6.2.3", "7.0.0", "7.0.14"]
LAYERS = (0, 9, 17, 20, 23)

# A model at random weights, built and saved by the release's own code; its head is shifted so that it detects things.
BUILD = """
import sys, torch
from importlib import metadata
from pathlib import Path
root = Path(str(metadata.distribution("yolov5").locate_file("yolov5"))); sys.path.insert(0, str(root))
from yolov5.models.yolo import Model
torch.manual_seed(0)
model = Model(str(root / "models" / "yolov5s.yaml"))
for module in model.modules():
    if type(module) is torch.nn.BatchNorm2d:
        module.running_mean.normal_(0, 0.1); module.running_var.uniform_(0.5, 2)
for head in model.model[-1].m:
    head.weight.data *= 20
    head.bias.data.view(3, -1)[:, 4:] = 0
torch.save({"epoch": -1, "model": model.half(), "optimizer": None}, sys.argv[1])
"""

# YOLOv5 alone, with a hook of torch's own on every module: a layer's last two passes are the two images.
ALONE = """
import os, runpy, sys, inspect
import numpy as np, torch
from importlib import metadata
from pathlib import Path
root = Path(str(metadata.distribution("yolov5").locate_file("yolov5")))
wanted, passes = {LAYERS}, {{}}
def hook(module, args, output):
    i = vars(module).get("i")
    if i in wanted and "f" in vars(module):
        passes[i] = (passes.get(i, []) + [output[0].detach().numpy().copy()])[-2:]
torch.nn.modules.module.register_module_forward_hook(hook)
words = sys.argv[1:]
if "__main__" in (root / "detect.py").read_text():
    sys.argv[0] = str(root / "detect.py"); sys.path[0] = str(root)
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    from yolov5.detect import detect
    detect(words[1], words[3], img_size=320, conf_thres=float(words[7]), save_txt=True, save_conf=True)
for i, maps in passes.items():
    for name, data in zip(("bus", "zidane"), maps):
        np.save(f"{{name}}_{{i}}.npy", data)
"""

# The surroundings that the release expects, and no network: whoever asks for it dies of it.
SITE = """
import socket
def refuse(*args, **kwargs):
    open("NETWORK", "a").write(repr(args)); raise SystemExit("network: %r" % (args,))
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""


@pytest.mark.parametrize("release", RELEASES)
def test_release(release, images, tmp_path):
    wheel = WHEELS / release
    before = {f: (wheel / f).stat().st_mtime_ns for f in files_below(wheel) if "__pycache__" not in f}
    site, ours, alone = tmp_path / "site", tmp_path / "ours", tmp_path / "alone"
    for folder in (site / "settings", site / "hub" / "huggingface_hub" / "utils", ours, alone):
        folder.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(SITE)
    environment = {"PYTHONPATH": f"{site}:{wheel}", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

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
        "PYTHONPATH": f"{site / 'hub'}:{wheel}",
        "YOLOV5_CONFIG_DIR": str(site / "settings"),
        "YOLOv5_AUTOINSTALL": "false",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    }
    (tmp_path / "build.py").write_text(BUILD)
    (tmp_path / "alone.py").write_text(ALONE.format(LAYERS=LAYERS))
    run(tmp_path / "w.pt", cwd=tmp_path, script=tmp_path / "build.py", env=old)

    words = ["--weights", tmp_path / "w.pt", "--source", images, "--img-size", "320", "--conf-thres", "0.3"]
    words += ["--save-txt", "--save-conf"]
    run(*words, cwd=alone, script=tmp_path / "alone.py", env=old)
    layers = ("--visualize-layers", ",".join(map(str, LAYERS)), "--visualize-format", "png,npy")
    done = run("-m", "yolov5_featviz", "run", "detect.py", *words, *layers, cwd=ours, script=None, env=environment)

    assert f"YOLOv5 {release} (installed package" in done.stderr.splitlines()[0]
    assert not list(tmp_path.rglob("NETWORK"))
    exp = Path("runs/detect/exp")
    for image in ("bus", "zidane"):
        labels = (alone / exp / "labels" / f"{image}.txt").read_bytes()
        assert labels and (ours / exp / "labels" / f"{image}.txt").read_bytes() == labels
        types = {0: "Focus" if release[0] in "45" else "Conv", 9: "C3" if release[0] in "45" else "SPPF"}
        stems = [f"stage{i}_{types.get(i, 'C3')}_features" for i in LAYERS]
        assert files_below(ours / exp / image) == sorted(f"{stem}.{end}" for stem in stems for end in ("npy", "png"))
        for i, stem in zip(LAYERS, stems):
            dumped = np.load(ours / exp / image / f"{stem}.npy")
            np.testing.assert_array_equal(dumped, np.load(alone / f"{image}_{i}.npy"))
    after = {f: (wheel / f).stat().st_mtime_ns for f in files_below(wheel) if "__pycache__" not in f}
    assert after == before
