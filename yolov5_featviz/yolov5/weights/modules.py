"""Module classes that a checkpoint may name: layers of torch and torchvision, and those of a checkout.

Classes of a checkout are found in its source text before anything is imported, since importing runs code.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
import warnings
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, List, Optional, Tuple

from torch import nn

from yolov5_featviz.errors import FeatvizError, UnsafeCheckpoint, reason
from yolov5_featviz.text import printable
from yolov5_featviz.yolov5.source import Source

OWN = ("models", "utils")  # packages of a checkout that contain its modules
# Not layers, but wrappers that download models, or replicate a network over devices.
_WRAPPERS = {"AutoShape", "autoShape", "DetectMultiBackend", "DataParallel", "DistributedDataParallel"}
# Modules of torchvision's classifiers, which YOLOv5 can train; not those of its detectors.
_CLASSIFIERS = (
    "alexnet|convnext|densenet|efficientnet|googlenet|inception|mnasnet|mobilenet(v[23])?|regnet|resnet|shufflenetv2|"
    "squeezenet|swin_transformer|vgg|vision_transformer"
)
_TORCHVISION = re.compile(rf"torchvision\.(models\.({_CLASSIFIERS})|ops\.(deform_conv|misc|stochastic_depth))")
_LAYERS = frozenset(
    name for name in nn.modules.__all__ if not name.startswith("Lazy") and name not in ("Container", "Module")
) | {"NonDynamicallyQuantizableLinear", "_LinearWithBias"}  # within MultiheadAttention; the latter in torch 1.8


def is_module_class(thing: Any) -> bool:
    """Whether ``thing`` is a subclass of ``nn.Module``."""
    return isinstance(thing, type) and issubclass(thing, nn.Module)


def is_layer_class(thing: Any) -> bool:
    """Whether ``thing`` is one of the layers that ``torch.nn.modules`` lists."""
    return (
        is_module_class(thing)
        and thing.__name__ in _LAYERS
        and thing.__module__.startswith("torch.nn.modules.")
        and thing is getattr(sys.modules[thing.__module__], thing.__name__, None)
    )


def is_whole_model(cls: Any) -> bool:
    """Whether a class is a YOLOv5 class of whole networks, which accepts paths and definitions."""
    return any(hasattr(cls, method) for method in ("forward_once", "_forward_once"))


def library_class(module: str, name: str) -> Any:
    """Return the torch or torchvision class that a checkpoint names; None if it is missing or not allowed.

    Imports nothing but torchvision itself.
    """
    if module.startswith("torchvision."):
        with suppress(ImportError):
            import torchvision  # noqa: F401
    found = getattr(sys.modules.get(module), name, None) if name.isidentifier() else None
    if module.startswith("torch.nn.modules.") and is_layer_class(found):
        return found
    if _TORCHVISION.fullmatch(module) and is_module_class(found) and found.__module__ == module:
        return found
    return None


def check_named(source: Optional[Source], module: str, name: str) -> None:
    """Raise UnsafeCheckpoint unless the checkout's source defines ``name`` in ``module`` as a class.

    ``models.yolo`` and ``yolov5.models.yolo`` are equivalent: the first is pickled by a checkout, the
    second by the installed package. Besides ``models`` and ``utils``, a module may be one that the
    files of ``models`` import themselves.
    """
    word = printable(f"{module}.{name}" + (f" (os.{name})" if module in ("posix", "nt") else ""), 200)
    own = own_name(module)
    looks_own = own.split(".")[0] in OWN
    if source is None:
        why = "which is YOLOv5's, and no YOLOv5 was found" if looks_own else "which no checkpoint needs"
        raise UnsafeCheckpoint(f"it uses {word}, {why}")
    if not looks_own and own not in _imported_by_models(source.root):
        raise UnsafeCheckpoint(f"it uses {word}, which no checkpoint needs")
    if not _defines(source.root, own, name):
        raise UnsafeCheckpoint(
            f"it uses {word}, which is not a module class of the YOLOv5 in {source.root}; "
            "give the checkout it was trained with by --yolov5"
        )
    if name in _WRAPPERS:
        raise UnsafeCheckpoint(f"it contains {word}, which reads any file or address it is given")


def import_class(source: Source, module: str, name: str) -> Any:
    """Import the module class ``name``, for which :func:`check_named` has passed. ``source`` must be importable.

    Raises:
        UnsafeCheckpoint: the name does not refer to a module class.
        FeatvizError: another package of the same name is already imported, or the checkout cannot be imported.
    """
    found: Any = getattr(import_module(source, module), name, None)
    if not is_module_class(found):
        raise UnsafeCheckpoint(f"it uses {module}.{name}, which is not a module class")
    if _WRAPPERS & {base.__name__ for base in found.__mro__}:
        raise UnsafeCheckpoint(f"it contains {module}.{name}, which reads any file or address it is given")
    return found


def own_name(module: str) -> str:
    """Return the name of a YOLOv5 module in a checkout: ``models.yolo`` for ``yolov5.models.yolo``."""
    return module[len("yolov5.") :] if module.startswith("yolov5.") else module


def import_module(source: Source, module: str) -> Any:
    """Import a module of the checkout. Raises FeatvizError if that fails, or another of its name is imported."""
    own = own_name(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings from imports of a release, which users cannot fix
        try:
            imported = importlib.import_module(module if source.package else own)
        except Exception as error:
            raise FeatvizError(
                f"the YOLOv5 in {source.root} cannot be imported: {reason(error)}; install what it requires"
            ) from error
    file = getattr(imported, "__file__", None)
    if file is None or source.root not in Path(file).resolve().parents:
        raise FeatvizError(
            f"{own} is already imported from {file}, so {source.root} cannot be used in the same process"
        )
    return imported


@lru_cache(maxsize=64)
def _imported_by_models(root: Path) -> Tuple[str, ...]:
    """Return the checkout's modules that files in ``models`` always import, at their top level."""
    found = []
    for file in sorted((root / "models").glob("**/*.py"))[:500]:
        for node in _statements(file):
            names: List[str] = []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module, *(f"{node.module}.{part.name}" for part in node.names)]
            elif isinstance(node, ast.Import):
                names = [part.name for part in node.names]
            found += [name for name in names if _file_of(root, own_name(name)) is not None]
    return tuple(dict.fromkeys(map(own_name, found)))


