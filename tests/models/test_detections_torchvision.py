"""Detections of torchvision's detectors, at random weights, beside what the models return themselves."""

import inspect
import itertools
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models import detections
from yolov5_featviz.models.detections import Thresholds
from yolov5_featviz.models.detections_torchvision import TORCHVISION, _centred, _Head, _softmax

zoo = pytest.importorskip("torchvision.models.detection")

CLASSES = 4
RESIZED = {"min_size": 96, "max_size": 160}
ONE = {"score_thresh": 0.05, "detections_per_img": 5}
TWO = {"box_score_thresh": 0.05, "box_detections_per_img": 3, "rpn_post_nms_top_n_test": 150, "rpn_nms_thresh": 0.98}
FPN = ("backbone.body.layer4", "backbone.fpn")
# builder -> its arguments, convolutions of classes and of boxes, layers that gradients must reach
RCNN = (
    "rpn.head.cls_logits",
    "rpn.head.bbox_pred",
    "roi_heads.box_predictor.cls_score",
    "roi_heads.box_predictor.bbox_pred",
)
HEADS = ("head.classification_head", "head.regression_head")
CONVOLUTIONS = ("head.classification_head.cls_logits", "head.regression_head.bbox_reg")
MODELS = {
    "retinanet_resnet50_fpn": ({**RESIZED, **ONE}, CONVOLUTIONS, FPN),
    "fcos_resnet50_fpn": ({**RESIZED, **ONE}, (*CONVOLUTIONS, "head.regression_head.bbox_ctrness"), FPN),
    "ssd300_vgg16": (ONE, HEADS, ("backbone.features",)),
    "ssdlite320_mobilenet_v3_large": (ONE, HEADS, ("backbone.features.0",)),
    "fasterrcnn_resnet50_fpn": ({**RESIZED, **TWO}, RCNN, FPN),
    "maskrcnn_resnet50_fpn": ({**RESIZED, **TWO}, RCNN, FPN),
    "keypointrcnn_resnet50_fpn": ({**RESIZED, **TWO}, RCNN, FPN),
}


def build(name, photographs):
    """A model from its configuration, whose normalisation, scores and boxes are spread as if it had been trained."""
    if not hasattr(zoo, name):
        pytest.skip(f"this torchvision has no {name}")
    options, convolutions, layers = MODELS[name]
    builder = getattr(zoo, name)
    takes = inspect.signature(builder).parameters
    none = {"weights": None, "weights_backbone": None, "pretrained": False, "pretrained_backbone": False}
    torch.manual_seed(0)
    none = {key: value for key, value in none.items() if key in takes}
    model = builder(**none, num_classes=CLASSES, **options).eval()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        if norms:
            momenta = [m.momentum for m in norms]
            for m in norms:
                m.train()
                m.momentum = 1.0
            model.backbone(torch.cat([nn.functional.interpolate(x[None], (128, 128)) for x in photographs]))
            for m, momentum in zip(norms, momenta):
                m.eval()
                m.momentum = momentum
        parts = dict(model.named_modules())
        for part in convolutions:
            spread(model, parts[part], photographs[0], 1.5 if "reg" in part or "bbox" in part else 6)
    return model, layers


def spread(model, part, image, most):
    """Scale weights of the last layers in ``part``, so that what it returns deviates by ``most`` from its mean."""
    found = []
    handle = part.register_forward_hook(lambda m, a, out: found.append((out - out.mean()).abs().max()))
    model([image])
    handle.remove()
    for m in part.module_list if hasattr(part, "module_list") else [part]:
        last = m[-1] if isinstance(m, nn.Sequential) else m
        last.weight *= most / max(found)


def photograph(path):
    image = cv2.imread(str(path))
    scale = 320 / max(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))).float() / 255


@pytest.fixture(scope="module")
def photographs(images):
    return [photograph(images / name) for name in ("bus.jpg", "zidane.jpg")]


@pytest.fixture(scope="module", params=MODELS)
def built(request, photographs):
    return build(request.param, photographs)


def watched(model, image):
    """The model's output and our detections."""
    with TORCHVISION.watch(model) as found:
        output = model(image)
        return output, found(output, Thresholds())


