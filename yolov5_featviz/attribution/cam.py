"""Class activation maps: where in the image a layer raises the score of a class.

Gradients are computed here, from feature maps of any layout; the formulas by which the methods weight
them are in :mod:`yolov5_featviz.attribution.weighting`, or those of the grad-cam package
(``pytorch_grad_cam``), an optional extra.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple, Union

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.arrays.checkerboard import is_checkerboard, parity_shares, smoothed
from yolov5_featviz.arrays.normalize import normalize
from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.attribution.weighting import FORMULAS
from yolov5_featviz.draw.heatmap import HeatMap
from yolov5_featviz.draw.lettering import SEPARATOR
from yolov5_featviz.draw.page import map_title as describe_map
from yolov5_featviz.draw.record import map_record, number
from yolov5_featviz.draw.scale import Legend
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.models.hooks import eval_mode, output_hooks
from yolov5_featviz.models.layers import Layer, LayerIndex, LayerSpec, Target, index_layers, select_layers, unhookable
from yolov5_featviz.models.outputs import Input, Reshape, describe_output, patch_size, tensors_of, to_maps

# name -> name in captions, class of pytorch_grad_cam; none if the formula is ours
CAM_METHODS: Dict[str, Tuple[str, str]] = {
    "layer-cam": ("Layer-CAM", ""),
    "grad-cam": ("Grad-CAM", "GradCAM"),
    "grad-cam++": ("Grad-CAM++", "GradCAMPlusPlus"),
    "odam": ("ODAM", ""),
    "ss-grad-cam++": ("SSGrad-CAM++", ""),
    "eigen-cam": ("Eigen-CAM", ""),
}


def cam(
    model: nn.Module,
    image: torch.Tensor,
    layers: LayerSpec,
    target: Union[Target, Callable[[Any], torch.Tensor]] = None,
    method: str = "layer-cam",
    merge: bool = False,
    region: Optional[Region] = None,
    name: str = "",
    reshape: Optional[Reshape] = None,
    smooth: bool = False,
) -> List[HeatMap]:
    """Compute class activation maps of ``layers``.

    Args:
        model: any ``nn.Module``. It is not changed, nor are its gradients.
        image: the model's input ``[1, C, H, W]``, preprocessed.
        layers: a layer selection; those of groups that return no feature map, or do not feed the
            score, are skipped.
        target: the target whose score is explained. Of several detections, each is explained alone: the map is
            the maximum of their maps, each scaled to its maximum.

            - of a classifier: a class by its number; None for the one with the highest score.
            - of a detector of a known family: a class by name or number, for all its detections;
              ``person:0`` for the person with the highest score, ``:0`` for the highest of all; a box
              (left, top, right, bottom in pixels of the input) for the detection there; None for all.
            - of any model: a function from its output to a score, a tensor of one element.
        method: one of these, ``A`` being a layer's activations ``[C, H, W]`` and ``G`` the gradient of
            the score with respect to them.

            - ``layer-cam``: the sum over channels of ``max(G, 0) A`` (P.-T. Jiang et al., *IEEE Trans.
              Image Process.* 30, 2021). Weights each cell by itself, hence suits detections, which
              depend on few cells each, and shallow layers.
            - ``grad-cam``: of ``mean(G) A``, the mean taken over the cells of a channel (R. R. Selvaraju
              et al., ICCV 2017). For the last layers of classifiers.
            - ``grad-cam++``: with the weights of A. Chattopadhay et al., WACV 2018, which assume
              positive activations; after SiLU they are not.
            - ``odam``: of ``blur(G) A``, the gradient smoothed by a Gaussian with a standard deviation of
              one cell (C. Zhao and A. B. Chan, ICLR 2023 and *IEEE Trans. Pattern Anal. Mach. Intell.*
              2024). Like ``layer-cam``, it depends on the place; places that lower the score count, too.
              Needs no package.
            - ``ss-grad-cam++``: the weights of ``grad-cam++``, times ``|G| / max |G|``, the largest of a
              channel, at each place (T. Yamauchi, CVPR workshops 2024). In the weights,
              negative activations count as 0. Needs no package.
            - ``eigen-cam``: the cells' component along the first principal axis of the channels (M. B.
              Muhammad and M. Yeasin, IJCNN 2020), with the sign that agrees with the mean activation.
              Independent of targets, and needs no package.
        merge: return one map for all layers, the mean of their maps, each scaled to its maximum, at
            the finest of their sizes; else one for each.
        region: where in the input the image lies, for overlays; see :class:`FeatureMap`.
        name: name of the image, for captions.
        reshape: as for :func:`yolov5_featviz.features.capture.capture`.
        smooth: filter the map of each score, before it is scaled, with the binomial kernel of 3 by 3 cells,
            which removes the checkerboard that the gradient of a strided convolution has. Titles say so,
            and ``about["smooth"]`` is True.

    Returns:
        A :class:`HeatMap` for each layer, or one. Negative values are 0, the largest is 1; a layer that
        lowers the score everywhere gives a map of 0. ``feature_map.data`` holds the values before that,
        ``[1, H, W]``: of several detections or layers, what they were combined to. ``about["parity"]`` has
        the shares of the energy by :func:`~yolov5_featviz.arrays.checkerboard.parity_shares`, and the title
        gives the largest if it makes a checkerboard.

    Raises:
        FeatvizError: invalid argument, grad-cam is not installed, no such detection, or a layer
            selected by name returns no feature map or does not feed the score.
    """
    check_method(method, target)
    weigh = method_of(method, smooth)
    if not isinstance(image, torch.Tensor) or image.dim() != 4 or len(image) != 1:
        raise FeatvizError(f"a class activation map needs one image [1, C, H, W], not {describe_output(image)}")
    with gradients_on(), plain_errors():
        index = index_layers(differentiable(model))
        found, output = run_kept(index, select_layers(index, layers), image, reshape)
        if method == "eigen-cam":
            words, count = "", 0
            planes = [_Plane(weigh(one.to_array(one.tensor), None)) for one in found]
        else:
            scores, words = _scores(index, output, target)
            planes, count = _explain(scores, found, weigh), len(scores)
    size = (int(image.shape[2]), int(image.shape[3]))
    maps: List[FeatureMap] = []
    lit: List[Set[int]] = []
    for one, plane in zip(found, planes):
        if plane.values is None:
            if one.layer.optional:
                continue
            raise FeatvizError(f"{one.layer.title} does not feed {words}: take a layer that comes before it")
        maps.append(FeatureMap(torch.from_numpy(plane.values)[None], one.layer, size, one.level, name, region=region))
        lit.append(plane.lit)
    if not maps:
        raise FeatvizError(f"none of the layers {layers} feeds {words}")
    boards = [_board(one) for one in maps]
    if merge:
        maps, lit, boards = [merged(maps)], [set().union(*lit)], [max(boards)]
    title = CAM_METHODS[method][0] + (f" of {words}" if words else "")
    titles = [_title(title, count, len(which), smooth) for which in lit]
    return [_heat(one, words, smooth, board, merge) for one, words, board in zip(maps, titles, boards)]


@dataclass
class _Plane:
    """The map of one tensor, ``[H, W]``, None if no score depends on it; and the scores that it raises somewhere."""

    values: Optional[np.ndarray] = None
    lit: Set[int] = field(default_factory=set)


def _explain(
    scores: torch.Tensor, found: Sequence[Kept], weigh: Callable[[np.ndarray, Optional[np.ndarray]], np.ndarray]
) -> List[_Plane]:
    """Return the map of each tensor: of one score its values, of several the maximum of their scaled maps.

    The scores are taken one by one: memory does not depend on their number.
    """
    tensors = [one.tensor for one in found]
    activations = [one.to_array(tensor) for one, tensor in zip(found, tensors)]
    planes = [_Plane() for _ in found]
    for i, score in enumerate(scores):
        gradients = gradients_of(score, tensors, i + 1 < len(scores))
        for one, plane, activation in zip(found, planes, activations):
            gradient = gradients.get(id(one.tensor))
            if gradient is None:
                continue
            values = weigh(activation, one.to_array(gradient))
            scaled, limits = normalize(values[None], "zero")
            if limits[0, 1] > 0:
                plane.lit.add(i)
            if len(scores) > 1:
                values = scaled[0]
            plane.values = values if plane.values is None else np.maximum(plane.values, values)
    return planes


def _title(title: str, count: int, lit: int, smooth: bool) -> str:
    """Add to a title how the maps of ``count`` scores were made one map, of which ``lit`` have a positive value."""
    parts = [title]
    if count > 1:
        parts.append("each scaled to its maximum")
    if 0 < lit < count:
        parts.append(f"{count - lit} of {count} without a positive value")
    if smooth:
        parts.append("smoothed 3×3")
    return SEPARATOR.join(parts)


def gradients_of(score: torch.Tensor, tensors: List[torch.Tensor], again: bool) -> Dict[int, Optional[torch.Tensor]]:
    """Return the gradient of the score by each tensor's id; None where the score does not depend on the tensor.

    ``again``: the graph is needed again.
    """
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    if not wanted:
        raise FeatvizError("none of the layers is run with gradients: this model switches them off")
    found = torch.autograd.grad(score, wanted, retain_graph=again, allow_unused=True)
    return {id(tensor): gradient for tensor, gradient in zip(wanted, found)}


@dataclass(frozen=True, eq=False)
class Kept:
    """One tensor that a layer returned, and its conversion to ``[1, C, H, W]``."""

    layer: Layer
    level: Optional[str]
    tensor: torch.Tensor
    to_array: Callable[[torch.Tensor], np.ndarray]


def check_method(method: str, target: Any = None) -> None:
    """Raise FeatvizError for an unknown method, one that takes no target, or a missing grad-cam package."""
    method_of(method)
    if method == "eigen-cam" and target is not None:
        raise FeatvizError(f"eigen-cam does not depend on a target: leave {target} out")


def method_of(method: str, smooth: bool = False) -> Callable[[np.ndarray, Optional[np.ndarray]], np.ndarray]:
    """Return a function from activations and gradients, ``[1, C, H, W]``, to a map ``[H, W]``."""
    if smooth:
        weigh_alone = method_of(method)
        return lambda activations, gradients: smoothed(weigh_alone(activations, gradients))
    if method not in CAM_METHODS:
        raise FeatvizError(f"no method {method!r}: take one of {', '.join(CAM_METHODS)}")
    if method in FORMULAS:
        return FORMULAS[method]
    try:
        import pytorch_grad_cam
    except ImportError:
        raise FeatvizError(
            f"{method} needs the grad-cam package: pip install 'yolov5-featviz[cam]'; {', '.join(FORMULAS)} do not"
        ) from None
    engine = getattr(pytorch_grad_cam, CAM_METHODS[method][1])(nn.Linear(1, 1), [])  # used for its formula only

    def weigh(activations: np.ndarray, gradients: Optional[np.ndarray]) -> np.ndarray:
        return np.asarray(engine.get_cam_image(None, None, None, activations, gradients, False)[0], np.float32)

    return weigh


def run_kept(
    index: LayerIndex, layers: List[Layer], image: torch.Tensor, reshape: Optional[Reshape]
) -> Tuple[List[Kept], Any]:
    """Run the model on the image; return the outputs of the layers, and of the model."""
    given, patch = Input((int(image.shape[2]), int(image.shape[3])), 1), patch_size(index.root)
    found: Dict[str, List[Kept]] = {}

    def hook_of(layer: Layer) -> Callable[..., Any]:
        def to_array(tensor: torch.Tensor) -> np.ndarray:
            return to_maps(tensor.detach(), layer.module, given, patch, reshape).float().cpu().numpy()

        def hook(output: Any) -> Any:
            found[layer.path] = _keep(layer, output, to_array)
            return output.clone() if isinstance(output, torch.Tensor) else None  # later layers may work in place

        return hook

    why = next(filter(None, (unhookable(layer.module, layer.title) for layer in layers)), None)
    if why:
        raise FeatvizError(why)
    with eval_mode(index.root), output_hooks((layer.module, hook_of(layer)) for layer in layers):
        output = index.root(image.detach().clone().requires_grad_(True))
    for layer in layers:
        if layer.path not in found and not layer.optional:
            raise FeatvizError(f"{layer.title} was not run in the forward pass")
    return [one for layer in layers for one in found.get(layer.path, [])], output


def _keep(layer: Layer, output: Any, to_array: Callable[[torch.Tensor], np.ndarray]) -> List[Kept]:
    """Return those tensors of a layer's output that are feature maps."""
    kept: List[Kept] = []
    why = ""
    for level, tensor in tensors_of(output):
        try:
            to_array(tensor)
        except FeatvizError as error:
            why = why or f": {error}" * bool(str(error))
        else:
            kept.append(Kept(layer, None if isinstance(output, torch.Tensor) else level, tensor, to_array))
    if not kept and not layer.optional:
        raise FeatvizError(f"{layer.title} yields {describe_output(output)}, not a feature map [B, C, H, W]{why}")
    return kept


