"""Detections of YOLOv5, its line and Ultralytics: against their own suppression and raw outputs."""

import ast
import os
import time

import cv2
import numpy as np
import pytest
import torch
import torchvision
from releases import RELEASES, WHEELS
from torch import nn

from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import Thresholds, family_of, watching
from yolov5_featviz.yolov5.detections import ULTRALYTICS, YOLOV5

NECK = (9, 13, 17, 20, 23)


def detect(model, image, *limits):
    """Outputs of layers by number, the model's output, and detections at each limit."""
    kept = {}
    handles = [
        layer.register_forward_hook(lambda m, a, out, i=i: kept.__setitem__(i, out))
        for i, layer in enumerate(model.model[:-1])
    ]
    with watching(model) as found:
        output = model(image.clone().requires_grad_(True))
    for handle in handles:
        handle.remove()
    return kept, output, [found(output, Thresholds(*limit)) for limit in limits]


def state(model):
    tensors = {key: value.clone() for key, value in model.state_dict().items()}
    modules = list(model.modules())
    counts = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules]
    grads = [(p.requires_grad, p.grad is None) for p in model.parameters()]
    return tensors, counts, grads, [sorted(vars(m)) for m in modules]


def same_state(a, b):
    return all(torch.equal(a[0][key], b[0][key]) for key in a[0]) and a[0].keys() == b[0].keys() and a[1:] == b[1:]


def same(found, boxes, scores, classes):
    """Boxes to 1e-3 pixel, scores to 1e-5, classes and order."""
    assert len(found) == len(boxes) > 0
    assert torch.allclose(found.boxes, boxes.detach().float(), rtol=0, atol=1e-3)
    assert torch.allclose(found.scores, scores.detach().float(), rtol=0, atol=1e-5)
    assert torch.equal(found.classes, classes.long())
    candidates, k = found.candidates, torch.arange(len(found))
    assert torch.allclose(candidates.boxes[found.rows], found.boxes, rtol=0, atol=1e-3)
    assert torch.allclose(candidates.scores[found.rows, found.classes], found.scores, rtol=0, atol=1e-5)
    for i in k[:3].tolist():
        assert float(found.why(i).detach().sigmoid()) >= float(found.scores[i]) - 1e-5  # alone, or with objectness


def gradients(score, tensors):
    found = torch.autograd.grad(score, tensors, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(found, tensors)]


# --- YOLOv5 ---


def suppression_of(folder):
    """A release's own function, without importing the release."""
    tree = ast.parse((folder / "utils" / "general.py").read_text(encoding="utf-8"))
    wanted = [f for f in tree.body if getattr(f, "name", "") in ("non_max_suppression", "xywh2xyxy", "box_iou")]
    scope = {"torch": torch, "torchvision": torchvision, "np": np, "time": time}
    exec(compile(ast.Module(wanted, []), str(folder), "exec"), scope)
    return scope["non_max_suppression"]


@pytest.fixture(scope="module")
def zidane(images):
    image = cv2.resize(cv2.imread(str(images / "zidane.jpg")), (640, 360))
    image = cv2.copyMakeBorder(image, 12, 12, 0, 0, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    return torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))[None]).float() / 255


@pytest.mark.parametrize("name", ["bus", "zidane"])
def test_rows_are_those_of_every_release(model, yolov5, name, request):
    image, limits = request.getfixturevalue(name), [(0.25, 0.45, 1000), (0.001, 0.6, 300)]
    with torch.no_grad():
        alone = model(image)[0]
    _, output, found = detect(model, image, *limits)
    assert torch.equal(output[0], alone)
    assert family_of(model) is YOLOV5 and not ULTRALYTICS.matches(model)
    assert len(found[1]) > 20 > len(found[0]) and len(found[0].candidates) == alone.shape[1]
    folders = [yolov5, *(WHEELS / release / "yolov5" for release in RELEASES[1:])]  # v4.0 has a row for each label
    for folder in filter(lambda folder: folder.is_dir(), folders):
        for (conf, iou, most), one in zip(limits, found):
            rows = suppression_of(folder)(alone.clone(), conf, iou)[0][:most]
            same(one, rows[:, :4], rows[:, 4], rows[:, 5])


