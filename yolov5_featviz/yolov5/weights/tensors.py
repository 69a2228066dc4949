"""Check the calls with which torch rebuilds tensors, against the storages in the file."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Dict, List, NamedTuple, Tuple

import torch

from yolov5_featviz.errors import UnsafeCheckpoint
from yolov5_featviz.yolov5.weights.parse import Call, DictNode, Persistent, describe_node, identity
from yolov5_featviz.yolov5.weights.values import check_plain, dtype_named, int_tuple, is_int, name_of, refuse

EXPANDED = 1 << 24  # elements that all views may have in total beyond the file's storages
_TYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
_UTILS = "torch._utils"
_VIEWS = {(_UTILS, "_rebuild_tensor"), (_UTILS, "_rebuild_tensor_v2"), (_UTILS, "_rebuild_tensor_v3")}
_PARAMETERS = {(_UTILS, "_rebuild_parameter"), (_UTILS, "_rebuild_parameter_with_state")}
_TYPED = ("torch._tensor", "_rebuild_from_type_v2")
CALLS = _VIEWS | _PARAMETERS | {_TYPED}


class StorageKey(NamedTuple):
    """Storage in the file.

    Attributes:
        key: its name in the file.
        dtype: dtype of its elements.
        length: number of elements.
        location: original device, such as ``cuda:0``.
    """

    key: str
    dtype: torch.dtype
    length: int
    location: str


class View(NamedTuple):
    """Tensor as a view of a storage."""

    storage: StorageKey
    dtype: torch.dtype
    offset: int
    size: Tuple[int, ...]
    stride: Tuple[int, ...]
    requires_grad: bool
    parameter: bool


def storage_of(node: Any) -> StorageKey:
    """Return the storage that a persistent id refers to.

    Raises:
        UnsafeCheckpoint: it does not refer to a storage.
    """
    value = node.value if isinstance(node, Persistent) else None
    if not isinstance(value, tuple) or len(value) not in (5, 6) or value[0] != "storage":
        raise refuse("uses as a storage", node)
    _, kind, key, location, count, *view = value
    module, name = name_of(kind) or ("", "")
    wanted = _TYPES.get(name) if module in ("torch", "torch.cuda", "torch.storage") else None
    dtype = getattr(torch, wanted, None) if wanted else None
    if dtype is None:
        raise refuse("uses as a storage's type", kind)
    if not isinstance(key, str) or not isinstance(location, str) or not is_int(count) or len(location) > 40:
        raise UnsafeCheckpoint("it names a storage in a way that no checkpoint does")
    if view and view[0] is not None:
        raise UnsafeCheckpoint("it uses a view of a storage, as no torch since 0.4 writes it")
    return StorageKey(key, dtype, count, location)


class Tensors:
    """Checker of tensors that collects their views and storages.

    Attributes:
        views: view of each checked call, by the node's :func:`identity`.
        storages: all storages by key.
    """

    def __init__(self) -> None:
        self.views: Dict[int, View] = {}
        self.storages: Dict[str, StorageKey] = {}
        self._elements = 0
        self._inner: List[Call] = []  # keeps nodes alive, since views are stored by identity

    def check(self, node: Call) -> View:
        """Check a call of one of :data:`CALLS` and return its view."""
        if identity(node) in self.views:
            return self.views[identity(node)]
        if node.new or node.items or node.pairs or not isinstance(node.args, tuple) or node.state is not None:
            raise refuse("puts something into", node)
        name = name_of(node.function)
        if name == _TYPED:
            view = self._typed(node)
        elif name in _PARAMETERS:
            view = self._parameter(node)
        else:
            view = self._view(node, name == (_UTILS, "_rebuild_tensor_v3"))
        self.views[identity(node)] = view
        return view

    def finish(self) -> None:
        """Raise UnsafeCheckpoint if the views in total are far larger than the storages."""
        held = sum(storage.length for storage in self.storages.values())
        if self._elements > 4 * held + EXPANDED:
            raise UnsafeCheckpoint(f"its tensors have {self._elements:,} elements over storages of {held:,}")

    def _view(self, node: Call, third: bool) -> View:
        args: List[Any] = list(node.args)
        if not (4 <= len(args) <= 8):
            raise refuse("calls, with arguments of another kind,", node.function)
        storage = storage_of(args[0])
        offset, size, stride = args[1], _plain_size(args[2]), _plain_size(args[3])
        grad, hooks = (args[4] if len(args) > 4 else False), (args[5] if len(args) > 5 else None)
        no_hooks(hooks)
        dtype = storage.dtype
        rest = args[6:]
        if third:
            named = dtype_named(rest[0]) if rest else None
            if named is None or storage.dtype != torch.uint8:
                raise refuse("calls, with arguments of another kind,", node.function)
            dtype, rest = named, rest[1:]
        for extra in rest:
            if extra is not None and not (isinstance(extra, DictNode) and not extra.pairs):
                raise UnsafeCheckpoint("it gives a tensor metadata, which no checkpoint needs")
        whole = is_int(offset) and int_tuple(size) and int_tuple(stride) and len(size) == len(stride)
        if not whole or type(grad) is not bool:
            raise refuse("calls, with arguments of another kind,", node.function)
        count = 1
        for side in size:
            count *= side
        wide = width(dtype) if third else 1
        last = offset + sum((side - 1) * step for side, step in zip(size, stride)) if count else offset - 1
        if (last + 1) * wide > storage.length:
            raise UnsafeCheckpoint(f"a tensor of {list(size)} reaches beyond its storage of {storage.length} elements")
        other = self.storages.setdefault(storage.key, storage)
        if (other.dtype, other.length) != (storage.dtype, storage.length):
            raise UnsafeCheckpoint(f"the storage {storage.key!r:.40} is declared twice, differently")
        self._elements += count
        return View(storage, dtype, offset, tuple(size), tuple(stride), grad, False)

    def _parameter(self, node: Call) -> View:
        args = node.args
        if len(args) not in (3, 4) or type(args[1]) is not bool or not isinstance(args[0], Call):
            raise refuse("calls, with arguments of another kind,", node.function)
        no_hooks(args[2])
        if len(args) == 4 and args[3] is not None and (not isinstance(args[3], DictNode) or args[3].pairs):
            raise UnsafeCheckpoint("it gives a parameter attributes of its own, which no checkpoint needs")
        if name_of(args[0].function) not in _VIEWS:
            raise refuse("makes a parameter of", args[0])
        return self.check(args[0])._replace(requires_grad=args[1], parameter=True)

    def _typed(self, node: Call) -> View:
        args = node.args
        if len(args) != 4 or name_of(args[0]) not in _VIEWS | _PARAMETERS or not isinstance(args[2], tuple):
            raise refuse("makes", args[1] if len(args) > 1 else None)
        if name_of(args[1]) not in (("torch", "Tensor"), ("torch.nn.parameter", "Parameter")):
            raise refuse("makes", args[1])
        check_plain(args[3])
        self._inner.append(Call(args[0], args[2], False))
        view = self.check(self._inner[-1])
        return view._replace(parameter=view.parameter or name_of(args[1]) != ("torch", "Tensor"))


def _plain_size(node: Any) -> Any:
    """Return a size written as ``torch.Size`` or as a tuple, as a tuple."""
    if isinstance(node, Call) and name_of(node.function) == ("torch", "Size") and not node.new:
        return node.args[0] if isinstance(node.args, tuple) and len(node.args) == 1 else None
    return node


def no_hooks(node: Any) -> None:
    """Raise UnsafeCheckpoint unless a node is an empty dictionary, or None."""
    empty = node is None or (isinstance(node, DictNode) and not node.pairs)
    if isinstance(node, Call) and name_of(node.function) == ("collections", "OrderedDict") and not node.new:
        empty = node.args in ((), ([],)) and not node.pairs and not node.items and node.state is None
    if not empty:
        inside = node.pairs[0][1] if isinstance(node, (Call, DictNode)) and node.pairs else node
        raise UnsafeCheckpoint(
            f"it attaches {describe_node(inside)} to a tensor or module as a hook, which no checkpoint needs"
        )


@lru_cache(maxsize=None)
def width(dtype: torch.dtype) -> int:
    """Return the bytes per element."""
    return torch.empty((), dtype=dtype).element_size()


def rebuild(view: View, base: torch.Tensor) -> torch.Tensor:
    """Create the view of the storage of ``base``, which contains all of its elements."""
    tensor = torch.empty((0,), dtype=view.dtype, device=base.device)
    tensor.set_(storage_under(base), view.offset, view.size, view.stride)
    if view.parameter:
        return torch.nn.Parameter(tensor, view.requires_grad)
    return tensor.requires_grad_(view.requires_grad) if view.requires_grad else tensor


def storage_under(tensor: Any) -> Any:
    """Return a tensor's storage in the type that this torch version's ``set_`` accepts."""
    return tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()
