"""Grammar of checkpoints, checked on the parsed pickle before anything is built.

A checkpoint consists of plain values, tensors and modules in dictionaries and lists. A module is created
without its constructor and given a state: ``_modules`` of modules, ``_parameters`` and ``_buffers`` of
tensors, no hooks, and attributes that are plain values, tensors or modules. Classes and functions are not
allowed as values, except those in :meth:`Grammar._attribute`, and attributes must not shadow methods.

The check has two parts. :meth:`Grammar.check` examines the tree alone. After its classes have been
imported from the checkout, :meth:`Grammar.check_classes` compares the states with them.
"""

from __future__ import annotations

import inspect
import re
from functools import lru_cache
from itertools import chain
from typing import Any, Dict, FrozenSet, Iterator, List, Optional, Tuple

from torch import nn

from yolov5_featviz.errors import UnsafeCheckpoint
from yolov5_featviz.text import printable
from yolov5_featviz.yolov5.source import Source
from yolov5_featviz.yolov5.weights import tensors
from yolov5_featviz.yolov5.weights.definition import check_definition
from yolov5_featviz.yolov5.weights.modules import (
    check_named,
    import_class,
    import_module,
    is_layer_class,
    is_whole_model,
    library_class,
)
from yolov5_featviz.yolov5.weights.parse import Call, DictNode, Global, Persistent, SetNode, describe_node, identity
from yolov5_featviz.yolov5.weights.values import (
    KINDS,
    SCALARS,
    check_call,
    check_keys,
    check_plain,
    dtype_named,
    is_int,
    name_of,
    refuse,
)

_LEAVES = {*SCALARS, Global}
DEEPEST = 100  # levels of nesting
REPEATED = 20_000  # nodes beyond four times its own that a tree may have with shared parts expanded
_MODULE_PARTS = ("_modules", "_parameters", "_buffers")
# Other attributes of torch modules. They are created anew, so they are only checked to contain no hooks.
_HOOKS = {
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks",
    "_forward_hooks_always_called",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_load_state_dict_post_hooks",
    "_load_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
}
_DEFINITIONS = ("yaml", "md")  # attributes with the definition; the second is used by v1
_NORM_CLASSES = (
    "_norm_layer",
    "norm_layer",
    "act_layer",
)  # attributes of torchvision-like models that hold a class
_WITH_ACTIVATION = ("TransformerEncoderLayer", "TransformerDecoderLayer")
ACTIVATIONS: Dict[Tuple[str, str], Any] = {
    ("torch.nn.functional", "relu"): nn.functional.relu,
    ("torch.nn.functional", "gelu"): nn.functional.gelu,
    ("torch._C._nn", "gelu"): nn.functional.gelu,
}
# Limits of layer attributes that enlarge the input, far above those of detectors.
_AMPLIFIERS = {
    "scale_factor": 32,
    "kernel_size": 4096,
    "stride": 4096,
    "dilation": 4096,
    "in_channels": 1 << 20,
    "out_channels": 1 << 20,
    "padding": 4096,
    "output_padding": 4096,
    "output_size": 16384,
    "size": 16384,
    "_reversed_padding_repeated_twice": 4096,
}


class ModuleNode:
    """A checked module.

    Attributes:
        name: module and name of its class.
        node: the call.
        state: its attributes without parts and hooks.
        parts: ``_modules``, ``_parameters`` and ``_buffers``, as pairs of name and node.
    """

    __slots__ = ("name", "node", "parts", "state")

    def __init__(self, name: Tuple[str, str], node: Call) -> None:
        self.name, self.node = name, node
        self.state: List[Tuple[str, Any]] = []
        self.parts: Dict[str, List[Tuple[str, Any]]] = {part: [] for part in _MODULE_PARTS}


