"""Which channels of a feature map to show."""

from __future__ import annotations

import re
from typing import List, Sequence, Union

from yolov5_featviz.errors import FeatvizError

FORMS = "64 (the first 64), all, 0,5,9, 8-15, first:8, last:8"


ChannelSpec = Union[str, int, Sequence[int]]


def choose_channels(spec: ChannelSpec, count: int) -> List[int]:
    """Turn a choice of channels into channel numbers.

    Args:
        spec: ``64`` or ``first:64`` for the first 64, ``last:8``, ``all``, or a comma list of
            numbers and ranges such as ``0,5,8-15``; one single channel is ``5-5``. Asking for more
            than there are with the first three gives all there are. In Python also a number, for
            the first so many, or a sequence of channel numbers.
        count: number of channels of the map.

    Returns:
        Channel numbers within ``0..count-1``, in the order asked for, each once.

    Raises:
        FeatvizError: ``spec`` has another form, is empty, or names a channel that does not exist.
    """
    if not isinstance(spec, (str, int)):
        spec = ",".join(f"{channel}-{channel}" for channel in spec)
    spec = str(spec).strip().lower()
    if spec == "all":
        return list(range(count))
    ends = re.fullmatch(r"(?:(first|last):)?(\d+)", spec)
    if ends:
        n = min(int(ends.group(2)), count)
        if n == 0:
            raise FeatvizError(f"channels {spec!r} leave nothing to show: take one of {FORMS}")
        return list(range(count - n, count)) if ends.group(1) == "last" else list(range(n))
    chosen: List[int] = []
    for part in spec.split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not span:
            raise FeatvizError(f"channels {spec!r} are not understood: take one of {FORMS}")
        first, last = int(span.group(1)), int(span.group(2) or span.group(1))
        if first > last:
            raise FeatvizError(f"channels {part.strip()!r}: a range goes upwards")
        if last >= count:
            raise FeatvizError(f"no channel {last}: this layer has channels 0 to {count - 1}")
        chosen.extend(range(first, last + 1))
    return list(dict.fromkeys(chosen))
