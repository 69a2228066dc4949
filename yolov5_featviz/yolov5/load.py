"""Load models, directly or through YOLOv5's own functions."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Union

import torch
from torch import nn

from yolov5_featviz.errors import FeatvizError, UnsafeCheckpoint
from yolov5_featviz.yolov5.script.compat import Surroundings
from yolov5_featviz.yolov5.script.monkeypatch import Patches
from yolov5_featviz.yolov5.source import Source, find_source
from yolov5_featviz.yolov5.weights.checkpoint import load_checkpoint, model_of
from yolov5_featviz.yolov5.weights.definition import check_options


def load(path: Union[str, Path], yolov5: Optional[str] = None, trust: bool = False) -> nn.Module:
    """Load the model of a YOLOv5 checkpoint, checking its content before building anything.

    Args:
        path: a ``.pt`` file as ``train.py`` writes it.
        yolov5: folder of its YOLOv5 checkout; found automatically if None.
        trust: unpickle without any check.

    Returns:
        The model (the moving average if the checkpoint has one), float32, on the CPU, in
        evaluation mode.

    Raises:
        FeatvizError: as :func:`load_checkpoint`, or the file holds no model.
    """
    return model_of(load_checkpoint(path, find_source(yolov5), trust=trust), str(path), trust)


@contextmanager
def compatible(yolov5: Optional[str] = None, trust: bool = False) -> Iterator[Path]:
    """Make YOLOv5's own model loading work with current libraries, using the reader of :func:`load`.

    ::

        with fv.compatible("path/to/yolov5"):
            model = torch.hub.load("path/to/yolov5", "custom", "best.pt", source="local")

    Within the block ``torch.load`` is that reader, and names that old releases need are provided;
    local files are never looked up on the network. All patches are undone afterwards; the model
    remains usable.

    Args:
        yolov5: folder of the checkout; found automatically if None.
        trust: unpickle without any check.

    Yields:
        The folder of the YOLOv5 in use.

    Raises:
        FeatvizError: there is no YOLOv5, or (from within the block) a checkpoint cannot be read.
        UnsafeCheckpoint: a checkpoint contains something that no checkpoint needs.
    """
    source = find_source(yolov5)
    patches = Patches()
    with Surroundings(source):
        safe_load(patches, source, trust)
        try:
            yield source.root
        finally:
            patches.undo()


def safe_load(
    patches: Patches,
    source: Source,
    trust: bool,
    loaded: Callable[[Any, Any], None] = lambda *_: None,
    resumes: bool = False,
) -> None:
    """Replace ``torch.load`` by the checking reader.

    Args:
        patches: stores the original.
        source: the YOLOv5 whose modules the checkpoints may contain.
        trust: unpickle without any check.
        loaded: called with the loaded object and its file.
        resumes: whether the script reads its options from a checkpoint, as ``train.py --resume`` does.
    """
    real = torch.load

    @functools.wraps(real)
    def load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
        try:
            result = load_checkpoint(f, source, map_location, trust)
        except UnsafeCheckpoint:
            raise
        except FeatvizError as error:
            if Path(str(f)).suffix in (".pt", ".pth"):
                raise
            raise error.__cause__ or error from None  # a label cache, which the script can do without
        if resumes and not trust:
            check_options(result.get("opt") if isinstance(result, dict) else result, source.root, str(f))
        loaded(result, f)
        return result

    patches.set(torch, "load", load)
