"""Draw the weights of convolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional, Tuple, Union

import numpy as np
import torch
from torch import nn

from yolov5_featviz.draw.channels import ChannelSpec, choose
from yolov5_featviz.draw.grid import grid, mosaic
from yolov5_featviz.draw.lettering import SEPARATOR
from yolov5_featviz.draw.palette import check_look
from yolov5_featviz.draw.picture import Picture
from yolov5_featviz.draw.scale import Legend
from yolov5_featviz.draw.widths import width_of
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.models.layers import Layer, index_layers, select_layers


def kernels(
    model: nn.Module,
    layer: Union[int, str],
    inputs: Union[int, str, None] = None,
    channels: ChannelSpec = "64",
    norm: Optional[str] = None,
    cmap: Optional[str] = None,
    dpi: int = 300,
    plain: bool = False,
    width: Union[float, str, None] = None,
) -> Picture:
    """Draw a convolution's kernels side by side, one for each output channel.

    Args:
        model: any ``nn.Module``.
        layer: a convolution, or a module that contains just one; as in a layer selection.
        inputs: which part of a kernel ``[inputs, height, width]`` to draw.

            - ``rgb``: its three inputs as red, green and blue, ``0.5 + w / (2 max|w|)``, with the
              maximum over the kernel: mid-grey is 0.
            - ``norm``: the Euclidean norm over the inputs.
            - a number: that input's weights. In a grouped convolution, of its group.
            - None: ``rgb`` if there are three inputs, else ``norm``.
        channels: which output channels; see :func:`yolov5_featviz.draw.channels.choose`.
        norm: how weights become colours; see :func:`yolov5_featviz.arrays.normalize.normalize`. None: for
            one input ``signed``, so that 0 is in the middle, and for the norm ``channel``.
        cmap: a matplotlib colour map. None: ``RdBu_r`` for one input, ``viridis`` for the norm.
        dpi, plain, width: as for a grid of channels; see :func:`yolov5_featviz.draw.grid.grid`.

    Raises:
        FeatvizError: the layer is not a two-dimensional convolution, has no such input, or does not fit in
            ``width``.
    """
    found, weights = _find(model, layer)
    n, count, high, across = weights.shape
    inputs = ("rgb" if count == 3 else "norm") if inputs is None else inputs
    if inputs == "rgb" and count != 3:
        raise FeatvizError(f"{found.title} has {count} inputs, not the three of a colour image: take norm, or a number")
    if inputs not in ("rgb", "norm") and not (isinstance(inputs, int) and 0 <= inputs < count):
        raise FeatvizError(f"no input {inputs!r} of {found.title}: take rgb, norm or a number, 0 to {count - 1}")
    values = weights.sum(1) if inputs == "rgb" else weights.norm(dim=1) if inputs == "norm" else weights[:, int(inputs)]
    what = {"rgb": "kernels as RGB", "norm": f"kernels, norm over {count} inputs"}
    named = replace(found, type=f"{found.type} {what.get(str(inputs), f'kernels, input {inputs}')}")
    as_map = FeatureMap(values, named)
    if inputs != "rgb":
        signed = inputs != "norm"
        return grid(
            as_map,
            channels,
            norm or ("signed" if signed else "channel"),
            cmap or ("RdBu_r" if signed else "viridis"),
            dpi=dpi,
            plain=plain,
            width=width,
        )
    check_look("gray", dpi)
    chosen = choose(as_map, channels).channels
    kept = weights[chosen].numpy().transpose(0, 2, 3, 1)
    largest = np.abs(kept).reshape(len(kept), -1).max(axis=1)
    scaled = 0.5 + kept / (2 * np.where(largest > 0, largest, 1))[:, None, None, None]
    pixels = np.rint(scaled * 255).astype(np.uint8)
    shown = f"{n} channels" if len(chosen) == n else f"{len(chosen)} of {n} channels"
    title = SEPARATOR.join([f"Layer {found.name}", named.type, shown, f"H×W {high}×{across}"])
    words = [] if plain else [str(channel) for channel in chosen]
    key = Legend("−max", "max", "of each kernel on its own")
    inches = None if width is None else width_of(width)
    return mosaic(pixels, chosen, words, title, key, "gray", dpi, plain, inches=inches)


def _find(model: nn.Module, layer: Union[int, str]) -> Tuple[Layer, torch.Tensor]:
    """Return the convolution that ``layer`` names, and its weights on the CPU, ``[outputs, inputs, height, width]``."""
    index = index_layers(model)
    selected = select_layers(index, layer)
    inside = [
        (one, path, module)
        for one in selected
        for path, module in one.module.named_modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
    ]
    if len(inside) != 1:
        named = selected[0].title if len(selected) == 1 else f"{layer!r}, which names {len(selected)} layers,"
        paths = ", ".join(f"{one.name}.{path}".rstrip(".") for one, path, _ in inside[:6])
        raise FeatvizError(
            f"{named} holds {len(inside) or 'no'} two-dimensional convolutions"
            + (f": take one of {paths}" if paths else "")
        )
    one, path, module = inside[0]
    if path:
        (one,) = select_layers(index, f"{one.path}.{path}")
    weights = module.weight.detach().cpu().float()
    if isinstance(module, nn.ConvTranspose2d):  # whose weights are [inputs, outputs / groups, height, width]
        parts = weights.reshape(module.groups, -1, *weights.shape[1:])
        weights = parts.transpose(1, 2).reshape(-1, parts.shape[1], *weights.shape[2:])
    return one, weights
