"""Check the model definition in a checkpoint, which YOLOv5 passes to ``eval``.

``parse_model`` takes rows ``[from, number, module, arguments]`` and evaluates the module's name, string
arguments and ``activation``. Modules must therefore be names of modules, and string arguments must be
names, numbers, constructors such as ``nn.SiLU()``, or arithmetic over these.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import re
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence

import yaml
from torch import nn

from yolov5_featviz.errors import UnsafeCheckpoint
from yolov5_featviz.text import printable
from yolov5_featviz.yolov5.weights.modules import is_layer_class, is_module_class, is_whole_model

ROWS = 2000
LONGEST = 200  # characters of an expression
LARGEST = 1 << 20  # of a number in it
_EXPRESSION = re.compile(r"[\w .,()\[\]+\-*/='\"]+", re.ASCII)
_NOT_EVALUATED = ("names", "yaml_file", "path")
_BUILDERS = {"AutoShape", "autoShape", "DetectMultiBackend", "TorchVision", "Model", "DetectionModel"}
# options with which YOLOv5 runs shell commands, or uploads data or weights
_TO_OTHERS = ("evolve", "bucket", "upload_dataset", "s3_upload_dir", "neptune_token", "neptune_project", "entity")
_HARMLESS = ("sum", "max", "min", "abs", "int", "float", "bool")  # builtins whose names modes may have
_NODES = (ast.Expression, ast.Constant, ast.Name, ast.Attribute, ast.List, ast.Tuple, ast.keyword, ast.Call, ast.Load)
_ARITHMETIC = (ast.UnaryOp, ast.USub, ast.UAdd, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv)

Lookup = Callable[[str], Any]


def is_definition(value: Any) -> bool:
    """Whether a dictionary looks like a model definition."""
    return isinstance(value, dict) and ("backbone" in value or "head" in value)


def check_definition(value: Any, lookup: Lookup) -> None:
    """Raise UnsafeCheckpoint unless building from ``value`` runs nothing but module constructors.

    Args:
        value: plain data.
        lookup: resolves a bare name as YOLOv5's ``eval`` does; None if undefined.
    """
    if not isinstance(value, dict) or type(value) is not dict:
        raise UnsafeCheckpoint(f"its model definition is a {type(value).__name__}, not a dictionary")
    for key, part in value.items():
        if not isinstance(key, str):
            raise _refusal(key)
        if key in ("backbone", "head"):
            _check_rows(part, lookup)
        elif key in ("anchors", "activation"):
            _check_argument(part, lookup)
        elif key not in _NOT_EVALUATED:
            _check_other(part, lookup)


def _refusal(value: Any) -> UnsafeCheckpoint:
    return UnsafeCheckpoint(f"its model definition would run {value!r:.80}")


def _check_rows(rows: Any, lookup: Lookup) -> None:
    if not isinstance(rows, (list, tuple)) or len(rows) > ROWS:
        raise _refusal(rows)
    for row in rows:
        if not isinstance(row, (list, tuple)) or len(row) < 4:
            raise _refusal(row)
        sources, number, module, arguments, *more = row
        for source in sources if isinstance(sources, (list, tuple)) else [sources]:
            if type(source) is not int:
                raise _refusal(source)
        if type(number) not in (int, float) or not 0 <= number <= 1000:
            raise _refusal(number)
        _check_module(module, lookup)
        for argument in [arguments, *more]:
            if not isinstance(argument, (list, tuple)):
                raise _refusal(argument)
            _check_argument(argument, lookup)


def _check_module(name: Any, lookup: Lookup) -> None:
    """Check the module of a row, which YOLOv5 evaluates and calls."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*){0,3}", name, re.ASCII):
        raise _refusal(name)
    *package, last = name.split(".")
    if package in (["nn"], ["torch", "nn"]):
        known = is_layer_class(getattr(nn, last, None))
    elif package:
        known = False
    else:
        found = lookup(name)
        # parse_model's own variables, such as the previous layer, are not classes
        own = getattr(getattr(lookup("parse_model"), "__code__", None), "co_varnames", ())
        known = not hasattr(builtins, name) and name not in _BUILDERS and name not in own
        known = known and (found is None or (is_module_class(found) and not _builds_or_reads(found)))
    if not known:
        raise _refusal(name)


def _builds_or_reads(cls: type) -> bool:
    """Whether a module class is a whole model, built from a given file, or reads weights or images."""
    return is_whole_model(cls) or any(base.__name__ in _BUILDERS for base in cls.__mro__)


def _check_argument(value: Any, lookup: Lookup, depth: int = 0) -> None:
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple) and depth < 8:
        for part in value:
            _check_argument(part, lookup, depth + 1)
    elif type(value) is str:
        _check_text(value, lookup)
    elif value is not None and (type(value) not in (int, float, bool) or not abs(value) <= LARGEST):
        raise _refusal(value)


def _check_other(value: Any, lookup: Lookup, depth: int = 0) -> None:
    """Check values of keys unknown to YOLOv5, since a fork might evaluate strings in them."""
    if type(value) is dict and depth < 8:
        for key, part in value.items():
            _check_other(key, lookup, depth + 1)
            _check_other(part, lookup, depth + 1)
    elif type(value) in (list, tuple) and depth < 8:
        for part in value:
            _check_other(part, lookup, depth + 1)
    elif type(value) is not str or not re.fullmatch(r"[\w .,:/-]*", value) or "**" in value:
        _check_argument(value, lookup)