class Grammar:
    """Checker of one tree.

    Args:
        source: the YOLOv5 whose modules the checkpoint may contain, if any.

    Attributes:
        modules: the checked modules, by the node's :func:`identity`.
        tensors: the checked tensors and storages.
        classes: by module and name, once :meth:`import_classes` has run.
    """

    def __init__(self, source: Optional[Source]) -> None:
        self.source = source
        self.modules: Dict[int, ModuleNode] = {}
        self.tensors = tensors.Tensors()
        self.classes: Dict[Tuple[str, str], Any] = {}
        self.definitions: Dict[int, Any] = {}
        self._checked: Dict[int, Tuple[int, int]] = {}  # expanded nodes and levels; -1 while being checked
        self._size = [0, 0]  # the same for the current node
        self._depth = 0
        self._own = 0  # nodes and scalars, shared parts counted once
        self._builder: Any = None

    # --- the tree alone

    def check(self, tree: Any) -> None:
        """Raise UnsafeCheckpoint unless the tree is a valid checkpoint."""
        self.value(tree)
        self._top(tree)
        self.tensors.finish()

    @staticmethod
    def _top(tree: Any) -> None:
        """Check that the top level is a dictionary where YOLOv5 needs one, and that its models are modules."""
        root = name_of(tree.function) or ("", "") if isinstance(tree, Call) else ("", "")
        if (root[1].endswith("Dict") and root[0].startswith("torch.")) or root[1] in ("Counter", "defaultdict"):
            raise refuse("is", tree)
        for key, value in tree.pairs if isinstance(tree, (DictNode, Call)) else ():
            if key in ("model", "ema") and isinstance(key, str) and isinstance(value, Call):
                name = name_of(value.function)
                if name in KINDS and name != ("collections", "OrderedDict"):
                    raise refuse("has as its model", value)
            if key == "opt" and isinstance(key, str):
                _check_download(value)

    def value(self, node: Any) -> None:
        """Check a node used as a value, and track total size and depth."""
        if type(node) in SCALARS:
            return
        size, levels = self._checked.get(identity(node), (0, 0))
        if size < 0:
            raise UnsafeCheckpoint(f"it contains {describe_node(node)} within itself, which no checkpoint needs")
        if size == 0:
            weight = 1 + _length(node)
            self._own += weight
            above, self._size = self._size, [weight, 1]
            self._depth += 1
            if self._depth > DEEPEST:
                raise UnsafeCheckpoint(f"it is nested over {DEEPEST} levels deep, which no checkpoint needs")
            self._checked[identity(node)] = (-1, 0)
            self._look(node)
            self._checked[identity(node)] = size, levels = self._size[0], self._size[1]
            self._size = above
            self._depth -= 1
        self._size[0] += size
        self._size[1] = max(self._size[1], levels + 1)
        if self._size[0] > 4 * self._own + REPEATED or self._size[1] > DEEPEST:
            raise UnsafeCheckpoint("it repeats its parts, or nests them, far more than any checkpoint does")

    def _look(self, node: Any) -> None:
        if isinstance(node, Call):
            self._call(node)
        elif isinstance(node, (list, tuple)):
            for part in node:
                self.value(part)
        elif isinstance(node, DictNode):
            self._dictionary(node)
        elif isinstance(node, SetNode):
            check_keys(node.items)
        else:
            self._named_value(node)

    def _named_value(self, node: Any) -> None:
        if dtype_named(node) is None:
            if isinstance(node, Persistent):
                tensors.storage_of(node)
            raise refuse("holds", node)

    def _dictionary(self, node: DictNode) -> None:
        check_keys(key for key, _ in node.pairs)
        for _, value in node.pairs:
            self.value(value)
        if _defines_model(node):
            self._define(node)
        for key, value in node.pairs:
            if key in _DEFINITIONS and isinstance(key, str) and value is not None and not isinstance(value, DictNode):
                raise UnsafeCheckpoint(f"its model definition is {describe_node(value)}, no dictionary")
            if key in _DEFINITIONS and isinstance(key, str) and isinstance(value, DictNode):
                self._define(value)

    def _call(self, node: Call) -> None:
        name = name_of(node.function)
        name = name or _module_named(node.function)
        if name is None:
            raise refuse("calls", node.function)
        if name in KINDS:
            check_call(node, KINDS[name], self.value)
            if _defines_model(node):
                self._define(node)
        elif name in tensors.CALLS:
            self.tensors.check(node)
        elif node.new:
            self._module(name, node)
        else:
            raise UnsafeCheckpoint(f"it calls {printable('.'.join(name), 200)}, which no checkpoint needs")

    def _module(self, name: Tuple[str, str], node: Call) -> None:
        if library_class(*name) is None:
            if name[0].startswith(("torch.", "torchvision.")):
                raise UnsafeCheckpoint(f"it makes {printable('.'.join(name), 200)}, which no checkpoint needs")
            check_named(self.source, *name)
        if node.args != () or node.items or node.pairs:
            raise refuse("puts something into", node)
        if not isinstance(node.state, DictNode):
            raise UnsafeCheckpoint(f"it makes {printable('.'.join(name), 200)} without a state, as no checkpoint does")
        module = ModuleNode(name, node)
        seen = set()
        for key, value in node.state.pairs:
            if not isinstance(key, str) or key in seen or (key.startswith("__") and key.endswith("__")):
                word = printable(repr(key), 80) if isinstance(key, str) else describe_node(key)
                raise UnsafeCheckpoint(f"it gives {name[1]:.80} the attribute {word}")
            seen.add(key)
            if key in _MODULE_PARTS:
                module.parts[key] = self._part(key, value)
            elif key in _HOOKS or (key.startswith("_") and key.endswith("_hooks")):
                tensors.no_hooks(value)
            elif key == "_compiled_call_impl":
                if value is not None:
                    raise refuse("puts, where compiled code belongs,", value)
            else:
                self._attribute(name, key, value)
                module.state.append((key, value))
        self.modules[identity(node)] = module

    def _part(self, part: str, node: Any) -> List[Tuple[str, Any]]:
        """Check and return the pairs of ``_modules``, ``_parameters`` or ``_buffers``."""
        ordered = isinstance(node, Call) and name_of(node.function) == ("collections", "OrderedDict")
        if not isinstance(node, DictNode) and not ordered:
            raise refuse(f"uses as {part}", node)
        if ordered and (node.args not in ((), ([],)) or node.state is not None or node.items or node.new):
            raise refuse(f"uses as {part}", node)
        for key, value in node.pairs:
            if not isinstance(key, str) or not key or "." in key or len(key) > 200 or printable(key) != key:
                word = printable(repr(key), 80) if isinstance(key, str) else describe_node(key)
                raise UnsafeCheckpoint(f"it names a module or tensor {word}")
            if value is not None and part == "_modules":
                if not (isinstance(value, Call) and value.new and name_of(value.function) not in KINDS):
                    raise refuse("uses as a module", value)
                self.value(value)
            elif value is not None:
                tensor = isinstance(value, Call) and name_of(value.function) in tensors.CALLS
                if not tensor or (part == "_parameters" and not self.tensors.check(value).parameter):
                    raise refuse("uses as a parameter" if part == "_parameters" else "uses as a buffer", value)
                self.value(value)
        return list(node.pairs)

    def _attribute(self, owner: Tuple[str, str], key: str, value: Any) -> None:
        if key == "detect" and forward_of(value) is not None:
            return  # its class is checked in check_classes
        if _is_activation(key, value):
            return  # its owner is checked in check_classes
        if key in _NORM_CLASSES and isinstance(value, Global):
            if not is_layer_class(library_class(*value.key)):
                raise refuse("holds", value)
            return
        if key == "type" and not (isinstance(value, str) and re.fullmatch(r"[\w.]*", value)):
            raise UnsafeCheckpoint(f"it puts {describe_node(value)} in the place of {'.'.join(owner)}.type")
        if key == "names":
            _check_names(value)
        if key in _DEFINITIONS and value is not None and not isinstance(value, DictNode):
            raise UnsafeCheckpoint(f"its model definition is {describe_node(value)}, no dictionary")
        if key in _AMPLIFIERS and owner[0].startswith("torch.nn."):
            for number in value if isinstance(value, (list, tuple)) else [value]:
                most = 16 if key == "stride" and "Transpose" in owner[1] else _AMPLIFIERS[key]
                if isinstance(number, (int, float)) and not abs(number) <= most:
                    raise UnsafeCheckpoint(f"it gives {owner[1]} the {key} {printable(number, 40)}")
        self.value(value)
        if key in _DEFINITIONS and isinstance(value, DictNode):
            self._define(value)

    def _define(self, node: Any) -> None:
        self.definitions[identity(node)] = node

    # --- with the classes

    def import_classes(self) -> None:
        """Import the classes that the tree names, which runs the checkout's own code."""
        for name in dict.fromkeys(module.name for module in self.modules.values()):
            cls = library_class(*name)
            self.classes[name] = import_class(self.source, *name) if cls is None and self.source else cls
        if self.definitions and self.source is not None:
            self._builder = import_module(self.source, "models.yolo")

    def check_classes(self) -> None:
        """Raise UnsafeCheckpoint for attributes that shadow methods, and definitions that run code."""
        for module in self.modules.values():
            cls = self.classes[module.name]
            methods = _methods(cls)
            if cls.__name__ not in _WITH_ACTIVATION and any(_is_activation(*pair) for pair in module.state):
                raise UnsafeCheckpoint(f"it gives {module.name[1]} a function as its activation")
            if issubclass(cls, nn.MultiheadAttention):
                _check_heads(dict(module.state))
            for _, child in module.parts["_modules"]:
                if child is not None and is_whole_model(self.classes[self.modules[identity(child)].name]):
                    raise UnsafeCheckpoint(f"it contains a whole model within {module.name[1]}, as no checkpoint does")
            for key, value in module.state:
                if key in methods and not (key == "type" and isinstance(value, str)):
                    raise UnsafeCheckpoint(
                        f"it puts {describe_node(value)} in the place of {'.'.join(module.name)}.{printable(key, 80)}, "
                        "which no checkpoint needs"
                    )
                owner = forward_of(value) if key == "detect" else None
                if owner is not None and all((base.__module__, base.__name__) != owner for base in cls.__mro__):
                    raise UnsafeCheckpoint(
                        f"it uses builtins.getattr on {'.'.join(owner)}, not a base of {module.name[1]}"
                    )
        if sum(self._checked.get(key, (0, 0))[0] for key in self.definitions) > 1_000_000:
            raise UnsafeCheckpoint("its model definitions have over a million parts")
        for node in self.definitions.values():
            check_definition(plain(node), self._lookup)

    def _lookup(self, name: str) -> Any:
        """Resolve a bare name as YOLOv5's ``parse_model`` does; None if undefined."""
        return getattr(self._builder, name, None)


