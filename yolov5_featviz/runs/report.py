"""Write the HTML report of a run, one page or several."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import pkgutil
import re
import tempfile
import threading
from collections import Counter
from itertools import count, islice
from pathlib import Path
from typing import IO, Any, Dict, Iterator, List, Optional, Sequence, Tuple
from urllib.parse import quote_from_bytes

import numpy as np

from yolov5_featviz.arrays.image import smaller
from yolov5_featviz.attribution.explain import Explanation
from yolov5_featviz.draw.heatmap import ALPHA, HeatMap, aligned, blended, channel, grey, heatmap
from yolov5_featviz.draw.lettering import SEPARATOR
from yolov5_featviz.draw.palette import COLOURS, NAN, OVER, is_dark, over_grey, palette_of, quantise
from yolov5_featviz.draw.scale import Legend, end_words
from yolov5_featviz.files import write_new
from yolov5_featviz.runs.look import Look
from yolov5_featviz.runs.report_data import LEVELS, Part, entry, jpeg_uri, photo
from yolov5_featviz.runs.report_errors import Errors
from yolov5_featviz.runs.report_explanations import title_of
from yolov5_featviz.runs.report_words import (
    LIST,
    MEASURES,
    NONE,
    TOP,
    WORDS,
    View,
    first_view,
    measure_of,
    named,
    ranked,
    sentence,
)
from yolov5_featviz.text import printable
from yolov5_featviz.version import __version__

PAGE = 16_000_000  # bytes of images per page, without head and foot
FORMULAS = {
    "ablation": "Score lost: the share of its confidence that a detection loses when the channel is put to its mean "
    "over the image; for several detections the mean; below 0 it gains. Contrast, beside it, is what responds.",
    "contrast": "Contrast: how many standard deviations the channel is stronger inside the boxes than outside; 0.8 is "
    "a lot. A high rank does not prove that the detection depends on the channel.",
    "std": "Ranked by standard deviation over the image, since there are no detections to compare.",
}
HEADINGS = {"ablation": "What is needed most by", "contrast": "What responds most to"}
STRONGEST = {"ablation": "The channel that is needed most is", "contrast": "The strongest channel is"}
NO_ERROR = {"severity": -1.0, "box": 0}
PRIVATE = ("thumbnail", "heats", "errors")  # not in the data of an image
CMAPS = (OVER, "viridis", "magma", "turbo", "jet", "gray")


def as_json(value: Any) -> str:
    """Encode as ASCII JSON that is safe inside an HTML script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")


class _Page:
    """State of one page while images are collected.

    Attributes:
        start: offset of its images in the temporary file, in bytes.
        used: bytes of its images.
        images: number of its images.
        first, last: names of its first and last image.
        rank: of the image shown first: how bad its worst error is, -1 without any, and whether anything was detected.
        values: template values that describe this image.
    """

    def __init__(self, start: int, name: str) -> None:
        self.start, self.used, self.images = start, 0, 0
        self.first = self.last = name
        self.group = ""
        self.rank = (-2.0, False)
        self.values: Dict[str, str] = {}


