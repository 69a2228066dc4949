"""Detections of mmdetection's detectors, at random weights, beside what the models predict themselves."""

import itertools
import logging
import re
import warnings
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from yolov5_featviz.attribution.ablation import ablate
from yolov5_featviz.attribution.d_rise import d_rise
from yolov5_featviz.attribution.explain import explain_input
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import Thresholds, family_of
from yolov5_featviz.models.detections_mmdet import MMDET, _product, _softmax

mmdet = pytest.importorskip("mmdet")
warnings.filterwarnings("ignore")

CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
CLASSES, SIDE = 4, 160
NAMES = ("ant", "bee", "cat", "dog")
RESNET, DARKNET, MOBILENET = ("layer4", "neck"), ("stage4", "neck"), ("layer4", "neck")
PAIR = r"bbox_head\.(conv_cls|conv_reg|conv_centerness)"
RETINA = r"bbox_head\.retina_(cls|reg)"
ATSS = r"bbox_head\.atss_(cls|reg|centerness)"
RCNN = r"rpn_head\.rpn_(cls|reg)|roi_head\.bbox_head\.(\d\.)?fc_(cls|reg)"
FC = r"bbox_head\.fc_(cls|reg)"
BRANCHES = r"bbox_head\.(cls_branches\.\d|reg_branches\.\d\.4)"
# name -> configuration, last layers of classes and boxes, layers that gradients must reach, and how scores are made
MODELS = {
    "ATSS": ("atss/atss_r50_fpn_1x_coco.py", ATSS, RESNET, "product"),
    "RetinaNet": ("retinanet/retinanet_r18_fpn_1x_coco.py", RETINA, RESNET, "sigmoid"),
    "FCOS": ("fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", PAIR, RESNET, "product"),
    "RTMDet": ("rtmdet/rtmdet_tiny_8xb32-300e_coco.py", r"bbox_head\.rtm_(cls|reg)\.\d", DARKNET, "sigmoid"),
    "YOLOX": ("yolox/yolox_tiny_8xb8-300e_coco.py", r"bbox_head\.multi_level_conv_\w+\.\d", DARKNET, "product"),
    "GFL": ("gfl/gfl_r50_fpn_1x_coco.py", r"bbox_head\.gfl_(cls|reg)", RESNET, "sigmoid"),
    "SSDLite": (
        "ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py",
        r"bbox_head\.(cls|reg)_convs\.\d\.1",
        MOBILENET,
        "softmax",
    ),
    "YOLOv3": ("yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py", r"bbox_head\.convs_pred\.\d", MOBILENET, "yolo"),
    "TOOD": ("tood/tood_r50_fpn_1x_coco.py", r"bbox_head\.tood_(cls|reg)", RESNET, "given"),
    "FoveaBox": ("foveabox/fovea_r50_fpn_4xb4-1x_coco.py", PAIR, RESNET, "sigmoid"),
    "RepPoints": (
        "reppoints/reppoints-moment_r50_fpn_1x_coco.py",
        r"bbox_head\.reppoints_(cls_out|pts_refine_out)",
        RESNET,
        "sigmoid",
    ),
    "VFNet": ("vfnet/vfnet_r50_fpn_1x_coco.py", r"bbox_head\.vfnet_(cls|reg_refine)", RESNET, "sigmoid"),
    "YOLOF": ("yolof/yolof_r50-c5_8xb8-1x_coco.py", r"bbox_head\.(cls_score|bbox_pred)", RESNET, "sigmoid"),
    "FreeAnchor": ("free_anchor/freeanchor_r50_fpn_1x_coco.py", RETINA, RESNET, "sigmoid"),
    "FSAF": ("fsaf/fsaf_r50_fpn_1x_coco.py", RETINA, RESNET, "sigmoid"),
    "AutoAssign": ("autoassign/autoassign_r50-caffe_fpn_1x_coco.py", PAIR, RESNET, "product"),
    "NAS-FCOS": ("nas_fcos/nas-fcos_r50-caffe_fpn_fcoshead-gn-head_4xb4-1x_coco.py", PAIR, RESNET, "product"),
    "CenterNet update": ("centernet/centernet-update_r50-caffe_fpn_ms-1x_coco.py", PAIR, RESNET, "sigmoid"),
    "Faster R-CNN": ("faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", RCNN, RESNET, "proposals"),
    "Mask R-CNN": ("mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", RCNN, RESNET, "proposals"),
    "Cascade R-CNN": ("cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py", RCNN, RESNET, "proposals"),
    "Cascade Mask R-CNN": ("cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py", RCNN, RESNET, "proposals"),
    "PointRend": ("point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py", RCNN, RESNET, "proposals"),
    "Double-Head R-CNN": ("double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py", RCNN, RESNET, "proposals"),
    "Dynamic R-CNN": ("dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py", RCNN, RESNET, "proposals"),
    "Libra R-CNN": ("libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py", RCNN, RESNET, "proposals"),
    "DETR": ("detr/detr_r18_8xb2-500e_coco.py", FC, (*RESNET, "encoder"), "softmax queries"),
    "Conditional DETR": (
        "conditional_detr/conditional-detr_r50_8xb2-50e_coco.py",
        FC,
        (*RESNET, "encoder"),
        "sigmoid queries",
    ),
    "DAB-DETR": (
        "dab_detr/dab-detr_r50_8xb2-50e_coco.py",
        r"bbox_head\.(fc_cls|fc_reg\.layers\.2)",
        (*RESNET, "encoder"),
        "sigmoid queries",
    ),
    "Deformable DETR": (
        "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
        BRANCHES,
        (*RESNET, "encoder"),
        "sigmoid queries",
    ),
    "DDQ": (
        "ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py",
        BRANCHES,
        (*RESNET, "encoder"),
        "sigmoid queries",
    ),
    "DINO": ("dino/dino-4scale_r50_8xb2-12e_coco.py", BRANCHES, (*RESNET, "encoder"), "sigmoid queries"),
}
# of a configuration: key -> value -> smaller value; channels not of DETR's line, which counts on 256
SMALLER = {
    "feedforward_channels": {2048: 64, 1024: 64},
    "num_layers": {6: 2},
    "num_queries": {100: 30, 300: 30, 900: 30},
    "num_classes": {80: CLASSES},
    "max_per_img": {100: 5, 200: 5, 300: 5, 1000: 100},
}
NARROWER = {
    **SMALLER,
    "in_channels": {256: 64, 1024: 64, 2048: 512},
    "out_channels": {256: 64},
    "feat_channels": {256: 64},
    "point_feat_channels": {256: 64},
    "conv_out_channels": {256: 64, 1024: 64},
    "fc_out_channels": {1024: 64},
}
WIDTHS = [256, 512, 1024, 2048]  # of the stages of ResNet-50, four times those of ResNet-18


