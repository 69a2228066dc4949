"""Attributes set on what is not ours, and their exact undo.

While a script runs, these are set, none found by the name of a file or module: ``torch.load``,
through which every checkpoint comes; ``forward_once``, ``forward`` and ``info`` of the models;
``__next__`` of the loaders, which says which image is being looked at; and ``scale_img``, which says
at which scale test-time augmentation looks at it (the last three in
:mod:`yolov5_featviz.yolov5.watch`).
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Callable, List, Tuple

import torch

from yolov5_featviz.errors import FeatvizError, UnsafeCheckpoint
from yolov5_featviz.yolov5.checkpoint import load_checkpoint
from yolov5_featviz.yolov5.source import Source


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


def safe_load(
    patches: Patches, source: Source, trust: bool, loaded: Callable[[Any, Any], None] = lambda *_: None
) -> None:
    """Put the safe reader in the place of ``torch.load`` and tell ``loaded`` what it read, and from where.

    A call that asks for ``weights_only=True`` keeps torch's own reader, which is safe already.
    """
    real = torch.load

    @functools.wraps(real)
    def load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("weights_only"):
            result = real(f, map_location, *args, **kwargs)
        else:
            try:
                result = load_checkpoint(f, source, map_location, trust)
            except UnsafeCheckpoint:
                raise
            except FeatvizError as error:
                if Path(str(f)).suffix in (".pt", ".pth"):
                    raise
                raise error.__cause__ or error from None  # a cache of labels, which the script may do without
        loaded(result, f)
        return result

    patches.set(torch, "load", load)
