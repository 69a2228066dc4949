"""What detections that were made elsewhere, as by a script, lose without each channel of some layers."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.attribution.ablation import NO_ORDER, UnorderedError, ablate, detect
from yolov5_featviz.attribution.explain import made_elsewhere
from yolov5_featviz.attribution.passes import Find, Progress
from yolov5_featviz.draw.channels import NOTHING
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import DEFAULTS, Detections, Thresholds, family_of
from yolov5_featviz.models.layer_output import Dependence
from yolov5_featviz.models.layers import Layer, index_layers

NOT_THESE = "the model alone detects nothing of these classes"
Bar = Callable[[Layer], Progress]


def dependences(
    model: nn.Module,
    image: torch.Tensor,
    layers: Sequence[Layer],
    found: Optional[Boxes] = None,
    thresholds: Thresholds = DEFAULTS,
    lost: Optional[Callable[[int], None]] = None,
    progress: Optional[Bar] = None,
    find: Optional[Find] = None,
) -> Dict[str, Dependence]:
    """Measure what the detections in an image lose without each channel; see :func:`ablate`.

    Args:
        model: the detector. It is not changed, and runs without gradients, once a channel of all layers together.
        image: its input, ``[1, C, H, W]``.
        layers: the layers.
        found: the detections, with scores and classes, in pixels of the input. None: those that the model makes.
        thresholds: of detectors that have none of their own.
        lost: called with the number of ``found`` that are none of the model's candidates, if any. They do not count;
            if it is all of them, those of the same classes that the model itself makes do.
        progress: returns what wraps the passes of a layer, as ``tqdm`` does.
        find: for detectors of no known family, a function from the output to :class:`Detections`.

    Returns:
        Path of a layer -> what its channels are worth. Where that cannot be measured, the note has the reason.
    """
    if found is not None and not len(found):
        return {layer.path: Dependence.unknown(NOTHING) for layer in layers}
    try:
        detections = _detections(model, image, found, thresholds, lost, find)
    except FeatvizError as error:
        return {layer.path: Dependence.unknown(str(error)) for layer in layers}

    def measured(layer: Layer) -> Dependence:
        try:
            bar = None if progress is None else progress(layer)
            return ablate(model, image, layer, detections, progress=bar, find=find)
        except UnorderedError:
            return Dependence.unknown(NO_ORDER)
        except FeatvizError as error:
            return Dependence.unknown(str(error))

    if not len(detections):
        return {layer.path: Dependence.unknown(NOTHING) for layer in layers}
    return {layer.path: measured(layer) for layer in layers}


def _detections(
    model: nn.Module,
    image: torch.Tensor,
    found: Optional[Boxes],
    thresholds: Thresholds,
    lost: Optional[Callable[[int], None]],
    find: Optional[Find],
) -> Detections:
    root = index_layers(model).root
    if find is None and family_of(root) is None:
        raise FeatvizError(f"{type(root).__name__} is no detector of a known family")
    own = detect(model, image, thresholds, find)
    if found is None:
        return own
    missing: List[int] = []
    try:
        return made_elsewhere(own, found, missing.append)
    except FeatvizError:
        if not missing:
            raise
        kinds: Any = [] if found.classes is None else found.classes.tolist()
        same = [i for i, kind in enumerate(own.classes.tolist()) if kind in kinds]
        if not same:
            raise FeatvizError(NOT_THESE) from None
        return own.of(own.rows[same].tolist(), own.classes[same].tolist())
    finally:
        if missing and lost is not None:
            lost(missing[0])
