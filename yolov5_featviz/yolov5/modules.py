"""The module classes of a checkout, found by reading its text before any of it is imported."""

from __future__ import annotations

import ast
import importlib
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, List, Optional

from torch import nn

from yolov5_featviz.errors import FeatvizError, UnsafeCheckpoint
from yolov5_featviz.yolov5.source import Source


def is_module_class(thing: Any) -> bool:
    """Whether ``thing`` is a subclass of ``nn.Module``."""
    return isinstance(thing, type) and issubclass(thing, nn.Module)


def find_module_class(source: Optional[Source], module: str, name: str) -> Any:
    """The class ``name`` of the checkout's ``module``, if it is one that derives from ``nn.Module``.

    ``models.yolo`` and ``yolov5.models.yolo`` are the same here: a checkout pickles the one, the
    installed package the other. ``source`` must be importable.

    Raises:
        UnsafeCheckpoint: there is no such class there.
        FeatvizError: another package of the same name is in the way, or the checkout cannot be imported.
    """
    word = f"{module}.{name}" + (f" (os.{name})" if module in ("posix", "nt") else "")
    own = module[len("yolov5.") :] if module.startswith("yolov5.") else module
    looks_own = own.split(".")[0] in ("models", "utils")
    if source is None:
        reason = "which is YOLOv5's, and no YOLOv5 was found" if looks_own else "which no checkpoint needs"
        raise UnsafeCheckpoint(f"it uses {word}, {reason}")
    if not _defines(source.root, own, name):
        if _file_of(source.root, own) is None and not looks_own:
            raise UnsafeCheckpoint(f"it uses {word}, which no checkpoint needs")
        raise UnsafeCheckpoint(
            f"it uses {word}, which is no module class of the YOLOv5 in {source.root}; "
            "name the checkout it was trained with by --yolov5"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a release imports; nothing that a user could mend
        try:
            imported = importlib.import_module(module if source.package else own)
        except Exception as error:
            raise FeatvizError(
                f"the YOLOv5 in {source.root} cannot be imported: {error}; install what it requires"
            ) from error
    file = getattr(imported, "__file__", None)
    if file is None or source.root not in Path(file).resolve().parents:
        raise FeatvizError(
            f"{own} is already imported from {file}, so {source.root} cannot be used in the same process"
        )
    found = getattr(imported, name, None)
    if not is_module_class(found):
        raise UnsafeCheckpoint(f"it uses {word}, which is no module class")
    return found


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
    """Whether the text of ``module`` defines a class ``name``, or gets one from elsewhere in the checkout.

    Read, not run: to import a module is to run it, and a checkout holds scripts too.
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
    """The statements that an import would run, those under ``if`` and ``try`` included."""
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
