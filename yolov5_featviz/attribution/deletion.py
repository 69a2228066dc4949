"""Deletion and insertion: how a detection's score falls, or rises, with the pixels that its map ranks highest.

They compare maps by what the detector does, not by where the maps lie. Detectors are black boxes here, as in
:mod:`yolov5_featviz.attribution.d_rise`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Callable, Dict, Iterable, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.attribution.d_rise import Find, Progress, each_candidates
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import Candidates, Detections
from yolov5_featviz.models.hooks import eval_mode
from yolov5_featviz.models.outputs import check_image
from yolov5_featviz.models.targets import OVERLAP, overlaps

KNOWN = 0.9  # least share of its score with which a detection must be found; half precision changes scores a little
BLUR = 1 / 10  # standard deviation of the blur, in longer sides of the image


class Curves(NamedTuple):
    """The score of each detection while pixels are replaced.

    Attributes:
        scores: float64 ``[K, steps + 1]``, over the score in the image: 1 where no pixel is replaced.
        shares: float64 ``[steps + 1]``, the share of the pixels that was replaced, or shown, 0 to 1.
    """

    scores: np.ndarray
    shares: np.ndarray

    @property
    def areas(self) -> np.ndarray:
        """The area under each curve by the trapezoidal rule, float64 ``[K]``: the mean score over all shares."""
        means = (self.scores[:, 1:] + self.scores[:, :-1]) / 2
        areas: np.ndarray = means @ np.diff(self.shares)
        return areas


def curves(
    model: nn.Module,
    image: torch.Tensor,
    detections: Detections,
    maps: Sequence[Any],
    steps: int = 20,
    fill: Union[str, torch.Tensor] = "blur",
    insert: bool = False,
    batch: Optional[int] = None,
    progress: Optional[Progress] = None,
    find: Optional[Find] = None,
) -> Curves:
    """Compute the deletion curve of each detection, or its insertion curve.

    V. Petsiuk et al., BMVC 2018; for single detections also V. Petsiuk et al., CVPR 2021, and C. Zhao and A. B. Chan,
    *IEEE Trans. Pattern Anal. Mach. Intell.* 2024. Pixels are replaced in the order of the detection's map, the highest
    value first, in equal shares. The score at each step is the highest confidence of the detection's class among the
    candidates whose IoU with its box is 0.5 or more, 0 if there is none, over the score in the image.

    Of pixels with the same value, those further up go first, and in a row those further left.

    Args:
        model: the detector. It is not changed, and runs without gradients, ``K (steps + 1)`` times.
        image: the model's input ``[1, C, H, W]``, preprocessed.
        detections: found in this image.
        maps: one map for each detection, in order, ``[h, w]``, over all of the input, the padding included: at its
            size or coarser, and then interpolated bilinearly. Only the order of the values counts.
        steps: number of shares.
        fill: what pixels are replaced by.

            - ``blur``: the image filtered by a Gaussian whose standard deviation is a tenth of the longer side;
              it sets no new edges, but leaves what is larger.
            - ``mean``: the image's mean colour.
            - ``black``: 0; the mean colour of the training if the input is normalised by mean and deviation.
            - a tensor ``[1, C, H, W]``: these pixels.
        insert: begin with all pixels replaced, and show those of the highest values first: insertion.
        batch, progress, find: as for :func:`~yolov5_featviz.attribution.d_rise.d_rise`.

    Returns:
        :class:`Curves`. A good map has a small area under the deletion curve, and a large one under the insertion
        curve.

    Raises:
        FeatvizError: invalid argument, the detections are not those of the image, ``find`` is missing, or the model
            cannot be run.
    """
    _check(image, detections, maps, steps)
    image = image.detach()
    before, after = image, _filled(image, fill)
    if insert:
        before, after = after, before
    size = (int(image.shape[2]), int(image.shape[3]))
    planes = [_plane(one, i) for i, one in enumerate(maps)]

    @lru_cache(maxsize=1)  # steps of a detection follow each other
    def rank_of(i: int) -> torch.Tensor:
        return torch.from_numpy(_ranks(planes[i], size)).to(image.device)

    def replaced(i: int, step: int) -> torch.Tensor:
        chosen = rank_of(i) * steps < step * size[0] * size[1]
        return torch.where(chosen, after[0], before[0])

    def inputs(start: int, stop: int) -> torch.Tensor:
        return torch.stack([replaced(*divmod(n, steps + 1)) for n in range(start, stop)])

    scores = np.zeros((len(detections), steps + 1))
    if len(detections):
        found: Iterable[Candidates] = each_candidates(model, image, inputs, scores.size, batch, find)
        with eval_mode(model):
            for n, candidates in enumerate(found if progress is None else progress(found)):
                i, step = divmod(n, steps + 1)
                scores[i, step] = _confidence(detections, i, candidates)
                if step == (steps if insert else 0) and scores[i, step] < KNOWN * float(detections.scores[i]):
                    raise FeatvizError(
                        "the detections are not those of this model in this image: find them in it first"
                    )
    whole = scores[:, -1:] if insert else scores[:, :1]
    return Curves(scores / whole.clip(min=1e-12), np.arange(steps + 1) / steps)


def _confidence(detections: Detections, i: int, candidates: Candidates) -> float:
    """Return the highest confidence of the class of detection ``i`` among candidates at its place, 0 if none is."""
    kind = int(detections.classes[i])
    there = overlaps(candidates, kind, detections.boxes[i : i + 1])[:, 0] >= OVERLAP
    return float(torch.nan_to_num(candidates.scores[there, kind]).max()) if there.any() else 0.0


def _plane(values: Any, i: int) -> np.ndarray:
    """Return the map of detection ``i``, float32 ``[h, w]``. Raises FeatvizError if it is none."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
    try:
        plane = np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise FeatvizError(f"map {i} is no array of numbers: give [h, w]") from None
    if plane.ndim != 2 or 0 in plane.shape:
        raise FeatvizError(f"map {i} is of shape {list(plane.shape)}: give [h, w]")
    if not np.isfinite(plane).all():
        raise FeatvizError(f"map {i} has values that are not finite: they have no order")
    return plane


