"""Checkpoints: the real ones load, and of the others not a line runs."""

import datetime
import hashlib
import io
import logging
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from conftest import ROOT, WEIGHTS, files_below, independent_hooks, run, torch_load
from torch import nn

import yolov5_featviz as fv
from yolov5_featviz.cli import main
from yolov5_featviz.errors import UnsafeCheckpoint
from yolov5_featviz.yolov5.checkpoint import load_checkpoint
from yolov5_featviz.yolov5.source import find_source


class Reduces:
    """Pickles as whatever call it is given."""

    def __init__(self, function, *args, state=None):
        self.call = (function, args, state) if state is not None else (function, args)

    def __reduce__(self):
        return self.call


def save(payload, path, legacy=False):
    torch.save({"epoch": -1, "model": payload}, path, _use_new_zipfile_serialization=not legacy)
    return path


def save_stream(stream, path):
    """A zip checkpoint whose pickle is ``stream``, written by hand."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return path


def save_legacy_stream(stream, path):
    """A file as torch wrote it before 1.6, whose pickle is ``stream``."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + stream + pickle.dumps([], 2))
    return path


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def old_global(module, name):
    return f"c{module}\n{name}\n".encode()


def stack_global(module, name):
    return text(module) + text(name) + b"\x93"


CANARY = "touch canary"


