"""A pickle reader that calls nothing but what a YOLOv5 checkpoint needs.

A pickle is a program: it names functions and has them called. Here it may name what a checkpoint
consists of (modules, tensors, containers, paths, numpy scalars), and have even less called: values
are rebuilt by a handful of known functions, and a module is made without its constructor and then
given its state. Anything else ends the reading at once.

``pickle`` in C decides for itself what to call, so this stands on its twin in Python, the class on
which torch's own ``weights_only`` reader is modelled too. That reader is no help here: it knows no
``nn.Module``, which is what a YOLOv5 checkpoint holds, and torch has it only since 1.13.
"""

from __future__ import annotations

import _codecs
import _compat_pickle
import copyreg
import datetime
import pickle
import sys
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import PurePosixPath, PureWindowsPath
from types import ModuleType, SimpleNamespace
from typing import Any, Callable, ClassVar, Dict, Optional

import numpy as np
import torch
from torch import nn

from yolov5_featviz.errors import UnsafeCheckpoint
from yolov5_featviz.yolov5.modules import find_module_class, is_module_class
from yolov5_featviz.yolov5.source import Source

# What may be named, by module. To be named is not to be called: see _CALLS.
_NAMES: Dict[str, str] = {
    "builtins": "set frozenset dict list tuple int float complex bool str bytes bytearray slice range object",
    "collections": "OrderedDict defaultdict Counter deque",
    "copyreg": "_reconstructor",
    "_codecs": "encode",
    "datetime": "datetime date time timedelta timezone",
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    "torch": "Size device Tensor",
    "torch._utils": "_rebuild_tensor _rebuild_tensor_v2 _rebuild_parameter _rebuild_parameter_with_state",
    "torch._tensor": "_rebuild_from_type_v2",
    "torch.nn.parameter": "Parameter",
    "torch.storage": "TypedStorage UntypedStorage _TypedStorage _UntypedStorage",
    "numpy": "dtype ndarray",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
}

# Rebuilt as the pure path of the same flavour, so that a checkpoint from Windows opens on Linux.
_PATHS = {
    "Path": PurePosixPath,
    "PosixPath": PurePosixPath,
    "PurePath": PurePosixPath,
    "PurePosixPath": PurePosixPath,
    "WindowsPath": PureWindowsPath,
    "PureWindowsPath": PureWindowsPath,
}

_CONTAINERS = (OrderedDict, defaultdict, Counter, Namespace, SimpleNamespace)

_numpy_core: Any = getattr(np, "_core", None) or np.core
_Reader: Any = pickle._Unpickler


def pickle_module(source: Optional[Source]) -> ModuleType:
    """A stand-in for the ``pickle`` module, for ``torch.load(pickle_module=...)``.

    Its readers raise :class:`UnsafeCheckpoint` at the first thing outside the allow-list. Module
    classes of ``source`` are inside it.
    """

    class Unpickler(SafeUnpickler):
        def find_class(self, module: str, name: str) -> Any:
            if self.proto < 3:  # whose names are those of Python 2
                renamed = _compat_pickle.IMPORT_MAPPING.get(module, module), name
                module, name = _compat_pickle.NAME_MAPPING.get((module, name), renamed)
            return find_global(source, module, name)

    module = ModuleType("yolov5_featviz_pickle")
    vars(module).update(Unpickler=Unpickler, load=lambda file, **options: Unpickler(file, **options).load())
    return module


