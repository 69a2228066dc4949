"""Explanations of detections, one by one: of YOLOv5's checkpoint, of Ultralytics and of torchvision."""

import numpy as np
import pytest
import torch
import torchvision
from helpers import WEIGHTS
from PIL import Image

import yolov5_featviz as fv
from yolov5_featviz.attribution.explain import explain_input
from yolov5_featviz.models.detections import Candidates, Detections, Thresholds, watching


@pytest.fixture(scope="module")
def predictor():
    return fv.Predictor(WEIGHTS)


@pytest.mark.parametrize("name", ["bus", "zidane"])
def test_each_detection_has_its_own_map(predictor, images, name):
    image = images / f"{name}.jpg"
    found = fv.explain(predictor, image)
    seen = predictor(image, "9")
    height, width = seen.pixels.shape[:2]
    boxes = seen.boxes.mapped(seen.region, (height, width))
    assert [(one.label, round(one.score, 4)) for one in found] == [
        (label, round(float(score), 4)) for label, score in zip(boxes.labels, boxes.scores)
    ]
    for one, box in zip(found, boxes.xyxy):
        np.testing.assert_allclose(one.box, np.clip(box, 0, [width, height] * 2), atol=2e-3)
        assert one.map.shape == (height, width) and one.map.dtype == np.float32
        assert one.map.min() >= 0 and one.map.max() <= 1 and one.heat.values.max() == pytest.approx(1, abs=1e-6)
        assert (one.method, one.layers) == ("layer-cam", ("9",))  # the end of the backbone
        np.testing.assert_array_equal(np.asarray(one), one.map)
        x0, y0, x1, y1 = np.rint(one.box).astype(int).clip(0)
        inside = one.map[y0:y1, x0:x1].sum() / one.map.sum()
        assert inside > (x1 - x0) * (y1 - y0) / one.map.size  # more than a level map would have


@pytest.mark.parametrize("method", ["layer-cam", "grad-cam", "grad-cam++", "odam", "ss-grad-cam++"])
def test_a_map_is_that_of_cam_for_one_target(predictor, images, method):
    if method in ("grad-cam", "grad-cam++"):
        pytest.importorskip("pytorch_grad_cam")
    image = images / "bus.jpg"
    for target in ("person:1", "bus:0"):
        (one,) = fv.explain(predictor, image, target, method, 17)
        expected = predictor.cam(image, 17, target, method)
        np.testing.assert_allclose(one.heat.values, expected.values, atol=1e-5)
        assert one.label == target.split(":")[0] and one.label in one.heat.title


def test_the_map_of_a_predictor_is_of_the_detections_at_its_thresholds(predictor, images):
    image = images / "bus.jpg"
    for limits in ({"conf": 0.9}, {"conf": 0.02}, {"conf": 0.02, "iou": 0.8}):
        labels = predictor(image, **limits).boxes.labels
        counts = ", ".join(f"{labels.count(label)} × {label}" for label in dict.fromkeys(labels))
        assert f"Layer-CAM of {counts} · each scaled to its maximum" in predictor.cam(image, 17, **limits).title
    with pytest.raises(fv.FeatvizError, match=r"nothing was detected above 0\.99"):
        predictor.cam(image, 17, conf=0.99)