def _check_names(node: Any) -> None:
    """Raise UnsafeCheckpoint for class names that are paths: ``--save-crop`` creates folders with these names."""
    parts = (part for pair in node.pairs for part in pair) if isinstance(node, DictNode) else node
    for name in parts if not isinstance(parts, (str, Call)) and hasattr(parts, "__iter__") else ():
        text = name.replace("\\", "/") if isinstance(name, str) else ""
        if len(text) > 1 and (text.startswith("/") or re.match("[A-Za-z]:/", text) or ".." in text.split("/")):
            raise UnsafeCheckpoint(f"it has the class name {printable(repr(name), 80)}, which is a path")


def _defines_model(node: Any) -> bool:
    """Whether a dictionary contains rows of layers, as a model definition does."""
    held = (list, tuple, str, bytes, DictNode, SetNode)
    return any(
        isinstance(key, str)
        and key in ("backbone", "head")
        and (isinstance(value, held) or (isinstance(value, Call) and name_of(value.function) in KINDS))
        for key, value in node.pairs
    )


def _length(node: Any) -> int:
    """Count the parts of a node, including scalars."""
    if isinstance(node, (list, tuple)):
        return len(node)
    if isinstance(node, (DictNode, Call)):
        args = node.args if isinstance(node, Call) and isinstance(node.args, tuple) else ()
        inside = sum(len(arg) for arg in args if isinstance(arg, (list, tuple)))
        return len(node.pairs) + (len(node.items) if isinstance(node, Call) else 0) + inside
    return len(node.items) if isinstance(node, SetNode) else 0


