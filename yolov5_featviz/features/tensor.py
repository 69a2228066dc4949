"""Draw, save or show any tensor in one call."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, List, Optional, Union

import numpy as np

from yolov5_featviz.arrays.normalize import check_norm, normalize
from yolov5_featviz.arrays.resample import check_resample
from yolov5_featviz.draw.channels import ChannelSpec, choose_channels
from yolov5_featviz.draw.grid import mosaic
from yolov5_featviz.draw.heatmap import HeatMap
from yolov5_featviz.draw.lettering import SEPARATOR
from yolov5_featviz.draw.palette import ALONE, check_look
from yolov5_featviz.draw.picture import Picture
from yolov5_featviz.draw.scale import end_words, legend
from yolov5_featviz.draw.widths import width_of
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.features.feature_map import FeatureMap

LAYOUTS = ("auto", "chw", "hwc")


def picture(
    x: Any,
    channels: ChannelSpec = "64",
    norm: str = "channel",
    cmap: Optional[str] = None,
    layout: str = "auto",
    dpi: int = 300,
    plain: bool = False,
    resample: str = "nearest",
    width: Union[float, str, None] = None,
) -> Picture:
    """Draw any tensor, array, feature map or heat map.

    Args:
        x: a tensor, an array, or a list of them of one shape: ``[H, W]``; one image of 1, 3 or any
            number of channels; or a batch of images. Three channels are red, green and blue: uint8
            as it is, real values as [0, 1], or if they exceed that, from the lowest to the
            highest. One channel, or many, are maps. Also a feature map, heat map or picture.
        channels: which of many channels; see :func:`yolov5_featviz.draw.channels.choose_channels`.
        norm: how the values of maps become colours; see :func:`yolov5_featviz.arrays.normalize.normalize`.
            With ``layer``, all maps of the batch share one scale.
        cmap: name of a matplotlib colour map; None for gray with one channel, else viridis.
        layout: where the channels are: ``chw``, ``hwc``, or ``auto``: last if that makes 1 or 3, or
            4 of uint8, and first does not; else first. A fourth channel (alpha) is dropped.
        dpi, plain, resample, width: see :func:`yolov5_featviz.draw.grid.grid`.

    Raises:
        FeatvizError: ``x`` is none of these, or an argument is invalid.
    """
    if isinstance(x, Picture):
        return x
    if isinstance(x, FeatureMap):
        return x.grid(channels, norm, cmap or ALONE, dpi=dpi, plain=plain, resample=resample, width=width)
    if isinstance(x, HeatMap):
        return x.picture(cmap or ALONE, dpi, plain, resample, width=width)
    check_norm(norm)
    check_resample(resample)
    check_look(cmap or ALONE, dpi)
    inches = None if width is None else width_of(width)
    data = _array(x)
    about = f"{list(data.shape)} {data.dtype}"
    batch = _batched(data, layout)
    n, count = batch.shape[:2]
    finite = batch[np.isfinite(batch)] if batch.dtype.kind == "f" else batch
    span = " to ".join(end_words(finite.min(), finite.max())) if finite.size else "no finite value"
    title = SEPARATOR.join([about, span])
    if count in (3, 4):
        photos = _photographs(batch[:, :3])
        return mosaic(photos, range(n), _numbers(n), title, None, ALONE, dpi, plain, inches=inches)
    chosen = choose_channels(channels, count)
    maps = np.asarray(batch[:, chosen], np.float32).reshape(-1, *batch.shape[2:])
    scaled, limits = normalize(maps, norm, batch.reshape(-1, *batch.shape[2:]))
    words = _numbers(n) if count == 1 else [str(k) for k in chosen]
    if n > 1 and count > 1:
        words = [f"{i}: {k}" for i in range(n) for k in chosen]
    colours = cmap or ("gray" if count == 1 else ALONE)
    key = legend(norm, limits, maps)
    return mosaic(scaled, range(len(maps)), words, title, key, colours, dpi, plain, resample, inches)


def save(x: Any, path: Union[str, Path], **options: Any) -> None:
    """Draw ``x`` with the options of :func:`picture` and write it, as ``Picture.save`` does."""
    picture(x, **options).save(path)


def show(x: Any, **options: Any) -> None:
    """Draw ``x`` with the options of :func:`picture` and show it: in the notebook, or in the desktop's viewer.

    Raises FeatvizError if there is neither.
    """
    drawn = picture(x, **options)
    notebook: Any = sys.modules.get("IPython")  # loaded in any notebook
    if notebook is not None and getattr(notebook.get_ipython(), "kernel", None) is not None:
        notebook.display.display(drawn)
        return
    from PIL import Image, ImageShow

    if not ImageShow.show(Image.fromarray(drawn.to_rgb()), title=drawn.title):
        raise FeatvizError("no notebook or image viewer found: write a file with yolov5_featviz.save(x, 'x.png')")


def _array(x: Any) -> np.ndarray:
    if isinstance(x, (list, tuple)):
        parts = [_array(part) for part in x]
        if not parts or len({part.shape for part in parts}) > 1:
            raise FeatvizError(f"cannot draw a list of shapes {[list(part.shape) for part in parts]}: give one shape")
        return np.stack(parts)
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float().numpy() if str(x.dtype) in ("torch.bfloat16", "torch.float16") else x.numpy()
    data = np.asarray(x)
    if data.dtype.kind not in "buif" or not 2 <= data.ndim <= 4 or 0 in data.shape:
        raise FeatvizError(
            f"cannot draw {type(x).__name__} of shape {list(data.shape)}, {data.dtype}: give numbers, "
            "[H, W], [C, H, W], [H, W, C] or a batch of these"
        )
    return data


def _batched(data: np.ndarray, layout: str) -> np.ndarray:
    """Convert to ``[B, C, H, W]``."""
    if layout not in LAYOUTS:
        raise FeatvizError(f"no layout {layout!r}: take one of {', '.join(LAYOUTS)}")
    if data.ndim == 2:
        return data[None, None]
    batch = data[None] if data.ndim == 3 else data
    _, first, middle, final = batch.shape
    few = (1, 3, 4) if batch.dtype == np.uint8 else (1, 3)
    last = final in few and first not in (1, 3, 4) and middle > 4  # not [512, 3, 3], a map of a deep layer
    return np.moveaxis(batch, 3, 1) if layout == "hwc" or (layout == "auto" and last) else batch


def _photographs(batch: np.ndarray) -> np.ndarray:
    """Convert ``[B, 3, H, W]`` to uint8 ``[B, H, W, 3]``; NaN becomes black."""
    batch = np.moveaxis(batch, 1, 3)
    if batch.dtype == np.uint8:
        return np.ascontiguousarray(batch)
    values: np.ndarray = batch.astype(np.float32)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low < 0 or high > 1:
        values = normalize(values.reshape(1, 1, -1), "channel")[0].reshape(values.shape)
    photographs: np.ndarray = np.rint(np.nan_to_num(values.clip(0, 1)) * 255).astype(np.uint8)
    return photographs


def _numbers(n: int) -> List[str]:
    return [str(i) for i in range(n)] if n > 1 else []
