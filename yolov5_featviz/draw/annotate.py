"""Draw labelled boxes into an image."""

from __future__ import annotations

from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.draw.lettering import SEPARATOR, Text, text_size
from yolov5_featviz.draw.palette import box_colours, is_dark

POINTS = (7.0, 6.0)  # font sizes of labels in pictures
MOST_OF_OTHERS, MOST_OF_OWN = 0.01, 0.05  # largest share of a box that a name may cover


class Label(NamedTuple):
    """Place of a label in pixels: left and top edge, width and height; its font size; whether it is a number."""

    x: int
    y: int
    width: int
    height: int
    points: float
    number: bool


def draw_boxes(pixels: np.ndarray, boxes: Boxes, dpi: float, numbers: bool = True) -> Tuple[List[Text], str]:
    """Draw boxes into the pixels, with a background for each label.

    Args:
        pixels: uint8 RGB ``[H, W, 3]``, changed in place.
        boxes: in these pixels.
        dpi: pixels per inch of the lettering.
        numbers: whether a box whose name has no place gets a number instead.

    Returns:
        The labels, not yet in the pixels, and the list of numbers with their names, parts separated as
        those of a title; empty if each has its name.
    """
    import cv2

    height, width = pixels.shape[:2]
    line = max(1, round(dpi / 96))
    colours = box_colours(boxes)
    corners = np.rint(boxes.xyxy).astype(int).tolist()
    for (x0, y0, x1, y1), colour in zip(corners, colours):
        cv2.rectangle(pixels, (x0, y0), (x1, y1), (0, 0, 0), 3 * line)
        cv2.rectangle(pixels, (x0, y0), (x1, y1), colour, line)

    def measure(words: str, points: float) -> Tuple[int, int]:
        wide, high = text_size(words, points, dpi)
        return wide + 2 * line, high + 2 * line

    captions = [
        boxes.caption(i) if x0 < width and y0 < height and x1 > 0 < y1 else ""
        for i, (x0, y0, x1, y1) in enumerate(corners)
    ]
    first = 0 if numbers else None
    labels = label_boxes(corners, captions, measure, POINTS, (height, width), (), first, kinds_of(boxes))
    texts: List[Text] = []
    listed: List[str] = []
    for caption, colour, label in zip(captions, colours, labels):
        if label is None:
            continue
        words = caption
        if label.number:
            words = str(len(listed) + 1)
            listed.append(f"{words}: {caption}")
        x, y, w, h, points, _ = label
        pixels[y : y + h, x : x + w] = colour
        ink = (255, 255, 255) if is_dark(colour) else (0, 0, 0)
        x += (w - text_size(words, points, dpi)[0]) // 2
        texts.append(Text(x, y + line, words, points, dpi, ink, colour))
    left = sum(map(bool, captions)) - len(texts)
    return texts, SEPARATOR.join(number_list(listed, left)) if numbers else ""