def _check_heads(state: Dict[str, Any]) -> None:
    """Raise UnsafeCheckpoint for attention with an invalid number of heads, by which torch divides."""
    heads, wide = state.get("num_heads"), state.get("embed_dim")
    sizes = is_int(heads, 1, 4096) and is_int(wide, 1, 1 << 20)
    if not sizes or wide % heads or state.get("head_dim") != wide // heads:  # type: ignore[operator]
        raise UnsafeCheckpoint(f"its attention has {printable(heads, 20)} heads for {printable(wide, 20)} channels")


def _is_activation(key: str, node: Any) -> bool:
    """Whether an attribute is the activation function of torch's transformer layers."""
    return key == "activation" and isinstance(node, Global) and node.key in ACTIVATIONS


def forward_of(node: Any) -> Optional[Tuple[str, str]]:
    """Return the class whose ``forward`` a node refers to, as in segmentation heads; None for other nodes."""
    if isinstance(node, Global) and node.key[1].endswith(".forward") and node.key[1].count(".") == 1:
        return node.key[0], node.key[1].split(".")[0]
    if not isinstance(node, Call) or node.new or node.state is not None or node.items or node.pairs:
        return None
    if name_of(node.function) == ("builtins", "getattr") and isinstance(node.args, tuple) and len(node.args) == 2:
        owner, attribute = node.args
        return (name_of(owner) or _module_named(owner)) if attribute == "forward" else None
    return None


