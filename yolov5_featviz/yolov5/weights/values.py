"""Plain values that a checkpoint may contain besides modules: checks and builders.

Each kind of call has a function that checks the node's arguments without running anything, and one that
builds the value from checked arguments. Type details in the stream (a dtype's flags, an array's strides)
are compared with what numpy would write, and never used.
"""

from __future__ import annotations

import argparse
import datetime
import re
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterable, NamedTuple, Optional, Tuple

import numpy as np
import torch

from yolov5_featviz.errors import UnsafeCheckpoint
from yolov5_featviz.yolov5.weights.parse import Call, DictNode, Global, SetNode, describe_node

SCALARS = (type(None), bool, int, float, str, bytes)
LARGEST_RANGE = 1_000_000
_FACTORIES: Dict[Tuple[str, str], Any] = {
    ("builtins", cls.__name__): cls for cls in (list, dict, set, int, float, str, tuple)
}


class Kind(NamedTuple):
    """Kind of call.

    Attributes:
        check: called with the node and a function that checks a child as a value; raises UnsafeCheckpoint.
        build: called with the node and a function that builds a child.
        new: whether it is created without a constructor (NEWOBJ).
        takes: which of ``state``, ``items`` and ``pairs`` it accepts besides arguments.
    """

    check: Callable[[Call, Callable[[Any], None]], None]
    build: Callable[[Call, Callable[[Any], Any]], Any]
    new: bool = False
    takes: Tuple[str, ...] = ()


def refuse(what: str, node: Any) -> UnsafeCheckpoint:
    return UnsafeCheckpoint(f"it {what} {describe_node(node)}, which no checkpoint needs")


def name_of(node: Any) -> Optional[Tuple[str, str]]:
    """Return module and name of a Global; None for other nodes."""
    return node.key if isinstance(node, Global) else None


def dtype_named(node: Any) -> Optional[torch.dtype]:
    """Return the torch dtype that a Global names, if any."""
    if isinstance(node, Global) and node.key[0] == "torch":
        found = vars(torch).get(node.key[1])
        if isinstance(found, torch.dtype):
            return found
    return None


def bytes_of(node: Any) -> Optional[bytes]:
    """Return bytes, also as written by protocol 2 (``_codecs.encode`` of a string); None for other nodes."""
    if isinstance(node, bytes):
        return node
    if isinstance(node, Call) and name_of(node.function) == ("builtins", "bytes") and node.args == () and not node.new:
        return b""  # empty bytes in protocol 2
    if isinstance(node, Call) and name_of(node.function) == ("_codecs", "encode") and not node.new:
        args = node.args
        if isinstance(args, tuple) and len(args) == 2 and args[1] in ("latin1", "latin-1") and isinstance(args[0], str):
            try:
                return args[0].encode("latin-1")
            except UnicodeEncodeError:
                return None
    return None


def is_int(node: Any, low: int = 0, high: int = 1 << 62) -> bool:
    return type(node) is int and low <= node <= high


def int_tuple(node: Any, longest: int = 64) -> bool:
    return isinstance(node, (tuple, list)) and len(node) <= longest and all(is_int(n) for n in node)


def _args(node: Call, what: bool) -> None:
    if not what:
        raise refuse("calls, with arguments of another kind,", node.function)


# --- containers


def _check_sequence(node: Call, check: Callable[[Any], None]) -> None:
    args = node.args
    _args(node, args == () or (len(args) == 1 and isinstance(args[0], (list, tuple, SetNode))))
    check_keys(_sequence(node))


def _sequence(node: Call) -> Any:
    items = node.args[0] if node.args else ()
    return items.items if isinstance(items, SetNode) else items


def check_keys(nodes: Iterable[Any]) -> None:
    """Raise UnsafeCheckpoint unless nodes can be keys of a dictionary, or elements of a set.

    Hashes of text and bytes are randomised. The number of other keys is limited, since many equal hashes
    would take quadratic time.
    """
    others = 0
    for node in nodes:
        check_key(node)
        others += not (isinstance(node, (str, bytes)) or (type(node) is int and abs(node) < 1 << 60))
        if others > 1000:
            raise UnsafeCheckpoint("it has a dictionary or set of over 1,000 keys that are neither text nor numbers")