def test_gradients_are_those_of_the_logits(model, bus):
    """Of the sum of the logits of objectness and class, in the raw levels."""
    before = state(model)
    kept, output, (found,) = detect(model, bus, (0.25, 0.45))
    logits = torch.cat([level.reshape(-1, level.shape[-1]) for level in output[1]])
    layers = [kept[i] for i in NECK]
    assert len(found) > 2
    for i, (row, kind) in enumerate(zip(found.rows.tolist(), found.classes.tolist())):
        score = logits[row, 4] + logits[row, 5 + kind]
        ours, theirs = gradients(found.why(i), layers), gradients(score, layers)
        assert float(found.why(i).detach()) == pytest.approx(float(score.detach()), rel=1e-6)
        for a, b in zip(ours, theirs):
            assert (a - b).abs().max() <= 1e-6 * b.abs().max()
        assert ours[0].abs().max() > 0 and ours[2].abs().max() > 0  # SPPF and the first level feed all others
    assert any(float(gradients(found.why(i), layers)[4].abs().max()) > 0 for i in range(len(found)))
    assert same_state(before, state(model))


def test_boxes_have_gradients(model, bus):
    _, output, (found,) = detect(model, bus, (0.25, 0.45))
    for i in range(len(found)):
        row = int(found.rows[i])
        box = found.candidates.box(row, int(found.classes[i]))
        assert torch.allclose(box.detach(), found.boxes[i], atol=1e-4)
        x, _, w, _ = output[0][0, row, :4]
        (ours,) = gradients(box[2], [output[0]])
        (theirs,) = gradients(x + w / 2, [output[0]])
        assert torch.allclose(ours, theirs) and float(ours.abs().sum()) == 1.5


def spread(modules, size, model, image):
    """Give the last convolutions weights at which their outputs are as large as ``size``."""

    def scale(conv, args):
        rms = float(args[0].detach().pow(2).mean().sqrt()) * (conv.weight[0].numel() ** 0.5)
        conv.weight.data.normal_(0, size / max(rms, 1e-12))

    handles = [conv.register_forward_pre_hook(scale) for conv in modules]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()


def photograph(images, width=192, height=256):
    image = cv2.resize(cv2.imread(str(images / "bus.jpg")), (width, height))
    return torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))[None]).float() / 255


def test_segmentation(yolov5, images):
    from yolov5.models.yolo import SegmentationModel

    torch.manual_seed(0)
    model, image = SegmentationModel(str(yolov5 / "models" / "segment" / "yolov5n-seg.yaml")).eval(), photograph(images)
    spread(model.model[-1].m, 2, model, image)
    _, output, (found,) = detect(model, image, (0.05, 0.45))
    rows = suppression_of(yolov5)(output[0].detach(), 0.05, 0.45, nm=32)[0]
    same(found, rows[:, :4], rows[:, 4], rows[:, 5])
    raw = torch.cat([level.reshape(-1, level.shape[-1]) for level in output[2]])
    row, kind = int(found.rows[0]), int(found.classes[0])
    assert float(found.why(0).detach()) == pytest.approx((raw[row, 4] + raw[row, 5 + kind]).item())


def test_classifier(yolov5, images):
    from yolov5.models.yolo import ClassificationModel, DetectionModel

    model = ClassificationModel(model=DetectionModel(str(yolov5 / "models" / "yolov5n.yaml")), nc=7).eval()
    image = photograph(images)
    _, output, (found,) = detect(model, image, (0.0, 0.45))
    scores, classes = output[0].detach().softmax(0).sort(descending=True)
    assert torch.allclose(found.scores, scores) and torch.equal(found.classes, classes) and len(found) == 7
    assert found.boxes.tolist() == [[0, 0, 192, 256]] * 7 and found.rows.tolist() == [0] * 7
    assert float(found.why(2).detach()) == output[0, classes[2]].item()


# --- forks ---


