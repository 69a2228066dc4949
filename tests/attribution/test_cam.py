"""Class activation maps, against grad-cam's own pipeline and against formulas written out here."""

import inspect
import sys

import cv2
import numpy as np
import pytest
import torch
import torchvision
from helpers import WEIGHTS, files_below, run
from PIL import Image
from torch import nn

import yolov5_featviz as fv
from yolov5_featviz.arrays.checkerboard import is_checkerboard
from yolov5_featviz.attribution.explain import explain_input, overviews
from yolov5_featviz.draw.heatmap import aligned
from yolov5_featviz.models.detections import DEFAULTS, watching

METHODS = {"layer-cam": "LayerCAM", "grad-cam": "GradCAM", "grad-cam++": "GradCAMPlusPlus"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [None, 3])
def test_as_the_package_itself_has_it(net, x, method, target):
    lib = pytest.importorskip("pytorch_grad_cam")
    targets = None if target is None else [lib.utils.model_targets.ClassifierOutputTarget(target)]
    expected = getattr(lib, METHODS[method])(net, [net.layer3])(x, targets)[0]
    (heat,) = fv.cam(net, x, "layer3", target, method)
    ours = np.maximum(heat.feature_map.data[0].numpy(), 0)
    ours = cv2.resize((ours - ours.min()) / (1e-7 + (ours - ours.min()).max()), (96, 64))
    np.testing.assert_allclose(ours / ours.max(), expected, atol=1e-4)


@pytest.mark.parametrize("method", ["layer-cam", "grad-cam"])
def test_formulas_also_before_work_in_place(net, x, method):
    """``conv1`` is followed by batch norm, ``bn1`` by a ReLU that works in place, which must not show."""
    pytest.importorskip("pytorch_grad_cam")
    for layer in ("conv1", "bn1", "layer2.0.bn1"):
        kept = []
        handle = dict(net.named_modules())[layer].register_forward_hook(
            lambda m, a, out, kept=kept: kept.append(out) or out.clone()
        )
        score = net(x)[0, 2]
        handle.remove()
        (gradient,) = torch.autograd.grad(score, kept)
        a, g = kept[0].detach()[0].double(), gradient[0].double()
        expected = (g.clamp(min=0) * a).sum(0) if method == "layer-cam" else (g.mean((1, 2))[:, None, None] * a).sum(0)
        (heat,) = fv.cam(net, x, layer, 2, method)
        torch.testing.assert_close(heat.feature_map.data[0].double(), expected, rtol=1e-3, atol=1e-7)
        scaled = expected.clamp(min=0) / max(expected.max(), 1e-30)
        np.testing.assert_allclose(heat.values, scaled.numpy(), atol=1e-3)


def test_eigen_cam(net, x):
    from sklearn.decomposition import PCA

    with fv.capture(net, "layer2") as features, torch.no_grad():
        net(x)
    data = features["layer2"].data
    cells = data.flatten(1).T.numpy()
    component = PCA(1, svd_solver="full").fit_transform(cells)[:, 0]
    component *= np.sign(np.corrcoef(component, cells.mean(1))[0, 1])
    (heat,) = fv.cam(net, x, "layer2", method="eigen-cam")
    np.testing.assert_allclose(heat.feature_map.data.flatten(), component, rtol=1e-3, atol=1e-4)
    assert heat.feature_map.stem == "layer2_Sequential" and "Eigen-CAM" in heat.title


def test_merged_and_apart(net, x):
    pytest.importorskip("pytorch_grad_cam")
    apart = fv.cam(net, x, "layer2,layer4", 1)
    (merged,) = fv.cam(net, x, "layer2,layer4", 1, merge=True)
    assert [h.values.shape for h in apart] == [(8, 12), (2, 3)] and merged.values.shape == (8, 12)
    mean = apart[0].values + aligned(apart[1].values, apart[1].feature_map, (64, 96), (8, 12))
    np.testing.assert_allclose(merged.values, mean / mean.max(), atol=1e-5)
    assert merged.feature_map.stem == "layer2+layer4_merged" and merged.feature_map.stride == (8, 8)


