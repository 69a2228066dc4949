"""What a stranger's file may try: each is refused in one line, and nothing of it runs."""

import json
import os
import re
import struct
import subprocess
import sys
import time
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from helpers import ROOT, WEIGHTS, files_below, run
from hostile import (
    Demo,
    DictNode,
    Global,
    SetNode,
    call,
    module,
    name,
    ordered,
    parameter,
    save,
    save_legacy,
    storage,
    stream,
    table,
    tensor,
)

import yolov5_featviz as fv
from yolov5_featviz.errors import UnsafeCheckpoint
from yolov5_featviz.yolov5.weights.checkpoint import load_checkpoint
from yolov5_featviz.yolov5.weights.definition import check_options, check_run

WRITE = "__import__('pathlib').Path('pwned').write_text('x')"
IDENTITY = "torch.nn.modules.linear.Identity"
SEQUENTIAL = "torch.nn.modules.container.Sequential"


def definition(code, **more):
    rows = [[-1, 1, code, []]]
    return table(nc=1, anchors=3, depth_multiple=1, width_multiple=1, head=[], backbone=rows, **more)


def model_with(yaml, path):
    return save(table(model=module("models.yolo.DetectionModel", yaml=yaml)), path)


@pytest.fixture(scope="module", autouse=True)
def _imported(model):
    """YOLOv5's modules: so that what is refused here is not refused for want of them."""


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Check that a file is refused in one line and that nothing came of it; returns the line."""
    monkeypatch.chdir(tmp_path)

    def check(path, kind=fv.FeatvizError):
        before, start = files_below(tmp_path), time.monotonic()
        with pytest.raises(kind) as error:
            fv.load(path)
        assert time.monotonic() - start < 10
        assert files_below(tmp_path) == before
        assert str(error.value).isprintable()
        return str(error.value)

    return check


# --- 1. callables that stay in the data


def parametrised():
    return module(
        "torch.nn.utils.parametrize.ParametrizationList",
        modules={"0": name("models.yolo.DetectionModel")},
        is_tensor=True,
        original=definition(WRITE),
    )


CALLABLES = {
    "parametrisation": parametrised,
    "parametrisation in a module": lambda: module(SEQUENTIAL, modules={"0": parametrised()}),
    "class as a module": lambda: module(SEQUENTIAL, modules={"0": name("models.yolo.DetectionModel")}),
    "class as a value": lambda: table(model=name("models.yolo.DetectionModel")),
    "class in a list": lambda: [name(IDENTITY)],
    "class as an activation": lambda: module("models.common.Conv", act=name("models.yolo.DetectionModel")),
    "class as a norm": lambda: module(SEQUENTIAL, norm_layer=name("models.yolo.DetectionModel")),
    "function as an attribute": lambda: module(IDENTITY, act=name("torch.nn.functional.relu")),
    "namespace with a method": lambda: module(
        IDENTITY, stride=call("argparse.Namespace", new=True, state=table(is_floating_point=name("models.yolo.Model")))
    ),
    "namespace with a module": lambda: module(
        IDENTITY, stride=call("argparse.Namespace", new=True, state=table(is_floating_point=module(IDENTITY)))
    ),
    "namespace with a module in a deque": lambda: call(
        "argparse.Namespace", new=True, state=table(a=call("collections.deque", [module(IDENTITY)]))
    ),
    "namespace with a dunder": lambda: call("argparse.Namespace", new=True, state=table(__class__=1)),
    "modules that shadow items": lambda: call(
        IDENTITY, new=True, state=table(_modules=call("collections.OrderedDict", state=table(items=name("os.system"))))
    ),
    "modules of a namespace": lambda: call(
        IDENTITY, new=True, state=table(_modules=call("argparse.Namespace", new=True, state=table(items=1)))
    ),
    "modules of a counter": lambda: call(IDENTITY, new=True, state=table(_modules=call("collections.Counter"))),
    "a module's own name for forward": lambda: module(IDENTITY, forward=module(IDENTITY)),
    "text in the place of a method": lambda: module(IDENTITY, parameters_=1, children="x"),
    "number in the place of a method": lambda: module(IDENTITY, _apply=5),
    "property": lambda: module("torch.nn.modules.rnn.LSTM", all_weights=[1]),
    "class of an instance": lambda: module(IDENTITY, __class__=name("models.common.AutoShape")),
    "dict of an instance": lambda: module(IDENTITY, __dict__=table(forward=1)),
    "call of an instance": lambda: module(IDENTITY, __call__=module(IDENTITY)),
    "compiled": lambda: module(IDENTITY, _compiled_call_impl=name("os.system")),
    "compiled by a module": lambda: module(IDENTITY, _compiled_call_impl=module(IDENTITY)),
    "parameter with a state": lambda: call(
        "torch._utils._rebuild_parameter_with_state", tensor(), True, ordered(), table(is_floating_point=1)
    ),
    "parameter of a dictionary": lambda: module(IDENTITY, parameters={"a": table(a=1)}),
    "parameter of a tensor": lambda: module(IDENTITY, parameters={"a": tensor()}),
    "buffer of a module": lambda: module(IDENTITY, buffers={"a": module(IDENTITY)}),
    "hook on a tensor": lambda: tensor(hooks=ordered(a=name("os.system"))),
    "hook on a parameter": lambda: call("torch._utils._rebuild_parameter", tensor(), True, ordered(a=module(IDENTITY))),
    "tensor of another class": lambda: call(
        "torch._tensor._rebuild_from_type_v2",
        name("torch._utils._rebuild_tensor_v2"),
        name("models.common.Conv"),
        (),
        None,
    ),
    "rebuilt by another function": lambda: call(
        "torch._tensor._rebuild_from_type_v2", name("os.system"), name("torch.Tensor"), ("touch pwned",), None
    ),
    "detect of another class": lambda: module(
        "models.yolo.Detect", detect=call("builtins.getattr", name("models.common.AutoShape"), "forward")
    ),
    "detect of another method": lambda: module(
        "models.yolo.Segment", detect=call("builtins.getattr", name("models.yolo.Detect"), "__init__")
    ),
    "getattr elsewhere": lambda: module(
        "models.yolo.Segment", other=call("builtins.getattr", name("models.yolo.Detect"), "forward")
    ),
    "AutoShape as a child": lambda: module(SEQUENTIAL, modules={"0": module("models.common.AutoShape")}),
    "DetectMultiBackend": lambda: module("models.common.DetectMultiBackend"),
    "DataParallel": lambda: module(
        "torch.nn.parallel.data_parallel.DataParallel", modules={"module": module(IDENTITY)}
    ),
    "scripted": lambda: module("torch.jit._script.RecursiveScriptModule"),
    "traced": lambda: module("torch.jit._trace.TopLevelTracedModule"),
    "lazy": lambda: module("torch.nn.modules.linear.LazyLinear"),
    "quantised": lambda: module("torch.ao.nn.quantized.modules.linear.Linear"),
    "pruning": lambda: module("torch.nn.utils.prune.L1Unstructured"),
    "module of torch that is no layer": lambda: module("torch.nn.modules.module.Module"),
    "partial": lambda: call("functools.partial", name("os.system"), "touch pwned"),
    "methodcaller": lambda: call("operator.methodcaller", "system", "touch pwned"),
    "generator": lambda: call("torch.Generator"),
    "default factory": lambda: call("collections.defaultdict", name("models.yolo.DetectionModel")),
    "weight norm": lambda: module(
        IDENTITY,
        _forward_pre_hooks=call("collections.OrderedDict", pairs=[(0, call("torch.nn.utils.weight_norm.WeightNorm"))]),
    ),
    **{
        f"hooks in {hooks}": lambda hooks=hooks: module(IDENTITY, **{hooks: ordered(a=module(IDENTITY))})
        for hooks in (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_backward_hooks",
            "_backward_pre_hooks",
            "_state_dict_hooks",
            "_state_dict_pre_hooks",
            "_load_state_dict_pre_hooks",
            "_load_state_dict_post_hooks",
            "_forward_hooks_with_kwargs",
            "_of_another_torch_hooks",
        )
    },
}


RPN = "torchvision.models.detection.rpn.RPNHead"
GETTER = "torchvision.models._utils.IntermediateLayerGetter"
CALLABLES.update(
    {
        "modules that make a constant": lambda: module(
            GETTER, modules={"0": module(IDENTITY)}, return_layers=table(a=1)
        ),
        "part of a detector": lambda: module(RPN),
        "pooler": lambda: module("torchvision.ops.poolers.MultiScaleRoIAlign"),
        "whole model in a layer": lambda: module(
            "models.common.TransformerLayer", modules={"ma": module("models.yolo.ClassificationModel")}
        ),
        "function as another's activation": lambda: module(IDENTITY, activation=name("torch.nn.functional.relu")),
        "pairs as arguments": lambda: call("collections.OrderedDict", [["yaml", "evil.yaml"]]),
        "definition of a namespace": lambda: call(
            "argparse.Namespace", new=True, state=table(yaml=ordered(backbone=[[-1, 1, WRITE, []]], head=[]))
        ),
        "namespace as a model": lambda: call("argparse.Namespace", new=True, state=table(nc=1)),
        "method of a namespace": lambda: [call("argparse.Namespace", new=True, state=table(_get_kwargs=1))],
    }
)


@pytest.mark.parametrize("case", list(CALLABLES))
@pytest.mark.parametrize("write", [save, save_legacy], ids=["zip", "legacy"])
def test_what_could_be_called_is_refused(case, write, tmp_path, refused):
    refused(write(table(model=CALLABLES[case](), epoch=1), tmp_path / "evil.pt"), UnsafeCheckpoint)


def test_hooks_put_in_after_the_check(tmp_path, refused):
    """The dictionary is the module's before the hook is in it: an alias, through the memo."""
    hooks = ordered()
    evil = module(IDENTITY, _forward_hooks=hooks)
    later = [evil, hooks]
    data = stream(table(model=evil, more=later))
    hooks.pairs.append(("a", name("models.yolo.DetectionModel")))
    refused(save(table(model=evil, more=later), tmp_path / "evil.pt"), UnsafeCheckpoint)
    # and by hand: the dictionary is taken from the memo again and added to
    at = data.rindex(b".")
    keys = [i for i in range(60) if b"r" + struct.pack("<I", i) in data]
    for i in keys:
        tail = b"0j" + struct.pack("<I", i) + b"X\x01\x00\x00\x00acmodels.yolo\nDetectionModel\ns."
        with pytest.raises(fv.FeatvizError):
            load_checkpoint(save(data[:at] + tail, tmp_path / "evil.pt"))


