"""Put images through a model and draw its layers."""

from __future__ import annotations

import glob
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterable, List, Optional, Tuple

import torch

from yolov5_featviz.cam import cam
from yolov5_featviz.capture import Capture, FeatureMap
from yolov5_featviz.channels import Choice
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.heatmap import HeatMap
from yolov5_featviz.images import as_rgb
from yolov5_featviz.layers import LayerSpec, index_layers, select_layers
from yolov5_featviz.pictures import Look, draw, draw_cam
from yolov5_featviz.save import Saver, check_writable, new_folder, write
from yolov5_featviz.zoo import ZooModel

SUFFIXES = {".bmp", ".dng", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def find_images(source: str) -> List[Path]:
    """The images that ``source`` names: a file, those of a folder, or those that a pattern fits; by name.

    Raises FeatvizError if there is none.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    files = sorted(path.iterdir() if path.is_dir() else map(Path, glob.glob(source, recursive=True)))
    found = [file for file in files if file.is_file() and file.suffix.lower() in SUFFIXES]
    if not found:
        raise FeatvizError(
            f"{source} is a folder without images" if path.is_dir() else f"no image {source}: give a file, or a folder"
        )
    return found


def run_images(
    zoo: ZooModel,
    layers: LayerSpec,
    source: str,
    look: Look,
    folder: Optional[str] = None,
    tell: Callable[[str], None] = print,
) -> int:
    """Draw ``layers`` for each image of ``source``, into a folder of its own.

    Args:
        zoo: the model; see :func:`yolov5_featviz.zoo.load_model`.
        layers: a layer selection; see :func:`yolov5_featviz.layers.select_layers`.
        source: an image, a folder of images, or a pattern.
        look: what to draw, and how.
        folder: where the images' folders go; ``runs/featviz/exp`` otherwise, or ``exp2`` and so on.
            Nothing that is there is overwritten.
        tell: is told what happens.

    Returns:
        0; or 1 if an image could not be read or a picture not be saved, after all others were.

    Raises:
        FeatvizError: there is nothing to draw, or no image could be read. Nothing was written.
    """

    def ranked(feature_map: FeatureMap, choice: Choice) -> None:
        if choice.ranking is not None:
            tell(f"{feature_map.title}\n{choice.ranking.table(len(choice.channels))}")

    paths = find_images(source)
    index = index_layers(zoo.model)
    selected = select_layers(index, layers)
    check_writable(Path(folder or Path("runs") / "featviz"))
    home = Path(folder) if folder else None
    saver, unreadable, folders, told = Saver(), [], [], set()
    try:
        for path in paths:
            try:
                image = as_rgb(path)
            except FeatvizError as error:
                unreadable.append(error)
                tell(f"{error}; passed over")
                continue
            x, region = zoo.prepare(image)
            with Capture(index, selected) as features, torch.no_grad():
                _run(zoo.model, x)
            for reason in features.skipped.values():
                if reason not in told:
                    told.add(reason)
                    tell(f"{reason}; passed over")
            maps = features.of_image(0, path.stem)
            if not maps:
                raise FeatvizError(next(iter(features.skipped.values()), f"no feature map of {layers}"))
            heats: List[HeatMap] = []
            if "cam" in look.modes:
                heats = cam(zoo.model, x, layers, look.target, look.method, look.merge, region, path.stem)
            home = home or new_folder(Path("runs") / "featviz" / "exp")
            folders.append(new_folder(home / path.stem))
            say = ranked if len(folders) == 1 else None  # the rankings of the others are in their files
            for feature_map in maps if look.shows_maps else ():
                files = draw(replace(feature_map, region=region), look, image, say)
                saver.submit(partial(_save, files, folders[-1]))
            for heat in heats:
                saver.submit(partial(_save, draw_cam(heat, look, image), folders[-1]))
    finally:
        saver.close()
    if not folders:
        raise unreadable[0]
    for text in sorted({str(error) for error in saver.errors}):
        tell(f"error: could not save: {text}")
    names = ", ".join(f"{one.name}/" for one in folders[:5])
    more = f" and {len(folders) - 5} more" if len(folders) > 5 else ""
    tell(f"{saver.done} feature map{'s' * (saver.done != 1)} in {home}: {names}{more}")
    return int(bool(unreadable or saver.errors))


def _run(model: torch.nn.Module, x: Any) -> None:
    try:
        model(x)
    except FeatvizError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        shape = list(x.shape) if isinstance(x, torch.Tensor) else [list(one.shape) for one in x]
        raise FeatvizError(f"the model cannot be run on an input of shape {shape}: {reason}") from error


def _save(files: Iterable[Tuple[str, bytes]], folder: Path) -> None:
    for name, content in files:
        write(folder / name, content)
