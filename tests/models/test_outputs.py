"""Capture on models that are not YOLOv5, against hooks that share no code with the package."""

import inspect
import sys
import warnings
from collections import OrderedDict, namedtuple
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import yolov5_featviz as fv
from yolov5_featviz.models.outputs import Input, to_maps

INFERENCE = getattr(torch, "inference_mode", torch.no_grad)


@pytest.fixture(autouse=True)
def quick_weights(monkeypatch):
    """Random weights are good enough, and need not be of the right distribution, which takes seconds."""
    for name in ("trunc_normal_", "kaiming_normal_", "kaiming_uniform_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *args, **kwargs: nn.init.uniform_(tensor, -0.05, 0.05))


def of_torchvision(name):
    build = getattr(torchvision.models, name, None)
    if build is None:
        pytest.skip(f"torchvision {torchvision.__version__} has no {name}")
    return build


def hooked(model, paths, *args, **kwargs):
    """Everything that the modules at ``paths`` put out, call by call."""
    modules, found, handles = dict(model.named_modules()), {path: [] for path in paths}, []
    for path in paths:
        handles.append(
            modules[path].register_forward_hook(lambda m, a, out, path=path: found[path].append(deepcopy(out)))
        )
    with torch.no_grad():
        model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return found


def has_hooks(model):
    return any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def images(height, width, batch=2):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet50", ["conv1", "layer1", "layer2.3.conv2", "layer4"]),
        ("vgg16", ["features.0", "features.5", "features.30"]),
    ],
)
def test_convolutional_networks(name, layers):
    model, x = getattr(torchvision.models, name)().eval(), images(64, 96)
    expected = hooked(model, layers, x)
    with fv.capture(model, layers) as features, torch.no_grad():
        model(x)
    for layer in layers:
        for i in range(2):
            assert torch.equal(features.get(layer, image=i).data, expected[layer][-1][i])
    assert features[layers[-1]].stride == (32, 32)
    assert not has_hooks(model)


def test_vision_transformer():
    model, x = of_torchvision("vit_b_16")(image_size=64).eval(), images(64, 64)
    layers = [
        "conv_proj",
        "encoder.layers.encoder_layer_3",
        "encoder.ln",
        "encoder.layers.encoder_layer_3.self_attention",
    ]
    expected = hooked(model, layers, x)
    with fv.capture(model, layers) as features, torch.no_grad():
        model(x)
    for layer in layers[1:]:
        tokens = expected[layer][0][0] if layer.endswith("attention") else expected[layer][0]
        for i in range(2):
            data = features.get(layer, image=i).data
            assert data.shape == (768, 4, 4) and data.is_contiguous()
            for row in range(4):
                for column in range(4):  # after the class token
                    assert torch.equal(data[:, row, column], tokens[i, 1 + 4 * row + column])
    assert torch.equal(features["conv_proj"].data, expected["conv_proj"][0][0])
    assert features["encoder.ln"].stride == (16, 16)
    with pytest.raises(
        fv.FeatvizError, match=r"layer heads \(Sequential\) yields a tensor of shape \[2, 1000\]"
    ), fv.capture(model, "heads"), torch.no_grad():
        model(x)


def test_swin_transformer_is_channels_last():
    build = of_torchvision("swin_transformer").SwinTransformer
    # of 96 x 96 it makes [1, 24, 24, 24], whose shape does not say where its channels are
    square = build(patch_size=[4, 4], embed_dim=24, depths=[1, 1], num_heads=[2, 2], window_size=[4, 4])
    for model, x, end in ((torchvision.models.swin_t(), images(64, 96), "7"), (square, images(96, 96), "3")):
        layers = ["features.0", "features.1.0", "features.2", f"features.{end}", "permute"]
        expected = hooked(model.eval(), layers, x)
        with fv.capture(model, layers) as features, torch.no_grad():
            model(x)
        for layer in layers[:-1]:
            assert torch.equal(features.get(layer, image=1).data, expected[layer][0][1].permute(2, 0, 1)), layer
        assert torch.equal(features["permute"].data, expected["permute"][0][0])
        strides = [features[layer].stride for layer in layers]
        assert strides == [(4, 4), (4, 4), (8, 8), *[(8, 8) if end == "3" else (32, 32)] * 2]