def _scores(index: LayerIndex, output: Any, target: Any) -> Tuple[torch.Tensor, str]:
    """Return the scores of the target, ``[n]``, with their gradients, and their description."""
    if callable(target):
        scores, words = target(output), "the score"
        if not isinstance(scores, torch.Tensor) or scores.numel() != 1:
            raise FeatvizError(f"target returned {describe_output(scores)}: return a tensor of one element, the score")
    else:
        scores, words = (index.score or class_score)(output, target)
    if not scores.requires_grad:
        raise FeatvizError("the score has no gradient: this model, or the target, switches gradients off")
    return scores.reshape(-1), words


def class_score(output: Any, target: Target) -> Tuple[torch.Tensor, str]:
    """Return the score of a class by number, or the highest if ``target`` is None, and its description."""
    scores = next((tensor for _, tensor in tensors_of(output) if tensor.dim() == 2), None)
    if scores is None:
        raise FeatvizError(
            f"the model yields {describe_output(output)}, no class scores [1, classes]: "
            "give as target a function from the output to a score"
        )
    if target is not None and not str(target).isdigit():
        raise FeatvizError(f"no class {target!r}: give a number, 0 to {scores.shape[1] - 1}")
    number = int(scores[0].argmax()) if target is None else int(str(target))
    if number >= scores.shape[1]:
        raise FeatvizError(f"no class {number}: this model has classes 0 to {scores.shape[1] - 1}")
    return scores[0, number], f"class {number}"