def calls():
    """What a stranger's checkpoint might call: (what the refusal must name, payload)."""
    import importlib
    import runpy

    return {
        "posix.system": Reduces(os.system, CANARY),
        "builtins.eval": Reduces(eval, "open('canary', 'w')"),
        "builtins.exec": Reduces(exec, "open('canary', 'w')"),
        "subprocess.Popen": Reduces(subprocess.Popen, ["touch", "canary"]),
        "subprocess.check_output": Reduces(subprocess.check_output, ["touch", "canary"]),
        "runpy._run_code": Reduces(runpy._run_code, "open('canary', 'w')", {}),
        "importlib.import_module": Reduces(importlib.import_module, "antigravity"),
        "io.open": Reduces(open, "canary", "w"),
        "builtins.__import__": Reduces(__import__, "antigravity"),
        "logging.FileHandler": Reduces(logging.FileHandler, "canary", "w"),
        "tempfile.mkdtemp": Reduces(tempfile.mkdtemp, "x", "canary", "."),
        "shutil.copy": Reduces(shutil.copy, str(ROOT / "README.md"), "canary"),
        "pickle.loads": Reduces(pickle.loads, pickle.dumps(Reduces(os.system, CANARY))),
        "torch.storage._load_from_bytes": Reduces(torch.storage._load_from_bytes, b"anything"),
        "torch.hub.load": Reduces(torch.hub.load, "nobody/nothing", "evil"),
        "torch.serialization.load": Reduces(torch.serialization.load, str(WEIGHTS)),
        "numpy": Reduces(np.lib.format.open_memmap, "canary", "w+"),
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("named", list(calls()))
def test_calls_are_refused(named, legacy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(calls()[named], tmp_path / "evil.pt", legacy)
    with pytest.raises(UnsafeCheckpoint) as error:
        fv.load(path)
    assert named in str(error.value) and "--trust-weights" in str(error.value)
    assert "\n" not in str(error.value)
    assert files_below(tmp_path) == ["evil.pt"]


def streams():
    """The same by opcodes of every protocol, and names that only look as if they belonged to YOLOv5."""
    touch = text(CANARY) + b"\x85R."
    common = "models.common"
    return {
        "posix.system by GLOBAL": (old_global("posix", "system") + touch, "posix.system"),
        "os.system by STACK_GLOBAL": (b"\x80\x04" + stack_global("os", "system") + touch, "os.system"),
        "INST": (b"(" + b"S'touch canary'\nios\nsystem\n.", "os.system"),
        "OBJ": (b"(" + old_global("os", "system") + b"S'touch canary'\no.", "os.system"),
        "NEWOBJ": (b"\x80\x02" + old_global("subprocess", "Popen") + text(CANARY) + b"\x85\x81.", "subprocess.Popen"),
        "EXT": (b"\x80\x02\x82\x01.", "pickle extension 1"),
        "dotted": (b"\x80\x04" + stack_global(common, "os.system") + touch, "models.common.os.system"),
        "dotted from torch": (b"\x80\x04" + stack_global("torch", "os.system") + touch, "torch.os.system"),
        "dotted from nn": (
            b"\x80\x04" + stack_global("torch.nn.modules", "module.torch.os.system") + touch,
            "torch.nn.modules",
        ),
        "dotted class": (
            b"\x80\x04" + stack_global(common, "Conv.forward.__globals__") + b".",
            "models.common.Conv.forward",
        ),
        "module in an allowed module": (old_global("models.yolo", "os") + b".", "models.yolo.os"),
        "function in an allowed module": (old_global(common, "autopad") + touch, "models.common.autopad"),
        "imported function": (old_global(common, "check_requirements") + touch, "models.common.check_requirements"),
        "class that is no module": (
            old_global("utils.dataloaders", "LoadStreams") + touch,
            "utils.dataloaders.LoadStreams",
        ),
        "script that runs on import": (old_global("utils.aws.resume", "Path") + touch, "utils.aws.resume.Path"),
        "file outside": (old_global("models...evil", "Evil") + touch, "models...evil.Evil"),
        "torch function": (old_global("torch", "load") + touch, "torch.load"),
        "torch.nn function": (old_global("torch.nn.functional", "relu") + touch, "torch.nn.functional.relu"),
        "constructor of an allowed class": (old_global(common, "DetectMultiBackend") + touch, "DetectMultiBackend"),
        "constructor that evaluates": (old_global("models.yolo", "DetectionModel") + touch, "DetectionModel"),
        "constructor of nn": (old_global("torch.nn.modules.linear", "Identity") + touch, "Identity"),
        "getattr": (
            old_global("__builtin__", "getattr") + old_global(common, "Conv") + text("__init__") + b"\x86R.",
            "builtins.getattr",
        ),
        "factory": (old_global("collections", "defaultdict") + old_global("os", "system") + b"\x85R.", "os.system"),
        "factory that is allowed by name": (
            old_global("collections", "defaultdict") + old_global(common, "Conv") + b"\x85R.",
            "Conv",
        ),
        "state of a class": (
            old_global(common, "Conv") + b"N}" + text("forward") + old_global("_codecs", "encode") + b"s\x86b.",
            "Conv",
        ),
        "state of a function": (old_global("_codecs", "encode") + b"}" + text("a") + b"K\x01sb.", "_codecs.encode"),
        "items into a class": (old_global(common, "Conv") + b"K\x01K\x02s.", "Conv"),
        "extend of a module": (old_global("torch.nn.modules.container", "ModuleList") + b")\x81(K\x01e.", "ModuleList"),
        "codec": (old_global("_codecs", "encode") + text("x") + text("rot13") + b"\x86R.", "_codecs.encode"),
        "storage": (old_global("torch", "FloatStorage") + b"K\x01\x85R.", "Storage"),
        "array of another class": (
            old_global("numpy.core.multiarray", "_reconstruct") + old_global(common, "Conv") + b"K\x00\x85C\x01b\x87R.",
            "Conv",
        ),
        "method replaced": (
            b"\x80\x02"
            + old_global("torch.nn.modules.linear", "Identity")
            + b")\x81}"
            + text("forward")
            + old_global(common, "DetectMultiBackend")
            + b"sb.",
            "DetectMultiBackend",
        ),
        "method replaced by a module": (
            b"\x80\x02"
            + old_global("torch.nn.modules.linear", "Identity")
            + b")\x81}"
            + text("extra_repr")
            + old_global(common, "AutoShape")
            + b")\x81sb.",
            "AutoShape",
        ),
        "string of a module": (
            b"\x80\x02"
            + old_global("__builtin__", "str")
            + old_global("torch.nn.modules.linear", "Identity")
            + b")\x81\x85R.",
            "builtins.str",
        ),
        "hook": (
            b"\x80\x02"
            + old_global("torch.nn.modules.linear", "Identity")
            + b")\x81}"
            + text("_forward_hooks")
            + b"}K\x00"
            + old_global(common, "DetectMultiBackend")
            + b"ssb.",
            "DetectMultiBackend",
        ),
        "another fork's module": (old_global("mmdet.models", "ATSS") + b")\x81.", "mmdet.models.ATSS"),
        "unknown module of YOLOv5": (old_global(common, "C99") + b")\x81.", "models.common.C99"),
    }


@pytest.mark.parametrize("write", [save_stream, save_legacy_stream], ids=["zip", "legacy"])
@pytest.mark.parametrize("case", list(streams()))
def test_streams_are_refused(case, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stream, named = streams()[case]
    before = set(sys.modules)
    with pytest.raises(UnsafeCheckpoint) as error:
        fv.load(write(stream, tmp_path / "evil.pt"))
    assert named in str(error.value)
    assert files_below(tmp_path) == ["evil.pt"]
    assert not {name for name in set(sys.modules) - before if name.startswith(("utils.aws", "mmdet", "antigravity"))}


def test_a_definition_that_yolov5_would_evaluate(tmp_path, model):
    checkpoint = torch_load(WEIGHTS)
    for row, evil in ((0, [-1, 1, "__import__('os').system('touch canary')", []]), (1, [-1, 1, "Conv", ["print(1)"]])):
        checkpoint["model"].yaml["backbone"][row] = evil
        torch.save(checkpoint, tmp_path / "evil.pt")
        with pytest.raises(UnsafeCheckpoint, match="its model definition would run"):
            fv.load(tmp_path / "evil.pt")
        checkpoint["model"].yaml["backbone"][row] = [-1, 1, "Conv", [64, 3, 2]]
    checkpoint["model"].yaml["activation"] = "nn.LeakyReLU(0.1)"
    torch.save(checkpoint, tmp_path / "good.pt")
    fv.load(tmp_path / "good.pt")


def test_payload_hidden_in_an_object_array(tmp_path):
    hidden = np.array([Reduces(os.system, CANARY)], dtype=object)
    with pytest.raises(UnsafeCheckpoint, match=r"posix\.system"):
        fv.load(save({"best_fitness": hidden}, tmp_path / "evil.pt"))


def test_script_archives_are_refused(tmp_path):
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3))), str(tmp_path / "model.pt"))
    with pytest.raises(fv.FeatvizError, match="TorchScript archive, which has no layers"):
        fv.load(tmp_path / "model.pt")
    with tempfile.TemporaryFile() as file:
        file.write((tmp_path / "model.pt").read_bytes())
        file.seek(0)
        with pytest.raises(fv.FeatvizError, match="TorchScript"):
            load_checkpoint(file)