def test_targets(predictor, images):
    image = images / "bus.jpg"
    every = fv.explain(predictor, image)
    labels = [one.label for one in every]
    assert sorted(labels) == ["bus", "person", "person", "person", "person"]
    assert [one.score for one in fv.explain(predictor, image, "person")] == [
        one.score for one in every if one.label == "person"
    ]
    assert [one.score for one in fv.explain(predictor, image, "0:3")] == [every[labels.index("person", 3)].score]
    assert [one.score for one in fv.explain(predictor, image, [2, 0])] == [every[2].score, every[0].score]
    assert len(fv.explain(predictor, image, conf=0.9)) == sum(one.score > 0.9 for one in every)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target": "dog"}, "no class 'dog': there are person .0., bus"),
        ({"target": "cup"}, "no cup was detected; found: 4 × person, 1 × bus"),
        ({"target": "person:9"}, "no person number 9 was detected"),
        ({"target": "bus@1,2,3"}, "target 'bus@1,2,3' is not understood: take person"),
        ({"target": "bus@9,2,3,4"}, "target 'bus@9,2,3,4' is empty: give left"),
        ({"target": "missed"}, "target 'missed' needs labels, and none are known"),
        ({"target": "person:x"}, "target 'person:x' is not understood"),
        ({"target": [7]}, "no detection 7: there are 0 to 4"),
        ({"conf": 0.999}, "nothing was detected"),
        ({"method": "d-rise", "layers": 9}, "d-rise looks at the input alone: leave layers 9 out"),
        ({"labels": "nowhere"}, "no folder nowhere"),
        ({"method": "cam"}, "no method 'cam'"),
        ({"layers": "99"}, "99"),
    ],
)
def test_what_cannot_be_explained_is_told_in_one_line(predictor, images, options, says):
    with pytest.raises(fv.FeatvizError, match=says) as error:
        fv.explain(predictor, images / "bus.jpg", **options)
    assert "\n" not in str(error.value)


def test_layers_are_merged_and_the_picture_has_the_box(predictor, images):
    image = images / "zidane.jpg"
    (tie,) = fv.explain(predictor, image, "tie", layers="9,17,20")
    assert tie.layers == ("9", "17", "20") and repr(tie) == "<Explanation tie 0.89: layer-cam of layer 9, 17, 20>"
    parts = [fv.explain(predictor, image, "tie", layers=layer)[0].heat for layer in (9, 17, 20)]
    size = max(part.values.shape for part in parts)
    mean = np.mean([_resized(part.values, size) for part in parts], 0)
    np.testing.assert_allclose(tie.heat.values, mean / mean.max(), atol=1e-5)
    picture = tie.over(image)
    assert any("tie 0.89" in text.text for text in picture.texts)
    assert not any("tie 0.89" in text.text for text in tie.over(image, boxes=False).texts if "Layer" not in text.text)


def _resized(values, size):
    from yolov5_featviz.arrays.resample import resample

    return resample(values, size)


def test_the_model_and_its_detections_are_not_changed(predictor, images):
    before = predictor(images / "bus.jpg").boxes
    state = {name: tensor.clone() for name, tensor in predictor.model.state_dict().items()}
    fv.explain(predictor, images / "bus.jpg", layers="9,17")
    after = predictor(images / "bus.jpg").boxes
    np.testing.assert_array_equal(before.xyxy, after.xyxy)
    np.testing.assert_array_equal(before.scores, after.scores)
    assert all(torch.equal(tensor, state[name]) for name, tensor in predictor.model.state_dict().items())
    assert all(parameter.grad is None for parameter in predictor.model.parameters())


def test_ultralytics(images):
    ultralytics = pytest.importorskip("ultralytics")
    torch.manual_seed(0)
    model = ultralytics.YOLO("yolo11n.yaml")
    with Image.open(images / "bus.jpg") as file:
        pixels = np.asarray(file.convert("RGB"))
    found = fv.explain(model, pixels, [0], imgsz=160, conf=0.0, layers="9")
    assert len(found) == 1 and found[0].map.shape == pixels.shape[:2]
    assert found[0].heat.values.max() == pytest.approx(1, abs=1e-6) or not found[0].heat.values.any()


def retinanet(**options):
    """Random weights, in the words of old and new torchvision."""
    build = torchvision.models.detection.retinanet_resnet50_fpn
    try:
        return build(weights=None, weights_backbone=None, score_thresh=0.0, **options).eval()
    except TypeError:
        return build(pretrained=False, pretrained_backbone=False, score_thresh=0.0, **options).eval()


def test_torchvision():
    torch.manual_seed(0)
    model = retinanet(detections_per_img=2)
    x = torch.rand(1, 3, 128, 160)
    found = fv.explain(model, x, layers="backbone.body.layer3")
    assert len(found) == 2 and found[0].map.shape == (128, 160)
    assert found[0].label.startswith("class ") and found[0].layers == ("backbone.body.layer3",)
    assert fv.explain(model, x, [0])[0].layers == ("backbone.body.layer4",)  # not the feature pyramid