def check_key(node: Any, levels: int = 2) -> None:
    """Raise UnsafeCheckpoint unless a node can be a key."""
    if isinstance(node, tuple) and levels and len(node) <= 16:
        for part in node:
            check_key(part, levels - 1)
    elif isinstance(node, Call) and name_of(node.function) in _PATHS:
        _check_path(node, check_key)
    elif type(node) not in SCALARS:
        raise refuse("uses as a key", node)


def _check_ordered(node: Call, check: Callable[[Any], None]) -> None:
    pairs = node.args[0] if node.args else []
    _args(node, len(node.args) <= 1 and isinstance(pairs, (list, tuple)) and not pairs)
    state = node.state
    if state is not None:  # version numbers of a state dict
        keys = [key for key, _ in state.pairs] if isinstance(state, DictNode) else [None]
        if keys not in ([], ["_metadata"]):
            raise refuse("sets the state of", node)
        check(state)


def _build_ordered(node: Call, build: Callable[[Any], Any]) -> Any:
    made: Any = OrderedDict()
    if isinstance(node.state, DictNode) and node.state.pairs:
        made._metadata = build(node.state)["_metadata"]
    return made


def _check_counter(node: Call, check: Callable[[Any], None]) -> None:
    _args(node, len(node.args) <= 1 and all(isinstance(arg, DictNode) for arg in node.args))
    for arg in node.args:
        check(arg)


def _check_default(node: Call, check: Callable[[Any], None]) -> None:
    factory = node.args[0] if node.args else None
    known = factory is None or (isinstance(factory, Global) and factory.key in _FACTORIES)
    if not known:
        raise refuse("calls", factory)
    _args(node, len(node.args) <= 1)


def _build_default(node: Call, build: Callable[[Any], Any]) -> Any:
    factory = node.args[0] if node.args else None
    return defaultdict(_FACTORIES[factory.key] if isinstance(factory, Global) else None)


def _check_deque(node: Call, check: Callable[[Any], None]) -> None:
    longest = node.args[1] if len(node.args) > 1 else None
    _args(node, len(node.args) <= 2 and (longest is None or is_int(longest)))
    items = node.args[0] if node.args else []
    _args(node, isinstance(items, (list, tuple)))
    for item in items:
        check(item)


def _build_deque(node: Call, build: Callable[[Any], Any]) -> Any:
    items = [build(item) for item in (node.args[0] if node.args else ())]
    return deque(items, node.args[1] if len(node.args) > 1 else None)


def _check_namespace(node: Call, check: Callable[[Any], None]) -> None:
    _args(node, node.args == ())
    if node.state is not None and not isinstance(node.state, DictNode):
        raise refuse("sets the state of", node)
    if node.state is not None:
        check(node.state)
        check_plain(node.state)
    for key, _ in node.state.pairs if node.state is not None else ():
        if not isinstance(key, str) or key.startswith("__") or hasattr(argparse.Namespace, key):
            raise UnsafeCheckpoint(f"it gives {describe_node(node.function)} the attribute {key!r:.80}")


def check_plain(node: Any) -> None:
    """Raise UnsafeCheckpoint unless a node consists of scalars and containers, without callables."""
    if isinstance(node, (list, tuple, SetNode)):
        for part in node.items if isinstance(node, SetNode) else node:
            check_plain(part)
    elif isinstance(node, DictNode):
        if not node.plain:  # not yet checked within another
            for _, value in node.pairs:
                check_plain(value)
            node.plain = True
    elif isinstance(node, Call):
        if name_of(node.function) not in _PLAIN_CALLS:
            raise refuse("puts, where only plain values belong,", node)
        inside = node.args if name_of(node.function)[:1] == ("collections",) else ()  # type: ignore[index]
        for part in (*inside, *node.items, *(part for pair in node.pairs for part in pair)):
            check_plain(part)
        if name_of(node.function) in _NAMESPACES and isinstance(node.state, DictNode):
            check_plain(node.state)
    elif type(node) not in SCALARS:
        raise refuse("puts, where only plain values belong,", node)


