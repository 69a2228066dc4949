"""Project a layer's response back to the image: which changes of pixels would make a channel respond more.

The rules for gradients through ReLU are those of ``captum``, an optional extra.
"""

from __future__ import annotations

import warnings
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.attribution.cam import differentiable, gradients_on, plain_errors
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.models.hooks import eval_mode, output_hooks
from yolov5_featviz.models.layers import Layer, index_layers, select_layers, unhookable
from yolov5_featviz.models.outputs import Input, Reshape, check_image, describe_output, patch_size, tensors_of, to_maps

# name -> name in captions, class of captum.attr and its options
BACKPROJECTIONS: Dict[str, Tuple[str, str, Dict[str, Any]]] = {
    "guided-backprop": ("guided backpropagation", "GuidedBackprop", {}),
    "deconvolution": ("deconvolution", "Deconvolution", {}),
    "gradient": ("gradient", "Saliency", {"abs": False}),
}


def backproject(
    model: nn.Module,
    image: torch.Tensor,
    layer: Union[int, str],
    channel: Optional[int] = None,
    cell: Union[str, Tuple[int, int]] = "max",
    method: str = "guided-backprop",
    region: Optional[Region] = None,
    name: str = "",
    reshape: Optional[Reshape] = None,
) -> FeatureMap:
    """Project a layer's response back to the space of the image.

    Args:
        model: any ``nn.Module``. It is not changed.
        image: the model's input ``[1, C, H, W]``, preprocessed.
        layer: a layer that returns one feature map; as in a layer selection.
        channel: the channel whose response is explained; None for the sum of all channels.
        cell: where on the map: ``max``, the largest response; ``(row, column)``; or ``all``, the sum.
        method: how the gradient of that response with respect to the image is computed.

            - ``guided-backprop``: through each ReLU only where the forward signal was positive and
              the gradient is (J. T. Springenberg et al., ICLR 2015 workshop).
            - ``deconvolution``: through each ReLU only where the gradient is positive, whatever the
              forward signal was (M. D. Zeiler and R. Fergus, ECCV 2014).
            - ``gradient``: unchanged (K. Simonyan et al., ICLR 2014 workshop).
        region: where in the input the image lies, for overlays; see :class:`FeatureMap`.
        name: name of the image, for captions.
        reshape: as for :func:`yolov5_featviz.features.capture.capture`.

    Returns:
        A feature map of stride 1, ``[C, H, W]``: the gradient, in units of the response per unit of
        input. ``.rgb()`` draws it in colours, ``.heatmap("l2").over(photo)`` its strength.

    Raises:
        FeatvizError: invalid argument, captum is not installed, the model has no ``nn.ReLU``, by
            which the first two methods are defined (``F.relu`` is not found), or the layer returns
            no feature map.
    """
    if method not in BACKPROJECTIONS:
        raise FeatvizError(f"no method {method!r}: take one of {', '.join(BACKPROJECTIONS)}")
    try:
        import captum.attr
    except ImportError:
        raise FeatvizError("backproject needs captum: pip install 'yolov5-featviz[backproject]'") from None
    check_image(image, "backproject")
    with gradients_on(), plain_errors():
        index = index_layers(differentiable(model))
        selected = select_layers(index, layer)
        if len(selected) != 1:
            raise FeatvizError(f"{layer!r} names {len(selected)} layers: take one of them")
        if method != "gradient" and not any(isinstance(module, nn.ReLU) for module in index.root.modules()):
            raise FeatvizError(
                f"{BACKPROJECTIONS[method][0]} is defined for ReLU, and the model has none: take method='gradient'"
            )
        response = _Response(index.root, selected[0], channel, cell, reshape)
        _, engine, options = BACKPROJECTIONS[method]
        with eval_mode(response), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # captum warns that it sets hooks and gradients
            found = getattr(captum.attr, engine)(response).attribute(image.detach().clone(), **options)
    what = "all channels" if channel is None else f"channel {channel}"
    where = "" if response.at is None else f" at {response.at[0]},{response.at[1]}"
    words = f"{name}{', ' * bool(name)}{what}{where} by {BACKPROJECTIONS[method][0]}"
    size = (int(image.shape[2]), int(image.shape[3]))
    return FeatureMap(found[0].detach().cpu(), selected[0], size, image=words, region=region)


class _Response(nn.Module):
    """A model reduced to the response of one layer, ``[1]``."""

    def __init__(
        self,
        model: nn.Module,
        layer: Layer,
        channel: Optional[int],
        cell: Union[str, Tuple[int, int]],
        reshape: Optional[Reshape],
    ) -> None:
        super().__init__()
        self.model, self.layer, self.channel, self.cell, self.reshape = model, layer, channel, cell, reshape
        self.patch = patch_size(model)
        self.at: Optional[Tuple[int, int]] = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        reason = unhookable(self.layer.module, self.layer.title)
        if reason:
            raise FeatvizError(reason)
        kept: List[torch.Tensor] = []

        def keep(output: Any) -> Any:
            tensors = [tensor for _, tensor in tensors_of(output)]
            if len(tensors) != 1:
                raise FeatvizError(
                    f"{self.layer.title} yields {describe_output(output)}: take a layer that yields one tensor"
                )
            try:
                given = Input((int(x.shape[2]), int(x.shape[3])), 1)
                kept[:] = [to_maps(tensors[0], self.layer.module, given, self.patch, self.reshape)[0]]
            except FeatvizError as error:
                why = f": {error}" * bool(str(error))
                raise FeatvizError(
                    f"{self.layer.title} yields {describe_output(output)}, not a feature map{why}"
                ) from None
            return output.clone() if isinstance(output, torch.Tensor) else None  # later layers may work in place

        with output_hooks([(self.layer.module, keep)]):
            self.model(x)
        if not kept:
            raise FeatvizError(f"{self.layer.title} was not run in the forward pass")
        count, height, width = kept[0].shape
        if self.channel is not None and not 0 <= self.channel < count:
            raise FeatvizError(f"no channel {self.channel}: {self.layer.title} has channels 0 to {count - 1}")
        plane = kept[0].sum(0) if self.channel is None else kept[0][self.channel]
        if self.cell == "all":
            return plane.sum().reshape(1)
        if self.cell == "max":
            self.at = divmod(int(plane.argmax()), width)
        elif isinstance(self.cell, (tuple, list)) and len(self.cell) == 2:
            self.at = (int(self.cell[0]), int(self.cell[1]))
        if self.at is None or not (0 <= self.at[0] < height and 0 <= self.at[1] < width):
            raise FeatvizError(f"no cell {self.cell!r}: take max, all, or (row, column) within {height}×{width}")
        return plane[self.at].reshape(1)
