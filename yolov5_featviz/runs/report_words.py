"""Sentences of the report: what was found in an image, and what its picture shows."""

from __future__ import annotations

from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from yolov5_featviz.attribution.explain import METHODS, Explanation
from yolov5_featviz.models.tide import KINDS

LIST = 10  # channels in the ranked list
# by what the picture shows; the page's script fills in the same ones
WORDS = {
    "picked": "Picked: {said}.",
    "top": "Channel {channel} of {layer} stands out most on {what}: the picture shows it.",
    "needed": "Without channel {channel} of {layer} the score falls most: the picture shows it.",
    "spread": "Channel {channel} of {layer} varies most over the image: the picture shows it.",
    "channel": "The picture shows channel {channel} of {layer}.",
    "flat": "No channel stands out on {what}.",
    "needless": "Without any single channel, the score does not fall.",
    "heat": "The picture shows the {reduce} of all {n} channels of {layer}.",
}


# measures that channels are ranked by, the first that there is -> its name
MEASURES = {"ablation": "score lost", "contrast": "contrast", "std": "standard deviation"}
TOP = {"ablation": "needed", "contrast": "top", "std": "spread"}  # by measure, what is said of the best channel
NONE = {"ablation": "needless", "contrast": "flat"}  # and if its score is not above 0


class View(NamedTuple):
    """What is shown over the photograph.

    Attributes:
        box: 0 for all detections, else 1 + index of a box.
        spot: index of the explained layer; None for a feature map.
        layer: index of the feature map; None for an explanation, or if there is nothing to show.
        map: index in the explained layer, or in the channels of the feature map, -1 for its heat map.
    """

    box: int = 0
    spot: Optional[int] = None
    layer: Optional[int] = None
    map: int = -1


def first_view(found: Dict[str, Any], box: int = 0) -> View:
    """Return what an image is shown with: an explanation, else the channel that stands out, else a heat map.

    Args:
        found: the data of the image, see :func:`yolov5_featviz.runs.report_data.entry`.
        box: 0 for all detections, else 1 + index of a box.
    """
    layers = found["parts"][0]["layers"] if found["parts"] else []
    names = [layer["name"] for layer in layers]
    explained = [i for i, spot in enumerate(found["spots"]) if box in spot["boxes"]]
    if explained:  # the layers with feature maps come first
        spots = [found["spots"][i] for i in explained]
        places = [names.index(spot["name"]) if spot["name"] in names else len(names) for spot in spots]
        at = explained[places.index(min(places))]
        return View(box, at, None, found["spots"][at]["boxes"].index(box))
    for at, channel, score in ranked(layers, box):
        known = layers[at]["channels"]
        if channel in known and (score > 0 or layers[at]["by"] == "std"):
            return View(box, None, at, known.index(channel))
    return View(box, None, found["best"] if layers else None)


def sentence(found: Dict[str, Any], view: View) -> str:
    """Return what was found in an image, and what the view shows."""
    words = [found["says"]]
    if view.box:
        words.append(WORDS["picked"].format(said=said(found, view.box)))
    if view.spot is not None:
        return " ".join([*words, found["spots"][view.spot]["says"][view.map]])
    if view.layer is None:
        return " ".join(words)
    layers = found["parts"][0]["layers"]
    of = layers[view.layer]
    what = "it" if view.box or found["detected"] == 1 else "them"
    top = ranked(layers, view.box)
    if view.map >= 0:
        channel = of["channels"][view.map]
        kind = "channel" if top[0][:2] != (view.layer, channel) else TOP[of["by"]]
        return " ".join([*words, WORDS[kind].format(channel=channel, layer=of["title"], what=what)])
    if top and of["by"] in NONE and top[0][2] <= 0:
        words.append(WORDS[NONE[of["by"]]].format(what=what))
    return " ".join([*words, WORDS["heat"].format(reduce=of["heat"][0], n=of["shape"][0], layer=of["title"])])


def said(found: Dict[str, Any], box: int) -> str:
    """Return the caption of a box, and what is wrong with it."""
    words: str = (found["marks"][box - 1] if found["marks"] else {}).get("said") or found["captions"][box - 1]
    return words


def named(found: Dict[str, Any], box: int) -> str:
    """Return the caption of a box, and its kind of error: ``bus 0.18, missed``."""
    mark = found["marks"][box - 1] if found["marks"] else {}
    kind = mark.get("kind") or "not detected" * (not mark.get("detected", True))
    return f"{found['captions'][box - 1]}{', ' * bool(kind)}{kind}"


def ranked(layers: Sequence[Dict[str, Any]], group: int = 0) -> List[Tuple[int, int, float]]:
    """Rank the channels of all layers: ``(index of the layer, channel, score)``, best first.

    Only layers ranked by :func:`measure_of` are included. ``group``: 0 for all detections, else 1 + index of a box.
    """
    by = measure_of(layers)
    rows = [
        (i, channel, float(score))
        for i, layer in enumerate(layers)
        if layer["by"] == by and group < len(layer["top"])
        for channel, score, *_ in layer["top"][group]
        if score is not None
    ]
    return sorted(rows, key=lambda row: -row[2])[:LIST]


def measure_of(layers: Sequence[Dict[str, Any]]) -> str:
    """Return the first of ``MEASURES`` that a layer is ranked by."""
    return next(by for by in MEASURES if by == "std" or any(layer["by"] == by for layer in layers))


def findings(name: str, labels: Optional[Sequence[str]], kinds: Sequence[str]) -> str:
    """Return what was found in an image.

    Args:
        name: of the image.
        labels: class names of the detections, None if they are unknown.
        kinds: of its errors.
    """
    errors = f"{len(kinds)} error{'s' * (len(kinds) > 1)} ({listed(kinds, KINDS, ' ')})" if kinds else ""
    if labels is None:
        return f"“{name}” has {errors}." if errors else f"No detections of “{name}” are known."
    found = f"In “{name}” the model found {listed(labels)}" if labels else f"Nothing was detected in “{name}”"
    return f"{found}; {errors}." if errors else f"{found}."


def shown(whose: str, one: Explanation, where: str, empty: bool) -> str:
    """Return what the map of an explanation, or of several, shows.

    Args:
        whose: such as ``its score``.
        one: any of them.
        where: its layers in words; empty if it has none.
        empty: whether no value is above 0.
    """
    method = METHODS[one.method]
    if one.method == "eigen-cam":
        return f"The picture shows what the channels of {where} have most in common: {method}, the same for every box."
    how = f"{method} of {where}" if where else method
    return (
        f"Nothing raised {whose}: {how} is 0 everywhere." if empty else f"The picture shows what raised {whose}: {how}."
    )


def listed(words: Sequence[str], order: Sequence[str] = (), times: str = " × ") -> str:
    """Count words: ``4 × person, 1 × tie and 1 × bus``, the most frequent first, or in some order."""
    counts = Counter(words)
    kinds = [word for word in order if word in counts] or [word for word, _ in counts.most_common()]
    *before, last = [f"{counts[word]}{times}{word}" for word in kinds]
    return f"{', '.join(before)} and {last}" if before else last