class Report:
    """Collect images and write the report at the end; ``docs/report.md`` describes its content.

    Images are kept in an unnamed temporary file in ``folder``, so memory use is constant and a killed
    run leaves nothing behind. The first images are stored in full detail, later ones in less
    (``LEVELS``); those that no longer fit are counted. Past ``PAGE`` bytes the report continues on
    another page, ``index2.html``...; the pages link to each other, and each lists the errors of all.

    Args:
        folder: the report's folder; created with the first image if necessary.
        about: a line about the run, under the heading.
        look: ``reduce``, ``cmap`` and ``desaturate`` are used.
    """

    def __init__(self, folder: Path, about: str = "", look: Optional[Look] = None) -> None:
        self.folder, self.about, self.look = folder, about, look or Look()
        self.images = self.left_out = 0
        self._body: Optional[IO[bytes]] = None
        self._used = 0
        self._strongest: Dict[str, Counter[str]] = {by: Counter() for by in STRONGEST}
        self._errors = Errors()
        self._pages: List[_Page] = []
        self._lock = threading.Lock()

    def add(
        self,
        name: str,
        parts: Sequence[Part],
        image: Any = None,
        group: str = "",
        folder: str = "",
        size: Optional[Tuple[int, int]] = None,
        explanations: Sequence[Explanation] = (),
    ) -> None:
        """Add an image.

        Args:
            name, parts, image, size, explanations: as for :func:`entry`; parts without maps are skipped.
            group: such as ``epoch 10``; images of one name in several groups are variants of each other.
            folder: of its pictures, relative to the page.

        Raises:
            OSError: writing fails. Images added before are kept.
        """
        parts = [(part, maps) for part, maps in parts if len(maps)]
        with self._lock:
            self._errors.count(explanations)
            levels = [level for level in LEVELS if self._used < level.until]
            if not levels or not (parts or explanations):
                self.left_out += bool(parts or explanations)
                return
            pixels = photo(image)
            page = self._pages[-1] if self._pages else _Page(0, name)
            for level in levels:  # reduce the detail of an image that alone exceeds a page
                found = entry(name, parts, pixels, level, self.look, size, explanations)
                item = _item(found, page.images, group, _link(folder), page.group)
                if len(item) <= PAGE:
                    break
            else:
                self.left_out += 1
                return
            if page.used + len(item) > PAGE:
                page = _Page(self._used, name)
                item = _item(found, 0, group, _link(folder), "")
            self._write(item)
            if not self._pages or self._pages[-1] is not page:
                self._pages.append(page)
            best = found["parts"][0]["layers"][found["best"]] if parts else {"by": ""}
            if best["by"] in STRONGEST:
                self._strongest[best["by"]][best["title"]] += 1
            variant = ", ".join(filter(None, [group, name]))
            self._errors.list(found["errors"], len(self._pages) - 1, page.images, variant)
            worst: Dict[str, Any] = max(found["errors"], key=lambda one: one["severity"], default=NO_ERROR)
            rank = worst["severity"], bool(found["detected"])
            if rank > page.rank:
                view = first_view(found, worst["box"])
                page.rank = rank
                page.values = _screen(found, page.images, view, _heat(found, view, parts, self.look), pixels, self.look)
            page.group, page.last = group, name
            page.images += 1
            page.used += len(item)
            self.images += 1

    def _write(self, item: bytes) -> None:
        if self._body is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._body = tempfile.TemporaryFile(dir=str(self.folder))  # noqa: SIM115
        try:
            self._body.write(item)
            self._body.flush()
        except OSError:
            self._body.seek(self._used)
            self._body.truncate()
            raise
        self._used += len(item)

    def close(self) -> Optional[Path]:
        """Write the pages atomically, without replacing existing ones.

        Returns:
            The first page; None if there is nothing to write.

        Raises:
            OSError: writing fails. Pages written before are kept.
        """
        if self._body is None or not self._pages:
            return None
        with self._body as body:
            while True:
                names = _free(self.folder, len(self._pages))
                written: List[Path] = []
                for page, name in zip(self._pages, names):
                    written.append(write_new(self.folder / name, self._content(page, names, body)))
                    if written[-1].name != name and len(names) > 1:  # name taken meanwhile: links are wrong
                        break
                else:
                    return written[0]
                for path in written:
                    path.unlink()

    def _content(self, page: _Page, names: Sequence[str], body: IO[bytes]) -> Iterator[bytes]:
        """Yield the content of a page in chunks."""
        head, tail = self._frame(page, names)
        yield head
        body.seek(page.start)
        for start in range(0, page.used, 1 << 20):
            yield body.read(min(1 << 20, page.used - start))
        yield tail

    def _frame(self, page: _Page, names: Sequence[str]) -> Tuple[bytes, bytes]:
        """Render the parts of a page before and after its images."""
        script = web_file("report.js")
        cmaps = list(dict.fromkeys([*([self.look.cmap] if self.look.cmap else []), *CMAPS]))
        settings = {
            "palettes": [[cmap, _palette(cmap)] for cmap in cmaps],
            "first": int(page.values["index"]),
            "box": int(page.values["box"]),
            "alpha": round(100 * ALPHA),
            "grey": self.look.desaturate,
            "list": LIST,
            "side": LEVELS[0].side,
            "formulas": FORMULAS,
            "words": WORDS,
            "measures": MEASURES,
            "headings": HEADINGS,
            "top": TOP,
            "none": NONE,
        }
        values = {
            **page.values,
            "hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            "version": _escaped(__version__),
            "style": web_file("report.css"),
            "about": _escaped(self.about),
            "overall": self._overall(),
            "pages": self._links(page, names),
            "errors": self._errors.list_html(self._pages.index(page), names),
            "kinds": self._errors.table_html() if self.images > 1 else "",
            "alpha": str(round(100 * ALPHA)),
            "settings": as_json(settings),
            "script": script,
        }
        head, tail = (
            re.sub(r"\{\{(\w+)\}\}", lambda found: values[found.group(1)], half).encode("utf-8", "replace")
            for half in web_file("report.html").split("{{entries}}")
        )
        return head, tail

    def _links(self, page: _Page, names: Sequence[str]) -> str:
        """Render links to all pages, if there are several."""
        if len(names) < 2:
            return ""
        links, n = [], 1
        for number, (other, name) in enumerate(zip(self._pages, names), 1):
            span = f"{n} to {n + other.images - 1}" if other.images > 1 else str(n)
            title = html.escape(
                f"images {span}: {other.first} to {other.last}" if other.images > 1 else f"image {span}: {other.first}"
            )
            here = ' aria-current="page"' if other is page else ""
            links.append(f'<a href="{name}" title="{title}"{here}>{number}</a>')
            if other is page:
                where = f"Page {number} of {len(names)}, images {span} of {self.images}"
            n += other.images
        return f'<nav class="pages" aria-label="Pages">{where}: {" ".join(links)}</nav>'

    def _overall(self) -> str:
        """Render a summary of all images."""
        words = [f"{self.images} images."] if self.images > 1 else []
        for by, counts in self._strongest.items():
            ranked = sum(counts.values())
            if self.images > 1 and ranked:
                where = ", ".join(f"in {title} on {n}" for title, n in counts.most_common(5))
                words.append(f"{STRONGEST[by]} {where} of the {ranked} whose detections can be compared.")
        if self.left_out:
            words.append(f"{self.left_out} more did not fit into this report; their pictures are in their folders.")
        return f'<p class="overall">{_escaped(" ".join(words))}</p>' if words else ""


