"""Attributes set on what is not ours, and their exact undo.

While a script runs, these are set, none found by the name of a file or module: ``torch.load``,
through which every checkpoint comes (:mod:`yolov5_featviz.yolov5.load`); ``forward_once``, ``forward``
and ``info`` of the models; ``__next__`` of the loaders, which says which image is being looked at;
``scale_img``, which says at which scale test-time augmentation looks at it; and ``torch.jit.trace``
(:mod:`yolov5_featviz.yolov5.script.watcher`).
"""

from __future__ import annotations

from typing import Any, List, Tuple


class Patches:
    """Attributes set on objects that are not ours, and the way back."""

    _ABSENT = object()

    def __init__(self) -> None:
        self._undo: List[Tuple[Any, str, Any]] = []

    def set(self, target: Any, name: str, value: Any) -> None:
        """Set ``target.name``, remembering what ``target`` itself had there."""
        self._undo.append((target, name, vars(target).get(name, self._ABSENT)))
        setattr(target, name, value)

    def undo(self) -> None:
        """Put everything back, last first; what was inherited is inherited again."""
        while self._undo:
            target, name, value = self._undo.pop()
            if value is self._ABSENT:
                delattr(target, name)
            else:
                setattr(target, name, value)
