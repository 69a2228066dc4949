import numpy as np
import pytest
import torch
import torchvision
from conftest import WEIGHTS, independent_hooks
from torch import nn

import yolov5_featviz as fv


def test_maps_are_what_the_layers_put_out(model, bus):
    expected = independent_hooks(model, [0, 9, 17, 23], bus)
    with fv.capture(model, "0,SPPF,17,23") as features, torch.no_grad():
        model(bus)
    for i in (0, 9, 17, 23):
        assert features[i].data.numpy().tobytes() == expected[i][0].tobytes()
    fm = features[17]
    assert (fm.layer.index, fm.layer.type, fm.channels, fm.stride) == (17, "C3", 64, (8, 8))
    assert [f.stem for f in features] == ["stage0_Conv", "stage9_SPPF", "stage17_C3", "stage23_C3"]
    assert features[-2].stem == "stage23_C3"
    assert features["sppf"].stem == "stage9_SPPF"


def test_sub_module_by_path(model, bus):
    inner = model.model[17].m[0].cv2
    found = []
    handle = inner.register_forward_hook(lambda m, a, out: found.append(out.clone()))
    with fv.capture(model, "17.m.0.cv2") as features, torch.no_grad():
        model(bus)
    handle.remove()
    assert torch.equal(features["17.m.0.cv2"].data, found[0][0])
    assert features["17.m.0.cv2"].stem == "stage17.m.0.cv2_Conv"


def test_hooks_are_gone_even_after_an_error(model, bus):
    with pytest.raises(RuntimeError), fv.capture(model, "17"):
        model(bus[:, :2])
    with fv.capture(model, "all"), torch.no_grad():
        model(bus)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_capturing_changes_no_output(model, bus):
    with torch.no_grad():
        plain = model(bus)[0]
        with fv.capture(model, "all"):
            watched = model(bus)[0]
    assert torch.equal(plain, watched)


def test_maps_survive_in_place_work_that_follows():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True)).eval()
    image = torch.randn(1, 3, 8, 8)
    with fv.capture(net, "0") as features, getattr(torch, "inference_mode", torch.no_grad)():
        net(image)
        expected = net[0](image)
    assert (expected < 0).any()
    assert torch.equal(features[0].data, expected[0])


def test_a_layer_without_a_map(model, bus):
    with pytest.raises(fv.FeatvizError) as error, torch.no_grad(), fv.capture(model, "-1"):
        model(bus)
    assert "layer 24 (Detect) yields tensors of shapes [1, 18900, 11], [1, 3, 80, 60, 11]" in str(error.value)
    with fv.capture(model, "20-24") as features, torch.no_grad():
        model(bus)
    assert [f.layer.index for f in features] == [20, 21, 22, 23]
    assert "layer 24 (Detect)" in next(iter(features.skipped.values()))


def test_selection_is_checked_before_any_pass(model):
    with pytest.raises(fv.FeatvizError, match="no layer 99"):
        fv.capture(model, "99")


def test_batch(model, bus):
    batch = torch.cat([bus, bus.flip(3)])
    expected = independent_hooks(model, [17], batch)[17]
    with fv.capture(model, "17,20") as features, torch.no_grad():
        model(batch)
    assert len(features) == 4
    assert [f.layer.index for f in features] == [17, 20, 17, 20]
    assert np.array_equal(features.get(17, image=1).data.numpy(), expected[1])
    with pytest.raises(KeyError):
        features.get(17, image=2)
    with pytest.raises(KeyError, match="captured: 17, 20"):
        features[5]


def test_any_module_and_several_levels():
    backbone = torchvision.models.resnet18().eval()
    with fv.capture(backbone, "layer1,layer4") as features, torch.no_grad():
        backbone(torch.zeros(1, 3, 64, 96))
    assert features["layer4"].data.shape == (512, 2, 3)
    assert features["layer4"].stride == (32, 32)
    assert features["layer4"].stem == "layer4_Sequential"
    assert repr(features["layer4"]) == "<FeatureMap layer layer4 (Sequential): [512, 2, 3] torch.float32>"

    class Pyramid(nn.Module):
        def forward(self, x):
            return {"p3": x, "rest": [x[:, :, ::2, ::2], x.flatten(1)]}

    net = nn.Sequential(Pyramid())
    with fv.capture(net, "0") as features:
        net(torch.randn(1, 2, 8, 8))
    assert [(f.level, tuple(f.data.shape)) for f in features] == [("p3", (2, 8, 8)), ("rest.0", (2, 4, 4))]
    assert features.get(0, level=1).stem == "stage0_Pyramid_levelrest.0"


def test_half_precision(model, bus):
    net = nn.Sequential(nn.Conv2d(3, 4, 3).bfloat16()).eval()
    with fv.capture(net, "0") as features, torch.no_grad():
        net(bus.bfloat16())
    assert features[0].data.dtype == torch.bfloat16
    assert features[0].grid().pixels.size


@pytest.mark.parametrize("wrapper", ["DetectMultiBackend", "AutoShape", "DataParallel"])
def test_yolov5s_own_wrappers(wrapper, bus, images):
    """Indices mean the same whatever the model is wrapped in; checked within the same forward pass."""
    from yolov5.models.common import AutoShape, DetectMultiBackend

    with fv.compatible():
        backend = DetectMultiBackend(str(WEIGHTS))
    wrapped = {"DetectMultiBackend": lambda m: m, "AutoShape": AutoShape, "DataParallel": nn.DataParallel}[wrapper](
        backend
    )
    found = []
    handle = backend.model.model[17].register_forward_hook(lambda m, a, out: found.append(out.clone()))
    with fv.capture(wrapped, "17,-2") as features, torch.no_grad():
        wrapped(str(images / "bus.jpg") if wrapper == "AutoShape" else bus)
    handle.remove()
    assert torch.equal(features[17].data, found[-1][0])
    assert features[17].stride == (8, 8)
    assert [f.stem for f in features] == ["stage17_C3", "stage23_C3"]
