"""Render what a :class:`Look` requests, as (file name, bytes) pairs. Nothing here accesses files."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch

from yolov5_featviz.arrays.normalize import check_norm
from yolov5_featviz.arrays.reduce import check_reduce
from yolov5_featviz.arrays.resample import check_resample
from yolov5_featviz.attribution.cam import check_method
from yolov5_featviz.draw.channels import ChannelSpec, Choice, choose, parse_top
from yolov5_featviz.draw.encode import FORMATS as PICTURE_FORMATS
from yolov5_featviz.draw.grid import grids
from yolov5_featviz.draw.heatmap import ALPHA, HeatMap, channel, check_alpha, heatmap
from yolov5_featviz.draw.page import DoesNotFitError
from yolov5_featviz.draw.palette import ALONE, OVER, check_look
from yolov5_featviz.draw.picture import Picture
from yolov5_featviz.draw.record import dumps, map_record
from yolov5_featviz.draw.rgb import check_axes, pca_picture
from yolov5_featviz.draw.widths import width_of
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.layer_output import LayerOutput
from yolov5_featviz.models.layers import Target

MODES = ("grid", "heatmap", "channels", "pca", "cam")
FILE_FORMATS = (*PICTURE_FORMATS, "npy")


@dataclass(frozen=True)
class Look:
    """What to draw of a feature map, and how. None selects a default that depends on the mode.

    Attributes:
        modes: any of ``grid``, ``heatmap``, ``channels`` (one file per channel), ``pca``, and ``cam``, class
            activation maps, which need more than feature maps; see :func:`render_cam`.
        channels: see :func:`yolov5_featviz.draw.channels.choose`. None: 64 where channels are shown
            individually, all where they are combined.
        norm: see :func:`yolov5_featviz.arrays.normalize.normalize`. None: ``channel``, and for heat maps
            the norm of the reduction.
        reduce: for heat maps; see :func:`yolov5_featviz.arrays.reduce.reduce_channels`.
        resample: see :func:`yolov5_featviz.arrays.resample.resample`. None: ``nearest``, and ``bilinear``
            over images.
        cmap: a matplotlib colour map. None: ``viridis``, and ``inferno`` over images.
        alpha, blend, boxes, desaturate: for overlays; see :meth:`yolov5_featviz.draw.heatmap.HeatMap.over`. Heat
            maps are overlaid whenever there is an image. ``boxes`` also for ``pca``.
        overlay: also overlay single channels on the image.
        formats: any of ``png``, ``pdf``, ``svg``, ``jpg``, ``tif``; and ``npy``, the values of all
            channels, float32 ``[C, H, W]``.
        dpi, plain: see :func:`yolov5_featviz.draw.grid.grid`.
        width: of the pictures in inches; see :func:`yolov5_featviz.draw.widths.width_of`. None: by their content.
        axes: of ``pca``; see :func:`yolov5_featviz.draw.rgb.pca_picture`.
        method, target, merge, smooth: for class activation maps; see :func:`yolov5_featviz.attribution.cam.cam`.

    Raises:
        FeatvizError: a value is invalid.
    """

    modes: Sequence[str] = ("grid",)
    channels: Optional[ChannelSpec] = None
    norm: Optional[str] = None
    reduce: str = "mean"
    resample: Optional[str] = None
    cmap: Optional[str] = None
    alpha: float = ALPHA
    blend: str = "mix"
    boxes: bool = False
    desaturate: bool = False
    overlay: bool = False
    formats: Sequence[str] = ("png",)
    dpi: int = 300
    plain: bool = False
    width: Optional[float] = None
    axes: str = "rgb"
    method: str = "layer-cam"
    target: Target = None
    merge: bool = False
    smooth: bool = False

    @property
    def shows_maps(self) -> bool:
        """Whether any output is made from feature maps directly, other than ``cam``."""
        return "npy" in self.formats or any(mode != "cam" for mode in self.modes)

    def __post_init__(self) -> None:
        for what, chosen, known in (("mode", self.modes, MODES), ("format", self.formats, FILE_FORMATS)):
            for part in chosen:
                if part not in known:
                    raise FeatvizError(f"no {what} {part!r}: take one or more of {', '.join(known)}")
        if self.channels is not None:
            parse_top(self.channels)
        if self.norm is not None:
            check_norm(self.norm)
        check_reduce(self.reduce)
        if self.resample is not None:
            check_resample(self.resample)
        if "cam" in self.modes:
            check_method(self.method, self.target)
        check_look(self.cmap or ALONE, self.dpi)
        check_axes(self.axes)
        if self.width is not None:
            width_of(self.width)
        check_alpha(self.alpha, self.blend)


Made = Optional[Callable[[], Mapping[str, Any]]]


def render(
    feature_map: LayerOutput,
    look: Look,
    image: Any = None,
    log: Optional[Callable[[LayerOutput, Choice], None]] = None,
    made: Made = None,
) -> Iterator[Tuple[str, bytes]]:
    """Render all files that ``look`` requests.

    Args:
        feature_map: what to draw.
        look: how.
        image: the image it belongs to, for overlays; see :meth:`yolov5_featviz.draw.heatmap.HeatMap.over`.
        log: called with the map and the choice, if channels are chosen by a ranking.
        made: returns the record of how the map was made; called when the first file is rendered.

    Yields:
        ``(name, content)`` of each file, such as ``stage17_C3_features.png``, ``..._features_page2.png``,
        ``..._heatmap.png``, ``..._channel005.png``, ``..._pca.png``, ``..._features.npy``; and
        ``..._ranking.csv`` if channels are chosen by one. Each file contains its record: ``npy`` files as
        a second array, and a ranking in a separate ``....csv.json``.

    Raises:
        FeatvizError: the map has no pixels, or lacks a requested channel; or, after all others, that a picture does
            not fit in the width.
    """
    stem, record = feature_map.stem, dict(made() if made else {})
    shown = together = choose(feature_map, "64" if look.channels is None else look.channels)
    if look.channels is None:
        together = choose(feature_map, "all")
    if shown.ranking is not None:
        yield f"{stem}_ranking.csv", shown.ranking.to_csv().encode()
        if made is not None:
            about = map_record(feature_map, "ranking", shown.channels, by=shown.ranking.by)
            yield f"{stem}_ranking.csv.json", f"{dumps({**record, 'file': f'{stem}_ranking.csv', **about})}\n".encode()
        if log is not None:
            log(feature_map, shown)
    if "npy" in look.formats:
        file = f"{stem}_features.npy"
        about = map_record(feature_map, "values", range(feature_map.channels))
        yield file, _npy(feature_map.data, {**record, "file": file, **about})
    if any(format in PICTURE_FORMATS for format in look.formats):
        refused: List[str] = []
        for mode in look.modes:
            try:
                for name, picture in _pictures(mode, feature_map, look, image, shown, together):
                    for format in look.formats:
                        if format in PICTURE_FORMATS:
                            file = f"{stem}_{name}.{format}"
                            yield file, picture.told({**record, "file": file, **picture.about}).encode(format)
            except DoesNotFitError as error:  # other modes may fit
                refused.append(f"{feature_map.layer.title}, {mode}: {error}")
        if refused:
            raise DoesNotFitError("; ".join(refused))


def render_cam(
    heat: HeatMap, look: Look, image: Any = None, made: Made = None, name: str = ""
) -> Iterator[Tuple[str, bytes]]:
    """Render a class activation map over its image, or alone if ``image`` is None. ``made`` as for :func:`render`.

    ``name`` is the stem of its files; by default that of the layer.

    Yields:
        ``(name, content)`` of each file: ``stage17_C3_cam.png``, or ``..._cam_smoothed.png``, and
        ``..._cam.npy``, its unscaled values, float32 ``[H, W]``.
    """
    smoothed = "_smoothed" if heat.about.get("smooth") else ""
    name, record = name or f"{heat.feature_map.stem}_cam{smoothed}", dict(made() if made else {})
    if "npy" in look.formats:
        yield f"{name}.npy", _npy(heat.feature_map.data[0], {**record, "file": f"{name}.npy", **heat.about})
    for format in look.formats:
        if format in PICTURE_FORMATS:
            picture, file = _drawn(heat, look, image), f"{name}.{format}"
            yield file, picture.told({**record, "file": file, **picture.about}).encode(format)


def _npy(data: torch.Tensor, about: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, data.float().numpy())
    np.save(stream, np.array(dumps(about).encode()))
    return stream.getvalue()


def _drawn(heat: HeatMap, look: Look, image: Any) -> Picture:
    page: Dict[str, Any] = {"dpi": look.dpi, "plain": look.plain, "width": look.width}
    if image is None:
        return heat.picture(look.cmap or ALONE, resample=look.resample or "nearest", **page)
    boxes = look.boxes and heat.feature_map.boxes is not None
    how = look.resample or "bilinear"
    return heat.over(image, look.alpha, look.cmap or OVER, look.blend, boxes, how, desaturate=look.desaturate, **page)


def _pictures(
    mode: str, feature_map: LayerOutput, look: Look, image: Any, shown: Choice, together: Choice
) -> Iterator[Tuple[str, Picture]]:
    alone: Dict[str, Any] = {"dpi": look.dpi, "plain": look.plain, "width": look.width}
    alone["resample"] = look.resample or "nearest"
    if mode == "grid":
        pages = grids(feature_map, shown, norm=look.norm or "channel", cmap=look.cmap or ALONE, **alone)
        for i, picture in enumerate(pages, 1):
            yield "features" if i == 1 else f"features_page{i}", picture
    elif mode == "heatmap":
        yield "heatmap", _drawn(heatmap(feature_map, look.reduce, together, look.norm), look, image)
    elif mode == "channels":
        for k in shown.channels:
            yield (
                f"channel{k:03d}",
                _drawn(channel(feature_map, k, look.norm or "channel"), look, image if look.overlay else None),
            )
    elif mode == "pca":
        boxes = look.boxes and feature_map.boxes is not None
        yield "pca", pca_picture(feature_map, together, axes=look.axes, boxes=boxes, **alone)