def kinds_of(boxes: Boxes) -> List[int]:
    """Return a number for each box, equal for boxes of one class; of unknown classes all are alike."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(boxes.labels))}
    return [numbers[name] for name in boxes.labels] or [0] * len(boxes)


def number_list(listed: Sequence[str], left: int) -> List[str]:
    """Return the parts of a list of numbers, the last of which counts the boxes with neither name nor number."""
    return [*listed, *([f"{left} {'boxes' if left > 1 else 'box'} without a name"] if left else [])]


def label_boxes(
    corners: Sequence[Sequence[float]],
    captions: Sequence[str],
    measure: Callable[[str, float], Tuple[int, int]],
    points: Sequence[float],
    picture: Tuple[int, int],
    covered: Sequence[Tuple[int, int, int, int]] = (),
    numbers: Optional[int] = None,
    kinds: Sequence[int] = (),
) -> List[Optional[Label]]:
    """Place captions in the largest size in which all have a place, or in the smallest, with numbers for the others.

    Args:
        corners: left, top, right and bottom edge of the boxes, in pixels.
        captions: of the boxes; empty for none.
        measure: ``(words, points)`` to width and height of a label in pixels.
        points: font sizes, largest first.
        picture, covered, kinds: see :func:`place_labels`.
        numbers: how many numbers were given before, for the width of these; None for no numbers.

    Returns:
        The label of each box, None where there is none or no place for it. All numbers have the same size.
    """
    for size in points:
        sizes = [measure(words, size) if words else (0, 0) for words in captions]
        spots = place_labels(corners, sizes, picture, covered, kinds=kinds)
        missing = [bool(words) and spot is None for words, spot in zip(captions, spots)]
        if not any(missing):
            break
    labels = [spot and Label(*spot, *wh, size, False) for spot, wh in zip(spots, sizes)]
    if numbers is not None and any(missing):
        wide, high = measure("0" * len(str(numbers + sum(missing))), size)
        sizes = [(max(wide, high), high) if one else (0, 0) for one in missing]
        taken = [*covered, *(label[:4] for label in labels if label)]
        spots = place_labels(corners, sizes, picture, taken, True, kinds)
        labels = [label or (spot and Label(*spot, *wh, size, True)) for label, spot, wh in zip(labels, spots, sizes)]
    return labels


def place_labels(
    corners: Sequence[Sequence[float]],
    sizes: Sequence[Tuple[int, int]],
    picture: Tuple[int, int],
    covered: Sequence[Tuple[int, int, int, int]] = (),
    small: bool = False,
    kinds: Sequence[int] = (),
) -> List[Optional[Tuple[int, int]]]:
    """Return left and top edge of each box's label, None where it has no place.

    A label touches its own box from above, below, right or left, or lies inside at the top or bottom. It keeps a
    third of its height away from other labels, from ``covered`` and from the edges of other boxes, and one and a half
    from those above or below its middle, since it would read as their name; it covers at most 1 % of any of these
    and 5 % of its own. Of several such places, it takes the one that covers least of other boxes, else the first in
    that order.

    Args:
        corners: left, top, right and bottom edge of the boxes, in pixels.
        sizes: width and height of their labels; (0, 0) for none.
        picture: height and width of the picture, in which all labels stay.
        covered: left and top edge, width and height of other areas to keep free.
        small: a label may cover more of the boxes, and edges where it has no other place; it takes the one that
            covers the smallest area of boxes, other boxes counted twice.
        kinds: a number for each box; a label is not over another box with that of its own, such as its class.
    """
    height, width = picture
    boxes = np.asarray(corners, float).reshape(-1, 4)
    size = np.asarray(sizes, float).reshape(-1, 2)
    asked = np.flatnonzero((size > 0).all(axis=1) & (size <= (width, height)).all(axis=1))
    found: List[Optional[Tuple[int, int]]] = [None] * len(boxes)
    if not len(asked):
        return found
    w, h = size[asked].T
    places = _places(boxes[asked], w, h, height, width)  # [labels, places, 4]
    margin = np.ceil(h / 3)[:, None, None] * (-1, -1, 1, 1)
    edges, beyond, cost = _conflicts(
        places, margin, boxes, asked, np.asarray(kinds or range(len(boxes))), (height, width), small
    )
    allowed = (places[..., :2] >= 0).all(axis=2) & (places[..., 2:] <= (width, height)).all(axis=2)
    allowed &= True if small else ~(edges | beyond)
    ranks = np.lexsort((cost.round(6), edges))  # ties in the order of the places
    taken = np.empty((len(covered) + len(asked), 4))
    count = len(covered)
    for row, (x, y, wide, high) in enumerate(covered):
        taken[row] = x, y, x + wide, y + high
    for label in np.argsort(allowed.sum(axis=1), kind="stable"):  # first those with least choice
        ranked = ranks[label][allowed[label][ranks[label]]]
        around = (places[label, ranked] + margin[label])[:, None]
        free = ~((around[..., :2] < taken[:count, 2:]) & (around[..., 2:] > taken[:count, :2])).all(axis=2).any(axis=1)
        if free.any():
            taken[count] = places[label, ranked[free.argmax()]]
            found[asked[label]] = int(taken[count, 0]), int(taken[count, 1])
            count += 1
    return found


def _places(boxes: np.ndarray, w: np.ndarray, h: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the places of labels ``w`` by ``h`` at boxes ``[n, 4]``, the best first: their edges, ``[n, 10, 4]``."""
    x0, y0 = np.floor(boxes[:, :2]).clip(0, (width, height)).T
    x1, y1 = np.ceil(boxes[:, 2:]).clip(0, (width, height)).T
    left, right = np.minimum(x0, width - w), np.maximum(x1 - w, 0)
    top, bottom = np.minimum(y0, height - h), np.maximum(y1 - h, 0)
    above, below = [(x, y0 - h) for x in (left, right)], [(x, y1) for x in (left, right)]
    beside, inside = [(x1, top), (x0 - w, top)], [(x, y) for y in (top, bottom) for x in (left, right)]
    corners = [(x, y, x + w, y + h) for x, y in (*above, *below, *beside, *inside)]
    edges: np.ndarray = np.array(corners).transpose(2, 0, 1)
    return edges


def _conflicts(
    places: np.ndarray,
    margin: np.ndarray,
    boxes: np.ndarray,
    asked: np.ndarray,
    kinds: np.ndarray,
    picture: Tuple[int, int],
    small: bool,
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each place whether it is at another box's edge, covers too much of a box, and the sum of shares."""
    n, k, _ = places.shape
    low, high = boxes[:, :2], np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    limits = picture[::-1]
    area = (high.clip(0, limits) - low.clip(0, limits)).prod(axis=1).clip(min=1)
    inner = places.reshape(-1, 4)
    w, h = (places[:, 0, 2:] - places[:, 0, :2]).T
    middle = np.stack([w / 4, -1.5 * h, -w / 4, 1.5 * h], axis=1)[:, None]  # what is above or below most of the label
    edges = np.zeros(n * k, bool)
    for around in ((places + margin).reshape(-1, 4), (places + middle).reshape(-1, 4)):
        at, box = _overlaps(around, low, high)
        within = ((around[at, :2] >= low[box]) & (around[at, 2:] <= high[box])).all(axis=1)
        edges[at[~within & (box != asked[at // k])]] = True
    at, box = _overlaps(inner, low, high)
    own = box == asked[at // k]
    edges[at[~own & (kinds[box] == kinds[asked[at // k]])]] = True
    covered = (np.minimum(inner[at, 2:], high[box]) - np.maximum(inner[at, :2], low[box])).prod(axis=1)
    share = covered / area[box]
    beyond = np.bincount(at, share > np.where(own, MOST_OF_OWN, MOST_OF_OTHERS), n * k) > 0
    weights = covered * np.where(own, 1, 2) if small else share * ~own
    cost = np.bincount(at, weights, n * k)
    return edges.reshape(n, k), beyond.reshape(n, k), cost.reshape(n, k)


def _overlaps(places: np.ndarray, low: np.ndarray, high: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Return the pairs of a place ``[m, 4]`` and a box, from ``low`` to ``high`` ``[n, 2]``, that overlap."""
    there = (places[:, :1] < high[:, 0]) & (places[:, 2:3] > low[:, 0])
    there &= (places[:, 1:2] < high[:, 1]) & (places[:, 3:] > low[:, 1])
    at, box = np.nonzero(there)
    return at, box
