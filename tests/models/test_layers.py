import json

import numpy as np
import pytest
import torch
import torchvision
from helpers import WEIGHTS, run
from torch import nn

import yolov5_featviz as fv
from yolov5_featviz.attribution.ablation import detect
from yolov5_featviz.attribution.bridge import bridge
from yolov5_featviz.models.detections import Thresholds
from yolov5_featviz.yolov5.layers import find_model
from yolov5_featviz.yolov5.named import preparing
from yolov5_featviz.yolov5.predictor import read_image

MAIN = ("-m", "yolov5_featviz")


def names(model, spec):
    return [layer.name for layer in fv.select_layers(model, spec)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("17", ["17"]),
        (17, ["17"]),
        ([17, "20"], ["17", "20"]),
        ("17, 20 ,23", ["17", "20", "23"]),
        ("-2", ["23"]),
        ("-2,-5", ["23", "20"]),
        ("0-3", ["0", "1", "2", "3"]),
        ("spPF", ["9"]),
        ("Conv", ["0", "1", "3", "5", "7", "10", "14", "18", "21"]),
        ("17.m.0.cv2", ["17.m.0.cv2"]),
        ("model.17.m.0.cv2", ["17.m.0.cv2"]),
        ("model.17", ["17"]),
        ("backbone", [str(i) for i in range(10)]),
        ("Neck", [str(i) for i in range(10, 24)]),
        ("detect", ["17", "20", "23"]),
        ("all", [str(i) for i in range(25)]),
        ("23,17,23,20-23", ["23", "17", "20", "21", "22"]),
    ],
)
def test_selection(model, spec, expected):
    assert names(model, spec) == expected


def test_type_of_sub_modules(model):
    expected = [n.replace("model.", "", 1) for n, m in model.named_modules() if type(m).__name__ == "Bottleneck"]
    assert names(model, "bottleneck") == expected
    assert len(expected) > 5


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("25", "no layer 25: this model has layers 0 to 24"),
        ("-26", "layers 0 to 24"),
        ("20-30", "no layers 20-30"),
        ("9-3", "ascending"),
        ("Focus", "Conv, C3, SPPF, Upsample, Concat, Detect"),
        ("17.nope", "layer 17 holds cv1, cv2, cv3, m"),
        ("", "no layer ''"),
        ("17,,20", "no layer ''"),
        ("17;20", "no layer '17;20'"),
    ],
)
def test_unknown_layers_are_told_with_what_there_is(model, spec, says):
    with pytest.raises(fv.FeatvizError) as error:
        fv.select_layers(model, spec)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_any_module():
    resnet = torchvision.models.resnet18()
    assert names(resnet, "layer4") == ["layer4"]
    assert names(resnet, "layer1.0.conv2") == ["layer1.0.conv2"]
    assert names(resnet, "0") == ["conv1"]
    assert len(names(resnet, "BasicBlock")) == 8
    vgg = torchvision.models.vgg11()
    assert names(vgg.features, "5") == ["5"]
    assert names(vgg, "features.5") == ["features.5"]