@pytest.mark.parametrize("name", ["retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_detectors_with_a_pyramid(name):
    build = getattr(torchvision.models.detection, name, None)
    if build is None:
        pytest.skip(f"this torchvision has no {name}")
    random = ("weights", "pretrained")["pretrained" in inspect.signature(build).parameters]
    model = build(**{random: None, f"{random}_backbone": None}, min_size=64, max_size=96).eval()
    photos = [images(50, 70, 1)[0], images(60, 40, 1)[0]]
    head = next(n for n, m in model.named_modules() if n.startswith("head.cl") and isinstance(m, nn.Conv2d))
    layers = ["backbone", "backbone.body", "backbone.fpn", head]
    expected = hooked(model, layers, photos)
    with fv.capture(model, layers) as features, torch.no_grad():
        model(photos)
    pyramid = expected["backbone"][0]
    assert len(pyramid) == 5
    for i in range(2):
        for level, (key, tensor) in enumerate(pyramid.items()):
            fm = features.get("backbone", image=i, level=key)
            assert torch.equal(fm.data, tensor[i]) and fm.level == key
            assert torch.equal(features.get("backbone", image=i, level=level).data, tensor[i])
            # the head is one module, called for each level of the pyramid
            call = features.get(head, image=i, call=level)
            assert torch.equal(call.data, expected[head][level][i]) and call.call == level
    assert features["backbone"].stride == (8, 8)  # of what the network was given, not of the photographs
    stems = [fm.stem for fm in features.of_image(1)]
    assert len(set(stems)) == len(stems) == 5 + 3 + 5 + 5
    assert "backbone_BackboneWithFPN_levelp6" in stems and f"{head}_Conv2d_call4" in stems


def test_layers_by_pattern():
    model = torchvision.models.resnet18()

    def names(spec):
        return [layer.name for layer in fv.select_layers(model, spec)]

    assert names("layer*") == ["layer1", "layer2", "layer3", "layer4"]
    assert names("layer?.0.conv1") == [f"layer{i}.0.conv1" for i in (1, 2, 3, 4)]
    assert names("layer1.**") == [n for n, _ in model.named_modules() if n.startswith("layer1.")]
    assert names("**.downsample") == [f"layer{i}.0.downsample" for i in (2, 3, 4)]
    with pytest.raises(fv.FeatvizError, match="no layer 'nope\\*'"):
        names("nope*")
    with pytest.raises(fv.FeatvizError, match=r"did you mean layer2\.1\.conv1"):
        names("layer2.conv1")
    with pytest.raises(fv.FeatvizError, match="cannot list the layers of a function"):
        fv.capture(lambda x: x)
    with fv.capture(model.eval(), "layer4.1.*,fc*") as features, torch.no_grad():
        model(images(64, 64, 1))
    assert [f.layer.name for f in features][:2] == ["layer4.1.conv1", "layer4.1.bn1"]
    assert "[1, 1000]" in features.skipped["fc"]


class Rich(nn.Module):
    """Puts out tensors in whatever ``pack`` makes of them, and calls one module three times."""

    def __init__(self, pack):
        super().__init__()
        self.conv, self.relu, self.end, self.pack = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Identity(), pack
        self.never = nn.Identity()

    def forward(self, x):
        for _ in range(3):
            x = self.relu(self.conv(x.repeat(1, 1, 1, 1)[:, :3]) - 0.1)
        return self.end(self.pack(x, -x))


@dataclass
class Output:
    low: Any
    high: Any = None


Pair = namedtuple("Pair", "low high")


@pytest.mark.parametrize(
    ("pack", "names"),
    [
        (lambda a, b: (a, b), ["0", "1"]),
        (lambda a, b: [a, None, b], ["0", "2"]),
        (lambda a, b: {"low": a, "n": 3, "high": b}, ["low", "high"]),
        (lambda a, b: OrderedDict(low=a, high=b), ["low", "high"]),
        (Output, ["low", "high"]),
        (Pair, ["low", "high"]),
        (lambda a, b: Output([a], {"x": b}), ["low.0", "high.x"]),
        (lambda a, b: Output(a), [None]),
    ],
)
def test_outputs_that_hold_several_tensors(pack, names):
    model, x = Rich(pack), images(6, 8)
    with fv.capture(model, "end,relu") as features:
        model(x)
    assert [f.level for f in features.of_image(1) if f.layer.name == "end"] == names
    last = features.get("relu", image=1, call=2).data
    assert torch.equal(features.get("end", image=1, level=0).data, last)
    if len(names) > 1:
        assert torch.equal(features.get("end", image=1, level=names[1]).data, -last)
    with pytest.raises(KeyError, match="no level third"):
        features.get("end", level="third")


def test_several_calls_are_numbered_and_start_anew_with_each_pass():
    model, x = Rich(Pair).eval(), images(6, 8)
    expected = hooked(model, ["relu"], x)["relu"]
    with fv.capture(model, "relu") as features, torch.no_grad():
        for _ in range(2):
            model(x)
        assert [f.call for f in features.of_image(0)] == [0, 1, 2]
        for call in range(3):
            assert torch.equal(features.get("relu", image=1, call=call).data, expected[call][1])
        assert [f.stem for f in features.of_image(0)] == [f"relu_ReLU_call{i}" for i in range(3)]
        with pytest.raises(KeyError, match="no call 3: it was called 3 times"):
            features.get("relu", call=3)
        model.relu(x)  # by itself, outside a pass of the model
        assert [f.call for f in features.of_image(0)] == [None]
        assert torch.equal(features["relu"].data, x[0])
        with pytest.raises(RuntimeError):
            model(x[:, :2])  # a pass that fails leaves the next one as it should be
        model(x)
        assert [f.call for f in features.of_image(0)] == [0, 1, 2]


def test_a_layer_that_is_not_run_is_told():
    model, x = Rich(Pair), images(6, 8)
    with pytest.raises(fv.FeatvizError, match=r"layer never \(Identity\) was not run in the forward pass"), fv.capture(
        model, "relu,never"
    ):
        model(x)
    assert not has_hooks(model)
    with fv.capture(model, "all") as features:
        model(x)
    assert features.skipped == {"never": "layer never (Identity) was not run in the forward pass"}
    with fv.capture(model, "never"):  # no pass, nothing to complain about
        pass


# --- shapes ---------------------------------------------------------------------------------------------------------


def numbered(*shape):
    return torch.arange(torch.Size(shape).numel()).float().reshape(shape)


CONV, NORM = nn.Conv2d(1, 1, 1), nn.LayerNorm(1)


@pytest.mark.parametrize(
    ("shape", "size", "module", "moved"),
    [
        ((1, 8, 20, 15), (640, 480), CONV, False),
        ((1, 20, 15, 8), (640, 480), CONV, True),
        ((1, 20, 15, 8), None, CONV, False),  # nothing to go by: torch's own order
        ((1, 64, 64, 64), (512, 512), CONV, False),
        ((1, 64, 64, 64), (512, 512), NORM, True),
        ((1, 64, 64, 64), (512, 512), nn.Sequential(CONV, NORM), True),
        ((1, 64, 64, 64), (512, 512), nn.Sequential(NORM, CONV), False),
        ((1, 2048, 1, 1), (640, 480), NORM, False),
        ((1, 96, 54, 73), (227, 300), CONV, False),  # a convolution without padding loses a cell or two
        ((1, 7, 30, 11), (640, 480), NORM, False),  # neither: an aspect of its own
    ],
)
def test_where_the_channels_are(shape, size, module, moved):
    x = numbered(*shape)
    assert torch.equal(to_maps(x, module, Input(size, 1)), x.permute(0, 3, 1, 2) if moved else x)


@pytest.mark.parametrize(
    ("tokens", "size", "patch", "grid"),
    [
        (197, (224, 224), 16, (14, 14)),
        (196, (224, 224), 16, (14, 14)),
        (198, (224, 224), 16, (14, 14)),
        (261, (224, 224), 14, (16, 16)),  # DINOv2: a class token and four registers
        (1201, (480, 640), 16, (30, 40)),
        (300, (480, 640), 16, (15, 20)),  # patches merged two by two
        (7, (32, 48), 16, (2, 3)),
        (77, (120, 180), 16, (7, 11)),  # what does not fill a patch is left over
    ],
)
def test_tokens_to_their_grid(tokens, size, patch, grid):
    x = numbered(2, tokens, 5)
    maps = to_maps(x, NORM, Input(size, 2), (patch, patch))
    assert maps.shape == (2, 5, *grid)
    extra = tokens - grid[0] * grid[1]
    assert torch.equal(maps[1, 3].flatten(), x[1, extra:, 3])


@pytest.mark.parametrize(
    ("shape", "given", "patch", "says"),
    [
        ((1, 150, 8), Input((224, 224), 1), (16, 16), "150 tokens are not a grid of 14x14"),
        ((1, 8, 8), Input((32, 48), 1), (16, 16), "8 tokens may be a grid of 2x3 or 1x1"),
        ((1, 100, 8), Input((640, 640), 1), None, r"give their grid as reshape=\(height, width\)"),  # queries, say
        ((64, 49, 8), Input((224, 224), 1), (4, 4), "a batch of 64 for 1 image"),  # windows of attention
        ((1000, 256, 7, 7), Input((224, 224), 2), None, "a batch of 1000 for 2 images"),
        ((1, 3, 80, 60, 11), Input((640, 480), 1), None, "^$"),
        ((1, 1000), Input((224, 224), 1), None, "^$"),
    ],
)
def test_what_is_no_map_is_refused(shape, given, patch, says):
    with pytest.raises(fv.FeatvizError, match=says):
        to_maps(numbered(*shape), NORM, given, patch)


def test_reshape():
    class Queries(nn.Module):
        def forward(self, x):
            return x.flatten(2).transpose(1, 2)[:, :-1]  # one token short of a grid

    model, x = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), Queries()), images(8, 12)
    with pytest.raises(
        fv.FeatvizError, match=r"layer 1 \(Queries\) yields a tensor of shape \[2, 23, 4\], not a"
    ), fv.capture(model, "1"):
        model(x)
    with fv.capture(model, "1", reshape=(4, 5)) as features:
        model(x)
    assert torch.equal(features[1].data, model(x)[0][3:].T.reshape(4, 4, 5))
    with fv.capture(
        model, "1", reshape=lambda t: nn.functional.pad(t, (0, 0, 0, 1)).transpose(1, 2).reshape(-1, 4, 4, 6)
    ) as features:
        model(x)
    assert torch.equal(features.get(1, image=1).data[:, :, :5], model[0](x)[1][:, :, :5])
    with pytest.raises(fv.FeatvizError, match=r"reshape returned a tensor of shape \[2, 4\]"), fv.capture(
        model, "1", reshape=lambda t: t.sum(1)
    ):
        model(x)


