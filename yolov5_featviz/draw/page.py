"""Page layout: a picture below a head with title and colour scale."""

from __future__ import annotations

import math
from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np

from yolov5_featviz.arrays.resample import check_resample, resample
from yolov5_featviz.draw.channels import Choice
from yolov5_featviz.draw.lettering import SEPARATOR, Text, text_size
from yolov5_featviz.draw.palette import COLOURS, PAPER
from yolov5_featviz.draw.picture import Picture, lettered
from yolov5_featviz.draw.scale import Legend
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.layer_output import LayerOutput

PANEL_INCHES = 3.3  # minimum width of a single map
PAGE_INCHES = 8.5  # maximum height, without the head, where a width is given; journals have 9 to 10
LEAST_DOTS = 2  # printed dots to a cell where a width is given


def body_pixels(width: float, dpi: int) -> Tuple[int, int]:
    """Return height and width in pixels, without the head, of what fits on a page ``width`` inches wide."""
    gap = max(1, round(dpi / 75))
    return round(PAGE_INCHES * dpi), round(width * dpi) - 2 * gap


class DoesNotFitError(FeatvizError):
    """Error of a map that does not fit in a width with :data:`LEAST_DOTS` printed dots to a cell."""


def too_small(height: int, width: int, inches: float, dpi: int) -> DoesNotFitError:
    """Return the error of a map of ``height`` by ``width`` cells that does not fit in a width."""
    tall, wide = body_pixels(inches, dpi)
    more = max(LEAST_DOTS * height / tall, LEAST_DOTS * width / wide)
    return DoesNotFitError(
        f"a map of {height}×{width} cells does not fit in {inches:.3g} inches with {LEAST_DOTS} dots a cell at {dpi} "
        f"dpi: take {math.ceil(more * dpi):,} dpi, or a larger width"
    )


def map_title(feature_map: LayerOutput, shown: str) -> str:
    """Return a one-line title: image, layer, type, what is shown of it, size and stride."""
    layer = feature_map.layer
    _, height, width = feature_map.data.shape
    name = f"Layer {layer.name}" if layer.name[:1].isdigit() else layer.name
    parts = [name, layer.type, shown, f"H×W {height}×{width}"]
    if feature_map.level is not None:
        parts.insert(2, f"level {feature_map.level}")
    if feature_map.call is not None:
        parts.insert(2, f"call {feature_map.call}")
    if feature_map.stride is not None:
        down, across = (f"{s:.3g}" for s in feature_map.stride)
        parts.append(f"stride {down}" if down == across else f"stride {down}×{across}")
    if feature_map.image:
        parts.insert(0, feature_map.image)
    return SEPARATOR.join(filter(None, parts))


def channel_words(count: int, choice: Choice, chosen: Optional[Sequence[int]] = None) -> str:
    """Describe which of ``count`` channels are shown: ``64 channels``, ``top 16 of 64 channels by contrast``."""
    n = len(choice.channels if chosen is None else chosen)
    if choice.ranking is not None:
        by = choice.ranking.note or f"by {choice.ranking.by}"
        return f"top {len(choice.channels)} of {count} channels {by}"
    if count == 1:
        return "1 channel"
    return f"{count} channels" if n == count else f"{n} of {count} channels"


