"""Capture the output of layers with forward hooks."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Type, Union

import torch
from torch import nn

from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.errors import reason as reason_of
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.models.hooks import Hooks, owners_of
from yolov5_featviz.models.layers import (
    Context,
    Layer,
    LayerIndex,
    LayerSpec,
    index_layers,
    is_inside,
    module_at,
    select_layers,
    unhookable,
)
from yolov5_featviz.models.outputs import (
    Input,
    Reshape,
    describe_output,
    patch_size,
    read_input,
    tensors_of,
    to_maps,
    without_values,
)
from yolov5_featviz.text import printable


class Capture:
    """Collector of the output of chosen layers during a ``with`` block.

    A mapping from layer to feature map: ``features[17]``, ``features["17.m.0"]``; iterating yields
    every :class:`FeatureMap`, image by image and layer by layer. A later forward pass replaces the
    maps of an earlier one. ``skipped`` holds the reason for each skipped layer. Created by
    :func:`capture`.
    """

    def __init__(
        self,
        index: LayerIndex,
        layers: List[Layer],
        input_size: Optional[Tuple[int, int]] = None,
        reshape: Optional[Reshape] = None,
        frame: Optional[int] = None,
    ) -> None:
        self._index, self._given = index, Input(input_size)
        self._reshape, self._frame = reshape, frame
        self._outputs: Dict[str, List[_Levels]] = {}
        self._stack = ExitStack()
        self._hooks = Hooks()
        self._context: Sequence[Context] = ()
        self._running: Optional[str] = None  # path of the outermost module being run
        self._source = None if input_size is None else "given"  # path of the module whose input was read
        self._thread = 0  # the thread that runs it
        self._failed: Dict[str, str] = {}  # path -> why a layer selected by name has no map
        self._elsewhere = ""  # why passes were ignored
        self._mixed = ""  # why maps may be mixed from several passes
        self._finished = False
        self.skipped: Dict[str, str] = {}
        self.layers: List[Layer] = []
        for layer in layers:
            reason = unhookable(layer.module, layer.title)
            if reason is None:
                self.layers.append(layer)
            else:
                self._skip(layer, reason)
        if not self.layers:
            raise FeatvizError(next(iter(self.skipped.values()), "no layer to capture"))

    def __enter__(self) -> Capture:
        with ExitStack() as stack:
            stack.callback(self._hooks.remove)
            stack.enter_context(_entered(self._hooks))
            stack.enter_context(_uncompiled())
            for root in (self._index.root, *self._index.copies):
                for path in ["", *self._watched()]:
                    module = module_at(root, path)
                    if module is not None and unhookable(module) is None:
                        before, after = partial(self._begin, path), partial(self._end, path)
                        self._hooks.add(module, self._guarded(before), self._guarded(after))
                for layer in self.layers:
                    module = module_at(root, layer.path)
                    if module is not None:
                        self._hooks.add(module, after=self._guarded(partial(self._keep, layer)))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._stack.close()
        if kind is None and self._mixed:
            self._outputs.clear()
            raise FeatvizError(self._mixed)
        for layer in self.layers if kind is None else ():
            reason = self._failed.get(layer.path)
            if reason is None and layer.path not in self._outputs:
                if self._finished:
                    reason = f"{layer.title} was not run in the forward pass"
                elif self._elsewhere and not self._outputs:
                    reason = self._elsewhere
            if reason is not None:
                self._skip(layer, reason)

    def _watched(self) -> List[str]:
        """Return where a pass may begin: all layers, or if the input size is known, those around captured ones."""
        paths = [layer.path for layer in self._index.layers]
        if self._source is None:
            return paths
        return [path for path in paths if any(is_inside(layer.path, path) for layer in self.layers)]

    def _skip(self, layer: Layer, reason: str) -> None:
        if not layer.optional:
            raise FeatvizError(reason)
        self.skipped[layer.path] = reason

    def _guarded(self, hook: Callable[..., None]) -> Callable[..., None]:
        """Restrict a hook to our own passes, and keep its errors out of the model's forward pass."""

        def guarded(module: nn.Module, *arguments: Any) -> None:
            try:
                if self._is_ours(module):
                    with _apart():
                        hook(module, *arguments)
            except Exception as error:
                self._elsewhere = self._elsewhere or f"the forward pass could not be followed: {reason_of(error)}"

        return guarded

    def _is_ours(self, module: nn.Module) -> bool:
        """Return whether a pass runs where this block was entered: in that thread, or a task started there.

        Recomputation by gradient checkpointing is ignored: it repeats a pass, and may stop before its end.
        """
        if _GRAPH_TASK() != -1:
            return False
        entered = _ENTERED.get()
        if self._hooks in entered:
            return True
        others = owners_of(module)
        if any(owner in entered for owner in others):
            return False
        # DataParallel runs replicas in threads of its own
        if getattr(module, "_is_replica", False) and others == (self._hooks,):
            return True
        self._elsewhere = (
            "the model was run in another thread than the one that entered the capture: enter it where the model is run"
        )
        return False

    def _begin(
        self, path: str, module: nn.Module, args: Tuple[Any, ...], kwargs: Optional[Dict[str, Any]] = None
    ) -> None:
        """Handle the start of the model, or of a layer, which may be called without it.

        A call while nothing else runs starts a new pass. Within a pass, calls are numbered.
        """
        thread = threading.get_ident()
        if self._running is not None and thread != self._thread and _is_in_module(self._thread):
            self._mixed = "several threads ran the model at once within one capture: use a capture for each thread"
        # if it is itself marked as running, it was left by an exception
        anew = self._running is None or is_inside(self._running, path)
        if anew:
            self._running, self._thread = path, thread
            for known in [known for known in self._outputs if is_inside(known, path)]:
                del self._outputs[known]
        inputs = [*args, *(kwargs or {}).values()]
        channels = self._index.input_channels if path == "" else None
        given = next((one for one in (read_input(value, channels) for value in inputs) if one is not None), None)
        if path == "" or (anew and given is not None and self._source in (None, path)):
            self._given, self._source = given or Input(), path
            self._context = ()
            if path == "" and self._index.context is not None:
                self._context = self._index.context(module, self._given, inputs)
        elif given is not None and self._given.size is None:
            self._given = replace(self._given, size=given.size)

    def _end(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        if self._running == path:
            self._running = None
            self._finished = self._finished or path == ""

    def _keep(self, layer: Layer, module: nn.Module, args: Any, output: Any) -> None:
        levels: _Levels = []
        whys: List[str] = []
        known: Dict[int, Tuple[torch.Tensor, torch.Tensor]] = {}  # a repeated tensor is copied once
        try:
            for name, tensor in tensors_of(output):
                try:
                    if id(tensor) not in known:
                        known[id(tensor)] = tensor, self._copied(tensor, module)
                    levels.append((name, known[id(tensor)][1]))
                except FeatvizError as error:
                    whys.append(str(error))
                except Exception as error:  # from an unknown kind of tensor, or the user's reshape
                    whys.append(reason_of(error))
            what = describe_output(output)
        except Exception as error:  # from an output that cannot be inspected
            what = f"a {type(output).__name__}, which cannot be inspected ({reason_of(error)})"
        if levels:
            self._outputs.setdefault(layer.path, []).append(levels)
            return
        why = next(filter(None, whys), "")
        reason = printable(f"{layer.title} yields {what}, not a feature map [B, C, H, W]{': ' * bool(why)}{why}")
        self._outputs.setdefault(layer.path, []).append([])
        if layer.optional:
            self.skipped[layer.path] = reason
        else:
            self._failed.setdefault(layer.path, reason)

    def _copied(self, tensor: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """Copy a tensor as maps to the CPU at once: later layers may work in place, or reuse the memory."""
        odd = without_values(tensor)
        if odd:
            raise FeatvizError(odd)
        patch = patch_size(self._index.root) if tensor.dim() < 4 else None  # tokens, in a batch or not
        maps = to_maps(tensor.detach(), module, self._given, patch, self._reshape, self._frame)
        odd = without_values(maps)  # the user's reshape may return anything
        if odd:
            raise FeatvizError(odd)
        return maps.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)

    def get(self, layer: Union[int, str], image: int = 0, level: Union[int, str] = 0, call: int = 0) -> FeatureMap:
        """Return the feature map of one layer.

        Args:
            layer: as in a layer selection, naming exactly one of the captured layers.
            image: position in the batch.
            level: position or name of the tensor, if the layer returns several.
            call: number of the call, if the layer is called several times in a forward pass.

        Raises:
            KeyError: nothing was captured under that name.
        """
        found = [one for one in select_layers(self._index, layer) if one.path in self._outputs]
        if len(found) != 1:
            captured = ", ".join(one.name for one in self.layers if one.path in self._outputs)
            raise KeyError(f"{layer!r} names {len(found)} captured layers; captured: {captured or 'none yet'}")
        calls = self._outputs[found[0].path]
        if not 0 <= call < len(calls):
            raise KeyError(f"{found[0].title} has no call {call}: it was called {len(calls)} times")
        names = [name for name, _ in calls[call]]
        position = names.index(level) if level in names else level
        maps = [fm for fm in self.of_image(image) if fm.layer.path == found[0].path and fm.call in (None, call)]
        if not isinstance(position, int) or not 0 <= position < len(maps):
            raise KeyError(f"{found[0].title} has no level {level} for image {image}")
        return maps[position]

    def of_image(self, image: int, name: str = "") -> List[FeatureMap]:
        """Return the maps of one image of the batch, layer by layer; ``name`` is its name in captions."""
        context = self._context[image] if 0 <= image < len(self._context) else Context()
        return [
            FeatureMap(
                tensor[image],
                layer,
                self._given.size,
                level=level if len(levels) > 1 else None,
                image=name or context.image,
                call=call if len(calls) > 1 else None,
                region=context.region,
            )
            for layer in self.layers
            for calls in [self._outputs.get(layer.path, [])]
            for call, levels in enumerate(calls)
            for level, tensor in levels
            if 0 <= image < len(tensor)
        ]

    def _tensors(self) -> Iterator[torch.Tensor]:
        return (tensor for calls in self._outputs.values() for levels in calls for _, tensor in levels)

    def __getitem__(self, layer: Union[int, str]) -> FeatureMap:
        return self.get(layer)

    def __iter__(self) -> Iterator[FeatureMap]:
        for image in range(max(map(len, self._tensors()), default=0)):
            yield from self.of_image(image)

    def __len__(self) -> int:
        return sum(map(len, self._tensors()))


def capture(
    model: nn.Module,
    layers: LayerSpec = "all",
    reshape: Optional[Reshape] = None,
    frame: Optional[int] = None,
) -> Capture:
    """Collect the output of ``layers`` during the forward passes of a ``with`` block.

    ::

        with capture(model, "17,20,23") as features:
            model(images)
        features[17].grid().save("stage17.png")

    Outputs are converted to ``[B, C, H, W]``: channels-last maps, the token maps of transformers, single
    images and clips; see :func:`yolov5_featviz.models.outputs.to_maps`. Each tensor of a tuple, list, dict
    or dataclass is a level of its own. A layer that is called several times in a forward pass has a map
    for each call, numbered from 0. Tensors without values to draw (sparse, meta, nested, quantised,
    complex, or without elements) are skipped.

    Several threads or asyncio tasks may capture one model at a time: each sees only its own passes.

    Args:
        model: any ``nn.Module``. It is not changed: hooks are set on entry and removed on exit, also
            when a forward pass raises, and are not part of copies or files of it made meanwhile. A model
            that went through ``torch.compile`` runs uncompiled within the block (from torch 2.6 on; it is
            refused before).
        layers: a layer selection; see :func:`yolov5_featviz.models.layers.select_layers`.
        reshape: the grid ``(height, width)`` of tokens ``[B, N, C]``, where it cannot be inferred from the
            shapes; or a function that converts any output to ``[B, C, H, W]``.
        frame: which frame of a clip's maps to keep; None for their mean over time.

    Raises:
        FeatvizError: the selection names no layer, or one inside a TorchScript module, which runs
            no hooks (before any forward pass); a layer selected by name returns no feature map or
            was not run, or the model was run in other threads only (at the end of the block, so
            that forward passes do not fail because of it). Layers selected by a group, a range or
            a pattern are skipped instead, and listed in ``skipped``.
    """
    index = index_layers(model)
    compiled = any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) for m in model.modules())
    if compiled and not _SET_STANCE:
        raise FeatvizError(
            f"torch {torch.__version__} runs no hooks in a compiled model: capture the model as it was before "
            "torch.compile, or take torch 2.6 or later"
        )
    return Capture(index, select_layers(index, layers), reshape=reshape, frame=frame)