class Head(nn.Module):
    """A head over one map of features, of 12 channels an anchor unless told; ``decode`` makes its output."""

    def __init__(self, decode, nc, width):
        super().__init__()
        self.i, self.f, self.nc, self.width, self.decode = 1, -1, nc, width, decode
        self.conv = nn.Conv2d(8, 2 * width, 1)

    def forward(self, x):
        return self.decode(self.conv(x))


def fork(decode, nc, width, **attributes):
    torch.manual_seed(1)
    first = nn.Conv2d(3, 8, 8, 8)
    first.i, first.f = 0, -1
    model = nn.Module()
    model.model = nn.Sequential(first, Head(decode, nc, width))
    vars(model.model[-1]).update(attributes)
    model.model[-1].conv.weight.data.mul_(8)
    model.names = [f"class{i}" for i in range(nc)]
    model.forward = model.model.forward
    return model.eval()


def rows_of(raw, width):
    level = raw.view(1, 2, width, *raw.shape[2:]).permute(0, 1, 3, 4, 2).contiguous()
    return level, level.reshape(1, -1, width)


def in_place(width):
    def decode(raw):
        level, _ = rows_of(raw, width)
        y = level.sigmoid()
        y[..., 0:2] = y[..., 0:2] * 16
        y[..., 2:4] = (y[..., 2:4] * 2) ** 2 * 10
        return y.view(1, -1, width), [level]

    return decode


IMAGE = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("attributes", [{}, {"include_nms": False}])
def test_a_head_that_decodes_in_place_and_yolov7_of_one_class(attributes):
    """YOLOv7 takes the objectness alone, as it does not train the class of one."""
    model = fork(in_place(6), 1, 6, **attributes)
    kept, (decoded, [level]), (found,) = detect(model, IMAGE, (0.2, 0.5))
    rows, raw = decoded[0].detach(), level.reshape(-1, 6)
    expected = rows[:, 4] if attributes else rows[:, 4] * rows[:, 5]
    assert torch.equal(found.candidates.scores[:, 0], expected) and found.candidates.box is None
    row = int(found.rows[0])
    reference = raw[row, 4] if attributes else raw[row, 4] + raw[row, 5]
    (ours,), (theirs,) = gradients(found.why(0), [kept[0]]), gradients(reference, [kept[0]])
    assert torch.equal(ours, theirs) and ours.abs().max() > 0


def test_faces_have_their_class_behind_the_key_points():
    def decode(raw):
        level, rows = rows_of(raw, 16)
        boxes = rows[..., :4].sigmoid() * 20
        return torch.cat([boxes, rows[..., 4:5].sigmoid(), rows[..., 5:15], rows[..., 15:].sigmoid()], 2), [level]

    kept, (decoded, _), (found,) = detect(fork(decode, 1, 16), IMAGE, (0.1, 0.5))
    assert torch.equal(found.candidates.scores[:, 0], (decoded[0, :, 4] * decoded[0, :, 15]).detach())
    assert found.candidates.box is not None and gradients(found.why(0), [kept[0]])[0].abs().max() > 0


def test_a_head_that_makes_its_confidences_otherwise():
    """The raw levels are not their logits, so the score is that of the confidences."""

    def decode(raw):
        level, rows = rows_of(raw, 8)
        return torch.cat([rows[..., :4].sigmoid() * 20, rows[..., 4:5].sigmoid(), rows[..., 5:].softmax(2)], 2), [level]

    kept, (decoded, _), (found,) = detect(fork(decode, 3, 8), IMAGE, (0.2, 0.5))
    row, kind = int(found.rows[0]), int(found.classes[0])
    reference = torch.logit(decoded[0, row, 4]) + torch.logit(decoded[0, row, 5 + kind])
    (ours,), (theirs,) = gradients(found.why(0), [kept[0]]), gradients(reference, [kept[0]])
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6) and ours.abs().max() > 0


