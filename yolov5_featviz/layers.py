"""Selecting and listing the layers of any ``nn.Module``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import torch
from torch import nn

from yolov5_featviz.errors import FeatvizError

LayerSpec = Union[str, int, Sequence[Union[str, int]]]


@dataclass(frozen=True)
class Layer:
    """One module of a model and the names it goes by.

    Attributes:
        path: dotted path from the model that holds it, as ``named_modules()`` gives it.
        module: the module itself.
        type: its type as the model's author knows it (``C3``, ``Conv2d``).
        index: its position in the model's sequence, or None for a sub-module.
        name: how it is addressed and labelled (``17``, ``17.m.0.cv2``, ``layer4``).
        sources: indices of the layers it reads from, where the model says so.
        arguments: the arguments it was defined with, where the model says so.
        optional: True if it was selected as part of a group or range, so that it may be passed
            over when it turns out to yield no feature map.
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
        """For messages: ``layer 17 (C3)``."""
        return f"layer {self.name} ({self.type})"

    @property
    def stem(self) -> str:
        """For file names: ``stage17_C3``; the leading word only where the name begins with a number."""
        return f"{'stage' if self.name[:1].isdigit() else ''}{self.name}_{self.type}"


@dataclass(frozen=True)
class LayerIndex:
    """The numbered layers of a model, and the groups into which they fall.

    ``root`` is the module whose forward pass runs the layers once; ``groups`` maps a name such as
    ``backbone`` to positions in ``layers``, and ``input_channels`` is what an image must have.
    """

    root: nn.Module = field(repr=False)
    layers: List[Layer]
    groups: Dict[str, List[int]]
    input_channels: int = 3


# Model families that number their layers in a way of their own; the first that answers is believed.
FAMILIES: List[Callable[[nn.Module], Optional[LayerIndex]]] = []


def index_layers(model: nn.Module) -> LayerIndex:
    """Number the layers of ``model``: as its family does, else its direct children in order."""
    for family in FAMILIES:
        found = family(model)
        if found is not None:
            return found
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    layers = [
        Layer(path=name, module=child, type=type(child).__name__, index=i, name=name if not name.isdigit() else str(i))
        for i, (name, child) in enumerate(model.named_children())
    ]
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    return LayerIndex(model, layers, {"all": list(range(len(layers)))}, channels)


def select_layers(model: Union[nn.Module, LayerIndex], layers: LayerSpec) -> List[Layer]:
    """Find the layers that a selection names.

    Args:
        model: the model, or its index if that is at hand.
        layers: an index (``17``, ``-2``), a range (``0-9``), a type in any case (``spp``), a dotted
            path (``17.m.0.cv2``, ``backbone.layer4``), a group (``all``, and whatever else the
            model's family defines), a comma list of these, or a sequence of them.

    Returns:
        The layers in the order they were asked for, each once.

    Raises:
        FeatvizError: a part of the selection names nothing; the message says what there is.
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
    if re.fullmatch(r"-?\d+", token):
        position = int(token)
        if not -count <= position < count:
            raise FeatvizError(f"no layer {token}: this model has layers 0 to {count - 1}")
        return [index.layers[position]]
    span = re.fullmatch(r"(\d+)-(\d+)", token)
    if span:
        first, last = int(span.group(1)), int(span.group(2))
        if first > last or last >= count:
            raise FeatvizError(f"no layers {token}: this model has layers 0 to {count - 1}, and a range goes upwards")
        return [replace(layer, optional=True) for layer in index.layers[first : last + 1]]
    if token.lower() in index.groups:
        return [replace(index.layers[i], optional=True) for i in index.groups[token.lower()]]
    same_type = [layer for layer in index.layers if layer.type.lower() == token.lower()]
    if same_type:
        return same_type
    return _find_inside(index, token)


def _find_inside(index: LayerIndex, token: str) -> Iterable[Layer]:
    """Sub-modules, by dotted path (from the root or from a numbered layer) or by type."""
    head, _, tail = token.partition(".")
    prefix = None
    if tail and head.isdigit() and int(head) < len(index.layers):
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
        f"no layer {token!r}: this model has layers 0 to {len(index.layers) - 1}, "
        f"the types {', '.join(types)} and the groups {', '.join(index.groups)}"
    )


def _submodule(index: LayerIndex, path: str, module: nn.Module) -> Layer:
    for layer in index.layers:
        if path == layer.path:
            return layer
        if path.startswith(layer.path + "."):
            return Layer(
                path=path, module=module, type=type(module).__name__, name=layer.name + path[len(layer.path) :]
            )
    return Layer(path=path, module=module, type=type(module).__name__, name=path)


@dataclass(frozen=True)
class LayerInfo:
    """One row of the table of layers. ``gflops`` and ``stride`` are None where they are not defined."""

    index: int
    name: str
    sources: Tuple[int, ...]
    type: str
    arguments: str
    parameters: int
    gflops: Optional[float]
    shape: Any
    stride: Optional[float]


def list_layers(model: nn.Module, imgsz: Union[int, Tuple[int, int]] = 640) -> List[LayerInfo]:
    """Describe the numbered layers of ``model`` for an input of ``[1, C, imgsz, imgsz]``.

    Args:
        model: any ``nn.Module``; it is run once on zeros, in evaluation mode, and left as it was.
        imgsz: side of the input in pixels, or ``(height, width)``.

    Returns:
        One :class:`LayerInfo` a layer. ``shape`` is the output's shape, or a list of shapes where it
        yields several tensors; ``gflops`` counts a multiply-add as two operations, as YOLO papers
        do, over the module types that thop knows.

    Raises:
        FeatvizError: the model cannot be run at that size.
    """
    index = index_layers(model)
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    first = next(index.root.parameters(), torch.zeros(0))
    image = torch.zeros(1, index.input_channels, height, width, device=first.device, dtype=first.dtype)
    image = image if image.is_floating_point() else image.float()

    shapes: Dict[int, Any] = {}
    hooks = [
        layer.module.register_forward_hook(lambda module, args, output, i=i: shapes.__setitem__(i, _shapes(output)))
        for i, layer in enumerate(index.layers)
    ]
    training = index.root.training
    try:
        with torch.no_grad():
            index.root.eval()(image)
    except Exception as error:
        raise FeatvizError(f"the model cannot be run on an image of {height}x{width}: {_first_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
        index.root.train(training)

    operations = _count_operations(index, image)
    rows = []
    for i, layer in enumerate(index.layers):
        shape: Any = shapes.get(i)
        rows.append(
            LayerInfo(
                index=i,
                name=layer.name,
                sources=layer.sources,
                type=layer.type,
                arguments=layer.arguments,
                parameters=sum(p.numel() for p in layer.module.parameters()),
                gflops=operations.get(layer.path),
                shape=shape,
                stride=height / shape[2] if isinstance(shape, tuple) and len(shape) == 4 else None,
            )
        )
    return rows


def _shapes(output: Any) -> Any:
    """``(1, 3, 8, 8)`` for a tensor, a list of such for anything that holds tensors."""
    if isinstance(output, torch.Tensor):
        return tuple(output.shape)
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return [_shapes(part) for part in output]
    return None


def _count_operations(index: LayerIndex, image: torch.Tensor) -> Dict[str, float]:
    """GFLOPs by path, through thop; nothing where thop is missing or cannot follow the model."""
    from copy import deepcopy

    try:
        import thop

        # a copy, because thop leaves counters behind in the modules it has seen
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
