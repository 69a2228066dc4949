"""Tables for the terminal."""

from __future__ import annotations

from typing import Any, Container, List, Sequence

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
    return align([head, *body, total], right={0, 4, 5, 7})


def align(lines: Sequence[Sequence[str]], right: Container[int] = ()) -> str:
    """Words in columns, those of ``right`` flush right."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            word.rjust(w) if i in right else word.ljust(w) for i, (word, w) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


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
