"""Draw labelled boxes into an image."""

from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Boxes
from yolov5_featviz.draw.lettering import Text, text_size
from yolov5_featviz.draw.palette import box_colours, is_dark


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
    texts: List[Text] = []
    captions = [boxes.caption(i) for i in range(len(boxes))]
    sizes = [tuple(side + 2 * line for side in text_size(words, 6, dpi)) if words else (0, 0) for words in captions]
    for i, (x, y) in enumerate(place_labels(corners, sizes, (height, width))):
        if not captions[i]:
            continue
        w, h = sizes[i]
        pixels[y : y + h, x : x + w] = colours[i]
        ink = (255, 255, 255) if is_dark(colours[i]) else (0, 0, 0)
        texts.append(Text(x + line, y + line, captions[i], 6, dpi, ink, colours[i]))
    return texts, ""


def place_labels(
    corners: Sequence[Sequence[float]],
    sizes: Sequence[Tuple[int, ...]],
    picture: Tuple[int, int],
    covered: Sequence[Tuple[int, int, int, int]] = (),
) -> List[Tuple[int, int]]:
    """Return left and top edge of each box's label: above the box, else inside, else below, without overlap.

    Where all of these are taken it is placed at the right edge of its box, else at the nearest free place.

    Args:
        corners: left, top, right and bottom edge of the boxes, in pixels.
        sizes: width and height of their labels; (0, 0) for none.
        picture: height and width of the picture, in which all labels stay.
        covered: left and top edge, width and height of other areas to keep free.
    """
    height, width = picture
    found: List[Tuple[int, int]] = []
    taken = list(covered)
    for (x0, y0, x1, y1), (w, h) in zip(corners, sizes):
        left, right = (int(min(max(0, x), max(0, width - w))) for x in (x0, x1 - w))
        tops = [int(y) for y in (y0 - h, y0, y1 - h, y1)]
        tops = [y for y in tops if 0 <= y <= height - h] or [int(min(max(0, y0), max(0, height - h)))]
        places = [(x, y) for x in dict.fromkeys((left, right)) for y in tops]
        beside = [(x, y) for x in (left, right) for _, ty, _, th in taken for y in (ty + th, ty - h)]
        beside += [(x, tops[0]) for tx, _, tw, _ in taken for x in (tx + tw, tx - w)]
        beside = [(x, y) for x, y in beside if 0 <= x <= width - w and 0 <= y <= height - h]
        places += sorted(beside, key=lambda at: abs(at[0] - left) + abs(at[1] - tops[0]))
        free = (
            (x, y)
            for x, y in places
            if not any(x < tx + tw and tx < x + w and y < ty + th and ty < y + h for tx, ty, tw, th in taken)
        )
        found.append(next(free, places[0]))
        if w:
            taken.append((*found[-1], w, h))
    return found
