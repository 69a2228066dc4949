"""Letterbox images as YOLOv5 does, and recover an image's position in the network's input afterwards."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import numpy as np

from yolov5_featviz.arrays.boxes import Region


def letterbox_region(
    image: Tuple[int, int], network: Tuple[int, int], scaleup: bool = True, ratio_pad: Optional[Any] = None
) -> Region:
    """Compute the region of the network's input that an image fills; the rest is padding.

    ``letterbox`` scales an image to fit, rounds its sides to whole pixels, and pads both sides evenly,
    with the odd pixel below and on the right. The target size may differ from the input size: if
    padded only to a multiple of the stride (``auto``), one side is shorter. The scale is therefore
    that of whichever side keeps both within the input. For a batch padded to a common shape it is off
    by one pixel in rare cases.

    Args:
        image: ``(height, width)`` of the image before ``letterbox``.
        network: ``(height, width)`` of the network's input.
        scaleup: whether images smaller than the input are enlarged; not in validation.
        ratio_pad: ``((scale down, scale across), (left padding, top padding))`` from the dataset's
            ``shapes``, if known; used instead of the estimate.

    Returns:
        Left, top, right and bottom edge in pixels of the input.
    """
    if ratio_pad is not None:
        (down, across), (x, y) = ratio_pad
        width, height = round(image[1] * across), round(image[0] * down)
        left, top = round(float(x) - 0.1), round(float(y) - 0.1)
        return float(left), float(top), float(left + width), float(top + height)
    scales = [side / length for side, length in zip(network, image)]
    fitting = [s for s in scales if all(round(length * s) <= side for side, length in zip(network, image))]
    scale = max(fitting, default=min(scales))
    if not scaleup:
        scale = min(scale, 1.0)
    height, width = (round(length * scale) for length in image)
    left, top = (round((side - length) / 2 - 0.1) for side, length in ((network[1], width), (network[0], height)))
    return float(left), float(top), float(left + width), float(top + height)


def letterboxed(pixels: np.ndarray, side: int, stride: int) -> Tuple[np.ndarray, Region]:
    """Resize an image to fit a square and pad it in grey to multiples of the stride.

    Args:
        pixels: uint8 ``[H, W, 3]``.
        side: of the square, rounded up to a multiple of the stride.
        stride: of the network.

    Returns:
        ``(boxed, region)``: uint8 ``[h, w, 3]``, and where the image is in it, in pixels.
    """
    import cv2

    side = -(-side // stride) * stride
    scale = min(side / length for length in pixels.shape[:2])
    height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
    boxed = np.full((-(-height // stride) * stride, -(-width // stride) * stride, 3), 114, np.uint8)
    region = letterbox_region((int(pixels.shape[0]), int(pixels.shape[1])), (boxed.shape[0], boxed.shape[1]))
    left, top = int(region[0]), int(region[1])
    boxed[top : top + height, left : left + width] = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return boxed, region


def is_too_narrow(image: Tuple[int, int], network: Tuple[int, int]) -> bool:
    """Whether an image ``(height, width)``, scaled to fit ``network``, has a side of 0 pixels."""
    if min(image) < 1:
        return True
    scale = min(side / length for side, length in zip(network, image))
    return any(round(length * scale) < 1 for length in image)
