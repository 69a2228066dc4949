"""Convert what layers return, in any layout, to feature maps ``[B, C, H, W]``."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Iterable, Iterator, List, Optional, Tuple, Union

import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.errors import FeatvizError

Reshape = Union[Tuple[int, int], Callable[[torch.Tensor], torch.Tensor]]

MOST, DEEPEST = 10_000, 100  # visited parts of an output, and nested containers
EXTRA_TOKENS = 8  # class, distillation and register tokens that may precede the grid


@dataclasses.dataclass(frozen=True)
class Input:
    """Size and batch of a network's input.

    Attributes:
        size: ``(height, width)`` in pixels, if known.
        batch: number of images, if known.
        dims: 3 for one image ``[C, H, W]``, 4 for a batch of images, 5 for a batch of clips ``[B, C, T, H, W]``.
    """

    size: Optional[Tuple[int, int]] = None
    batch: Optional[int] = None
    dims: int = 4


def read_input(value: Any, channels: Optional[int]) -> Optional[Input]:
    """Return the size and batch of ``value`` as a network's input; None if it is not an image.

    Args:
        value: a tensor of images or clips, one image, or a list of images of any sizes.
        channels: number of channels of an image; None if an image must have a batch dimension.
    """

    def is_image(x: Any) -> bool:
        return isinstance(x, torch.Tensor) and x.dim() == 3 and x.shape[0] == channels

    if isinstance(value, torch.Tensor) and (value.dim() in (4, 5) or is_image(value)):
        batch = int(value.shape[0]) if value.dim() > 3 else 1
        return Input((int(value.shape[-2]), int(value.shape[-1])), batch, value.dim())
    if isinstance(value, (list, tuple)) and value and all(map(is_image, value)):
        return Input(None, len(value))
    return None


def crop_region(image: Tuple[int, int], resized: int, network: Tuple[int, int]) -> Region:
    """Return the region of an image that was resized by its shorter side and centre-cropped.

    Rounding is that of torchvision's ``Resize(resized)`` and ``CenterCrop(network)``; what they cut off
    lies outside the input.

    Args:
        image: ``(height, width)`` of the image.
        resized: length of its shorter side before cropping, in pixels.
        network: ``(height, width)`` of the crop.

    Returns:
        Left, top, right and bottom edge in pixels of the crop.
    """
    short, long = min(image), max(image)
    sides = (resized, int(resized * long / short))
    height, width = sides if image[0] == short else sides[::-1]
    top, left = round((height - network[0]) / 2), round((width - network[1]) / 2)
    return float(-left), float(-top), float(width - left), float(height - top)


def tensors_of(output: Any) -> Iterator[Tuple[Optional[str], torch.Tensor]]:
    """Iterate over the tensors of an output, each with its place in it: ``0``, ``1.0``, ``p3``, ``last_hidden_state``.

    Containers that contain themselves are entered once, and only the first ``MOST`` parts of an output
    are visited.
    """
    left = MOST

    def walk(part: Any, name: Optional[str], within: Tuple[int, ...]) -> Iterator[Tuple[Optional[str], torch.Tensor]]:
        nonlocal left
        left -= 1
        if left < 0 or id(part) in within or len(within) > DEEPEST:
            return
        if isinstance(part, torch.Tensor):
            yield name, part
            return
        for key, inner in _parts(part):
            yield from walk(inner, str(key) if name is None else f"{name}.{key}", (*within, id(part)))

    return walk(output, None, ())


def _parts(output: Any) -> Iterable[Tuple[Any, Any]]:
    if isinstance(output, dict):
        return output.items()
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return zip(output._fields, output)
    if isinstance(output, (list, tuple)):
        return enumerate(output)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return ((field.name, getattr(output, field.name, None)) for field in dataclasses.fields(output))
    return ()


def check_image(image: Any, what: str) -> None:
    """Raise FeatvizError unless ``image`` is one input ``[1, C, H, W]``, which ``what`` needs."""
    if not isinstance(image, torch.Tensor) or image.dim() != 4 or len(image) != 1:
        raise FeatvizError(f"{what} needs one image [1, C, H, W], not {describe_output(image)}")


def describe_output(output: Any) -> str:
    """Describe in words what a layer returned."""
    if isinstance(output, torch.Tensor):
        return f"a tensor of shape {_shape(output)}"
    shapes = [_shape(tensor) for _, tensor in tensors_of(output)]
    more = f" and {len(shapes) - 10} more" if len(shapes) > 10 else ""
    return (
        f"tensors of shapes {', '.join(shapes[:10])}{more}" if shapes else f"a {type(output).__name__} without tensors"
    )


def _shape(x: torch.Tensor) -> str:
    try:
        return str(list(x.shape))
    except RuntimeError:  # a nested tensor has several
        return "unknown"


def without_values(x: torch.Tensor) -> str:
    """Return why a tensor has no values to draw, in words: what it is instead; empty if it has."""
    wrapped = getattr(getattr(torch._C, "_functorch", None), "is_functorch_wrapped_tensor", None)  # torch 2.0
    if wrapped is not None and wrapped(x):
        return "it is inside a transformation, such as vmap or grad of torch.func"
    plain = getattr(torch.Tensor, "__torch_dispatch__", None)  # torch 1.10
    if getattr(type(x), "__torch_dispatch__", plain) is not plain:
        return f"it is a {type(x).__name__}"
    if getattr(x, "is_nested", False):
        return "it is nested"
    if x.layout is not torch.strided:
        return "it is sparse"
    if x.device.type == "meta":
        return "it is on the device meta, without values"
    if x.is_quantized:
        return "it is quantised"
    if x.is_complex():
        return "it is complex"
    if x.numel() == 0:
        return "it holds no values"
    if x.is_cuda and getattr(torch.cuda, "is_current_stream_capturing", bool)():  # torch 1.10
        return "it is part of a CUDA graph that is being recorded"
    return ""


def patch_size(model: nn.Module) -> Optional[Tuple[int, int]]:
    """Return a vision transformer's patch size ``(down, across)``: of its first convolution with stride = kernel."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            kernel, stride = module.kernel_size[-2:], module.stride[-2:]
            if kernel == stride and max(stride) > 1:
                return int(stride[0]), int(stride[1])
    return None


