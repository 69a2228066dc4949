"""Tables for the terminal."""

from __future__ import annotations

from typing import Any, List, Sequence

from yolov5_featviz.layers import LayerInfo


def layer_table(rows: Sequence[LayerInfo]) -> str:
    """The layers of a model as aligned text."""
    head = ["index", "from", "type", "arguments", "parameters", "GFLOPs", "output shape", "stride"]
    body = [
        [
            str(row.index) if row.name == str(row.index) else f"{row.index} {row.name}",
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
    counted = [row.gflops for row in rows if row.gflops is not None]
    total = [
        "",
        "",
        "total",
        "",
        f"{sum(row.parameters for row in rows):,}",
        f"{sum(counted):.3f}" if counted else "-",
        "",
        "",
    ]
    widths = [max(len(line[i]) for line in [head, *body, total]) for i in range(len(head))]
    right = {0, 4, 5, 7}
    lines = [
        "  ".join(
            word.rjust(w) if i in right else word.ljust(w) for i, (word, w) in enumerate(zip(line, widths))
        ).rstrip()
        for line in [head, *body, total]
    ]
    return "\n".join(lines)


def _shape(shape: Any) -> str:
    if isinstance(shape, tuple):
        return "x".join(map(str, shape))
    flat: List[str] = []
    todo = list(shape or [])
    while todo:
        part = todo.pop(0)
        if isinstance(part, list):
            todo = part + todo
        elif part is not None:
            flat.append(_shape(part))
    return ", ".join(flat) or "-"