def test_wrappers_are_seen_through(model):
    class AutoShape(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

    wrapped = AutoShape(nn.DataParallel(model))
    assert find_model(wrapped) is model
    assert names(wrapped, "17,20,23") == ["17", "20", "23"]
    assert find_model(torchvision.models.resnet18()) is None


@pytest.mark.slow
def test_table(model, tmp_path):
    rows = fv.list_layers(model, 640)
    assert [row.index for row in rows] == list(range(25))
    assert [row.type for row in rows[:10]] == ["Conv", "Conv", "C3", "Conv", "C3", "Conv", "C3", "Conv", "C3", "SPPF"]
    assert rows[24].sources == (17, 20, 23)
    assert rows[17].shape == (1, 64, 80, 80) and rows[17].stride == 8
    assert rows[0].arguments == "[64, 6, 2, 2]"
    assert [row.parameters for row in rows] == [sum(p.numel() for p in m.parameters()) for m in model.model]
    # The first convolution by hand: 2 * K*K*Cin*Cout*H*W operations, and 4 (batch norm) + 1 (SiLU) more a cell at most.
    cells = 16 * 320 * 320
    assert 2 * 6 * 6 * 3 * cells <= rows[0].gflops * 1e9 <= (2 * 6 * 6 * 3 + 10) * cells

    done = run(*MAIN, "layers", "--weights", WEIGHTS, "--json", "--imgsz", "320", "640", cwd=tmp_path, script=None)
    table = json.loads(done.stdout)
    assert table[17]["shape"] == [1, 64, 40, 80]
    assert table[17]["parameters"] == rows[17].parameters
    text = run(*MAIN, "layers", "--weights", WEIGHTS, cwd=tmp_path, script=None).stdout
    assert "17,20,23" in text and "1x64x80x80" in text and f"{sum(r.parameters for r in rows):,}" in text


@pytest.mark.slow
def test_score_lost_in_the_table(model, images, tmp_path):
    """Over the detections of two images, each as its image alone has it."""
    words = (*MAIN, "layers", "--weights", WEIGHTS, "--imgsz", "320", "--ablate", "--conf-thres", "0.4")
    done = run(*words, "--source", images, "--json", cwd=tmp_path, script=None)
    table = json.loads(done.stdout)
    rows = fv.list_layers(model, 320)
    lost, count = {}, 0
    for name in ("bus", "zidane"):
        x = preparing(model, 320)(read_image(images / f"{name}.jpg"))[0]
        found = detect(model, x, Thresholds(0.4))
        count += len(found)
        layers = fv.select_layers(model, "all")
        for layer, shares in zip(layers, bridge(model, x, layers, found)):
            lost.setdefault(layer.index, []).append(shares)
    assert {row["detections"] for row in table} == {count} and count > 5
    bridged = [row["index"] for row in table if row["score_lost"] is not None]
    assert bridged == [2, 4, 6, 8, 9, 20, 23]
    for row in table:
        parts = lost[row["index"]]
        expected = None if parts[0] is None else np.concatenate(parts).mean()
        assert row["score_lost"] == (expected if expected is None else pytest.approx(expected, abs=1e-5))
        assert row["shape"] == json.loads(json.dumps(rows[row["index"]].shape))
    text = run(*words, "--source", images, cwd=tmp_path, script=None).stdout.splitlines()
    assert text[0].split()[-2:] == ["score", "lost"]
    shown = [line.split()[-1] for line in text[1:26]]
    assert shown == ["-" if row["score_lost"] is None else f"{row['score_lost']:.3f}" for row in table]
    assert text[-1].startswith("score lost: 1 - confidence left / confidence when the layer returns its input, mean ")
    assert f"mean over {count} detections in 2 images; -: " in text[-1]
    deeper = run(*words, "--source", images / "bus.jpg", "--depth", "2", "--json", cwd=tmp_path, script=None)
    names = {row["name"]: row["score_lost"] for row in json.loads(deeper.stdout)}
    assert names["4.m"] > 0.01 and names["0.bn"] > 0.01 and names["0.act"] is not None and names["4.cv1"] is None


@pytest.mark.slow
def test_score_lost_of_another_detector(images, tmp_path):
    """torchvision's, at random weights; where nothing is detected, that is said."""
    options = "score_thresh={},detections_per_img=3,min_size=96,max_size=160,num_classes=3"
    words = ("--ablate", "--source", images / "zidane.jpg", "--json", "--depth", "4")

    def layers(least, check):
        name = f"torchvision:retinanet_resnet50_fpn({options.format(least)})"
        return run(*MAIN, "layers", "--model", name, *words, cwd=tmp_path, script=None, check=check)

    error = layers(0.9, 2).stderr.splitlines()[-1]
    assert error.endswith("--ablate: nothing was detected in zidane.jpg above 0.9: take others, or --conf-thres")
    lost = {row["name"]: row["score_lost"] for row in json.loads(layers(0.001, 0).stdout)}
    assert lost["backbone.body.layer1.1"] is not None and lost["head.classification_head.conv"] is not None
    assert lost["backbone.body.conv1"] is None and lost["backbone"] is None


def test_table_leaves_the_model_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    keys = {name: sorted(vars(module)) for name, module in model.named_modules()}
    model.train()
    fv.list_layers(model, 64)
    assert model.training
    model.eval()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {name: sorted(vars(module)) for name, module in model.named_modules()} == keys
    assert not any(module._forward_hooks for module in model.modules())


def test_table_of_any_model():
    rows = fv.list_layers(torchvision.models.resnet18(), 64)
    assert rows[0].shape == (1, 64, 32, 32) and rows[0].stride == 2
    assert rows[-1].stride is None
    with pytest.raises(fv.FeatvizError, match="cannot be run on an image of 3x3"):
        fv.list_layers(nn.Sequential(nn.Conv2d(3, 8, 5)), 3)