def _heat(found: Dict[str, Any], view: View, parts: Sequence[Part], look: Look) -> Optional[HeatMap]:
    """Return the map of a view, None if it has none."""
    if view.spot is not None:
        heat: HeatMap = found["heats"][view.spot][view.map]
        return heat
    if view.layer is None:
        return None
    fm, of = parts[0][1][view.layer], found["parts"][0]["layers"][view.layer]
    return heatmap(fm, look.reduce) if view.map < 0 else channel(fm, of["channels"][view.map])


def _screen(
    found: Dict[str, Any], index: int, view: View, heat: Optional[HeatMap], pixels: Optional[np.ndarray], look: Look
) -> Dict[str, str]:
    """Return the template values of the image that a page shows first."""
    cmap = look.cmap or CMAPS[0]
    layers = found["parts"][0]["layers"] if found["parts"] else []
    by = measure_of(layers)
    top = ranked(layers, view.box)
    scores = [score for _, _, score in top]
    words = [_contrast(score) for score in scores] if by == "contrast" else end_words(*scores)
    beside = [contrast for i, channel, _ in top for contrast in _beside(layers[i], view.box, channel)]
    cells = [f"<td>{score}</td>" for score in words]
    cells = [f"{cell}<td>{contrast}</td>" for cell, contrast in zip(cells, beside)] if by == "ablation" else cells
    rows = [
        f'<tr><td class="number">{n}</td><td>{_escaped(layers[i]["name"] + " " + layers[i]["type"])}</td>'
        f"<td>{channel}</td>{cell}</tr>"
        for n, ((i, channel, _), cell) in enumerate(zip(top, cells), 1)
    ]
    title, legend = ("", Legend("", "")) if heat is None else (title_of(heat), heat.legend)
    if view.spot is not None:
        legend = Legend(*found["spots"][view.spot]["legends"][view.map])
    shown = palette_of(cmap) if pixels is None or heat is None else over_grey(cmap, ALPHA, centre=heat.centre)
    return {
        "index": str(index),
        "box": str(view.box),
        "says": _escaped(sentence(found, view)),
        "alt": _escaped(f"{found['name']}{', under ' * bool(title)}{title}"),
        "aspect": f"{found['size'][1] / found['size'][0]:.6g}",
        "overlay": _overlay(heat, pixels, found["size"], cmap, look.desaturate),
        "boxes": "".join(_box(found, i, view.box) for i in range(len(found["boxes"]))),
        "low": _escaped(legend.low),
        "high": _escaped(legend.high),
        "ramp": _ramp(shown) if legend.high else "hidden",
        "caption": _escaped(SEPARATOR.join(filter(None, [title, legend.scope]))),
        "ranking": "" if layers else "hidden",
        "what": _escaped(named(found, view.box)) if view.box else "the detections",
        "by": MEASURES[by],
        "beside": "" if by == "ablation" else "hidden",
        "heading": HEADINGS.get(by, HEADINGS["contrast"]),
        "rows": "\n".join(rows),
        "formula": _escaped(FORMULAS[by]),
    }