@pytest.mark.parametrize("layout", ["raw", "rows", "dual", "no raw", "no raw, objectness"])
def test_anchor_free(layout):
    """YOLOv9's levels and its two branches, of which the second is the main one; the same without them."""

    def decode(raw):
        first, second = raw[:, :9], raw[:, 9:]

        def decoded(x):
            x = x.flatten(2)
            return torch.cat([x[:, :4].sigmoid() * 30, x[:, 4:].sigmoid()], 1)

        if layout == "dual":
            return [decoded(first), decoded(second)], [[first], [second]]
        if layout == "rows":
            return decoded(second).transpose(1, 2), [second]
        if layout == "no raw, objectness":
            full = decoded(second).transpose(1, 2)
            return torch.cat([full[..., :4], full[..., 4:5], full[..., 5:]], 2)
        return decoded(second) if layout == "no raw" else (decoded(second), [second])

    classes = 4 if "objectness" in layout else 5
    kept, _, (found,) = detect(fork(decode, classes, 9), IMAGE, (0.2, 0.5))
    raw = kept[0]
    raw = fork(decode, classes, 9).model[1].conv(raw)[0, 9:].flatten(1).T
    row, kind = int(found.rows[0]), int(found.classes[0])
    logits = raw[:, 5:] if classes == 4 else raw[:, 4:]
    expected = logits.sigmoid() * (raw[:, 4:5].sigmoid() if classes == 4 else 1)
    assert torch.allclose(found.candidates.scores, expected.detach(), atol=1e-6)
    reference = logits[row, kind] + (raw[row, 4] if classes == 4 else 0)
    (ours,), (theirs,) = gradients(found.why(0), [kept[0]]), gradients(reference, [kept[0]])
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6) and ours.abs().max() > 0
    assert float(found.why(0).detach()) == pytest.approx(reference.item(), rel=1e-4)


def test_an_output_that_is_not_understood():
    with pytest.raises(FeatvizError, match="not understood as detections"):
        detect(fork(lambda raw: raw, 3, 9), IMAGE, (0.2, 0.5))
    with pytest.raises(FeatvizError, match="not understood as detections"):
        detect(fork(lambda raw: rows_of(raw, 9)[1], 30, 9), IMAGE, (0.2, 0.5))


# --- Ultralytics ---


@pytest.fixture(scope="module")
def ultralytics(tmp_path_factory):
    before = {name: os.environ.get(name) for name in ("YOLO_CONFIG_DIR", "YOLO_AUTOINSTALL")}
    os.environ.update(YOLO_CONFIG_DIR=str(tmp_path_factory.mktemp("settings")), YOLO_AUTOINSTALL="false")
    yield pytest.importorskip("ultralytics")
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def build(ultralytics, name, image, end2end=False):
    """A model at random weights, whose detections differ from each other, and in each branch."""
    torch.manual_seed(0)
    model = (ultralytics.RTDETR(name) if "rtdetr" in name else ultralytics.YOLO(name, verbose=False)).model.eval()
    head = model.model[-1]
    if end2end:
        model.end2end = True
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
    last = {}
    for part, levels in head.named_children():
        if part.replace("one2one_", "") in ("cv2", "cv3", "cv4"):
            for level in levels:
                last.update(dict.fromkeys([m for m in level.modules() if isinstance(m, nn.Conv2d)][-1:], part))
    spread([conv for conv, part in last.items() if not part.endswith("cv2")], 2, model, image)
    spread([conv for conv, part in last.items() if part.endswith("cv2")], 0.5, model, image)
    for conv, part in last.items():
        if part.endswith("cv3"):
            conv.bias.data.fill_(-4)
    if hasattr(head, "dec_score_head"):
        for one in (*head.dec_score_head, *(mlp.layers[-1] for mlp in head.dec_bbox_head)):
            one.weight.data.normal_(0, 0.05)
    return model


def suppressed(y, conf, iou, **options):
    try:
        from ultralytics.utils.nms import non_max_suppression
    except ImportError:
        from ultralytics.utils.ops import non_max_suppression
    return non_max_suppression(y.detach().clone(), conf, iou, **options)[0]


def hull(boxes, angles):
    """The upright hull from the four corners."""
    half = boxes[:, None, 2:] / 2 * torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    c, s = angles.cos()[:, None], angles.sin()[:, None]
    corners = torch.stack([half[..., 0] * c - half[..., 1] * s, half[..., 0] * s + half[..., 1] * c], 2)
    return torch.cat([boxes[:, :2] + corners.min(1).values, boxes[:, :2] + corners.max(1).values], 1)