def test_an_attribute_may_have_the_name_of_a_default():
    """What classes keep as plain defaults, instances may replace: a stride, a flag, the type that YOLOv5 adds."""
    demo = Demo()
    assert demo.get(demo.at("model.24"), "type") == "models.yolo.Detect"
    assert any(key == "stride" for key, _ in demo.at("model.24").state.pairs)


# --- 4. definitions, which YOLOv5 evaluates


EVALUATED = [
    WRITE,
    "exec",
    "open",
    "eval",
    "print",
    "os.system",
    "check_requirements",
    "attempt_download",
    "DetectMultiBackend",
    "AutoShape",
    "DetectionModel",
    "Model",
    "TorchVision",
    "nn.DataParallel",
    "nn.utils.parametrize.ParametrizationList",
    "Conv.forward",
    "Conv,print(1)",
    "lambda: 1",
    "[print(1)]",
    "Conv\\\n",
    " Conv",
    "Conv\n",
    "\x0cprint(1)",
    "9**9**9**9",
    "ｐrint",
    b"Conv",
    ("Conv",),
    5,
    None,
]


@pytest.mark.parametrize("evil", EVALUATED, ids=repr)
def test_modules_of_a_definition(evil, tmp_path, refused):
    yaml = table(nc=1, anchors=3, backbone=[[-1, 1, evil, [64, 3, 2]]], head=[])
    assert "definition" in refused(model_with(yaml, tmp_path / "evil.pt"), UnsafeCheckpoint)


