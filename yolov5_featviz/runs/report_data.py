"""Data of one image in the report: maps, scores, explanations and sentences."""

from __future__ import annotations

import base64
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.arrays.cells import in_boxes
from yolov5_featviz.arrays.image import as_rgb, smaller
from yolov5_featviz.arrays.reduce import REDUCTIONS, reduce_channels
from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.attribution.explain import Explanation
from yolov5_featviz.draw.channels import NOTHING, TOO_FEW, rank
from yolov5_featviz.draw.palette import box_colours
from yolov5_featviz.draw.scale import ends_in_padding
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import SAME_BOX
from yolov5_featviz.models.layer_output import Dependence, LayerOutput
from yolov5_featviz.models.targets import confidence
from yolov5_featviz.models.tide import severity
from yolov5_featviz.runs.look import Look
from yolov5_featviz.runs.report_explanations import Mark, errors_in, marks_of, spots_of
from yolov5_featviz.runs.report_maps import numbers, stored
from yolov5_featviz.runs.report_plot import plot
from yolov5_featviz.runs.report_words import LIST, findings, ranked

Part = Tuple[str, Sequence[LayerOutput]]


class Level(NamedTuple):
    """Level of detail of images while the report has less than ``until`` bytes.

    At most ``channels`` per layer and ``cells`` in total; ``side`` is the longer side of the
    photograph in pixels. Explanations have at most ``explained`` cells in total, and ``grid`` along the longer side.
    """

    until: int
    channels: int
    cells: int
    side: int
    explained: int = 1 << 18
    grid: int = 80


LEVELS = (
    Level(24_000_000, 64, 3 << 19, 800),
    Level(60_000_000, 16, 3 << 17, 640, 1 << 16, 40),
    Level(84_000_000, 4, 3 << 15, 480, 1 << 14, 40),
    Level(1_000_000_000, 0, 0, 320, 1 << 12, 20),  # only the heat map
)
GROUPS = 63  # sets of boxes compared at a time
BLOCK = 1 << 17  # values at a time, so that arrays fit the CPU cache
PICKED = 50  # boxes that can be selected, by highest score
LARGEST = 1 << 18  # cells of a map stored at full resolution
HEAT = 1 << 22  # cells of all heat maps of an image
THUMBNAIL = 128