def shrink(value, table, key=""):
    """A configuration with fewer channels, layers, queries and classes, and nothing to download."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not (k == "init_cfg" and v and "checkpoint" in v)}
        small = {k: shrink(v, table, k) for k, v in kept.items()}
        return {**small, "depth": 18} if value.get("type") == "ResNet" else small
    if isinstance(value, (list, tuple)):
        if key == "in_channels" and list(value) == WIDTHS[-len(value) :]:
            return [one // 4 for one in value]
        return [shrink(one, table) for one in value]
    return table.get(key, {}).get(value, value)


def build(name, photographs):
    """A model from its configuration, whose normalisation, scores and boxes are spread as if it had been trained."""
    from mmdet.registry import MODELS as REGISTRY
    from mmdet.utils import register_all_modules
    from mmengine.config import Config, ConfigDict

    register_all_modules()
    path, last, layers, kind = MODELS[name]
    torch.manual_seed(0)
    logging.disable(logging.WARNING)
    try:
        table = SMALLER if "queries" in kind else NARROWER
        config = shrink(Config.fromfile(str(CONFIGS / path)).model.to_dict(), table)
        model = REGISTRY.build(ConfigDict(config))
        model.init_weights()
    finally:
        logging.disable(logging.NOTSET)
    model.dataset_meta = {"classes": NAMES}
    if name == "SSDLite":
        model.bbox_head.loss_cls = None  # its predictions ask for it, which mmdetection 3.3 forgot to give it
    ends = {path: m for path, m in model.named_modules() if re.fullmatch(last, path)}
    if name in ("YOLOX", "YOLOv3"):  # whose products are all below 0.001 else
        for m in ends.values():
            nn.init.zeros_(m.bias)
    model.eval()
    norms = [m for part in (model.backbone, model.neck) for m in part.modules() if hasattr(m, "running_mean")]
    with torch.no_grad():
        momenta = [m.momentum for m in norms]
        for m in norms:
            m.train()
            m.momentum, m.eps = 1.0, max(m.eps, 1e-5)  # NAS-FCOS has 0, which torch no longer trains with
        model.extract_feat(torch.cat([nn.functional.interpolate(x, (160, 160)) for x in photographs]))
        for m, momentum in zip(norms, momenta):
            m.eval()
            m.momentum = momentum
        spread(model, ends, photographs[0])
    return model, [f"backbone.{layers[0]}", *layers[1:]], kind


def spread(model, ends, image):
    """Scale weights of the last layers, so that what they return deviates by 8 from its mean, of boxes by 1."""
    found = {path: [] for path in ends}
    handles = []
    for path, part in ends.items():
        if not part.weight.any():  # as DINO's boxes begin
            nn.init.xavier_uniform_(part.weight)
        keep = found[path].append
        handles.append(part.register_forward_hook(lambda m, a, out, keep=keep: keep((out - out.mean()).abs().max())))
    model(image, samples(image), mode="predict")
    for handle in handles:
        handle.remove()
    assert any(found.values())
    for path, part in ends.items():
        if not found[path]:
            continue  # DDQ-DETR has more branches than it runs
        part.weight *= (1.0 if "reg" in path else 8.0) / max(found[path])


def samples(images):
    """Data samples as a test pipeline makes them of images that it need not resize."""
    from mmdet.structures import DetDataSample

    size = tuple(images.shape[2:])
    meta = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), size)
    return [DetDataSample(metainfo={**meta, "scale_factor": (1.0, 1.0)}) for _ in images]


def predicted(model, images):
    """What the framework predicts in the first image: boxes, scores and labels."""
    with torch.no_grad():
        found = model(images, samples(images), mode="predict")[0].pred_instances
    return found.bboxes, found.scores, found.labels


def photograph(path):
    """A photograph as a test pipeline makes it: normalised, ``[1, 3, H, W]``, of sides divisible by 32."""
    image = cv2.imread(str(path))
    height, width = (round(side * SIDE / max(image.shape[:2]) / 32) * 32 for side in image.shape[:2])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    image = (image - (103.53, 116.28, 123.675)) / (57.375, 57.12, 58.395)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float()


@pytest.fixture(scope="module")
def photographs(images):
    return [photograph(images / name) for name in ("bus.jpg", "zidane.jpg")]


@pytest.fixture(scope="module", params=MODELS)
def built(request, photographs):
    return build(request.param, photographs)


ALL = Thresholds(conf=0.0)


def watched(model, image, thresholds=ALL):
    """The model's output and our detections."""
    with MMDET.watch(model) as found:
        output = model(image)
        return output, found(output, thresholds)


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


