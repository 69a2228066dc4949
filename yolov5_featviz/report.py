"""One page about a run: what was found in each image, and which layers and channels respond to it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import pkgutil
import re
import tempfile
import threading
from collections import Counter
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import IO, Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import quote_from_bytes

import numpy as np

from yolov5_featviz.boxes import Boxes
from yolov5_featviz.capture import FeatureMap
from yolov5_featviz.channels import rank, sides
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.heatmap import BOX_COLOURS, aligned, blended, heatmap
from yolov5_featviz.images import as_rgb, smaller
from yolov5_featviz.normalize import normalize
from yolov5_featviz.pictures import Look
from yolov5_featviz.reduce import REDUCTIONS, reduce_channels
from yolov5_featviz.render import COLOURS, NAN, palette_of, quantise
from yolov5_featviz.resample import resample
from yolov5_featviz.save import write_new
from yolov5_featviz.text import printable
from yolov5_featviz.version import __version__

Part = Tuple[str, Sequence[FeatureMap]]


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
PAGE = 16_000_000  # bytes of images on one page; head and foot come to that
LIST = 10  # channels in the ranked list
GROUPS = 63  # sets of boxes that are compared at a time
BLOCK = 1 << 17  # values at a time, so that arrays stay in the processor's cache
PICKED = 50  # boxes that can be picked, those with the highest scores
LARGEST = 1 << 18  # cells of a map that goes into the page as it is
HEAT = 1 << 22  # cells of all heat maps of an image
CODES, NO_NUMBER = 254, 255  # a map is stored as bytes from 0 (its minimum) to 254 (its maximum)
FORMULAS = (
    "Contrast: how many standard deviations the channel is stronger inside the boxes than outside; 0.8 is a lot. "
    "A high rank does not prove that the detection depends on the channel.",
    "Ranked by standard deviation over the image, since there are no detections to compare.",
)
CMAPS = ("turbo", "jet", "viridis", "magma", "gray")
ALPHA = 0.55
THUMBNAIL = 128


def contrasts(feature_map: FeatureMap, groups: Iterable[Boxes]) -> np.ndarray:
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
    data = feature_map.data.float().numpy().reshape(feature_map.channels, -1)
    step = max(1, BLOCK // data.shape[1])
    parts = (data[i : i + step].astype(np.float64) for i in range(0, len(data), step))
    d: np.ndarray = np.concatenate(
        [_cohens_d(x, regions, inside.sum(axis=1, dtype=float)[:, None]) for x in parts], axis=1
    )
    n = inside.sum(axis=1)
    d[np.minimum(n[1:], n[0] - n[1:]) < 2] = np.nan
    return d


def _inside(feature_map: FeatureMap, groups: Sequence[Boxes]) -> Tuple[np.ndarray, np.ndarray]:
    """Which cells show the image, bool ``[H, W]``, and which of them lie inside each set of boxes, ``[G, H, W]``.

    As :func:`yolov5_featviz.channels.sides`, for all sets at once.
    """
    none = replace(feature_map, boxes=Boxes(np.zeros((0, 4))))
    image = sides(none)[1]
    found = np.zeros((len(groups), *image.shape), bool)
    if feature_map.stride is None:
        return image, found
    (height, width), (down, across) = image.shape, feature_map.stride
    y, x = (np.arange(height) + 0.5) * down, (np.arange(width) + 0.5) * across
    for inside, boxes in zip(found, groups):
        x0, y0, x1, y1 = boxes.xyxy.astype(float).T[:, :, None]
        tall, wide = (y >= y0) & (y < y1), (x >= x0) & (x < x1)
        for rows, columns in zip(tall, wide):
            inside |= rows[:, None] & columns
        row, column = ((y0 + y1)[:, 0] / 2 // down).astype(int), ((x0 + x1)[:, 0] / 2 // across).astype(int)
        there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        inside[row[there], column[there]] = True
    return image, found & image


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
        image: the image, as :func:`yolov5_featviz.images.as_rgb` takes it; None if there is none.
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
    pixels = _photo(image)
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
        "photo": None if small is None else _jpeg(small, level.side, 78),
        "thumbnail": None if small is None else _jpeg(small, THUMBNAIL, 70),
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


def _layer(fm: FeatureMap, channels: int, cells: int, largest: int, reduce: str) -> Dict[str, Any]:
    """What the page knows of one feature map.

    ``scores`` and ``top`` have one row for all detections and one for each that can be picked:
    contrasts, or one row of standard deviations, as ``by`` says. ``scores`` are those of
    ``channels``, the ones that are in the page; ``top`` are the best of all, pairs of channel and
    score. ``data`` are the maps: ``[1 + len(channels), *grid]`` bytes in base64, first the heat map,
    with their minima and maxima in ``ends``; ``window`` is where the image lies in them, in cells.
    """
    boxes = _picked(fm.boxes)
    scores = np.zeros((0, fm.channels))
    by, note = "contrast", ""
    if boxes is not None and fm.boxes is not None:
        scores = contrasts(fm, [fm.boxes, *(_one(boxes, i) for i in range(len(boxes)))])
    if not len(scores) or np.isnan(scores[0]).all():
        by, scores = "std", _spreads(fm)[None]
        note = "nothing was detected" if fm.boxes is not None and not len(fm.boxes) else "no detections are known"
        note = "the boxes leave too few cells to compare" if boxes is not None and len(boxes) else note
    unknown = np.isnan(scores)
    orders = np.lexsort((np.where(unknown, 0, -scores), unknown)).tolist()  # of equals the lower number first
    _, height, width = fm.data.shape
    step = int(np.ceil(np.sqrt(height * width / largest)))
    grid = max(1, height // step), max(1, width // step)
    chosen = _chosen(orders, min(channels, max(1, cells // (grid[0] * grid[1]))) if channels else 0)
    data = fm.data.float().numpy()
    maps = np.concatenate([reduce_channels(data, reduce)[None], data[chosen]])
    maps = resample(maps, grid, "nearest") if step > 1 else maps
    codes, ends = encode(maps)
    down, across = fm.stride or (1.0, 1.0)
    left, top, right, bottom = fm.window
    per_x, per_y = grid[1] / width / across, grid[0] / height / down
    limits = np.array([data.min(), data.max()])
    if not np.isfinite(limits).all():
        finite = data[np.isfinite(data)]
        limits = np.array([finite.min(), finite.max()] if finite.size else [0, 0])
    best = [order[:LIST] for order in orders]
    return {
        "title": fm.layer.title + (f", level {fm.level}" if fm.level is not None else ""),
        "name": fm.layer.name + (f" {fm.level}" if fm.level is not None else ""),
        "type": fm.layer.type,
        "shape": list(fm.data.shape),
        "grid": list(grid),
        "stride": None if fm.stride is None else _numbers(np.array([down, across])),
        "window": _numbers(np.array([left * per_x, top * per_y, right * per_x, bottom * per_y]), 6),
        "limits": _numbers(limits, 6),
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


def _spreads(fm: FeatureMap) -> np.ndarray:
    """Standard deviation of each channel, as :func:`yolov5_featviz.channels.rank` has it."""
    data = fm.data.float().numpy().reshape(fm.channels, -1)
    step = max(1, BLOCK // data.shape[1])
    with np.errstate(invalid="ignore"):
        parts = [data[i : i + step].astype(np.float64).std(axis=1) for i in range(0, len(data), step)]
    found: np.ndarray = np.concatenate(parts)
    return found if np.isfinite(found).all() else rank(fm, "std").scores["std"]


def encode(maps: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
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
    names = sorted(set(boxes.labels))
    indices = [names.index(label) for label in boxes.labels] or [0] * len(boxes)
    return [f"#{bytes(BOX_COLOURS[i % len(BOX_COLOURS)]).hex()}" for i in indices]


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


def _photo(image: Any) -> Optional[np.ndarray]:
    if image is None:
        return None
    try:
        return as_rgb(image)
    except FeatvizError:  # a format that only the script can read: the maps are shown alone
        return None


def _window_size(fm: FeatureMap) -> Tuple[int, int]:
    left, top, right, bottom = fm.window
    return round(bottom - top), round(right - left)


def _jpeg(pixels: np.ndarray, side: int, quality: int) -> str:
    import cv2

    bgr = cv2.cvtColor(np.ascontiguousarray(smaller(pixels, side)), cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode()


def as_json(value: Any) -> str:
    """JSON that can stand in a page: nothing in it ends a script or begins a comment, and all of it is ASCII."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")