ARGUMENTS = [
    WRITE,
    table(**{WRITE: 1}),
    DictNode([(WRITE, 1), (1, WRITE)]),
    SetNode([WRITE], False),
    SetNode([WRITE], True),
    call("collections.deque", [WRITE]),
    call("collections.OrderedDict", pairs=[(WRITE, 1)]),
    call("argparse.Namespace", new=True, state=table(a=WRITE)),
    [[[WRITE]]],
    "exit()",
    "print(1) \\\n",
    "(lambda: print(1))()",
    "nn.SiLU().__class__",
    "nn.Module.__subclasses__()",
    "[x for x in ()]",
    "f'{print(1)}'",
    "9**9**9**9",
    "9" * 5000,
    "'a' * 999999999",
    "[0] * 999999999",
    "1 if print(1) else 2",
    "nn.Sequential(print(1))",
    "nn.SiLU(inplace=print(1))",
    "nn.utils.rnn",
    "torch.hub.load('a', 'b')",
    "(" * 150 + ")" * 150,
    "\t1",
    "1\r",
    "'print(1)'",
    "open",
    "exec",
    1 << 40,
    float("inf"),
    float("nan"),
    b"touch pwned",
]


@pytest.mark.parametrize("number", range(len(ARGUMENTS)))
@pytest.mark.parametrize("where", ["argument", "activation", "anchors", "other"])
def test_arguments_of_a_definition(number, where, tmp_path, refused):
    evil = ARGUMENTS[number]
    arguments = [evil] if where == "argument" else [64, 3, 2]
    more = {} if where == "argument" else {"anything" if where == "other" else where: evil}
    if where == "other" and evil in ("open", "exec", "9" * 5000, "nn.utils.rnn"):
        return  # a bare word under a key that YOLOv5 does not know
    yaml = table(nc=1, backbone=[[-1, 1, "Conv", arguments]], head=[], **more)
    refused(model_with(yaml, tmp_path / "evil.pt"), UnsafeCheckpoint)


@pytest.mark.parametrize(
    "rows", [5, "x", [5], [[-1, 1, "Conv"]], [["x", 1, "Conv", []]], [[-1, "x", "Conv", []]], None]
)
def test_rows_of_a_definition(rows, tmp_path, refused):
    path = model_with(table(nc=1, backbone=[], head=rows), tmp_path / "evil.pt")
    assert "definition" in refused(path, UnsafeCheckpoint)


def test_definitions_wherever_they_are(tmp_path, refused):
    for number, evil in enumerate(
        [
            table(model=call("argparse.Namespace", new=True, state=table(yaml=definition(WRITE)))),
            table(model=[table(yaml=definition(WRITE))]),
            table(model=table(yaml="evil.yaml")),
            table(yaml="evil.yaml"),
            table(anything=definition(WRITE)),
            table(model=module(SEQUENTIAL, yaml="evil.yaml")),
            table(model=module(SEQUENTIAL, yaml=[definition(WRITE)])),
            table(model=module(SEQUENTIAL, yaml=definition(WRITE))),
            table(model=module(SEQUENTIAL, md=definition(WRITE))),
            table(ema=module(SEQUENTIAL, modules={"0": module(SEQUENTIAL, yaml=definition(WRITE))})),
            table(ema=(module(SEQUENTIAL, yaml=definition(WRITE)), 5)),
            table(model=ordered(backbone=[[-1, 1, WRITE, []]])),
            table(opt=table(data=table(download=WRITE))),
            table(opt=call("argparse.Namespace", new=True, state=table(data=table(download=WRITE)))),
            table(opt=table(data=[table(a=table(download=WRITE))])),
        ]
    ):
        refused(save(evil, tmp_path / f"evil{number}.pt"), UnsafeCheckpoint)


