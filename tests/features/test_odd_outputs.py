"""Whatever a layer puts out: the forward pass is as without us, and what cannot be drawn is told in one line."""

import copy
import dataclasses
import re
import warnings
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from torch import nn

import yolov5_featviz as fv

MAP = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4) - 20
Pair = namedtuple("Pair", "low high")


class Odd(nn.Module):
    """Puts out whatever it is told to."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


class Net(nn.Module):
    def __init__(self, make, after=lambda y: y):
        super().__init__()
        self.odd, self.after = Odd(make), after

    def forward(self, x):
        return self.after(self.odd(x))


@dataclasses.dataclass
class Record:
    low: object
    high: object = None
    late: object = dataclasses.field(init=False)


@dataclasses.dataclass
class Angry:
    low: object

    def __getattribute__(self, name):
        if name == "low":
            raise ValueError("not\nnow")
        return super().__getattribute__(name)


class AngryDict(dict):
    def items(self):
        raise KeyError("no items")


class Mine(torch.Tensor):
    pass


def endless(x):
    holder = [x]
    holder.append(holder)
    return holder


def endless_dict(x):
    holder = {"a/b": x, "deep": {}}
    holder["deep"]["up"] = holder
    return holder


def bomb(x):
    for _ in range(40):
        x = [x, x]
    return x


def deep(x):
    for _ in range(5000):
        x = (x,)
    return x


def nested(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([x[0], x[1, :, :2]])


def jagged(x):
    return torch.nested.nested_tensor([x[0, 0], x[1, 0, :2]], layout=torch.jagged)


def fake(x):
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode().from_tensor(x)


def sparse_csr(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x[0, 0].to_sparse_csr()


def strange(x):
    return torch.full_like(x, float("nan")).index_fill_(3, torch.tensor([0]), float("inf"))


# what it puts out -> what is told of it
REFUSED = {
    "sparse": (lambda x: x.to_sparse(), "it is sparse"),
    "csr": (sparse_csr, "it is sparse"),
    "meta": (lambda x: x.to("meta"), "meta, without values"),
    "nested": (nested, "it is nested"),
    "jagged": (jagged, "it is a NestedTensor"),
    "quantised": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "it is quantised"),
    "by channel": (
        lambda x: torch.quantize_per_channel(x, torch.ones(3), torch.zeros(3), 1, torch.quint8),
        "it is quantised",
    ),
    "complex": (lambda x: torch.complex(x, x), "it is complex"),
    "no channels": (lambda x: x[:, :0], r"\[2, 0, 4, 4\], not a feature map \[B, C, H, W\]: it holds no values"),
    "no rows": (lambda x: x[:, :, :0], "it holds no values"),
    "no columns": (lambda x: x[..., :0], "it holds no values"),
    "no images": (lambda x: x[:0], "it holds no values"),
    "empty": (lambda x: torch.zeros(0), "it holds no values"),
    "fake": (fake, "it is a FakeTensor"),
    "0-d": (lambda x: x.sum(), r"a tensor of shape \[\], not a feature map"),
    "1-d": (lambda x: x.flatten(), "not a feature map"),
    "6-d": (lambda x: x[None, None], "not a feature map"),
    "other batch": (lambda x: x[:1], "a batch of 1 for 2 images"),
    "none": (lambda x: None, "a NoneType without tensors"),
    "number": (lambda x: 3.5, "a float without tensors"),
    "text": (lambda x: "\x1b[31mred", "a str without tensors"),
    "array": (lambda x: x.numpy(), "a ndarray without tensors"),
    "nothing": (lambda x: [], "a list without tensors"),
    "generator": (lambda x: (part for part in [x]), "a generator without tensors"),
    "iterator": (lambda x: iter([x]), "a list_iterator without tensors"),
    "set": (lambda x: {1, 2}, "a set without tensors"),
    "dataclass itself": (lambda x: Record, "a type without tensors"),
    "class": (lambda x: Mine, "without tensors"),
    "angry": (lambda x: Angry(x), "cannot be inspected .not"),
    "angry dict": (lambda x: AngryDict(a=x), "cannot be inspected"),
    "deep": (deep, "a tuple without tensors"),
}
# what it puts out -> the levels and maps that are kept
KEPT = {
    "bool": (lambda x: x > 0, {None: MAP > 0}),
    "int": (lambda x: x.long(), {None: MAP.long()}),
    "uint8": (lambda x: x.abs().to(torch.uint8), {None: MAP.abs().to(torch.uint8)}),
    "int8": (lambda x: x.to(torch.int8), {None: MAP.to(torch.int8)}),
    "half": (lambda x: x.half(), {None: MAP.half()}),
    "bfloat": (lambda x: x.bfloat16(), {None: MAP.bfloat16()}),
    "double": (lambda x: x.double(), {None: MAP.double()}),
    "gradient": (lambda x: x.clone().requires_grad_(), {None: MAP}),
    "parameter": (nn.Parameter, {None: MAP}),
    "subclass": (lambda x: x.as_subclass(Mine), {None: MAP}),
    "expanded": (lambda x: x[:1].expand(2, -1, -1, -1), {None: MAP[:1].repeat(2, 1, 1, 1)}),
    "strided": (lambda x: x.repeat(1, 1, 2, 2)[:, :, ::2, 1::2], {None: MAP.repeat(1, 1, 2, 2)[:, :, ::2, 1::2]}),
    "transposed": (lambda x: x.transpose(2, 3), {None: MAP.transpose(2, 3)}),
    "channels last": (lambda x: x.to(memory_format=torch.channels_last), {None: MAP}),
    "conjugate": (lambda x: torch.complex(x, x).conj().real, {None: MAP}),
    "negative": (lambda x: torch.complex(x, x).conj().imag, {None: -MAP}),
    "not finite": (strange, {None: strange(MAP)}),
    "endless": (endless, {"0": MAP}),
    "endless dict": (endless_dict, {"a/b": MAP}),
    "record": (lambda x: Record(x, [x + 1]), {"low": MAP, "high.0": MAP + 1}),
    "pair": (lambda x: Pair(x, x.sum()), {"low": MAP}),
    "ordered": (lambda x: OrderedDict(a=x, b=None), {"a": MAP}),
    "numbers for keys": (lambda x: {1: x, (2, "x"): x + 1}, {"1": MAP, "(2, 'x')": MAP + 1}),
    "odd beside a map": (lambda x: (x.to_sparse(), x, x.to("meta"), torch.complex(x, x)), {"1": MAP}),
    "the same twice": (lambda x: (x, x), {"0": MAP, "1": MAP}),
}


@pytest.mark.parametrize("mode", ["grad", "no_grad", "inference"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_map(kind, mode):
    make, says = REFUSED[kind]
    model = Net(make, after=lambda y: "went on")
    with {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}[mode]():
        with fv.capture(model, "all") as features:
            assert model(MAP) == "went on"
        assert len(features) == 0 and list(features.skipped) == ["odd"]
        (reason,) = features.skipped.values()
        with pytest.raises(fv.FeatvizError, match=says) as error, fv.capture(model, "odd"):
            assert model(MAP) == "went on"  # and only then is it said
    assert re.sub(r"j\d", "j", str(error.value)) == re.sub(r"j\d", "j", reason)  # torch counts ragged sides
    assert reason.isprintable() and len(reason) < 300


@pytest.mark.parametrize("mode", ["grad", "no_grad", "inference"])
@pytest.mark.parametrize("kind", KEPT)
def test_what_is_one(kind, mode):
    make, maps = KEPT[kind]

    def spoil(y):
        if isinstance(y, torch.Tensor) and not y.requires_grad and "expanded" not in kind:
            y.zero_()
        return y

    model = Net(make, after=spoil)
    modes = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}
    with modes[mode](), fv.capture(model, "odd") as features:
        model(MAP.clone())
    found = {fm.level: fm.data for fm in features.of_image(1)}
    assert list(found) == (list(maps) if len(maps) > 1 else [None])
    for data, expected in zip(found.values(), maps.values()):
        assert data.dtype == expected.dtype and not data.requires_grad and not data.is_inference()
        np.testing.assert_array_equal(data.float().numpy(), expected[1].float().numpy())
    for fm in features:
        assert type(fm.data) in (torch.Tensor, Mine) and "/" not in fm.stem
        assert fm.grid().pixels.size and fm.heatmap().picture().pixels.size and fm.pca().pixels.size


def test_a_tree_that_doubles_at_each_level():
    model = Net(bomb, after=lambda y: "went on")
    with fv.capture(model, "all") as features:
        assert model(MAP) == "went on"
    assert 0 < len(features) <= 20_000
    assert len({id(tensor) for tensor in features._tensors()}) == 1  # kept once


def test_a_reshape_that_fails():
    def fail(x):
        raise ZeroDivisionError("by zero\nand more")

    model = Net(lambda x: x)
    for reshape, says in ((fail, "by zero"), (lambda x: x.to_sparse(), "it is sparse"), (lambda x: 5, "a int without")):
        with pytest.raises(fv.FeatvizError, match=says) as error, fv.capture(model, "odd", reshape=reshape):
            assert model(MAP) is MAP
        assert "\n" not in str(error.value)


def passes(way, net):
    """The same model run in all the ways there are: what comes out, to be compared."""
    x = MAP.clone()
    if way == "vmap":
        return torch.func.vmap(net)(x[:, None])
    if way == "jacrev":
        return torch.func.jacrev(lambda x: net(x).sum((1, 2, 3)))(x)
    if way == "functional_call":
        return torch.func.functional_call(net, {name: 2 * p for name, p in net.named_parameters()}, (x,))
    if way == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            return net(x)
    if way == "fx":
        return torch.fx.symbolic_trace(net)(x)
    if way == "make_fx":
        return torch.fx.experimental.proxy_tensor.make_fx(net)(x)(x)
    if way == "trace":
        return torch.jit.trace(net, x)(x)
    if way == "compile":
        return torch.compile(net, backend="eager")(x)
    if way == "export":
        return torch.export.export(net, (x,)).module()(x)
    if way == "checkpoint":
        y = torch.utils.checkpoint.checkpoint(net, x.requires_grad_(), use_reentrant=False)
        y.sum().backward()
        return x.grad
    if way == "channels last":
        return net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    if way == "meta":
        return net.to("meta")(x.to("meta")).shape
    if way == "fake":
        with torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
            return net(torch.zeros(2, 3, 4, 4)).shape
    if way == "double":
        return net.double()(x.double())
    if way == "in place":
        with torch.no_grad():
            return net(x).mul_(0).add_(1)
    if way == "default device":
        with torch.device("meta"):
            return net(x)
    assert way == "anomaly"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly():
            net(x.requires_grad_()).sum().backward()
    return x.grad


WAYS = [
    "vmap",
    "jacrev",
    "functional_call",
    "autocast",
    "fx",
    "make_fx",
    "trace",
    "compile",
    "export",
    "checkpoint",
    "channels last",
    "meta",
    "fake",
    "double",
    "in place",
    "default device",
    "anomaly",
]


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_run_a_model(way):
    if not hasattr(torch, "func"):
        pytest.skip("this torch has not all of them")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).eval()
    modes = torch.is_grad_enabled(), torch.get_default_dtype(), torch._C._get_tracing_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = passes(way, copy.deepcopy(net))
        with fv.capture(net, "all") as features:
            found = passes(way, net)
    same = torch.equal(found, expected) if isinstance(found, torch.Tensor) else found == expected
    assert same
    assert not features.skipped or len(features.skipped) == 3
    assert all(reason.isprintable() for reason in features.skipped.values())
    assert (torch.is_grad_enabled(), torch.get_default_dtype(), torch._C._get_tracing_state()) == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
