"""Run a model on images and draw its layers."""

from __future__ import annotations

import glob
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Set, Tuple

import numpy as np
import torch

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.arrays.image import as_rgb
from yolov5_featviz.attribution.cam import cam
from yolov5_featviz.attribution.dependence import dependences
from yolov5_featviz.draw.channels import choose, is_by_ablation
from yolov5_featviz.draw.heatmap import HeatMap
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.errors import reason as reason_of
from yolov5_featviz.features.capture import Capture
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.files import check_writable, new_folder
from yolov5_featviz.models.device import choose_device
from yolov5_featviz.models.layers import LayerSpec, index_layers, select_layers
from yolov5_featviz.models.targets import NothingFoundError
from yolov5_featviz.models.zoo import ZooModel
from yolov5_featviz.runs.look import Look, render, render_cam
from yolov5_featviz.runs.names import image_names
from yolov5_featviz.runs.progress import over_channels
from yolov5_featviz.runs.provenance import identity
from yolov5_featviz.runs.run_folder import Files, RunFolder
from yolov5_featviz.text import printable
from yolov5_featviz.version import __version__

SUFFIXES = {".bmp", ".dng", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def about_image(image: Path, error: FeatvizError) -> str:
    """Return the words of an error, with the name of the image that it is about."""
    name = printable(image.name)
    return str(error) if name in str(error) else f"{name}: {error}"


def find_images(source: str) -> List[Path]:
    """List the images of ``source``, a file, a folder or a glob pattern, sorted by name.

    Raises FeatvizError if there is none.
    """
    path = Path(source)
    if os.path.isfile(source):
        return [path]
    if "\0" in source:
        raise FeatvizError(f"no image {printable(source)}: give a file, or a folder")
    is_dir = os.path.isdir(source)
    files = sorted(path.iterdir() if is_dir else map(Path, glob.glob(source, recursive=True)))
    # keeps folders and broken links, so that they are reported like damaged images
    found = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not any(file.is_file() for file in found):
        raise FeatvizError(
            f"{source} is a folder without images" if is_dir else f"no image {source}: give a file, or a folder"
        )
    return found


def run_images(
    zoo: ZooModel,
    layers: LayerSpec,
    source: str,
    look: Look,
    folder: Optional[str] = None,
    log: Callable[[str], None] = print,
    about: Optional[Mapping[str, Any]] = None,
    report: bool = True,
    say: int = 0,
    device: Optional[str] = None,
) -> int:
    """Draw ``layers`` for each image of ``source``, into one folder per image.

    Args:
        zoo: the model; see :func:`yolov5_featviz.models.zoo.load_model`.
        layers: a layer selection; see :func:`yolov5_featviz.models.layers.select_layers`.
        source: an image, a folder of images, or a glob pattern.
        look: what to draw, and how.
        folder: parent of the images' folders; default ``runs/featviz/exp``, or ``exp2`` and so on.
            Existing files are never overwritten.
        log: called with each message.
        about: the run's record for the files; see :func:`yolov5_featviz.runs.provenance.run_record`.
        report: also write the report; see :class:`yolov5_featviz.runs.report.Report`.
        say: verbosity: 1 to log every file, -1 for errors only.
        device: see :func:`yolov5_featviz.models.device.choose_device`.

    Returns:
        0; or 1 if an image could not be read or a picture could not be saved, after processing all others.

    Raises:
        FeatvizError: there is nothing to draw, or no image could be read. Nothing was written.
    """
    paths = find_images(source)
    place = choose_device(device)
    index = index_layers(zoo.model.to(place))
    selected = select_layers(index, layers)
    check_writable(Path(folder or Path("runs") / "featviz"))
    home = Path(folder) if folder else None
    line = f"layers {layers} · yolov5-featviz {__version__}"
    gallery, unreadable = RunFolder(look, log, report, line, say), []
    logged: Set[str] = set()
    with gallery:
        for path, name in zip(paths, image_names(paths)):
            try:
                image = as_rgb(path)
                x, region = _prepared(zoo, image, path, place)
            except FeatvizError as error:
                unreadable.append(error)
                log(f"{error}; skipped")
                continue
            with Capture(index, selected) as features, torch.no_grad():
                _run(zoo.model, x)
            for reason in features.skipped.values():
                if reason not in logged:
                    logged.add(reason)
                    log(f"{reason}; skipped")
            maps = [replace(fm, region=region) for fm in features.of_image(0, name)]
            if not maps:
                raise FeatvizError(next(iter(features.skipped.values()), f"no feature map of {layers}"))
            if look.shows_maps and is_by_ablation(look.channels):
                maps = _ablated(zoo.model, x, maps, name, say == 0)
            if look.channels is not None and not gallery.folders:
                for fm in maps:
                    choose(fm, look.channels)
            shown = maps if look.shows_maps else []
            files: List[Files] = [("", partial(render, fm, look, image, gallery.ranked)) for fm in shown]
            if "cam" in look.modes:
                heats = _explained(zoo.model, x, layers, look, region, image, name, log)
                files += [("", partial(render_cam, heat, look, image)) for heat in heats]
            home = home or new_folder(Path("runs") / "featviz" / "exp")
            gallery.add(home, name, files, [("", maps)], image, made=partial(_made, about or {}, path))
    if unreadable and not gallery.folders:
        raise unreadable[0]
    return int(bool(unreadable or gallery.errors))


def _ablated(model: torch.nn.Module, x: Any, maps: List[FeatureMap], name: str, bar: bool) -> List[FeatureMap]:
    """Return maps with what the model's detections lose without each channel, or the reason why that is unknown."""
    layers = {fm.layer.path: fm.layer for fm in maps}
    bars = over_channels(name) if bar else None
    known = dependences(model, _alone(x), list(layers.values()), progress=bars)
    return [fm.with_dependence(known[fm.layer.path]) for fm in maps]


def _alone(x: Any) -> torch.Tensor:
    """Return a model's argument as one tensor ``[1, C, H, W]``; torchvision's detectors take a list, and resize it."""
    alone: torch.Tensor = x if isinstance(x, torch.Tensor) else x[0][None]
    return alone


def _explained(
    model: torch.nn.Module,
    x: Any,
    layers: LayerSpec,
    look: Look,
    region: Optional[Region],
    image: np.ndarray,
    name: str,
    log: Callable[[str], None],
) -> List[HeatMap]:
    """Return the class activation maps of an image; none, with a message, where nothing was detected."""
    size = int(image.shape[0]), int(image.shape[1])
    region = region if isinstance(x, torch.Tensor) else None
    how: Any = {"smooth": look.smooth, "size": size}
    try:
        return cam(model, _alone(x), layers, look.target, look.method, look.merge, region, name, **how)
    except NothingFoundError as error:
        log(f"{name}: {error}; no class activation map")
        return []


def _prepared(zoo: ZooModel, image: np.ndarray, path: Path, device: torch.device) -> Tuple[Any, Optional[Region]]:
    try:
        x, region = zoo.prepare(image)
    except Exception as error:
        size = f"{image.shape[1]} x {image.shape[0]}"
        words = f"cannot bring the image {printable(path)}, of {size} pixels, to the model's size: {reason_of(error)}"
        raise FeatvizError(words) from error
    return (x.to(device) if isinstance(x, torch.Tensor) else [one.to(device) for one in x]), region


def _run(model: torch.nn.Module, x: Any) -> None:
    try:
        model(x)
    except FeatvizError:
        raise
    except Exception as error:
        reason = reason_of(error)
        shape = list(x.shape) if isinstance(x, torch.Tensor) else [list(one.shape) for one in x]
        raise FeatvizError(f"the model cannot be run on an input of shape {shape}: {reason}") from error


def _made(about: Mapping[str, Any], path: Path) -> Dict[str, Any]:
    return {**about, "image": identity(path)}
