import asyncio
import io
import pickle
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import torch
import torchvision
from helpers import WEIGHTS, independent_hooks
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


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, 64, 64, generator=generator) for _ in range(8)]


def watched(model, x):
    with fv.capture(model, "0,4,17") as features, torch.no_grad():
        model(x)
    return [fm.data for fm in features]


@pytest.fixture(scope="module")
def alone(model, inputs):
    """What each input's maps are when nobody else runs the model."""
    return [watched(model, x) for x in inputs]


def same(found, expected):
    return [len(a) == len(b) == 3 and all(map(torch.equal, a, b)) for a, b in zip(found, expected)]


def dictionaries(model):
    names = ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    return [vars(module)[name] for module in model.modules() for name in names if name in vars(module)]


def test_threads_see_their_own_passes(model, inputs, alone):
    before = list(map(id, dictionaries(model)))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert all(same(pool.map(watched, [model] * len(inputs), inputs), alone))
    assert list(map(id, dictionaries(model))) == before and not any(dictionaries(model))


def test_tasks_see_their_own_passes(model, inputs, alone):
    async def task(x):
        with fv.capture(model, "0,4,17") as features:
            await asyncio.sleep(0.001)
            with torch.no_grad():
                model(x)
            await asyncio.sleep(0.001)
        return [fm.data for fm in features]

    async def tasks():
        return await asyncio.gather(*map(task, inputs))

    assert all(same(asyncio.run(tasks()), alone))


def test_blocks_within_blocks(model, inputs, alone):
    with torch.no_grad(), fv.capture(model, "17") as outer:
        model(inputs[0])
        with fv.capture(model, "4") as inner:
            model(inputs[1])
    assert torch.equal(outer[17].data, alone[1][2]) and torch.equal(inner[4].data, alone[1][1])


def test_a_model_that_other_threads_run(model, inputs, alone):
    """They are not seen; where nothing else was run, that is told. DataParallel's own threads are."""

    def elsewhere(run, x):
        thread = threading.Thread(target=run, args=(x,))
        thread.start()
        thread.join()

    def replica(module):
        made = module._replicate_for_data_parallel()
        made._parameters.update(module._parameters)
        made._modules.update((name, replica(child)) for name, child in module._modules.items())
        return made

    with fv.capture(model, "17") as features:
        model(inputs[0])
        elsewhere(model, inputs[1])
    assert torch.equal(features[17].data, alone[0][2])
    with pytest.raises(fv.FeatvizError, match="run in another thread than the one that entered"), fv.capture(model, 17):
        elsewhere(model, inputs[1])
    with fv.capture(model, "detect") as features:
        elsewhere(model, inputs[1])
    assert len(features) == 0 and len(features.skipped) == 3
    with fv.capture(model, "17") as features:
        elsewhere(replica(model), inputs[2])
    assert torch.equal(features[17].data, alone[2][2])

    if not hasattr(asyncio, "to_thread"):  # Python 3.9
        return

    async def apart(*several):
        with fv.capture(model, "17") as features:
            for xs in several:
                await asyncio.gather(*(asyncio.to_thread(model, x) for x in xs))
        return features[17].data

    assert torch.equal(asyncio.run(apart([inputs[3]], [inputs[4]])), alone[4][2])  # begun within the block
    gate = threading.Barrier(2, timeout=20)
    handle = model.model[4].register_forward_hook(lambda *_: print(end="" * gate.wait()))
    with pytest.raises(fv.FeatvizError, match="several threads ran the model at once within one capture"):
        asyncio.run(apart(inputs[:2]))
    handle.remove()


def theirs(module, args, output):
    """A hook of the user's."""


def test_copies_and_files_hold_no_hook_of_ours(inputs, alone):
    model = fv.load(WEIGHTS)
    handles = [model.model[0].register_forward_hook(theirs)]
    before = dictionaries(model)
    plain, files = io.BytesIO(), [io.BytesIO() for _ in range(3)]
    torch.save(model, plain)
    with torch.no_grad(), fv.capture(model, "17") as features:
        copies = [deepcopy(model)]
        copies += [deepcopy(copies[0]), pickle.loads(pickle.dumps(model)), nn.Sequential(deepcopy(model))[0]]
        for one, file in zip(copies, files):
            torch.save(one, file)
            torch.save(model, file)
        handles.append(model.model[1].register_forward_hook(theirs))
        for copy in copies:
            assert [len(hooks) for hooks in dictionaries(copy)] == [
                len(hooks) for hooks in dictionaries(deepcopy(copy))
            ]
            assert [hook for hooks in dictionaries(copy) for hook in hooks.values()] == [theirs]
        for i in (0, 1, 3):  # deep copies are followed, since libraries run copies of what they are given
            copies[i](inputs[i])
            assert torch.equal(features[17].data, alone[i][2])
        copies[2](inputs[5])
        assert torch.equal(features[17].data, alone[3][2])
    for file in files:
        assert b"featviz" not in file.getvalue() and len(file.getvalue()) > len(plain.getvalue())
    for one in (model, *copies):
        assert {type(hooks) for hooks in dictionaries(one)} <= {dict, OrderedDict}
    assert all(now is then for now, then in zip(dictionaries(model), before))
    assert list(model.model[1]._forward_hooks.values()) == [theirs]
    for handle in handles:  # also the one that was given out within the block
        handle.remove()
    assert not any(dictionaries(model))
    everywhere = torch.nn.modules.module
    assert not everywhere._global_forward_hooks and not everywhere._global_forward_pre_hooks


def test_a_hook_that_is_taken_away_meanwhile(model, inputs):
    calls = []
    handle = model.model[0].register_forward_hook(lambda *_: calls.append(1))
    with fv.capture(model, "0"):
        model(inputs[0])
        handle.remove()
        model(inputs[0])
    assert calls == [1] and not any(dictionaries(model))


@pytest.mark.skipif(not hasattr(getattr(torch, "compiler", None), "set_stance"), reason="this torch has no stance")
def test_the_compilers_stance_is_as_it_was():
    import torch._dynamo.eval_frame as frame

    net, before = nn.Sequential(nn.Conv2d(3, 4, 3)), frame._stance
    first, second = fv.capture(net, "0"), fv.capture(net, "0")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert frame._stance.stance == "force_eager"
    second.__exit__(None, None, None)
    assert frame._stance is before