def test_honest_definitions_load(tmp_path, model):
    for row in (
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 6], 1, "Concat", [1]],
        [-1, 1, "nn.Conv2d", ["na * (nc + 5)", 1, 1, 0]],
        [-1, 1, "torch.nn.MaxPool2d", [2, 1, "(1, 1)"]],
        [-1, 3, "SE_of_a_fork", [256, "nn.LeakyReLU(0.1, inplace=True)", [5, 9, 13], "max", "False", 0.5]],
    ):
        demo = Demo()
        yaml = demo.get(demo.model, "yaml")
        demo.get(yaml, "backbone")[0] = row
        for key, value in (
            ("activation", "nn.Hardswish()"),
            ("yaml_file", "a b.yaml"),
            ("description", "my model, 2.0"),
        ):
            demo.set(yaml, key, value)
        assert isinstance(fv.load(demo.save(tmp_path / "good.pt")), type(model))


# --- 3. two parsers


def test_files_that_two_parsers_read_differently(tmp_path, refused):
    good = stream(table(model=None))
    hidden = tmp_path / "comment.pt"
    with zipfile.ZipFile(hidden, "w") as archive:
        archive.writestr("archive/data.pkl", good)
        archive.writestr("archive/constants.pkl", good)
        archive.writestr("archive/code/x.py", "")
        archive.comment = b"PK\x05\x06" + bytes(18)
    refused(hidden)
    tarred = tmp_path / "tar.pt"
    subprocess.run(["mkfifo", tmp_path / "fifo"], check=True)
    subprocess.run(["tar", "cf", tarred, "-C", tmp_path, "fifo"], check=True)
    tarred.write_bytes(tarred.read_bytes() + hidden.read_bytes())
    assert "tar archive" in refused(tarred)
    refused(tmp_path / "fifo")
    twice = tmp_path / "twice.pt"
    with pytest.warns(UserWarning), zipfile.ZipFile(twice, "w") as archive:
        archive.writestr("archive/data.pkl", good)
        archive.writestr("archive/data.pkl", good)
    refused(twice)
    behind = tmp_path / "behind.pt"
    behind.write_bytes(b"garbage" * 100 + save(table(model=None), tmp_path / "a.pt").read_bytes())
    refused(behind)


# --- 5. the checkpoint chooses what is imported


@pytest.mark.parametrize(
    "evil", ["runs.train.exp5.extra.Net", "weights.helper.Net", "train.Model", "evil.Net", "data.scripts.evil.Net"]
)
def test_modules_that_were_unpacked_with_the_weights(evil, tmp_path, checkout):
    import shutil

    fork = tmp_path / "fork"
    shutil.copytree(checkout, fork)
    *folders, file, _ = evil.split(".")
    (fork.joinpath(*folders)).mkdir(parents=True, exist_ok=True)
    text = f"open({str(tmp_path / 'pwned')!r}, 'w')\nimport torch.nn as nn\nclass Net(nn.Module):\n    pass\n"
    if evil != "train.Model":
        fork.joinpath(*folders, f"{file}.py").write_text(text)
    path = save(table(model=module(evil)), tmp_path / "evil.pt")
    before = set(sys.modules)
    with pytest.raises(UnsafeCheckpoint, match="which no checkpoint needs"):
        fv.load(path, str(fork))
    assert not (tmp_path / "pwned").exists()
    assert evil.rpartition(".")[0] not in set(sys.modules) - before


# --- 6. and 7. crashes, memory, time


def array(dtype, state, data=b"\0" * 8, shape=(1,)):
    made = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), (0,), b"b")
    kind = call("numpy.dtype", dtype, False, True)
    kind.state = state
    made.state = (1, shape, kind, False, data)
    return made


FLAGS = (3, "<", None, None, None, -1, -1, 0)


def nested(levels, make=lambda inner: (inner,)):
    node = ()
    for _ in range(levels):
        node = make(node)
    return node


def shared(levels):
    node = [1]
    for _ in range(levels):
        node = [node, node]
    return node


def held_by_itself():
    node = []
    node.append(node)
    return node


def module_in_itself():
    node = module(SEQUENTIAL)
    node.state.pairs[-1] = ("_modules", ordered(a=node))
    return node


def diamonds(levels):
    node = module(IDENTITY)
    for _ in range(levels):
        node = module(SEQUENTIAL, modules={"0": node, "1": node})
    return node