def flat(output):
    """All tensors in an output, in order."""
    if isinstance(output, torch.Tensor):
        return [output]
    return [tensor for part in output for tensor in flat(part)]


@pytest.mark.parametrize("which", [0, 1])
def test_detections_are_the_models_own_and_each_has_its_candidate(built, photographs, which):
    model, _, _ = built
    image = photographs[which]
    before = state(model)
    boxes, scores, labels = predicted(model, image)
    alone = flat(model(image, samples(image)))  # two-stage models and DETR need data samples
    output, found = watched(model, image)
    after = state(model)
    assert all(torch.equal(one, other) for one, other in zip(alone, flat(output))) and len(alone) == len(flat(output))
    assert before[1] == after[1]
    for name, (tensor, needs, grad) in before[0].items():
        assert torch.equal(tensor, after[0][name][0]), name
        assert (needs, grad) == after[0][name][1:], name

    assert len(found) == len(boxes) >= 3
    assert (found.boxes - boxes).abs().max() < 1e-3
    assert (found.scores - scores).abs().max() < 1e-5
    assert torch.equal(found.classes, labels)
    assert found.label(0) == f"{NAMES[int(labels[0])]} {float(scores[0]):.2f}"

    theirs = found.candidates.boxes_of(found.classes, found.rows)
    assert (theirs - found.boxes).abs().max() < 1e-3
    assert (found.candidates.scores[found.rows, found.classes] - found.scores).abs().max() < 1e-5
    assert not found.boxes.requires_grad and not found.candidates.scores.requires_grad
    assert found.candidates.scores.shape == (len(found.candidates), CLASSES)