class _Page:
    """What is known of one page while its images wait: the first of them, and how many there are.

    Attributes:
        start: where its images begin, in bytes of all.
        used: how many bytes its images take.
        images: how many there are.
        first, last: the names of its first and last image.
        shown: whether something was detected in the image that it opens with.
        values: what the page's head and foot say of that image.
    """

    def __init__(self, start: int, name: str) -> None:
        self.start, self.used, self.images = start, 0, 0
        self.first = self.last = name
        self.group = ""
        self.shown: Optional[bool] = None
        self.values: Dict[str, str] = {}


class Report:
    """Collects images and writes the page at the end; see ``docs/report.md`` for what is on it.

    The images wait in a file without a name in ``folder``, so memory stays flat, and a run that is
    killed leaves nothing behind. The first images are shown at full detail, later ones at less
    (``LEVELS``); what no longer fits is counted. Past ``PAGE`` bytes the report goes on in another
    page, ``index2.html``...; the pages are linked with each other.

    Args:
        folder: where the page goes; made with the first image, if need be.
        about: a line about the run, under the heading.
        look: ``reduce`` and ``cmap`` are used.
    """

    def __init__(self, folder: Path, about: str = "", look: Optional[Look] = None) -> None:
        self.folder, self.about, self.look = folder, about, look or Look()
        self.images = self.left_out = 0
        self._body: Optional[IO[bytes]] = None
        self._used = 0
        self._strongest: Counter[str] = Counter()
        self._pages: List[_Page] = []
        self._lock = threading.Lock()

    def add(
        self,
        name: str,
        parts: Sequence[Part],
        image: Any = None,
        group: str = "",
        folder: str = "",
        size: Optional[Tuple[int, int]] = None,
    ) -> None:
        """Add an image.

        Args:
            name, parts, image, size: as for :func:`entry`; parts without a map are passed over.
            group: what it belongs to, such as ``epoch 10``: images of one name in several groups are
                variants of each other.
            folder: where its pictures lie, from the page.

        Raises:
            OSError: the disk says no. The images added before are safe.
        """
        parts = [(part, maps) for part, maps in parts if len(maps)]
        with self._lock:
            levels = [level for level in LEVELS if self._used < level.until]
            if not levels or not parts:
                self.left_out += bool(parts)
                return
            pixels = _photo(image)
            page = self._pages[-1] if self._pages else _Page(0, name)
            for level in levels:  # less of an image that alone is too large for a page
                found = entry(name, parts, pixels, level, self.look, size)
                item = _item(found, page.images, group, _link(folder), page.group)
                if len(item) <= PAGE:
                    break
            else:
                self.left_out += 1
                return
            if page.used + len(item) > PAGE:
                page = _Page(self._used, name)
                item = _item(found, 0, group, _link(folder), "")
            self._write(item)
            if not self._pages or self._pages[-1] is not page:
                self._pages.append(page)
            best = found["parts"][0]["layers"][found["best"]]
            if best["by"] == "contrast":
                self._strongest[best["title"]] += 1
            if page.shown is None or (found["detected"] and not page.shown):
                page.shown = bool(found["detected"])
                overlay = _overlay(parts[0][1][found["best"]], pixels, found["size"], self.look)
                page.values = self._screen(found, page.images, overlay)
            page.group, page.last = group, name
            page.images += 1
            page.used += len(item)
            self.images += 1

    def _write(self, item: bytes) -> None:
        if self._body is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._body = tempfile.TemporaryFile(dir=str(self.folder))  # noqa: SIM115
        try:
            self._body.write(item)
            self._body.flush()
        except OSError:
            self._body.seek(self._used)
            self._body.truncate()
            raise
        self._used += len(item)

    def close(self) -> Optional[Path]:
        """Write the pages, each whole or not at all, beside any that are there.

        Returns:
            The first of them; None if there is nothing to write.

        Raises:
            OSError: the disk says no. The pages written before stay.
        """
        if self._body is None or not self._pages:
            return None
        with self._body as body:
            while True:
                names = _free(self.folder, len(self._pages))
                written: List[Path] = []
                for page, name in zip(self._pages, names):
                    written.append(write_new(self.folder / name, self._content(page, names, body)))
                    if written[-1].name != name and len(names) > 1:  # somebody else was quicker: the links are wrong
                        break
                else:
                    return written[0]
                for path in written:
                    path.unlink()

    def _content(self, page: _Page, names: Sequence[str], body: IO[bytes]) -> Iterator[bytes]:
        """A page, piece by piece."""
        head, tail = self._frame(page, names)
        yield head
        body.seek(page.start)
        for start in range(0, page.used, 1 << 20):
            yield body.read(min(1 << 20, page.used - start))
        yield tail

    def _screen(self, first: Dict[str, Any], index: int, overlay: str) -> Dict[str, str]:
        """What a page says of the image that it opens with."""
        layers = first["parts"][0]["layers"]
        best = layers[first["best"]]
        by = best["by"]
        rows = [
            f'<tr><td class="number">{n}</td><td>{_escaped(layers[i]["name"] + " " + layers[i]["type"])}</td>'
            f"<td>{channel}</td><td>{score:{'.2f' if by == 'contrast' else '.3g'}}</td></tr>"
            for n, (i, channel, score) in enumerate(ranked(layers), 1)
        ]
        return {
            "index": str(index),
            "says": _escaped(first["says"]),
            "alt": _escaped(f"{first['name']} under the heat map of {best['title']}"),
            "aspect": f"{first['size'][1] / first['size'][0]:.6g}",
            "overlay": overlay,
            "boxes": "".join(map(_box, first["boxes"], first["captions"], first["colours"])),
            "caption": _escaped(f"{best['title']}, {best['heat'][0]} of all {best['shape'][0]} channels"),
            "by": "standard deviation" if by == "std" else "contrast",
            "rows": "\n".join(rows),
            "formula": _escaped(FORMULAS[by == "std"]),
        }

    def _frame(self, page: _Page, names: Sequence[str]) -> Tuple[bytes, bytes]:
        """What stands before the images and what after."""
        script = _web("report.js")
        cmaps = list(dict.fromkeys([*([self.look.cmap] if self.look.cmap else []), *CMAPS]))
        settings = {
            "palettes": [[cmap, _palette(cmap)] for cmap in cmaps],
            "first": int(page.values["index"]),
            "alpha": round(100 * ALPHA),
            "list": LIST,
            "side": LEVELS[0].side,
            "formulas": FORMULAS,
        }
        values = {
            **page.values,
            "hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            "version": _escaped(__version__),
            "style": _web("report.css"),
            "about": _escaped(self.about),
            "overall": self._overall(),
            "pages": self._links(page, names),
            "alpha": str(round(100 * ALPHA)),
            "settings": as_json(settings),
            "script": script,
        }
        head, tail = (
            re.sub(r"\{\{(\w+)\}\}", lambda found: values[found.group(1)], half).encode("utf-8", "replace")
            for half in _web("report.html").split("{{entries}}")
        )
        return head, tail

    def _links(self, page: _Page, names: Sequence[str]) -> str:
        """Links to all pages, if there are several."""
        if len(names) < 2:
            return ""
        links, n = [], 1
        for number, (other, name) in enumerate(zip(self._pages, names), 1):
            span = f"{n} to {n + other.images - 1}" if other.images > 1 else str(n)
            title = html.escape(
                f"images {span}: {other.first} to {other.last}" if other.images > 1 else f"image {span}: {other.first}"
            )
            here = ' aria-current="page"' if other is page else ""
            links.append(f'<a href="{name}" title="{title}"{here}>{number}</a>')
            if other is page:
                where = f"Page {number} of {len(names)}, images {span} of {self.images}"
            n += other.images
        return f'<nav class="pages" aria-label="Pages">{where}: {" ".join(links)}</nav>'

    def _overall(self) -> str:
        """What can be said of all images together."""
        words = [f"{self.images} images."] if self.images > 1 else []
        ranked = sum(self._strongest.values())
        if self.images > 1 and ranked:
            where = ", ".join(f"in {title} on {n}" for title, n in self._strongest.most_common(5))
            words.append(f"The strongest channel lies {where} of the {ranked} whose detections can be compared.")
        if self.left_out:
            words.append(f"{self.left_out} more did not fit into this page; their pictures are in their folders.")
        return f'<p class="overall">{_escaped(" ".join(words))}</p>' if words else ""


