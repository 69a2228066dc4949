"""The releases of YOLOv5 that tests run, and the programs that build and run them."""

import os
import sys
from pathlib import Path

WHEELS = Path(sys.prefix) / "wheels"  # laid there by make test

RELEASES = ["4.0.14", "5.0.10", "6.0.7", "6.1.9", "6.2.3", "7.0.0", "7.0.14"]

CHECKOUTS = [p.parents[1] for p in sorted(Path(os.environ.get("CHECKOUTS", os.devnull)).glob("*/models/yolo.py"))]

LAYERS = (0, 9, 17, 20, 23)

# A model at random weights, built and saved by the release's own code; its head is shifted so that it detects things.
BUILD = """
import importlib, sys, torch
from pathlib import Path
root = Path(sys.argv[2]); sys.path.insert(0, str(root))
Model = importlib.import_module(sys.argv[3] + "models.yolo").Model
torch.manual_seed(0)
with torch.no_grad():  # releases before v4.0 write into their parameters while they are built
    model = Model(str(root / "models" / "yolov5s.yaml"))
for module in model.modules():
    if type(module) is torch.nn.BatchNorm2d:
        module.running_mean.normal_(0, 0.1); module.running_var.uniform_(0.5, 2)
detect = model.model[-1]  # v1.0 keeps its heads among the layers
for head in getattr(detect, "m", None) or [model.model[i % detect.i] for i in detect.f]:
    head.weight.data *= 20
    head.bias.data.view(3, -1)[:, 4:] = 0
model.names = [f"class{i}" for i in range(80)]  # as train.py does
torch.save({"epoch": -1, "model": model.half(), "optimizer": None}, sys.argv[1])
"""

# YOLOv5 alone, with a hook of torch's own on every module: a layer's last two passes are the two images.
ALONE = """
import os, runpy, sys
import numpy as np, torch
from pathlib import Path
root = Path(sys.argv.pop(1))
import requests  # v4.0 asks GitHub for the weights that it was given
requests.get = lambda *a, **k: type("Answer", (), {{"json": lambda self: {{"assets": [], "tag_name": ""}}}})()
wanted, passes = {LAYERS}, {{}}
def hook(module, args, output):
    i = vars(module).get("i")
    if i in wanted and "f" in vars(module):
        stem = f"stage{{i}}_{{type(module).__name__}}"
        passes[stem] = (passes.get(stem, []) + [output[0].detach().numpy().copy()])[-2:]
torch.nn.modules.module.register_module_forward_hook(hook)
words = sys.argv[1:]
if "__main__" in (root / "detect.py").read_text():
    sys.argv[0] = str(root / "detect.py"); sys.path[0] = str(root)
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    from yolov5.detect import detect
    detect(words[1], words[3], img_size=320, conf_thres=float(words[7]), save_txt=True, save_conf=True)
for stem, maps in passes.items():
    for name, data in zip(("bus", "zidane"), maps):
        os.makedirs(name, exist_ok=True)
        np.save(f"{{name}}/{{stem}}_features.npy", data)
"""

# No network: whoever asks for it dies of it. And no pkg_resources, which setuptools has taken away.
SITE = """
import socket
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if name.startswith("pkg_resources") else find(name, *args)
def refuse(*args, **kwargs):
    open("NETWORK", "a").write(repr(args)); raise SystemExit("network: %r" % (args,))
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""
