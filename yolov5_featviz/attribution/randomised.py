"""Randomise the layers of a model from the head downwards, and restore them."""

from __future__ import annotations

from contextlib import contextmanager
from math import ceil
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import torch
from torch import nn

from yolov5_featviz.models.hooks import output_hooks


def stages_of(model: nn.Module, run: Callable[[], Any], count: int) -> List[List[nn.Module]]:
    """Return ``count`` sets of modules with parameters, each the one before and more, from the head downwards.

    Modules are in the order in which they are first run; the sets end at equal shares of them, the last has all.

    Args:
        model: the model.
        run: runs it.
        count: number of sets.
    """
    own = [module for module in model.modules() if any(one is not None for one in module._parameters.values())]
    first: Dict[nn.Module, int] = {}

    def hook_of(module: nn.Module) -> Callable[[Any], None]:
        def hook(output: Any) -> None:
            first.setdefault(module, len(first))

        return hook

    with output_hooks((module, hook_of(module)) for module in own):
        run()
    at = -1
    order: Dict[nn.Module, Tuple[int, int]] = {}
    for n, module in enumerate(own):  # one that another runs without its forward is next to the one before it
        at = first.get(module, at)
        order[module] = (at, n)
    down = sorted(own, key=lambda module: order[module], reverse=True)
    ends = [ceil(len(down) * (k + 1) / count) for k in range(count)]
    return [down[:end] for end in ends]


@contextmanager
def randomised(modules: Sequence[nn.Module], seed: int = 0) -> Iterator[None]:
    """Within the block, shuffle the values of each parameter of modules; they are restored exactly.

    A shuffled parameter has the values that it had, in a random order, so that what is left of the model works on
    activations of a similar size.
    """
    generator = torch.Generator().manual_seed(seed)
    every = {id(one): one for module in modules for one in module._parameters.values() if one is not None}
    kept = [(one, one.detach().clone()) for one in every.values()]
    try:
        with torch.no_grad():
            for one, values in kept:
                order = torch.randperm(values.numel(), generator=generator).to(values.device)
                one.copy_(values.flatten()[order].reshape(values.shape))
        yield
    finally:
        with torch.no_grad():
            for one, values in kept:
                one.copy_(values)
