"""Load a checkpoint."""

from __future__ import annotations

import gc
import inspect
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, ContextManager, Dict, Iterator, Optional, Union

import numpy as np
import torch
from torch import nn

from yolov5_featviz.errors import FeatvizError, UnsafeCheckpoint, reason
from yolov5_featviz.text import printable
from yolov5_featviz.yolov5.source import Source, find_source
from yolov5_featviz.yolov5.weights.archive import OtherKind, open_archive
from yolov5_featviz.yolov5.weights.build import Builder
from yolov5_featviz.yolov5.weights.grammar import Grammar
from yolov5_featviz.yolov5.weights.guard import guard

EXPORTED = {
    ".onnx": "ONNX",
    ".engine": "TensorRT",
    ".torchscript": "TorchScript",
    ".tflite": "TensorFlow Lite",
    ".pb": "TensorFlow",
    ".mlmodel": "CoreML",
    ".mlpackage": "CoreML",
    ".xml": "OpenVINO",
    ".pdmodel": "Paddle",
}


def load_checkpoint(
    path: Union[str, Path, Any], source: Optional[Source] = None, map_location: Any = "cpu", trust: bool = False
) -> Any:
    """Load a ``.pt`` file without executing code in it.

    Its pickle is parsed to inert data, which is checked against a grammar of checkpoints and only then built,
    while a guard blocks spawning, connecting, writing and importing. The checkout's own code is imported for the
    module classes that the file names.

    Args:
        path: the file, or an open binary file.
        source: the YOLOv5 whose modules the checkpoint may contain; None for the result of
            :func:`~yolov5_featviz.yolov5.source.find_source`, if any.
        map_location: as for ``torch.load``.
        trust: load like ``torch.load(weights_only=False)``, which can run any code.

    Returns:
        The content; for YOLOv5 a dictionary with the module under ``model``.

    Raises:
        UnsafeCheckpoint: the file contains something that no checkpoint needs.
        FeatvizError: there is no such file, or it is not a checkpoint, or incomplete.
    """
    name = printable(getattr(path, "name", "checkpoint") if hasattr(path, "read") else path, 300)
    if not hasattr(path, "read"):
        check_weights(path)
    try:
        with ExitStack() as stack:
            file: Any = path if hasattr(path, "read") else stack.enter_context(open(path, "rb"))
            loaded = _trusted(file, source, map_location) if trust else _read(file, source, map_location)
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(
            f"{name} is refused: {printable(error, 1000)}; if you trust its origin, add --trust-weights"
        ) from None
    except OtherKind as error:
        raise FeatvizError(f"{name} is {error}") from None
    except FeatvizError as error:
        if error.args and str(error).startswith("the YOLOv5 in"):
            raise
        raise FeatvizError(f"{name} is not a PyTorch checkpoint, or is damaged: {reason(error)}") from error
    except Exception as error:
        raise FeatvizError(f"{name} is not a PyTorch checkpoint, or is damaged: {reason(error)}") from error
    for module in _modules(loaded):
        if isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None  # added in torch 1.11, required by its forward pass
    return loaded


def _read(file: BinaryIO, source: Optional[Source], map_location: Any) -> Any:
    from yolov5_featviz.yolov5.script.compat import Surroundings

    source = source or _any_source()
    grammar = Grammar(source)
    with ExitStack() as stack:
        stack.enter_context(_no_collection())
        with guard():
            archive = open_archive(file)
        if source is not None:
            stack.enter_context(Surroundings(source, script=False))
            stack.enter_context(source.importable())
        grammar.check(archive.tree)
        archive.expect(grammar.tensors.storages)
        grammar.import_classes()
        grammar.check_classes()
        with guard():
            return Builder(grammar, archive, map_location).build(archive.tree)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable the garbage collector, which would repeatedly scan all of torch while the tree is built."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _trusted(file: BinaryIO, source: Optional[Source], map_location: Any) -> Any:
    from yolov5_featviz.yolov5.script.compat import Surroundings

    options: Dict[str, Any] = {"map_location": map_location}
    if "weights_only" in inspect.signature(_torch_load).parameters:
        options["weights_only"] = False
    source = source or _any_source()
    with ExitStack() as stack:
        if source is not None:
            stack.enter_context(Surroundings(source, script=False))
            stack.enter_context(source.importable())
        return _torch_load(file, **options)