def _build_namespace(cls: Any) -> Callable[[Call, Callable[[Any], Any]], Any]:
    def made(node: Call, build: Callable[[Any], Any]) -> Any:
        return cls(**(build(node.state) if node.state is not None else {}))

    return made


# --- scalars with a constructor


def _numbers(n: int, kinds: Tuple[type, ...] = (int, float)) -> Callable[[Call, Callable[[Any], None]], None]:
    def check(node: Call, _: Callable[[Any], None]) -> None:
        _args(node, 1 <= len(node.args) <= n and all(type(arg) in (*kinds, type(None)) for arg in node.args))

    return check


def _check_range(node: Call, check: Callable[[Any], None]) -> None:
    whole = 1 <= len(node.args) <= 3 and all(is_int(arg, -(1 << 40), 1 << 40) for arg in node.args)
    _args(node, whole and (len(node.args) < 3 or node.args[2] != 0))
    _args(node, len(range(*node.args)) <= LARGEST_RANGE)


def _check_bytes(node: Call, check: Callable[[Any], None]) -> None:
    args = node.args
    whole = args == () or (len(args) == 1 and bytes_of(args[0]) is not None)
    encoded = len(args) == 2 and bytes_of(Call(Global("_codecs", "encode"), args, False)) is not None
    _args(node, whole or encoded)


def _bytes_in(node: Call) -> bytes:
    if len(node.args) == 2:
        return bytes(str(node.args[0]), "latin-1")
    return (bytes_of(node.args[0]) if node.args else b"") or b""


def _check_encode(node: Call, check: Callable[[Any], None]) -> None:
    if bytes_of(node) is None:
        raise refuse("calls", node.function)


def _check_time(node: Call, check: Callable[[Any], None]) -> None:
    args = node.args
    first = len(args) in (1, 2) and bytes_of(args[0]) is not None and len(bytes_of(args[0]) or b"") in (4, 6, 10)
    rest = args[1:] if first else args
    zones = [part for part in rest if isinstance(part, Call)]
    _args(node, len(args) <= 8 and all(is_int(part, -(1 << 33), 1 << 33) for part in rest if part not in zones))
    for zone in zones:
        _args(node, name_of(zone.function) in (("datetime", "timezone"), ("datetime", "timedelta")))
        check(zone)


def _build_time(cls: Any) -> Callable[[Call, Callable[[Any], Any]], Any]:
    def made(node: Call, build: Callable[[Any], Any]) -> Any:
        first = bytes_of(node.args[0]) if node.args else None
        if first is None:
            return cls(*map(build, node.args))
        return cls(first, *map(build, node.args[1:]))

    return made


def _check_path(node: Call, check: Callable[[Any], None]) -> None:
    _args(node, all(isinstance(arg, str) for arg in node.args))


def _check_size(node: Call, check: Callable[[Any], None]) -> None:
    _args(node, len(node.args) == 1 and int_tuple(node.args[0]))


def _check_device(node: Call, check: Callable[[Any], None]) -> None:
    kind = node.args[0] if node.args else None
    known = isinstance(kind, str) and re.fullmatch(r"[a-z]{1,20}(:\d{1,3})?", kind)
    _args(node, bool(known) and (len(node.args) == 1 or (len(node.args) == 2 and is_int(node.args[1], 0, 999))))


# --- numpy: dtypes are read, never restored

_CODE = re.compile(r"[?]|b1|[biu][1248]|f[248]|c(8|16)|[SU]\d{1,6}|O8?")