MONSTROUS = {
    "dtype flags": lambda: array("f8", (3, "<", None, None, None, -1, -1, 63)),
    "dtype of objects with data": lambda: array("O8", (3, "|", None, None, None, -1, -1, 63), b"\x41" * 8),
    "dtype with fields": lambda: array("V8", (3, "|", None, ("a",), table(a=(name("numpy.dtype"), 0)), 8, 1, 27)),
    "dtype with a size": lambda: array("f8", (3, "<", None, None, None, 1 << 30, 1, 0)),
    "dtype of a subarray": lambda: array("f8", (3, "<", ("f8", (1 << 30,)), None, None, -1, -1, 0)),
    "dtype of another version": lambda: array("M8", (4, "<", None, None, None, -1, -1, 0, table())),
    "array larger than its data": lambda: array("f8", FLAGS, shape=(1 << 40,)),
    "array of a negative size": lambda: array("f8", FLAGS, shape=(-1,)),
    "array of many dimensions": lambda: array("f8", FLAGS, shape=(1,) * 60),
    "array that overflows": lambda: array("f8", FLAGS, b"", shape=(1 << 62, 4)),
    "scalar of objects": lambda: call(
        "numpy.core.multiarray.scalar", call("numpy.dtype", "O8", False, True), b"\x41" * 8
    ),
    "scalar without its bytes": lambda: call(
        "numpy.core.multiarray.scalar", call("numpy.dtype", "f8", False, True), b""
    ),
    "tensor beyond its storage": lambda: tensor((1 << 40,)),
    "tensor that begins beyond": lambda: tensor(offset=5),
    "tensor with a negative stride": lambda: tensor(stride=(-1,)),
    "tensor with a negative size": lambda: tensor((-4,)),
    "tensor that overflows": lambda: tensor((1 << 32, 1 << 32), (1 << 32, 1)),
    "tensor written out": lambda: tensor((1 << 36,), (0,)),
    "tensor of many dimensions": lambda: tensor((1,) * 100, (1,) * 100),
    "storage that is missing": lambda: tensor(of=storage("1")),
    "storage with a longer count": lambda: tensor((8,), of=storage(count=8)),
    "storage of two kinds": lambda: [tensor(), tensor((2,), of=storage(count=2, kind="torch.DoubleStorage"))],
    "storage of quantised values": lambda: tensor(of=storage(count=16, kind="torch.QInt8Storage")),
    "storage of no kind": lambda: tensor(of=storage(kind="torch.Tensor")),
    "storage by itself": lambda: storage(),
    "storage in a folder": lambda: tensor(of=storage("../data.pkl")),
    "set of a range": lambda: call("builtins.set", call("builtins.range", 10**12)),
    "deque of a range": lambda: call("collections.deque", call("builtins.range", 10**12)),
    "range": lambda: call("builtins.range", 10**12),
    "bytes by number": lambda: call("builtins.bytearray", 3_000_000_000),
    "number of many bytes": lambda: b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b".",
    "bytes that are not there": lambda: b"\x80\x05\x96" + struct.pack("<Q", 3_000_000_000) + b".",
    "text that is not there": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b".",
    "tuples as a key": lambda: DictNode([(nested(200), 1)]),
    "nested lists": lambda: nested(400, lambda inner: [inner]),
    "nested dictionaries": lambda: nested(400, lambda inner: table(a=inner)),
    "nested modules": lambda: nested(200, lambda inner: module(SEQUENTIAL, modules={"0": inner or module(IDENTITY)})),
    "list that holds itself": held_by_itself,
    "module that holds itself": module_in_itself,
    "lists without end": lambda: shared(60),
    "modules without end": lambda: diamonds(60),
    "key that cannot be one": lambda: DictNode([([1], 1)]),
    "set of lists": lambda: SetNode([[1]], False),
    "size of text": lambda: call("torch.Size", ["a"]),
    "tuples as a key, written out": lambda: DictNode([(nested(7, lambda inner: (inner,) * 40), 1)]),
    "numbers of one hash": lambda: DictNode([(k * ((1 << 61) - 1), None) for k in range(1, 60_000)]),
    "namespaces over a list without end": lambda: nested(
        80,
        lambda inner: call("argparse.Namespace", new=True, state=table(a=inner or nested(6, lambda n: [n or 1] * 15))),
    ),
    "definitions over a list without end": lambda: nested(
        80, lambda inner: table(backbone=[], names=inner or nested(6, lambda n: [n or 1] * 15))
    ),
    "scale that fills the memory": lambda: module("torch.nn.modules.upsampling.Upsample", scale_factor=1e6),
}


@pytest.mark.parametrize("case", list(MONSTROUS))
def test_monsters(case, tmp_path, refused):
    held = MONSTROUS[case]()
    refused(save(held if isinstance(held, bytes) else table(model=held), tmp_path / "evil.pt"))


def test_millions_of_nested_tuples(tmp_path, refused):
    """Python frees them one in the other, which must not exhaust the stack."""
    data = b"\x80\x02}" + b")" + b"\x85" * 3_000_000 + b"K\x01s."
    refused(save(data, tmp_path / "evil.pt"))
    refused(save(b"\x80\x02" + b"]" * 3_000_000 + b"a" * 2_999_999 + b".", tmp_path / "evil2.pt"))


def test_a_pickle_that_unpacks_to_a_gigabyte(tmp_path, refused):
    data = b"\x80\x02" + b"N0" * (1 << 23) + b"N."
    for n, compress in enumerate((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)):
        refused(save(data * 8 if n == 0 else data, tmp_path / f"evil{n}.pt", compress=compress))