def _ranks(plane: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
    """Return the rank of each pixel, int64 ``[H, W]``, 0 for the highest value."""
    order = np.argsort(-resample(plane, size), axis=None, kind="stable")
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks.reshape(size)


def _blurred(image: torch.Tensor) -> torch.Tensor:
    """Filter by a Gaussian, as a product with a matrix a side; at the edges by the part that lies in the image."""
    sigma = max(image.shape[2:]) * BLUR
    matrices = []
    for length in image.shape[2:]:
        at = torch.arange(length, dtype=torch.float32, device=image.device)
        weights = torch.exp(-(((at[:, None] - at) / sigma) ** 2) / 2)
        matrices.append(weights / weights.sum(dim=1, keepdim=True))
    down, across = matrices
    return (down @ image.float() @ across.T).to(image.dtype)


def _mean(image: torch.Tensor) -> torch.Tensor:
    return image.float().mean(dim=(2, 3), keepdim=True).to(image.dtype).expand_as(image)


# name -> what pixels are replaced by, [1, C, H, W]
FILLS: Dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "blur": _blurred,
    "mean": _mean,
    "black": torch.zeros_like,
}


def _filled(image: torch.Tensor, fill: Union[str, torch.Tensor]) -> torch.Tensor:
    if isinstance(fill, torch.Tensor):
        if fill.shape != image.shape:
            raise FeatvizError(f"the fill is of shape {list(fill.shape)}: give the image's, {list(image.shape)}")
        return fill.detach().to(image)
    if not isinstance(fill, str) or fill not in FILLS:
        what = repr(fill) if isinstance(fill, str) else f"of type {type(fill).__name__}"
        raise FeatvizError(f"no fill {what}: take one of {', '.join(FILLS)}, or a tensor {list(image.shape)}")
    return FILLS[fill](image)


def _check(image: torch.Tensor, detections: Detections, maps: Sequence[Any], steps: int) -> None:
    check_image(image, "deletion")
    if steps < 1:
        raise FeatvizError(f"{steps} steps: take 1 or more")
    if len(maps) != len(detections):
        raise FeatvizError(f"{len(maps)} maps for {len(detections)} detections: give one for each, in order")