def contrasts(feature_map: LayerOutput, groups: Iterable[Boxes]) -> np.ndarray:
    """Compute each channel's contrast inside versus outside boxes, for several sets of boxes at once.

    Args:
        feature_map: the map, ``[C, H, W]``.
        groups: sets of boxes in pixels of the network's input. The cells of a set count as inside,
            all other cells of the image as outside.

    Returns:
        float64 ``[len(groups), C]``: the score of ``rank(feature_map, "contrast")`` if the map had
        these boxes; NaN with fewer than two cells on either side.
    """
    groups = list(groups)
    if not groups:
        return np.zeros((0, feature_map.channels))
    if len(groups) > GROUPS:
        return np.concatenate([contrasts(feature_map, part) for part in (groups[:GROUPS], groups[GROUPS:])])
    image, inside = _inside(feature_map, groups)
    inside = np.concatenate([image[None], inside]).reshape(1 + len(groups), -1)
    regions = _regions(inside)
    data = feature_map.values.reshape(feature_map.channels, -1)
    step = max(1, BLOCK // data.shape[1])
    parts = (data[i : i + step].astype(np.float64) for i in range(0, len(data), step))
    d: np.ndarray = np.concatenate(
        [_cohens_d(x, regions, inside.sum(axis=1, dtype=float)[:, None]) for x in parts], axis=1
    )
    n = inside.sum(axis=1)
    d[np.minimum(n[1:], n[0] - n[1:]) < 2] = np.nan
    return d


def _inside(feature_map: LayerOutput, groups: Sequence[Boxes]) -> Tuple[np.ndarray, np.ndarray]:
    """Return masks of the cells in the image, bool ``[H, W]``, and in each set of boxes, ``[G, H, W]``.

    Like :func:`yolov5_featviz.draw.channels.sides`, for all sets at once.
    """
    size, stride, image = feature_map.size, feature_map.stride, feature_map.in_image
    if stride is None:
        return image, np.zeros((len(groups), *size), bool)
    return image, image & [in_boxes(size, stride, boxes.xyxy) for boxes in groups]


def _regions(masks: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Partition cells by membership in up to 64 masks, bool ``[G, N]``.

    Returns:
        ``(cells, starts, member)``: all cells, ordered by part; the start of each part; and whether
        the part lies in each mask, float64 ``[G, parts]``.
    """
    bits = np.zeros((masks.shape[1], 8), np.uint8)
    packed = np.packbits(masks, axis=0).T
    bits[:, : packed.shape[1]] = packed
    keys = bits.view(np.uint64)[:, 0]
    cells = np.argsort(keys)
    starts = np.append(True, keys[cells[1:]] != keys[cells[:-1]]).nonzero()[0]
    return cells, starts, masks[:, cells[starts]].astype(np.float64)


def _cohens_d(x: np.ndarray, regions: Tuple[np.ndarray, np.ndarray, np.ndarray], n: np.ndarray) -> np.ndarray:
    """Compute Cohen's d, ``[G - 1, C]``, of channels ``x [C, N]`` for each mask but the first, which holds all cells.

    ``x`` is overwritten. ``regions`` are those of the masks, ``n [G, 1]`` the number of cells in each.
    """
    cells, starts, member = regions

    def total(values: np.ndarray) -> np.ndarray:
        # not a matrix product, whose threads would compete with the network for cores
        found: np.ndarray = np.einsum("gr,cr->gc", member, np.add.reduceat(values.take(cells, axis=1), starts, axis=1))
        return found

    with np.errstate(invalid="ignore"):
        mean = x.mean(axis=1, keepdims=True)
    if np.isfinite(mean).all():
        x -= mean  # centre first, so that the sums of squares keep their precision
    else:
        finite = np.isfinite(x)
        mean = np.where(finite, x, 0).sum(axis=1, keepdims=True) / finite.sum(axis=1, keepdims=True).clip(min=1)
        x = np.where(finite, x, mean) - mean
        n = total(finite.astype(np.float64))
    sums, squares = total(x), total(np.square(x, out=x))
    with np.errstate(divide="ignore", invalid="ignore"):

        def side(n: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
            mean = sums / n
            return mean, (squares - n * mean**2).clip(min=0)

        mean_in, spread_in = side(n[1:], sums[1:], squares[1:])
        mean_out, spread_out = side(n[0] - n[1:], sums[0] - sums[1:], squares[0] - squares[1:])
        difference = mean_in - mean_out
        spread = spread_in + spread_out
        spread[spread < 1e-12 * squares[0]] = 0  # rounding residue of a constant
        d: np.ndarray = np.where(difference == 0, 0.0, difference / np.sqrt(spread / (n[0] - 2)))
    return d


def entry(
    name: str,
    parts: Sequence[Part],
    image: Any,
    level: Level,
    look: Look,
    size: Optional[Tuple[int, int]] = None,
    explanations: Sequence[Explanation] = (),
) -> Dict[str, Any]:
    """Collect the report's data of one image as JSON-compatible values.

    Args:
        name: the image's name.
        parts: pairs of a name, empty if there is only one, and feature maps of this image: of several
            models, or of the passes of an augmentation. None may be empty; without any there are explanations.
        image: the image, as accepted by :func:`yolov5_featviz.arrays.image.as_rgb`; None if there is none.
        level: level of detail.
        look: ``reduce`` is used for the heat map.
        size: height and width of the image, if ``image`` is a smaller copy of it.
        explanations: of detections, or of what was missed, in the layers of the first part, or in others.

    Returns:
        ``photo`` and ``thumbnail`` (JPEG data URIs, or None), ``size`` (height and width of the
        image, or of the network's input), ``detected`` (number of detections, None if unknown), ``boxes`` (edges as
        fractions of the image, detections first, best score first), ``captions``, ``colours``, ``says`` (what was
        found), ``best`` (index of the layer that responds most), ``parts``, each with ``name`` and ``layers``; see
        ``_layer`` for those. ``marks``, if anything is explained, has for each box its ``kind`` of error, what is
        ``said`` of it, whether it was ``detected``, and the box of its label, ``truth``; ``spots`` are the
        explained layers, see :func:`yolov5_featviz.runs.report_explanations.spots_of`, ``left_out`` the number of
        explanations without room. Not for the page, but for its first screen and its list of errors: ``heats``,
        the maps of ``spots``, and ``errors``, each with its ``severity`` and the number of its ``box``, 0 if that
        has no room.
    """
    first = parts[0][1][0] if parts else None
    pixels = photo(image)
    height, width = size or (pixels.shape[:2] if pixels is not None else _size(first, explanations))
    every = None if first is None else first.boxes
    picked = None if first is None or every is None else _picked(every).mapped(first.window, (1, 1))
    marks, places = marks_of(picked, explanations)
    added = np.array([mark.box for mark in marks[0 if picked is None else len(picked) :]]).reshape(-1, 4)
    n = sum(len(maps) for _, maps in parts)
    budget, largest = level.cells // max(1, n), max(1, min(LARGEST, HEAT // max(1, n)))
    small = None if pixels is None else smaller(pixels, level.side)
    spots, heats, left_out = spots_of(explanations, places, marks, level.explained, level.grid)
    errors = [_error(one, places[explanations.index(one)]) for one in errors_in(explanations)]
    labels = _labels(every, marks)
    found = {
        "name": name,
        "photo": None if small is None else jpeg_uri(small, level.side, 78),
        "thumbnail": None if small is None else jpeg_uri(small, THUMBNAIL, 70),
        "size": [height, width],
        "detected": None if labels is None else len(labels),
        "boxes": numbers(np.array([mark.box for mark in marks]).reshape(-1, 4)),
        "captions": [mark.caption for mark in marks],
        "colours": _colours(marks),
        "says": findings(name, labels, [error["kind"] for error in errors]),
        "marks": [_mark(mark) for mark in marks] if explanations else [],
        "left_out": left_out,
        "parts": [
            {"name": part, "layers": [_layer(fm, level.channels, budget, largest, look, added) for fm in maps]}
            for part, maps in parts
        ],
        "spots": spots,
        "heats": heats,
        "errors": errors,
    }
    top = ranked(found["parts"][0]["layers"]) if parts else []
    found["best"] = top[0][0] if top else 0
    return found


def _mark(mark: Mark) -> Dict[str, Any]:
    one = mark.about
    if one is None or not mark.said:
        return {}
    height, width = one.size
    truth = None if one.truth is None else numbers(np.array(one.truth) / (width, height, width, height))
    return {"kind": one.kind, "said": mark.said, "detected": one.detected, "truth": truth}


def _error(one: Explanation, place: Optional[int]) -> Dict[str, Any]:
    words = {"kind": one.kind, "caption": f"{one.label} {confidence(one.score)}", "note": one.note}
    return {**words, "severity": severity(one.kind, one.score), "box": 0 if place is None else place + 1}


def _labels(boxes: Optional[Boxes], marks: Sequence[Mark]) -> Optional[List[str]]:
    """Return the class names of all detections, as far as they are known; None if they are not."""
    if boxes is None:
        return [mark.label for mark in marks if mark.detected] or None
    return list(boxes.labels) or ["object"] * len(boxes)


def _layer(fm: LayerOutput, channels: int, cells: int, largest: int, look: Look, added: np.ndarray) -> Dict[str, Any]:
    """Collect the report's data of one feature map.

    ``added`` are boxes ``[n, 4]``, as fractions of the image, that are selectable besides the detections.
    ``scores`` and ``top`` have one row for all detections and one for each selectable box: shares of the
    score lost, contrasts, or a single row of standard deviations, depending on ``by``. ``scores`` belong to
    ``channels``, those stored in the report; ``top`` holds the best of all as pairs of channel and score, and of
    an ablation the contrast. ``plot`` is None, or see :func:`yolov5_featviz.runs.report_plot.plot`. ``data``
    holds the maps: ``[1 + len(channels), *grid]`` bytes in base64, first the heat map, with their
    minima and maxima in ``ends``; ``window`` is the image's position in them, in cells. ``padded`` are the
    maps whose scale has an end in the padding, by number, and the number of maps if that of the layer has.
    """
    by, note, scores, beside = _scores(fm, added)
    reduce = look.reduce
    unknown = np.isnan(scores)
    orders = np.lexsort((np.where(unknown, 0, -scores), unknown)).tolist()  # ties: lower index first
    height, width = fm.size
    step = int(np.ceil(np.sqrt(height * width / largest)))
    grid = max(1, height // step), max(1, width // step)
    chosen = _chosen(orders, min(channels, max(1, cells // (grid[0] * grid[1]))) if channels else 0)
    data = fm.values
    maps = np.concatenate([reduce_channels(data, reduce)[None], data[chosen]])
    per_x, per_y = grid[1] / width, grid[0] / height
    best = [order[:LIST] for order in orders]
    return {
        "title": fm.layer.title + (f", level {fm.level}" if fm.level is not None else ""),
        "name": fm.layer.name + (f" {fm.level}" if fm.level is not None else ""),
        "type": fm.layer.type,
        "shape": list(fm.data.shape),
        "grid": list(grid),
        "stride": None if fm.stride is None else numbers(np.array(fm.stride)),
        "window": numbers(np.array(fm.to_cells()) * (per_x, per_y, per_x, per_y), 6),
        "limits": numbers(_limits(data), 6),
        "heat": [reduce, REDUCTIONS[reduce].norm],
        "by": by,
        "note": note,
        "channels": chosen,
        "padded": _padded(fm, maps, REDUCTIONS[reduce].norm),
        "scores": numbers(scores[:, chosen]),
        "top": [
            [list(pair) for pair in zip(*row)]
            for row in zip(best, *(numbers(np.take_along_axis(one, np.array(best), 1)) for one in (scores, *beside)))
        ],
        "plot": plot(fm, look.channels) if by == "ablation" and channels else None,
        **stored(resample(maps, grid, "nearest") if step > 1 else maps),
    }


class _Scored(NamedTuple):
    """The ranking criterion, why it is not contrast, the scores ``[groups, C]``, and beside an ablation the contrasts.

    See :func:`_layer`.
    """

    by: str
    note: str
    scores: np.ndarray
    beside: Sequence[np.ndarray] = ()


def _scores(fm: LayerOutput, added: np.ndarray) -> _Scored:
    known = fm.dependence
    known = known if known is not None and known.matters() else None
    whole = known.boxes if fm.boxes is None and known is not None else fm.boxes
    if whole is not None:
        left, top, right, bottom = fm.window
        inside = added * ([right - left, bottom - top] * 2) + [left, top] * 2  # in pixels of the input
        picked = Boxes(np.zeros((0, 4))) if fm.boxes is None else _picked(fm.boxes)
        singles = [Boxes(box[None]) for box in (*picked.xyxy, *inside)]
        scores = contrasts(fm, [whole, *singles])
        if known is not None:
            return _Scored("ablation", "", _shares(known, picked, len(inside)), [scores])
        if not np.isnan(scores[0]).all():
            return _Scored("contrast", "", scores)
    note = "no detections are known"
    if fm.boxes is not None:
        note = TOO_FEW if len(fm.boxes) else NOTHING
    return _Scored("std", note, _spreads(fm)[None])


def _shares(known: Dependence, picked: Boxes, others: int) -> np.ndarray:
    """Return the share of the score lost by all detections together, and by each selectable one, ``[groups, C]``.

    It is NaN for a box of which it is not known: ``others`` that were not detected, or were found by no pass alone.
    """
    shares = known.shares
    found = np.full((1 + len(picked) + others, shares.shape[1]), np.nan)
    found[0] = shares.mean(axis=0)
    for i, box in enumerate(picked.xyxy):
        same = (np.abs(known.boxes.xyxy - box) <= SAME_BOX).all(axis=1)
        if picked.classes is not None and known.boxes.classes is not None:
            same &= known.boxes.classes == picked.classes[i]
        if same.any():
            found[1 + i] = shares[int(same.argmax())]
    return found


def _limits(data: np.ndarray) -> np.ndarray:
    """Return the lowest and highest finite value; zeros if there is none."""
    limits = np.array([data.min(), data.max()])
    if np.isfinite(limits).all():
        return limits
    finite = data[np.isfinite(data)]
    return np.array([finite.min(), finite.max()] if finite.size else [0, 0])


def _padded(fm: LayerOutput, maps: np.ndarray, norm: str) -> List[int]:
    """Return ``padded`` of :func:`_layer`; ``norm`` is that of the heat map, the first of ``maps``."""
    parts = (maps[:1], norm), (maps[1:], "channel"), (fm.values[:1], "layer")
    found: List[int] = np.flatnonzero(np.concatenate([ends_in_padding(fm, *part)[0] for part in parts])).tolist()
    return found


def _spreads(fm: LayerOutput) -> np.ndarray:
    """Compute each channel's standard deviation, as :func:`yolov5_featviz.draw.channels.rank` does."""
    data = fm.values.reshape(fm.channels, -1)
    step = max(1, BLOCK // data.shape[1])
    with np.errstate(invalid="ignore"):
        parts = [data[i : i + step].astype(np.float64).std(axis=1) for i in range(0, len(data), step)]
    found: np.ndarray = np.concatenate(parts)
    return found if np.isfinite(found).all() else rank(fm, "std").scores["std"]


def _chosen(orders: Sequence[Sequence[int]], n: int) -> List[int]:
    """Choose ``n`` channels: half of them the best overall, the rest each box's best in turn, then the next best."""
    whole, *single = orders
    chosen = dict.fromkeys(whole[: -(-n // 2)] if single else whole[:n])
    for places in zip(*single):
        chosen.update(dict.fromkeys(places[: max(0, n - len(chosen))]))
        if len(chosen) >= n:
            break
    for channel in whole:
        if len(chosen) >= n:
            break
        chosen.setdefault(channel)
    return [channel for channel in whole if channel in chosen]


def _picked(boxes: Boxes) -> Boxes:
    if boxes.scores is None:
        return boxes.take(range(min(PICKED, len(boxes))))
    return boxes.take(np.argsort(-boxes.scores, kind="stable")[:PICKED].tolist())


def _colours(marks: Sequence[Mark]) -> List[str]:
    """Return the colour of each box, by its class."""

    def colour(mark: Mark) -> bytes:
        number = None if mark.number is None else np.array([mark.number])
        return bytes(box_colours(Boxes(np.zeros((1, 4)), None, [mark.label] * bool(mark.label), number))[0])

    return [f"#{colour(mark).hex()}" for mark in marks]


def photo(image: Any) -> Optional[np.ndarray]:
    if image is None:
        return None
    try:
        return as_rgb(image)
    except FeatvizError:  # a format that only the script can read: show maps alone
        return None


def _size(fm: Optional[LayerOutput], explanations: Sequence[Explanation]) -> Tuple[int, int]:
    """Return the height and width of an image of which there is no photograph."""
    if fm is None:
        return explanations[0].size
    left, top, right, bottom = fm.window
    return round(bottom - top), round(right - left)


def jpeg_uri(pixels: np.ndarray, side: int, quality: int) -> str:
    import cv2

    bgr = cv2.cvtColor(np.ascontiguousarray(smaller(pixels, side)), cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()