def test_trust_opens_the_door(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save(Reduces(os.system, CANARY), tmp_path / "mine.pt")
    load_checkpoint(path, trust=True)
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_the_command_line_refuses_and_writes_nothing(legacy, tmp_path, images):
    """With layers to draw, where it is read before the script runs, and without, where the script reads it."""
    evil = save(Reduces(os.system, CANARY), tmp_path / "evil.pt", legacy)
    layers = ("--visualize-layers", "17") if legacy else ()
    done = run("--weights", evil, "--source", images, *layers, cwd=tmp_path, check=2)
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert len(errors) == 1 and "posix.system" in errors[0]
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "canary").exists()


def test_the_table_of_layers_is_refused_too(tmp_path, capsys):
    evil = save(Reduces(os.system, CANARY), tmp_path / "evil.pt")
    assert main(["layers", "--weights", str(evil)]) == 2
    assert "posix.system" in capsys.readouterr().err and not (tmp_path / "canary").exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_real_checkpoints_load(legacy, tmp_path, bus, model):
    """The same weights and the same outputs as torch's own reader gives."""
    checkpoint = torch_load(WEIGHTS)
    torch.save(checkpoint, tmp_path / "best.pt", _use_new_zipfile_serialization=not legacy)
    ours, theirs = fv.load(tmp_path / "best.pt"), checkpoint["model"].float().eval()
    assert type(ours) is type(theirs)
    for (name, a), (other, b) in zip(ours.state_dict().items(), theirs.state_dict().items()):
        assert name == other and torch.equal(a, b)
    assert np.array_equal(independent_hooks(ours, [23], bus)[23], independent_hooks(theirs, [23], bus)[23])


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_all_that_a_checkpoint_may_hold(legacy, tmp_path):
    held = {
        "epoch": 3,
        "best_fitness": np.float64(0.5),
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "strings": np.array(["a", "b"], dtype=object),
        "tensor": torch.arange(5, dtype=torch.int16),
        "half": nn.Parameter(torch.ones(2).half()),
        "shape": torch.Size([1, 2]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "set": {1, 2},
        "bytes": b"\x00\xff",
        "complex": 1 + 2j,
        "range": range(3),
        "slice": slice(1, 2),
        "date": datetime.datetime(2021, 4, 5),
        "opt": Namespace(weights="yolov5s.pt", lr=0.1),
        "path": PurePosixPath("runs/train/exp"),
        "ordered": OrderedDict(a=[1, (2, None, True)]),
        "default": defaultdict(list, {"a": [1]}),
        "frozen": frozenset("ab"),
    }
    torch.save(held, tmp_path / "held.pt", _use_new_zipfile_serialization=not legacy)
    got = load_checkpoint(tmp_path / "held.pt")
    assert list(got) == list(held)
    for key, value in held.items():
        same = torch.equal if torch.is_tensor(value) else np.array_equal if isinstance(value, np.ndarray) else None
        assert type(got[key]) is type(value), key
        assert same(got[key], value) if same else got[key] == value, key


def test_a_path_from_windows(tmp_path):
    stream = b"\x80\x02" + old_global("pathlib", "WindowsPath") + text("C:\\runs") + b"\x85R."
    assert str(load_checkpoint(save_stream(stream, tmp_path / "win.pt"))) == "C:\\runs"


def test_a_forks_own_modules_count_as_yolov5s(checkout, tmp_path, images):
    """In a file of their own, imported into models/yolo.py, pickled under either name."""
    fork = tmp_path / "my_fork"
    shutil.copytree(checkout, fork)
    (fork / "models" / "attention.py").write_text(
        "import torch.nn as nn\n\n"
        "class SE(nn.Module):\n"
        "    def __init__(self, c1, r=4):\n"
        "        super().__init__()\n"
        "        self.f1, self.f2 = nn.Linear(c1, c1 // r), nn.Linear(c1 // r, c1)\n\n"
        "    def forward(self, x):\n"
        "        return x * self.f2(self.f1(x.mean((2, 3))).relu()).sigmoid()[..., None, None]\n"
    )
    yolo = fork / "models" / "yolo.py"
    yolo.write_text(
        yolo.read_text().replace(
            "from models.experimental import *", "from models.experimental import *\nfrom models.attention import SE"
        )
    )
    (fork / "models" / "se.yaml").write_text(
        (fork / "models" / "yolov5n.yaml").read_text().replace("[-1, 3, C3, [1024]],", "[-1, 1, SE, [256]],", 1)
    )
    build = (
        "import sys; sys.path.insert(0, '.'); import torch; from models.yolo import Model, SE\n"
        "torch.manual_seed(0); m = Model('models/se.yaml')\n"
        "torch.save({'epoch': -1, 'model': m.half(), 'ema': None}, sys.argv[1])\n"
        "SE.__module__ = 'models.yolo'; torch.save({'epoch': -1, 'model': m}, sys.argv[2])\n"
    )
    subprocess.run(
        [sys.executable, "-c", build, tmp_path / "se.pt", tmp_path / "se2.pt"],
        cwd=fork,
        check=True,
        capture_output=True,
    )
    for name in ("se.pt", "se2.pt"):
        out = tmp_path / f"out_{name}"
        out.mkdir()
        run(
            "-m",
            "yolov5_featviz",
            "run",
            fork / "detect.py",
            "--weights",
            tmp_path / name,
            "--source",
            images / "bus.jpg",
            "--imgsz",
            "128",
            "--visualize-layers",
            "SE",
            cwd=out,
            script=None,
        )
        assert "bus/stage8_SE_features.png" in files_below(out / "runs" / "detect" / "exp")
        # and elsewhere they do not
        done = run("--weights", tmp_path / name, "--visualize-layers", "8", cwd=out, check=2)
        assert "SE, which is no module class" in done.stderr


def test_a_checkout_that_cannot_be_imported(tmp_path):
    for folder in ("models", "utils"):
        (tmp_path / "fork" / folder).mkdir(parents=True)
    (tmp_path / "fork" / "models" / "yolo.py").write_text("import nowhere_to_be_had\nclass Model(Module): pass\n")
    path = save_stream(b"\x80\x02" + old_global("models.yolo", "Model") + b")\x81}b.", tmp_path / "best.pt")
    words = ("-m", "yolov5_featviz", "layers", "--weights", path, "--yolov5", tmp_path / "fork")
    done = run(*words, cwd=tmp_path, script=None, check=2)
    says = "cannot be imported: No module named 'nowhere_to_be_had'; install what it requires"
    assert says in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no PyTorch checkpoint, or a damaged one"),
        (b"hello, world", "no PyTorch checkpoint, or a damaged one"),
        (b"<html>Not found</html>" * 100, "no PyTorch checkpoint, or a damaged one"),
        (pickle.dumps({"model": None}, 2), "no PyTorch checkpoint, or a damaged one"),
    ],
)
def test_not_a_checkpoint(content, says, tmp_path):
    (tmp_path / "best.pt").write_bytes(content)
    with pytest.raises(fv.FeatvizError, match=says):
        fv.load(tmp_path / "best.pt")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_truncated(legacy, tmp_path):
    buffer = io.BytesIO()
    torch.save(load_checkpoint(WEIGHTS), buffer, _use_new_zipfile_serialization=not legacy)
    whole = buffer.getvalue()
    for part in (0.1, 0.5, 0.99):
        (tmp_path / "best.pt").write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(fv.FeatvizError, match="damaged"):
            fv.load(tmp_path / "best.pt")