def test_one_image_without_a_batch():
    model, x = nn.Sequential(nn.MaxPool2d(2), nn.ReLU()), images(9, 12)[0] - 0.5
    with fv.capture(model, "all") as features:
        y = model(x)
    assert torch.equal(features[1].data, y) and features[1].input_size == (9, 12)
    assert len(features) == 2


def test_clips():
    clip = torch.rand(2, 3, 4, 32, 48)
    model = torchvision.models.video.r3d_18().eval()
    expected = hooked(model, ["layer1"], clip)["layer1"][0]
    with fv.capture(model, "layer1") as features, torch.no_grad():
        model(clip)
    assert torch.equal(features.get("layer1", image=1).data, expected.mean(2)[1])
    assert features["layer1"].stride == (2, 2)
    for frame in (0, -1):
        with fv.capture(model, "layer1", frame=frame) as features, torch.no_grad():
            model(clip)
        assert torch.equal(features["layer1"].data, expected[0, :, frame])
    with pytest.raises(fv.FeatvizError, match="no frame 9: it has frames 0 to 3"), fv.capture(
        model, "layer1", frame=9
    ), torch.no_grad():
        model(clip)
    # [B, T, H, W, C], as video Swin has it
    x = numbered(2, 3, 8, 12, 5)
    maps = to_maps(x, NORM, Input((32, 48), 2, 5), frame=1)
    assert torch.equal(maps, x[:, 1].permute(0, 3, 1, 2))


