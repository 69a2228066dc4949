"""Class activation maps: where in the image a layer raises the score of a class.

Gradients are computed here, from feature maps of any layout; the formulas by which the methods weight
them are in :mod:`yolov5_featviz.attribution.weighting`, or those of the grad-cam package
(``pytorch_grad_cam``), an optional extra.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Boxes, Region
from yolov5_featviz.arrays.checkerboard import smoothed
from yolov5_featviz.attribution.combined import combined
from yolov5_featviz.attribution.view import View
from yolov5_featviz.attribution.weighting import FORMULAS
from yolov5_featviz.draw.heatmap import HeatMap
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.models.detections import (
    Detections,
    Thresholds,
    class_name,
    counted,
    family_of,
    names_of,
    thresholds_of,
    watching,
)
from yolov5_featviz.models.hooks import eval_mode, output_hooks
from yolov5_featviz.models.layers import Layer, LayerIndex, LayerSpec, Target, index_layers, select_layers, unhookable
from yolov5_featviz.models.outputs import Input, Reshape, check_image, describe_output, patch_size, tensors_of, to_maps
from yolov5_featviz.models.targets import OVERLAP, Place, cases_of, class_number, confidence, is_number, parse_target

INDEPENDENT = "the score does not depend on this layer"

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
    size: Optional[Tuple[int, int]] = None,
    conf: float = 0.25,
    iou: float = 0.45,
) -> List[HeatMap]:
    """Compute class activation maps of ``layers``.

    Args:
        model: any ``nn.Module``. It is not changed, nor are its gradients.
        image: the model's input ``[1, C, H, W]``, preprocessed.
        layers: a layer selection; those of groups that return no feature map, or do not feed the
            score, are skipped.
        target: the target whose score is explained. Of several detections, each is explained alone: the map is
            the maximum of their maps, each scaled to its maximum.

            - of a classifier: a class by its number, or its name if the model has ``names``; None for the one with
              the highest score.
            - of a detector of a known family: a class by name or number, for all its detections;
              ``person:0`` for the person with the highest score, ``:0`` for the highest of all;
              ``person@x0,y0,x1,y1`` for the best candidate that overlaps this box by half, detected or not,
              ``@x0,y0,x1,y1`` of any class; a box (left, top, right, bottom) for the detection there; None for all.
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
        size: height and width of the original image, in whose pixels the target's box is given; None for those of
            ``region``.
        conf, iou: thresholds of detectors that have none of their own.

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
    check_image(image, "a class activation map")
    with ExitStack() as stack:
        stack.enter_context(gradients_on())
        stack.enter_context(plain_errors())
        index = index_layers(differentiable(model))
        detects = method != "eigen-cam" and not callable(target) and family_of(index.root) is not None
        rows = stack.enter_context(watching(index.root)) if detects else None
        kept, output = run_kept(index, select_layers(index, layers), image, reshape)
        view = View(index.root, image, region, size)
        words, every = "", []  # type: str, List[List[Optional[Plane]]]
        if method == "eigen-cam":
            every = [[Plane(weigh(one.to_array(one.tensor), None)) for one in kept]]
        elif callable(target):
            words, every = "the score", planes_of(kept, [_score_by(target, output)], weigh)
        elif rows is None or _is_classifier(output):
            score, words = _class_score(output, target, index.root)
            every = planes_of(kept, [score], weigh)
        else:
            thresholds = thresholds_of(index.root, Thresholds(conf, iou))
            scores, words = _scores_of(rows(output, thresholds), target, thresholds, view.to_input)
            every = planes_of(kept, scores, weigh)
    maps: List[List[FeatureMap]] = []
    for one, planes in zip(kept, zip(*every)):
        found = filled(planes)
        if not found and not one.layer.optional:
            raise FeatvizError(f"{one.layer.title} does not feed {words}: take a layer that comes before it")
        if found:
            maps.append([map_of(one, plane, view, name) for plane in found])
    if not maps:
        raise FeatvizError(f"none of the layers {layers} feeds {words}")
    return combined(maps, CAM_METHODS[method][0] + (f" of {words}" if words else ""), smooth, merge)


class Plane(NamedTuple):
    """The map of one score in one tensor, ``[H, W]``, and a remark on it."""

    values: np.ndarray
    remark: str = ""