def first_tensor(output):
    while not isinstance(output, torch.Tensor):
        output = output[0]
    return output


CASES = [
    *((name, False) for name in ("yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov9t", "yolov10n")),
    *((name, False) for name in ("yolo11n", "yolo11n-obb", "yolo12n", "yolo26n", "yolov5n", "yolov3-tiny")),
    *((name, True) for name in ("yolov10n", "yolo26n", "yolo26n-seg", "yolo26n-pose", "yolo26n-obb")),
]


@pytest.mark.parametrize(("name", "end2end"), CASES)
def test_rows_are_those_of_ultralytics(ultralytics, images, name, end2end):
    image = photograph(images, 96, 128)
    model = build(ultralytics, f"{name}.yaml", image, end2end)
    before = state(model)
    with torch.no_grad():
        alone = first_tensor(model(image))
    limits = [(0.25, 0.45), (0.001, 0.6)]
    kept, output, found = detect(model, image, *limits)
    assert torch.equal(first_tensor(output), alone) and family_of(model) is ULTRALYTICS
    head, rotated = model.model[-1], "obb" in name
    for limit, one in zip(limits, found):
        rows = suppressed(alone, *limit, nc=head.nc, rotated=rotated, end2end=end2end)
        same(one, hull(rows[:, :4], rows[:, 6]) if rotated else rows[:, :4], rows[:, 4], rows[:, 5])
        assert len(one.candidates) == sum(kept[i].shape[2] * kept[i].shape[3] for i in head.f)
    raw = output[-1]
    raw = raw["one2one" if end2end else "one2many"] if "one2one" in raw else raw
    features = [kept[i] for i in head.f]
    levels = set()
    for i in range(len(found[1])):
        row, kind = int(found[1].rows[i]), int(found[1].classes[i])
        level = int(np.searchsorted(np.cumsum([f[0, 0].numel() for f in features]), row, "right"))
        if level not in levels:
            levels.add(level)
            ours = gradients(found[1].why(i), features)
            theirs = gradients(raw["scores"][0, kind, row], features)
            assert all(torch.allclose(a, b, rtol=1e-6, atol=0) for a, b in zip(ours, theirs))
            assert ours[level].abs().max() > 0
            box = found[1].candidates.box(row, kind)
            assert torch.allclose(box.detach(), found[1].boxes[i], atol=1e-3)
            assert gradients(box.sum(), features)[level].abs().max() > 0
    assert len(levels) == len(features)
    assert same_state(before, state(model))


def older_forward(self, x):
    """The head as before 8.4: the branch reads detached copies, and yields levels of box and class in a list."""
    detached = [feature.detach() for feature in x]
    one = [torch.cat((self.one2one_cv2[i](f), self.one2one_cv3[i](f)), 1) for i, f in enumerate(detached)]
    many = [torch.cat((self.cv2[i](f), self.cv3[i](f)), 1) for i, f in enumerate(x)]
    flat = torch.cat([level.flatten(2) for level in one], 2)
    decoded = self._inference({"boxes": flat[:, : -self.nc], "scores": flat[:, -self.nc :], "feats": one})
    return self.postprocess(decoded.permute(0, 2, 1)), {"one2many": many, "one2one": one}


