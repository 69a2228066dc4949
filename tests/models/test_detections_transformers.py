"""Detections of transformers' detectors, at random weights, beside their image processors' own: make test-transformers.

The models are small, from configurations; nothing is downloaded.
"""

import collections

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import yolov5_featviz as fv
from yolov5_featviz.attribution.d_rise import d_rise
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models import detections
from yolov5_featviz.models.detections import Thresholds
from yolov5_featviz.models.detections_transformers import SIGMOID, SOFTMAX, TRANSFORMERS

hf = pytest.importorskip("transformers")

NAMES = {0: "person", 1: "bus", 2: "tie", 3: "dog"}
CONF = 0.3
QUERIES = 30
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1] * 4, "layer_type": "basic"}
STAGES = ["stage2", "stage3", "stage4"]
HGNET = {
    "stem_channels": [3, 8, 8],
    "stage_in_channels": [8, 16, 24, 32],
    "stage_mid_channels": [8] * 4,
    "stage_out_channels": [16, 24, 32, 48],
    "stage_num_blocks": [1] * 4,
    "stage_numb_of_layers": [1] * 4,
    "hidden_sizes": [16, 24, 32, 48],
}
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 128, "patch_size": 16}
PLAIN = {
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "num_queries": QUERIES,
}
SELECTING = {
    "encoder_hidden_dim": 32,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "decoder_in_channels": [32] * 3,
    "num_queries": QUERIES,
}
GROUPED = {
    "d_model": 32,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "num_queries": QUERIES,
    "group_detr": 2,
}


def plain(config, stages=("stage4",), width=32):
    """Settings of DETR and those that are built like it."""
    none = {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None}
    given = {"backbone_config": hf.ResNetConfig(**RESNET, out_features=list(stages)), **none}
    return {**given, "hidden_size" if config == "DabDetr" else "d_model": width, **PLAIN}


def selecting(config):
    """Settings of RT-DETR and those that are built like it."""
    if config.startswith("RT"):
        backbone = hf.RTDetrResNetConfig(**RESNET, out_features=STAGES)
        return {"backbone_config": backbone, "encoder_in_channels": [16, 24, 32], **SELECTING}
    backbone = hf.HGNetV2Config(**HGNET, out_features=STAGES)
    return {"backbone_config": backbone, "encoder_in_channels": [24, 32, 48], **SELECTING}


def grouped(config):
    """Settings of LW-DETR and RF-DETR."""
    if config == "LwDetr":
        windows = {"window_block_indices": [0], "num_windows": 4, "pretrain_image_size": 128, "out_indices": [1, 2]}
        return {"backbone_config": hf.LwDetrViTConfig(**VIT, **windows), "projector_scale_factors": [1.0], **GROUPED}
    kind = {"model_type": "rf_detr_dinov2", "num_windows": 2, "mlp_ratio": 2, "out_indices": [1, 2]}
    return {"backbone_config": {**VIT, **kind}, **GROUPED}


def yolos(config):
    sizes = {"image_size": [96, 128], "num_detection_tokens": QUERIES, "intermediate_size": 32}
    return {**VIT, **sizes}