def test_tokens_and_a_function_as_target():
    pytest.importorskip("pytorch_grad_cam")
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4).eval()
    nn.init.normal_(model.heads.head.weight)  # torchvision makes it of zeros
    x = torch.rand(1, 3, 32, 32)
    (heat,) = fv.cam(model, x, "encoder.layers.encoder_layer_0", 2)
    assert heat.values.shape == (4, 4) and np.abs(heat.feature_map.data.numpy()).min() > 0
    (same,) = fv.cam(model, x, "encoder.layers.encoder_layer_0", lambda output: output[0, 2])
    assert torch.equal(heat.feature_map.data, same.feature_map.data)


def test_the_model_is_left_as_it_was(net, x):
    pytest.importorskip("pytorch_grad_cam")
    net.layer1.train()
    net.zero_grad(set_to_none=True)  # grad-cam leaves its gradients behind
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with torch.no_grad():
        fv.cam(net, x, "layer4")
    assert net.layer1.training and not net.layer2.training
    net.eval()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"layers": "layer4", "target": 5}, "no class 5: this model has classes 0 to 4"),
        ({"layers": "layer4", "target": "cat"}, "no class 'cat': give a number"),
        ({"layers": "layer9"}, "no layer 'layer9'"),
        ({"layers": "fc"}, r"layer fc \(Linear\) yields a tensor of shape \[1, 5\]"),
        ({"layers": "layer4", "method": "score-cam"}, "no method 'score-cam': take one of layer-cam"),
        ({"layers": "layer4", "method": "eigen-cam", "target": 2}, "leave 2 out"),
        ({"layers": "layer4", "target": lambda output: output}, "return a tensor of one element"),
        ({"layers": "layer4", "target": lambda output: output.detach()[0, 0]}, "has no gradient"),
        ({"layers": "layer4", "image": torch.rand(2, 3, 64, 64)}, r"one image \[1, C, H, W\], not .*\[2, 3, 64, 64\]"),
        ({"layers": "layer4", "image": torch.rand(1, 4, 64, 64)}, "cannot be run with gradients"),
    ],
)
def test_refused(net, x, arguments, says):
    pytest.importorskip("pytorch_grad_cam")
    with pytest.raises(fv.FeatvizError, match=says) as error:
        fv.cam(net, **{"image": x, **arguments})
    assert "\n" not in str(error.value)


