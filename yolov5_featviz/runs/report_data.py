"""What the report holds of one image: maps, scores, sentences."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import replace
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.arrays.cells import in_boxes
from yolov5_featviz.arrays.image import as_rgb, smaller
from yolov5_featviz.arrays.normalize import normalize
from yolov5_featviz.arrays.reduce import REDUCTIONS, reduce_channels
from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.draw.channels import rank, sides
from yolov5_featviz.draw.palette import box_colours
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.layer_output import LayerOutput
from yolov5_featviz.runs.look import Look

Part = Tuple[str, Sequence[LayerOutput]]


class Level(NamedTuple):
    """How much of an image goes into the report while it holds less than ``until`` bytes.

    ``channels`` of each layer at most, ``cells`` of them all together, and the longer ``side`` of
    the photograph in pixels.
    """

    until: int
    channels: int
    cells: int
    side: int


LEVELS = (
    Level(24_000_000, 64, 3 << 19, 800),
    Level(60_000_000, 16, 3 << 17, 640),
    Level(84_000_000, 4, 3 << 15, 480),
    Level(1_000_000_000, 0, 0, 320),  # the heat map alone
)
LIST = 10  # channels in the ranked list
GROUPS = 63  # sets of boxes that are compared at a time
BLOCK = 1 << 17  # values at a time, so that arrays stay in the processor's cache
PICKED = 50  # boxes that can be picked, those with the highest scores
LARGEST = 1 << 18  # cells of a map that goes into the page as it is
HEAT = 1 << 22  # cells of all heat maps of an image
CODES, NO_NUMBER = 254, 255  # a map is stored as bytes from 0 (its minimum) to 254 (its maximum)
THUMBNAIL = 128


def contrasts(feature_map: LayerOutput, groups: Iterable[Boxes]) -> np.ndarray:
    """How much stronger each channel is inside boxes than outside, for several sets of boxes at once.

    Args:
        feature_map: the map, ``[C, H, W]``.
        groups: sets of boxes in pixels of the network's input; of each, its cells count as inside,
            all other cells of the image as outside.

    Returns:
        float64 ``[len(groups), C]``: for each set what ``rank(feature_map, "contrast")`` scores where
        the map has those boxes; NaN where they leave no two cells on either side.
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
    """Which cells show the image, bool ``[H, W]``, and which of them lie inside each set of boxes, ``[G, H, W]``.

    As :func:`yolov5_featviz.draw.channels.sides`, for all sets at once.
    """
    none = replace(feature_map, boxes=Boxes(np.zeros((0, 4))))
    image = sides(none)[1]
    if feature_map.stride is None:
        return image, np.zeros((len(groups), *image.shape), bool)
    return image, image & [in_boxes(feature_map.size, feature_map.stride, boxes.xyxy) for boxes in groups]


