"""Data of one image in the report: maps, scores and sentences."""

from __future__ import annotations

import base64
from collections import Counter
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.arrays.cells import in_boxes
from yolov5_featviz.arrays.image import as_rgb, smaller
from yolov5_featviz.arrays.normalize import normalize
from yolov5_featviz.arrays.reduce import REDUCTIONS, reduce_channels
from yolov5_featviz.arrays.resample import resample
from yolov5_featviz.draw.channels import rank
from yolov5_featviz.draw.palette import box_colours
from yolov5_featviz.draw.scale import end_words, ends_in_padding
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.layer_output import LayerOutput
from yolov5_featviz.runs.look import Look

Part = Tuple[str, Sequence[LayerOutput]]


class Level(NamedTuple):
    """Level of detail of images while the report has less than ``until`` bytes.

    At most ``channels`` per layer and ``cells`` in total; ``side`` is the longer side of the
    photograph in pixels.
    """

    until: int
    channels: int
    cells: int
    side: int


LEVELS = (
    Level(24_000_000, 64, 3 << 19, 800),
    Level(60_000_000, 16, 3 << 17, 640),
    Level(84_000_000, 4, 3 << 15, 480),
    Level(1_000_000_000, 0, 0, 320),  # only the heat map
)
LIST = 10  # channels in the ranked list
GROUPS = 63  # sets of boxes compared at a time
BLOCK = 1 << 17  # values at a time, so that arrays fit the CPU cache
PICKED = 50  # boxes that can be selected, by highest score
LARGEST = 1 << 18  # cells of a map stored at full resolution
HEAT = 1 << 22  # cells of all heat maps of an image
CODES, NO_NUMBER = 254, 255  # a map is stored as bytes from 0 (its minimum) to 254 (its maximum)
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
) -> Dict[str, Any]:
    """Collect the report's data of one image as JSON-compatible values.

    Args:
        name: the image's name.
        parts: pairs of a name, empty if there is only one, and feature maps of this image: of several
            models, or of the passes of an augmentation. None may be empty.
        image: the image, as accepted by :func:`yolov5_featviz.arrays.image.as_rgb`; None if there is none.
        level: level of detail.
        look: ``reduce`` is used for the heat map.
        size: height and width of the image, if ``image`` is a smaller copy of it.

    Returns:
        ``photo`` and ``thumbnail`` (JPEG data URIs, or None), ``size`` (height and width of the
        image, or of the network's input), ``boxes`` (edges as fractions of the image, best score first),
        ``captions``, ``colours``, ``says`` (one sentence), ``best`` (index of the layer that responds
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
    """Collect the report's data of one feature map.

    ``scores`` and ``top`` have one row for all detections and one for each selectable box: contrasts,
    or a single row of standard deviations, depending on ``by``. ``scores`` belong to ``channels``,
    those stored in the report; ``top`` holds the best of all as pairs of channel and score. ``data``
    holds the maps: ``[1 + len(channels), *grid]`` bytes in base64, first the heat map, with their
    minima and maxima in ``ends``; ``window`` is the image's position in them, in cells. ``padded`` are the
    maps whose scale has an end in the padding, by number, and the number of maps if that of the layer has.
    """
    by, note, scores = _scores(fm)
    unknown = np.isnan(scores)
    orders = np.lexsort((np.where(unknown, 0, -scores), unknown)).tolist()  # ties: lower index first
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
        "padded": _padded(fm, maps, REDUCTIONS[reduce].norm),
        "scores": _numbers(scores[:, chosen]),
        "top": [
            [list(pair) for pair in zip(*row)]
            for row in zip(best, _numbers(np.take_along_axis(scores, np.array(best), 1)))
        ],
        "data": base64.b64encode(codes.tobytes()).decode(),
    }


def _scores(fm: LayerOutput) -> Tuple[str, str, np.ndarray]:
    """Return the ranking criterion, why it is not contrast, and the scores ``[groups, C]``; see :func:`_layer`."""
    boxes = _picked(fm.boxes)
    if boxes is not None and fm.boxes is not None:
        scores = contrasts(fm, [fm.boxes, *(boxes.take([i]) for i in range(len(boxes)))])
        if not np.isnan(scores[0]).all():
            return "contrast", "", scores
    note = "no detections are known"
    if fm.boxes is not None:
        note = "the boxes leave too few cells to compare" if len(fm.boxes) else "nothing was detected"
    return "std", note, _spreads(fm)[None]


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


def quantise_maps(maps: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Quantise maps ``[n, H, W]`` to uint8 codes and float32 ``[n, 2]``, the values of codes 0 and 254.

    The error is at most 1/508 of a map's range. Infinities map to the ends, NaN to 255.
    """
    y, ends = normalize(maps, "channel")
    y *= CODES
    y += 0.5
    y[np.isnan(y)] = NO_NUMBER
    return y.astype(np.uint8), ends


def ranked(layers: Sequence[Dict[str, Any]], group: int = 0) -> List[Tuple[int, int, float]]:
    """Rank the channels of all layers: ``(index of the layer, channel, score)``, best first.

    Only layers ranked by contrast are included, unless there is none.
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
    """Summarise an image in one sentence."""
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
        return f"{found} {where} varies most over the image: its standard deviation is {end_words(score)[0]}."
    if score <= 0:
        return f"{found} No channel of the layers shown is stronger inside the boxes than outside."
    times = f"{score:.1f} standard deviations" if np.isfinite(score) else "everywhere"
    return f"{found} {where} responds most: inside the boxes it is {times} stronger than outside."


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


def _picked(boxes: Optional[Boxes]) -> Optional[Boxes]:
    if boxes is None or boxes.scores is None:
        return boxes if boxes is None else boxes.take(range(min(PICKED, len(boxes))))
    return boxes.take(np.argsort(-boxes.scores, kind="stable")[:PICKED].tolist())


def _colours(boxes: Optional[Boxes]) -> List[str]:
    if boxes is None:
        return []
    return [f"#{bytes(colour).hex()}" for colour in box_colours(boxes)]


def _numbers(values: np.ndarray, digits: int = 4) -> Any:
    """Convert to nested lists of JSON values: rounded, NaN as None, infinities as strings."""
    values = np.asarray(values, np.float64)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        scale = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(values))))
        rounded = np.rint(values * scale) / scale
    rounded = np.where(np.isfinite(rounded), rounded, values)  # 0, tiny and non-finite values
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
    except FeatvizError:  # a format that only the script can read: show maps alone
        return None


def _window_size(fm: LayerOutput) -> Tuple[int, int]:
    left, top, right, bottom = fm.window
    return round(bottom - top), round(right - left)


def jpeg_uri(pixels: np.ndarray, side: int, quality: int) -> str:
    import cv2

    bgr = cv2.cvtColor(np.ascontiguousarray(smaller(pixels, side)), cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()