def test_who_lacks_the_extra_is_told_what_to_install(net, x, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(fv.FeatvizError, match=r"needs the grad-cam package: pip install 'yolov5-featviz\[cam\]'"):
        fv.cam(net, x, "layer4", method="grad-cam")
    for method in ("layer-cam", "eigen-cam"):
        assert len(fv.cam(net, x, "layer4", method=method)) == 1


class Strided(nn.Module):
    """Two convolutions, of ones; the second one's stride is 2. Activations are the same everywhere."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 1, 1, bias=False), nn.Conv2d(1, 1, 3, 2, 1, bias=False)
        for parameter in self.parameters():
            nn.init.ones_(parameter)

    def forward(self, x):
        return self.b(self.a(x)).mean((2, 3))


def test_a_checkerboard_is_said_and_smoothed_only_by_name():
    pytest.importorskip("pytorch_grad_cam")
    image = torch.ones(1, 3, 32, 48)
    (heat,) = fv.cam(Strided(), image, "a", 0)
    taps = np.zeros((32, 48))
    for row in range(0, 32, 2):
        for column in range(0, 48, 2):
            taps[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] += 1
    np.testing.assert_allclose(heat.values, taps / 4, atol=1e-6)
    shares = [taps[i::2, j::2].sum() / taps.sum() for i in (0, 1) for j in (0, 1)]
    np.testing.assert_allclose(heat.about["parity"], shares, rtol=1e-5)
    assert f" · checkerboard: {max(shares):.0%} of the energy on one cell in four · " in heat.title
    assert "smooth" not in heat.about and "smoothed" not in heat.title
    (smooth,) = fv.cam(Strided(), image, "a", 0, smooth=True)
    kernel = np.float64([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    expected = cv2.filter2D(taps, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(smooth.values, expected / expected.max(), atol=1e-6)
    assert " · smoothed 3×3 · " in smooth.title and "checkerboard" not in smooth.title
    assert smooth.about["smooth"] is True and np.ptp(smooth.about["parity"]) < 0.02
    (last,) = fv.cam(Strided(), image, "b", 0)
    assert "checkerboard" not in last.title


@pytest.mark.parametrize("method", ["layer-cam", "eigen-cam"])
def test_smoothing_comes_before_scaling(net, x, method):
    pytest.importorskip("pytorch_grad_cam")
    raw, smooth = (fv.cam(net, x, "layer2,layer3", method=method, smooth=smooth) for smooth in (False, True))
    kernel = np.float32([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    for one, other in zip(raw, smooth):
        expected = cv2.filter2D(one.feature_map.data[0].numpy(), -1, kernel, borderType=cv2.BORDER_REPLICATE)
        np.testing.assert_allclose(other.feature_map.data[0], expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
        np.testing.assert_allclose(other.values, np.maximum(expected, 0) / expected.max(), atol=1e-5)
    (merged,) = fv.cam(net, x, "layer2,layer3", method=method, merge=True, smooth=True)
    mean = smooth[0].values + aligned(smooth[1].values, smooth[1].feature_map, (64, 96), smooth[0].values.shape)
    np.testing.assert_allclose(merged.values, mean / mean.max(), atol=1e-5)
    assert "smoothed 3×3" in merged.title and merged.about["smooth"] is True


def test_ends_of_the_scale():
    pytest.importorskip("pytorch_grad_cam")
    (up,) = fv.cam(Strided(), torch.ones(1, 3, 8, 8), "a", lambda output: output[0, 0])
    (down,) = fv.cam(Strided(), torch.ones(1, 3, 8, 8), "a", lambda output: -output[0, 0])
    assert up.legend == ("0", "max", "") and up.values.max() == 1
    assert down.legend == ("all values ≤ 0", "", "") and not down.values.any()


def test_a_layer_that_does_not_feed_the_score(x):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            self.b(x)
            return self.a(x).mean((2, 3))

    pytest.importorskip("pytorch_grad_cam")
    with pytest.raises(fv.FeatvizError, match=r"layer b \(Conv2d\) does not feed class 1"):
        fv.cam(Two(), x, "b", 1)
    assert len(fv.cam(Two(), x, "all", 1)) == 1


# --- detections -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def persons(model, bus):
    """Boxes of the persons in the network's input, by YOLOv5's own code."""
    from yolov5.utils.general import non_max_suppression

    with torch.no_grad():
        found = non_max_suppression(model(bus)[0])[0]
    return found[found[:, 5] == 0]


def share(heat, boxes):
    """How much of the heat lies in the boxes, and how much of the area."""
    inside = np.zeros((640, 480), bool)
    for left, top, right, bottom in boxes[:, :4].round().int().clamp(min=0).tolist():
        inside[top:bottom, left:right] = True
    spread = aligned(heat.values, heat.feature_map, (640, 480), (640, 480))
    return spread[inside].sum() / spread.sum(), inside.mean()


@pytest.mark.parametrize(
    ("method", "layers", "merge", "least"),
    [
        ("layer-cam", "9", False, 0.85),
        ("layer-cam", "17", False, 0.9),
        ("layer-cam", "23", False, 0.95),
        ("layer-cam", "17,20,23", True, 0.9),
        ("grad-cam", "20", False, 0.55),
        ("grad-cam", "17,20,23", True, 0.5),
    ],
)
def test_the_heat_of_persons_lies_in_the_persons(model, bus, persons, method, layers, merge, least):
    pytest.importorskip("pytorch_grad_cam")
    (heat,) = fv.cam(model, bus, layers, "person", method, merge)
    heat_share, area = share(heat, persons)
    assert len(persons) == 4 and area < 0.3
    assert heat_share > least, f"{heat_share:.2f} of the heat lies in the boxes, which cover {area:.2f} of the image"
    assert "of 4 × person · each scaled to its maximum · " in heat.title


def test_the_heat_of_one_person_lies_in_that_person(model, bus, persons):
    pytest.importorskip("pytorch_grad_cam")
    for rank, person in enumerate(persons):
        (heat,) = fv.cam(model, bus, 17, f"person:{rank}")
        inside, area = share(heat, person[None])
        assert inside > 0.75 > 6 * area, (rank, inside, area)
        assert f"of person {person[4]:.2f}" in heat.title
        for box in (person[:4].tolist(), person[:4], person[:4].numpy()):
            (same,) = fv.cam(model, bus, 17, box)
            np.testing.assert_array_equal(heat.values, same.values)


def test_scores_of_detections(model, bus):
    """The sum of the logits of objectness and class of each, by the confidences of YOLOv5's own suppression."""
    from yolov5.utils.general import non_max_suppression

    with torch.no_grad(), watching(model) as rows:
        output = model(bus)
        detections = rows(output, DEFAULTS)
        found = non_max_suppression(output[0])[0]
    objects, classes = output[0][0, :, 4], output[0][0, :, 5:]
    expected = []
    for *_, confidence, kind in found.tolist():
        i = int((objects * classes[:, int(kind)] - confidence).abs().argmin())
        expected.append(torch.logit(objects[i]).item() + torch.logit(classes[i, int(kind)]).item())
    assert len(expected) == 5
    assert [float(detections.why(i)) for i in range(len(detections))] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("persn", "no class 'persn': did you mean person?"),
        ("dog", r"no class 'dog': there are person \(0\), bus \(1\)"),
        (6, "no class '6'"),
        ("tie", "no tie was detected; found: 4 × person, 1 × bus"),
        ("person:4", "no person number 4 was detected"),
        ("person:x", "'person:x' is not understood"),
        ((0, 0, 20, 20), "no detection at 0, 0, 20, 20: found: 4 × person"),
        ("bus@0,0,20", "target 'bus@0,0,20' is not understood"),
        ("bus@9000,0,9999,999", "no candidate overlaps 9000,0,9999,999 by half"),
    ],
)
def test_targets_refused(model, bus, target, says):
    pytest.importorskip("pytorch_grad_cam")
    with pytest.raises(fv.FeatvizError, match=says) as error:
        fv.cam(model, bus, 17, target)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["layer-cam", "grad-cam"])
