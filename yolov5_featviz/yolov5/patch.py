"""The monkeypatches: what they put in YOLOv5's way while a script runs, and how they are undone.

Three things are patched, none by the name of a file or module: ``torch.load``, through which every
checkpoint comes; ``forward_once`` and ``info`` of whatever model comes out of it; and ``__next__``
of the checkout's loaders, which says which image is being looked at.
"""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple

import torch
from torch import nn

from yolov5_featviz.capture import Capture, FeatureMap
from yolov5_featviz.layers import Layer, LayerIndex, index_layers, select_layers
from yolov5_featviz.yolov5.checkpoint import load_checkpoint
from yolov5_featviz.yolov5.model import ONE_PASS, find_model
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


def safe_load(patches: Patches, source: Source, trust: bool, loaded: Callable[[Any], None] = lambda _: None) -> None:
    """Put the safe reader in the place of ``torch.load`` and tell ``loaded`` what it read.

    A call that asks for ``weights_only=True`` keeps torch's own reader, which is safe already.
    """
    real = torch.load

    @functools.wraps(real)
    def load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("weights_only"):
            return real(f, map_location, *args, **kwargs)
        result = load_checkpoint(f, source, map_location, trust)
        loaded(result)
        return result

    patches.set(torch, "load", load)


@dataclass
class Item:
    """What a loader handed to the script: the images of one batch, each by path, and for a video its frame."""

    paths: List[str]
    frame: Optional[int] = None
    seen_by: Set[int] = field(default_factory=set)

    def name(self, i: int) -> str:
        """A name for image ``i`` of the batch, as YOLOv5 names its label files."""
        stem = Path(self.paths[min(i, len(self.paths) - 1)]).stem
        stem += f"_{i}" if i >= len(self.paths) else ""
        return stem + ("" if self.frame is None else f"_{self.frame}")


class Watcher:
    """Follows a script: which image its loader has just yielded, and what its models make of it.

    A forward pass counts if it is the first that a model makes since the loader yielded an image.
    So building, fusing, profiling and warming up, which come before, never count, nor do the
    further passes of a test-time augmentation.

    Args:
        layers: the layer selection.
        summary: leave YOLOv5's model summary as it is; it is skipped otherwise, since it costs a
            forward pass and says nothing about the image.
        deliver: called with ``(item, i, maps)`` for each image ``i`` of a batch.
    """

    def __init__(
        self,
        source: Source,
        layers: str,
        deliver: Callable[[Item, int, List[FeatureMap]], None],
        warn: Callable[[str], None],
        summary: bool = False,
    ) -> None:
        self.source, self.layers, self.summary = source, layers, summary
        self.deliver, self.warn = deliver, warn
        self.unreadable: List[str] = []
        self._item: Optional[Item] = None
        self._selected: Dict[int, Tuple[LayerIndex, List[Layer]]] = {}
        self._patched: Set[Any] = set()
        self._told: Set[str] = set()

    def attach(self, patches: Patches, loaded: Any) -> None:
        """Patch the classes of the models in ``loaded``, and of the loaders imported so far."""
        for part in loaded.values() if isinstance(loaded, dict) else [loaded]:
            model = find_model(part)
            if model is not None:
                self._patch_model(patches, type(model))
        for loader in self._loaders():
            if loader not in self._patched:
                self._patched.add(loader)
                patches.set(loader, "__next__", self._next(vars(loader)["__next__"]))

    def _loaders(self) -> Iterator[Any]:
        root = os.path.join(os.path.realpath(str(self.source.root)), "")
        folders: Dict[str, bool] = {}  # thousands of modules lie in a few hundred folders
        for module in list(sys.modules.values()):
            folder = os.path.dirname(getattr(module, "__file__", None) or "")
            if folder not in folders:
                folders[folder] = bool(folder) and os.path.join(os.path.realpath(folder), "").startswith(root)
            if not folders[folder]:
                continue
            for thing in list(vars(module).values()):
                if isinstance(thing, type) and thing.__module__ == module.__name__ and "__next__" in vars(thing):
                    yield thing

    def _patch_model(self, patches: Patches, cls: Any) -> None:
        if cls in self._patched:
            return
        self._patched.add(cls)
        name = next((name for name in ONE_PASS if hasattr(cls, name)), None)
        if name is not None:
            patches.set(cls, name, self._forward_once(getattr(cls, name)))
        if hasattr(cls, "info") and not self.summary:
            patches.set(cls, "info", lambda model, *args, **kwargs: None)

    def _forward_once(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def forward_once(model: nn.Module, x: Any, *args: Any, **kwargs: Any) -> Any:
            item = self._item
            if item is None or model.training or id(model) in item.seen_by:
                return original(model, x, *args, **kwargs)
            item.seen_by.add(id(model))
            if id(model) not in self._selected:
                index = index_layers(model)
                self._selected[id(model)] = (index, select_layers(index, self.layers))
            index, layers = self._selected[id(model)]
            with Capture(index, layers, (int(x.shape[2]), int(x.shape[3]))) as features:
                output = original(model, x, *args, **kwargs)
            for reason in features.skipped.values():
                if reason not in self._told:
                    self._told.add(reason)
                    self.warn(f"{reason}; passed over")
            for i in range(x.shape[0]):
                self.deliver(item, i, features.of_image(i, item.name(i)))
            return output

        return forward_once

    def _next(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def __next__(loader: Any) -> Any:
            self._item = None
            while True:
                count = getattr(loader, "count", None)
                try:
                    batch = original(loader)
                    break
                except StopIteration:
                    raise
                except Exception:
                    path = self._unreadable(loader, count)
                    if path is None:
                        raise
                    self.unreadable.append(path)
                    self.warn(f"cannot read the image {path}: passed over")
            if isinstance(batch, tuple) and batch and isinstance(batch[0], (str, list, tuple)):
                paths = [batch[0]] if isinstance(batch[0], str) else [str(path) for path in batch[0]]
                still = getattr(loader, "mode", "") != "video" and isinstance(batch[0], str)
                self._item = Item(paths, None if still else getattr(loader, "frame", getattr(loader, "count", 0)))
            return batch

        return __next__

    @staticmethod
    def _unreadable(loader: Any, count: Optional[int]) -> Optional[str]:
        """The image on which the loader has just failed, if it went past it and nothing else is amiss."""
        import cv2

        files = getattr(loader, "files", ())
        if count is None or count >= len(files) or getattr(loader, "count", count) != count + 1:
            return None
        path = str(files[count])
        try:
            return path if cv2.imread(path) is None else None
        except cv2.error:
            return path