def test_archives_that_unpack_without_end(tmp_path, refused):
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert "torch cannot read" in refused(save(table(model=None), tmp_path / f"{method}.pt", compress=method))
    parts = [tensor((1 << 20,), of=storage(str(n), 1 << 20, "torch.ByteStorage")) for n in range(300)]
    path = save(table(x=parts), tmp_path / "overlap.pt", {"0": bytes(1 << 20)})
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02")
    directory = content[at : content.index(b"PK\x05\x06")]
    entry = directory[directory.rindex(b"PK\x01\x02") :]
    entries = [entry.replace(b"archive/data/0", b"archive/data/%d" % n) for n in range(1, 10)]
    whole = directory + b"".join(entries)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 12, 12, len(whole), at, 0)
    path.write_bytes(content[:at] + whole + end)
    assert "members overlap" in refused(path)


def test_a_file_of_a_dictionary_that_is_none(tmp_path, refused):
    """What ``--resume`` takes its options from by ``["opt"]``."""
    opt = table(evolve=1, bucket="; touch pwned")
    path = save(
        module("torch.nn.modules.container.ParameterDict", opt=opt, _keys=table(opt=None)), tmp_path / "evil.pt"
    )
    refused(path, UnsafeCheckpoint)


def attention(**changed):
    held = {"embed_dim": 8, "num_heads": 2, "head_dim": 4, "in_proj_weight": None, **changed}
    return module("torch.nn.modules.activation.MultiheadAttention", **held)


def lstm(size):
    weights = {f"{kind}_{part}_l0": parameter(tensor((4, 1), (1, 1))) for kind in ("weight",) for part in ("ih", "hh")}
    return module(
        "torch.nn.modules.rnn.LSTM",
        parameters=weights,
        mode="LSTM",
        input_size=size,
        hidden_size=size,
        num_layers=1,
        bias=False,
        bidirectional=False,
        proj_size=0,
        _flat_weights=list(weights.values()),
    )


@pytest.mark.parametrize(
    "case",
    [
        lambda: attention(num_heads=0),
        lambda: attention(num_heads=3),
        lambda: attention(embed_dim=True),
        lambda: lstm(4096),
        lambda: lstm(0),
        lambda: module("torch.nn.modules.conv.Conv2d", dilation=(1 << 62, 1 << 62)),
        lambda: module("torch.nn.modules.conv.ConvTranspose2d", stride=(50, 50)),
        lambda: module("torch.nn.modules.fold.Unfold", kernel_size=1 << 62),
        lambda: module(IDENTITY, type="../../x"),
        lambda: module(IDENTITY, names=["/tmp/pwned"]),
        lambda: module(IDENTITY, names=DictNode([(0, "../../pwned")])),
        lambda: module(IDENTITY, names=["C:\\pwned"]),
    ],
    ids=range(12),
)
def test_numbers_and_names_that_torch_and_yolov5_believe(case, tmp_path, refused):
    refused(save(table(model=case()), tmp_path / "evil.pt"))


def test_honest_recurrent_layers_and_attention_load(tmp_path):
    import torch

    made = torch.nn.ModuleDict(
        {
            "lstm": torch.nn.LSTM(3, 5, 2, bidirectional=True),
            "gru": torch.nn.GRU(3, 4),
            "attention": torch.nn.MultiheadAttention(8, 2),
            "encoder": torch.nn.TransformerEncoderLayer(8, 2, 16),
        }
    ).eval()
    torch.save({"model": made}, tmp_path / "a.pt")
    got = load_checkpoint(tmp_path / "a.pt")["model"].eval()
    x = torch.rand(4, 2, 3)
    with torch.no_grad():
        for name in ("lstm", "gru"):
            assert torch.equal(got[name](x)[0], made[name](x)[0])
        assert torch.equal(got["encoder"](x.repeat(1, 1, 3)[..., :8]), made["encoder"](x.repeat(1, 1, 3)[..., :8]))


def test_arrays_of_every_protocol(tmp_path):
    import torch

    held = {"a": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.ones((2, 3), "f4")), "none": np.zeros((0, 5))}
    for protocol in (2, 3, 4, 5):
        torch.save(held, tmp_path / "a.pt", pickle_protocol=protocol)
        got = load_checkpoint(tmp_path / "a.pt")
        assert all(np.array_equal(got[key], value) and got[key].dtype == value.dtype for key, value in held.items())


def test_roots_and_definitions_in_other_containers(tmp_path, refused):
    namespace = call(
        "argparse.Namespace", new=True, state=table(yaml=table(nc=1, backbone=[[-1, 1, WRITE, []]], head=[]))
    )
    rows = call("collections.deque", [[-1, 1, WRITE, []]])
    for number, evil in enumerate(
        [
            call("collections.Counter", table(model=namespace)),
            call("collections.defaultdict", pairs=[("model", namespace)]),
            table(model=module(SEQUENTIAL, yaml=table(nc=1, backbone=rows, head=rows))),
            table(model=call("argparse.Namespace", new=True, state=table(yaml=table(backbone=rows, head=rows)))),
            table(x=call("argparse.Namespace", new=True, state=table(yaml=table(nc=WRITE)))),
        ]
    ):
        refused(save(evil, tmp_path / f"evil{number}.pt"), UnsafeCheckpoint)


@pytest.mark.slow
def test_parts_that_are_shared_without_end_in_time(tmp_path, refused):
    big = [None] * 200_000
    for number, evil in enumerate(
        [
            [table(opt=big) for _ in range(5000)],
            [table(backbone=[], x=big) for _ in range(500)],
            [call("argparse.Namespace", new=True, state=table(a=big)) for _ in range(5000)],
        ]
    ):
        refused(save(table(x=evil), tmp_path / f"evil{number}.pt"), UnsafeCheckpoint)
    many = [table(backbone=[], head=[]) for _ in range(50_000)]
    load_checkpoint(save(table(x=many), tmp_path / "many.pt"))