def test_one_detection_by_autograd(model, bus, method):
    """The score, its gradient and the formula, written out: the most confident box of any class."""
    pytest.importorskip("pytorch_grad_cam")
    kept = []
    handle = model.model[17].register_forward_hook(lambda module, given, out: kept.append(out) or out.clone())
    with torch.enable_grad():
        decoded, raw = model(bus.clone().requires_grad_(True))[:2]
        logits = torch.cat([one.reshape(-1, one.shape[-1]) for one in raw])
        row = int((decoded[0, :, 4] * decoded[0, :, 5:].max(1).values).argmax())
        (gradient,) = torch.autograd.grad(logits[row, 4] + logits[row, 5:].max(), kept)
    handle.remove()
    a, g = kept[0][0].detach().double(), gradient[0].double()
    expected = (g.clamp(min=0) * a).sum(0) if method == "layer-cam" else (g.mean((1, 2))[:, None, None] * a).sum(0)
    (heat,) = fv.cam(model, bus, 17, ":0", method)
    atol = 1e-6 * float(expected.abs().max())
    np.testing.assert_allclose(heat.feature_map.data[0].double(), expected, rtol=1e-6, atol=atol)
    np.testing.assert_allclose(heat.values, expected.clamp(min=0) / expected.max(), atol=1e-6)
    assert "scaled" not in heat.title