def _contrast(score: Any) -> str:
    """Format a contrast, which may be unknown or infinite."""
    return "no number" if score is None else f"{float(score):.2f}".replace("-", "−").replace("inf", "∞")


def _beside(layer: Dict[str, Any], group: int, channel: int) -> List[str]:
    """Return the contrast of a channel in a ranking by ablation; nothing in another one."""
    return [_contrast(also[0]) for other, _, *also in layer["top"][group] if other == channel and also]


def _free(folder: Path, n: int) -> List[str]:
    """Return the first ``n`` free page names: ``index.html``, ``index2.html``..."""
    names = (f"index{i if i > 1 else ''}.html" for i in count(1))
    return list(islice((name for name in names if not os.path.lexists(folder / name)), n))


def _item(found: Dict[str, Any], index: int, group: str, link: str, before: str) -> bytes:
    """Render an image's list entry with its data."""
    name, n = found["name"], found["detected"]
    photo = f'<img alt="" loading="lazy" decoding="async" src="{found["thumbnail"]}">' if found["thumbnail"] else ""
    count = "" if n is None else "nothing found" if n == 0 else f"{n} detection{'s' * (n > 1)}"
    wrong = len(found["errors"])
    badge = f'<b class="wrong">{wrong} error{"s" * (wrong > 1)}</b>' if wrong else ""
    head = f'<li class="group">{_escaped(group)}</li>\n' if group and group != before else ""
    data = _with_data(
        {**{key: value for key, value in found.items() if key not in PRIVATE}, "group": group, "link": link}
    )
    return (
        f'{head}<li data-index="{index}" data-name="{_escaped(name)}" data-group="{_escaped(group)}">'
        f'<button type="button">{photo}{_escaped(name)}<small>{count}</small>{badge}</button>'
        f'<script type="application/json">{data}</script></li>\n'
    ).encode("utf-8", "replace")


