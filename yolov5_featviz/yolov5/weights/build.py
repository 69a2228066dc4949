"""Build objects from a checked tree; :mod:`.grammar` decides what may be built."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Callable, Dict

import torch
from torch import nn

from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.yolov5.weights import tensors
from yolov5_featviz.yolov5.weights.archive import Archive
from yolov5_featviz.yolov5.weights.grammar import ACTIVATIONS, Grammar, ModuleNode, forward_of, plain
from yolov5_featviz.yolov5.weights.modules import library_class
from yolov5_featviz.yolov5.weights.parse import Call, DictNode, Global, SetNode, identity
from yolov5_featviz.yolov5.weights.tensors import StorageKey
from yolov5_featviz.yolov5.weights.values import KINDS, SCALARS, dtype_named, name_of


class Builder:
    """Build the values of one archive; nodes shared in the pickle remain shared.

    Args:
        grammar: has checked the tree.
        archive: provides the storages.
        map_location: as for ``torch.load``.
    """

    def __init__(self, grammar: Grammar, archive: Archive, map_location: Any) -> None:
        self._grammar, self._archive, self._where = grammar, archive, map_location
        self._made: Dict[int, Any] = {}
        self._storages: Dict[str, torch.Tensor] = {}

    def build(self, node: Any) -> Any:
        """Build the value of a node."""
        if type(node) in SCALARS:
            return node
        if identity(node) in self._made:
            return self._made[identity(node)]
        made = self._build(node)
        self._made[identity(node)] = made
        return made

    def _build(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self.build(part) for part in node]
        if isinstance(node, tuple):
            return tuple(self.build(part) for part in node)
        if isinstance(node, DictNode):
            if identity(node) in self._grammar.definitions:
                return plain(node)  # shares nothing, since YOLOv5 modifies rows in place
            return {self.build(key): self.build(value) for key, value in node.pairs}
        if isinstance(node, SetNode):
            items = (self.build(part) for part in node.items)
            return frozenset(items) if node.frozen else set(items)
        if isinstance(node, Global):
            return self._named(node)
        if identity(node) in self._grammar.modules:
            return self._module(self._grammar.modules[identity(node)])
        if name_of(node.function) in tensors.CALLS:
            return self._tensor(node)
        return self._call(node)

    def _named(self, node: Global) -> Any:
        dtype = dtype_named(node)
        return library_class(*node.key) if dtype is None else dtype

    def _call(self, node: Call) -> Any:
        kind = KINDS[name_of(node.function) or ("", "")]
        made = kind.build(node, self.build)
        for key, value in node.pairs:
            made[self.build(key)] = self.build(value)
        if node.items:
            made.extend(self.build(item) for item in node.items)
        return made

    def _module(self, module: ModuleNode) -> nn.Module:
        cls = self._grammar.classes[module.name]
        made: nn.Module = object.__new__(cls)
        state: Dict[str, Any] = {"training": True}
        for part, pairs in module.parts.items():
            state[part] = OrderedDict((key, self.build(value)) for key, value in pairs)
        for hooks in ("_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks"):
            state[hooks] = OrderedDict()
        state["_load_state_dict_pre_hooks"] = OrderedDict()
        for key, value in module.state:
            owner = forward_of(value) if key == "detect" else None
            if owner is not None:
                base = next(base for base in cls.__mro__ if (base.__module__, base.__name__) == owner)
                state[key] = base.forward
            elif key == "activation" and isinstance(value, Global):
                state[key] = ACTIVATIONS[value.key]
            else:
                state[key] = self.build(value)
        _set_state(cls)(made, state)
        if isinstance(made, nn.RNNBase):
            _check_recurrent(made)
        return made

    def _tensor(self, node: Call) -> torch.Tensor:
        view = self._grammar.tensors.views[identity(node)]
        base = self._storages.get(view.storage.key)
        if base is None:
            base = self._storages[view.storage.key] = self._place(self._archive.read(view.storage), view.storage)
        return tensors.rebuild(view, base)

    def _place(self, tensor: torch.Tensor, storage: StorageKey) -> torch.Tensor:
        """Move a storage's elements to the device given by ``map_location``."""
        where = self._where
        if callable(where) and not isinstance(where, (str, torch.device)):
            moved = where(tensors.storage_under(tensor), storage.location)
            device = tensor.device if moved is None else moved.device
        elif isinstance(where, dict):
            device = where.get(storage.location, storage.location)
        else:
            device = storage.location if where is None else where
        try:
            return tensor.to(torch.device(device))
        except (RuntimeError, AssertionError) as error:
            raise FeatvizError(
                f"a tensor saved on {storage.location} cannot be moved to {device}: {str(error).splitlines()[0]:.100}"
            ) from None


def _check_recurrent(made: nn.RNNBase) -> None:
    """Raise FeatvizError unless the weights have the shapes given by the sizes, which torch does not check."""
    more = {"proj_size": made.proj_size} if getattr(made, "proj_size", 0) else {}
    sizes = made.input_size, made.hidden_size, made.num_layers
    if not all(isinstance(size, int) and 0 < size < 1 << 16 for size in sizes) or made.num_layers > 64:
        raise FeatvizError(f"{type(made).__name__} has the sizes {sizes}"[:200])
    same = {"bias": bool(made.bias), "bidirectional": bool(made.bidirectional), **more}
    like: Any = (nn.LSTM if made.mode == "LSTM" else nn.GRU if made.mode == "GRU" else nn.RNN)(*sizes, **same)
    shapes = {name: tuple(parameter.shape) for name, parameter in like.named_parameters()}
    if {name: tuple(parameter.shape) for name, parameter in made.named_parameters()} != shapes:
        raise FeatvizError(f"the weights of {type(made).__name__} do not match its sizes")
    made._flat_weights_names, made._all_weights = like._flat_weights_names, like._all_weights
    made._flat_weights = [getattr(made, name) for name in like._flat_weights_names]


def _set_state(cls: type) -> Callable[[nn.Module, Dict[str, Any]], None]:
    """Return the ``__setstate__`` of torch's own classes for old files; never one of a checkout."""
    for base in cls.__mro__:
        if "__setstate__" in vars(base) and base.__module__.startswith("torch.nn.modules."):
            setter: Callable[[nn.Module, Dict[str, Any]], None] = vars(base)["__setstate__"]
            return setter
    raise FeatvizError(f"{cls.__name__} is not a module")