Case = collections.namedtuple("Case", "config settings processor heads layers most")
BACKBONE = ("model.backbone", "model.encoder")
PROJECTED = ("model.backbone", "model.backbone.projector")
TWO = ("class_labels_classifier", "bbox_predictor.layers.2")
LAST = ("model.decoder.class_embed.1", None)  # boxes are refined, and differ without our help
ALL_STAGES = ["stage1", *STAGES]
# model -> configuration and its settings, image processor, last layers of classes and of boxes, layers that
# gradients must reach, how many are detected at most
MODELS = {
    "DetrForObjectDetection": Case("Detr", plain, "Detr", TWO, BACKBONE, QUERIES),
    "DetrForSegmentation": Case(
        "Detr",
        lambda config: plain(config, ALL_STAGES, 128),
        "Detr",
        [f"detr.{name}" for name in TWO],
        [f"detr.{name}" for name in BACKBONE],
        QUERIES,
    ),
    "TableTransformerForObjectDetection": Case("TableTransformer", plain, "Detr", TWO, BACKBONE, QUERIES),
    "YolosForObjectDetection": Case(
        "Yolos",
        yolos,
        "Yolos",
        ("class_labels_classifier.layers.2", "bbox_predictor.layers.2"),
        ("vit.embeddings.patch_embeddings", "vit.encoder.layer.0"),
        QUERIES,
    ),
    "ConditionalDetrForObjectDetection": Case("ConditionalDetr", plain, "ConditionalDetr", TWO, BACKBONE, 100),
    "ConditionalDetrForSegmentation": Case(
        "ConditionalDetr",
        lambda config: plain(config, ALL_STAGES, 128),
        "ConditionalDetr",
        [f"conditional_detr.{name}" for name in TWO],
        [f"conditional_detr.{name}" for name in BACKBONE],
        100,
    ),
    "DabDetrForObjectDetection": Case(
        "DabDetr", plain, "ConditionalDetr", ("class_embed", "bbox_predictor.layers.2"), BACKBONE, 100
    ),
    "DeformableDetrForObjectDetection": Case(
        "DeformableDetr",
        lambda config: plain(config, STAGES),
        "DeformableDetr",
        ("class_embed.1", "bbox_embed.1.layers.2"),
        BACKBONE,
        100,
    ),
    "RTDetrForObjectDetection": Case("RTDetr", selecting, "RTDetr", LAST, BACKBONE, QUERIES),
    "RTDetrV2ForObjectDetection": Case("RTDetrV2", selecting, "RTDetr", LAST, BACKBONE, QUERIES),
    "DFineForObjectDetection": Case("DFine", selecting, "RTDetr", LAST, BACKBONE, QUERIES),
    "Deimv2ForObjectDetection": Case(
        "Deimv2", selecting, "RTDetr", LAST, ("model.conv_encoder", "model.encoder"), QUERIES
    ),
    "LwDetrForObjectDetection": Case("LwDetr", grouped, "DeformableDetr", ("class_embed", None), PROJECTED, 100),
    "RfDetrForObjectDetection": Case("RfDetr", grouped, "RfDetr", ("class_embed", None), PROJECTED, QUERIES),
    "RfDetrForInstanceSegmentation": Case(
        "RfDetr", grouped, "RfDetr", ("model.class_embed", None), [f"model.{name}" for name in PROJECTED], QUERIES
    ),
}


def build(name, photographs):
    """A model from its configuration, whose confidences and boxes are spread as if it had been trained."""
    case = MODELS[name]
    if not hasattr(hf, name):
        pytest.skip(f"this transformers has no {name}")
    torch.manual_seed(0)
    config = getattr(hf, f"{case.config}Config")(id2label=NAMES, **case.settings(case.config))
    model = getattr(hf, name)(config).eval()
    randomise(model)
    parts = dict(model.named_modules())
    for head, most in zip(case.heads, (4, 1.5)):
        if head is not None:
            spread(model, parts[head], photographs, most)
    return model


def randomise(model):
    """Draw weights that keep the spread of what they are given, so that queries differ from each other at once."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                embedded = "embed" in name.split(".")[-2] or "token" in name
                weight.normal_(0, 1 if embedded else weight[0].numel() ** -0.5)


def spread(model, head, photographs, most):
    """Scale and shift a linear layer, so that what it returns for the photographs deviates by ``most`` from 0."""
    kept = []
    handle = head.register_forward_hook(lambda m, a, out: kept.append((out - m.bias).flatten(0, -2)))
    with torch.no_grad():
        for image in photographs:
            model(image)
        handle.remove()
        outputs = torch.cat(kept)
        scale = most / (outputs - outputs.mean(dim=0)).abs().max()
        head.weight *= scale
        head.bias.copy_(-scale * outputs.mean(dim=0))


def photograph(path):
    """``[1, 3, 128, 96]`` or ``[1, 3, 64, 128]``, normalised as most of the models expect it."""
    image = cv2.imread(str(path))
    height, width = (128, 96) if image.shape[0] > image.shape[1] else (64, 128)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    pixels = (image[:, :, ::-1].astype(np.float32) / 255 - mean) / deviation
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


@pytest.fixture(scope="module")
def photographs(images):
    return [photograph(images / name) for name in ("bus.jpg", "zidane.jpg")]


@pytest.fixture(scope="module", params=MODELS)
def built(request, photographs):
    return build(request.param, photographs), MODELS[request.param]


@pytest.fixture(scope="module", params=["DetrForObjectDetection", "RTDetrForObjectDetection"])
def one_of_each(request, photographs):
    """A model with softmax, and one with sigmoid."""
    return build(request.param, photographs), MODELS[request.param]


def watched(model, *images, conf=CONF, **more):
    """The model's output and our detections."""
    with TRANSFORMERS.watch(model) as found:
        output = model(*images, **more)
        return output, found(output, Thresholds(conf))


