"""D-RISE: which parts of the image a detection needs, from what is found when random parts are hidden.

The model is a black box: neither gradients nor layers are needed, only candidates.
"""

from __future__ import annotations

from math import ceil
from typing import Callable, Optional, Tuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import interpolate

from yolov5_featviz.attribution.passes import Find, Progress, each_candidates, shown
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import Candidates, Detections
from yolov5_featviz.models.hooks import eval_mode
from yolov5_featviz.models.outputs import check_image

CHUNK = 16  # masks that are added up at once, whatever the batch size: sums do not depend on it


def d_rise(
    model: nn.Module,
    image: torch.Tensor,
    detections: Detections,
    masks: int = 1000,
    cells: int = 16,
    keep: float = 0.5,
    seed: int = 0,
    batch: Optional[int] = None,
    progress: Optional[Progress] = None,
    find: Optional[Find] = None,
) -> np.ndarray:
    """Compute D-RISE maps (V. Petsiuk et al., CVPR 2021), one for each detection.

    The image is multiplied by random masks. Each weighs as much as the model, given what it leaves, still has a
    candidate like the detection: the maximum over candidates of overlap (IoU) x cosine similarity of the class
    scores x objectness. The class scores of :class:`Candidates` have the objectness in them where there is one, which
    the cosine does not show; the candidate's highest class score is taken in its place.

    A mask is a grid of ``cells x cells``, each cell 1 with the probability ``keep``, else 0, enlarged bilinearly to
    ``cells + 1`` cells of ``ceil(H / cells)`` by ``ceil(W / cells)`` pixels, and cut to the image at a random shift
    of less than a cell. ``numpy.random.default_rng(seed)`` draws all grids, then all shifts: uniform numbers
    ``[masks, cells, cells]`` (below ``keep``: 1) and ``[masks, 2]``, down and across.

    Args:
        model: the detector. It is not changed, and runs without gradients.
        image: the model's input ``[1, C, H, W]``, preprocessed. Hidden pixels are 0: black, or the mean colour if the
            input is normalised by mean and deviation.
        detections: what is explained, found in this image.
        masks: the number of masks. Noise falls with its square root.
        cells: cells a side of the grid of a mask.
        keep: probability with which a cell is left as it is.
        seed: seed of the masks.
        batch: the most images in one pass; None for 8, on a GPU 32. It does not change the result, beyond what it
            changes in the model's; see :func:`~yolov5_featviz.attribution.passes.each_candidates`.
        progress: wraps the iterable of what is found behind each mask, in order, as ``tqdm`` does.
        find: for detectors of no known family, a function from the output for one image to :class:`Detections`.

    Returns:
        float32 ``[K, H, W]``: the sum of the masks, each times its weight, over the sum of the masks: the mean
        weight when the pixel is visible, 0 to 1. The paper divides by the expected sum, ``keep * masks``, which is the
        same in the limit; so, a weight that no mask changes gives a flat map. Where the score does not depend
        on the image the map is level, but not 0.

    Raises:
        FeatvizError: invalid argument, ``find`` is missing, or the model cannot be run.
    """
    _check(image, masks, cells, keep)
    size = (int(image.shape[2]), int(image.shape[3]))
    random = np.random.default_rng(seed)
    grids = torch.from_numpy((random.random((masks, cells, cells)) < keep).astype(np.float32)).to(image.device)
    visible = _masks_of(grids, random.random((masks, 2)), size)

    def masked(start: int, stop: int) -> torch.Tensor:
        return image * visible(start, stop).to(image.dtype)[:, None]

    weights = np.zeros((len(detections), masks), np.float32)
    if len(detections):
        found = shown(each_candidates(model, image, masked, masks, batch, find), masks, progress)
        with eval_mode(model):
            for i, candidates in enumerate(found):
                weights[:, i] = similarity(detections, candidates)
    maps = torch.zeros(len(detections), size[0] * size[1], device=image.device)
    seen = torch.zeros(size[0] * size[1], device=image.device)
    for start in range(0, masks if len(detections) else 0, CHUNK):
        flat = visible(start, min(start + CHUNK, masks)).flatten(1)
        maps += torch.from_numpy(weights[:, start : start + CHUNK]).to(flat) @ flat
        seen += flat.sum(dim=0)
    means: np.ndarray = (maps / seen.clamp(min=1e-6)).reshape(-1, *size).cpu().numpy()
    return means


def _masks_of(grids: torch.Tensor, shifts: np.ndarray, size: Tuple[int, int]) -> Callable[[int, int], torch.Tensor]:
    """Return a function that makes masks ``start`` to ``stop``, ``[n, H, W]``: grids enlarged, and cut at the shifts.

    Bilinear interpolation is a product with a matrix a side, of which only the rows within the cut are needed.
    """
    cells = grids.shape[1]
    steps = [ceil(length / cells) for length in size]
    corners = (shifts * steps).astype(int).tolist()
    once = torch.eye(cells, dtype=torch.float64)[None]  # in single precision, weights of 0 come out as 1e-7
    down, across = (
        interpolate(once, size=(cells + 1) * step, mode="linear", align_corners=False)[0].T.to(grids).contiguous()
        for step in steps
    )

    def masks(start: int, stop: int) -> torch.Tensor:
        cuts = zip(grids[start:stop], corners[start:stop])
        return torch.stack([down[y : y + size[0]] @ grid @ across[x : x + size[1]].T for grid, (y, x) in cuts])

    return masks


def similarity(detections: Detections, candidates: Candidates) -> np.ndarray:
    """Return how much the most similar candidate is like each detection, 0 to 1, ``[K]``; see :func:`d_rise`."""
    from torchvision.ops import box_iou

    if not len(candidates):
        return np.zeros(len(detections), np.float32)
    wanted = detections.candidates.scores[detections.rows]
    if candidates.boxes.dim() == 2:
        overlap = box_iou(detections.boxes, candidates.boxes)
    else:
        each = (candidates.boxes[:, k] for k in detections.classes.tolist())
        overlap = torch.cat([box_iou(box[None], boxes) for box, boxes in zip(detections.boxes, each)])
    lengths = wanted.norm(dim=1)[:, None] * candidates.scores.norm(dim=1)
    cosine = wanted @ candidates.scores.T / lengths.clamp(min=1e-12)
    alike = torch.nan_to_num(overlap * cosine * candidates.scores.max(dim=1).values)
    best: np.ndarray = alike.max(dim=1).values.numpy()
    return best


def _check(image: torch.Tensor, masks: int, cells: int, keep: float) -> None:
    check_image(image, "D-RISE")
    if masks < 1 or cells < 1:
        raise FeatvizError(f"{masks} masks of {cells} cells a side: take 1 or more of each")
    if not 0 < keep < 1:
        raise FeatvizError(f"cells are kept with a probability of {keep:g}: take one between 0 and 1")
