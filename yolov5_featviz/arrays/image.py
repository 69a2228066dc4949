"""Convert any image to uint8 RGB."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Union

import numpy as np

from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.text import printable

MOST_PIXELS = 1 << 30  # OpenCV's limit
_LIMIT = threading.Lock()
ORIENTATION = 0x0112  # EXIF tag


def as_rgb(image: Any) -> np.ndarray:
    """Convert any image to uint8 RGB ``[H, W, 3]``, upright.

    Args:
        image: a file path, PIL image, array or tensor: grey ``[H, W]`` or with 1, 3 (RGB) or 4 (RGBA)
            channels, first or last, with or without a batch dimension of 1. 16-bit values keep their
            upper byte, floating-point ones are taken as [0, 1], and alpha is dropped, since the
            network does not see it either.

    Returns:
        The pixels, rotated by the file's EXIF orientation. May share memory with an array.

    Raises:
        FeatvizError: no such file, or not an image.
    """
    from PIL import Image

    if isinstance(image, (str, Path)):
        return _read(image)
    if isinstance(image, Image.Image):
        return _from_pillow(image)
    if hasattr(image, "detach"):
        image = image.detach().cpu().float().numpy() if image.is_floating_point() else image.detach().cpu().numpy()
    pixels = _as_bytes(_channels_last(np.asarray(image)))[..., :3]
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels, np.uint8)


def _read(path: Union[str, Path]) -> np.ndarray:
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):  # reading it may never end
        raise FeatvizError(f"cannot read the image {printable(path)}: it is a pipe or device")
    try:
        with _open(path) as file:
            return _from_pillow(file)
    except FileNotFoundError:
        link = ": the link leads nowhere" if os.path.islink(path) else ""
        raise FeatvizError(f"no image {printable(path)}{link}") from None
    except Exception as error:  # formats and plugins raise errors of their own
        raise FeatvizError(f"cannot read the image {printable(path)}: {reason(error)}") from None


def _from_pillow(image: Any) -> np.ndarray:
    from PIL import ImageOps

    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode[:1] in "IF":  # more than 8 bits, which convert() would clip
        values = np.asarray(image)
        return as_rgb(values if values.dtype.kind == "f" else values.clip(0, 65535).astype(np.uint16))
    image = image.convert("RGBA") if image.mode == "P" else image
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    """Convert any array that is one image to ``[H, W, C]`` with 1, 3 or 4 channels."""
    shape = list(pixels.shape)
    while pixels.ndim > 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise FeatvizError(f"an array of shape {shape} is not an image: give [H, W], [H, W, 3] or [3, H, W]")
    return pixels


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Convert values of any type to uint8; see :func:`as_rgb`."""
    if pixels.dtype.kind == "f":
        pixels = (np.nan_to_num(pixels).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    elif pixels.dtype.kind == "b":
        pixels = pixels * np.uint8(255)
    elif pixels.dtype.itemsize > 1:
        pixels = (pixels >> 8 if pixels.dtype == np.uint16 else pixels.clip(0, 255)).astype(np.uint8)
    return pixels


def _open(path: Union[str, Path]) -> Any:
    """Open a file with Pillow without its pixel limit, which is below that of OpenCV, and hence of YOLOv5."""
    from PIL import Image

    with _LIMIT:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None  # read only while the header is parsed
        try:
            file = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if file.width * file.height > MOST_PIXELS:
        file.close()
        raise FeatvizError(f"{file.width} x {file.height} pixels are more than {MOST_PIXELS:,}")
    return file


def smaller(pixels: np.ndarray, side: int) -> np.ndarray:
    """Shrink an image ``[H, W, 3]`` so that its longer side is at most ``side`` pixels; never enlarge it.

    Pixels are averaged by a whole factor and interpolated for the rest, which is several times as fast as
    averaging over fractions of pixels.
    """
    import cv2

    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    factor = int(1 / scale)
    whole = width // factor, height // factor
    found = np.ascontiguousarray(pixels)
    if factor > 1 and min(whole) > 0:
        part = found[: whole[1] * factor, : whole[0] * factor]
        found = cv2.resize(part, whole, interpolation=cv2.INTER_AREA)
    return cv2.resize(found, size, interpolation=cv2.INTER_LINEAR)