@contextmanager
def everything_kept(model):
    """Let a model return all it considers: no threshold, no suppression, no limit; and only boxes."""
    post = getattr(model, "roi_heads", model)
    wanted = {"score_thresh": -1.0, "nms_thresh": 2.0, "detections_per_img": 10**9, "topk_candidates": 10**9}
    wanted.update(mask_roi_pool=None, keypoint_roi_pool=None)
    before = {name: getattr(post, name) for name in wanted if hasattr(post, name)}
    for name in before:
        setattr(post, name, wanted[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(post, name, value)


def state(model):
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return (
        {name: (tensor.detach().clone(), tensor.requires_grad, tensor.grad) for name, tensor in tensors},
        {
            name: (
                m.training,
                list(m._forward_hooks),
                list(m._forward_pre_hooks),
                type(m._forward_hooks),
                sorted(vars(m)),
            )
            for name, m in model.named_modules()
        },
    )


@pytest.mark.parametrize("which", [0, 1])
def test_detections_are_the_models_own_and_each_has_its_candidate(built, photographs, which):
    model, _ = built
    image = photographs[which]
    before = state(model)
    alone = {key: value.detach() for key, value in model([image])[0].items()}
    (output,), found = watched(model, image[None])
    after = state(model)
    assert list(output) == list(alone)
    assert all(torch.equal(output[key], alone[key]) for key in alone)
    assert before[1] == after[1]
    for name, (tensor, needs, grad) in before[0].items():
        assert torch.equal(tensor, after[0][name][0]), name
        assert (needs, grad) == after[0][name][1:], name

    assert len(found) == len(alone["boxes"]) >= 3
    assert torch.equal(found.boxes, alone["boxes"])
    assert torch.equal(found.scores, alone["scores"])
    assert torch.equal(found.classes, alone["labels"])
    assert found.names == {}
    assert found.label(0) == f"class {int(alone['labels'][0])} {float(alone['scores'][0]):.2f}"

    boxes = found.candidates.boxes_of(found.classes, found.rows)
    assert (boxes - found.boxes).abs().max() < 1e-3
    assert (found.candidates.scores[found.rows, found.classes] - found.scores).abs().max() < 1e-5
    assert not found.boxes.requires_grad and not found.candidates.scores.requires_grad


def test_candidates_are_all_that_the_model_considers(built, photographs):
    """What it returns with its thresholds, suppression and limits off."""
    model, _ = built
    image = photographs[1]
    with torch.no_grad():
        candidates = watched(model, [image])[1].candidates
        with everything_kept(model):
            every = model([image])[0]
    assert len(candidates) > 100
    background = not hasattr(model, "roi_heads") and type(model).__name__ != "SSD"
    for number in range(CLASSES):
        mine = every["labels"] == number
        if number == 0 and not background:
            assert not mine.any() and not candidates.scores[:, 0].any()
            continue
        theirs = torch.cat([every["boxes"][mine], 1000 * every["scores"][mine, None]], dim=1)
        boxes = candidates.boxes_of(torch.full((len(candidates),), number))
        if hasattr(model, "roi_heads"):  # which leaves out boxes outside of the image, of no width or height
            assert 0.5 * len(candidates) < len(theirs) <= len(candidates)
        else:
            assert len(theirs) == len(candidates)
        ours = torch.cat([boxes, 1000 * candidates.scores[:, number, None]], dim=1)
        assert furthest(theirs, ours) < 5e-3  # score to 5e-6
        if len(theirs) == len(ours):
            assert furthest(ours, theirs) < 5e-3
            ranked = [rows[:, 4].sort(descending=True)[0] for rows in (theirs, ours)]
            assert (ranked[0] - ranked[1]).abs().max() < 5e-3


def furthest(rows, others):
    """Distance to the nearest of the others, the largest among the 500 rows of the highest score."""
    best = rows[rows[:, 4].argsort(descending=True)[:500]]
    return torch.cdist(best, others, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)[0].max()


def test_score_is_the_log_odds_of_the_confidence(built, photographs):
    """Of the first of several images: two-stage models return the logits of all in one tensor."""
    model, _ = built
    with torch.no_grad():
        output, found = watched(model, photographs)
    candidates = found.candidates
    assert torch.equal(found.boxes, output[0]["boxes"])
    assert (candidates.scores[found.rows, found.classes] - output[0]["scores"]).abs().max() < 1e-5
    for number in found.classes[:3].unique().tolist():
        order = candidates.scores[:, number].argsort()
        rows = order[torch.linspace(0, len(order) - 1, 150).long()]
        confidences = candidates.scores[rows, number]
        scores = torch.stack([candidates.score(int(row), number) for row in rows])
        assert confidences.max() > 0.05
        assert (scores.sigmoid() - confidences).abs().max() < 1e-5
        apart = confidences[1:] > 1.0001 * confidences[:-1]
        assert (scores[1:] > scores[:-1])[apart].all() and apart.sum() > 50


def test_gradients_are_those_of_the_models_own_scores_and_boxes(built, photographs):
    """Torchvision's results carry gradients in evaluation mode: ours have to be equal, in each layer."""
    model, layers = built
    kept = {}
    handles = [
        module.register_forward_hook(lambda m, a, out, name=name: kept.update({name: out}))
        for name, module in model.named_modules()
        if name in layers
    ]
    (output,), found = watched(model, photographs[:1])
    for handle in handles:
        handle.remove()
    tensors = {
        name: list(out.values()) if isinstance(out, dict) else [out] for name, out in kept.items() if name in layers
    }
    flat = [tensor for name in layers for tensor in tensors[name]]
    reached = dict.fromkeys(layers, 0)
    explained = (0, len(found) - 1)
    for i in explained:
        p = output["scores"][i].double()
        reference = torch.autograd.grad((p / (1 - p)).log(), flat, retain_graph=True, allow_unused=True)
        ours = torch.autograd.grad(found.why(i), flat, retain_graph=True, allow_unused=True)
        same(ours, reference)
        for name in layers:
            inside = {id(tensor) for tensor in tensors[name]}
            reached[name] += any(
                g is not None and bool(g.abs().sum() > 0) for g, t in zip(ours, flat) if id(t) in inside
            )
    assert set(reached.values()) == {len(explained)}, reached
    edges = torch.tensor([1.0, 2.0, 3.0, 4.0])
    box = found.candidates.box(int(found.rows[0]), int(found.classes[0]))
    assert torch.allclose(box, output["boxes"][0], atol=1e-3)
    ours = torch.autograd.grad((box * edges).sum(), flat, retain_graph=True, allow_unused=True)
    same(ours, torch.autograd.grad((output["boxes"][0] * edges).sum(), flat, allow_unused=True))


def same(ours, reference):
    for mine, theirs in zip(ours, reference):
        mine = torch.zeros(()) if mine is None else mine
        theirs = torch.zeros(()) if theirs is None else theirs
        assert (mine - theirs).abs().max() <= 1e-3 * theirs.abs().max()


@pytest.fixture(scope="module")
def small(photographs):
    """The fastest model that there is, and an image."""
    name = "ssdlite320_mobilenet_v3_large" if hasattr(zoo, "ssd300_vgg16") else "retinanet_resnet50_fpn"
    return build(name, photographs)[0], photographs[0]


def test_score_of_the_softmax_and_of_the_centreness_do_not_saturate():
    """Where the confidence is 0 or 1 in single precision, by formulas in double precision."""
    logits = torch.tensor([[-60.0, 60.0, 3.0], [50.0, -90.0, 2.0], [0.5, 1.0, -2.0]], requires_grad=True)
    centreness = torch.tensor([40.0, -95.0, 0.25], requires_grad=True)
    head = _Head(logits, torch.zeros(3, 4), torch.zeros(3, 4), centreness, ((1, 1), (1, 1)))
    for row, number in itertools.product(range(3), (1, 2)):
        a, b = logits[row].tolist(), float(centreness[row].detach())
        softmax = a[number] - np.log(sum(np.exp(other) for k, other in enumerate(a) if k != number))
        u = np.exp(-a[number]) + np.exp(-b) + np.exp(-a[number] - b)  # p² = 1 / (1 + u)
        p = (1 + u) ** -0.5
        centred = np.log(p) - np.log(u / (1 + u) / (1 + p))  # 1 - p = (1 - p²) / (1 + p)
        for make, expected in ((_softmax, softmax), (_centred, centred)):
            score = make(head)[1](row, number)
            assert abs(float(score.detach()) - expected) < 1e-4 * max(1, abs(expected))
            slopes = torch.autograd.grad(score, (logits, centreness), allow_unused=True)
            assert sum(float(slope.abs().sum()) for slope in slopes if slope is not None) > 0.49


def test_an_image_in_which_nothing_is_detected(small):
    model, image = small
    before, model.score_thresh = model.score_thresh, 2.0
    try:
        output, found = watched(model, [image])
    finally:
        model.score_thresh = before
    assert len(output[0]["boxes"]) == len(found) == 0
    assert found.boxes.shape == (0, 4) and len(found.candidates) > 100
    row = int(found.candidates.scores[:, 1].argmax())
    slopes = torch.autograd.grad(found.candidates.score(row, 1), list(model.backbone.parameters()), allow_unused=True)
    assert any(slope is not None and slope.abs().max() > 0 for slope in slopes)


def test_without_gradients_there_is_no_box_score(small):
    model, image = small
    with torch.no_grad():
        assert watched(model, [image])[1].candidates.box is None
    assert watched(model, [image])[1].candidates.box is not None


def test_bad_output_and_a_model_that_was_not_run(small):
    model, image = small
    with TORCHVISION.watch(model) as found:
        own = [{"boxes": torch.zeros(1, 4), "scores": torch.ones(1), "labels": torch.ones(1)}]
        with pytest.raises(FeatvizError, match=r"was not run within the block"):
            found(own, Thresholds())
        model([image])
        with pytest.raises(FeatvizError, match=r"at 0\.0, 0\.0, 0\.0, 0\.0 with a score of 1\.000 is none of the cand"):
            found(own, Thresholds())
        for wrong in ({}, [], torch.zeros(3), [{"boxes": torch.zeros(1, 4)}]):
            with pytest.raises(FeatvizError, match="is not understood as detections: give as rows a function"):
                found(wrong, Thresholds())


def test_hooks_are_removed_when_the_model_fails(small):
    model, _ = small
    before = state(model)[1]
    with pytest.raises(ZeroDivisionError), TORCHVISION.watch(model):
        1 / 0  # noqa: B018
    assert state(model)[1] == before


def test_family(small, monkeypatch):
    monkeypatch.setattr(detections, "FAMILIES", [f for f in detections.FAMILIES if f.endswith("TORCHVISION")])
    assert detections.family_of(small[0]) is TORCHVISION
    assert detections.family_of(type("Own", (type(small[0]),), {}).__new__(type(small[0]))) is TORCHVISION
    for other in (nn.Sequential(), small[0].backbone, small[0].head):
        assert detections.family_of(other) is None
    look_alike = type("RetinaNet", (nn.Module,), {})()
    assert detections.family_of(look_alike) is None