@pytest.mark.parametrize("method", ["layer-cam", "grad-cam", "grad-cam++"])
@pytest.mark.parametrize("smooth", [False, True])
def test_several_detections_are_explained_one_by_one(model, bus, method, smooth):
    pytest.importorskip("pytorch_grad_cam")
    passes = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    together = fv.cam(model, bus, "9,17,23", None, method, smooth=smooth)
    handle.remove()
    assert len(passes) == 1
    alone = [fv.cam(model, bus, "9,17,23", f":{rank}", method, smooth=smooth) for rank in range(5)]
    for layer, heat in enumerate(together):
        raw = [one[layer].feature_map.data[0].numpy() for one in alone]
        lit = [one for one in raw if one.max() > 0]
        scaled = [np.maximum(one, 0) / one.max() for one in lit]
        np.testing.assert_allclose(heat.values, np.max(scaled, axis=0), atol=1e-6)
        np.testing.assert_allclose(heat.feature_map.data[0], np.max(scaled, axis=0), atol=1e-6)
        assert all(heat.values.flat[one.argmax()] == pytest.approx(1) for one in lit)
        assert " of 4 × person, 1 × bus · each scaled to its maximum" in heat.title
        assert heat.about["shows"] in heat.title and heat.about["scale"] == [0, 1]
    left_out = "1 of 5 without a positive value"  # layer 23 does not feed the detection on the finest map
    assert [left_out in heat.title for heat in together] == [False, False, True]
    (merged,) = fv.cam(model, bus, "9,17,23", None, method, merge=True, smooth=smooth)
    shape = together[1].values.shape
    mean = sum(aligned(heat.values, heat.feature_map, (640, 480), shape) for heat in together)
    np.testing.assert_allclose(merged.values, mean / mean.max(), atol=1e-5)
    assert left_out not in merged.title and "each scaled to its maximum" in merged.title


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("target", [None, "person", "bus"])
def test_it_combines_the_explanations_of_single_detections(model, bus, target, merge):
    """The values of the layers and the titles, but for the remark on a single map."""
    alone = explain_input(model, bus, target, layers="9,17", merge=False, smooth=True)
    assert [one.layers for one in alone] == [("9",)] * (len(alone) // 2) + [("17",)] * (len(alone) // 2)
    assert [one.score for one in alone[: len(alone) // 2]] == [one.score for one in alone[len(alone) // 2 :]]
    expected = overviews(alone, merge)
    heats = fv.cam(model, bus, "9,17", target, merge=merge, smooth=True)
    assert [heat.title for heat in heats] == [heat.title for heat in expected] and len(heats) == 2 - merge
    for heat, other in zip(heats, expected):
        np.testing.assert_array_equal(heat.values, other.values)
        assert heat.about == other.about and "smoothed 3×3" in heat.title
        assert len(other.feature_map.boxes) == len(alone) // 2


def test_classes_by_number(model, bus):
    for number in (1, "1", np.int64(1)):
        (heat,) = fv.cam(model, bus, 17, number)
        assert "Layer-CAM of bus 0." in heat.title
    with pytest.raises(fv.FeatvizError, match="no explanations to combine"):
        overviews([])


def test_thresholds_and_places(model, bus, persons):
    (heat,) = fv.cam(model, bus, 17, conf=float(persons[1, 4]))
    assert f"Layer-CAM of person {persons[0, 4]:.2f} · " in heat.title
    place = persons[1, :4].tolist()
    words = ",".join(str(edge) for edge in place)
    detected, missed = (fv.cam(model, bus, 17, f"person@{words}", conf=conf)[0] for conf in (0.25, 0.95))
    np.testing.assert_array_equal(detected.values, missed.values)
    score = f"{persons[1, 4]:.2f}"
    assert f"of person {score} · " in detected.title
    assert f"of person {score}, not detected: best candidate {score}, below 0.95 · " in missed.title
    doubled = ",".join(str(edge * 2) for edge in place)  # in pixels of an image of twice the size
    (same,) = fv.cam(model, bus, 17, f"@{doubled}", size=(1280, 960))
    np.testing.assert_array_equal(same.values, detected.values)


def test_a_class_of_ultralytics_detector(images):
    ultralytics = pytest.importorskip("ultralytics")
    torch.manual_seed(0)
    model = ultralytics.YOLO("yolov8n.yaml").model.eval()
    x = torch.rand(1, 3, 96, 128)
    kept = []
    handle = model.model[9].register_forward_hook(lambda module, given, out: kept.append(out) or out.clone())
    with torch.enable_grad():
        output = model(x.clone().requires_grad_(True))[0]
        scores = output[0, 4:]
        kind, row = divmod(int(scores.argmax()), scores.shape[1])
        (gradient,) = torch.autograd.grad(torch.logit(scores[kind, row]), kept)
    handle.remove()
    expected = (gradient[0].clamp(min=0) * kept[0][0].detach()).sum(0)
    (heat,) = fv.cam(model, x, 9, f"{model.names[kind]}:0", conf=0.0)
    np.testing.assert_allclose(heat.feature_map.data[0], expected, rtol=1e-3, atol=1e-5 * expected.abs().max())
    assert f"Layer-CAM of {model.names[kind]} " in heat.title


def test_a_class_of_torchvisions_detector():
    """The map is that of the log odds of one anchor, and lies in what the model has resized and padded."""
    torch.manual_seed(0)
    build = torchvision.models.detection.retinanet_resnet50_fpn
    known = {"weights": None, "weights_backbone": None}
    known = known if "weights" in inspect.signature(build).parameters else {"pretrained_backbone": False}
    model = build(**known, score_thresh=0.0, detections_per_img=3, min_size=96, max_size=160).eval()
    x = torch.rand(1, 3, 90, 120)
    with torch.no_grad():
        found = model(x)[0]
    kind = int(found["labels"][0])
    (heat,) = fv.cam(model, x, "backbone.body.layer2", f"{kind}:0")
    assert f"Layer-CAM of class {kind} {float(found['scores'][0]):.2f}" in heat.title
    assert heat.feature_map.input_size == (96, 128) and heat.feature_map.region == (0, 0, 128, 96)
    kept = []
    handle = model.backbone.body.layer2.register_forward_hook(
        lambda module, given, out: kept.append(out) or out.clone()
    )
    heads = []
    other = model.head.register_forward_hook(lambda module, given, out: heads.append(out["cls_logits"]))
    with torch.enable_grad():
        model(x.clone().requires_grad_(True))
        logits = heads[0][0]
        row = int((logits[:, kind].sigmoid() - found["scores"][0]).abs().argmin())
        (gradient,) = torch.autograd.grad(logits[row, kind], kept)
    handle.remove()
    other.remove()
    expected = (gradient[0].clamp(min=0) * kept[0][0].detach()).sum(0)
    np.testing.assert_allclose(heat.feature_map.data[0], expected, rtol=1e-3, atol=1e-5 * expected.abs().max())


def test_a_classifier_with_names(net, x):
    net.names = dict(enumerate("abcde"))
    try:
        (heat,) = fv.cam(net, x, "layer4", "c")
        np.testing.assert_array_equal(heat.values, fv.cam(net, x, "layer4", 2)[0].values)
        assert "Layer-CAM of c · " in heat.title
        with pytest.raises(fv.FeatvizError, match=r"no class 'f': there are a \(0\)"):
            fv.cam(net, x, "layer4", "f")
    finally:
        del net.names


def test_checkerboards_of_the_detector(model, bus):
    """Layers 17 and 20 feed strided convolutions, 9 and 13 do not; activations have none."""
    pytest.importorskip("pytorch_grad_cam")
    for layer, expected in ((9, False), (13, False), (17, True), (20, True)):
        (heat,) = fv.cam(model, bus, layer)
        (smooth,) = fv.cam(model, bus, layer, smooth=True)
        assert ("checkerboard" in heat.title) is expected, (layer, heat.about["parity"])
        assert "checkerboard" not in smooth.title
        assert (max(heat.about["parity"]) > 0.35) is expected
    with fv.capture(model, "17,20") as features, torch.no_grad():
        model(bus)
    assert not any(is_checkerboard(features[layer].heatmap().values) for layer in (17, 20))


def test_a_model_made_in_inference_mode(model, bus):
    pytest.importorskip("pytorch_grad_cam")
    if not hasattr(torch, "inference_mode"):
        pytest.skip("this torch has no inference mode")
    (expected,) = fv.cam(model, bus, 17, "person")
    with torch.inference_mode():
        made = fv.load(WEIGHTS)
        made(bus)
        (heat,) = fv.cam(made, bus.clone(), 17, "person")
    np.testing.assert_allclose(heat.values, expected.values, atol=1e-5)


@pytest.mark.slow
def test_from_the_command_line(tmp_path, images, model):
    """One picture per image in which there is such a thing; detections are those without us."""
    pytest.importorskip("pytorch_grad_cam")
    words = ["--weights", WEIGHTS, "--source", images, "--save-txt", "--save-conf"]
    look = [
        "--visualize-layers",
        "17,20",
        "--visualize-mode",
        "cam",
        "--visualize-plain",
    ]
    run(*words, "--name", "plain", cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})
    done = run(*words, "--name", "cam", *look, "--visualize-target", "bus", cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})
    made = files_below(tmp_path / "runs" / "detect" / "cam")
    assert [name for name in made if "stage" in name] == [f"bus/stage{i}_C3_cam.png" for i in (17, 20)]
    assert "zidane: no bus was detected; found: 2 × person" in done.stderr and not any(
        "zidane/" in name for name in made
    )
    for name in ("bus", "zidane"):
        labels = [
            (tmp_path / "runs" / "detect" / run / "labels" / f"{name}.txt").read_bytes() for run in ("plain", "cam")
        ]
        assert labels[0] == labels[1]
    with Image.open(tmp_path / "runs" / "detect" / "cam" / "bus" / "stage17_C3_cam.png") as file:
        assert file.size == (810, 1080)
    bad = run(*words, *look, "--visualize-target", "buss", "--name", "bad", cwd=tmp_path, check=2)
    assert "no class 'buss': did you mean bus?" in bad.stderr and not (tmp_path / "runs" / "detect" / "bad").exists()