def test_what_a_definition_shares_is_built_apart(tmp_path):
    shared = [64, 3, 2]
    yaml = table(nc=1, backbone=[[-1, 1, "Conv", shared], [-1, 1, "Conv", shared]], head=[])
    rows = load_checkpoint(model_with(yaml, tmp_path / "a.pt"))["model"].yaml["backbone"]
    assert rows[0] == rows[1] and rows[0][3] is not rows[1][3]


def test_a_module_that_writes_when_it_runs(tmp_path, monkeypatch):
    """The forward pass is under the guard too: here a module of the checkout's, which a stranger could make use of."""
    import models.common

    class Writes(models.common.Conv):
        def forward(self, x):
            open("pwned", "w").close()
            return super().forward(x)

    monkeypatch.chdir(tmp_path)
    see = fv.Predictor(WEIGHTS)
    see.model.model[0].__class__ = Writes
    with pytest.raises(UnsafeCheckpoint, match="tried to open"):
        see(np.zeros((64, 64, 3), np.uint8))
    assert files_below(tmp_path) == []


# --- 8. and 9. damage, and what reaches the terminal


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("names", 5),
        ("names", "x"),
        ("names", ordered(a="b")),
        ("stride", tensor((0,), (1,))),
        ("model", 1),
    ],
)
def test_models_that_cannot_be_made_ready(key, value, tmp_path, refused):
    demo = Demo()
    demo.set(demo.model, key, value)
    refused(demo.save(tmp_path / "evil.pt"))


@pytest.mark.parametrize("key", ["f", "i", "_modules", "_parameters", "stride", "nl", "anchors", "grid"])
def test_parts_that_are_of_another_kind(key, tmp_path, refused):
    for value in (None, "x", [], table(a=1)):
        demo = Demo()
        demo.set(demo.at("model.24"), key, value)
        path = demo.save(tmp_path / "evil.pt")
        try:
            fv.list_layers(fv.load(path), 64)
        except fv.FeatvizError as error:
            assert str(error).isprintable()


@pytest.mark.slow
def test_escape_sequences_do_not_reach_the_terminal(tmp_path):
    esc = "\x1b[2J\x1b]0;title\x07\r\n\u202e\udcff"
    for number, evil in enumerate(
        [
            table(**{esc: 1}),
            table(model=call(Global("os", f"system{esc}"), 1)),
            table(model=module(Global(f"models.{esc}", "A"))),
            table(model=module(IDENTITY, **{esc: name("os.system")})),
            table(model=module(SEQUENTIAL, modules={esc: module(IDENTITY)})),
            table(model=module(SEQUENTIAL, yaml=definition(f"print({esc!r})"))),
            table(model=tensor(of=storage(esc))),
            table(model=tensor(of=storage("0", location=esc))),
        ]
    ):
        save(evil, tmp_path / f"evil{number}.pt")
        words = ("-m", "yolov5_featviz", "layers", "--weights", f"evil{number}.pt")
        if number in (0, 4):
            done = run(*words, cwd=tmp_path, script=None, check=2)
            assert done.stderr.rstrip("\n").isprintable() and not done.stdout
        with pytest.raises(fv.FeatvizError) as error:
            fv.load(tmp_path / f"evil{number}.pt")
        assert str(error.value).isprintable()


# --- the entry points


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["layers", "--weights", "evil.pt"],
        ["compare", "--weights", "evil.pt", "evil.pt", "--layers", "17", "--source", "bus.jpg"],
        [
            "image",
            "--model",
            "torchvision:resnet18",
            "--weights",
            "evil.pt",
            "--layers",
            "layer1",
            "--source",
            "bus.jpg",
        ],
        ["run", "detect.py", "--weights", "evil.pt", "--source", "bus.jpg", "--visualize-layers", "17"],
        ["run", "val.py", "--weights", "evil.pt"],
        ["run", "train.py", "--weights", "evil.pt", "--cfg", "", "--data", "data.yaml"],
        ["figure", "figure.yaml"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_every_entry_point(words, tmp_path, images):
    import shutil

    if "train.py" in words:
        pytest.importorskip("tensorboard")  # without which YOLOv5 trains nothing
    demo = Demo()
    demo.get(demo.get(demo.model, "yaml"), "backbone")[0] = [-1, 1, WRITE, []]
    demo.save(tmp_path / "evil.pt")
    shutil.copy(images / "bus.jpg", tmp_path)
    (tmp_path / "data.yaml").write_text("train: .\nval: .\nnc: 1\nnames: [a]\n")
    (tmp_path / "figure.yaml").write_text("weights: evil.pt\nrows: [bus.jpg]\ncolumns: [layer: 17]\noutput: a.png\n")
    done = run("-m", "yolov5_featviz", *words, cwd=tmp_path, script=None, check=None)
    assert done.returncode in (1, 2) and "evil.pt is refused" in done.stderr, done.stderr
    assert not any("pwned" in file for file in files_below(tmp_path))
    if words[0] != "run":
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": "evil.yaml"}, "'download' YOLOv5 would run"),
        ({"data": "https://example.com/evil.yaml"}, "address"),
        ({"data": "evil.zip"}, "not a YAML file"),
        ({"data": "ev*l.yaml"}, "not a YAML file"),
        ({"data": "coco128.yaml", "evolve": 3, "bucket": "; touch pwned"}, "runs commands"),
        ({"data": "coco128.yaml", "upload_dataset": True}, "sends data"),
        ({"data": "coco128.yaml", "save_dir": "/etc/pwned"}, "neither here nor in the run"),
        ({"data": "big.yaml"}, "'download' YOLOv5 would run"),
    ],
)
def test_resuming_a_strangers_training(options, says, tmp_path, monkeypatch, yolov5):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text("train: a\nval: a\nnc: 1\nnames: [a]\ndownload: open('pwned', 'w')\n")
    (tmp_path / "big.yaml").write_text(f"train: a\n#{'x' * (1 << 20)}\ndownload: open('pwned', 'w')\n")
    with pytest.raises(UnsafeCheckpoint, match=re.escape(says)):
        check_options(options, yolov5, "runs/train/exp/weights/last.pt")
    check_options({"data": "coco128.yaml", "save_dir": "runs/train/exp", "hyp": {"lr0": 0.1}}, yolov5, "last.pt")