def _dtype(node: Any) -> np.dtype:
    """Return a node's dtype. Raises UnsafeCheckpoint unless it is of numbers, text or objects."""
    known = isinstance(node, Call) and name_of(node.function) == ("numpy", "dtype") and isinstance(node.args, tuple)
    if not known or node.new or node.items or node.pairs or not 1 <= len(node.args) <= 3:
        raise refuse("uses as an array's type", node)
    code, flags = node.args[0], node.args[1:]
    if not isinstance(code, str) or not _CODE.fullmatch(code) or any(type(flag) not in (bool, int) for flag in flags):
        raise UnsafeCheckpoint(f"it uses an array's type {code!r:.40}, which no checkpoint needs")
    state = node.state
    if state is None:
        return np.dtype(code)
    if not isinstance(state, tuple) or len(state) != 8 or state[0] != 3 or state[1] not in ("<", ">", "|", "="):
        raise UnsafeCheckpoint(f"it gives the array's type {code} a state of its own, which no checkpoint needs")
    expected = np.dtype(code if state[1] == "|" else state[1] + code)
    if any(type(part) not in (int, str, type(None)) for part in state) or tuple(state[2:]) != _written(expected)[2:]:
        raise UnsafeCheckpoint(f"it gives the array's type {code} a state of its own, which no checkpoint needs")
    return expected


def _written(dtype: np.dtype) -> Tuple[Any, ...]:
    """Return the state that numpy writes for a dtype, in version 3."""
    if dtype.kind in "SU":
        return (3, dtype.byteorder, None, None, None, dtype.itemsize, 4 if dtype.kind == "U" else 1, dtype_flags(dtype))
    return (3, dtype.byteorder, None, None, None, -1, -1, dtype_flags(dtype))


def dtype_flags(dtype: np.dtype) -> int:
    return {"U": 8, "O": 63}.get(dtype.kind, 0)


def _check_scalar(node: Call, check: Callable[[Any], None]) -> None:
    _args(node, len(node.args) == 2)
    dtype, data = _dtype(node.args[0]), bytes_of(node.args[1])
    _args(node, dtype.kind != "O" and data is not None and len(data) == dtype.itemsize)


def _build_scalar(node: Call, build: Callable[[Any], Any]) -> Any:
    return np.frombuffer(bytes_of(node.args[1]) or b"", _dtype(node.args[0]))[0]


def _check_dtype(node: Call, check: Callable[[Any], None]) -> None:
    _dtype(node)


def _check_array(node: Call, check: Callable[[Any], None]) -> None:
    args, state = node.args, node.state
    if len(args) != 3 or name_of(args[0]) != ("numpy", "ndarray"):
        raise refuse("makes", args[0] if args else None)
    _args(node, int_tuple(args[1]) and len(bytes_of(args[2]) or b"") == 1)
    version = isinstance(state, tuple) and len(state) == 5 and state[0] == 1 and type(state[3]) in (bool, int)
    if not version or not int_tuple(state[1], 32):
        raise refuse("sets the state of", node)
    dtype, data = _dtype(state[2]), state[4]
    count = 1
    for side in state[1]:
        count *= side
    if dtype.kind == "O":
        whole = isinstance(data, list) and len(data) == count
        for item in data if whole else ():
            check_plain(item)
            check(item)
    else:
        whole = bytes_of(data) is not None and len(bytes_of(data) or b"") == count * dtype.itemsize
    if not whole:
        raise refuse("sets the state of", node)


def _check_buffer(node: Call, check: Callable[[Any], None]) -> None:
    args = node.args
    _args(node, len(args) == 4 and int_tuple(args[2], 32) and args[3] in ("C", "F"))
    dtype, data, count = _dtype(args[1]), bytes_of(args[0]), 1
    for side in args[2]:
        count *= side
    _args(node, dtype.kind != "O" and data is not None and len(data) == count * dtype.itemsize)


def _build_buffer(node: Call, build: Callable[[Any], Any]) -> Any:
    data, dtype, shape, order = node.args
    return np.frombuffer(bytes_of(data) or b"", _dtype(dtype)).copy().reshape(shape, order=order)


