"""Choose and rank the channels of a feature map."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from yolov5_featviz.arrays.boxes import LONGEST, Boxes
from yolov5_featviz.arrays.cells import in_boxes
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.models.detections import class_name, names_of
from yolov5_featviz.models.layer_output import Dependence, LayerOutput
from yolov5_featviz.models.targets import class_number
from yolov5_featviz.text import align, printable


def check_map(feature_map: LayerOutput) -> None:
    """Raise FeatvizError if the map is empty."""
    if 0 in feature_map.data.shape:
        raise FeatvizError(f"{feature_map.layer.title} returned an empty map, {list(feature_map.data.shape)}")


FORMS = (
    "64 (the first 64), all, 0,5,9, 8-15, first:8, last:8, top:16, top:16:contrast, top:16:contrast:person, "
    "top:16:ablation"
)

ChannelSpec = Union[str, int, Sequence[int]]

# Each maps values [C, N], with NaN for missing ones but not all of a channel, to scores [C].
MEASURES: Dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda x: np.nanmean(x, axis=1),
    "max": lambda x: np.nanmax(x, axis=1),
    "std": lambda x: np.nanstd(x, axis=1),
}
OF_DETECTIONS = ("contrast", "ablation")  # measures that may be of one class
RANKINGS = (*MEASURES, *OF_DETECTIONS)
NOTHING = "nothing was detected"
NEEDLESS = "the detections depend on no single channel of this layer"
TOO_FEW = "the boxes leave too few cells to compare"


@dataclass(frozen=True, eq=False)
class Ranking:
    """The channels of a feature map, best first.

    Attributes:
        by: the measure that they are ranked by: ``mean``, ``contrast``, ``ablation of person``...
        channels: channel numbers, best first; of equals, the lower number.
        scores: name of a measure -> float64 ``[C]``, by channel number. The one of ``by`` is the first.
        note: why another measure than the requested one was used; else empty.
        lost: of a ranking by ablation, what each detection alone loses: ``lost: person 0.91`` -> float64 ``[C]``, the
            confidence by channel number.
    """

    by: str
    channels: List[int]
    scores: Dict[str, np.ndarray]
    note: str = ""
    lost: Dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def columns(self) -> Dict[str, np.ndarray]:
        """All that is known of each channel, by name, float64 ``[C]``: the scores, and what each detection loses."""
        return {**self.scores, **self.lost}

    def rows(self, n: Optional[int] = None) -> List[Dict[str, Union[int, float]]]:
        """Return the first ``n`` rows (or all), each with rank from 1, channel number and ``columns``."""
        return [
            {"rank": i, "channel": channel, **{name: float(s[channel]) for name, s in self.columns.items()}}
            for i, channel in enumerate(self.channels[:n], 1)
        ]

    def to_csv(self) -> str:
        """Return all rows as comma-separated values with a header line."""
        stream = StringIO()
        writer = csv.writer(stream, lineterminator="\n")  # a class name may hold a comma
        writer.writerow(["rank", "channel", *self.columns])
        writer.writerows([f"{value:.9g}" for value in row.values()] for row in self.rows())
        return stream.getvalue()

    def table(self, n: Optional[int] = None) -> str:
        """Return the first ``n`` rows (or all) as aligned text, below the note if there is one."""
        rows = [[f"{v}" if isinstance(v, int) else f"{v:.4g}" for v in row.values()] for row in self.rows(n)]
        table = align([["rank", "channel", *self.columns], *rows], right=range(2 + len(self.columns)))
        return f"{self.note}\n{table}" if self.note else table

    def __str__(self) -> str:
        return self.table()


class Choice(NamedTuple):
    """Channels to show, in order, and the ranking by which they were chosen, if any."""

    channels: List[int]
    ranking: Optional[Ranking] = None


def rank(feature_map: LayerOutput, by: str = "mean") -> Ranking:
    """Rank the channels of a feature map.

    Args:
        feature_map: the map, ``[C, H, W]``.
        by: ``mean``, ``max`` or ``std`` of a channel's values; ``contrast``, what responds to the detections; or
            ``ablation``, what they depend on.

            ``contrast`` is how much stronger a channel is inside the detected boxes than outside:
            ``(mean inside - mean outside) / s``, with ``s`` the pooled standard deviation,
            ``s² = ((n_in - 1) var_in + (n_out - 1) var_out) / (n_in + n_out - 2)``
            (Cohen's d, *Statistical Power Analysis for the Behavioral Sciences*, 1988, ch. 2).
            ``contrast:person`` or ``contrast:0`` counts only the boxes of one class, by name or
            number; all other cells of the image are then outside, those in boxes of other classes
            included. A cell is inside if its centre is, and each box has at least the cell that
            contains its centre; cells in the letterbox's padding are on neither side. Without
            boxes, or with fewer than two cells on either side, the ranking falls back to ``std``,
            and ``note`` gives the reason.

            ``ablation`` is the mean, over the detections, of the share of its confidence that a
            detection loses when the channel is put to its mean over the image; below 0 if it
            gains. ``ablation:person`` counts only the detections of one class. It is measured
            beforehand: ``Predictor(...)(image, layers, ablate=layers)`` returns maps that have it,
            and :meth:`~yolov5_featviz.models.layer_output.LayerOutput.with_dependence` gives a map what
            :func:`~yolov5_featviz.attribution.ablation.ablate` returns. The ranking then has the scores by
            contrast as well, where there are any, and ``lost``. Without detections, where it
            could not be measured, or where they depend on no channel, it falls back to ``std``, and
            ``note`` gives the reason.

    Returns:
        The ranking. Only finite values count; a channel without any scores NaN and comes last.
        A channel that is constant on both sides has a contrast of 0, or infinity if they differ.

    Raises:
        FeatvizError: unknown ``by``, or ``ablation`` of a map for which it was not measured.
    """
    measure, kind = parse_measure(by)
    x = feature_map.values.astype(np.float64)
    x = np.where(np.isfinite(x), x, np.nan).reshape(len(x), -1)
    scored = _Scored(measure, {}, {})
    if measure == "contrast":
        scored = _by_contrast(feature_map, x, feature_map.boxes, kind)
    elif measure == "ablation":
        scored = _by_ablation(feature_map, x, kind)
    name, note = scored.name, ""
    if scored.missing:
        name, note = "std", f"by std instead of {name}: {scored.missing}"
    scores = dict(scored.scores)
    for other in sorted(MEASURES, key=lambda other: other != name):
        scores[other] = _where_there_are_values(MEASURES[other], x)
    return Ranking(name, _best_first(scores[name]), scores, note, scored.lost)


def rank_together(feature_maps: Sequence[LayerOutput], by: str = "mean") -> Ranking:
    """Rank the channels of a layer by the mean of their scores over several images.

    Args:
        feature_maps: the layer's map for each image.
        by: see :func:`rank`. Images for which it would fall back to another measure are left out.

    Raises:
        FeatvizError: unknown ``by``, or no image for which the channels can be ranked by it.
    """
    rankings = [rank(feature_map, by) for feature_map in feature_maps]
    ranked = [ranking for ranking in rankings if not ranking.note]
    if not ranked:
        reasons = dict.fromkeys(ranking.note.partition(": ")[2] for ranking in rankings)
        raise FeatvizError(f"the channels cannot be ranked by {measure_words(by)}: {'; '.join(reasons)}")
    name = ranked[0].by
    common = [one for one in ranked[0].scores if all(one in ranking.scores for ranking in ranked)]
    with np.errstate(invalid="ignore"):  # of infinities of both signs
        scores = {one: np.mean([ranking.scores[one] for ranking in ranked], axis=0) for one in common}
    if np.isnan(scores[name]).all():
        raise FeatvizError(f"the channels cannot be ranked by {name}: none has finite values in each image")
    return Ranking(name, _best_first(scores[name]), scores)


def _best_first(scores: np.ndarray) -> List[int]:
    """Return channel numbers in descending order of score; NaN last, and of equals the lower number first."""
    order: List[int] = np.lexsort((np.arange(len(scores)), -np.nan_to_num(scores), np.isnan(scores))).tolist()
    return order


def _where_there_are_values(measure: Callable[..., np.ndarray], *parts: np.ndarray) -> np.ndarray:
    """Apply ``measure`` to the channels with a finite value in each of the parts; NaN for the others."""
    there = np.all([np.isfinite(part).any(axis=1) for part in parts], axis=0)
    result = np.full(len(there), np.nan)
    if there.any():
        result[there] = measure(*(part[there] for part in parts))
    return result


def _contrast(inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    n_in, n_out = (np.isfinite(part).sum(axis=1) for part in (inside, outside))
    difference = np.nanmean(inside, axis=1) - np.nanmean(outside, axis=1)
    squares = np.nanvar(inside, axis=1) * n_in + np.nanvar(outside, axis=1) * n_out
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.sqrt(squares / (n_in + n_out - 2))
        return np.where(difference == 0, 0.0, difference / s)


class _Scored(NamedTuple):
    """Scores by a measure of detections: its name, the scores, what each detection loses, and why there are none."""

    name: str
    scores: Dict[str, np.ndarray]
    lost: Dict[str, np.ndarray]
    missing: str = ""


def _by_contrast(feature_map: LayerOutput, x: np.ndarray, boxes: Optional[Boxes], kind: str) -> _Scored:
    """Score channels ``x [C, N]`` by contrast."""
    boxes = Boxes(np.zeros((0, 4))) if boxes is None else boxes
    rows, name, missing = _rows_of(boxes, kind, "contrast")
    inside, outside = (side.ravel() for side in sides(feature_map, boxes.take(rows)))
    if min(inside.sum(), outside.sum()) < 2:
        return _Scored(name, {}, {}, missing or TOO_FEW)
    return _Scored(name, {name: _where_there_are_values(_contrast, x[:, inside], x[:, outside])}, {})


def _by_ablation(feature_map: LayerOutput, x: np.ndarray, kind: str) -> _Scored:
    """Score channels by what the detections lose without them, and by contrast as well."""
    known = feature_map.dependence
    if known is None:
        raise FeatvizError(
            f"{feature_map.title} has no ablation to rank by: take Predictor(...)(image, layers, ablate=layers), or "
            "feature_map.with_dependence(fv.ablate(model, image, layer))"
        )
    rows, name, missing = _rows_of(known.boxes, kind, "ablation")
    missing = known.note or missing or NEEDLESS * (not known.matters(rows))
    if missing:
        return _Scored(name, {}, {}, missing)
    boxes = known.boxes if feature_map.boxes is None else feature_map.boxes
    scores = {name: known.shares[rows].mean(axis=0), **_by_contrast(feature_map, x, boxes, kind).scores}
    return _Scored(name, scores, _lost_by_each(known, rows))


def _lost_by_each(dependence: Dependence, rows: Sequence[int]) -> Dict[str, np.ndarray]:
    """Return what each detection of ``rows`` loses, under distinct names."""
    found: Dict[str, np.ndarray] = {}
    for row in rows:
        name = first = f"lost: {dependence.boxes.caption(row)}"
        n = 1
        while name in found:
            n += 1
            name = f"{first} ({n})"
        found[name] = dependence.lost[row]
    return found


def _rows_of(boxes: Boxes, kind: str, measure: str) -> Tuple[List[int], str, str]:
    """Return the rows of a class, or all if it is empty; the name of their measure; and why there are none."""
    if not kind:
        return list(range(len(boxes))), measure, "" if len(boxes) else NOTHING
    numbers = [] if boxes.classes is None or not _is_number(kind) else boxes.classes == int(kind)
    labels = boxes.labels or [""] * len(boxes)
    rows = [i for i, label in enumerate(labels) if label == printable(kind, LONGEST)]
    rows += [i for i in np.flatnonzero(numbers).tolist() if not _is_number(labels[i])]  # else that is the class's name
    name = (labels[rows[0]] if rows else "") or _class_words(kind)
    known = len(boxes) == 0 or bool(boxes.labels) or len(numbers) > 0
    missing = f"no {name} was detected" if known else "the classes of the boxes are not known"
    return rows, f"{measure} of {name}", "" if rows else missing


def _is_number(word: str) -> bool:
    """Return whether a word can be a class number."""
    return re.fullmatch(r"\d{1,9}", word) is not None


def _class_words(kind: str) -> str:
    """Name a class given by name or number: ``person``, ``class 7``."""
    return class_name(int(kind), {}) if _is_number(kind) else printable(kind, LONGEST)


def sides(feature_map: LayerOutput, boxes: Boxes) -> Tuple[np.ndarray, np.ndarray]:
    """Return bool masks ``[H, W]`` of the cells inside a box, and outside all; padding is in neither."""
    size = feature_map.size
    if feature_map.stride is None:
        inside = np.zeros(size, bool)
        return inside, ~inside
    inside = in_boxes(size, feature_map.stride, boxes.xyxy)
    image = feature_map.in_image
    return inside & image, ~inside & image


def choose(feature_map: LayerOutput, spec: Union[ChannelSpec, Choice]) -> Choice:
    """Resolve ``spec``, as for :func:`choose_channels` or ``top:...``, to channels of ``feature_map``.

    ``top:16`` selects the 16 with the highest mean, ``top:16:std``, ``top:16:contrast:person`` or ``top:16:ablation``
    those by another measure of :func:`rank`, best first; all of them if there are fewer. A :class:`Choice` is returned
    as it is.
    Raises FeatvizError as both do.
    """
    if isinstance(spec, Choice):
        return spec
    top = parse_top(spec)
    if top is None:
        return Choice(choose_channels(spec, feature_map.channels))
    ranking = rank(feature_map, top[1])
    return Choice(ranking.channels[: top[0]], ranking)


def parse_top(spec: ChannelSpec) -> Optional[Tuple[int, str]]:
    """Parse ``top:16:contrast:person`` to ``(16, "contrast:person")``, where the measure is ``mean`` by default.

    None for another form. Raises FeatvizError if invalid.
    """
    if not isinstance(spec, str) or not spec.strip().lower().startswith("top:"):
        return None
    found = re.fullmatch(r"top:(\d{1,9})(?::([^:]+)(:.*)?)?", spec.strip(), re.IGNORECASE | re.DOTALL)
    if not found:
        raise FeatvizError(f"channels {spec!r} are not understood: take one of {FORMS}")
    n, by = int(found.group(1)), (found.group(2) or "mean").lower() + (found.group(3) or "")
    if n == 0:
        raise FeatvizError(f"channels {spec!r} select nothing: take one of {FORMS}")
    try:
        parse_measure(by)
    except FeatvizError as error:
        raise FeatvizError(f"channels {spec!r}: {error}") from None
    return n, by


def parse_measure(by: str) -> Tuple[str, str]:
    """Split ``contrast:person`` into measure and class, empty if there is none. Raises FeatvizError if invalid."""
    measure, colon, kind = str(by).partition(":")
    if measure not in RANKINGS:
        raise FeatvizError(f"no ranking by {measure!r}: take one of {', '.join(RANKINGS)}")
    if colon and measure not in OF_DETECTIONS:
        raise FeatvizError(f"no ranking by {by!r}: only contrast and ablation take a class, as in contrast:person")
    if colon and not kind.strip():
        raise FeatvizError(f"no ranking by {by!r}: name the class, as in {measure}:person")
    return measure, kind


def is_by_ablation(spec: Optional[ChannelSpec]) -> bool:
    """Return whether ``spec``, as for :func:`choose`, ranks by ablation, which has to be measured beforehand."""
    top = None if spec is None else parse_top(spec)
    return top is not None and parse_measure(top[1])[0] == "ablation"


def measure_words(by: str) -> str:
    """Name a measure: ``mean``, ``contrast of person``, ``ablation of class 0``. Raises FeatvizError if invalid."""
    measure, kind = parse_measure(by)
    return f"{measure} of {_class_words(kind)}" if kind else measure


def check_class(spec: ChannelSpec, names: Any) -> None:
    """Raise FeatvizError if ``spec`` ranks by a class that a model does not have.

    Args:
        spec: see :func:`choose`.
        names: the model's class names, a list or a dictionary by number. If there are none, nothing is checked.
    """
    top = parse_top(spec)
    kind = parse_measure(top[1])[1] if top else ""
    known = names_of(names) if kind else {}
    if known:
        try:
            class_number(kind, known)
        except FeatvizError as error:
            raise FeatvizError(f"channels {spec!r}: {error}") from None


def choose_channels(spec: ChannelSpec, count: int) -> List[int]:
    """Convert a channel selection to channel numbers.

    Args:
        spec: ``64`` or ``first:64`` for the first 64, ``last:8``, ``all``, or a comma-separated list
            of numbers and ranges such as ``0,5,8-15``; one single channel is ``5-5``. The first three
            forms select all channels if there are fewer. In Python also an int, for the first so
            many, or a sequence of channel numbers.
        count: number of channels of the map.

    Returns:
        Channel numbers within ``0..count-1``, in the order requested, each once.

    Raises:
        FeatvizError: invalid or empty ``spec``, or a channel that does not exist.
    """
    if not isinstance(spec, (str, int)):
        spec = ",".join(f"{channel}-{channel}" for channel in spec)
    spec = str(spec).strip().lower()
    if spec == "all":
        return list(range(count))
    ends = re.fullmatch(r"(?:(first|last):)?(\d{1,9})", spec)
    if ends:
        n = min(int(ends.group(2)), count)
        if n == 0:
            raise FeatvizError(f"channels {spec!r} select nothing: take one of {FORMS}")
        return list(range(count - n, count)) if ends.group(1) == "last" else list(range(n))
    chosen: List[int] = []
    for part in spec.split(","):
        span = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip())
        if not span:
            raise FeatvizError(f"channels {spec!r} are not understood: take one of {FORMS}")
        first, last = int(span.group(1)), int(span.group(2) or span.group(1))
        if first > last:
            raise FeatvizError(f"channels {part.strip()!r}: ranges are ascending")
        if last >= count:
            raise FeatvizError(f"no channel {last}: this layer has channels 0 to {count - 1}")
        chosen.extend(range(first, last + 1))
    return list(dict.fromkeys(chosen))