def queries_of(model):
    """How many queries the model considers: DDQ-DETR drops those that overlap."""
    masks = getattr(model.bbox_head, "cache_dict", {}).get("distinct_query_mask")
    return model.num_queries if masks is None else int(masks[-1][0][0].sum())


@contextmanager
def everything_kept(model, kind):
    """Let a model return all it considers: no threshold, no suppression, no limit."""
    post = model.roi_head if kind == "proposals" else model.bbox_head
    before = post.test_cfg
    wanted = {"score_thr": -1.0, "conf_thr": -1.0, "nms_pre": 10**6, "min_bbox_size": -1, "max_per_img": 10**6}
    if "queries" in kind:
        wanted = {"max_per_img": queries_of(model) * (1 if "softmax" in kind else CLASSES)}
    else:
        wanted["nms"] = {"type": "nms", "iou_threshold": 1e9}
    post.test_cfg = type(before)({**before, **wanted})
    try:
        yield
    finally:
        post.test_cfg = before


def test_candidates_are_all_that_the_model_considers(built, photographs):
    """What it returns with its thresholds, suppression and limits off."""
    model, _, kind = built
    image = photographs[1]
    with torch.no_grad():
        candidates = watched(model, image)[1].candidates
        with everything_kept(model, kind):
            boxes, scores, labels = predicted(model, image)
    assert len(candidates) >= 30
    best_only = kind == "softmax queries" or type(model).__name__ == "YOLOX"
    considered = queries_of(model) if "queries" in kind else len(candidates)
    assert len(boxes) == considered * (1 if best_only else CLASSES)
    for number in range(CLASSES):
        mine = labels == number
        theirs = torch.cat([boxes[mine], 1000 * scores[mine, None]], dim=1)
        every = candidates.boxes_of(torch.full((len(candidates),), number))
        ours = torch.cat([every, 1000 * candidates.scores[:, number, None]], dim=1)
        if len(theirs):
            assert furthest(theirs, ours) < 5e-3  # score to 5e-6
        if not best_only and considered == len(candidates):
            assert len(theirs) == len(ours)
            assert furthest(ours, theirs) < 5e-3


def furthest(rows, others):
    """Distance to the nearest of the others, the largest among the 500 rows of the highest score."""
    best = rows[rows[:, 4].argsort(descending=True)[:500]]
    return torch.cdist(best, others, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)[0].max()


def confidences(kind, output):
    """The confidences of all candidates, ``[N, C]``, with their gradients, by the formulas of the papers."""

    def rows(levels, width):
        return torch.cat([level[0].permute(1, 2, 0).reshape(-1, width) for level in levels]).double()

    if "queries" in kind or kind == "proposals":
        logits = output[0][-1, 0] if "queries" in kind else output[0][0]
        logits = (logits[0] if isinstance(logits, (list, tuple)) else logits).double()
        return logits.sigmoid() if "sigmoid" in kind else logits.softmax(-1)[:, :-1]
    if kind == "yolo":
        every = rows(output[0], 5 + CLASSES).sigmoid()
        return every[:, 4:5] * every[:, 5:]
    if kind == "softmax":
        return rows(output[0], CLASSES + 1).softmax(-1)[:, :-1]
    logits = rows(output[0], CLASSES)
    if kind == "given":
        return logits
    return logits.sigmoid() * (rows(output[2], 1).sigmoid() if kind == "product" else 1)


def test_gradients_are_those_of_the_models_own_scores(built, photographs):
    """Of the log odds of the confidence that the model predicts, in each layer."""
    model, layers, kind = built
    image = photographs[0]
    kept = {}
    parts = dict(model.named_modules())
    handles = [
        parts[name].register_forward_hook(lambda m, a, out, name=name: kept.update({name: flat(out)}))
        for name in layers
    ]
    output, found = watched(model, image)
    for handle in handles:
        handle.remove()
    assert set(kept) == set(layers)
    tensors = [tensor for name in layers for tensor in kept[name]]
    _, scores, labels = predicted(model, image)
    every = confidences(kind, output)
    assert every.shape == found.candidates.scores.shape
    for i in (0, len(found) - 1):
        column = every[:, labels[i]]
        p = column[(column - scores[i]).abs().argmin()]
        assert abs(float(p) - float(scores[i])) < 1e-5
        assert abs(float(found.why(i).sigmoid()) - float(scores[i])) < 1e-5
        reference = torch.autograd.grad((p / (1 - p)).log(), tensors, retain_graph=True, allow_unused=True)
        ours = torch.autograd.grad(found.why(i), tensors, retain_graph=True, allow_unused=True)
        for mine, theirs in zip(ours, reference):
            mine, theirs = (torch.zeros(()) if one is None else one for one in (mine, theirs))
            assert (mine - theirs).abs().max() <= 2e-3 * theirs.abs().max()
        ids = {id(tensor): grad for tensor, grad in zip(tensors, ours)}
        for name in layers:
            grads = [ids[id(tensor)] for tensor in kept[name]]
            assert any(grad is not None and grad.abs().max() > 0 for grad in grads), name