def to_maps(
    x: torch.Tensor,
    module: nn.Module,
    given: Input,
    patch: Optional[Tuple[int, int]] = None,
    reshape: Optional[Reshape] = None,
    frame: Optional[int] = None,
) -> torch.Tensor:
    """Convert one output tensor to ``[B, C, H, W]``.

    - ``[B, C, H, W]`` stays as it is. ``[B, H, W, C]`` is recognised by its shape: its second and third
      dimension have the input's proportions (to within two cells) and its last two have not. Where
      both have, as in ``[B, 96, 96, 96]``, the layer decides: one that ends in ``Linear`` or
      ``LayerNorm`` works on the last dimension.
    - ``[B, N, C]`` is laid out on the grid of a transformer's patches, or of patches merged two by
      two once or more often. Up to eight tokens before the grid are dropped; if that is ambiguous,
      one token or none.
    - ``[B, C, T, H, W]`` or ``[B, T, H, W, C]``, for clips: one frame, or the mean over time.
    - Without the ``B`` if the network was given one image without it.

    Args:
        x: the tensor.
        module: the layer that returned it.
        given: the network's input.
        patch: pixels ``(down, across)`` of the network's patches; see :func:`patch_size`.
        reshape: the grid ``(height, width)`` of tokens, or a function that does the whole conversion.
        frame: which frame of a clip; None for the mean.

    Raises:
        FeatvizError: ``x`` is not a feature map; the message is the reason, or empty.
    """
    if callable(reshape):
        y = reshape(x)
        if not isinstance(y, torch.Tensor) or y.dim() != 4:
            raise FeatvizError(f"reshape returned {describe_output(y)}")
        return y
    if given.dims == 3 and x.dim() < 4:
        x = x[None]
    if x.dim() != 3 and x.dim() != max(4, given.dims):
        raise FeatvizError("")
    if given.batch is not None and x.shape[0] != given.batch:
        raise FeatvizError(f"a batch of {x.shape[0]} for {given.batch} image{'s' * (given.batch > 1)}")
    if x.dim() == 3:
        return _from_tokens(x, given, patch, reshape)
    x = _channels_first(x, module, given.size)
    if x.dim() == 5:
        if frame is None:
            return (x if x.is_floating_point() else x.float()).mean(2)
        if not -x.shape[2] <= frame < x.shape[2]:
            raise FeatvizError(f"no frame {frame}: it has frames 0 to {x.shape[2] - 1}")
        return x[:, :, frame]
    return x


def _channels_first(x: torch.Tensor, module: nn.Module, size: Optional[Tuple[int, int]]) -> torch.Tensor:
    if size is None or not _fits(x.shape[-3], x.shape[-2], size):
        return x
    last = not _fits(x.shape[-2], x.shape[-1], size) or _ends_in_channels(module)
    return x.movedim(-1, 1) if last else x


def _fits(height: int, width: int, size: Tuple[int, int]) -> bool:
    ratio = size[0] / size[1]
    return abs(height - width * ratio) < 2 and abs(width - height / ratio) < 2


def _ends_in_channels(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential) and len(module):
        return _ends_in_channels(module[-1])
    modules = list(module.modules())
    convolutional = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
    return any(isinstance(m, (nn.Linear, nn.LayerNorm)) for m in modules) and not any(
        isinstance(m, convolutional) for m in modules
    )


def _from_tokens(
    x: torch.Tensor, given: Input, patch: Optional[Tuple[int, int]], reshape: Optional[Tuple[int, int]]
) -> torch.Tensor:
    batch, count, channels = x.shape
    grids: List[Tuple[int, int]] = []
    if reshape is not None:
        grids, extra = [reshape], count
    elif patch is not None and given.size is not None and given.dims != 5:
        grids, extra = (
            [(given.size[0] // (patch[0] << n), given.size[1] // (patch[1] << n)) for n in range(6)],
            EXTRA_TOKENS,
        )
    fitting = [(h, w) for h, w in grids if h * w > 0 and 0 <= count - h * w <= extra]
    fitting = [(h, w) for h, w in fitting if count - h * w <= 1] or fitting
    if len(fitting) != 1:
        tried = " or ".join(f"{h}x{w}" for h, w in fitting or grids[:1])
        why = f"{count} tokens {'may be' if fitting else 'are not'} a grid of {tried}; " if tried else ""
        raise FeatvizError(f"{why}if these are tokens, give their grid as reshape=(height, width)")
    height, width = fitting[0]
    return x[:, count - height * width :].transpose(1, 2).reshape(batch, channels, height, width)