def _module_named(node: Any) -> Optional[Tuple[str, str]]:
    """Return the class in a persistent id of the legacy format, which also stores its source."""
    value = node.value if isinstance(node, Persistent) else None
    if isinstance(value, tuple) and len(value) == 4 and value[0] == "module":
        return name_of(value[1])
    return None


def _check_download(node: Any) -> None:
    """Reject ``download`` in options, which YOLOv5 would execute; options do not need an inline data set."""
    for part in walk(node):
        pairs = part.pairs if isinstance(part, (DictNode, Call)) else ()
        if any(isinstance(key, str) and key == "download" for key, _ in pairs):
            raise UnsafeCheckpoint("its options contain the key 'download', which YOLOv5 would run")


@lru_cache(maxsize=4096)
def _methods(cls: type) -> FrozenSet[str]:
    """Return the names of a class's methods, descriptors and other callables."""
    found = set()
    for name in dir(cls):
        value = inspect.getattr_static(cls, name, None)
        if callable(value) or hasattr(type(value), "__get__"):
            found.add(name)
    return frozenset(found)


def plain(node: Any) -> Any:
    """Build a node of dictionaries, lists and scalars. Raises UnsafeCheckpoint for any other."""
    if type(node) in SCALARS:
        return node
    if isinstance(node, (list, tuple)):
        return type(node)(map(plain, node))
    if isinstance(node, DictNode):
        check_plain(node)
        keys = [key for key, _ in node.pairs]
        if not all(type(key) in (str, int) for key in keys):
            raise UnsafeCheckpoint("its model definition has keys that are not names")
        return {key: plain(value) for key, value in node.pairs}
    raise UnsafeCheckpoint(f"its model definition contains {describe_node(node)}")


def children(node: Any) -> Iterator[Any]:
    """Yield the nodes in a node, without scalars."""
    parts: Any = ()
    if isinstance(node, (list, tuple)):
        parts = node
    elif isinstance(node, DictNode):
        parts = chain.from_iterable(node.pairs)
    elif isinstance(node, SetNode):
        parts = node.items
    elif isinstance(node, Call):
        parts = chain((node.function, node.args, node.state), node.items, chain.from_iterable(node.pairs))
    elif isinstance(node, Persistent):
        parts = (node.value,)
    return iter([part for part in parts if type(part) not in _LEAVES])


def walk(node: Any) -> Iterator[Any]:
    """Yield a node and all nodes in it, each once."""
    seen, todo = {identity(node)}, [node]
    while todo:
        one = todo.pop()
        yield one
        for part in children(one):
            if identity(part) not in seen:
                seen.add(identity(part))
                todo.append(part)