_Levels = List[Tuple[Optional[str], torch.Tensor]]
_SET_STANCE: Any = getattr(getattr(torch, "compiler", None), "set_stance", None)  # torch 2.6
_GRAPH_TASK: Callable[[], int] = getattr(torch._C, "_current_graph_task_id", lambda: -1)  # torch 2.0
_ENTERED: ContextVar[Tuple[Hooks, ...]] = ContextVar("captures", default=())
_LOCK = threading.RLock()
_stance: Any = None
_captures = 0


@contextmanager
def _entered(hooks: Hooks) -> Iterator[None]:
    """Mark this context, so that only passes made in it count, not those of other threads and tasks."""
    _ENTERED.set((*_ENTERED.get(), hooks))
    try:
        yield
    finally:
        _ENTERED.set(tuple(other for other in _ENTERED.get() if other is not hooks))


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Disable compiled code in all threads: it does not run hooks that are set after compilation."""
    global _stance, _captures
    with _LOCK:
        _captures += 1
        if _stance is None and "torch._dynamo" in sys.modules and _SET_STANCE:
            _stance = _SET_STANCE("force_eager")
    try:
        yield
    finally:
        with _LOCK:
            _captures -= 1
            if _captures == 0 and _stance is not None:
                _stance.__exit__(None, None, None)
                _stance = None


@contextmanager
def _apart() -> Iterator[None]:
    """Disable tracing and inference mode (torch 1.9), so that tensors made within are normal ones."""
    set_tracing: Callable[[Any], None] = vars(torch._C)["_set_tracing_state"]
    tracing = torch._C._get_tracing_state()
    set_tracing(None)
    try:
        with torch.inference_mode(False) if hasattr(torch, "inference_mode") else nullcontext():
            yield
    finally:
        set_tracing(tracing)


def _is_in_module(thread: int) -> bool:
    """Return whether a thread is running a module right now."""
    frame = sys._current_frames().get(thread)
    while frame is not None and frame.f_code is not nn.Module._call_impl.__code__:
        frame = frame.f_back
    return frame is not None