def _build_array(node: Call, build: Callable[[Any], Any]) -> Any:
    _, shape, dtype, fortran, data = node.state
    kind, order = _dtype(dtype), "F" if fortran else "C"
    if kind.kind == "O":
        flat = np.empty(len(data), dtype=object)
        for i, item in enumerate(data):
            flat[i] = build(item)
    else:
        flat = np.frombuffer(bytes_of(data) or b"", kind).copy()
    return flat.reshape(shape, order=order)  # type: ignore[call-overload]


# --- the table

_PATHS = {
    (module, name): PureWindowsPath if "Windows" in name else PurePosixPath
    for module in ("pathlib", "pathlib._local")
    for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
}
_NAMESPACES: Dict[Tuple[str, str], Any] = {
    ("argparse", "Namespace"): argparse.Namespace,
    ("types", "SimpleNamespace"): SimpleNamespace,
}


def _simple(make: Any, check: Callable[[Call, Callable[[Any], None]], None]) -> Kind:
    return Kind(check, lambda node, build: make(*map(build, node.args)))


KINDS: Dict[Tuple[str, str], Kind] = {
    ("builtins", "set"): Kind(_check_sequence, lambda node, build: {build(item) for item in _sequence(node)}),
    ("builtins", "frozenset"): Kind(
        _check_sequence, lambda node, build: frozenset(build(item) for item in _sequence(node))
    ),
    ("builtins", "complex"): _simple(complex, _numbers(2)),
    ("builtins", "slice"): _simple(slice, _numbers(3)),
    ("builtins", "range"): _simple(range, _check_range),
    ("builtins", "bytes"): Kind(_check_bytes, lambda node, build: _bytes_in(node)),
    ("builtins", "bytearray"): Kind(_check_bytes, lambda node, build: bytearray(_bytes_in(node))),
    ("_codecs", "encode"): Kind(_check_encode, lambda node, build: bytes_of(node)),
    ("collections", "OrderedDict"): Kind(_check_ordered, _build_ordered, takes=("state", "pairs")),
    ("collections", "Counter"): Kind(
        _check_counter, lambda node, build: Counter(*map(build, node.args)), takes=("pairs",)
    ),
    ("collections", "defaultdict"): Kind(_check_default, _build_default, takes=("pairs",)),
    ("collections", "deque"): Kind(_check_deque, _build_deque, takes=("items",)),
    **{
        ("datetime", name): Kind(_check_time, _build_time(getattr(datetime, name)))
        for name in ("datetime", "date", "time", "timedelta", "timezone")
    },
    **{
        name: Kind(_check_namespace, _build_namespace(cls), new=cls is argparse.Namespace, takes=("state",))
        for name, cls in _NAMESPACES.items()
    },
    **{name: _simple(cls, _check_path) for name, cls in _PATHS.items()},
    ("torch", "Size"): _simple(torch.Size, _check_size),
    ("torch", "device"): _simple(torch.device, _check_device),
    ("numpy", "dtype"): Kind(_check_dtype, lambda node, build: _dtype(node), takes=("state",)),
    **{
        (module, "_frombuffer"): Kind(_check_buffer, _build_buffer)  # arrays in protocol 5
        for module in ("numpy.core.numeric", "numpy._core.numeric")
    },
    **{
        (module, name): kind
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name, kind in (
            ("scalar", Kind(_check_scalar, _build_scalar)),
            ("_reconstruct", Kind(_check_array, _build_array, takes=("state",))),
        )
    },
}

_PLAIN_CALLS = {name for name in KINDS if name not in (("collections", "defaultdict"), ("torch", "Size"))}


def check_call(node: Call, kind: Kind, check: Callable[[Any], None]) -> None:
    """Check a call of one of :data:`KINDS`, with its state, items and pairs."""
    if node.new != kind.new or not isinstance(node.args, tuple):
        raise refuse("makes" if node.new else "calls", node.function)
    held = {"state": node.state is not None, "items": node.items, "pairs": node.pairs}
    if any(there and name not in kind.takes for name, there in held.items()):
        raise refuse("puts something into", node)
    kind.check(node, check)
    for item in node.items:
        check(item)
    check_keys(key for key, _ in node.pairs)
    for _, value in node.pairs:
        check(value)