def test_a_checkpoint_without_a_model(tmp_path):
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "a.pt")
    with pytest.raises(fv.FeatvizError, match="holds no model but a dictionary of state_dict, epoch"):
        fv.load(tmp_path / "a.pt")
    torch.save([1], tmp_path / "b.pt")
    with pytest.raises(fv.FeatvizError, match="holds no model but list"):
        fv.load(tmp_path / "b.pt")


def test_missing_folder_and_exported(tmp_path):
    for name, says in (("nope.pt", "no weights at"), (".", "is a folder")):
        with pytest.raises(fv.FeatvizError, match=says):
            fv.load(tmp_path / name)
    (tmp_path / "best.onnx").write_bytes(b"x")
    with pytest.raises(fv.FeatvizError, match=r"exported model \(ONNX\), which has no layers"):
        fv.load(tmp_path / "best.onnx")


def test_source_of_the_installed_package(yolov5):
    assert find_source(str(yolov5)).package == "yolov5"


def test_the_card_of_the_demo_checkpoint():
    content = WEIGHTS.read_bytes()
    assert len(content) <= 6_000_000
    assert hashlib.sha256(content).hexdigest() in (WEIGHTS.parent / "README.md").read_text(encoding="utf-8")
    held = load_checkpoint(WEIGHTS)
    assert {p.dtype for p in held["model"].parameters()} == {torch.float16}
    assert type(held["model"]).__module__ == "models.yolo"
