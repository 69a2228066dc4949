"""Text table of a model's layers."""

from __future__ import annotations

from typing import Any, Optional, Sequence

from yolov5_featviz.models.layers import LayerInfo
from yolov5_featviz.text import align


def layer_table(rows: Sequence[LayerInfo], lost: Optional[Sequence[Optional[float]]] = None) -> str:
    """Format the layers of a model as aligned text, with the score lost without each, if that is given."""
    head = ["index", "from", "type", "arguments", "parameters", "GFLOPs", "output shape", "stride"]
    body = [
        [
            row.name if row.index is None or row.name == str(row.index) else f"{row.index} {row.name}",
            ",".join(map(str, row.sources)) or "-",
            row.type,
            row.arguments or "-",
            f"{row.parameters:,}",
            "-" if row.gflops is None else f"{row.gflops:.3f}",
            _shape(row.shape),
            "-" if row.stride is None else f"{row.stride:g}",
        ]
        for row in rows
    ]
    whole = [row for row in rows if row.index is not None]
    counted = [row.gflops for row in whole if row.gflops is not None]
    total = [
        "",
        "",
        "total",
        "",
        f"{sum(row.parameters for row in whole):,}",
        f"{sum(counted):.3f}" if counted else "-",
        "",
        "",
    ]
    lines = [head, *body, total]
    if lost is not None:
        column = ["score lost", *("-" if share is None else f"{share:.3f}" for share in lost), ""]
        lines = [[*line, word] for line, word in zip(lines, column)]
    numbered = all(row.name == str(row.index) for row in rows)
    return align(lines, right={4, 5, 7, 8} | ({0} if numbered else set()))


def _shape(shape: Any) -> str:
    shapes = [shape] if isinstance(shape, tuple) else shape or []
    return ", ".join("x".join(map(str, one)) for one in shapes) or "-"