def _board(feature_map: FeatureMap) -> float:
    """Return the largest share of a map's energy by the parity of its cells if it is a checkerboard, else 0."""
    values = normalize(feature_map.data.numpy(), "zero")[0][0]
    return float(parity_shares(values).max()) if is_checkerboard(values) else 0.0


def _heat(feature_map: FeatureMap, title: str, smooth: bool, board: float, several: bool) -> HeatMap:
    values, limits = normalize(feature_map.data.numpy(), "zero")
    key = Legend("0", "max") if limits[0, 1] > 0 else Legend("all values ≤ 0", "")
    parity = [number(share) for share in parity_shares(values[0])]
    about = map_record(feature_map, title, [], limits, norm="zero", smooth=smooth or None, parity=parity)
    if board:
        where = " of a layer" * several
        title += f"{SEPARATOR}checkerboard: {board:.0%} of the energy on one cell in four{where}"
    return HeatMap(values[0], key, describe_map(feature_map, title), feature_map, about)


def heat_of(maps: List[FeatureMap], title: str) -> HeatMap:
    """Return the map of one score, merged if there are several layers; ``title`` says of what it is."""
    one, board = merged(maps) if len(maps) > 1 else maps[0], max(_board(part) for part in maps)
    return _heat(one, title, False, board, len(maps) > 1)