@pytest.mark.slow
@pytest.mark.parametrize("abbreviated", [False, True])
def test_resume_itself(abbreviated, tmp_path):
    pytest.importorskip("tensorboard")
    demo = Demo()
    demo.set(demo.tree, "opt", table(data="coco128.yaml", evolve=3, bucket="; touch pwned"))
    demo.save(tmp_path / "evil.pt")
    resume = ["--resu=evil.pt"] if abbreviated else ["--resume", "evil.pt"]
    done = run("-m", "yolov5_featviz", "run", "train.py", *resume, cwd=tmp_path, script=None, check=None)
    assert done.returncode == 2 and "runs commands" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert not (tmp_path / "pwned").exists()
    assert load_checkpoint(tmp_path / "evil.pt")["opt"]["evolve"] == 3  # else it is only data


def test_the_record_of_a_run_that_is_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "run" / "weights"
    weights.mkdir(parents=True)
    (weights / "last.pt").write_bytes(b"")
    (tmp_path / "run" / "opt.yaml").write_text("evolve: 1\nbucket: '; touch pwned'\n")
    for words in (
        ["--resume", "run/weights/last.pt"],
        ["--resume=run/weights/last.pt"],
        ["--resume"],
        ["--res", "--quad"],
    ):
        with pytest.raises(UnsafeCheckpoint, match="not to be resumed"):
            check_run(words)
    (tmp_path / "run" / "opt.yaml").write_text("evolve: null\nbucket: ''\n")
    check_run(["--resume"])


# --- the guard, the second wall


def test_the_guard_refuses_what_no_file_needs(tmp_path, monkeypatch):
    import socket

    from yolov5_featviz.yolov5.weights.guard import guard

    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_text("x")
    tries = [
        lambda: os.system("touch pwned"),
        lambda: subprocess.run(["touch", "pwned"]),
        lambda: open("pwned", "w"),  # noqa: SIM115
        lambda: open("pwned", "x"),  # noqa: SIM115
        lambda: open("there", "r+"),  # noqa: SIM115
        lambda: os.open("pwned", os.O_CREAT | os.O_WRONLY),
        lambda: os.remove("there"),
        lambda: os.rename("there", "pwned"),
        lambda: os.mkdir("pwned"),
        lambda: os.symlink("there", "pwned"),
        lambda: socket.socket().connect(("127.0.0.1", 9)),
        lambda: eval("1 + 1"),
        lambda: exec("a = 1"),
        lambda: compile("1", "a", "eval"),
        lambda: __import__("antigravity"),
        lambda: os.fork(),
        lambda: os.execv("/bin/true", ["true"]),
        lambda: os.kill(os.getpid(), 0),
        lambda: __import__("ctypes").CDLL(None),
    ]
    for attempt in tries:
        with pytest.raises(UnsafeCheckpoint, match="which no checkpoint needs"), guard():
            attempt()
        with pytest.raises(UnsafeCheckpoint), guard(), suppress(Exception):  # also if it takes no for an answer
            attempt()
    assert files_below(tmp_path) == ["there"]
    assert (tmp_path / "there").read_text() == "x"
    eval("1 + 1")  # and afterwards everything may be done again


def test_the_guard_is_up_in_its_own_thread_only(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    from yolov5_featviz.yolov5.weights.guard import guard

    with ThreadPoolExecutor(1) as others:
        others.submit(int).result()
        with guard():
            assert others.submit(eval, "1 + 1").result() == 2


# --- mutants


@pytest.mark.slow
def test_some_hundred_mutants():
    """In a process of their own: they are tried in forks, which this one, with its threads, cannot have."""
    words = [sys.executable, str(ROOT / "tests" / "support" / "fuzz_checkpoints.py"), "120", "7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    counts = json.loads(done.stdout)
    assert counts["loaded"] + counts["refused"] == counts["tries"] == 120, done.stdout + done.stderr
    assert counts["loaded"] > 5 and counts["refused"] > 60
