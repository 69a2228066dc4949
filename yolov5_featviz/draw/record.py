"""Record how a picture was made, for its file."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Optional, Sequence

import numpy as np

from yolov5_featviz.version import __version__

if TYPE_CHECKING:  # so that the command line's help does not import torch
    from yolov5_featviz.models.layer_output import LayerOutput

KEY = "yolov5-featviz"  # key of the record in a file, and of the version in the record


def map_record(
    feature_map: LayerOutput, shows: str, channels: Sequence[int], limits: Optional[np.ndarray] = None, **how: Any
) -> Dict[str, Any]:
    """Return the record of a picture of a feature map.

    Args:
        feature_map: the map.
        shows: ``grid``, ``heatmap``, ``channel``, ``pca``...
        channels: the channels that are in it, in order.
        limits: ``[n, 2]``, the values that became 0 and 1, of each channel or of all together.
        how: any other entries, as JSON values; None is omitted.

    Returns:
        ``layer``, ``level`` and ``call`` where there are several, ``map`` ``[C, H, W]``, ``input``
        ``[height, width]``, ``shows``, ``channels``, ``how``, and ``scale``, ``[low, high]`` or a
        list of such.
    """
    layer = feature_map.layer
    record: Dict[str, Any] = {
        "layer": layer.name,
        "type": layer.type,
        "level": feature_map.level,
        "call": feature_map.call,
        "map": list(feature_map.data.shape),
        "input": None if feature_map.input_size is None else list(feature_map.input_size),
        "shows": shows,
        "channels": spans(channels),
        **how,
        "scale": None if limits is None else _scale(limits),
    }
    return {name: value for name, value in record.items() if value is not None}


def dumps(about: Mapping[str, Any]) -> str:
    """Serialise a record to one line of ASCII JSON, so that every format can hold it; the version comes first."""
    return json.dumps({KEY: __version__, **about}, separators=(",", ":"), allow_nan=False)


def spans(channels: Sequence[int]) -> str:
    """Format channel numbers as :func:`~yolov5_featviz.draw.channels.choose_channels` reads them: ``0-63``, ``5-5``."""
    runs: List[List[int]] = []
    for channel in channels:
        if runs and channel == runs[-1][-1] + 1:
            runs[-1].append(channel)
        else:
            runs.append([channel])
    words = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"{words}-{words}" if words.isdigit() else words


def unspans(words: str) -> Iterator[int]:
    """Iterate over the channel numbers that :func:`spans` wrote; a list of them may not fit in memory."""
    for part in filter(None, words.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def number(value: Any) -> Optional[float]:
    """Round a value to six digits; None where JSON has none, as for infinity."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _scale(limits: np.ndarray) -> Any:
    pairs = [[number(low), number(high)] for low, high in limits.tolist()]
    return pairs[0] if all(pair == pairs[0] for pair in pairs) else pairs
