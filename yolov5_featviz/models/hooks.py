"""Forward hooks that are not part of copies or saved files of a module."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

# attributes of a module that hold its hooks; the last since torch 2.0
BEFORE, AFTER, KEYWORDS = "_forward_pre_hooks", "_forward_hooks", "_forward_pre_hooks_with_kwargs"
_LOCK = threading.RLock()
# torch's handles refer weakly to the dictionary of their hook: one created meanwhile has to work afterwards
_KEPT: Any = weakref.WeakKeyDictionary()


class _Dictionary(OrderedDict):  # type: ignore[type-arg]
    """A module's dictionary of hooks, followed by ours.

    Writes go to ``base``, the original dictionary. It holds none of ours, nor does any copy or pickle
    of this one.
    """

    def __init__(self, base: Dict[Any, Any], module: nn.Module, owners: Tuple[Hooks, ...] = ()) -> None:
        super().__init__()
        self.base, self.module, self.owners = base, weakref.ref(module), owners
        self.ours: Dict[Any, Any] = {}

    def _all(self) -> Dict[Any, Any]:
        return {**self.base, **self.ours}  # a copy: another thread may add a hook during iteration

    def __iter__(self) -> Iterator[Any]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self.base) + len(self.ours)

    def __contains__(self, key: object) -> bool:
        return key in self.base or key in self.ours

    def __getitem__(self, key: Any) -> Any:
        return self._all()[key]

    def keys(self) -> Any:
        return self._all().keys()

    def values(self) -> Any:
        return self._all().values()

    def items(self) -> Any:
        return self._all().items()

    def get(self, key: Any, default: Any = None) -> Any:
        return self._all().get(key, default)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.base[key] = value

    def __delitem__(self, key: Any) -> None:
        del self.base[key]

    def pop(self, *arguments: Any) -> Any:
        return self.base.pop(*arguments)

    def update(self, *arguments: Any, **more: Any) -> None:
        self.base.update(*arguments, **more)

    def clear(self) -> None:
        self.base.clear()

    def move_to_end(self, key: Any, last: bool = True) -> None:
        self.base.move_to_end(key, last)  # type: ignore[attr-defined]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return OrderedDict, (), None, None, iter(list(self.base.items()))

    def __deepcopy__(self, memo: Dict[int, Any]) -> Any:
        base: Any = OrderedDict()
        for key, value in list(self.base.items()):
            base[key] = deepcopy(value, memo)
        module = self.module()
        copied = memo.get(id(module))
        if module is None or not isinstance(copied, nn.Module) or not self.owners:
            return base
        for owner in self.owners:
            owner.follow(module, copied)
        return _Dictionary(base, copied, self.owners)  # so that a copy of the copy is followed, too


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode, and restore the mode of each module afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def output_hooks(hooks: Iterable[Tuple[nn.Module, Callable[[Any], Any]]]) -> Iterator[None]:
    """Call functions with their modules' outputs within the block; a result other than None replaces the output."""
    handles = []
    try:
        for module, function in hooks:
            handles.append(module.register_forward_hook(lambda _, args, output, call=function: call(output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


class Hooks:
    """Forward hooks on any number of modules, with exact undo.

    The modules' own dictionaries of hooks are replaced temporarily and not changed, so no deep copy or
    saved file of a module holds any of these hooks. A deep copy that is run meanwhile still calls them,
    without keyword arguments: some libraries run copies of the model they are given.
    """

    def __init__(self) -> None:
        self._set: Dict[nn.Module, Tuple[List[Callable[..., Any]], List[Callable[..., Any]]]] = {}
        self._keys: List[Tuple[_Dictionary, object]] = []
        self._copies: Dict[int, Tuple[Any, nn.Module]] = {}
        self._handles: List[Any] = []

    def add(
        self,
        module: nn.Module,
        before: Optional[Callable[..., None]] = None,
        after: Optional[Callable[..., None]] = None,
    ) -> None:
        """Call ``before(module, args, kwargs)`` and ``after(module, args, output)``, after the existing hooks.

        ``kwargs`` is omitted before torch 2.0, where hooks do not get keyword arguments.
        """
        with _LOCK:
            known = self._set.setdefault(module, ([], []))
            for hook, name, hooks in ((before, BEFORE, known[0]), (after, AFTER, known[1])):
                if hook is not None:
                    key = object()
                    hooks.append(hook)
                    self._put(module, name, key, hook)
                    if name == BEFORE and KEYWORDS in vars(module):
                        self._put(module, KEYWORDS, key, True)

    def _put(self, module: nn.Module, name: str, key: object, value: Any) -> None:
        there = vars(module)[name]
        if not isinstance(there, _Dictionary):
            kept = _KEPT.setdefault(module, {})
            if name not in kept or kept[name].base is not there:
                kept[name] = _Dictionary(there, module)
            there = vars(module)[name] = kept[name]
        there.ours = {**there.ours, key: value}
        there.owners = (*(owner for owner in there.owners if owner is not self), self)
        self._keys.append((there, key))

    def follow(self, module: nn.Module, copied: nn.Module) -> None:
        """Call the hooks of ``module`` also for ``copied``, a copy of it."""
        with _LOCK:
            if not self._set:  # already removed
                return
            if not self._handles:
                self._handles = [
                    register_module_forward_pre_hook(self._before),
                    register_module_forward_hook(self._after),
                ]
            self._copies[id(copied)] = (weakref.ref(copied), self._original(module) or module)

    def _original(self, module: nn.Module) -> Optional[nn.Module]:
        copied, original = self._copies.get(id(module), (None, None))
        return original if copied is not None and copied() is module else None

    def _before(self, module: nn.Module, args: Any) -> None:
        original = self._original(module)
        for hook in self._set.get(original, ([], []))[0] if original is not None else ():
            hook(module, args)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        original = self._original(module)
        for hook in self._set.get(original, ([], []))[1] if original is not None else ():
            hook(module, args, output)

    def remove(self) -> None:
        """Remove all hooks. May be called again."""
        with _LOCK:
            for handle in self._handles:
                handle.remove()
            modules: List[Optional[nn.Module]] = [*self._set, *(copied() for copied, _ in self._copies.values())]
            for there, key in self._keys:
                there.ours = {known: value for known, value in there.ours.items() if known is not key}
            for module in modules:
                for name in (BEFORE, AFTER, KEYWORDS):
                    found = vars(module).get(name) if module is not None else None
                    if isinstance(found, _Dictionary):
                        found.owners = tuple(owner for owner in found.owners if owner is not self)
                        if not found.owners:
                            vars(module)[name] = found.base
            self._set, self._keys, self._copies, self._handles = {}, [], {}, []


def owners_of(module: nn.Module) -> Tuple[Hooks, ...]:
    """Return the :class:`Hooks` that are active on ``module``, or on the module that it is a copy of."""
    there = vars(module).get(BEFORE)
    there = there if isinstance(there, _Dictionary) else vars(module).get(AFTER)
    return there.owners if isinstance(there, _Dictionary) else ()