def _regions(masks: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parts of a map whose cells lie in the same ones of up to 64 masks, bool ``[G, N]``.

    Returns:
        ``(cells, starts, member)``: all cells, part by part; where in that each part begins; and
        whether the part lies in each of the masks, float64 ``[G, parts]``.
    """
    bits = np.zeros((masks.shape[1], 8), np.uint8)
    packed = np.packbits(masks, axis=0).T
    bits[:, : packed.shape[1]] = packed
    keys = bits.view(np.uint64)[:, 0]
    cells = np.argsort(keys)
    starts = np.append(True, keys[cells[1:]] != keys[cells[:-1]]).nonzero()[0]
    return cells, starts, masks[:, cells[starts]].astype(np.float64)


def _cohens_d(x: np.ndarray, regions: Tuple[np.ndarray, np.ndarray, np.ndarray], n: np.ndarray) -> np.ndarray:
    """Cohen's d of channels ``x [C, N]``, which is overwritten, inside each mask but the first, which holds all cells.

    ``regions`` are those of the masks, and ``n [G, 1]`` how many cells are in each; ``[G - 1, C]``.
    """
    cells, starts, member = regions

    def total(values: np.ndarray) -> np.ndarray:
        # no matrix product: the threads that it starts would spin on the cores that the network needs
        found: np.ndarray = np.einsum("gr,cr->gc", member, np.add.reduceat(values.take(cells, axis=1), starts, axis=1))
        return found

    with np.errstate(invalid="ignore"):
        mean = x.mean(axis=1, keepdims=True)
    if np.isfinite(mean).all():
        x -= mean  # centred, the sums of squares lose nothing
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
        spread[spread < 1e-12 * squares[0]] = 0  # below what the subtractions leave of a constant
        d: np.ndarray = np.where(difference == 0, 0.0, difference / np.sqrt(spread / (n[0] - 2)))
    return d


def entry(
    name: str,
    parts: Sequence[Part],
    image: Any,
    level: Level,
    look: Look,
    size: Optional[Tuple[int, int]] = None,
) -> Dict[str, Any]:
    """All that the page knows of one image, ready for JSON.

    Args:
        name: what the image is called.
        parts: pairs of a name, empty if there is only one, and feature maps of this image: of several
            models, or of the passes of an augmentation. Each must hold a map.
        image: the image, as :func:`yolov5_featviz.arrays.image.as_rgb` takes it; None if there is none.
        level: how much of it goes in.
        look: ``reduce`` says how channels become the heat map.
        size: height and width of the image, if ``image`` is a smaller copy of it.

    Returns:
        ``photo`` and ``thumbnail`` (a JPEG's data URI each, or None), ``size`` (height and width of the
        image, or of the network's input), ``boxes`` (edges as shares of the image, best score first),
        ``captions``, ``colours``, ``says`` (one sentence), ``best`` (position of the layer that responds
        most) and ``parts``, each with ``name`` and ``layers``; see ``_layer`` for those.
    """
    first = parts[0][1][0]
    pixels = photo(image)
    height, width = size or (pixels.shape[:2] if pixels is not None else _window_size(first))
    boxes = _picked(first.boxes)
    n = sum(len(maps) for _, maps in parts)
    budget, largest = level.cells // n, max(1, min(LARGEST, HEAT // n))
    known: List[Dict[str, Any]] = [
        {"name": part, "layers": [_layer(fm, level.channels, budget, largest, look.reduce) for fm in maps]}
        for part, maps in parts
    ]
    shares = boxes.mapped(first.window, (1, 1)).xyxy if boxes is not None else np.zeros((0, 4))
    small = None if pixels is None else smaller(pixels, level.side)
    found = {
        "name": name,
        "photo": None if small is None else jpeg_uri(small, level.side, 78),
        "thumbnail": None if small is None else jpeg_uri(small, THUMBNAIL, 70),
        "size": [height, width],
        "detected": None if first.boxes is None else len(first.boxes),
        "boxes": _numbers(shares),
        "captions": [] if boxes is None else [boxes.caption(i) or f"box {i + 1}" for i in range(len(boxes))],
        "colours": _colours(boxes),
        "parts": known,
    }
    top = ranked(known[0]["layers"])
    found["best"] = top[0][0] if top else 0
    found["says"] = _sentence(name, first.boxes, known[0]["layers"], top)
    return found


def _layer(fm: LayerOutput, channels: int, cells: int, largest: int, reduce: str) -> Dict[str, Any]:
    """What the page knows of one feature map.

    ``scores`` and ``top`` have one row for all detections and one for each that can be picked:
    contrasts, or one row of standard deviations, as ``by`` says. ``scores`` are those of
    ``channels``, the ones that are in the page; ``top`` are the best of all, pairs of channel and
    score. ``data`` are the maps: ``[1 + len(channels), *grid]`` bytes in base64, first the heat map,
    with their minima and maxima in ``ends``; ``window`` is where the image lies in them, in cells.
    """
    by, note, scores = _scores(fm)
    unknown = np.isnan(scores)
    orders = np.lexsort((np.where(unknown, 0, -scores), unknown)).tolist()  # of equals the lower number first
    height, width = fm.size
    step = int(np.ceil(np.sqrt(height * width / largest)))
    grid = max(1, height // step), max(1, width // step)
    chosen = _chosen(orders, min(channels, max(1, cells // (grid[0] * grid[1]))) if channels else 0)
    data = fm.values
    maps = np.concatenate([reduce_channels(data, reduce)[None], data[chosen]])
    codes, ends = quantise_maps(resample(maps, grid, "nearest") if step > 1 else maps)
    per_x, per_y = grid[1] / width, grid[0] / height
    best = [order[:LIST] for order in orders]
    return {
        "title": fm.layer.title + (f", level {fm.level}" if fm.level is not None else ""),
        "name": fm.layer.name + (f" {fm.level}" if fm.level is not None else ""),
        "type": fm.layer.type,
        "shape": list(fm.data.shape),
        "grid": list(grid),
        "stride": None if fm.stride is None else _numbers(np.array(fm.stride)),
        "window": _numbers(np.array(fm.to_cells()) * (per_x, per_y, per_x, per_y), 6),
        "limits": _numbers(_limits(data), 6),
        "heat": [reduce, REDUCTIONS[reduce].norm],
        "by": by,
        "note": note,
        "channels": chosen,
        "ends": _numbers(ends, 6),
        "scores": _numbers(scores[:, chosen]),
        "top": [
            [list(pair) for pair in zip(*row)]
            for row in zip(best, _numbers(np.take_along_axis(scores, np.array(best), 1)))
        ],
        "data": base64.b64encode(codes.tobytes()).decode(),
    }


def _scores(fm: LayerOutput) -> Tuple[str, str, np.ndarray]:
    """What channels are ranked by, why not by contrast, and the scores ``[groups, C]``; see :func:`_layer`."""
    boxes = _picked(fm.boxes)
    if boxes is not None and fm.boxes is not None:
        scores = contrasts(fm, [fm.boxes, *(_one(boxes, i) for i in range(len(boxes)))])
        if not np.isnan(scores[0]).all():
            return "contrast", "", scores
    note = "no detections are known"
    if fm.boxes is not None:
        note = "the boxes leave too few cells to compare" if len(fm.boxes) else "nothing was detected"
    return "std", note, _spreads(fm)[None]


def _limits(data: np.ndarray) -> np.ndarray:
    """The lowest and the highest finite value; 0 and 0 if there is none."""
    limits = np.array([data.min(), data.max()])
    if np.isfinite(limits).all():
        return limits
    finite = data[np.isfinite(data)]
    return np.array([finite.min(), finite.max()] if finite.size else [0, 0])


def _spreads(fm: LayerOutput) -> np.ndarray:
    """Standard deviation of each channel, as :func:`yolov5_featviz.draw.channels.rank` has it."""
    data = fm.values.reshape(fm.channels, -1)
    step = max(1, BLOCK // data.shape[1])
    with np.errstate(invalid="ignore"):
        parts = [data[i : i + step].astype(np.float64).std(axis=1) for i in range(0, len(data), step)]
    found: np.ndarray = np.concatenate(parts)
    return found if np.isfinite(found).all() else rank(fm, "std").scores["std"]


def quantise_maps(maps: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Maps ``[n, H, W]`` to uint8 codes and float32 ``[n, 2]``, the values of code 0 and code 254.

    A code is off by at most a 508th of a map's span. Infinities take the ends, NaN the code 255.
    """
    y, ends = normalize(maps, "channel")
    y *= CODES
    y += 0.5
    y[np.isnan(y)] = NO_NUMBER
    return y.astype(np.uint8), ends


def ranked(layers: Sequence[Dict[str, Any]], group: int = 0) -> List[Tuple[int, int, float]]:
    """The channels of all layers that respond most: ``(position of the layer, channel, score)``, best first.

    Only layers ranked by contrast take part, unless there is none.
    """
    by = "contrast" if any(layer["by"] == "contrast" for layer in layers) else "std"
    rows = [
        (i, channel, float(score))
        for i, layer in enumerate(layers)
        if layer["by"] == by and group < len(layer["top"])
        for channel, score in layer["top"][group]
        if score is not None
    ]
    return sorted(rows, key=lambda row: -row[2])[:LIST]


def _sentence(
    name: str, boxes: Optional[Boxes], layers: Sequence[Dict[str, Any]], top: Sequence[Tuple[int, int, float]]
) -> str:
    """What the first screen says of an image."""
    if boxes is None:
        found = f"No detections of “{name}” are known."
    elif not len(boxes):
        found = f"Nothing was detected in “{name}”."
    else:
        counts = Counter(boxes.labels or ["object"] * len(boxes)).most_common()
        *before, last = [f"{n} × {label}" for label, n in counts]
        listed = f"{', '.join(before)} and {last}" if before else last
        found = f"In “{name}” the model found {listed}."
    if not top:
        return found
    i, channel, score = top[0]
    where = f"Channel {channel} of {layers[i]['title']}"
    if layers[i]["by"] == "std":
        return f"{found} {where} varies most over the image: its standard deviation is {score:.3g}."
    if score <= 0:
        return f"{found} No channel of the layers shown is stronger inside the boxes than outside."
    times = f"{score:.1f} standard deviations" if np.isfinite(score) else "everywhere"
    return f"{found} {where} responds to that most: inside the boxes it is {times} stronger than outside."


def _chosen(orders: Sequence[Sequence[int]], n: int) -> List[int]:
    """``n`` channels to show: half of them the best overall, the others each box's best in turn, then the next best."""
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


def _picked(boxes: Optional[Boxes]) -> Optional[Boxes]:
    if boxes is None or boxes.scores is None:
        return boxes if boxes is None else _take(boxes, range(min(PICKED, len(boxes))))
    return _take(boxes, np.argsort(-boxes.scores, kind="stable")[:PICKED].tolist())


def _take(boxes: Boxes, rows: Sequence[int]) -> Boxes:
    chosen = list(rows)
    scores = None if boxes.scores is None else boxes.scores[chosen]
    return Boxes(boxes.xyxy[chosen], scores, [boxes.labels[i] for i in chosen] if boxes.labels else ())


def _one(boxes: Boxes, i: int) -> Boxes:
    return Boxes(boxes.xyxy[i : i + 1])


def _colours(boxes: Optional[Boxes]) -> List[str]:
    if boxes is None:
        return []
    return [f"#{bytes(colour).hex()}" for colour in box_colours(boxes)]


def _numbers(values: np.ndarray, digits: int = 4) -> Any:
    """Numbers as JSON has them, in nested lists: rounded, None for NaN; infinities, which it has not, as words."""
    values = np.asarray(values, np.float64)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        scale = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(values))))
        rounded = np.rint(values * scale) / scale
    rounded = np.where(np.isfinite(rounded), rounded, values)  # 0, and what is too small or no number
    if np.isfinite(rounded).all():
        return rounded.tolist()
    if values.ndim > 1:
        return [_numbers(row, digits) for row in values]
    return [None if np.isnan(v) else float(v) if np.isfinite(v) else str(float(v)) for v in rounded]


def photo(image: Any) -> Optional[np.ndarray]:
    if image is None:
        return None
    try:
        return as_rgb(image)
    except FeatvizError:  # a format that only the script can read: the maps are shown alone
        return None


def _window_size(fm: LayerOutput) -> Tuple[int, int]:
    left, top, right, bottom = fm.window
    return round(bottom - top), round(right - left)


def jpeg_uri(pixels: np.ndarray, side: int, quality: int) -> str:
    import cv2

    bgr = cv2.cvtColor(np.ascontiguousarray(smaller(pixels, side)), cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()