def find_global(source: Optional[Source], module: str, name: str) -> Any:
    """Look a name of the stream up, if it is on the allow-list."""
    if (module, name) == ("builtins", "getattr"):
        return _attribute
    if module in ("pathlib", "pathlib._local") and name in _PATHS:
        return _PATHS[name]
    if name in _NAMES.get(module, "").split():
        found = getattr(_numpy_core.multiarray if module.startswith("numpy.") else sys.modules.get(module), name, None)
        if found is None:
            raise UnsafeCheckpoint(f"it needs {module}.{name}, which torch {torch.__version__} does not have")
        return found
    # What follows is taken from modules that are imported already: to import is to run.
    found = getattr(sys.modules.get(module), name, None) if "." not in name else None
    storage = name.endswith("Storage") and isinstance(found, type)
    if (module == "torch" and isinstance(found, torch.dtype)) or (module in ("torch", "torch.cuda") and storage):
        return found
    if module == "numpy" and isinstance(found, type) and issubclass(found, np.generic):
        return found
    if module.startswith(("torch.nn.", "torchvision.")) and is_module_class(found):
        return found
    return find_module_class(source, module, name)


class SafeUnpickler(_Reader):  # type: ignore[misc]
    """Python's own reader, with every opcode that could call something under guard."""

    dispatch: ClassVar[Dict[int, Callable[..., None]]] = dict(_Reader.dispatch)

    def get_extension(self, code: int) -> None:
        raise UnsafeCheckpoint(f"it uses pickle extension {code}, which no checkpoint needs")

    def _instantiate(self, cls: Any, args: Any) -> None:  # the opcodes INST and OBJ of protocols 0 and 1
        self.append(_call(cls, tuple(args)) if args else _new(cls, ()))

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = _call(self.stack[-1], args)

    def _newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = _new(self.stack[-1], args)

    def _newobj_ex(self) -> None:
        raise UnsafeCheckpoint("it makes objects with keyword arguments, which no checkpoint needs")

    def _build(self) -> None:
        state = self.stack.pop()
        _set_state(self.stack[-1], state)

    def _append(self) -> None:
        value = self.stack.pop()
        _into(self.stack[-1], list, deque).append(value)

    def _appends(self) -> None:
        values = self.pop_mark()
        _into(self.stack[-1], list, deque).extend(values)

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _into(self.stack[-1], dict)[key] = value

    def _setitems(self) -> None:
        items = self.pop_mark()
        target = _into(self.stack[-1], dict)
        for key, value in zip(items[::2], items[1::2]):
            target[key] = value

    def _additems(self) -> None:
        values = self.pop_mark()
        _into(self.stack[-1], set).update(values)

    dispatch[pickle.REDUCE[0]] = _reduce
    dispatch[pickle.NEWOBJ[0]] = _newobj
    dispatch[pickle.NEWOBJ_EX[0]] = _newobj_ex
    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.APPEND[0]] = _append
    dispatch[pickle.APPENDS[0]] = _appends
    dispatch[pickle.SETITEM[0]] = _setitem
    dispatch[pickle.SETITEMS[0]] = _setitems
    dispatch[pickle.ADDITEMS[0]] = _additems


def _word(thing: Any) -> str:
    """How to name a thing in a refusal."""
    name = getattr(thing, "__qualname__", None)
    return f"{getattr(thing, '__module__', '')}.{name}".lstrip(".") if name else f"a {type(thing).__name__}"


def _refusal(what: str, thing: Any) -> UnsafeCheckpoint:
    return UnsafeCheckpoint(f"it {what} {_word(thing)}, which no checkpoint needs")


def _into(target: Any, *kinds: type) -> Any:
    if not isinstance(target, kinds):
        raise _refusal("puts items into", target)
    return target


def _attribute(owner: Any, name: Any) -> Any:
    """``getattr`` for the one use that a checkpoint has for it: Segment keeps ``Detect.forward``."""
    if is_module_class(owner) and name == "forward":
        return owner.forward
    raise UnsafeCheckpoint("it uses builtins.getattr, with which it could reach anything")


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes, as protocol 2 writes them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _refusal("calls", _codecs.encode)
    return text.encode("latin1")


def _reconstructor(cls: Any, base: Any, state: Any) -> Any:
    """A bare object, as protocols 0 and 1 write it."""
    if base is not object or state is not None:
        raise _refusal("makes", cls)
    return _new(cls, ())