def test_a_map_lies_on_the_image_that_the_model_resized_and_padded():
    """The transform makes 240 x 333 of 120 x 167, in an input of 256 x 352; the heat is undone to the image."""
    torch.manual_seed(0)
    model = retinanet(detections_per_img=1, min_size=240, max_size=400)
    x = torch.rand(1, 3, 120, 167)
    (one,) = fv.explain(model, x, layers="backbone.body.layer2")
    fm = one.heat.feature_map
    height, width = model.transform([x[0]])[0].image_sizes[0]
    assert fm.input_size == (256, 352) and fm.region == (0, 0, width, height)
    assert fm.size == (32, 44) and one.map.shape == (120, 167)
    np.testing.assert_allclose(fm.boxes.xyxy[0], np.multiply(one.box, [width / 167, height / 120] * 2), rtol=1e-4)
    rows = ((np.arange(120) + 0.5) * height / 120 / 8).astype(int)
    columns = ((np.arange(167) + 0.5) * width / 167 / 8).astype(int)
    nearest = one.heat.values[np.ix_(rows, columns)]
    assert np.corrcoef(nearest.ravel(), one.map.ravel())[0, 1] > 0.8


def test_any_detector_with_a_function_to_its_rows():
    """The score of its one object is the mean of one channel in a corner, so the map lies there."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = torch.nn.Conv2d(3, 2, 1, bias=False)
            self.features.weight.data.fill_(1.0)

        def forward(self, x):
            return self.features(x)

    def find(output):
        logit = output[0, 1, :4, :4].mean()
        boxes, scores = torch.tensor([[0.0, 0, 4, 4]]), logit.detach().sigmoid().reshape(1, 1)
        candidates = Candidates(boxes, scores, lambda row, kind: logit)
        return Detections(boxes, scores[0], torch.tensor([0]), {0: "corner"}, torch.tensor([0]), candidates)

    (one,) = fv.explain(Net().eval(), torch.rand(1, 3, 16, 16), layers="features", find=find)
    assert one.label == "corner" and one.map[:4, :4].sum() > 0.99 * one.map.sum()
    with pytest.raises(fv.FeatvizError, match="Net is of no known family of detectors: give as rows a function"):
        fv.explain(Net().eval(), torch.rand(1, 3, 16, 16), layers="features")
    with pytest.raises(fv.FeatvizError, match="no backbone is known in Net: give layers, such as one of features"):
        fv.explain(Net().eval(), torch.rand(1, 3, 16, 16), find=find)


def detected(model, x, conf):
    """The model's own detections, as a script has them: not cut to the image."""
    with watching(model) as found, torch.no_grad():
        one = found(model(x), Thresholds(conf, 0.45))
    return fv.Boxes(one.boxes.numpy(), one.scores.numpy(), (), one.classes.numpy())


def moved(boxes, by):
    return fv.Boxes(boxes.xyxy + by, boxes.scores, boxes.labels, boxes.classes)


def test_detections_that_were_made_elsewhere(model, bus):
    """With other thresholds; those that are no candidates are an error, or left out and counted."""
    every, found = explain_input(model, bus, conf=0.02, layers=17), detected(model, bus, 0.02)
    same = explain_input(model, bus, layers=17, found=found)
    assert [one.caption for one in same] == [one.caption for one in every] and len(every) > 5
    for one, other in zip(same, every):
        np.testing.assert_array_equal(one.map, other.map)
    strange = fv.Boxes(found.xyxy, found.scores, (), np.where(found.classes == 1, 99, found.classes))
    count = int((found.classes == 1).sum())
    lost = []
    rest = explain_input(model, bus, layers=17, found=strange, lost=lost.append)
    assert lost == [count] and count > 0
    assert [one.caption for one in rest] == [one.caption for one in every if one.label != "bus"]
    with pytest.raises(fv.FeatvizError, match=f"none of the {len(every)} detections is a candidate"):
        explain_input(model, bus, layers=17, found=moved(found, 5), lost=lost.append)
    assert lost == [count, len(every)]
    with pytest.raises(fv.FeatvizError, match="is none of the candidates"):
        explain_input(model, bus, layers=17, found=moved(found, 5))