# --- ways of running ------------------------------------------------------------------------------------------------


def test_the_part_of_a_model_that_is_called_without_it():
    model, x = torchvision.models.vgg11().eval(), images(64, 96)
    with fv.capture(model, "features.0,features") as features, torch.no_grad():
        model.features(images(32, 32))
        y = model.features(x)
        model.classifier(torch.zeros(1, 25088))
    assert torch.equal(features.get("features", image=1).data, y[1]) and features["features"].stride == (32, 32)
    assert len(features) == 4


def test_keyword_arguments():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.norm = nn.Conv2d(3, 6, 8, 8), nn.LayerNorm(6)

        def forward(self, labels=None, pixel_values=None):
            return self.norm(self.patches(pixel_values).flatten(2).transpose(1, 2))

    if "with_kwargs" not in nn.Module.register_forward_pre_hook.__code__.co_varnames:
        pytest.skip("this torch shows keyword arguments to no hook")
    model, x = Encoder(), images(16, 24)
    with fv.capture(model, "norm") as features:
        y = model(labels=None, pixel_values=x)
    assert torch.equal(features["norm"].data, y[0].T.reshape(6, 2, 3))
    assert features["norm"].input_size == (16, 24)


def test_inference_mode_and_autocast():
    model, x = torchvision.models.resnet18().eval(), images(64, 64)
    with fv.capture(model, "layer1") as features, INFERENCE():
        model(x)
    data = features["layer1"].data
    data.mul_(2)  # a normal tensor, which may be written to
    assert not getattr(data, "is_inference", bool)()
    if not hasattr(torch, "autocast"):
        pytest.skip("this torch has no autocast for the processor")
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad(), fv.capture(model, "layer1.0.conv1") as features:
        model(x)
    assert features["layer1.0.conv1"].data.dtype == torch.bfloat16
    with fv.capture(model, "layer1") as features:
        model(x).sum().backward()
    assert not features["layer1"].data.requires_grad