@pytest.mark.parametrize("name", ["yolov10n", "yolo26n"])
def test_gradients_of_a_detached_branch_reach_the_neck(ultralytics, images, monkeypatch, name):
    image = photograph(images, 96, 128)
    model = build(ultralytics, f"{name}.yaml", image, True)
    kept, output, (expected,) = detect(model, image, (0.001, 0.6))
    features = [kept[i] for i in model.model[-1].f]
    wanted = [gradients(expected.why(i), features) for i in range(3)]
    monkeypatch.setattr(type(model.model[-1]), "forward", older_forward)
    before = state(model)

    alone = model(image.clone().requires_grad_(True))
    assert torch.equal(alone[0], output[0])
    kept, output, (found,) = detect(model, image, (0.001, 0.6))
    features = [kept[i] for i in model.model[-1].f]
    assert torch.equal(output[0], alone[0]) and all(map(torch.equal, output[1]["one2one"], alone[1]["one2one"]))
    same(found, expected.boxes, expected.scores, expected.classes)
    for i in range(3):
        ours = gradients(found.why(i), features)
        assert all(torch.allclose(a, b, rtol=1e-6, atol=0) for a, b in zip(ours, wanted[i]))
        assert any(a.abs().max() > 0 for a in ours)
    again = model(image.clone().requires_grad_(True))
    assert not gradients(again[0].sum(), [*model.model[0].parameters()])[0].any()  # detached as before
    assert same_state(before, state(model))


@pytest.mark.parametrize("every_class", [False, True])
def test_rtdetr(ultralytics, images, monkeypatch, every_class):
    """``every_class``: its older output, all queries with all classes."""
    from ultralytics.models.rtdetr import RTDETRPredictor

    image = photograph(images, 128, 128)
    model = build(ultralytics, "yolov8n-rtdetr.yaml", image)
    head = model.model[-1]
    if every_class:
        monkeypatch.setattr(type(head), "postprocess", lambda self, boxes, scores: torch.cat((boxes, scores), -1))
    before = state(model)
    with torch.no_grad():
        alone = model(image)[0]
    kept, output, (found,) = detect(model, image, (0.02, 0.6))
    assert torch.equal(output[0], alone) and family_of(model) is ULTRALYTICS
    if every_class:
        scores, classes = alone[0, :, 4:].max(1)
        order = scores.argsort(descending=True)
        order = order[scores[order] > 0.02][:300]
        x, y, w, h = (alone[0, order, :4] * 128).T
        boxes = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
        same(found, boxes, scores[order], classes[order])
    else:
        predictor = RTDETRPredictor(overrides={"conf": 0.02, "verbose": False})
        predictor.model, predictor.batch = model, (["bus.jpg"],)
        (results,) = predictor.postprocess(alone, image, [np.zeros((128, 128, 3), np.uint8)])
        same(found, results.boxes.data[:, :4], results.boxes.conf, results.boxes.cls)
    features = [kept[i] for i in head.f]
    for i in range(3):
        reference = output[1][1][-1][0, int(found.rows[i]), int(found.classes[i])]
        ours = gradients(found.why(i), features)
        assert all(torch.equal(a, b) for a, b in zip(ours, gradients(reference, features)))
        assert all(torch.isfinite(a).all() and a.abs().max() > 0 for a in ours)
    assert same_state(before, state(model))


def test_classify(ultralytics, images):
    model = ultralytics.YOLO("yolo11n-cls.yaml", verbose=False).model.eval()
    kept, (confidences, logits), (found, top) = detect(model, photograph(images, 96, 128), (0.0, 1, 10**6), (0.0, 1, 5))
    scores, classes = confidences[0].detach().sort(descending=True)
    assert torch.equal(found.scores, scores) and torch.equal(found.classes, classes) and len(top) == 5
    assert set(map(tuple, found.boxes.tolist())) == {(0, 0, 96, 128)}
    assert float(found.why(1).detach()) == logits[0, classes[1]].item()
    assert gradients(found.why(1), [kept[len(model.model) - 2]])[0].abs().max() > 0


def test_a_yolo_object(ultralytics, images):
    """Its ``model`` is what is run; a head without detections says what to do."""
    yolo = ultralytics.YOLO("yolov8n.yaml", verbose=False)
    yolo.model.eval()
    assert family_of(yolo) is ULTRALYTICS
    with watching(yolo) as found:
        output = yolo.model(photograph(images, 96, 128))
    assert len(found(output, Thresholds(0.0)).candidates) == 252
    segment = ultralytics.YOLO("yolo26n-sem.yaml", verbose=False).model.eval()
    with pytest.raises(FeatvizError, match="not understood as detections"):
        detect(segment, photograph(images, 96, 128), (0.2, 0.5))