def processed(case, output, size, conf=CONF):
    """What the image processor makes of an output, best first."""
    processor = getattr(hf, f"{case.processor}ImageProcessor")()
    result = processor.post_process_object_detection(output, threshold=conf, target_sizes=[size] * len(output.logits))
    order = result[0]["scores"].detach().sort(descending=True, stable=True)[1]
    return {key: value[order] for key, value in result[0].items()}


def size_of(image):
    return tuple(image.shape[2:])


def state(model):
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return (
        {name: (tensor.detach().clone(), tensor.requires_grad, tensor.grad) for name, tensor in tensors},
        {
            name: (
                m.training,
                list(m._forward_hooks),
                list(m._forward_pre_hooks),
                list(m._forward_pre_hooks_with_kwargs),
                type(m._forward_pre_hooks),
                sorted(vars(m)),
            )
            for name, m in model.named_modules()
        },
    )


def every(value):
    """All tensors in an output."""
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for one in inner for tensor in every(one)]


@pytest.mark.parametrize("which", [0, 1])
def test_detections_are_those_of_the_image_processor(built, photographs, which):
    model, case = built
    image = photographs[which]
    before = state(model)
    alone = model(image)
    output, found = watched(model, image)
    after = state(model)
    assert list(output) == list(alone)
    assert all(torch.equal(a, b) for a, b in zip(every(output), every(alone)))
    assert before[1] == after[1]
    for name, (tensor, needs, grad) in before[0].items():
        assert torch.equal(tensor, after[0][name][0]), name
        assert (needs, grad) == after[0][name][1:], name

    own = processed(case, alone, size_of(image))
    assert 3 <= len(found) == len(own["scores"]) <= case.most
    assert (found.boxes - own["boxes"]).abs().max() < 1e-3
    assert (found.scores - own["scores"]).abs().max() < 1e-5
    assert torch.equal(found.classes, own["labels"])
    assert found.names == NAMES and found.label(0) == f"{NAMES[int(own['labels'][0])]} {own['scores'][0].item():.2f}"
    assert (found.scores[1:] <= found.scores[:-1]).all()
    assert not found.boxes.requires_grad and not found.scores.requires_grad
    assert torch.equal(found.candidates.boxes_of(found.classes, found.rows), found.boxes)
    assert torch.equal(found.candidates.scores[found.rows, found.classes], found.scores)


