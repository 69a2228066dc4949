"""Load models by name, with the preprocessing of their images."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Tuple

import numpy as np
import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.models.outputs import crop_region
from yolov5_featviz.text import near

FORMS = "torchvision:resnet50, timm:resnet50, or module:function or file.py:function for one of your own"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]

# From an image, uint8 RGB [H, W, 3], to the argument of a model, and the image's region in its input.
Prepare = Callable[[np.ndarray], Tuple[Any, Optional[Region]]]


@dataclass(frozen=True)
class ZooModel:
    """A model in evaluation mode, and the preprocessing of its images.

    Attributes:
        model: the model.
        weights: origin of its weights, in words.
        prepare: converts uint8 RGB ``[H, W, 3]`` to the model's argument, and returns as well the
            region of the network's input where the image lies, in pixels: left, top, right and bottom
            edge, outside the input where the image is cropped. None: the image fills the input.
    """

    model: nn.Module
    weights: str
    prepare: Prepare

    def input_size(self) -> Tuple[int, int]:
        """Return ``(height, width)`` of the network's input for a square image."""
        x, region = self.prepare(np.zeros((384, 384, 3), np.uint8))
        if isinstance(x, torch.Tensor):
            return int(x.shape[2]), int(x.shape[3])
        return (384, 384) if region is None else (round(region[3]), round(region[2]))


def load_model(
    name: str, weights: Optional[str] = None, imgsz: Optional[int] = None, read: Callable[[str], Any] = torch.load
) -> ZooModel:
    """Build a model by name.

    Args:
        name: ``torchvision:NAME``, for any of its builders; ``timm:NAME``; or ``module:function`` or
            ``file.py:function``, for a function that returns a model. It may be followed by arguments
            in parentheses: ``torchvision:resnet50(num_classes=10)``.
        weights: path of a state dict, or ``default`` for the library's, downloaded if necessary.
            None: torchvision's if already downloaded, else random ones.
        imgsz: resize each image to a square of so many pixels, bicubic, and normalise it with
            ImageNet's mean and standard deviation. None: the model's own preprocessing if its library
            defines one, else the same with 384.
        read: function that reads a file of weights.

    Raises:
        FeatvizError: no such model, or the weights do not fit it.
    """
    parts = re.fullmatch(r"([^()]+):(\w+)(?:\((.*)\))?", name.strip())
    if not parts:
        raise FeatvizError(f"no model {name!r}: give {FORMS}")
    weights = weights.lower() if weights and weights.lower() == "default" else weights
    library, function = parts.group(1), parts.group(2)
    build = {"torchvision": _torchvision, "timm": _timm}.get(library)
    arguments = _arguments(parts.group(3) or "", name)
    if build is None and weights == "default":
        raise FeatvizError(f"{name} offers no default weights: give a file, or leave --weights out")
    if build is None:
        model = _call(_function(library, function), arguments, name)
        if not isinstance(model, nn.Module):
            raise FeatvizError(f"{name} returned a {type(model).__name__}, not a torch.nn.Module")
        zoo = ZooModel(model, "those it was made with", stretch_to_square(imgsz or 384))
    else:
        zoo = build(function, arguments, weights, imgsz)
    zoo.model.eval()
    if weights is None or weights == "default":
        return zoo
    load_weights(zoo.model, read(weights), weights, name)
    return ZooModel(zoo.model, weights, zoo.prepare)


def load_weights(model: nn.Module, loaded: Any, path: str, name: str) -> None:
    """Load weights into ``model``.

    Args:
        model: the model.
        loaded: a state dict, or a dictionary with one under ``state_dict``, ``model_state_dict``, ``model`` or ``ema``.
        path: where it was read from, for messages.
        name: the model's name, for messages.

    Raises:
        FeatvizError: there is no state dict, or its tensors are not exactly those of the model.
    """
    held = loaded if isinstance(loaded, dict) else {}
    parts = [loaded, *(held.get(key) for key in ("state_dict", "model_state_dict", "model", "ema"))]
    state = next((part for part in parts if _is_state_dict(part)), None)
    if state is None:
        what = ", ".join(map(str, [*held][:5])) or f"a {type(loaded).__name__}"
        raise FeatvizError(f"{path} holds {what}, and no state dict: save what model.state_dict() returns")
    state = {re.sub(r"^((module|_orig_mod)\.)+", "", key): value for key, value in state.items()}
    own = model.state_dict()
    for verb, keys in (("lacks", own.keys() - state.keys()), ("also has", state.keys() - own.keys())):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise FeatvizError(f"{path} does not fit {name}: it {verb} {', '.join(sorted(keys)[:3])}{more}")
    for key, value in state.items():
        if value.shape != own[key].shape:
            shapes = f"{key} is {list(value.shape)}, in the model {list(own[key].shape)}"
            other = f"'{name.partition('(')[0]}(num_classes=N)' is a model for another number of classes"
            raise FeatvizError(f"{path} does not fit {name}: {shapes}; {other}")
    model.load_state_dict(state)


def stretch_to_square(imgsz: int, mean: Any = MEAN, std: Any = STD) -> Prepare:
    """Return a preprocessing: resize to a square of ``imgsz`` pixels, bicubic, ignoring aspect, and normalise."""

    def prepare(image: np.ndarray) -> Tuple[Any, Optional[Region]]:
        from PIL import Image

        bicubic = getattr(Image, "Resampling", Image).BICUBIC  # since Pillow 9.1
        pixels = np.array(Image.fromarray(image).resize((imgsz, imgsz), bicubic))
        x = (torch.from_numpy(pixels).float() / 255 - torch.tensor(mean)) / torch.tensor(std)
        return x.permute(2, 0, 1)[None], None

    return prepare


