"""Monkeypatches with exact undo.

While a script runs, these are patched, without relying on file or module names: ``torch.load``, which
reads every checkpoint (:mod:`yolov5_featviz.yolov5.load`); ``forward_once``, ``forward`` and ``info``
of the models; ``__next__`` of the loaders, which yields the current image; ``scale_img``, which gives
the scale of test-time augmentation; and ``torch.jit.trace``
(:mod:`yolov5_featviz.yolov5.script.watcher`).
"""

from __future__ import annotations

from typing import Any, List, Tuple


class Patches:
    """Set of monkeypatches that can be undone."""

    _ABSENT = object()

    def __init__(self) -> None:
        self._undo: List[Tuple[Any, str, Any]] = []

    def set(self, target: Any, name: str, value: Any) -> None:
        """Set ``target.name`` and store the attribute of ``target`` itself."""
        self._undo.append((target, name, vars(target).get(name, self._ABSENT)))
        setattr(target, name, value)

    def undo(self) -> None:
        """Restore all attributes in reverse order; inherited ones are deleted from the target."""
        while self._undo:
            target, name, value = self._undo.pop()
            if value is self._ABSENT:
                delattr(target, name)
            else:
                setattr(target, name, value)