def sheet(
    height: int,
    width: int,
    title: str,
    key: Optional[Legend],
    dpi: float,
    plain: bool,
    colours: Optional[np.ndarray] = None,
    exact: bool = False,
) -> Tuple[np.ndarray, int, List[Text]]:
    """Create an empty page for a body of ``height`` and ``width``, below a head with title and colour scale.

    It is some pixels wider than asked for unless ``exact``.

    Returns:
        ``(canvas, top, texts)``: palette indices ``[head + body, margin + width]``, or RGB if ``colours``
        is a palette; the first row of the body; and the texts of the head, which are not in the canvas
        yet.
    """
    gap = max(1, round(dpi / 75))
    head, texts = _head(title, key, width - gap, dpi) if not plain else (np.empty((0, 0), np.uint8), [])
    top = gap if plain else head.shape[0] + 2 * gap
    wide = (
        gap + width if exact else -(-(gap + width) // 8) * 8
    )  # for encode.filtered, which compares eight bytes at a time
    canvas = np.full((top + height, wide) if colours is None else (top + height, wide, 3), PAPER, np.uint8)
    if colours is not None:
        canvas[...] = colours[PAPER]
    canvas[gap : gap + head.shape[0], gap : gap + head.shape[1]] = head if colours is None else colours[head]
    return canvas, top, [text._replace(x=text.x + gap, y=text.y + gap) for text in texts]


def _head(title: str, key: Optional[Legend], width: int, dpi: float) -> Tuple[np.ndarray, List[Text]]:
    """Lay out title and colour scale, ``[height, width]``: on one line if they fit, else two, else smaller."""
    space = round(dpi / 20)
    for points in (8.0, 7.0, 6.0):
        lines = _wrap(title, points, dpi, width)
        bar = _scale_bar(key, points, dpi) if key else []
        scope = key.scope if key else ""
        bar_w, scope_w = sum(part_w for part_w, _ in bar), 2 * space + text_size(scope, points, dpi)[0]
        scale_w = bar_w + (scope_w if scope else 0)
        beside = text_size(lines[-1], points, dpi)[0] + scale_w + dpi / 7 <= width
        if len(lines) + (not beside) <= 2 and scale_w <= width:
            break
    line_h = text_size("", points, dpi)[1]
    texts = [Text(0, i * line_h, line, points, dpi) for i, line in enumerate(lines)]
    x, y = (width - scale_w, (len(lines) - 1) * line_h) if beside else (0, len(lines) * line_h)
    ramps = []
    for part_w, word in bar:
        if x + part_w > width and x > 0:
            x, y = 0, y + line_h
        if word is None:
            ramps.append((x, y, part_w))
        elif word:
            texts.append(Text(x, y, word, points, dpi))
        x += part_w
    if scope:
        x += 2 * space if x else 0
        first, *more = _broken(scope, points, dpi, width, width - x)
        texts += [Text(x, y, first, points, dpi)] if first else []
        texts += [Text(0, y + i * line_h, line, points, dpi) for i, line in enumerate(more, 1)]
    head = np.full((texts[-1].y + line_h, width), PAPER, np.uint8)
    for x, y, part_w in ramps:
        ramp = np.rint(np.linspace(0, COLOURS - 1, part_w)).astype(np.uint8)[: max(0, width - x)]
        head[y + line_h // 6 : y + line_h - line_h // 6, x : x + len(ramp)] = ramp
    return head, texts


def _scale_bar(key: Legend, points: float, dpi: float) -> List[Tuple[int, Optional[str]]]:
    """Return the colour scale from left to right, as widths in pixels and texts; None is the ramp."""
    space = round(dpi / 20)
    low, high = (text_size(word, points, dpi)[0] for word in (key.low, key.high))
    return (
        [(low + space, key.low), (round(dpi / 2), None), (space, ""), (high, key.high)]
        if key.high
        else [(low, key.low)]
    )


def _wrap(title: str, points: float, dpi: float, width: int) -> List[str]:
    """Wrap the parts of a title to as few lines as possible; a part that is too long for a line at spaces."""
    lines: List[str] = []
    for part in title.split(SEPARATOR):
        if lines and text_size(lines[-1] + SEPARATOR + part, points, dpi)[0] <= width:
            lines[-1] += SEPARATOR + part
        else:
            lines += _broken(part, points, dpi, width, width)
    return lines


def _broken(words: str, points: float, dpi: float, width: int, first: int) -> List[str]:
    """Break words at spaces to lines of at most ``width`` pixels, the first of at most ``first``, maybe empty."""
    lines, room = [""], first
    for word in words.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if text_size(longer, points, dpi)[0] > room and (lines[-1] or room < width):
            lines.append("")
            longer, room = word, width
        lines[-1] = longer if text_size(longer, points, dpi)[0] <= room else _shortened(longer, points, dpi, room)
    return lines


def _shortened(word: str, points: float, dpi: float, width: int) -> str:
    """Shorten a word that is too long for a line, such as a file name, in the middle."""
    short, keep = word, len(word)
    while keep > 8 and text_size(short, points, dpi)[0] > width:
        keep -= 1
        short = f"{word[: keep // 2]}…{word[-(keep // 2) :]}"
    return short


LEAST_INCHES = 2.0  # narrower images are enlarged, so that captions fit


def enlarged(
    values: np.ndarray,
    dpi: int,
    how: str,
    paint: Callable[[np.ndarray], np.ndarray],
    scale: Optional[int] = None,
    inches: Optional[float] = None,
) -> np.ndarray:
    """Paint maps ``[n, H, W]`` as pixels, enlarged by a whole factor; by default to a size fit for print.

    Raises FeatvizError for an invalid ``scale``, or a map that does not fit in a width of ``inches``.
    """
    check_resample(how)
    _, height, width = values.shape
    if scale is not None:
        if not (isinstance(scale, int) and scale >= 1):
            raise FeatvizError(f"scale {scale!r}: give how many pixels a value is wide, 1 or more")
    elif inches is not None:
        tall, wide = body_pixels(inches, dpi)
        scale = min(wide // width, tall // height)
        if scale < LEAST_DOTS:
            raise too_small(height, width, inches, dpi)
    else:
        scale = max(1, math.ceil(min(PANEL_INCHES * dpi / width, 1.5 * PANEL_INCHES * dpi / height)))
    if how == "nearest":
        return paint(values).repeat(scale, axis=1).repeat(scale, axis=0)
    return paint(resample(values, (height * scale, width * scale), how).clip(0, 1))


def panel(
    body: np.ndarray,
    title: str,
    key: Optional[Legend],
    palette: np.ndarray,
    dpi: int,
    letter_dpi: float,
    plain: bool,
    labels: Sequence[Text] = (),
    notes: str = "",
    inches: Optional[float] = None,
) -> Picture:
    """Draw one map or image below a head, with ``notes`` below it.

    Args:
        body: palette indices ``[H, W]``, or RGB.
        title, key: for the head.
        palette: of the body, or of the key if the body is RGB.
        dpi, letter_dpi: pixels per inch, of the picture and of its lettering.
        plain: only the body.
        labels: texts in the body.
        notes: parts of a list, separated as those of a title.
        inches: width of the page; None: that of the body, at least two inches.
    """
    height, width = body.shape[:2]
    if plain:
        return lettered(Picture(body, palette, dpi, title, {0: (0, 0, width, height)}, labels))
    gap = max(1, round(letter_dpi / 75))
    wide = max(width, round(LEAST_INCHES * dpi)) + gap
    wide = wide if inches is None else round(inches * dpi) - gap
    line_h = text_size("", 6, letter_dpi)[1]
    lines = _wrap(notes, 6, letter_dpi, wide - gap) if notes else []
    below = gap + len(lines) * line_h
    canvas, top, texts = sheet(
        height + below, wide, title, key, letter_dpi, False, palette if body.ndim == 3 else None, inches is not None
    )
    canvas[top : top + height, gap : gap + width] = body
    texts += [text._replace(x=text.x + gap, y=text.y + top) for text in labels]
    texts += [Text(gap, top + height + gap // 2 + i * line_h, line, 6, letter_dpi) for i, line in enumerate(lines)]
    return lettered(Picture(canvas, palette, dpi, title, {0: (gap, top, width, height)}, texts))
