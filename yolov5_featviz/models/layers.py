"""Select and list the layers of any ``nn.Module``."""

from __future__ import annotations

import re
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import Any, Callable, ContextManager, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch import nn

from yolov5_featviz.arrays.boxes import Region
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.models.hooks import eval_mode, output_hooks
from yolov5_featviz.models.outputs import Input, patch_size, tensors_of, to_maps
from yolov5_featviz.text import near

LayerSpec = Union[str, int, Sequence[Union[str, int]]]
Target = Union[str, int, Sequence[float], None]  # what to explain: a class, one of its detections, a box


@dataclass(frozen=True)
class Layer:
    """One module of a model, and its names.

    Attributes:
        path: dotted path in the model that holds it, as in ``named_modules()``.
        module: the module itself.
        type: name of its type in the model's definition (``C3``, ``Conv2d``).
        index: its position in the model's sequence, or None for a sub-module.
        name: its name in selections and captions (``17``, ``17.m.0.cv2``, ``layer4``).
        sources: indices of the layers it reads from, if known.
        arguments: the arguments it was defined with, if known.
        optional: True if it was selected as part of a group or range, so that it may be skipped
            when it returns no feature map.
    """

    path: str
    module: nn.Module = field(repr=False, compare=False)
    type: str
    index: Optional[int] = None
    name: str = ""
    sources: Tuple[int, ...] = ()
    arguments: str = ""
    optional: bool = field(default=False, compare=False)

    @property
    def title(self) -> str:
        """Name for messages: ``layer 17 (C3)``."""
        return f"layer {self.name} ({self.type})"

    @property
    def stem(self) -> str:
        """Stem of file names: ``stage17_C3``; the prefix only if the name begins with a number."""
        return f"{'stage' if self.name[:1].isdigit() else ''}{self.name}_{self.type}"


class Context(NamedTuple):
    """Name of an image that a network is given, and its region in the input."""

    image: str = ""
    region: Optional[Region] = None


@dataclass(frozen=True)
class LayerIndex:
    """The numbered layers of a model, and their groups.

    ``root`` is the module whose forward pass runs the layers once; ``groups`` maps a name such as
    ``backbone`` to positions in ``layers``, and ``input_channels`` is the number of channels of an
    image. ``copies`` of the root are equivalent modules that may be run in its place. ``context``
    returns a :class:`Context` for each image of a pass, from the root about to run, its input, and
    all of its arguments.
    """

    root: nn.Module = field(repr=False)
    layers: List[Layer]
    groups: Dict[str, List[int]]
    input_channels: int = 3
    copies: Tuple[nn.Module, ...] = field(default=(), repr=False)
    context: Optional[Callable[[nn.Module, Input, Sequence[Any]], Sequence[Context]]] = field(default=None, repr=False)


# Model families with their own layer numbers, as module:function; the first match wins.
FAMILIES = (
    "yolov5_featviz.yolov5.ultralytics:index_yolo",
    "yolov5_featviz.models.openmmlab:index_openmmlab",
    "yolov5_featviz.yolov5.layers:index_model",
)


def index_layers(model: nn.Module) -> LayerIndex:
    """Number the layers of ``model``: as its family does, else its direct children in order.

    Wrappers (``DataParallel``, ``DistributedDataParallel``, ``torch.compile``) are removed first.
    """
    if not isinstance(model, nn.Module):
        raise FeatvizError(f"cannot list the layers of a {type(model).__name__}: give a torch.nn.Module")
    inner: Any = model
    while isinstance(inner, nn.Module):
        model = inner
        parallel = isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
        inner = model.module if parallel else getattr(model, "_orig_mod", None)
    for family in FAMILIES:
        module, _, function = family.partition(":")
        found: Optional[LayerIndex] = getattr(import_module(module), function)(model)
        if found is not None:
            return found
    return index_children(model)


def index_children(
    model: nn.Module, context: Optional[Callable[[nn.Module, Input, Sequence[Any]], Sequence[Context]]] = None
) -> LayerIndex:
    """Number the direct children of ``model`` in order."""
    layers = [
        Layer(path=name, module=child, type=type(child).__name__, index=i, name=name)
        for i, (name, child) in enumerate(model.named_children())
    ]
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    return LayerIndex(model, layers, {"all": list(range(len(layers)))}, channels, context=context)