def _check_text(text: str, lookup: Lookup) -> None:
    """Raise UnsafeCheckpoint unless evaluating ``text`` calls nothing but the constructors of torch's layers."""
    if len(text) > LONGEST or not _EXPRESSION.fullmatch(text) or text != text.strip() or "**" in text or "__" in text:
        raise _refusal(text)
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _refusal(text) from None
    for node in ast.walk(tree):
        if not isinstance(node, _NODES + _ARITHMETIC):
            raise _refusal(text)
        if isinstance(node, ast.Name) and callable(getattr(builtins, node.id, None)) and node.id not in _HARMLESS:
            raise _refusal(text)
        if isinstance(node, ast.Name) and callable(lookup(node.id)) and not is_module_class(lookup(node.id)):
            raise _refusal(text)
        if isinstance(node, ast.Attribute) and not _names_layer(node):
            raise _refusal(text)
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Attribute) and _names_layer(node.func)):
            raise _refusal(text)
        if isinstance(node, ast.Constant) and not re.fullmatch(r"[\w .+-]*", str(node.value), re.ASCII):
            raise _refusal(text)  # rows may share arguments, so results may be evaluated again
        if isinstance(node, (ast.BinOp, ast.Call)) and any(
            isinstance(part, (ast.List, ast.Tuple)) or _is_text(part) for part in ast.iter_child_nodes(node)
        ):
            raise _refusal(text)  # a repeated list or string may have any size
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and abs(node.value) > LARGEST:
            raise _refusal(text)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))


def _names_layer(node: ast.Attribute) -> bool:
    """Whether a node is ``nn.SiLU`` or ``torch.nn.SiLU``, or the ``torch.nn`` of the latter."""
    value: Optional[ast.expr] = node.value
    if isinstance(value, ast.Attribute):
        in_torch = isinstance(value.value, ast.Name) and value.value.id == "torch" and value.attr == "nn"
        return in_torch and is_layer_class(getattr(nn, node.attr, None))
    if not isinstance(value, ast.Name):
        return False
    if value.id == "torch":
        return node.attr == "nn"
    return value.id == "nn" and is_layer_class(getattr(nn, node.attr, None))


def check_options(options: Any, root: Path, name: str) -> None:
    """Raise UnsafeCheckpoint for training options that would run commands on ``--resume``.

    YOLOv5 executes the ``download`` key of the data set that they name, and during evolution a command
    that contains ``bucket``.

    Args:
        options: options of the checkpoint, already checked to be plain values.
        root: the checkout, whose own data sets are trusted.
        name: name of the checkpoint, for the message.
    """
    if options is not None and not isinstance(options, (dict, argparse.Namespace)):
        raise UnsafeCheckpoint(f"{name} is refused for --resume: its options are a {type(options).__name__}")
    values: Dict[Any, Any] = options if isinstance(options, dict) else vars(options) if options is not None else {}
    data, subject = values.get("data"), f"{name} is refused for --resume: its options"
    for key in _TO_OTHERS:
        if values.get(key):
            raise UnsafeCheckpoint(
                f"{subject} ask for {key} {printable(values[key], 60)}, which runs commands or sends data"
            )
    folder = values.get("save_dir")
    if folder:
        homes = [Path().resolve(), Path(name).resolve().parent.parent]
        below = [Path(folder).resolve(), *Path(folder).resolve().parents] if isinstance(folder, str) else []
        if not any(home in below for home in homes):
            raise UnsafeCheckpoint(f"{subject} write to {printable(folder, 80)}, which is neither here nor in the run")
    for key, value in values.items():
        if isinstance(value, str) and (":" in value[2:] and "/" in value) and key in ("data", "hyp", "cfg", "weights"):
            raise UnsafeCheckpoint(f"{subject} name the address {value!r:.80} as {key}")
    if data is None:
        return
    if not isinstance(data, str) or set(data) & set("*?[") or not data.lower().endswith((".yaml", ".yml")):
        raise UnsafeCheckpoint(f"{subject} name the data set {data!r:.80}, which is not a YAML file")
    path = Path(data)
    if path.is_file() and root.resolve() / "data" not in path.resolve().parents:
        try:
            held = yaml.safe_load(path.read_bytes()) if path.stat().st_size < 1 << 20 else None
        except (yaml.YAMLError, ValueError, RecursionError):
            held = None
        if not isinstance(held, dict) or "download" in held:
            raise UnsafeCheckpoint(f"{subject} name {data!r:.80}, whose 'download' YOLOv5 would run")


def check_run(arguments: Sequence[str]) -> None:
    """Raise UnsafeCheckpoint if the ``opt.yaml`` of a resumed run would run a shell command.

    It is trusted otherwise, since it is YOLOv5's own record of the run and not part of a checkpoint.
    """
    for word, value in zip(arguments, [*arguments[1:], ""]):
        flag, equals, given = word.partition("=")
        if not is_resume(flag):
            continue
        given = given if equals else "" if value.startswith("-") else value
        last = [Path(given)] if given else Path().glob("**/last*.pt")
        for file in {path.parent.parent / "opt.yaml" for path in last}:
            try:
                held = yaml.safe_load(file.read_bytes()) if file.is_file() else None
            except (yaml.YAMLError, ValueError, OSError, RecursionError):
                held = None
            for key in ("evolve", "bucket"):
                if isinstance(held, dict) and held.get(key):
                    raise UnsafeCheckpoint(f"{file} asks for {key} {printable(held[key], 60)}: it is not to be resumed")


def is_resume(flag: str) -> bool:
    """Whether a flag is ``--resume`` or a prefix of it that argparse accepts."""
    return len(flag) > 3 and "--resume".startswith(flag)
