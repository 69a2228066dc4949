"""Forward hooks in, feature maps out."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Tuple, Type, Union

import torch
from torch import nn

from yolov5_featviz.boxes import Boxes, Region
from yolov5_featviz.channels import ChannelSpec
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.layers import Layer, LayerIndex, LayerSpec, index_layers, select_layers

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
        region: where in the network's input the image lies, in its pixels: left, top, right and
            bottom edge. None if it fills it. The rest is padding.
        boxes: what was detected in the image, or None if that is not known.
    """

    data: torch.Tensor
    layer: Layer
    input_size: Optional[Tuple[int, int]] = None
    level: Optional[str] = None
    image: str = ""
    region: Optional[Region] = None
    boxes: Optional[Boxes] = None

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
        """For messages: ``bus, layer 17 (C3)``, with the level where there are several."""
        level = f", level {self.level}" if self.level is not None else ""
        return f"{self.image}{', ' * bool(self.image)}{self.layer.title}{level}"

    @property
    def stem(self) -> str:
        """For file names: ``stage17_C3``, with the level where there are several."""
        return self.layer.stem + (f"_level{self.level}" if self.level is not None else "")

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

    def _repr_png_(self) -> bytes:
        return self.grid().to_png()


class Capture:
    """Collects the output of chosen layers while the ``with`` block lasts.

    A mapping from layer to feature map: ``features[17]``, ``features["17.m.0"]``; iterating gives
    every :class:`FeatureMap`, image by image and layer by layer. A later forward pass replaces the
    maps of an earlier one. Made by :func:`capture`.
    """

    def __init__(self, index: LayerIndex, layers: List[Layer], input_size: Optional[Tuple[int, int]] = None) -> None:
        self._index, self.layers, self._size = index, layers, input_size
        self._outputs: Dict[str, List[Tuple[Optional[str], torch.Tensor]]] = {}
        self._handles: List[Any] = []
        self.skipped: Dict[str, str] = {}

    def __enter__(self) -> Capture:
        def see_input(module: nn.Module, args: Tuple[Any, ...]) -> None:
            if args and isinstance(args[0], torch.Tensor) and args[0].dim() == 4:
                self._size = (int(args[0].shape[2]), int(args[0].shape[3]))

        self._handles.append(self._index.root.register_forward_pre_hook(see_input))
        for layer in self.layers:
            self._handles.append(layer.module.register_forward_hook(self._hook(layer)))
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, layer: Layer) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            levels = [(name, tensor) for name, tensor in _levels(output) if tensor.dim() == 4]
            if not levels:
                reason = f"{layer.title} yields {_describe(output)}, not a feature map [B, C, H, W]"
                if not layer.optional:
                    raise FeatvizError(reason)
                self.skipped[layer.path] = reason
            # copied at once: what follows may work in place, or reuse the memory
            self._outputs[layer.path] = [(name, tensor.detach().to("cpu", copy=True)) for name, tensor in levels]

        return keep

    def get(self, layer: Union[int, str], image: int = 0, level: int = 0) -> FeatureMap:
        """The feature map of one layer.

        Args:
            layer: as in a layer selection, naming exactly one of the captured layers.
            image: position in the batch.
            level: position among the tensors of a layer that yields several.

        Raises:
            KeyError: nothing was captured under that name.
        """
        found = [one for one in select_layers(self._index, layer) if one.path in self._outputs]
        if len(found) != 1:
            captured = ", ".join(one.name for one in self.layers if one.path in self._outputs)
            raise KeyError(f"{layer!r} names {len(found)} captured layers; captured: {captured or 'none yet'}")
        maps = [fm for fm in self.of_image(image) if fm.layer.path == found[0].path]
        if not 0 <= level < len(maps):
            raise KeyError(f"{found[0].title} has no level {level} for image {image}")
        return maps[level]

    def of_image(self, image: int, name: str = "") -> List[FeatureMap]:
        """The maps of one image of the batch, layer by layer; ``name`` is put into captions."""
        return [
            FeatureMap(tensor[image], layer, self._size, level if len(levels) > 1 else None, name)
            for layer in self.layers
            for levels in [self._outputs.get(layer.path, [])]
            for level, tensor in levels
            if 0 <= image < len(tensor)
        ]

    def __getitem__(self, layer: Union[int, str]) -> FeatureMap:
        return self.get(layer)

    def __iter__(self) -> Iterator[FeatureMap]:
        batch = max((len(tensor) for levels in self._outputs.values() for _, tensor in levels), default=0)
        for image in range(batch):
            yield from self.of_image(image)

    def __len__(self) -> int:
        return sum(len(tensor) for levels in self._outputs.values() for _, tensor in levels)


def capture(model: nn.Module, layers: LayerSpec = "all") -> Capture:
    """Collect the output of ``layers`` during the forward passes of a ``with`` block.

    ::

        with capture(model, "17,20,23") as features:
            model(images)
        features[17].grid().save("stage17.png")

    Args:
        model: any ``nn.Module``. It is not changed: hooks are set on entry and are gone on exit,
            whether or not a forward pass raised.
        layers: a layer selection; see :func:`yolov5_featviz.layers.select_layers`.

    Raises:
        FeatvizError: the selection names no layer (before any forward pass), or a layer asked for
            by name yields no ``[B, C, H, W]`` tensor (from within the forward pass). Layers that
            came with a group or a range are passed over instead and told in ``skipped``.
    """
    index = index_layers(model)
    return Capture(index, select_layers(index, layers))


def _levels(output: Any, name: Optional[str] = None) -> Iterator[Tuple[Optional[str], torch.Tensor]]:
    """The tensors of an output in order, each with its place in it (``0``, ``1.0``, ``p3``)."""
    if isinstance(output, torch.Tensor):
        yield name, output
        return
    parts = (
        output.items() if isinstance(output, dict) else enumerate(output) if isinstance(output, (list, tuple)) else ()
    )
    for key, part in parts:
        yield from _levels(part, str(key) if name is None else f"{name}.{key}")


def _describe(output: Any) -> str:
    if isinstance(output, torch.Tensor):
        return f"a tensor of shape {list(output.shape)}"
    shapes = [str(list(tensor.shape)) for _, tensor in _levels(output)]
    return f"tensors of shapes {', '.join(shapes)}" if shapes else f"a {type(output).__name__} without tensors"
