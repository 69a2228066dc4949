"""Tables for the terminal."""

from __future__ import annotations

from typing import Any, Container, Sequence

from yolov5_featviz.layers import LayerInfo
from yolov5_featviz.text import printable


def layer_table(rows: Sequence[LayerInfo]) -> str:
    """The layers of a model as aligned text."""
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
    numbered = all(row.name == str(row.index) for row in rows)
    return align([head, *body, total], right={4, 5, 7} | ({0} if numbered else set()))


def align(lines: Sequence[Sequence[str]], right: Container[int] = ()) -> str:
    """Words in columns, those of ``right`` flush right, with control characters replaced."""
    lines = [[printable(word) for word in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            word.rjust(w) if i in right else word.ljust(w) for i, (word, w) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


def _shape(shape: Any) -> str:
    shapes = [shape] if isinstance(shape, tuple) else shape or []
    return ", ".join("x".join(map(str, one)) for one in shapes) or "-"