def _defaultdict(factory: Any = None, *items: Any) -> Any:
    if factory not in (None, list, dict, set, int, float, str, tuple, bool):
        raise _refusal("calls", factory)
    return defaultdict(factory, *items)


def _array(cls: Any, *args: Any) -> Any:
    if cls is not np.ndarray:
        raise _refusal("makes", cls)
    return _numpy_core.multiarray._reconstruct(cls, *args)


def _tensor(rebuild: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*args: Any) -> Any:
        if any(isinstance(arg, OrderedDict) and arg for arg in args):
            raise UnsafeCheckpoint("it hangs a backward hook on a tensor, which no checkpoint needs")
        return rebuild(*args)

    return checked


def _typed_tensor(rebuild: Any, cls: Any, args: Any, state: Any = None) -> Any:
    if cls not in (torch.Tensor, nn.Parameter) or rebuild not in _TENSORS:
        raise _refusal("makes", cls)
    value = _call(rebuild, args)
    return value if isinstance(value, cls) else value.as_subclass(cls)


_PLAIN = (set, frozenset, complex, bytes, bytearray, slice, range)  # what has no opcode of its own
_VALUES = (OrderedDict, Counter, deque, torch.Size, torch.device, np.dtype, _numpy_core.multiarray.scalar)
_TENSORS = [getattr(torch._utils, name, None) for name in _NAMES["torch._utils"].split()]

# What may be called, and what is called in its place.
_CALLS: Dict[Any, Callable[..., Any]] = {
    **{known: known for known in (*_PLAIN, *_VALUES, PurePosixPath, PureWindowsPath)},
    **{known: known for known in (getattr(datetime, name) for name in _NAMES["datetime"].split())},
    **{rebuild: _tensor(rebuild) for rebuild in _TENSORS if rebuild is not None},
    getattr(sys.modules.get("torch._tensor"), "_rebuild_from_type_v2", object()): _typed_tensor,
    _numpy_core.multiarray._reconstruct: _array,
    copyreg._reconstructor: _reconstructor,  # type: ignore[attr-defined]
    _codecs.encode: _encode,
    _attribute: _attribute,
    defaultdict: _defaultdict,
}


def _call(function: Any, args: Any) -> Any:
    try:
        known = _CALLS.get(function)
    except TypeError:  # what cannot be hashed is certainly not in there
        known = None
    if known is None or not isinstance(args, tuple):
        raise _refusal("calls", function)
    return known(*args)


def _new(cls: Any, args: Any) -> Any:
    """A bare object, its constructor not run."""
    if args == () and (is_module_class(cls) or any(cls is known for known in _CONTAINERS)):
        return cls.__new__(cls)
    raise _refusal("makes", cls)


def _set_state(target: Any, state: Any) -> None:
    if isinstance(target, (np.ndarray, np.dtype)):
        setter: Any = target.__setstate__  # type: ignore[union-attr]
        setter(state)
    elif isinstance(target, _CONTAINERS) and isinstance(state, dict):
        vars(target).update(state)
    elif isinstance(target, nn.Module) and isinstance(state, dict):
        _check_state(type(target), state)
        set_module_state: Any = target.__setstate__
        set_module_state(state)
    else:
        raise _refusal("sets the state of", target)


def _check_state(cls: Any, state: Dict[Any, Any]) -> None:
    """Refuse what would be called later on, when the module is."""
    for key, value in state.items():
        # an attribute comes before a method of its name
        if callable(value) and callable(getattr(cls, str(key), None)):
            raise UnsafeCheckpoint(
                f"it puts {_word(value)} in the place of {_word(cls)}.{key}, which no checkpoint needs"
            )
    for key in [key for key in state if str(key).endswith("_hooks")]:
        for hook in (state[key] or {}).values():
            if not type(hook).__module__.startswith("torch.nn.utils."):
                raise _refusal(f"hangs on {_word(cls)} the hook", hook)
