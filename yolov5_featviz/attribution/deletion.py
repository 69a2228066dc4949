"""Deletion and insertion: how a detection's score falls, or rises, with the pixels that its map ranks highest.

They compare maps by what the detector does, not by where the maps lie. Detectors are black boxes here, as in
:mod:`yolov5_featviz.attribution.d_rise`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.attribution.passes import Find, Progress, each_candidates, shown
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import Candidates, Detections
from yolov5_featviz.models.hooks import eval_mode
from yolov5_featviz.models.outputs import check_image
from yolov5_featviz.models.targets import OVERLAP, overlaps
from yolov5_featviz.text import near

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


class Both(NamedTuple):
    """The deletion and the insertion curve of each map."""

    deletion: Curves
    insertion: Curves


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
    region: Optional[Region] = None,
) -> Curves:
    """Compute the deletion curve of each detection, or its insertion curve.

    V. Petsiuk et al., BMVC 2018; for single detections also V. Petsiuk et al., CVPR 2021, and C. Zhao and A. B. Chan,
    *IEEE Trans. Pattern Anal. Mach. Intell.* 2024. Pixels are replaced in the order of the detection's map, the highest
    value first, in equal shares. The score at each step is the highest confidence of the detection's class among the
    candidates whose IoU with its box is 0.5 or more, 0 if there is none, over the score in the image.

    Of pixels with the same value, those further up go first, and in a row those further left.

    Args:
        model: the detector. It is not changed, and runs without gradients, twice, and ``steps - 1`` times for each
            map that differs from the others.
        image: the model's input ``[1, C, H, W]``, preprocessed.
        detections: found in this image.
        maps: one map for each detection, in order, ``[h, w]``, over all of the region: at its size or coarser, and
            then interpolated bilinearly. Only the order of the values counts.
        steps: number of shares.
        fill: what pixels are replaced by.

            - ``blur``: the image filtered by a Gaussian whose standard deviation is a tenth of the longer side;
              it sets no new edges, but leaves what is larger.
            - ``mean``: the image's mean colour.
            - ``noise``: normal noise with the mean and the standard deviation of each channel of the image.
            - ``black``: 0; the mean colour of the training if the input is normalised by mean and deviation.
            - a tensor ``[1, C, H, W]``: these pixels.
        insert: begin with all pixels replaced, and show those of the highest values first: insertion.
        batch, progress, find: as for :func:`~yolov5_featviz.attribution.d_rise.d_rise`.
        region: of the image in the input: left, top, right and bottom edge in pixels. What lies outside stays as it
            is. None if the image fills the input.

    Returns:
        :class:`Curves`. A good map has a small area under the deletion curve, and a large one under the insertion
        curve.

    Raises:
        FeatvizError: invalid argument, the detections are not those of the image, ``find`` is missing, or the model
            cannot be run.
    """
    if len(maps) != len(detections):
        raise FeatvizError(f"{len(maps)} maps for {len(detections)} detections: give one for each, in order")
    kinds = (insert,)
    return _curves(model, image, detections, maps, range(len(maps)), steps, fill, kinds, batch, progress, find, region)[
        0
    ]


def both_curves(
    model: nn.Module,
    image: torch.Tensor,
    detections: Detections,
    maps: Sequence[Any],
    of: Sequence[int],
    steps: int = 50,
    fill: Union[str, torch.Tensor] = "blur",
    batch: Optional[int] = None,
    progress: Optional[Progress] = None,
    find: Optional[Find] = None,
    region: Optional[Region] = None,
) -> Both:
    """Compute the deletion and the insertion curve of each map; see :func:`curves`.

    Args:
        model, image, detections, steps, fill, batch, progress, find, region: as for :func:`curves`.
        maps: any number of maps, several of a detection, for instance. Equal ones are run once.
        of: the number of the detection that each map explains.

    Raises:
        FeatvizError: as :func:`curves`.
    """
    kinds = (False, True)
    return Both(*_curves(model, image, detections, maps, of, steps, fill, kinds, batch, progress, find, region))


def _curves(
    model: nn.Module,
    image: torch.Tensor,
    detections: Detections,
    maps: Sequence[Any],
    of: Sequence[int],
    steps: int,
    fill: Union[str, torch.Tensor],
    kinds: Sequence[bool],  # whether to insert
    batch: Optional[int],
    progress: Optional[Progress],
    find: Optional[Find],
    region: Optional[Region],
) -> List[Curves]:
    check_image(image, "deletion")
    if steps < 1:
        raise FeatvizError(f"{steps} steps: take 1 or more")
    part = (slice(None), slice(None), *part_of((int(image.shape[2]), int(image.shape[3])), region))
    image = image.detach()
    filled = _filled(image, part, fill)
    size = (int(filled[part].shape[2]), int(filled[part].shape[3]))
    planes = [plane_of(one, i) for i, one in enumerate(maps)]
    same: Dict[Tuple[Any, ...], List[int]] = {}  # of maps that are equal, their numbers
    for n, plane in enumerate(planes):
        same.setdefault((plane.shape, plane.tobytes()), []).append(n)
    users = list(same.values())
    jobs = [(k, insert, step) for k in range(len(users)) for insert in kinds for step in range(1, steps)]

    @lru_cache(maxsize=1)  # steps of a map follow each other
    def steps_of(k: int) -> torch.Tensor:
        """The share with which each pixel is replaced, ``[H, W]``; one that never comes outside the region."""
        ranks = _ranks(planes[users[k][0]], size)
        at = np.full(image.shape[2:], steps + 1, np.int32)
        at[part[2:]] = ranks * steps // ranks.size + 1
        return torch.from_numpy(at).to(image.device)

    def replaced(n: int) -> torch.Tensor:
        if n < 2:
            return filled[0] if n else image[0]
        k, insert, step = jobs[n - 2]
        before, after = (filled, image) if insert else (image, filled)
        return torch.where(steps_of(k) <= step, after[0], before[0])

    def inputs(start: int, stop: int) -> torch.Tensor:
        return torch.stack([replaced(n) for n in range(start, stop)])

    scores = np.zeros((len(kinds), len(maps), steps + 1))
    if len(maps):
        count = len(jobs) + 2
        found = shown(each_candidates(model, image, inputs, count, batch, find), count, progress)
        with eval_mode(model):
            for n, candidates in enumerate(found):
                if n >= 2:
                    k, insert, step = jobs[n - 2]
                    left = confidences(detections, [of[m] for m in users[k]], candidates)
                    scores[kinds.index(insert), users[k], step] = left
                    continue
                left = confidences(detections, of, candidates)
                if n == 0 and (left < KNOWN * detections.scores[list(of)].numpy()).any():
                    raise FeatvizError(
                        "the detections are not those of this model in this image: find them in it first"
                    )
                for i, insert in enumerate(kinds):
                    scores[i, :, steps if insert == (n == 0) else 0] = left
    shares = np.arange(steps + 1) / steps
    whole = [each[:, -1:] if insert else each[:, :1] for each, insert in zip(scores, kinds)]
    return [Curves(each / by.clip(min=1e-12), shares) for each, by in zip(scores, whole)]


def confidences(detections: Detections, numbers: Sequence[int], candidates: Candidates) -> np.ndarray:
    """Return how confident a detector still is of detections: float64 ``[n]``.

    It is the highest confidence of the detection's class among the candidates whose IoU with its box is 0.5 or more, 0
    if there is none.

    Args:
        detections: found in the image as it is.
        numbers: which of them.
        candidates: found in the image as it is now.
    """
    found = np.zeros(len(numbers))
    classes = detections.classes[list(numbers)].tolist()
    for kind in set(classes):
        rows = [i for i, one in enumerate(classes) if one == kind]
        there = overlaps(candidates, kind, detections.boxes[[numbers[i] for i in rows]]) >= OVERLAP
        scores = torch.nan_to_num(candidates.scores[:, kind])
        for i, mine in zip(rows, there.T):
            found[i] = float(scores[mine].max()) if mine.any() else 0.0
    return found


def part_of(size: Tuple[int, int], region: Optional[Region]) -> Tuple[slice, slice]:
    """Return rows and columns of the pixels of an input of ``size`` that are in a region; all if it is None.

    Raises FeatvizError if there are none.
    """
    height, width = size
    left, top, right, bottom = region or (0, 0, width, height)
    rows = slice(max(0, round(top)), min(height, round(bottom)))
    columns = slice(max(0, round(left)), min(width, round(right)))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise FeatvizError(f"no pixel of the input of {width} x {height} is in the region {region}")
    return rows, columns


def plane_of(values: Any, i: int) -> np.ndarray:
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


def _noise(image: torch.Tensor) -> torch.Tensor:
    values = image.float()
    normal = torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).to(image.device)
    noise = values.mean(dim=(2, 3), keepdim=True) + values.std(dim=(2, 3), keepdim=True, unbiased=False) * normal
    return noise.to(image.dtype)


# name -> what pixels are replaced by, [1, C, H, W]
FILLS: Dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "blur": _blurred,
    "mean": _mean,
    "noise": _noise,
    "black": torch.zeros_like,
}


def check_fill(fill: str) -> None:
    """Raise FeatvizError unless ``fill`` is the name of a fill."""
    if not isinstance(fill, str):
        raise FeatvizError(f"a fill of type {type(fill).__name__}: give one of {', '.join(FILLS)}")
    if fill not in FILLS:
        raise FeatvizError(f"no fill {fill!r}{near(fill, FILLS, 'take one of ' + ', '.join(FILLS))}")


def _filled(image: torch.Tensor, part: Tuple[Any, ...], fill: Union[str, torch.Tensor]) -> torch.Tensor:
    """Return the image with the pixels of a part replaced."""
    if isinstance(fill, torch.Tensor):
        if fill.shape != image.shape:
            raise FeatvizError(f"the fill is of shape {list(fill.shape)}: give the image's, {list(image.shape)}")
        filled = image.clone()
        filled[part] = fill.detach().to(image)[part]
        return filled
    if not isinstance(fill, str) or fill not in FILLS:
        what = repr(fill) if isinstance(fill, str) else f"of type {type(fill).__name__}"
        raise FeatvizError(f"no fill {what}: take one of {', '.join(FILLS)}, or a tensor {list(image.shape)}")
    filled = image.clone()
    filled[part] = FILLS[fill](image[part])
    return filled