def merged(maps: List[FeatureMap]) -> FeatureMap:
    """Return the mean of the maps, each scaled to its maximum, at the finest of their sizes."""
    height, width = (max(int(feature_map.data.shape[d]) for feature_map in maps) for d in (1, 2))
    scaled = (normalize(feature_map.data.numpy(), "zero")[0][0] for feature_map in maps)
    mean = np.mean([resample(values, (height, width)) for values in scaled], axis=0)
    names = [feature_map.layer.name for feature_map in maps]
    name = "+".join(names) if len(names) <= 4 else f"{names[0]}+{len(names) - 1}more"
    whole = Layer("", maps[0].layer.module, "merged", name=name)
    return replace(maps[0], data=torch.from_numpy(mean)[None], layer=whole, level=None)


@contextmanager
def gradients_on() -> Iterator[None]:
    """Enable gradients within the block, also in ``no_grad`` and inference mode."""
    with ExitStack() as stack:
        if hasattr(torch, "inference_mode"):  # torch 1.9
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn RuntimeErrors of torch into one-line FeatvizErrors."""
    try:
        yield
    except RuntimeError as error:
        raise FeatvizError(f"the model cannot be run with gradients: {reason(error)}") from error


def differentiable(model: nn.Module) -> nn.Module:
    """Return the model, or a copy if it has tensors made in inference mode, which cannot take part in gradients."""

    def tensors(value: Any) -> Iterator[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple)):
            for part in value.values() if isinstance(value, dict) else value:
                yield from tensors(part)

    every = (t for module in model.modules() for value in vars(module).values() for t in tensors(value))
    return deepcopy(model) if any(getattr(t, "is_inference", bool)() for t in every) else model
