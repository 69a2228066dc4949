"""Ablation: what each detection loses when a channel of a layer no longer tells one place from another."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Optional, Tuple, Union

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.attribution.passes import Find, Progress, each_candidates, shown
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.models.detections import (
    DEFAULTS,
    SAME_SCORE,
    Candidates,
    Detections,
    Thresholds,
    frame_of,
    thresholds_of,
    watching,
)
from yolov5_featviz.models.hooks import eval_mode, output_hooks
from yolov5_featviz.models.layer_output import Dependence
from yolov5_featviz.models.layers import Layer, LayerSpec, index_layers, select_layers, unhookable
from yolov5_featviz.models.outputs import Input, check_image, describe_output, to_maps

NO_ORDER = "the candidates of this detector are in no fixed order by which to follow a detection"


class UnorderedError(FeatvizError):
    """The candidates of a detector are in no fixed order, so that a detection cannot be followed."""


@dataclass(frozen=True, eq=False)
class Ablation(Dependence):
    """What a layer's channels are worth to each detection.

    Attributes:
        boxes: the K detections, in pixels of the network's input as its layers see it.
        lost: float64 ``[K, C]``, the confidence that each detection loses without the channel; negative where it gains.
        scores: float64 ``[K]``, the confidence with all channels.
        activations: float32 ``[C, H, W]``, the layer's.
    """

    activations: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32), repr=False)

    def maps(self) -> np.ndarray:
        """Return Ablation-CAM, ``[K, H, W]``, float32.

        ``ReLU(sum over channels of (lost / score) activation)``: H. G. Ramaswamy and S. Desai, WACV 2020. There, a
        channel is put to 0, here to its mean.
        """
        summed = np.tensordot(self.shares, self.activations.astype(np.float64), 1)
        return np.asarray(summed.clip(min=0), np.float32)


def ablate(
    model: nn.Module,
    image: torch.Tensor,
    layer: Union[LayerSpec, Layer],
    detections: Optional[Detections] = None,
    batch: Optional[int] = None,
    progress: Optional[Progress] = None,
    find: Optional[Find] = None,
) -> Ablation:
    """Put the channels of a layer to their mean over the image, one by one, and see what each detection loses.

    A detection is followed by its row among the candidates, so rows have to be in a fixed order, as those of
    one-stage detectors are. Those that are sorted or selected anew in every pass, as proposals or queries by their
    scores, are refused: where the image is half as bright, their boxes are elsewhere.

    Args:
        model: the detector. It is not changed, and runs without gradients, once a channel.
        image: the model's input ``[1, C, H, W]``, preprocessed.
        layer: a layer that returns one feature map ``[B, C, H, W]``; as in a layer selection.
        detections: what is explained, found in this image. None: what the model finds, for YOLOv5 and Ultralytics
            above a confidence of 0.25.
        batch: the most channels in one pass; None for 8, on a GPU 32; see
            :func:`~yolov5_featviz.attribution.passes.each_candidates`.
        progress: wraps the iterable of what is found without each channel, in order, as ``tqdm`` does.
        find: for detectors of no known family, a function from the output for one image to :class:`Detections`.

    Raises:
        FeatvizError: no such layer, or several; it returns no feature map; the detections are not those of the image,
            or cannot be followed; ``find`` is missing, or the model cannot be run.
    """
    check_image(image, "an ablation")
    chosen = [layer] if isinstance(layer, Layer) else select_layers(index_layers(model), layer)
    if len(chosen) != 1:
        raise FeatvizError(f"an ablation is of one layer, not of {', '.join(one.name for one in chosen)}: name one")
    why = unhookable(chosen[0].module, chosen[0].title)
    if why:
        raise FeatvizError(why)
    without = _Without(chosen[0], (int(image.shape[2]), int(image.shape[3])))
    detections = detect(model, image, find=find) if detections is None else detections

    def whole(start: int, stop: int) -> torch.Tensor:
        return image * (1 - start / 2)

    def inputs(start: int, stop: int) -> torch.Tensor:
        without.first = start
        return image.repeat(stop - start, 1, 1, 1)

    with eval_mode(model), output_hooks([(chosen[0].module, without)]):
        before, darker = each_candidates(model, image, whole, 2, 1, find)
        if without.activations is None:
            raise FeatvizError(f"{chosen[0].title} was not run in the forward pass")
        if without.calls > 2:
            raise FeatvizError(f"{chosen[0].title} is run {without.calls // 2} times in a forward pass, not once")
        scores = _scores(detections, before)
        if scores is None or np.abs(scores - detections.scores.numpy()).max(initial=0) > SAME_SCORE:
            raise FeatvizError("the detections are not those of this model in this image: find them in it first")
        if not is_ordered(before, darker):
            raise UnorderedError(f"{NO_ORDER}: take d-rise")
        lost = np.zeros((len(detections), len(without.activations)))
        if len(detections):
            channels = lost.shape[1]
            found = shown(each_candidates(model, image, inputs, channels, batch, find), channels, progress)
            for channel, after in enumerate(found):
                left = _scores(detections, after) if len(after) == len(before) else None
                if left is None:
                    raise UnorderedError(
                        f"{len(before)} candidates, and {len(after)} without channel {channel}: {NO_ORDER}: take d-rise"
                    )
                lost[:, channel] = scores - left
    boxes = _as_seen(detections.to_boxes(), index_layers(model).root, image)
    return Ablation(boxes, scores, lost, activations=without.activations)


def detect(
    model: nn.Module, image: torch.Tensor, thresholds: Thresholds = DEFAULTS, find: Optional[Find] = None
) -> Detections:
    """Return what a model finds in an image, without gradients.

    Args:
        model: the detector. It is not changed.
        image: its input, ``[1, C, H, W]``.
        thresholds: of detectors that have none of their own.
        find: for detectors of no known family, a function from the output to :class:`Detections`.

    Raises:
        FeatvizError: ``find`` is missing, or the model cannot be run.
    """
    check_image(image, "a detection")
    root = index_layers(model).root
    with eval_mode(root), torch.no_grad(), watching(root, find) as found:
        try:
            output = root(image)
        except FeatvizError:
            raise
        except Exception as error:
            raise FeatvizError(f"the model cannot be run: {reason(error)}") from error
        return found(output, thresholds_of(root, thresholds))


def _as_seen(boxes: Boxes, root: nn.Module, image: torch.Tensor) -> Boxes:
    """Return boxes in pixels of the input in those of what the layers see, if the model resizes its input."""
    height, width = (int(side) for side in image.shape[2:])
    left, top, right, bottom = frame_of(root, image).region
    if (left, top, right, bottom) == (0, 0, width, height):
        return boxes
    moved = boxes.mapped((0, 0, width, height), (bottom - top, right - left))
    return replace(moved, xyxy=moved.xyxy + np.array([left, top] * 2))


def is_ordered(before: Candidates, after: Candidates) -> bool:
    """Return whether rows keep their place: their boxes move far less than the boxes of other rows are away."""
    if before.boxes.shape != after.boxes.shape:
        return False
    one, other = before.boxes.flatten(1), after.boxes.flatten(1)
    moved, away = ((one - rows).abs().amax(dim=1).median() for rows in (other, other.roll(len(other) // 2, 0)))
    return bool(moved <= max(float(away) / 4, 1.0))  # pixels: boxes may be the same for all


def _scores(detections: Detections, candidates: Candidates) -> Optional[np.ndarray]:
    """Return the confidence of each detection's row and class, float64 ``[K]``; None if there is no such row."""
    if len(detections) and int(detections.rows.max()) >= len(candidates):
        return None
    scores: np.ndarray = candidates.scores[detections.rows, detections.classes].double().numpy()
    return scores


class _Without:
    """A hook that puts one channel to its mean: in the first image of a pass ``first``, in the next the next."""

    def __init__(self, layer: Layer, size: Tuple[int, int]) -> None:
        self.layer, self.size = layer, size
        self.first: Optional[int] = None  # None: all channels are left as they are
        self.activations: Optional[np.ndarray] = None
        self.calls = 0

    def __call__(self, output: Any) -> Optional[torch.Tensor]:
        if self.activations is None:
            self._keep(output)
        if self.first is None:
            self.calls += 1
            return None
        changed: torch.Tensor = output.clone()
        for i, channel in enumerate(range(self.first, self.first + len(output))):
            changed[i, channel] = output[i, channel].mean()
        return changed

    def _keep(self, output: Any) -> None:
        kept = output if isinstance(output, torch.Tensor) and output.dim() == 4 else None
        with suppress(FeatvizError):
            if kept is not None and to_maps(kept, self.layer.module, Input(self.size, 1)).shape == kept.shape:
                self.activations = kept[0].float().cpu().numpy().copy()  # the next layer may work in place
        if self.activations is None:
            raise FeatvizError(f"{self.layer.title} yields {describe_output(output)}, not one feature map [1, C, H, W]")
