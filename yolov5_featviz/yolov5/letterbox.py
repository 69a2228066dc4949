"""Where in the network's input YOLOv5's ``letterbox`` put the image."""

from __future__ import annotations

from typing import Any, Optional, Tuple

from yolov5_featviz.arrays.boxes import Region


def letterbox_region(
    image: Tuple[int, int], network: Tuple[int, int], scaleup: bool = True, ratio_pad: Optional[Any] = None
) -> Region:
    """The part of the network's input that an image fills; what is left is padding.

    ``letterbox`` scales an image until it fits, rounds its sides to whole pixels, and shares what is
    missing among both sides, the odd pixel going below and to the right. The size that it fitted
    the image into is not always that of the input: padded only up to a multiple of the stride
    (``auto``), one side is shorter. So the scale is that of either side, whichever leaves both sides
    within the input. For a batch padded to a common shape that is one pixel off in rare cases.

    Args:
        image: ``(height, width)`` of the image as it was given to ``letterbox``.
        network: ``(height, width)`` of the network's input.
        scaleup: whether images smaller than the input are enlarged; they are not when validating.
        ratio_pad: ``((scale down, scale across), (left padding, top padding))``, as the dataset's
            ``shapes`` hold it, if it is known; then nothing is guessed.

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


def is_too_narrow(image: Tuple[int, int], network: Tuple[int, int]) -> bool:
    """Whether ``letterbox`` fails at an image ``(height, width)``: scaled to fit ``network``, nothing is left of it."""
    if min(image) < 1:
        return True
    scale = min(side / length for side, length in zip(network, image))
    return any(round(length * scale) < 1 for length in image)
