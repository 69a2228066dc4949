"""Reading a checkpoint without running it."""

from __future__ import annotations

import ast
import ctypes
import functools
import inspect
import io
import pickle
import tarfile
import zipfile
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, List, Optional, Union

import torch
from torch import nn

from yolov5_featviz.errors import FeatvizError, UnsafeCheckpoint
from yolov5_featviz.yolov5.modules import is_module_class
from yolov5_featviz.yolov5.patch import Patches
from yolov5_featviz.yolov5.source import Source, find_source
from yolov5_featviz.yolov5.unpickle import pickle_module

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
    """Read a ``.pt`` file, constructing nothing outside an allow-list.

    Args:
        path: the file, or an open binary file.
        source: the YOLOv5 whose modules the checkpoint may hold; None for the one that
            :func:`~yolov5_featviz.yolov5.source.find_source` finds, if any.
        map_location: as for ``torch.load``.
        trust: read it as ``torch.load(weights_only=False)`` does: it can then run any code.

    Returns:
        What the file holds, in YOLOv5's case a dictionary with the module under ``model``.

    Raises:
        UnsafeCheckpoint: the file names something outside the allow-list. Nothing of it was run.
        FeatvizError: there is no such file, or it is no checkpoint, or only part of one.
    """
    from yolov5_featviz.yolov5.compat import Surroundings  # whose patches come here for their reader

    name = str(getattr(path, "name", "checkpoint") if hasattr(path, "read") else path)
    if not hasattr(path, "read"):
        check_weights(path)
        path = str(path)
    options: Dict[str, Any] = {"map_location": map_location}
    if "weights_only" in inspect.signature(_torch_load).parameters:
        options["weights_only"] = False
    try:
        _check_container(path, name)
        source = source or _any_source()
        with ExitStack() as stack:
            if not trust:
                options["pickle_module"] = reader = pickle_module(source)
                if not _takes_reader(patched=False):
                    patches = Patches()
                    patches.set(torch.serialization, "pickle", reader)
                    stack.callback(patches.undo)
            if source is not None:
                stack.enter_context(Surroundings(source, script=False))
                stack.enter_context(source.importable())
            loaded = _torch_load(path, **options)
        if not trust:
            _check_definitions(loaded)
        for module in _modules(loaded):
            if isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
                module.recompute_scale_factor = None  # torch 1.11 brought it, and its forward pass asks for it
        return loaded
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(
            f"{name} is refused: {error}; if you trust whoever made it, add --trust-weights"
        ) from None
    except FeatvizError:
        raise
    except Exception as error:
        if "weights_only" not in options:
            # torch 1.8 frees a storage when its file ends early, and once more when that storage is let go of
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(error))
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FeatvizError(f"{name} is no PyTorch checkpoint, or a damaged one: {reason[:200]}") from error


def check_weights(path: Union[str, Path]) -> None:
    """Raise FeatvizError unless ``path`` is a file that may be a checkpoint."""
    path = Path(path)
    kind = EXPORTED.get(path.suffix.lower())
    if path.exists() and (kind is not None or path.name.endswith("_model")):
        raise FeatvizError(
            f"{path} is an exported model{f' ({kind})' if kind else ''}, which has no layers to look at: "
            "give the .pt checkpoint it was made from"
        )
    if path.is_dir():
        raise FeatvizError(f"{path} is a folder: give a .pt checkpoint")
    if not path.is_file():
        raise FeatvizError(f"no weights at {path}: give the path of a .pt checkpoint")


def model_of(loaded: Any, name: str) -> nn.Module:
    """The module in what a checkpoint holds, ready for inference."""
    parts = [loaded.get("ema"), loaded.get("model")] if isinstance(loaded, dict) else [loaded]
    # some releases keep the moving average together with the number of its updates
    parts = [part[0] if isinstance(part, (list, tuple)) and part else part for part in parts]
    model = next((part for part in parts if isinstance(part, nn.Module)), None)
    if model is None:
        held = (
            f"a dictionary of {', '.join(map(str, list(loaded)[:5]))}"
            if isinstance(loaded, dict)
            else type(loaded).__name__
        )
        raise FeatvizError(f"{name} holds no model but {held}: give a checkpoint as YOLOv5's train.py writes it")
    return model.float().eval()