def select_layers(model: Union[nn.Module, LayerIndex], layers: LayerSpec) -> List[Layer]:
    """Find the layers that a selection names.

    Args:
        model: the model, or its index if available.
        layers: an index (``17``, ``-2``), a range (``0-9``), a type in any case (``spp``), a dotted
            path (``17.m.0.cv2``, ``backbone.layer4``), a pattern for such paths
            (``backbone.layer*``; ``*`` matches anything but a dot, ``**`` dots too), a group
            (``all``, and others that the model's family defines), a comma-separated list of these,
            or a sequence of them.

    Returns:
        The layers in the order requested, each once.

    Raises:
        FeatvizError: a part of the selection matches nothing; the message lists what exists.
    """
    index = model if isinstance(model, LayerIndex) else index_layers(model)
    items = [layers] if isinstance(layers, (str, int)) else list(layers)
    tokens = [token.strip() for item in items for token in str(item).split(",")]
    chosen: Dict[str, Layer] = {}
    for token in tokens:
        for layer in _find(index, token):
            known = chosen.get(layer.path)
            if known is None or (known.optional and not layer.optional):
                chosen[layer.path] = layer
    return list(chosen.values())


def _find(index: LayerIndex, token: str) -> Iterable[Layer]:
    count = len(index.layers)
    if re.fullmatch(r"-?[0-9]{1,9}", token):
        position = int(token)
        if not -count <= position < count:
            raise FeatvizError(f"no layer {token}: this model has layers 0 to {count - 1}")
        return [index.layers[position]]
    span = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", token)
    if span:
        first, last = int(span.group(1)), int(span.group(2))
        if first > last or last >= count:
            raise FeatvizError(f"no layers {token}: this model has layers 0 to {count - 1}, and ranges are ascending")
        return [replace(layer, optional=True) for layer in index.layers[first : last + 1]]
    if token.lower() in index.groups:
        return [replace(index.layers[i], optional=True) for i in index.groups[token.lower()]]
    same_type = [layer for layer in index.layers if layer.type.lower() == token.lower()]
    if same_type:
        return same_type
    return _find_by_pattern(index, token) or _find_inside(index, token)


def _find_by_pattern(index: LayerIndex, token: str) -> List[Layer]:
    if "*" not in token and "?" not in token:
        return []
    words = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    pattern = re.compile("".join(words.get(part) or re.escape(part) for part in re.split(r"(\*\*|\*|\?)", token)))
    layers = [_submodule(index, path, module) for path, module in index.root.named_modules() if path]
    return [
        replace(layer, optional=True)
        for layer in layers
        if pattern.fullmatch(layer.path) or pattern.fullmatch(layer.name)
    ]


def _find_inside(index: LayerIndex, token: str) -> Iterable[Layer]:
    """Find sub-modules by dotted path (from the root or from a numbered layer) or by type."""
    head, _, tail = token.partition(".")
    prefix = None
    if tail and re.fullmatch("[0-9]{1,9}", head) and int(head) < len(index.layers):
        prefix = index.layers[int(head)].path + "."
    modules = dict(index.root.named_modules())
    path = prefix + tail if prefix else token
    if path in modules and path:
        return [_submodule(index, path, modules[path])]
    same_type = [
        _submodule(index, path, module)
        for path, module in modules.items()
        if path and type(module).__name__.lower() == token.lower()
    ]
    if same_type:
        return same_type
    if prefix:
        inside = [name for name, _ in index.layers[int(head)].module.named_children()]
        raise FeatvizError(f"no layer {token!r}: layer {head} holds {', '.join(inside) or 'no further modules'}")
    types = list(dict.fromkeys(layer.type for layer in index.layers))
    raise FeatvizError(
        f"no layer {token!r}{near(token, filter(None, modules)) or ':'} this model has layers 0 to "
        f"{len(index.layers) - 1}, the types {', '.join(types)} and the groups {', '.join(index.groups)}"
    )


def _submodule(index: LayerIndex, path: str, module: nn.Module) -> Layer:
    for layer in index.layers:
        if path == layer.path:
            return layer
        if is_inside(path, layer.path):
            return Layer(
                path=path, module=module, type=type(module).__name__, name=layer.name + path[len(layer.path) :]
            )
    return Layer(path=path, module=module, type=type(module).__name__, name=path)


def is_inside(path: str, other: str) -> bool:
    """Return whether the module at ``path`` is the one at ``other``, or part of it; the root's path is empty."""
    return not other or f"{path}.".startswith(f"{other}.")


def module_at(root: nn.Module, path: str) -> Optional[nn.Module]:
    """Return the module at ``path`` below ``root``, or None; the root's path is empty."""
    found: Optional[nn.Module] = root
    for name in path.split(".") if path else ():
        found = None if found is None else found._modules.get(name)
    return found


def unhookable(module: nn.Module, title: str = "") -> Optional[str]:
    """Return why no forward hook can be set on ``module``; None if one can."""
    if isinstance(module, torch.jit.ScriptModule):
        return f"{title} is TorchScript, which runs no hooks: capture the model from which it was made"
    return None