def _free(folder: Path, n: int) -> List[str]:
    """The first ``n`` names of pages that are not taken: ``index.html``, ``index2.html``..."""
    names = (f"index{i if i > 1 else ''}.html" for i in count(1))
    return list(islice((name for name in names if not os.path.lexists(folder / name)), n))


def _item(found: Dict[str, Any], index: int, group: str, link: str, before: str) -> bytes:
    """The image's place in the list, and all that is known of it."""
    name, n = found["name"], found["detected"]
    photo = f'<img alt="" loading="lazy" decoding="async" src="{found["thumbnail"]}">' if found["thumbnail"] else ""
    count = "" if n is None else "nothing found" if n == 0 else f"{n} detection{'s' * (n > 1)}"
    head = f'<li class="group">{_escaped(group)}</li>\n' if group and group != before else ""
    data = _with_data(
        {**{key: value for key, value in found.items() if key != "thumbnail"}, "group": group, "link": link}
    )
    return (
        f'{head}<li data-index="{index}" data-name="{_escaped(name)}" data-group="{_escaped(group)}">'
        f'<button type="button">{photo}{_escaped(name)}<small>{count}</small></button>'
        f'<script type="application/json">{data}</script></li>\n'
    ).encode("utf-8", "replace")


def _with_data(found: Dict[str, Any]) -> str:
    """:func:`as_json` of an image, whose maps and photograph, most of it, need no second look: they are in base64."""
    parts = [{**part, "layers": [{**layer, "data": ""} for layer in part["layers"]]} for part in found["parts"]]
    # within a string the quotation marks would have a stroke before them
    first, *others = as_json({**found, "photo": found["photo"] and "", "parts": parts}).split('"data":""')
    first = first.replace('"photo":""', f'"photo":"{found["photo"]}"', 1) if found["photo"] else first
    data = (layer["data"] for part in found["parts"] for layer in part["layers"])
    return "".join([first, *(f'"data":"{maps}"{other}' for maps, other in zip(data, others))])


