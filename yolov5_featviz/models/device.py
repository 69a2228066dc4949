"""Select the device that a model runs on."""

from __future__ import annotations

import re
from typing import Any, Optional, Union

import torch

from yolov5_featviz.errors import FeatvizError


def choose_device(device: Optional[Union[str, int, torch.device]] = None) -> torch.device:
    """Return the device to run on.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or the number of a GPU, as in YOLOv5's ``--device``.
            None for the first GPU if there is one, else the CPU.

    Raises:
        FeatvizError: no such device.
    """
    if device is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    words = str(device).strip().lower()
    if words == "cpu":
        return torch.device("cpu")
    if words == "mps":
        backend: Any = getattr(torch.backends, "mps", None)
        if backend is None or not backend.is_available():
            raise FeatvizError("no device 'mps': this machine or this torch has none; take cpu")
        return torch.device("mps")
    found = re.fullmatch(r"cuda(?::(\d{1,4}))?|(\d{1,4})", words)
    if found is None:
        raise FeatvizError(f"no device {device!r}: take cpu, cuda, cuda:1 or mps")
    index, count = int(found[1] or found[2] or 0), torch.cuda.device_count()
    if index >= count:
        there = f"there are GPUs 0 to {count - 1}" if count else "torch finds no GPU here; take cpu"
        raise FeatvizError(f"no device {device!r}: {there}")
    return torch.device(f"cuda:{index}")