def test_score_is_the_log_odds_of_the_confidence(built, photographs):
    """Of the first of two images: two-stage models return the logits of all in one tensor."""
    model, _, _ = built
    both = torch.cat([photographs[1], photographs[1].flip(3) * 0.5])
    boxes, scores, _ = predicted(model, both)
    with torch.no_grad():
        _, found = watched(model, both)
    candidates = found.candidates
    assert candidates.box is None
    assert len(found) == len(boxes) and (found.boxes - boxes).abs().max() < 1e-3
    assert (candidates.scores[found.rows, found.classes] - scores).abs().max() < 1e-5
    order = candidates.scores.flatten().argsort()
    pairs = order[torch.linspace(0, len(order) - 1, 100).long()]
    wanted = candidates.scores.flatten()[pairs]
    ours = torch.stack([candidates.score(int(pair) // CLASSES, int(pair) % CLASSES) for pair in pairs])
    assert wanted.max() > 0.05 and (ours.sigmoid() - wanted).abs().max() < 1e-5
    apart = wanted[1:] > 1.0001 * wanted[:-1]
    assert (ours[1:] > ours[:-1])[apart].all() and apart.any()


def changed(output, tensors):
    """The output with other tensors in the place of those that have gradients."""
    if isinstance(output, torch.Tensor):
        return next(tensors) if output.requires_grad else output
    return type(output)([changed(part, tensors) for part in output])


def test_boxes_have_the_gradients_of_the_models_own(built, photographs):
    """By finite differences: the head's output is moved a little, and the model's own post-processing repeated."""
    model, _, _ = built
    edges = torch.tensor([1.0, 2.0, 3.0, 4.0])
    with MMDET.watch(model) as find:
        output = model(photographs[0])
        found = find(output, Thresholds(conf=0.0))
        raw = [one for one in flat(output) if one.requires_grad]  # masks of a cascade have no gradient
        for i in range(len(found)):
            box = found.candidates.box(int(found.rows[i]), int(found.classes[i]))
            assert (box - found.boxes[i]).abs().max() < 1e-3
            grads = torch.autograd.grad((box * edges).sum(), raw, retain_graph=True, allow_unused=True)
            grads = [torch.zeros_like(one) if grad is None else grad for one, grad in zip(raw, grads)]
            length = sum(grad.square().sum() for grad in grads).sqrt()
            if length > 0:
                break
        step = 0.5 / length  # pixels, to first order
        with torch.no_grad():
            ends = [
                find(
                    changed(output, (one + sign * step * grad / length for one, grad in zip(raw, grads))),
                    Thresholds(0.0),
                )
                for sign in (-0.5, 0.5)
            ]
    assert all(len(end) == len(found) and torch.equal(end.classes, found.classes) for end in ends)
    moved = ((ends[1].boxes[i] - ends[0].boxes[i]) * edges).sum()
    assert length > 0 and abs(float(moved) - 0.5) < 0.05


SOME = ("RTMDet", "ATSS", "Faster R-CNN", "DETR", "DINO")


@pytest.fixture(scope="module", params=SOME)
def one(request, photographs):
    return (request.param, *build(request.param, photographs))


@pytest.fixture(scope="module")
def small(photographs):
    """The fastest model that there is, and an image."""
    return build("RTMDet", photographs)[0], photographs[0]


def test_explanations_of_the_best_two(one, photographs):
    _, model, layers, _ = one
    image = photographs[0]
    _, scores, labels = predicted(model, image)
    before = state(model)
    found = explain_input(model, image, target=[0, 1], layers=layers[0], conf=0.0)
    assert before[1] == state(model)[1]
    for i, explanation in enumerate(found):
        assert explanation.map.shape == tuple(image.shape[2:]) and explanation.map.max() > 0.5
        assert explanation.label == NAMES[int(labels[i])] and abs(explanation.score - float(scores[i])) < 1e-5


def test_d_rise_with_and_without_batches(one, photographs):
    _, model, _, _ = one
    _, found = watched(model, photographs[0])
    before = state(model)
    maps = [d_rise(model, photographs[0], found, masks=6, cells=4, batch=batch) for batch in (1, 3)]
    assert before[1] == state(model)[1]
    assert maps[0].shape == (len(found), *photographs[0].shape[2:]) and maps[0].std(axis=(1, 2)).max() > 0
    assert np.abs(maps[0] - maps[1]).max() < 1e-3


@pytest.mark.parametrize("name", ["ATSS", "Faster R-CNN", "DINO"])
def test_ablation_of_rows_in_a_fixed_order(name, photographs):
    """Proposals and selected queries are sorted anew in every pass."""
    model = build(name, photographs)[0]
    _, found = watched(model, photographs[0])
    if name == "ATSS":
        assert np.abs(ablate(model, photographs[0], "backbone.conv1", found).lost).max() > 0
    else:
        with pytest.raises(FeatvizError, match="in no fixed order"):
            ablate(model, photographs[0], "backbone.conv1", found)


@pytest.mark.parametrize("name", ["ATSS", "YOLOv3"])
def test_half_precision(name, photographs):
    model, image = build(name, photographs)[0].half(), photographs[0].half()
    boxes, scores, labels = predicted(model, image)
    _, found = watched(model, image)
    assert len(found) == len(boxes) >= 3 and torch.equal(found.classes, labels)
    assert (found.boxes - boxes).abs().max() < 1e-3 and (found.scores - scores).abs().max() < 1e-5
    assert abs(float(found.why(0).sigmoid()) - float(scores[0])) < 1e-3


def test_family_is_recognised_by_its_post_processing(small):
    from mmdet.registry import MODELS as REGISTRY
    from mmengine.config import Config, ConfigDict

    model, _ = small
    assert family_of(model) is MMDET
    assert family_of(nn.Conv2d(3, 3, 1)) is None

    class Own(type(model.bbox_head)):
        pass

    class Other(type(model.bbox_head)):
        def _bbox_post_process(self, results, **options):
            return results

    kind = type(model.bbox_head)
    try:
        model.bbox_head.__class__ = Own
        assert family_of(model) is MMDET
        model.bbox_head.__class__ = Other
        assert family_of(model) is None
    finally:
        model.bbox_head.__class__ = kind
    for path in ("paa/paa_r50_fpn_1x_coco.py", "sabl/sabl-retinanet_r50_fpn_1x_coco.py", "rpn/rpn_r50_fpn_1x_coco.py"):
        config = Config.fromfile(str(CONFIGS / path)).model.to_dict()
        assert family_of(REGISTRY.build(ConfigDict(shrink(config, NARROWER)))) is None


def test_confidence_counts_where_the_model_has_no_threshold(photographs):
    model, _, _ = build("DETR", photographs)
    _, every = watched(model, photographs[0], Thresholds(conf=0.0))
    middle = float(every.scores[2])
    _, some = watched(model, photographs[0], Thresholds(conf=middle))
    assert len(every) == 5 and len(some) == 2 and torch.equal(some.boxes, every.boxes[:2])
    _, none = watched(model, photographs[0], Thresholds(conf=1.0))
    assert len(none) == 0 and none.boxes.shape == (0, 4) and len(none.candidates) == 30


def test_confidence_does_not_count_where_the_model_has_a_threshold(small):
    model, image = small
    assert len(watched(model, image, Thresholds(conf=1.0))[1]) == len(predicted(model, image)[0]) >= 3


def test_an_image_in_which_nothing_is_detected(small):
    model, image = small
    before, model.bbox_head.test_cfg.score_thr = model.bbox_head.test_cfg.score_thr, 2.0
    try:
        _, found = watched(model, image)
    finally:
        model.bbox_head.test_cfg.score_thr = before
    assert len(found) == 0 and found.boxes.shape == (0, 4) and len(found.candidates) > 100
    row = int(found.candidates.scores[:, 1].argmax())
    slopes = torch.autograd.grad(found.candidates.score(row, 1), list(model.backbone.parameters()), allow_unused=True)
    assert any(slope is not None and slope.abs().max() > 0 for slope in slopes)


@pytest.mark.parametrize("name", ["DETR", "Faster R-CNN", "ATSS"])
def test_data_samples_that_are_given(name, photographs):
    """With those of the pipeline, which pads, the detections are those of the image without its padding."""
    model = build(name, photographs)[0]
    padded = nn.functional.pad(photographs[0], (0, 32, 0, 64))
    given = samples(padded)
    given[0].set_metainfo({"img_shape": tuple(photographs[0].shape[2:])})
    with MMDET.watch(model) as find:
        found = find(model(padded, given), Thresholds(conf=0.0))
        again = find(model(padded, data_samples=given, mode="tensor"), Thresholds(conf=0.0))
    with torch.no_grad():
        expected = model(padded, given, mode="predict")[0].pred_instances
    assert torch.equal(found.boxes, again.boxes)
    assert (found.boxes - expected.bboxes).abs().max() < 1e-3
    assert (found.scores - expected.scores).abs().max() < 1e-5
    assert found.boxes[:, 2].max() <= photographs[0].shape[3] and found.boxes[:, 3].max() <= photographs[0].shape[2]


def test_bad_output_and_a_model_that_was_not_run(small):
    model, image = small
    with MMDET.watch(model) as found:
        with pytest.raises(FeatvizError, match="was not run within the block"):
            found((), Thresholds())
        model(image)
        ragged = ([torch.zeros(1, 4, 2, 2)], [torch.zeros(1, 4, 2, 2)] * 2)
        for wrong in (
            {},
            [],
            torch.zeros(3),
            [[]],
            [[torch.zeros(1, 2)]],
            ragged,
            model(image, samples(image), "predict"),
        ):
            with pytest.raises(FeatvizError, match="is not understood as detections: give as rows a function"):
                found(wrong, Thresholds())


@pytest.mark.parametrize("name", ["DETR", "Faster R-CNN"])
def test_bad_output_of_two_stages_and_of_queries(name, photographs):
    model = build(name, photographs)[0]
    with MMDET.watch(model) as found:
        output = model(photographs[0])
        for wrong in ((), {}, torch.zeros(3), output[0], (output, output)):
            with pytest.raises(FeatvizError, match="is not understood as detections: give as rows a function"):
                found(wrong, Thresholds())


def test_suppression_that_changes_scores_is_refused(small):
    model, image = small
    settings = model.bbox_head.test_cfg
    before, settings.nms = settings.nms, {"type": "soft_nms", "iou_threshold": 0.5}
    try:
        with pytest.raises(FeatvizError, match="suppresses by soft_nms, which changes scores: set its nms type to nms"):
            watched(model, image)
    finally:
        settings.nms = before


def test_everything_is_undone_when_the_model_fails(one):
    _, model, _, _ = one
    before = state(model)[1]
    with pytest.raises(ZeroDivisionError), MMDET.watch(model), MMDET.watch(model):
        1 / 0  # noqa: B018
    assert state(model)[1] == before


def test_score_of_the_softmax_and_of_the_product_do_not_saturate():
    """Where the confidence is 0 or 1 in single precision, by formulas in double precision."""
    logits = torch.tensor([[-60.0, 60.0, 3.0], [50.0, -90.0, 2.0], [0.5, 1.0, -2.0]], requires_grad=True)
    factor = torch.tensor([40.0, -95.0, 0.25], requires_grad=True)
    for row, number in itertools.product(range(3), (0, 1)):
        a, b = logits[row].tolist(), float(factor[row].detach())
        softmax = a[number] - np.log(sum(np.exp(other) for k, other in enumerate(a) if k != number))
        product = -np.log(np.exp(-a[number]) + np.exp(-b) + np.exp(-a[number] - b))
        for made, expected in ((_softmax(logits), softmax), (_product(logits, factor), product)):
            score = made[1](row, number)
            assert abs(float(score.detach()) - expected) < 1e-4 * max(1, abs(expected))
            slopes = torch.autograd.grad(score, (logits, factor), allow_unused=True)
            assert sum(float(slope.abs().sum()) for slope in slopes if slope is not None) > 0.49
