"""Bridging: what each detection loses when a layer is put out of action, and what it is given is passed on."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np
import torch
from torch import nn

from yolov5_featviz.attribution.ablation import detect
from yolov5_featviz.attribution.deletion import KNOWN, confidences
from yolov5_featviz.attribution.passes import Find, Progress, candidates_in
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import Detections
from yolov5_featviz.models.hooks import Hooks, eval_mode
from yolov5_featviz.models.layers import Layer, index_layers, module_at, unhookable
from yolov5_featviz.models.outputs import check_image


def bridge(
    model: nn.Module,
    image: torch.Tensor,
    layers: Sequence[Layer],
    detections: Optional[Detections] = None,
    progress: Optional[Progress] = None,
    find: Optional[Find] = None,
) -> List[Optional[np.ndarray]]:
    """Put the identity in the place of each layer, one by one, and see what each detection loses.

    What is left of a detection is the highest confidence of its class among the candidates whose IoU with its box is
    0.5 or more; see :func:`~yolov5_featviz.attribution.deletion.confidences`.

    Args:
        model: the detector. It is not changed, and runs without gradients, once a layer that can be bridged.
        image: its input, ``[1, C, H, W]``, preprocessed.
        layers: of this model.
        detections: found in this image. None: what the model finds, as for
            :func:`~yolov5_featviz.attribution.ablation.ablate`.
        progress: wraps the iterable of layers, as ``tqdm`` does.
        find: for detectors of no known family, a function from the output to :class:`Detections`.

    Returns:
        For each layer float64 ``[K]``: ``1 - left / confidence``, 0 where a detection is as it was, 1 where it is
        gone, below 0 where it gains. None for a layer that cannot be bridged: it takes more than one tensor, or
        returns anything but one tensor of the same shape, or is not run in the forward pass.

    Raises:
        FeatvizError: the detections are not those of the image, ``find`` is missing, or the model cannot be run.
    """
    check_image(image, "bridging")
    detections = detect(model, image, find=find) if detections is None else detections
    root = index_layers(model).root
    every, scores = range(len(detections)), detections.scores.double().numpy()
    with eval_mode(model):
        with _survey(layers) as can:
            before = candidates_in(model, image, find)
        if (confidences(detections, every, before) < KNOWN * scores).any():
            raise FeatvizError("the detections are not those of this model in this image: find them in it first")
        found: List[Optional[np.ndarray]] = []
        for layer in layers if progress is None else progress(layers):
            found.append(None)
            if layer.path in can:
                with _bridged(root, layer) as given:
                    left = confidences(detections, every, candidates_in(model, image, find))
                found[-1] = 1 - left / scores.clip(min=1e-12) if given.count else None
    return found


@contextmanager
def _survey(layers: Iterable[Layer]) -> Iterator[Set[str]]:
    """Yield a set, which after a forward pass within the block holds the paths of the layers that can be bridged."""
    can: Dict[str, bool] = {}
    fitting: Set[str] = set()
    hooks = Hooks()

    def before(path: str, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        can[path] = can.get(path, True) and len(args) == 1 and not kwargs

    def after(path: str, module: nn.Module, args: Any, output: Any) -> None:
        tensors = isinstance(args[0] if args else None, torch.Tensor) and isinstance(output, torch.Tensor)
        can[path] = can[path] and tensors and args[0].shape == output.shape

    try:
        for layer in layers:
            if unhookable(layer.module) is None:
                hooks.add(layer.module, partial(before, layer.path), partial(after, layer.path))
        yield fitting
        fitting.update(path for path, fits in can.items() if fits)
    finally:
        hooks.remove()


class _Given:
    """Hooks that return what a module is given.

    Attributes:
        count: the number of calls.
    """

    def __init__(self) -> None:
        self.count = 0
        self._tensors: List[torch.Tensor] = []

    def before(self, module: nn.Module, args: Tuple[torch.Tensor]) -> Tuple[torch.Tensor]:
        self._tensors.append(args[0])
        return (args[0].clone(),)  # the module may work in place

    def after(self, module: nn.Module, args: Any, output: Any) -> torch.Tensor:
        self.count += 1
        return self._tensors.pop()


@contextmanager
def _bridged(root: nn.Module, layer: Layer) -> Iterator[_Given]:
    """Let a layer return what it is given within the block."""
    given = _Given()
    with _alone(root, layer) as module:
        handles = [module.register_forward_pre_hook(given.before), module.register_forward_hook(given.after)]
        try:
            yield given
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _alone(root: nn.Module, layer: Layer) -> Iterator[nn.Module]:
    """Yield the module at a layer's place; if it is at others as well, a shallow copy, put there within the block."""
    places = sum(child is layer.module for parent in root.modules() for child in parent._modules.values())
    head, _, name = layer.path.rpartition(".")
    parent = module_at(root, head)
    if places < 2 or parent is None:
        yield layer.module
        return
    alone = copy(layer.module)
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        vars(alone)[hooks] = OrderedDict(vars(alone)[hooks])
    parent._modules[name] = alone
    try:
        yield alone
    finally:
        parent._modules[name] = layer.module