_torch_load = torch.load  # the real one, whatever is put in its place while a script runs


@functools.lru_cache(maxsize=None)
def _takes_reader(patched: bool) -> bool:
    """Whether this torch reads with the pickle module that it is given: 1.13 takes Python's own all the same.

    Tried out on a harmless file, since the other way to find out is to run a harmful one. Where the
    module has to be put in the place of torch's own name for it (``patched``), that is tried as well.

    Raises:
        UnsafeCheckpoint: neither helps.
    """
    used: List[bool] = []

    class Unpickler(pickle.Unpickler):
        def load(self) -> Any:
            used.append(True)
            return super().load()

    reader: Any = ModuleType("yolov5_featviz_probe")
    reader.Unpickler, reader.load = Unpickler, lambda file, **options: Unpickler(file, **options).load()
    stream = io.BytesIO()
    torch.save({}, stream)
    stream.seek(0)
    known = "weights_only" in inspect.signature(_torch_load).parameters
    options: Dict[str, Any] = {"weights_only": False} if known else {}
    patches = Patches()
    if patched:
        patches.set(torch.serialization, "pickle", reader)
    try:
        _torch_load(stream, pickle_module=reader, **options)
    finally:
        patches.undo()
    if not used and patched:
        raise UnsafeCheckpoint(f"torch {torch.__version__} cannot be made to read a file without running it")
    return bool(used) or not _takes_reader(patched=True)


def _any_source() -> Optional[Source]:
    try:
        return find_source()
    except FeatvizError:
        return None


def _check_container(path: Any, name: str) -> None:
    """Refuse the kinds of archive for which torch has readers of their own."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
            if any(m.endswith("constants.pkl") or "/code/" in m for m in members):
                raise FeatvizError(
                    f"{name} is a TorchScript archive, which has no layers to look at: "
                    "give the .pt checkpoint it was made from"
                )
        elif tarfile.is_tarfile(path):
            raise FeatvizError(f"{name} is a tar archive, not a .pt checkpoint")
    finally:
        if hasattr(path, "seek"):
            path.seek(0)


def _check_definitions(loaded: Any) -> None:
    """A model carries the definition it was built from, and YOLOv5 builds by ``eval``: look at it first."""
    for module in _modules(loaded):
        definition = getattr(module, "yaml", None)
        if isinstance(definition, dict):
            _check_definition(definition)


def _modules(loaded: Any) -> Iterator[nn.Module]:
    for part in loaded.values() if isinstance(loaded, dict) else [loaded]:
        if isinstance(part, nn.Module):
            yield from part.modules()


def _check_definition(value: Any) -> None:
    if isinstance(value, dict):
        value = [part for key, part in value.items() if key != "names"]
    if isinstance(value, (list, tuple)):
        for part in value:
            _check_definition(part)
    elif isinstance(value, str):
        try:
            tree = ast.parse(value.strip(), mode="eval")
        except SyntaxError:
            return  # nor could it be evaluated
        harmless = (ast.Expression, ast.Constant, ast.Name, ast.Attribute, ast.List, ast.Tuple, ast.keyword)
        arithmetic = (ast.UnaryOp, ast.BinOp, ast.operator, ast.unaryop, ast.expr_context)
        for node in ast.walk(tree):
            makes_layer = isinstance(node, ast.Call) and _names_layer(node.func)
            if not makes_layer and not isinstance(node, harmless + arithmetic):
                raise UnsafeCheckpoint(f"its model definition would run {value[:80]!r}")


def _names_layer(function: ast.expr) -> bool:
    """``nn.SiLU`` or ``torch.nn.SiLU``: what an activation is written as."""
    parts: List[str] = []
    while isinstance(function, ast.Attribute):
        parts.insert(0, function.attr)
        function = function.value
    parts.insert(0, function.id if isinstance(function, ast.Name) else "")
    return parts[:-1] in (["nn"], ["torch", "nn"]) and is_module_class(getattr(nn, parts[-1], None))
