"""What tests share: the real program, independent hooks, files."""

import inspect
import os
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

import yolov5_featviz as fv
from yolov5_featviz.models.layers import Layer

ROOT = Path(__file__).resolve().parents[2]


WEIGHTS = ROOT / "weights" / "best.pt"


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


@contextmanager
def left_as_it_was(model):
    """Insist that a model's flags, hooks, state and gradients are afterwards what they were before."""
    hooks = {name: dict(module._forward_hooks) for name, module in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    yield
    assert [module.training for module in model.modules()] == flags and torch.is_grad_enabled()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert {name: dict(module._forward_hooks) for name, module in model.named_modules()} == hooks
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
