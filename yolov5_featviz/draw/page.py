"""Page layout: a picture below a head with title and colour scale."""

from __future__ import annotations

import math
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from yolov5_featviz.arrays.normalize import NORMS
from yolov5_featviz.arrays.resample import check_resample, resample
from yolov5_featviz.draw.channels import Choice
from yolov5_featviz.draw.lettering import SEPARATOR, Text, text_size
from yolov5_featviz.draw.palette import COLOURS, PAPER, palette_of
from yolov5_featviz.draw.picture import Picture, lettered
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.layer_output import LayerOutput

PANEL_INCHES = 3.3  # minimum width of a single map


class Legend(NamedTuple):
    """The labels of both ends of the colour scale, and what they apply to."""

    low: str
    high: str
    scope: str = ""


def map_title(feature_map: LayerOutput, shown: str) -> str:
    """Return a one-line title: image, layer, type, what is shown of it, size and stride."""
    layer = feature_map.layer
    _, height, width = feature_map.data.shape
    name = f"Layer {layer.name}" if layer.name[:1].isdigit() else layer.name
    parts = [name, layer.type, shown, f"{height}×{width}"]
    if feature_map.level is not None:
        parts.insert(2, f"level {feature_map.level}")
    if feature_map.call is not None:
        parts.insert(2, f"call {feature_map.call}")
    if feature_map.stride is not None:
        down, across = (f"{s:.3g}" for s in feature_map.stride)
        parts.append(f"stride {down}" if down == across else f"stride {down}×{across}")
    if feature_map.image:
        parts.insert(0, feature_map.image)
    return SEPARATOR.join(parts)


def channel_words(count: int, choice: Choice, chosen: Optional[Sequence[int]] = None) -> str:
    """Describe which of ``count`` channels are shown: ``64 channels``, ``top 16 of 64 channels by contrast``."""
    n = len(choice.channels if chosen is None else chosen)
    if choice.ranking is not None:
        by = choice.ranking.note or f"by {choice.ranking.by}"
        return f"top {len(choice.channels)} of {count} channels {by}"
    if count == 1:
        return "1 channel"
    return f"{count} channels" if n == count else f"{n} of {count} channels"


def legend(norm: str, limits: np.ndarray) -> Legend:
    """Return the legend of a picture of several channels."""
    kind = NORMS[norm]
    low, high = kind.ends or (f"{limits[0, 0]:.3g}", f"{limits[0, 1]:.3g}")
    return Legend(low, high, kind.scope)


