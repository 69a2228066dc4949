"""Ultralytics' YOLO: models built from its own configurations, and its own predict."""

import os

import numpy as np
import pytest
import torch

import yolov5_featviz as fv


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    before = {name: os.environ.get(name) for name in ("YOLO_CONFIG_DIR", "YOLO_AUTOINSTALL")}
    os.environ.update(YOLO_CONFIG_DIR=str(tmp_path_factory.mktemp("settings")), YOLO_AUTOINSTALL="false")
    yolo = pytest.importorskip("ultralytics").YOLO
    yield lambda name: yolo(name, verbose=False)
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def photograph(height, width):
    """Without a pixel of the grey that Ultralytics pads with."""
    return np.random.default_rng(0).integers(115, 256, (height, width, 3), np.uint8)


def predict(yolo, image, **options):
    options = {"imgsz": 64, "save": False, "verbose": False, "device": "cpu", "stream": True, **options}
    return yolo.predict(image, **options)


def hook(model, i):
    found = []
    return found, model.model[i].register_forward_hook(lambda m, a, out: found.append(out.clone()))


def no_hooks(model):
    return not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("config", "heads", "type"),
    [
        ("yolov8n.yaml", [15, 18, 21], "C2f"),
        ("yolo11n.yaml", [16, 19, 22], "C3k2"),
        ("yolo26n.yaml", [16, 19, 22], "C3k2"),
        ("yolov5n.yaml", [17, 20, 23], "C3"),
    ],
)
def test_models_from_their_own_configurations(build, config, heads, type):
    model = build(config).model.eval()
    x = torch.rand(2, 3, 64, 96)
    hooks = [hook(model, i) for i in heads]
    with fv.capture(model, heads) as features, torch.no_grad():
        model(x)
    for i, (found, handle) in zip(heads, hooks):
        handle.remove()
        assert torch.equal(features.get(i, image=1).data, found[-1][1])
        assert features[i].stem == f"stage{i}_{type}"
    assert [features[i].stride for i in heads] == [(8, 8), (16, 16), (32, 32)]
    assert [layer.index for layer in fv.select_layers(model, "detect")] == heads
    assert no_hooks(model)


def test_table(build):
    rows = fv.list_layers(build("yolo11n.yaml"), 64)
    assert rows[16].stride == 8 and rows[-1].sources == (16, 19, 22) and rows[16].arguments == "[256, False]"


def test_predict(build):
    """It predicts with a copy of its model, fused, and with the same copy the next time."""
    yolo = build("yolov8n.yaml")
    with fv.capture(yolo, "15,18") as features:
        for _ in predict(yolo, photograph(40, 90)):
            pass
    copy = yolo.predictor.model.model
    assert copy is not yolo.model and no_hooks(copy) and no_hooks(yolo.model)
    first = features[15].data.clone()

    found, handle = hook(copy, 15)
    with fv.capture(yolo, "15,18") as features:
        for _ in predict(yolo, photograph(40, 90)):
            assert torch.equal(features[15].data, found[-1][0])  # also while the images are gone through
    handle.remove()
    assert torch.equal(features[15].data, first) and torch.equal(first, found[-1][0])
    assert features[15].image == "image0"
    for _ in predict(yolo, photograph(64, 64)):  # and nothing is seen when the block is over
        pass
    assert torch.equal(features[15].data, first) and no_hooks(copy)


@pytest.mark.parametrize(("size", "options"), [((40, 90), {}), ((90, 40), {}), ((50, 70), {"rect": False})])
def test_where_predict_puts_the_image(build, size, options):
    yolo = build("yolov8n.yaml")
    given = []
    yolo.add_callback("on_predict_postprocess_end", lambda p: given.append(p.preprocess(p.batch[1])))
    with fv.capture(yolo, "15") as features:
        list(predict(yolo, photograph(*size), **options))
    x = given[-1][0]
    assert features[15].input_size == tuple(x.shape[1:])
    inside = (x != 114 / 255).any(0).nonzero()
    (top, left), (bottom, right) = inside.min(0).values.tolist(), (inside.max(0).values + 1).tolist()
    assert features[15].region == (left, top, right, bottom)


def test_classifiers_crop(build):
    yolo = build("yolov8n-cls.yaml")
    with fv.capture(yolo, "0") as features:
        list(predict(yolo, photograph(40, 90)))
    assert features[0].input_size == (64, 64)
    assert features[0].region == (-40, 0, 104, 64)  # 40 x 90 becomes 64 x 144, of which the middle is taken