@pytest.mark.skipif(not hasattr(torch, "compile"), reason="this torch does not compile")
@pytest.mark.parametrize("way", ["compile", "method", "around", "parts"])
def test_compiled_models(way):
    model, x = Rich(Pair).eval(), images(6, 8)
    expected = hooked(model, ["relu"], x)["relu"]
    compiled = model
    if way == "compile":
        compiled = torch.compile(model, backend="eager")
    elif way == "method":
        model.compile(backend="eager")
    elif way == "around":
        run = torch.compile(lambda x: model(x), backend="eager")
    else:
        model.conv = torch.compile(model.conv, backend="eager")
    run = run if way == "around" else compiled
    with torch.no_grad():
        before = run(x)
        with fv.capture(compiled, "relu") as features:
            run(x)
        after = run(x)
    for call in range(3):
        assert torch.equal(features.get("relu", image=1, call=call).data, expected[call][1])
    assert torch.equal(before.low, after.low) and not has_hooks(compiled)


def test_compiled_models_are_refused_where_torch_shows_no_way(monkeypatch):
    if not hasattr(torch, "compile"):
        pytest.skip("this torch does not compile")
    monkeypatch.setattr(sys.modules["yolov5_featviz.features.capture"], "_SET_STANCE", None)
    with pytest.raises(fv.FeatvizError, match="runs no hooks in a compiled model"):
        fv.capture(torch.compile(Rich(Pair), backend="eager"), "relu")


@pytest.mark.skipif(not hasattr(torch, "fx"), reason="this torch draws no graphs unasked")
def test_graph_and_script_modules():
    model, x = torchvision.models.resnet18().eval(), images(64, 64)
    graph = torch.fx.symbolic_trace(model)
    expected = hooked(model, ["layer1.0.conv1"], x)["layer1.0.conv1"][0]
    with fv.capture(graph, "layer1.0.conv1") as features, torch.no_grad():
        graph(x)
    assert torch.equal(features["layer1.0.conv1"].data, expected[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted, traced = torch.jit.script(Rich(Pair).relu), torch.jit.trace(model, x)
    for what, layer in ((nn.Sequential(nn.Identity(), scripted), "1"), (traced, "layer1"), (traced, "all")):
        with pytest.raises(fv.FeatvizError, match="is TorchScript, which runs no hooks"):
            fv.capture(what, layer)
    with fv.capture(nn.Sequential(nn.Identity(), scripted), "all") as features:
        nn.Sequential(nn.Identity(), scripted)
    assert list(features.skipped) == ["1"]
    with pytest.raises(fv.FeatvizError, match="is TorchScript"):
        fv.list_layers(traced, 64)


def test_copies_made_of_a_model_while_it_is_watched():
    """A library that runs a deep copy of the model it was given runs our hooks with it: they must go there too."""
    model, x = Rich(Pair).eval(), images(6, 8)
    with fv.capture(model, "relu") as features, torch.no_grad():
        copy = deepcopy(model)
        copy(x)
    assert len(features) == 6
    assert not has_hooks(model) and not has_hooks(copy)
    before = features["relu"].data.clone()
    with torch.no_grad():
        copy(-x)
    assert torch.equal(features["relu"].data, before)


def test_table_of_the_modules_inside():
    rows = {row.name: row for row in fv.list_layers(torchvision.models.vgg11(), 64, depth=2)}
    assert rows["features"].index == 0 and rows["features.3"].index is None
    assert rows["features.3"].shape == (1, 128, 32, 32) and rows["features.3"].stride == 2
    assert rows["features.3"].arguments.startswith("64, 128, kernel_size=(3, 3)")
    rows = {row.name: row for row in fv.list_layers(of_torchvision("swin_t")(), (64, 96), depth=2)}
    assert rows["features.2"].shape == (1, 8, 12, 192) and rows["features.2"].stride == 8