def transformed(transform: Callable[[Any], torch.Tensor], resize: Optional[int]) -> Prepare:
    """Return a preprocessing by a model's own transform; ``resize`` is the shorter side before a centre crop."""

    def prepare(image: np.ndarray) -> Tuple[Any, Optional[Region]]:
        from PIL import Image

        x = transform(Image.fromarray(image))[None]
        size = (int(x.shape[2]), int(x.shape[3]))
        return x, crop_region((image.shape[0], image.shape[1]), resize, size) if resize else None

    return prepare


def _torchvision(name: str, arguments: Dict[str, Any], weights: Optional[str], imgsz: Optional[int]) -> ZooModel:
    import torchvision
    from torchvision import models

    families = (models, models.detection, models.segmentation, models.video)
    builders = {
        key: value
        for family in families
        for key, value in vars(family).items()
        if inspect.isfunction(value) and key.islower() and not key.startswith(("_", "get_", "list_"))
    }
    if name not in builders:
        raise FeatvizError(f"torchvision {torchvision.__version__} has no model {name!r}{near(name, builders)}")
    takes = inspect.signature(builders[name]).parameters
    offered: Any = None
    if hasattr(models, "get_model_weights"):  # torchvision 0.14
        offered = models.get_model_weights(builders[name]).DEFAULT
    if weights == "default" and offered is None:
        raise FeatvizError(f"torchvision {torchvision.__version__} offers no weights for {name}: give a file")
    at_hand = offered and (Path(torch.hub.get_dir()) / "checkpoints" / offered.url.rpartition("/")[2]).is_file()
    chosen = offered if weights == "default" or (weights is None and at_hand and not arguments) else None
    defaults = {"weights": chosen, "weights_backbone": None, "pretrained": False, "pretrained_backbone": False}
    options = {**{key: value for key, value in defaults.items() if key in takes}, **arguments}
    model = _call(builders[name], options, f"torchvision:{name}")
    origin = f"{chosen.url} ({chosen})" if chosen else "random ones"
    if name in vars(models.detection):
        if imgsz is not None:
            raise FeatvizError(
                f"torchvision:{name} resizes images itself: leave --imgsz out, or give "
                f"'torchvision:{name}(min_size={imgsz})'"
            )
        return ZooModel(model, origin, _detector_input(model))
    transform: Any = offered.transforms() if offered else None
    resize, crop = getattr(transform, "resize_size", None), getattr(transform, "crop_size", None)
    if imgsz is not None or resize is None or len(resize) != 1:
        return ZooModel(model, origin, stretch_to_square(imgsz or 384))
    return ZooModel(model, origin, transformed(transform, resize[0] if crop else None))


def _detector_input(model: Any) -> Prepare:
    """Return the preprocessing for torchvision's detectors: lists in [0, 1], which they resize, normalise and pad."""

    def prepare(image: np.ndarray) -> Tuple[Any, Optional[Region]]:
        x = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        height, width = model.transform([x])[0].image_sizes[0]
        return [x], (0.0, 0.0, float(width), float(height))

    return prepare


def _timm(name: str, arguments: Dict[str, Any], weights: Optional[str], imgsz: Optional[int]) -> ZooModel:
    try:
        import timm
        from timm.data import create_transform, resolve_model_data_config
    except ImportError:
        raise FeatvizError(f"timm:{name} needs timm: pip install timm") from None
    if not timm.is_model(name):
        raise FeatvizError(f"timm {timm.__version__} has no model {name!r}{near(name, timm.list_models())}")
    options = {"pretrained": weights == "default", **arguments}
    model = _call(lambda **options: timm.create_model(name, **options), options, f"timm:{name}")
    origin = "timm's" if options["pretrained"] else "random ones"
    if imgsz is not None:
        return ZooModel(model, origin, stretch_to_square(imgsz))
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    resize = next((step.size for step in transform.transforms if type(step).__name__ == "Resize"), None)
    return ZooModel(model, origin, transformed(transform, resize if isinstance(resize, int) else None))


def _function(module: str, name: str) -> Callable[..., Any]:
    """Import a function from a module, given by dotted name (also in the current folder) or by file."""
    found: Any = None
    if module.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(module).stem, module)
        if spec is None or spec.loader is None or not Path(module).is_file():
            raise FeatvizError(f"no model {module}:{name}: there is no such file")
        found = importlib.util.module_from_spec(spec)
        load: Callable[[], Any] = partial(spec.loader.exec_module, found)
    else:
        load = partial(importlib.import_module, module)
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = load() or found
    except ModuleNotFoundError as error:
        raise FeatvizError(f"no model {module}:{name}: no module {error.name}; give {FORMS}") from None
    except Exception as error:
        raise FeatvizError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    function = getattr(found, name, None)
    if hasattr(found, name) and not callable(function):
        raise FeatvizError(f"{module}:{name} is of type {type(function).__name__}, not a function that returns a model")
    if not callable(function):
        raise FeatvizError(f"{module} has no function {name!r}{near(name, vars(found))}")
    return function  # type: ignore[no-any-return]


def _arguments(text: str, name: str) -> Dict[str, Any]:
    """Parse ``num_classes=10, aux=False`` to a dictionary; only literals."""
    try:
        call: Any = ast.parse(f"f({text})", mode="eval").body
        if call.args:
            raise ValueError
        return {part.arg: ast.literal_eval(part.value) for part in call.keywords}
    except (SyntaxError, ValueError):
        raise FeatvizError(f"the arguments in {name!r} are not understood: give key=value, with plain values") from None


def _call(function: Callable[..., Any], arguments: Dict[str, Any], name: str) -> Any:
    try:
        return function(**arguments)
    except Exception as error:
        raise FeatvizError(f"{name} could not be built: {reason(error)}") from error


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, torch.Tensor) for v in value.values())
