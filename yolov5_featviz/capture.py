"""Forward hooks in, feature maps out."""

from __future__ import annotations

import inspect
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
    Type,
    Union,
)

import torch
from torch import nn

from yolov5_featviz.boxes import Boxes, Region
from yolov5_featviz.channels import ChannelSpec
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.layers import (
    Context,
    Layer,
    LayerIndex,
    LayerSpec,
    index_layers,
    is_inside,
    select_layers,
    unhookable,
)
from yolov5_featviz.layout import Input, Reshape, describe, patch_size, read_input, tensors_of, to_maps

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
        return self.layer.stem + call + (f"_level{self.level}" if self.level is not None else "")

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
        self._reshape, self._frame, self._patch = reshape, frame, patch_size(index.root)
        self._outputs: Dict[str, List[_Levels]] = {}
        self._stack = ExitStack()
        self._hooks: Set[Any] = set()
        self._hooked: Set[nn.Module] = set()
        self._copies: Set[nn.Module] = set()
        self._context: Sequence[Context] = ()
        self._running: Optional[str] = None  # path of the outermost module that is being run
        self._source = None if input_size is None else "given"  # path of the module whose input was read
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
            stack.callback(self._remove_hooks)
            if "torch._dynamo" in sys.modules and _SET_STANCE:
                # compiled code runs none of the hooks that are set after it was compiled
                stack.enter_context(_SET_STANCE("force_eager"))
            for root in (self._index.root, *self._index.copies):
                modules = dict(root.named_modules())
                for path in ["", *(layer.path for layer in self._index.layers)]:
                    if path in modules and unhookable(modules[path]) is None:
                        begin, end = self._bounds(path)
                        self._hook("register_forward_pre_hook", modules[path], begin)
                        self._hook("register_forward_hook", modules[path], end)
                for layer in self.layers:
                    if layer.path in modules:
                        self._hook("register_forward_hook", modules[layer.path], self._keep(layer))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._stack.close()
        if kind is None and self._finished:
            for layer in self.layers:
                if layer.path not in self._outputs:
                    self._skip(layer, f"{layer.title} was not run in the forward pass")

    def _skip(self, layer: Layer, reason: str) -> None:
        if not layer.optional:
            raise FeatvizError(reason)
        self.skipped[layer.path] = reason

    def _hook(self, register: str, module: nn.Module, hook: Callable[..., None]) -> None:
        # only what a network is given is looked for among keyword arguments
        keywords = {"with_kwargs": True} if register == "register_forward_pre_hook" and _WITH_KWARGS else {}
        getattr(module, register)(hook, **keywords)
        self._hooks.add(hook)
        self._hooked.add(module)

    def _is_on(self, module: nn.Module) -> bool:
        """Whether a hook that ``module`` runs is to do its work; notes copies of modules that were hooked."""
        if self._hooks and module not in self._hooked:
            self._copies.add(module)
        return bool(self._hooks)

    def _remove_hooks(self) -> None:
        """Also from copies that were made of the model meanwhile, hooks and all, and that were run."""
        for module in self._hooked.union(*(copy.modules() for copy in self._copies)):
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for key in [key for key, hook in hooks.items() if hook in self._hooks]:
                    del hooks[key]
                    getattr(module, "_forward_pre_hooks_with_kwargs", {}).pop(key, None)
        self._hooks.clear()
        self._hooked.clear()
        self._copies.clear()

    def _bounds(self, path: str) -> Tuple[Callable[..., None], Callable[..., None]]:
        """Hooks for the begin and end of the model, or of a layer that may be called without it.

        What is called while nothing else runs begins a pass anew. Within a pass, calls are numbered.
        """

        def begin(module: nn.Module, args: Tuple[Any, ...], kwargs: Optional[Dict[str, Any]] = None) -> None:
            if not self._is_on(module):
                return
            # one that is itself marked as running was left by an exception
            anew = self._running is None or is_inside(self._running, path)
            if anew:
                self._running = path
                for known in [known for known in self._outputs if is_inside(known, path)]:
                    del self._outputs[known]
            inputs = [*args, *(kwargs or {}).values()]
            channels = self._index.input_channels if path == "" else None
            given = next((one for one in (read_input(value, channels) for value in inputs) if one is not None), None)
            if path == "" or (anew and given is not None and self._source in (None, path)):
                self._given, self._source = given or Input(), path
                tell = self._index.context if path == "" else None
                self._context = tell(module, self._given, inputs) if tell else ()
            elif given is not None and self._given.size is None:
                self._given = replace(self._given, size=given.size)

        def end(module: nn.Module, args: Any, output: Any) -> None:
            if self._running == path:
                self._running = None
                self._finished = self._finished or path == ""

        return begin, end

    def _keep(self, layer: Layer) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if not self._is_on(module):
                return
            levels: _Levels = []
            why = ""
            with _normal_tensors():
                for name, tensor in tensors_of(output):
                    try:
                        maps = to_maps(tensor.detach(), module, self._given, self._patch, self._reshape, self._frame)
                    except FeatvizError as error:
                        why = why or str(error)
                        continue
                    # copied at once: what follows may work in place, or reuse the memory
                    levels.append((name, maps.to("cpu", copy=True, memory_format=torch.contiguous_format)))
            if not levels:
                reason = f"{layer.title} yields {describe(output)}, not a feature map [B, C, H, W]"
                self._skip(layer, f"{reason}: {why}" if why else reason)
            self._outputs.setdefault(layer.path, []).append(levels)

        return keep

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
    times in a forward pass has a map for each call, numbered from 0.

    Args:
        model: any ``nn.Module``. It is not changed: hooks are set on entry and are gone on exit,
            whether or not a forward pass raised. A model that went through ``torch.compile`` runs
            uncompiled within the block (from torch 2.6 on; it is refused before).
        layers: a layer selection; see :func:`yolov5_featviz.layers.select_layers`.
        reshape: the grid ``(height, width)`` on which tokens ``[B, N, C]`` lie, where that cannot be
            told from the shapes; or a function that makes ``[B, C, H, W]`` of any output.
        frame: which frame of a clip's maps to keep; None for their mean over time.

    Raises:
        FeatvizError: the selection names no layer, or one inside a TorchScript module, which runs
            no hooks (before any forward pass); a layer asked for by name yields nothing that is a
            feature map (from within the forward pass) or was not run (at the end of the block).
            Layers that came with a group, a range or a pattern are passed over instead and told in
            ``skipped``.
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
_WITH_KWARGS = "with_kwargs" in inspect.signature(nn.Module.register_forward_pre_hook).parameters  # torch 2.0
_SET_STANCE: Any = getattr(getattr(torch, "compiler", None), "set_stance", None)  # torch 2.6


def _normal_tensors() -> ContextManager[Any]:
    """Tensors made within are normal ones, also in inference mode, which torch 1.9 brought."""
    return torch.inference_mode(False) if hasattr(torch, "inference_mode") else nullcontext()