def planes_of(
    kept: Sequence[Kept],
    scores: Sequence[torch.Tensor],
    weigh: Callable[[np.ndarray, Optional[np.ndarray]], np.ndarray],
) -> List[List[Optional[Plane]]]:
    """Return for each score its map in each tensor; None where it does not depend on the tensor.

    The scores are taken one by one: the memory for gradients does not depend on their number.
    """
    tensors = [one.tensor for one in kept]
    activations = [one.to_array(tensor) for one, tensor in zip(kept, tensors)]
    every: List[List[Optional[Plane]]] = []
    if not all(score.requires_grad for score in scores):
        raise FeatvizError("the score has no gradient: this model, or the target, switches gradients off")
    for i, score in enumerate(scores):
        gradients = gradients_of(score, tensors, i + 1 < len(scores))
        planes: List[Optional[Plane]] = []
        for one, activation in zip(kept, activations):
            gradient = gradients.get(id(one.tensor))
            if gradient is None:
                planes.append(None)
                continue
            slope = one.to_array(gradient)
            planes.append(Plane(weigh(activation, slope), _reach(slope)))
        every.append(planes)
    return every


def _reach(gradient: np.ndarray) -> str:
    """Say so if a score depends on a single cell of a layer, which is all that its map can show, or on none."""
    cells = np.abs(gradient[0]).sum(axis=0)
    lit = np.count_nonzero(cells)
    return INDEPENDENT if not lit else "only the cell that detects can be lit" if lit == 1 < cells.size else ""


def filled(planes: Sequence[Optional[Plane]]) -> List[Plane]:
    """Return the maps of several scores in one tensor, 0 where a score does not depend on it; none if none does."""
    first = next((plane for plane in planes if plane is not None), None)
    return [] if first is None else [plane or Plane(np.zeros_like(first.values)) for plane in planes]


def map_of(one: Kept, plane: Plane, view: View, name: str, boxes: Optional[Boxes] = None) -> FeatureMap:
    """Return a map as a feature map of the tensor that it is of."""
    data = torch.from_numpy(plane.values)[None]
    return FeatureMap(data, one.layer, view.frame.size, one.level, name, None, view.window, boxes)


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


def _scores_of(
    detections: Detections, target: Target, thresholds: Thresholds, place: Place
) -> Tuple[List[torch.Tensor], str]:
    """Return the score of each detection of a target, with its gradient, and their description."""
    names = detections.names
    if not isinstance(target, (str, int, np.integer, type(None))):
        target = _detected_at(detections, target, place)
    cases = cases_of(detections, target, thresholds, place)
    words = counted(torch.tensor([case.number for case in cases]), names)
    if len(cases) == 1:
        one = cases[0]
        words = caption(detections.name(one.number), one.score, one.kind, one.note, one.detection is not None)
    return [detections.candidates.score(case.row, case.number) for case in cases], words


def _detected_at(detections: Detections, box: Sequence[float], place: Place) -> List[float]:
    """Return a box as a list. Raises FeatvizError if there is no detection."""
    from torchvision.ops import box_iou

    edges = [float(edge) for edge in box]
    there = torch.tensor([list(place(parse_target(edges).box or ()))], dtype=torch.float32)
    if not (box_iou(there, detections.boxes) >= OVERLAP).any():
        found = counted(detections.classes, detections.names) or "nothing"
        raise FeatvizError(f"no detection at {', '.join(f'{edge:g}' for edge in edges)}: found: {found}")
    return edges


def caption(label: str, score: float, kind: str = "", note: str = "", detected: bool = True) -> str:
    """Describe a detection, or what is not one: ``bus 0.18, missed: best candidate 0.18, below 0.25``."""
    what = kind or ("" if detected else "not detected")
    return ": ".join(filter(None, [", ".join(filter(None, [f"{label} {confidence(score)}", what])), note]))


def _is_classifier(output: Any) -> bool:
    """Whether an output is class scores ``[1, classes]``, or several such, and nothing else."""
    tensors = [tensor for _, tensor in tensors_of(output)]
    return bool(tensors) and all(tensor.dim() == 2 and len(tensor) == 1 for tensor in tensors)


def _score_by(target: Callable[[Any], torch.Tensor], output: Any) -> torch.Tensor:
    score = target(output)
    if not isinstance(score, torch.Tensor) or score.numel() != 1:
        raise FeatvizError(f"target returned {describe_output(score)}: return a tensor of one element, the score")
    return score


def _class_score(output: Any, target: Target, root: Any) -> Tuple[torch.Tensor, str]:
    """Return the score of a class, or the highest if ``target`` is None, and the class's name."""
    scores = next((tensor for _, tensor in tensors_of(output) if tensor.dim() == 2), None)
    if scores is None:
        raise FeatvizError(
            f"the model yields {describe_output(output)}, no class scores [1, classes]: "
            "give as target a function from the output to a score"
        )
    given, last = getattr(root, "names", ()), scores.shape[1] - 1
    names = names_of(given if isinstance(given, (dict, list, tuple)) else ())
    if target is not None and not names and not is_number(str(target)):
        raise FeatvizError(f"no class {target!r}: give a number, 0 to {last}")
    number = int(scores[0].argmax()) if target is None else class_number(str(target), names)
    if number is None or number > last:
        raise FeatvizError(f"no class {target}: this model has classes 0 to {last}")
    return scores[0, number], class_name(number, names)


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
