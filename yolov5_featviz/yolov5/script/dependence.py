"""What a script's detections lose without each channel of the layers that are drawn."""

from __future__ import annotations

from typing import Callable, List

from yolov5_featviz.attribution.dependence import dependences
from yolov5_featviz.features.feature_map import FeatureMap
from yolov5_featviz.models.layer_output import Dependence
from yolov5_featviz.runs.progress import over_channels
from yolov5_featviz.yolov5.script.batch import Batch, Pass, Visit
from yolov5_featviz.yolov5.script.cam import origin

SCALED = "it is measured on the image as it is, not on scaled or flipped copies"


def with_dependence(
    item: Batch, i: int, visit: Visit, maps: List[List[FeatureMap]], log: Callable[[str], None], bar: bool = True
) -> List[List[FeatureMap]]:
    """Measure what the script's detections in image ``i`` of a batch lose without each channel of a model's maps.

    Detections are found among the candidates of a pass on that image alone. Of those that are not there, as with
    test-time augmentation and ensembles, ``log`` is told the number; if it is all of them, what the model itself
    detects of the same classes counts.

    Args:
        item: the batch.
        i: number of the image.
        visit: the model's run.
        maps: of the image, for each pass of the run.
        log: called with each message.
        bar: whether to show progress.

    Returns:
        The maps with their dependence; where it could not be measured, with the reason.
    """
    plain = [_is_plain(one) for one in visit.passes]
    unscaled = [fm for mine, is_plain in zip(maps, plain) if is_plain for fm in mine]
    layers = {fm.layer.path: fm.layer for fm in unscaled}
    found = item.boxes(i, getattr(visit.model, "names", ()))

    def lost(n: int) -> None:
        whole = found is not None and n == len(found)
        words = "those that the model alone makes are ablated" if whole else "and do not count in the ablation"
        total = f"all {n} detections" if whole else f"{n} of {0 if found is None else len(found)} detections"
        log(f"{total} {origin(item, visit)}{': ' if whole else ', '}{words}")

    bars = over_channels(item.name(i)) if bar else None
    image = visit.images[i : i + 1]
    known = dependences(visit.model, image, list(layers.values()), found, item.thresholds, lost, bars)
    scaled = Dependence.unknown(SCALED)
    return [
        [fm.with_dependence(known[fm.layer.path] if is_plain else scaled) for fm in mine]
        for mine, is_plain in zip(maps, plain)
    ]


def _is_plain(one: Pass) -> bool:
    """Return whether a pass is over the image as it is."""
    return one.scale in (None, 1.0) and not one.dims