@dataclass(frozen=True)
class LayerInfo:
    """One row of the table of layers.

    ``index`` is None for a sub-module of a numbered layer; ``gflops`` and ``stride`` are None where
    they are not defined.
    """

    index: Optional[int]
    name: str
    sources: Tuple[int, ...]
    type: str
    arguments: str
    parameters: int
    gflops: Optional[float]
    shape: Any
    stride: Optional[float]


def list_layers(model: nn.Module, imgsz: Union[int, Tuple[int, int]] = 640, depth: int = 1) -> List[LayerInfo]:
    """List the layers of ``model`` for an input of ``[1, C, imgsz, imgsz]``.

    Args:
        model: any ``nn.Module``; it is run once on zeros, in evaluation mode, and not changed.
        imgsz: side of the input in pixels, or ``(height, width)``.
        depth: 1 for the numbered layers only, 2 for their children too, and so on.

    Returns:
        One :class:`LayerInfo` per layer. ``shape`` is the output's shape, or a list of shapes if the
        layer returns several tensors; ``gflops`` counts a multiply-add as two operations, as YOLO
        papers do, over the module types that thop supports.

    Raises:
        FeatvizError: the model cannot be run at that size, is TorchScript, or is damaged.
    """
    try:
        return _list_layers(model, imgsz, depth)
    except FeatvizError:
        raise
    except Exception as error:  # such as a module that lacks attributes of its class
        raise FeatvizError(f"the model's layers cannot be listed: {reason(error)}") from error


def _list_layers(model: nn.Module, imgsz: Union[int, Tuple[int, int]], depth: int) -> List[LayerInfo]:
    index = index_layers(model)
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    first = next(index.root.parameters(), torch.zeros(0))
    image = torch.zeros(1, index.input_channels, height, width, device=first.device, dtype=first.dtype)
    image = image if image.is_floating_point() else image.float()
    given, patch = Input((height, width), 1), patch_size(index.root)

    layers = [
        layer
        for top in index.layers
        for path, module in top.module.named_modules(prefix=top.path)
        if path.count(".") - top.path.count(".") < depth
        for layer in [_submodule(index, path, module)]
    ]
    for layer in layers:
        unusable = unhookable(layer.module, layer.title)
        if unusable:
            raise FeatvizError(unusable)
    shapes: Dict[str, Any] = {}
    strides: Dict[str, float] = {}

    def look(layer: Layer, output: Any) -> None:
        shapes[layer.path] = [tuple(tensor.shape) for _, tensor in tensors_of(output)]
        if isinstance(output, torch.Tensor):
            shapes[layer.path] = tuple(output.shape)
            with suppress(FeatvizError):
                strides[layer.path] = height / to_maps(output, layer.module, given, patch).shape[2]

    try:
        hooks = output_hooks((layer.module, partial(look, layer)) for layer in layers)
        with eval_mode(index.root), hooks, torch.no_grad(), _runnable(index.root):
            index.root(image)
    except Exception as error:
        raise FeatvizError(f"the model cannot be run on an image of {height}x{width}: {reason(error)}") from error

    with _runnable(index.root):
        operations = _count_operations(index, image)
    return [
        LayerInfo(
            index=layer.index,
            name=layer.name,
            sources=layer.sources,
            type=layer.type,
            arguments=layer.arguments or " ".join(layer.module.extra_repr().split()),
            parameters=sum(p.numel() for p in layer.module.parameters()),
            gflops=operations.get(layer.path),
            shape=shapes.get(layer.path),
            stride=strides.get(layer.path),
        )
        for layer in layers
    ]


def _runnable(root: nn.Module) -> ContextManager[Any]:
    """Return the context in which a detector can be run on a plain tensor, if it is of a known family."""
    from yolov5_featviz.models.detections import family_of

    family = family_of(root)
    return nullcontext() if family is None else family.watch(root)


def _count_operations(index: LayerIndex, image: torch.Tensor) -> Dict[str, float]:
    """Return GFLOPs by path, from thop; empty where thop is missing or fails on the model."""
    from copy import deepcopy

    try:
        import thop

        # a copy, because thop leaves counters in the modules
        model = deepcopy(index.root).eval()
        with torch.no_grad():
            _, _, tree = thop.profile(model, inputs=(image,), verbose=False, ret_layer_info=True)
    except Exception:
        return {}
    counts: Dict[str, float] = {}

    def walk(branch: Dict[str, Any], prefix: str) -> None:
        for name, (operations, _, below) in branch.items():
            counts[prefix + name] = operations * 2 / 1e9
            walk(below, prefix + name + ".")

    walk(tree, "")
    return counts
