"""Validate the command line before running anything."""

from __future__ import annotations

import glob
import os
import re
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Sequence

import torch

from yolov5_featviz.draw.channels import ChannelSpec, check_class, choose, is_by_ablation
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.features.capture import Capture
from yolov5_featviz.files import check_writable
from yolov5_featviz.models.detections import names_of
from yolov5_featviz.models.layers import Target, index_layers, select_layers
from yolov5_featviz.models.targets import class_number, parse_target
from yolov5_featviz.models.tide import is_kind
from yolov5_featviz.yolov5.source import Source
from yolov5_featviz.yolov5.weights.checkpoint import load_checkpoint, model_of
from yolov5_featviz.yolov5.weights.guard import guard

IMAGES = {"bmp", "dng", "heic", "jpeg", "jpg", "mpo", "pfm", "png", "tif", "tiff", "webp"}
VIDEOS = {"asf", "avi", "gif", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg", "ts", "webm", "wmv"}
PUBLISHED = re.compile(r"yolov5[nsmlx]6?(-cls|-seg)?(\.pt)?")  # weights that YOLOv5 downloads if missing


def replace_values(arguments: List[str], flag: str, change: Callable[[str], str]) -> List[str]:
    """Apply ``change`` to the values of a flag, given as ``--flag a b`` or ``--flag=a``."""
    words: List[str] = []
    taking = False
    for word in arguments:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            taking = word == flag
            words.append(f"{flag}={change(value)}" if equals and name == flag else word)
        else:
            words.append(change(word) if taking else word)
    return words


def values(arguments: List[str], flag: str) -> List[str]:
    """Return the values of a flag."""
    found: List[str] = []

    def keep(value: str) -> str:
        found.append(value)
        return value

    replace_values(arguments, flag, keep)
    return found


def locate_weights(name: str, folders: Sequence[Path]) -> str:
    """Find a bare name that is not in the current folder in ``folders``; else return it unchanged."""
    if Path(name).name == name and not os.path.exists(name):
        for folder in folders:
            if os.path.isfile(folder / name):
                return str(folder / name)
    return name


def validate(
    arguments: List[str],
    source: Source,
    layers: str,
    channels: ChannelSpec,
    folder: Optional[str],
    trust: bool,
    target: Target = None,
) -> None:
    """Raise FeatvizError for invalid input.

    Args:
        arguments: YOLOv5's command line.
        layers, channels: the selections, which must exist in each checkpoint, with the class they rank by, if any.
        folder: output folder of the pictures; None for YOLOv5's run folder.
        trust: unpickle the checkpoints without any check.
        target: what to explain, of a class that each checkpoint must have.
    """
    name = (values(arguments, "--name") or [""])[0] if folder is None else ""
    check_writable(Path(folder or (values(arguments, "--project") or ["runs/detect"])[0]), name)
    for given in values(arguments, "--source"):
        _check_source(given)
    for name in filter(None, values(arguments, "--weights")):  # empty when training from scratch
        if name.startswith(("http://", "https://")) or (PUBLISHED.fullmatch(name) and not os.path.exists(name)):
            continue
        loaded = load_checkpoint(name, source, trust=trust)
        if not any(values(arguments, "--cfg")):  # --cfg builds another model, with weights from this one
            model = model_of(loaded, name, trust)
            names = getattr(model, "names", ())
            check_class(channels, names)
            _check_layers(model, layers, channels, trust)
            known = names_of(names)
            if not is_kind(target, known.values()):
                class_number(parse_target(target).word, known)


def _check_layers(model: torch.nn.Module, layers: str, channels: ChannelSpec, trust: bool) -> None:
    """Raise FeatvizError for layers that do not exist or yield no feature map."""
    index = index_layers(model)
    selected = select_layers(index, layers)
    stride = getattr(index.root, "stride", None)
    side = 4 * int(stride.max()) if isinstance(stride, torch.Tensor) else 128
    with Capture(index, selected) as features:
        try:
            with torch.no_grad(), nullcontext() if trust else guard(imports=True):
                index.root(torch.zeros(1, index.input_channels, side, side))
        except FeatvizError:
            raise
        except Exception:
            return  # the model may not run at this size, or without YOLOv5's own preparations
    for feature_map in features if not is_by_ablation(channels) else ():
        choose(feature_map, channels)
    if not len(features):
        raise FeatvizError(f"nothing to draw: {'; '.join(features.skipped.values())}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence C libraries, which write to the file descriptor instead of ``sys.stderr``."""
    sys.stderr.flush()
    keep, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(keep, 2)
        os.close(keep)
        os.close(null)


def _check_source(given: str) -> None:
    """Raise FeatvizError unless ``--source`` gives at least one readable image, or a video or stream."""
    if (
        given.isnumeric()
        or "://" in given
        or given.lower().startswith("screen")
        or given.endswith((".streams", ".txt"))
    ):
        return
    import cv2

    if "*" in given:
        files = sorted(glob.glob(given, recursive=True))
    elif os.path.isdir(given):
        files = sorted(glob.glob(os.path.join(glob.escape(given), "*.*")))
    elif os.path.isfile(given):
        files = [given]
    else:
        raise FeatvizError(f"no source {given}: give an image, a video, a folder or a pattern of them")
    endings = {file: file.rsplit(".", 1)[-1].lower() for file in files}
    if any(ending in VIDEOS for ending in endings.values()):
        return
    images = [file for file, ending in endings.items() if ending in IMAGES]
    for file in images:  # YOLOv5 would block on reading a pipe
        if os.path.exists(file) and not os.path.isfile(file) and not os.path.isdir(file):
            raise FeatvizError(f"source {given} holds {Path(file).name}, which is a pipe or device, not a file")
    if not images:
        raise FeatvizError(f"source {given} holds no image: none of its files ends in {', '.join(sorted(IMAGES))}")
    with _quiet():
        if any(os.path.isfile(file) and os.path.getsize(file) and cv2.imread(file) is not None for file in images):
            return
    raise FeatvizError(f"source {given} holds no image that can be read: {Path(images[0]).name} is damaged")
