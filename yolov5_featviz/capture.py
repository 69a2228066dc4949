"""Forward hooks in, feature maps out."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
)

import torch
from torch import nn

from yolov5_featviz.boxes import Boxes, Region
from yolov5_featviz.channels import ChannelSpec
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.errors import reason as reason_of
from yolov5_featviz.hooks import Hooks, owners_of
from yolov5_featviz.layers import (
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
from yolov5_featviz.layout import (
    Input,
    Reshape,
    describe,
    patch_size,
    read_input,
    tensors_of,
    to_maps,
    without_values,
)
from yolov5_featviz.text import file_name, printable

if TYPE_CHECKING:
    from yolov5_featviz.heatmap import HeatMap
    from yolov5_featviz.render import Picture


@dataclass(frozen=True)
class FeatureMap:
    """One layer's output for one image.

    Attributes:
        data: ``[C, H, W]`` on the CPU, in the type the layer put out.
        layer: where it comes from.
        input_size: ``(height, width)`` in pixels of what the network was given, if known.
        level: which of several tensors of the layer this is, or None if it yields one.
        image: name of the image, for captions; may be empty.
        call: which call of a layer that is called several times in a forward pass, or None.
        region: where in the network's input the image lies, in its pixels: left, top, right and
            bottom edge. None if it fills it. The rest is padding.
        boxes: what was detected in the image, or None if that is not known.
    """

    data: torch.Tensor
    layer: Layer
    input_size: Optional[Tuple[int, int]] = None
    level: Optional[str] = None
    image: str = ""
    call: Optional[int] = None
    region: Optional[Region] = None
    boxes: Optional[Boxes] = None

    def __repr__(self) -> str:
        return f"<FeatureMap {self.title}: {list(self.data.shape)} {self.data.dtype}>"

    @property
    def channels(self) -> int:
        """Number of channels, C."""
        return int(self.data.shape[0])

    @property
    def stride(self) -> Optional[Tuple[float, float]]:
        """Input pixels to one cell of the map, ``(down, across)``; None if the input is not known."""
        if self.input_size is None:
            return None
        return self.input_size[0] / self.data.shape[1], self.input_size[1] / self.data.shape[2]

    @property
    def window(self) -> Region:
        """Where the image lies: ``region``, or all of the input; in cells of the map if the input is not known."""
        height, width = self.input_size or self.data.shape[1:]
        return self.region or (0.0, 0.0, float(width), float(height))

    @property
    def title(self) -> str:
        """For messages: ``bus, layer 17 (C3)``, with the call and the level where there are several."""
        call = f", call {self.call}" if self.call is not None else ""
        level = f", level {self.level}" if self.level is not None else ""
        return f"{self.image}{', ' * bool(self.image)}{self.layer.title}{call}{level}"

    @property
    def stem(self) -> str:
        """For file names: ``stage17_C3``, with the call and the level where there are several."""
        call = f"_call{self.call}" if self.call is not None else ""
        return file_name(self.layer.stem + call + (f"_level{self.level}" if self.level is not None else ""))

    def grid(
        self, channels: ChannelSpec = "64", norm: str = "channel", cmap: str = "viridis", **options: Any
    ) -> Picture:
        """Channels side by side; see :func:`yolov5_featviz.render.grid` for the arguments."""
        from yolov5_featviz.render import grid

        return grid(self, channels=channels, norm=norm, cmap=cmap, **options)

    def grids(self, channels: ChannelSpec = "64", **options: Any) -> Iterator[Picture]:
        """The same on pages of at most 256 channels each."""
        from yolov5_featviz.render import grids

        return grids(self, channels, **options)

    def heatmap(self, reduce: str = "mean", channels: ChannelSpec = "all", norm: Optional[str] = None) -> HeatMap:
        """All channels, or some, reduced to one map; see :func:`yolov5_featviz.heatmap.heatmap`."""
        from yolov5_featviz.heatmap import heatmap

        return heatmap(self, reduce, channels, norm)

    def channel(self, k: int, norm: str = "channel") -> HeatMap:
        """One channel by its number, to be drawn alone or over the image."""
        from yolov5_featviz.heatmap import channel

        return channel(self, k, norm)

    def pca(self, channels: ChannelSpec = "all", **options: Any) -> Picture:
        """Three principal components in colours; see :func:`yolov5_featviz.heatmap.pca_picture`."""
        from yolov5_featviz.heatmap import pca_picture

        return pca_picture(self, channels, **options)

    def rgb(self, norm: str = "signed-robust", **options: Any) -> Picture:
        """Three channels as red, green and blue; see :func:`yolov5_featviz.heatmap.rgb_picture`."""
        from yolov5_featviz.heatmap import rgb_picture

        return rgb_picture(self, norm, **options)

    def _repr_png_(self) -> bytes:
        return self.grid().to_png()


class Capture:
    """Collects the output of chosen layers while the ``with`` block lasts.

    A mapping from layer to feature map: ``features[17]``, ``features["17.m.0"]``; iterating gives
    every :class:`FeatureMap`, image by image and layer by layer. A later forward pass replaces the
    maps of an earlier one. ``skipped`` holds, for layers that were passed over, why. Made by
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
        self._running: Optional[str] = None  # path of the outermost module that is being run
        self._source = None if input_size is None else "given"  # path of the module whose input was read
        self._thread = 0  # which runs that module
        self._failed: Dict[str, str] = {}  # path -> why a layer that was asked for by name has no map
        self._elsewhere = ""  # why passes were left out
        self._mixed = ""  # why maps may be of several passes
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
        """The layers in which a pass may begin: all, or if the size of the input is known, those that matter."""
        paths = [layer.path for layer in self._index.layers]
        if self._source is None:
            return paths
        return [path for path in paths if any(is_inside(layer.path, path) for layer in self.layers)]

    def _skip(self, layer: Layer, reason: str) -> None:
        if not layer.optional:
            raise FeatvizError(reason)
        self.skipped[layer.path] = reason

    def _guarded(self, hook: Callable[..., None]) -> Callable[..., None]:
        """The hook for the passes that are ours. Nothing that goes wrong in it gets into the model's forward pass."""

        def guarded(module: nn.Module, *arguments: Any) -> None:
            try:
                if self._is_ours(module):
                    with _apart():
                        hook(module, *arguments)
            except Exception as error:
                self._elsewhere = self._elsewhere or f"the forward pass could not be followed: {reason_of(error)}"

        return guarded

    def _is_ours(self, module: nn.Module) -> bool:
        """Whether a pass is made where this block was entered: in that thread, or a task that was begun there.

        What checkpointing computes anew for the gradients was seen before, and is not always computed to its end.
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
        """Before the model is run, or a layer, which may be called without it.

        What is called while nothing else runs begins a pass anew. Within a pass, calls are numbered.
        """
        thread = threading.get_ident()
        if self._running is not None and thread != self._thread and _is_in_module(self._thread):
            self._mixed = "several threads ran the model at once within one capture: let each enter one of its own"
        # one that is itself marked as running was left by an exception
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
        known: Dict[int, Tuple[torch.Tensor, torch.Tensor]] = {}  # a tensor that comes twice is copied once
        try:
            for name, tensor in tensors_of(output):
                try:
                    if id(tensor) not in known:
                        known[id(tensor)] = tensor, self._copied(tensor, module)
                    levels.append((name, known[id(tensor)][1]))
                except FeatvizError as error:
                    whys.append(str(error))
                except Exception as error:  # of a kind of tensor that nobody has thought of, or the user's reshape
                    whys.append(reason_of(error))
            what = describe(output)
        except Exception as error:  # of an output that cannot be looked into
            what = f"a {type(output).__name__}, which cannot be looked into ({reason_of(error)})"
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
        """A tensor as maps on the CPU, copied at once: what follows may work in place, or reuse the memory."""
        odd = without_values(tensor)
        if odd:
            raise FeatvizError(odd)
        patch = patch_size(self._index.root) if tensor.dim() < 4 else None  # tokens, in a batch or not
        maps = to_maps(tensor.detach(), module, self._given, patch, self._reshape, self._frame)
        odd = without_values(maps)  # the user's reshape may have made anything
        if odd:
            raise FeatvizError(odd)
        return maps.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)

    def get(self, layer: Union[int, str], image: int = 0, level: Union[int, str] = 0, call: int = 0) -> FeatureMap:
        """The feature map of one layer.

        Args:
            layer: as in a layer selection, naming exactly one of the captured layers.
            image: position in the batch.
            level: position among the tensors of a layer that yields several, or the tensor's name.
            call: which call, of a layer that is called several times in a forward pass.

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
        """The maps of one image of the batch, layer by layer; ``name`` is put into captions."""
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

    Whatever a layer puts out is brought to ``[B, C, H, W]``: channels-last maps, the token maps of
    transformers, single images and clips; :func:`yolov5_featviz.layout.to_maps` says how. Of a
    tuple, list, dict or dataclass each tensor is a level of its own. A layer that is called several
    times in a forward pass has a map for each call, numbered from 0. Tensors that hold no values to
    draw (sparse, meta, nested, quantised, complex, or without elements) are passed over.

    Several threads, or asyncio tasks, may capture one model at a time: each sees the passes of its own.

    Args:
        model: any ``nn.Module``. It is not changed: hooks are set on entry and are gone on exit,
            whether or not a forward pass raised, and no copy or file made of it meanwhile holds
            them. A model that went through ``torch.compile`` runs uncompiled within the block (from torch
            2.6 on; it is refused before).
        layers: a layer selection; see :func:`yolov5_featviz.layers.select_layers`.
        reshape: the grid ``(height, width)`` on which tokens ``[B, N, C]`` lie, where that cannot be
            told from the shapes; or a function that makes ``[B, C, H, W]`` of any output.
        frame: which frame of a clip's maps to keep; None for their mean over time.

    Raises:
        FeatvizError: the selection names no layer, or one inside a TorchScript module, which runs
            no hooks (before any forward pass); a layer asked for by name yields nothing that is a
            feature map or was not run, or the model was run in other threads only (at the end of the
            block: no forward pass fails that would have run without it). Layers that came with a
            group, a range or a pattern are passed over instead and told in ``skipped``.
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
    """Passes made within count, those of other threads and tasks do not."""
    _ENTERED.set((*_ENTERED.get(), hooks))
    try:
        yield
    finally:
        _ENTERED.set(tuple(other for other in _ENTERED.get() if other is not hooks))


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Compiled code, which runs none of the hooks that are set after it was compiled, is left aside in all threads."""
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
    """Tensors made within are normal ones, also in inference mode (torch 1.9), and no trace records what is done."""
    set_tracing: Callable[[Any], None] = vars(torch._C)["_set_tracing_state"]
    tracing = torch._C._get_tracing_state()
    set_tracing(None)
    try:
        with torch.inference_mode(False) if hasattr(torch, "inference_mode") else nullcontext():
            yield
    finally:
        set_tracing(tracing)


def _is_in_module(thread: int) -> bool:
    """Whether a thread is running a module right now."""
    frame = sys._current_frames().get(thread)
    while frame is not None and frame.f_code is not nn.Module._call_impl.__code__:
        frame = frame.f_back
    return frame is not None
