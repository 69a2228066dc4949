"""Photographs of every kind to one kind."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Union

import numpy as np

from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.text import printable

MOST_PIXELS = 1 << 30  # as OpenCV
_LIMIT = threading.Lock()
ORIENTATION = 0x0112  # of EXIF's tags


def as_rgb(image: Any) -> np.ndarray:
    """Any image as uint8 RGB ``[H, W, 3]``, upright.

    Args:
        image: the path of a file; a PIL image; or an array or tensor, grey ``[H, W]`` or with 1, 3
            (RGB) or 4 (RGBA) channels, first or last, in a batch of one or not. 16-bit values keep
            their upper byte, floating-point ones are taken as [0, 1], and what is transparent shows
            its colour: the network, too, sees none of that.

    Returns:
        The pixels, turned as the file's EXIF orientation says. An array may be shared, not copied.

    Raises:
        FeatvizError: there is no such file, or it is no image.
    """
    from PIL import Image, ImageOps

    if isinstance(image, (str, Path)):
        if os.path.exists(image) and not os.path.isfile(image) and not os.path.isdir(image):  # reading may never end
            raise FeatvizError(f"cannot read the image {printable(image)}: it is a pipe or device")
        try:
            with _open(image) as file:
                return as_rgb(file)
        except FileNotFoundError:
            link = ": the link leads nowhere" if os.path.islink(image) else ""
            raise FeatvizError(f"no image {printable(image)}{link}") from None
        except Exception as error:  # each format has errors of its own, and libraries put theirs around Pillow's
            raise FeatvizError(f"cannot read the image {printable(image)}: {reason(error)}") from None
    if isinstance(image, Image.Image):
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode[:1] not in "IF":  # those two hold more than 8 bits, which convert() would clip
            image = image.convert("RGBA") if image.mode == "P" else image
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        image = np.asarray(image)
        image = image if image.dtype.kind == "f" else image.clip(0, 65535).astype(np.uint16)
    elif hasattr(image, "detach"):
        image = image.detach().cpu().float().numpy() if image.is_floating_point() else image.detach().cpu().numpy()
    pixels = np.asarray(image)
    shape = list(pixels.shape)
    while pixels.ndim > 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise FeatvizError(f"no image, but an array of shape {shape}: give [H, W], [H, W, 3] or [3, H, W]")
    if pixels.dtype.kind == "f":
        pixels = (np.nan_to_num(pixels).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    elif pixels.dtype.kind == "b":
        pixels = pixels * np.uint8(255)
    elif pixels.dtype.itemsize > 1:
        pixels = (pixels >> 8 if pixels.dtype == np.uint16 else pixels.clip(0, 255)).astype(np.uint8)
    pixels = pixels[..., :3]
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels, np.uint8)


def _open(path: Union[str, Path]) -> Any:
    """Open a file with Pillow, which reads fewer pixels than OpenCV does, and hence YOLOv5, unless it is told to."""
    from PIL import Image

    with _LIMIT:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None  # while the head is read; it is not looked at again
        try:
            file = Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if file.width * file.height > MOST_PIXELS:
        file.close()
        raise FeatvizError(f"{file.width} x {file.height} pixels are more than {MOST_PIXELS:,}")
    return file


def smaller(pixels: np.ndarray, side: int) -> np.ndarray:
    """Shrink an image ``[H, W, 3]`` so that its longer side is ``side`` pixels at most; the same if it is already.

    By whole factors pixels are averaged, over the rest interpolated, which is several times as fast as
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