def _with_data(found: Dict[str, Any]) -> str:
    """Encode an image's data as :func:`as_json` does, but insert maps and photograph, which are base64, unescaped."""
    parts = [{**part, "layers": [{**layer, "data": ""} for layer in part["layers"]]} for part in found["parts"]]
    spots = [{**spot, "data": ""} for spot in found["spots"]]
    # quotation marks inside strings are escaped, so this pattern only matches keys
    first, *others = as_json({**found, "photo": found["photo"] and "", "parts": parts, "spots": spots}).split(
        '"data":""'
    )
    first = first.replace('"photo":""', f'"photo":"{found["photo"]}"', 1) if found["photo"] else first
    layers = [layer for part in found["parts"] for layer in part["layers"]]
    data = (layer["data"] for layer in (*layers, *found["spots"]))
    return "".join([first, *(f'"data":"{maps}"{other}' for maps, other in zip(data, others))])


def _escaped(text: str) -> str:
    """Escape text for HTML, without control characters."""
    return html.escape(printable(text))


def _box(found: Dict[str, Any], i: int, picked: int) -> str:
    """Render a box of an image as the script does."""
    mark, colour = found["marks"][i] if found["marks"] else {}, found["colours"][i]
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) * 100 for edge in found["boxes"][i])
    place = f"left:{x0:.4g}%;top:{y0:.4g}%;width:{x1 - x0:.4g}%;height:{y1 - y0:.4g}%;--box:{colour}"
    r, g, b = bytes.fromhex(colour[1:])
    look = " dark" * is_dark((r, g, b)) + " right" * (x0 > 75) + " low" * (y0 < 3)
    look += " unseen" * (not mark.get("detected", True)) + " on" * (picked == i + 1)
    badge = f'<b class="kind">{mark["kind"]}</b>' if mark.get("kind") else ""
    return f'<div class="box{look}" style="{place}"><span>{_escaped(found["captions"][i])}{badge}</span></div>'


def _overlay(
    heat: Optional[HeatMap], pixels: Optional[np.ndarray], size: Sequence[int], cmap: str, desaturate: bool
) -> str:
    """Render the initial view, a map over the image, as a JPEG data URI; without a map the image alone."""
    height, width = size
    scale = min(1.0, LEVELS[0].side / max(height, width))
    to = max(1, round(height * scale)), max(1, round(width * scale))
    values = np.zeros(to, np.float32) if heat is None else aligned(heat.values, heat.feature_map, (height, width), to)
    codes = quantise(values.clip(0, 1))
    palette = palette_of(cmap)
    if pixels is None:
        return jpeg_uri(palette[codes], max(to), 88)
    import cv2

    small = cv2.resize(smaller(pixels, max(to)), to[::-1], interpolation=cv2.INTER_LINEAR)
    small = grey(small) if desaturate else small
    centre = 0.0 if heat is None else heat.centre
    return jpeg_uri(blended(codes, palette, small, ALPHA, centre=centre), max(to), 88)


def _ramp(palette: np.ndarray) -> str:
    """Render the colour scale of a page without a script, as the attribute of an element."""
    stops = (f"#{palette[i].tobytes().hex()}" for i in range(0, COLOURS, 13))  # from the first to the last colour
    return f'style="background:linear-gradient(90deg,{",".join(stops)})"'


def _palette(cmap: str) -> str:
    """Encode a colour map's RGB values and the grey for NaN in base64."""
    palette = palette_of(cmap)
    return base64.b64encode(palette[:COLOURS].tobytes() + palette[NAN].tobytes()).decode()


def _link(folder: str) -> str:
    return quote_from_bytes(os.fsencode(folder.replace(os.sep, "/"))) + "/" if folder else ""


def web_file(name: str) -> str:
    """Read a file of the folder ``web``."""
    content = pkgutil.get_data(__package__, f"web/{name}")
    assert content is not None
    return content.decode("utf-8")