def _file_of(root: Path, module: str) -> Optional[Path]:
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    stem = root.joinpath(*parts)
    for file in (stem.parent / f"{stem.name}.py", stem / "__init__.py"):
        if file.is_file():
            return file
    return None


@lru_cache(maxsize=1024)
def _defines(root: Path, module: str, name: str, depth: int = 6) -> bool:
    """Whether the source of ``module`` defines a class ``name``, or imports one from the checkout.

    The source is read and not imported, since a checkout also contains scripts.
    """
    file = _file_of(root, module)
    if file is None or depth == 0 or not name.isidentifier():
        return False
    package = module.split(".")[: None if file.name == "__init__.py" else -1]
    for node in _statements(file):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return bool(node.bases)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            alias = any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
            if alias and _defines(root, module, node.value.id, depth - 1):
                return True
        if isinstance(node, ast.ImportFrom):
            origin = node.module.split(".") if node.module else []
            if node.level:
                origin = package[: len(package) - node.level + 1] + origin
            elif origin[:1] == ["yolov5"]:
                origin = origin[1:]
            for imported in node.names:
                if imported.name == "*" or (imported.asname or imported.name) == name:
                    wanted = name if imported.name == "*" else imported.name
                    if _defines(root, ".".join(origin), wanted, depth - 1):
                        return True
    return False


@lru_cache(maxsize=64)
def _statements(file: Path) -> List[ast.stmt]:
    """Return the statements that an import may run, including those under ``if`` and ``try``."""
    try:
        todo: List[ast.stmt] = list(ast.parse(file.read_text(encoding="utf-8", errors="replace")).body)
    except SyntaxError:
        return []
    found: List[ast.stmt] = []
    while todo:
        node = todo.pop(0)
        found.append(node)
        if isinstance(node, (ast.If, ast.Try, ast.With)):
            handlers = [line for handler in getattr(node, "handlers", []) for line in handler.body]
            todo = [*node.body, *getattr(node, "orelse", []), *handlers, *todo]
    return found