def check_weights(path: Union[str, Path]) -> None:
    """Raise FeatvizError unless ``path`` is a file that may be a checkpoint."""
    path = Path(path)
    kind = EXPORTED.get(path.suffix.lower())
    if path.exists() and (kind is not None or path.name.endswith("_model")):
        raise FeatvizError(
            f"{path} is an exported model{f' ({kind})' if kind else ''}, which has no layers to visualise: "
            "give the .pt checkpoint it was made from"
        )
    if path.is_dir():
        raise FeatvizError(f"{path} is a folder: give a .pt checkpoint")
    if not path.is_file():
        raise FeatvizError(f"no weights at {path}: give the path of a .pt checkpoint")


def model_of(loaded: Any, name: str, trust: bool = False) -> nn.Module:
    """Extract the module of a loaded checkpoint, as float32 in evaluation mode.

    Args:
        loaded: from :func:`load_checkpoint`.
        name: name of the file, for messages.
        trust: as for :func:`load_checkpoint`.

    Raises:
        FeatvizError: there is no module, or it cannot be prepared.
    """
    parts = [loaded.get("ema"), loaded.get("model")] if isinstance(loaded, dict) else [loaded]
    # some releases store the moving average with its number of updates
    parts = [part[0] if isinstance(part, (list, tuple)) and part else part for part in parts]
    model = next((part for part in parts if isinstance(part, nn.Module)), None)
    if model is None:
        held = (
            f"a dictionary of {printable(', '.join(map(str, list(loaded)[:5])), 200)}"
            if isinstance(loaded, dict)
            else type(loaded).__name__
        )
        raise FeatvizError(f"{name} contains no model but {held}: give a checkpoint written by YOLOv5's train.py")
    block: ContextManager[None] = nullcontext() if trust else guard()
    try:
        with block:
            ready = model.float().eval()
        _check_attributes(ready)
        return ready
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(f"{printable(name, 300)} is refused: {error}") from None
    except Exception as error:
        raise FeatvizError(
            f"the model in {printable(name, 300)} cannot be prepared: {reason(error)}; it is damaged"
        ) from error


def _check_attributes(model: nn.Module) -> None:
    """Raise FeatvizError unless the attributes that YOLOv5 sets on models have their expected types."""
    from yolov5_featviz.yolov5.layers import find_model

    root: Any = find_model(model)
    if root is None:
        return
    names, stride = getattr(root, "names", ()), getattr(root, "stride", None)
    keys = names if isinstance(names, dict) else ()
    if not isinstance(names, (dict, list, tuple)) or not all(isinstance(key, (int, np.integer)) for key in keys):
        raise FeatvizError(f"its class names are a {type(names).__name__}, not a list")
    if isinstance(stride, torch.Tensor) and (stride.numel() == 0 or not 1 <= float(stride.max()) <= 4096):
        raise FeatvizError("its strides are invalid")
    channels = root.yaml.get("ch", 3) if isinstance(getattr(root, "yaml", None), dict) else 3
    if not isinstance(channels, int) or not 1 <= channels <= 1024:
        raise FeatvizError(f"it takes images of {printable(channels, 40)} channels")
    for layer in root.model:
        sources = layer.f if isinstance(layer.f, (list, tuple)) else [layer.f]
        if not sources or not all(isinstance(n, int) and abs(n) < 10_000 for n in sources):
            raise FeatvizError(f"a layer reads from {printable(layer.f, 60)}, which is not a layer")


_torch_load = torch.load  # the original, which is patched while a script runs


def _any_source() -> Optional[Source]:
    try:
        return find_source()
    except FeatvizError:
        return None


def _modules(loaded: Any) -> Iterator[nn.Module]:
    for part in loaded.values() if isinstance(loaded, dict) else [loaded]:
        if isinstance(part, nn.Module):
            yield from part.modules()
