"""Layer indices of YOLOv5 models."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

from torch import nn

from yolov5_featviz.models.layers import Layer, LayerIndex

ONE_PASS = ("_forward_once", "forward_once")  # the method that runs the layers; renamed in v6.0


def find_model(model: Any) -> Optional[nn.Module]:
    """Find the module whose ``forward_once`` runs the layers, inside any wrapper.

    Recognised by structure: its ``model`` is a sequence of modules with an index ``i`` and inputs
    ``f``. Wrappers (``DataParallel``, ``AutoShape``, ``DetectMultiBackend``) hold it as ``module`` or
    ``model``. None if there is none.
    """
    for _ in range(5):
        if not isinstance(model, nn.Module):
            return None
        layers: Any = getattr(model, "model", None)
        sequence = isinstance(layers, (nn.Sequential, nn.ModuleList)) and len(layers) > 0
        if sequence and all(hasattr(layer, "i") and hasattr(layer, "f") for layer in layers):
            return model
        model = layers if isinstance(layers, nn.Module) else getattr(model, "module", None)
    return None


def index_model(model: nn.Module) -> Optional[LayerIndex]:
    """Index layers as YOLOv5 does, by position in ``model.model``. None for other models."""
    root = find_model(model)
    if root is None:
        return None
    modules: Any = root.model
    rows = _definition(root)
    layers: List[Layer] = []
    for i, module in enumerate(modules):
        kind = str(getattr(module, "type", type(module).__name__)).split(".")[-1]
        arguments = str(rows[i][3]) if i < len(rows) else ""
        layers.append(
            Layer(f"model.{i}", module, kind, index=i, name=str(i), sources=_sources(module), arguments=arguments)
        )
    last = len(layers) - 1
    groups: Dict[str, List[int]] = {"all": list(range(last + 1))}
    yaml = getattr(root, "yaml", None)
    if isinstance(yaml, dict) and 0 < len(yaml.get("backbone", ())) <= last:
        first = len(yaml["backbone"])
        groups["backbone"] = list(range(first))
        if first < last:
            groups["neck"] = list(range(first, last))
    # the detection head: the last layer, reading from several others
    inputs = [i if i >= 0 else last + i for i in layers[last].sources]
    if len(inputs) > 1 and rows and len(rows[last]) > 2 and "Concat" not in str(rows[last][2]):
        groups["detect"] = inputs
    channels = yaml.get("ch", 3) if isinstance(yaml, dict) else 3
    return LayerIndex(root, layers, groups, channels)


def _definition(root: nn.Module) -> List[Any]:
    """Return the rows ``[from, number, module, arguments]`` of the model definition, if stored."""
    yaml = getattr(root, "yaml", None)
    if not isinstance(yaml, dict):
        return []
    return [*yaml.get("backbone", ()), *yaml.get("head", ())]


def _sources(module: nn.Module) -> Tuple[int, ...]:
    f: Any = module.f
    return tuple(int(i) for i in f) if isinstance(f, (list, tuple)) else (int(f),)