def _escaped(text: str) -> str:
    """Text for a page, without control characters."""
    return html.escape(printable(text))


def _box(edges: Sequence[float], caption: str, colour: str) -> str:
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) * 100 for edge in edges)
    place = f"left:{x0:.4g}%;top:{y0:.4g}%;width:{x1 - x0:.4g}%;height:{y1 - y0:.4g}%;--box:{colour}"
    return f'<div class="box" style="{place}"><span>{_escaped(caption)}</span></div>'


def _overlay(fm: FeatureMap, pixels: Optional[np.ndarray], size: Sequence[int], look: Look) -> str:
    """What is seen before anything is clicked: the heat map over the image, as a JPEG's data URI."""
    height, width = size
    scale = min(1.0, LEVELS[0].side / max(height, width))
    to = max(1, round(height * scale)), max(1, round(width * scale))
    heat = quantise(aligned(heatmap(fm, look.reduce).values, fm, (height, width), to).clip(0, 1))
    palette = palette_of(look.cmap or CMAPS[0])
    if pixels is None:
        return _jpeg(palette[heat], max(to), 88)
    import cv2

    small = cv2.resize(smaller(pixels, max(to)), to[::-1], interpolation=cv2.INTER_LINEAR)
    return _jpeg(blended(heat, palette, small, ALPHA), max(to), 88)


def _palette(cmap: str) -> str:
    """The colours of a map and the grey of what holds no number, RGB, in base64."""
    palette = palette_of(cmap)
    return base64.b64encode(palette[:COLOURS].tobytes() + palette[NAN].tobytes()).decode()


def _link(folder: str) -> str:
    return quote_from_bytes(os.fsencode(folder.replace(os.sep, "/"))) + "/" if folder else ""


def _web(name: str) -> str:
    content = pkgutil.get_data("yolov5_featviz", f"web/{name}")
    assert content is not None
    return content.decode("utf-8")