def sheet(
    height: int,
    width: int,
    title: str,
    key: Optional[Legend],
    dpi: float,
    plain: bool,
    colours: Optional[np.ndarray] = None,
) -> Tuple[np.ndarray, int, List[Text]]:
    """Create an empty page for a body of ``height`` and ``width``, below a head with title and colour scale.

    Returns:
        ``(canvas, top, texts)``: palette indices ``[head + body, margin + width]``, or RGB if ``colours``
        is a palette; the first row of the body; and the texts of the head, which are not in the canvas
        yet.
    """
    gap = max(1, round(dpi / 75))
    head, texts = _head(title, key, width - gap, dpi) if not plain else (np.empty((0, 0), np.uint8), [])
    top = gap if plain else head.shape[0] + 2 * gap
    wide = -(-(gap + width) // 8) * 8  # for encode.filtered, which compares eight bytes at a time
    canvas = np.full((top + height, wide) if colours is None else (top + height, wide, 3), PAPER, np.uint8)
    if colours is not None:
        canvas[...] = colours[PAPER]
    canvas[gap : gap + head.shape[0], gap : gap + head.shape[1]] = head if colours is None else colours[head]
    return canvas, top, [text._replace(x=text.x + gap, y=text.y + gap) for text in texts]


def _head(title: str, key: Optional[Legend], width: int, dpi: float) -> Tuple[np.ndarray, List[Text]]:
    """Lay out title and colour scale, ``[height, width]``: on one line if they fit, else two, else smaller."""
    for points in (8.0, 7.0, 6.0):
        lines = _wrap(title, points, dpi, width)
        scale = _scale_bar(key, points, dpi) if key else []
        scale_w = sum(part_w for part_w, _ in scale)
        beside = text_size(lines[-1], points, dpi)[0] + scale_w + dpi / 7 <= width
        if len(lines) + (not beside) <= 2:
            break
    line_h = text_size("", points, dpi)[1]
    texts = [Text(0, i * line_h, line, points, dpi) for i, line in enumerate(lines)]
    x, y = (width - scale_w, (len(lines) - 1) * line_h) if beside else (0, len(lines) * line_h)
    ramps = []
    for part_w, word in scale:
        if x + part_w > width and x > 0:
            x, y = 0, y + line_h
        if word is None:
            ramps.append((x, y, part_w))
        elif word:
            texts.append(Text(x, y, word, points, dpi))
        x += part_w
    head = np.full((texts[-1].y + line_h, width), PAPER, np.uint8)
    for x, y, part_w in ramps:
        ramp = np.rint(np.linspace(0, COLOURS - 1, part_w)).astype(np.uint8)[: max(0, width - x)]
        head[y + line_h // 6 : y + line_h - line_h // 6, x : x + len(ramp)] = ramp
    return head, texts


def _scale_bar(key: Legend, points: float, dpi: float) -> List[Tuple[int, Optional[str]]]:
    """Return the colour scale from left to right, as widths in pixels and texts; None is the ramp."""
    space = round(dpi / 20)
    low, high, scope = (text_size(word, points, dpi)[0] for word in (key.low, key.high, key.scope))
    bar = [(low + space, key.low), (round(dpi / 2), None), (space, ""), (high, key.high)]
    return [*bar, (2 * space, ""), (scope, key.scope)] if key.scope else bar


def _wrap(title: str, points: float, dpi: float, width: int) -> List[str]:
    """Wrap the parts of a title to as few lines as possible."""
    lines: List[str] = []
    for part in title.split(SEPARATOR):
        if lines and text_size(lines[-1] + SEPARATOR + part, points, dpi)[0] <= width:
            lines[-1] += SEPARATOR + part
            continue
        short, keep = part, len(part)
        while keep > 8 and text_size(short, points, dpi)[0] > width:  # shorten a long file name in the middle
            keep -= 1
            short = f"{part[: keep // 2]}…{part[-(keep // 2) :]}"
        lines.append(short)
    return lines


LEAST_INCHES = 2.0  # narrower images are enlarged, so that captions fit


def enlarged(
    values: np.ndarray, dpi: int, how: str, paint: Callable[[np.ndarray], np.ndarray], scale: Optional[int] = None
) -> np.ndarray:
    """Paint maps ``[n, H, W]`` as pixels, enlarged by a whole factor; by default to a size fit for print."""
    check_resample(how)
    _, height, width = values.shape
    if scale is None:
        scale = max(1, math.ceil(min(PANEL_INCHES * dpi / width, 1.5 * PANEL_INCHES * dpi / height)))
    elif not (isinstance(scale, int) and scale >= 1):
        raise FeatvizError(f"scale {scale!r}: give how many pixels a value is wide, 1 or more")
    if how == "nearest":
        return paint(values).repeat(scale, axis=1).repeat(scale, axis=0)
    return paint(resample(values, (height * scale, width * scale), how).clip(0, 1))


def panel(
    body: np.ndarray,
    title: str,
    key: Optional[Legend],
    cmap: str,
    dpi: int,
    letter_dpi: float,
    plain: bool,
    labels: List[Text] = [],  # noqa: B006
) -> Picture:
    """Draw one map or image below a head."""
    height, width = body.shape[:2]
    if plain:
        return lettered(Picture(body, palette_of(cmap), dpi, title, {0: (0, 0, width, height)}, labels))
    gap = max(1, round(letter_dpi / 75))
    colours = palette_of(cmap) if body.ndim == 3 else None
    wide = max(width, round(LEAST_INCHES * dpi)) + gap
    canvas, top, texts = sheet(height + gap, wide, title, key, letter_dpi, False, colours)
    canvas[top : top + height, gap : gap + width] = body
    texts += [text._replace(x=text.x + gap, y=text.y + top) for text in labels]
    return lettered(Picture(canvas, palette_of(cmap), dpi, title, {0: (gap, top, width, height)}, texts))