def test_a_detection_that_was_left_out_elsewhere(model, bus):
    every = explain_input(model, bus, layers=17)
    i = [one.label for one in every].index("bus")
    found = detected(model, bus, 0.25).take([n for n in range(len(every)) if n != i])
    place = "@" + ",".join(str(edge) for edge in every[i].box)
    (one,) = explain_input(model, bus, place, layers=17, found=found)
    assert one.caption == f"bus {every[i].score:.2f}, not detected: best candidate {every[i].score:.2f}, " + (
        "left out by the script"
    )
    np.testing.assert_array_equal(one.map, every[i].map)


@pytest.mark.parametrize("method", ["layer-cam", "eigen-cam", "ablation"])
def test_layers_apart_and_smoothed(model, bus, method):
    """By layer, then by detection; the map is smoothed before it is scaled."""
    x = bus[:, :, 160:480:2, 96:416:2]
    how = {"method": method, "target": [0, 1], "conf": 0.02}
    apart = explain_input(model, x, layers="4,9", merge=False, smooth=True, **how)
    assert [(one.layers, one.score) for one in apart] == [
        (layer, score) for layer in (("4",), ("9",)) for score in [one.score for one in apart[:2]]
    ]
    for layer, pair in ((4, apart[:2]), (9, apart[2:])):
        for one, raw in zip(pair, explain_input(model, x, layers=layer, **how)):
            values = raw.heat.feature_map.data[0].numpy()
            padded = np.pad(values, 1, mode="edge")
            rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
            expected = ((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16).clip(min=0)
            np.testing.assert_allclose(one.heat.values, expected / max(expected.max(), 1e-30), atol=1e-5)
            assert " · smoothed 3×3 · " in one.heat.title and one.heat.about["smooth"] is True
            assert "smooth" not in raw.heat.title


def test_smoothing_is_not_for_masks(model, bus):
    with pytest.raises(fv.FeatvizError, match="d-rise has no checkerboard to smooth: leave smooth out"):
        explain_input(model, bus, method="d-rise", smooth=True)


def test_layers_apart_that_do_not_feed_the_detections():
    """One of two objects is from ``a``, the other from ``b``; nothing is from ``c``."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Conv2d(3, 1, 1, bias=False) for _ in range(3))
            for one in self.children():
                one.weight.data.fill_(1.0)

        def forward(self, x):
            self.c(x)
            return self.a(x)[..., :4].mean(), self.b(x)[..., 4:].mean()

    def find(output):
        boxes, scores = torch.tensor([[0.0, 0, 4, 8], [4, 0, 8, 8]]), torch.tensor([[0.9], [0.8]])
        candidates = Candidates(boxes, scores, lambda row, kind: output[row])
        return Detections(boxes, scores[:, 0], torch.tensor([0, 0]), {0: "it"}, torch.tensor([0, 1]), candidates)

    how = {"find": find, "merge": False}
    model, x = Net().eval(), torch.ones(1, 3, 8, 8)
    found = explain_input(model, x, layers="a,b", **how)
    assert [(one.layers, one.score > 0.85, float(one.map.sum())) for one in found] == [
        (("a",), True, 32),
        (("a",), False, 0),
        (("b",), True, 0),
        (("b",), False, 32),
    ]
    assert [one.layers for one in explain_input(model, x, layers="all", **how)] == [one.layers for one in found]
    assert [one.layers for one in explain_input(model, x, layers="a,b", find=find)] == [("a",), ("b",)]
    for merge in (False, True):
        with pytest.raises(fv.FeatvizError, match=r"layer c does not feed it 0\.90: take a layer that comes before"):
            explain_input(model, x, layers="c", find=find, merge=merge)
    with pytest.raises(fv.FeatvizError, match=r"none of the layers feeds it 0\.90"):
        explain_input(model, x, layers="c*", **how)