def test_gradients_are_those_of_the_image_processors_scores_and_boxes(built, photographs):
    """What it returns carries gradients: ours have to be equal, at each layer.

    The image needs a gradient, as an explanation sees to: transformers freezes the ResNet of DETR.
    """
    model, case = built
    kept = {}
    parts = dict(model.named_modules())
    handles = [
        parts[name].register_forward_hook(lambda m, a, out, name=name: kept.update({name: out})) for name in case.layers
    ]
    output, found = watched(model, photographs[0].clone().requires_grad_())
    for handle in handles:
        handle.remove()
    tensors = [
        (name, tensor) for name in case.layers for tensor in every(kept[name]) if tensor.requires_grad and tensor.dim()
    ]
    own = processed(case, output, size_of(photographs[0]))
    flat = [tensor for _, tensor in tensors]
    for i in (0, len(found) // 2, len(found) - 1):
        p = own["scores"][i].double()
        reference = torch.autograd.grad((p / (1 - p)).log(), flat, retain_graph=True, allow_unused=True)
        ours = torch.autograd.grad(found.why(i), flat, retain_graph=True, allow_unused=True)
        same(ours, reference)
        reached = {name for (name, _), slope in zip(tensors, ours) if slope is not None and slope.abs().max() > 0}
        assert reached == set(case.layers)
        box = found.candidates.box(int(found.rows[i]), int(found.classes[i]))
        edges = torch.tensor([1.0, 2.0, 3.0, 4.0])
        assert (box - own["boxes"][i]).abs().max() < 1e-3
        ours = torch.autograd.grad((box * edges).sum(), flat, retain_graph=True, allow_unused=True)
        theirs = (own["boxes"][i] * edges).sum()
        same(ours, torch.autograd.grad(theirs, flat, retain_graph=True, allow_unused=True))


def same(ours, reference):
    for mine, theirs in zip(ours, reference):
        mine = torch.zeros(()) if mine is None else mine
        theirs = torch.zeros(()) if theirs is None else theirs
        assert (mine - theirs).abs().max() <= 1e-3 * theirs.abs().max()


def test_candidates_are_all_queries_with_all_classes(built, photographs):
    """Their scores are the log odds of their confidences, which are those of the logits, worked out one by one."""
    model, _ = built
    with torch.no_grad():
        output, found = watched(model, photographs[1])
        candidates = found.candidates
        logits = output.logits[0].double().numpy()
        softmax = type(model).__name__ in SOFTMAX
        assert tuple(candidates.scores.shape) == (QUERIES, len(NAMES) + softmax) == logits.shape
        assert candidates.boxes.shape == (QUERIES, 4)
        for row in range(QUERIES):
            a = logits[row]
            for number in NAMES:
                others = np.exp(np.delete(a, number)).sum() if softmax else 1.0
                odds = np.exp(a[number]) / others
                assert abs(float(candidates.scores[row, number]) - odds / (1 + odds)) < 1e-5
                assert abs(float(candidates.score(row, number)) - np.log(odds)) < 1e-4
            x, y, width, height = output.pred_boxes[0, row].tolist()
            box = [128 * (x - width / 2), 64 * (y - height / 2), 128 * (x + width / 2), 64 * (y + height / 2)]
            assert np.abs(candidates.boxes[row].numpy() - box).max() < 1e-3
        if softmax:
            assert not candidates.scores[:, -1].any()


def test_a_query_may_be_detected_as_several_classes_and_the_most_is_the_image_processors(photographs):
    """100 of 120 pairs of query and class, and 30 of 120."""
    for name in ("ConditionalDetrForObjectDetection", "RTDetrForObjectDetection"):
        model, case = build(name, photographs), MODELS[name]
        with torch.no_grad():
            output, found = watched(model, photographs[0], conf=0.0)
        assert len(found) == case.most == len(processed(case, output, size_of(photographs[0]), 0.0)["scores"])
        assert len(set(found.rows.tolist())) < len(found)
        assert len(set(zip(found.rows.tolist(), found.classes.tolist()))) == len(found)


def test_the_score_does_not_saturate(one_of_each, photographs):
    """Where the confidence is 0 or 1 in single precision."""
    model, _ = one_of_each
    image = photographs[0]
    size = model.class_labels_classifier.out_features if hasattr(model, "class_labels_classifier") else len(NAMES)
    for most in (-80.0, 80.0):
        logits = torch.zeros(1, 2, size)
        logits[0, 1, 2] = most
        logits.requires_grad_()
        with TRANSFORMERS.watch(model) as find:
            model(image)
            found = find({"logits": logits, "pred_boxes": torch.full((1, 2, 4), 0.5)}, Thresholds())
        assert abs(float(found.candidates.scores[1, 2]) - (most > 0)) < 1e-30
        score = found.candidates.score(1, 2)
        assert abs(float(score.detach()) - (most - np.log(size - 1) * (size > len(NAMES)))) < 1e-4
        assert torch.autograd.grad(score, logits)[0][0, 1, 2] == 1


def test_explain(built, photographs):
    """A map for each detection of the image processor, of its label, confidence and box, cut to the image."""
    model, case = built
    before = state(model)
    found = fv.explain(model, photographs[0], layers=case.layers[0], conf=CONF)
    after = state(model)
    assert before[1] == after[1]
    assert all(torch.equal(tensor, after[0][name][0]) for name, (tensor, _, _) in before[0].items())
    with torch.no_grad():
        own = processed(case, model(photographs[0]), size_of(photographs[0]))
    assert [one.label for one in found] == [NAMES[number] for number in own["labels"].tolist()]
    assert np.abs([one.score for one in found] - own["scores"].numpy()).max() < 1e-5
    edges = np.clip(own["boxes"].numpy(), 0, [*size_of(photographs[0])[::-1]] * 2)
    assert np.abs([one.box for one in found] - edges).max() < 1e-3
    assert {one.map.shape for one in found} == {(128, 96)} and found[0].map.max() > 0.5
    assert np.abs(found[0].map - found[-1].map).max() > 0.01


def test_d_rise_runs_several_images_at_once(built, photographs):
    """The output, a dictionary with the queries of all images, is split, and the maps are those of one at a time."""
    model, _ = built
    image = photographs[1]
    with torch.no_grad():
        found = watched(model, image)[1]
    sizes = []
    handle = model.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    together = d_rise(model, image, found, masks=8, cells=4, batch=4)
    handle.remove()
    assert sizes[-2:] == [4, 4]
    assert np.abs(together - d_rise(model, image, found, masks=8, cells=4, batch=1)).max() < 1e-4
    assert together.shape == (len(found), 64, 128) and together.std(axis=(1, 2)).max() > 1e-3


def test_output_as_a_tuple_and_input_as_a_keyword(built, photographs):
    model, _ = built
    with torch.no_grad():
        for image in photographs:
            expected = watched(model, image)[1]
            for found in (
                watched(model, image, return_dict=False)[1],
                watched(model, pixel_values=image)[1],
                watched(model, torch.cat([image, image.flip(3)]))[1],
            ):
                assert len(found) == len(expected)
                assert torch.equal(found.classes, expected.classes) and torch.equal(found.rows, expected.rows)
                assert (found.boxes - expected.boxes).abs().max() < 1e-2
                assert (found.scores - expected.scores).abs().max() < 1e-4


def test_half_precision(one_of_each, photographs):
    """The same detections as the image processor's; it works out boxes in half precision, we do not."""
    model, case = one_of_each
    model = type(model)(model.config).eval()
    model.load_state_dict(one_of_each[0].state_dict())
    model = model.to(torch.bfloat16)
    image = photographs[0].bfloat16()
    output, found = watched(model, image)
    own = processed(case, output, size_of(image))
    assert len(found) == len(own["scores"]) >= 3
    assert torch.equal(found.scores, own["scores"].float())
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert (found.boxes - own["boxes"].float()).abs().max() < 2
    assert slopes(found.why(0), model)


def test_an_image_in_which_nothing_is_detected(one_of_each, photographs):
    model, case = one_of_each
    output, found = watched(model, photographs[0], conf=0.9999)
    assert len(found) == len(processed(case, output, size_of(photographs[0]), 0.9999)["scores"]) == 0
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.classes.shape == found.rows.shape == (0,)
    assert len(found.candidates) == QUERIES
    assert slopes(found.candidates.score(3, 1), model)


def slopes(score, model):
    """Whether a score depends on the model's encoder."""
    found = torch.autograd.grad(score, list(model.model.encoder.parameters()), allow_unused=True)
    return any(slope is not None and slope.abs().max() > 0 for slope in found)


def test_without_gradients_there_is_no_box_score(one_of_each, photographs):
    model, _ = one_of_each
    with torch.no_grad():
        assert watched(model, photographs[0])[1].candidates.box is None
    assert watched(model, photographs[0])[1].candidates.box is not None


def test_bad_output_and_a_model_that_was_not_run(one_of_each, photographs):
    model, _ = one_of_each
    good = model(photographs[0])
    with TRANSFORMERS.watch(model) as found:
        with pytest.raises(FeatvizError, match=r"was not run on pixel_values \[B, C, H, W\] within the block"):
            found(good, Thresholds())
        model(photographs[0])
        three = torch.zeros(1, 5, 3)
        for wrong in ({}, [], None, three, (three, three), {"logits": three}, {"logits": three, "pred_boxes": three}):
            with pytest.raises(FeatvizError, match="is not understood as detections: give as rows a function"):
                found(wrong, Thresholds())
        with pytest.raises(FeatvizError, match="is not understood as detections"):
            found({"logits": torch.zeros(0, 5, 3), "pred_boxes": torch.zeros(0, 5, 4)}, Thresholds())


def test_hooks_are_removed_when_the_model_fails(one_of_each):
    model, _ = one_of_each
    before = state(model)[1]
    with pytest.raises(ZeroDivisionError), TRANSFORMERS.watch(model):
        1 / 0  # noqa: B018
    assert state(model)[1] == before


def test_family(one_of_each):
    model, _ = one_of_each
    assert detections.family_of(model) is TRANSFORMERS
    assert detections.family_of(type("Own", (type(model),), {}).__new__(type(model))) is TRANSFORMERS
    for other in (nn.Sequential(), model.model, type(type(model).__name__, (nn.Module,), {})()):
        assert detections.family_of(other) is None
    for name in ("GroundingDinoForObjectDetection", "OwlViTForObjectDetection", "PPDocLayoutV2ForObjectDetection"):
        if hasattr(hf, name):
            assert not TRANSFORMERS.matches(getattr(hf, name).__new__(getattr(hf, name)))


def test_every_class_that_is_known_is_tested():
    assert not set(SOFTMAX) & set(SIGMOID)
    assert set(MODELS) == {*SOFTMAX, *SIGMOID}
