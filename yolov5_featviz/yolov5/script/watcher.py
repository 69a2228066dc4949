"""Track a script's current image and its models' passes."""

from __future__ import annotations

import functools
import os
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple, Type

import torch
from torch import nn

from yolov5_featviz.features.capture import Capture
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.models.layers import Layer, LayerIndex, index_layers, select_layers
from yolov5_featviz.runs.names import Names
from yolov5_featviz.runs.report_data import LEVELS
from yolov5_featviz.text import printable
from yolov5_featviz.yolov5.layers import ONE_PASS, find_model
from yolov5_featviz.yolov5.letterbox import is_too_narrow
from yolov5_featviz.yolov5.script.batch import (
    Batch,
    Pass,
    Visit,
    distinct,
    find_boxes,
    find_input,
    find_originals,
    find_paths,
    find_shapes,
    find_thresholds,
    find_truths,
    small_rgb,
)
from yolov5_featviz.yolov5.script.monkeypatch import Patches
from yolov5_featviz.yolov5.script.validate import IMAGES
from yolov5_featviz.yolov5.source import Source

# functions whose passes are not inference
_NOT_INFERENCE = {"warmup", "profile", "fuse", "info", "model_info", "__init__", "check_train_batch_size"}


class Watcher:
    """Capture feature maps for each image that a script's loaders yield.

    Only a model's first forward pass after a loader yields an image counts, including its inner passes
    in test-time augmentation. Building, fusing, profiling, warm-up and training therefore never count.
    In a script without a loader every pass counts.

    Args:
        source: the YOLOv5 whose loaders and models are patched.
        layers: the layer selection.
        deliver: called with ``(item, i, parts)`` for each image ``i`` of a batch; ``parts`` are pairs
            of a folder's name, empty if there is only one, and its maps.
        warn: called with each message.
        began: called within each pass that counts.
        summary: keep YOLOv5's model summary; otherwise it is skipped, since it costs a forward pass.
        every: interval in epochs, or in frames of a video; 10 and 1 if None.
        limit: maximum number of images, in training per epoch; if None, 8 for data sets, else unlimited.
        photos: whether to keep the frames of videos and streams.
        inputs: whether the models' inputs are needed after the pass; scripts may change them then.
    """

    def __init__(
        self,
        source: Source,
        layers: str,
        deliver: Callable[[Batch, int, List[Tuple[str, List[FeatureMap]]]], None],
        warn: Callable[[str], None],
        began: Callable[[], None] = lambda: None,
        summary: bool = False,
        every: Optional[int] = None,
        limit: Optional[int] = None,
        photos: bool = False,
        inputs: bool = False,
    ) -> None:
        self.source, self.layers, self.summary, self.every, self.limit = source, layers, summary, every, limit
        self.deliver, self.warn, self.began, self.photos, self.inputs = deliver, warn, began, photos, inputs
        self.unreadable: List[str] = []
        self._names, self._files = Names(), ()  # type: Names, Sequence[str]
        self._item: Optional[Batch] = None
        self._active: List[Visit] = []
        self._selected: Any = weakref.WeakKeyDictionary()
        self._weights: Any = weakref.WeakKeyDictionary()
        self._trained: Any = weakref.WeakSet()
        self._patched: Set[Any] = set()
        self._logged: Set[str] = set()
        self._drawn: Dict[Optional[int], int] = {}
        self._once: Set[Tuple[Optional[int], str]] = set()
        self._frames: Dict[str, int] = {}
        self._unnamed = 0
        self._modules = 0
        self._loader_seen = False
        self._delivering = False
        self._root = os.path.join(os.path.realpath(str(source.root)), "")
        self._below: Dict[str, bool] = {}  # thousands of files in a few hundred folders

    def attach(self, patches: Patches, loaded: Any = None, path: Any = "") -> None:
        """Patch the models in ``loaded``, read from ``path``, and all modules imported from the checkout."""
        iterator = vars(torch.utils.data.dataloader)["_BaseDataLoaderIter"]
        if iterator not in self._patched:
            self._patched.add(iterator)
            patches.set(iterator, "__next__", self._next_batch(patches, iterator.__next__))
            patches.set(torch.jit, "trace", self._trace(torch.jit.trace))
        new = len(sys.modules) != self._modules
        self._modules = len(sys.modules)
        for thing, module in self._things() if new else ():
            if thing in self._patched:
                continue
            if isinstance(thing, type) and "__next__" in vars(thing):
                self._patched.add(thing)
                patches.set(thing, "__next__", self._next(vars(thing)["__next__"]))
            elif isinstance(thing, type) and issubclass(thing, nn.Module) and any(hasattr(thing, n) for n in ONE_PASS):
                self._patch_model(patches, thing, [n for n in (*ONE_PASS, "forward", "info") if n in vars(thing)])
            elif not isinstance(thing, type):
                wrapper = {"scale_img": self._scale_img, "non_max_suppression": self._detections}[thing.__name__](thing)
                self._patched.add(wrapper)
                patches.set(module, thing.__name__, wrapper)
        for part in loaded.values() if isinstance(loaded, dict) else [loaded]:
            model = find_model(part)
            if model is None:
                continue
            self._weights[model] = Path(str(getattr(path, "name", path)))
            if type(model) not in self._patched and not any(cls in self._patched for cls in type(model).__mro__):
                names = [n for n in (*ONE_PASS, "forward", "info") if hasattr(type(model), n)]
                self._patch_model(patches, type(model), names)

    def _things(self) -> Iterator[Tuple[Any, Any]]:
        """Yield the classes and functions to patch in the checkout's modules, each with its module."""
        for module in list(sys.modules.values()):
            if not self._is_below(getattr(module, "__file__", None) or ""):
                continue
            for name, thing in list(vars(module).items()):
                if name in ("scale_img", "non_max_suppression"):
                    if getattr(thing, "__name__", "") == name:
                        yield thing, module
                elif isinstance(thing, type) and thing.__module__ == module.__name__:
                    yield thing, module

    def _is_below(self, file: str) -> bool:
        if not file or file.startswith("<"):  # code without a file
            return False
        folder = os.path.dirname(file)  # empty for a script given by its bare name
        if folder not in self._below:
            self._below[folder] = os.path.join(os.path.realpath(folder), "").startswith(self._root)
        return self._below[folder]

    def _patch_model(self, patches: Patches, cls: Type[nn.Module], names: List[str]) -> None:
        self._patched.add(cls)
        for name in names:
            if name != "info":
                patches.set(cls, name, self._follow(getattr(cls, name), once=name in ONE_PASS))
            elif not self.summary:
                patches.set(cls, name, lambda model, *args, **kwargs: None)

    def _follow(self, original: Callable[..., Any], once: bool) -> Callable[..., Any]:
        @functools.wraps(original)
        def method(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
            images = find_input([*args, kwargs])
            visit = next((v for v in self._active if v.model is model), None)
            if images is None:
                return original(model, *args, **kwargs)
            if visit is None:
                return self._visit(original, once, model, images, *args, **kwargs)
            if once and visit.whole is not None:  # the first or a further pass within forward
                visit.whole.__exit__(None, None, None)
                scale, visit.prepared = visit.prepared, (None, ())
                whole, visit.whole = visit.whole, None
                with self._capture(model, images) as features:
                    output = original(model, *args, **kwargs)
                visit.whole = whole
                visit.passes.append(Pass(features, *scale))
                return output
            return original(model, *args, **kwargs)

        return method

    def _visit(
        self,
        original: Callable[..., Any],
        once: bool,
        model: nn.Module,
        images: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Run a model's outermost method on ``images``, with hooks if this pass counts."""
        if images.requires_grad or self._delivering:  # an attribution pass of ours, not the script's
            return original(model, *args, **kwargs)
        if model.training:
            if model not in self._trained:  # report a wrong layer before the first epoch of a training
                self._trained.add(model)
                self._check(model)
            return original(model, *args, **kwargs)
        tracing = torch._C._get_tracing_state() is not None  # torch.jit.is_tracing came with 1.9
        if not self._loader_seen and not tracing:
            self._arrive(self._guess(images))
        item = self._item
        if (
            tracing
            or item is None
            or any(visit.model is model for visit in item.visits)
            or find_model(model) is not model
        ):
            return original(model, *args, **kwargs)
        self.began()
        visit = Visit(model, images.clone() if self.inputs else images)
        item.visits.append(visit)
        self._active.append(visit)
        try:
            with self._capture(model, images) as features:
                visit.whole = None if once else features
                output = original(model, *args, **kwargs)
        finally:
            self._active.remove(visit)
            visit.whole = None
        if not visit.passes:
            if visit.prepared[0] is not None and "scales" not in self._logged:
                self._logged.add("scales")
                names = " or ".join(ONE_PASS)
                self.warn(
                    f"{type(model).__name__} has no {names}, so that its passes at several scales cannot be "
                    "separated: only the last one is drawn"
                )
            visit.passes.append(Pass(features, *visit.prepared))
        for p in visit.passes:
            for reason in p.features.skipped.values():
                if reason not in self._logged:
                    self._logged.add(reason)
                    self.warn(f"{reason}; skipped")
        return output

    def _capture(self, model: nn.Module, images: torch.Tensor) -> Capture:
        if model not in self._selected:
            self._selected[model] = self._check(model)
        index, layers = self._selected[model]
        if self._item is not None and self._item.epoch is not None:  # a layer without a map must not stop a training
            layers = [replace(layer, optional=True) for layer in layers]
        return Capture(index, layers, (int(images.shape[2]), int(images.shape[3])))

    def _check(self, model: nn.Module) -> Optional[Tuple[LayerIndex, List[Layer]]]:
        if find_model(model) is not model:
            return None
        index = index_layers(model)
        return index, select_layers(index, self.layers)

    def _trace(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Also run the original of a traced model, which has no layers to hook."""

        @functools.wraps(original)
        def trace(func: Any, *args: Any, **kwargs: Any) -> Any:
            traced = original(func, *args, **kwargs)
            if find_model(func) is not None and isinstance(traced, nn.Module):

                def look(module: nn.Module, images: Tuple[Any, ...]) -> None:
                    if not func.training:
                        with torch.no_grad():
                            func(*images)

                traced.register_forward_pre_hook(look)
            return traced

        return trace

    def _scale_img(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Patch test-time augmentation's ``scale_img`` to record scale and flip."""

        @functools.wraps(original)
        def scale_img(img: torch.Tensor, ratio: float = 1.0, *args: Any, **kwargs: Any) -> Any:
            if self._active:
                visit, dims = self._active[-1], ()  # type: Visit, Tuple[int, ...]
                if img.shape == visit.images.shape and not torch.equal(img, visit.images):
                    dims = next((d for d in ((3,), (2,), (2, 3)) if torch.equal(img, visit.images.flip(d))), ())
                visit.prepared = (float(ratio), dims)
            return original(img, ratio, *args, **kwargs)

        return scale_img

    def _detections(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Patch ``non_max_suppression`` to record the detections."""

        @functools.wraps(original)
        def non_max_suppression(*args: Any, **kwargs: Any) -> Any:
            found = original(*args, **kwargs)
            item = self._item
            if item is not None and item.visits and not item.found:
                item.found, item.suppression = find_boxes(found), find_thresholds(original, args, kwargs)
            return found

        return non_max_suppression

    def _next(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Patch ``__next__`` of a loader of images or frames."""

        @functools.wraps(original)
        def __next__(loader: Any) -> Any:
            self._arrive(None)
            while True:
                count = getattr(loader, "count", None)
                try:
                    batch = original(loader)
                    break
                except StopIteration:
                    raise
                except Exception:
                    path, why = self._unreadable(loader, count)
                    if not why:
                        raise
                    self.unreadable.append(path)
                    self.warn(f"{why}; skipped")
            paths, alone = find_paths(batch)
            if paths:
                self._loader_seen = True
                still = alone and getattr(loader, "mode", "image") in ("image", "images")
                files = getattr(loader, "files", None)
                item = Batch(paths, cropped=getattr(loader, "transforms", None) is not None)
                if isinstance(files, (list, tuple)):  # not a stream
                    self._learn(files)
                    item.names = self._names
                originals = find_originals(batch)
                item.sizes = [(int(image.shape[0]), int(image.shape[1])) for image in originals]
                if self.photos:  # copies, since scripts draw into the originals; saves reading the files again
                    item.photos = [small_rgb(image, LEVELS[0].side) for image in originals]
                if not still:
                    item.frame = getattr(loader, "frame", getattr(loader, "count", 0))
                    item.frames = [image.copy() for image in originals] if self.photos else ()
                self._arrive(item)
            return batch

        return __next__

    def _next_batch(self, patches: Patches, original: Callable[..., Any]) -> Callable[..., Any]:
        """Patch ``__next__`` of torch's DataLoader, used in validation and training."""

        @functools.wraps(original)
        def __next__(loader: Any) -> Any:
            self._arrive(None)
            batch = original(loader)
            if (
                isinstance(batch, (list, tuple))
                and batch
                and isinstance(batch[0], torch.Tensor)
                and batch[0].dim() == 4
            ):
                self.attach(patches)
                self._loader_seen = True
                epoch, last = self._epoch()
                if epoch is None or epoch % (self.every or 10) == 0 or last:
                    item = Batch(find_paths(batch)[0], epoch=epoch, unnamed=self._unnamed, limit=8, names=self._names)
                    dataset = getattr(loader, "_dataset", None)
                    self._learn(getattr(dataset, "im_files", getattr(dataset, "img_files", ())))
                    shapes = find_shapes(batch)
                    item.sizes, item.placed = [shape[0] for shape in shapes], [shape[1] for shape in shapes]
                    item.truths = find_truths(batch)
                    self._arrive(item)
            return batch

        return __next__

    def _learn(self, files: Sequence[str]) -> None:
        """Name all files of a loader at once, so that names do not depend on their order."""
        if files is not self._files:
            self._files = files
            self._names.learn(files)

    def _arrive(self, item: Optional[Batch]) -> None:
        """Deliver the previous item and make ``item`` the current one."""
        self.flush()
        if item is not None and item.frame is not None:
            n = self._frames[item.paths[0]] = self._frames.get(item.paths[0], -1) + 1
            if n % (self.every or 1):
                return
        if item is not None and self._left(item):
            self._item = item

    def _left(self, item: Batch) -> bool:
        """Whether another image may be drawn."""
        limit = item.limit if self.limit is None else self.limit
        return limit is None or self._drawn.get(item.epoch, 0) < limit

    def flush(self) -> None:
        """Deliver the feature maps of the current item."""
        item, self._item = self._item, None
        if item is None or not item.visits:
            return
        files = [self._weights.get(visit.model) for visit in item.visits]
        models = distinct(file.stem if file else type(v.model).__name__ for file, v in zip(files, item.visits))
        item.weights = [str(file) for file in files if file]
        for i in range(len(item.visits[0].images)):
            if not self._left(item):
                return
            if item.limit is not None and item.paths:  # draw images of a data set once per epoch
                if (item.epoch, item.paths[i]) in self._once:
                    continue
                self._once.add((item.epoch, item.paths[i]))
            parts = []
            for model, visit in zip(models, item.visits):
                for name, p in zip(distinct(p.name for p in visit.passes), visit.passes):
                    folders = [model] * (len(models) > 1) + [name] * (len(visit.passes) > 1)
                    parts.append(("/".join(folders), p.maps(item, i, visit)))
            self._drawn[item.epoch] = self._drawn.get(item.epoch, 0) + 1
            self._delivering = True
            try:
                self.deliver(item, i, parts)
            finally:
                self._delivering = False
        self._unnamed += 0 if item.paths else len(item.visits[0].images)

    def _frames_below(self) -> Iterator[FrameType]:
        """Yield the frames of running functions of the checkout, innermost first."""
        frame: Optional[FrameType] = sys._getframe(1)
        while frame is not None:
            if self._is_below(frame.f_code.co_filename):
                yield frame
            frame = frame.f_back

    def _epoch(self) -> Tuple[Optional[int], bool]:
        """Return the epoch of a training, from local variables, and whether it is the last."""
        for frame in self._frames_below():
            epoch, epochs = frame.f_locals.get("epoch"), frame.f_locals.get("epochs")
            if isinstance(epoch, int):
                return epoch, epoch + 1 == epochs
        return None, False

    def _guess(self, images: torch.Tensor) -> Optional[Batch]:
        """Guess the image of a script without a loader, from paths in local variables."""
        if images.numel() == 0 or bool((images == images.flatten()[0]).all()):
            return None
        frames = list(self._frames_below())
        if any(frame.f_code.co_name in _NOT_INFERENCE for frame in frames):
            return None
        values = [str(v) for frame in frames for v in frame.f_locals.values() if isinstance(v, (str, Path))]
        files = (v for v in values if v.rsplit(".", 1)[-1].lower() in IMAGES and os.path.isfile(v))
        path = next(files, None)
        if path is None:
            return Batch([], unnamed=self._unnamed)
        import cv2

        image = cv2.imread(path)
        sizes = [] if image is None else [(int(image.shape[0]), int(image.shape[1]))]
        return Batch([path], sizes, prepared=False, names=self._names)

    @staticmethod
    def _unreadable(loader: Any, count: Optional[int]) -> Tuple[str, str]:
        """Return the image at which the loader failed, if it can continue, and the error.

        The error is empty if the image itself is fine.
        """
        import cv2

        files = getattr(loader, "files", ())
        if count is None or count >= len(files) or getattr(loader, "count", count) != count + 1:
            return "", ""
        path = str(files[count])
        why = f"cannot read the image {printable(path)}"
        try:
            image: Any = cv2.imread(path)
        except Exception:  # YOLOv5's own imread raises for folders and broken links
            return path, why
        given = getattr(loader, "img_size", None)
        sides: Any = [given, given] if isinstance(given, int) else given
        known = image is not None and isinstance(sides, (list, tuple)) and len(sides) == 2
        if known and is_too_narrow((image.shape[0], image.shape[1]), (sides[0], sides[1])):
            size = f"{image.shape[1]} x {image.shape[0]}"
            words = f"cannot bring the image {printable(path)}, of {size} pixels, to {sides[0]} x {sides[1]}"
            return path, f"{words}: nothing is left of it"
        return path, why if image is None else ""
