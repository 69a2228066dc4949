"""The errors of all images of a report: a list, the worst first, and a table of kinds by class."""

from __future__ import annotations

import html
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Sequence

from yolov5_featviz.attribution.explain import Explanation
from yolov5_featviz.models.tide import KINDS
from yolov5_featviz.runs.report_explanations import errors_in
from yolov5_featviz.text import printable

LISTED = 100  # the worst, on each page
KIND_WORDS = dict(
    zip(
        KINDS,
        (
            "a labelled object that was not detected; the dashed box is its best candidate",
            "a detection of no labelled object",
            "a detection that overlaps an object of another class by half or more",
            "a detection that overlaps an object of its class, but by less than half",
            "another detection of an object that was found already",
        ),
    )
)


class Line(NamedTuple):
    """An error in the list.

    Attributes:
        page, number, box: the page, the image's number on it, and the box's in the image; 0 if that has no room.
        image, kind, caption, note: the words.
        severity: how bad it is, 0 to 1.
    """

    page: int
    number: int
    box: int
    image: str
    kind: str
    caption: str
    note: str
    severity: float


class Errors:
    """Collects the errors of images; memory use is constant.

    Attributes:
        total: number of errors.
    """

    def __init__(self) -> None:
        self.total = 0
        self._kinds: Counter[Any] = Counter()
        self._lines: List[Line] = []

    def count(self, explanations: Sequence[Explanation]) -> None:
        """Count the errors of an image in the table."""
        found = errors_in(explanations)
        self.total += len(found)
        self._kinds.update((one.label, one.kind) for one in found)

    def list(self, errors: Sequence[Dict[str, Any]], page: int, number: int, image: str) -> None:
        """List the errors of an image, ``number`` on its page; ``image`` is its name."""
        self._lines += [Line(page, number, image=image, **error) for error in errors]
        self._lines.sort(key=lambda line: -line.severity)
        del self._lines[LISTED:]

    def list_html(self, page: int, names: Sequence[str]) -> str:
        """Render the list, with links from the page of that number to all pages, by their file names."""
        if not self.total:
            return ""
        lines = "\n".join(_line(line, "" if line.page == page else names[line.page]) for line in self._lines)
        n = len(self._lines)
        every = f"{n} error{'s' * (n != 1)}{', worst first' * (n > 1)}"
        head = every if n == self.total else f"The worst {n} of {self.total} errors"
        kinds = "".join(f"<dt>{kind}</dt><dd>{words}</dd>" for kind, words in KIND_WORDS.items())
        return (
            '<section class="errors" aria-labelledby="errors-title">\n'
            f'<h2 id="errors-title">{head}</h2>\n<ol id="errors">\n{lines}\n</ol>\n'
            f"<details><summary>What these errors are</summary><dl>{kinds}</dl></details>\n</section>"
        )

    def table_html(self) -> str:
        """Render the table of kinds by class, the class with the most errors first."""
        if not self.total:
            return ""
        totals: Counter[str] = Counter()
        for (label, _), n in self._kinds.items():
            totals[label] += n
        rows = [(label, [self._kinds[label, kind] for kind in KINDS]) for label, _ in totals.most_common()]
        if len(rows) > 1:
            rows.append(("all", [sum(row[i] for _, row in rows) for i in range(len(KINDS))]))
        head = "".join(f'<th scope="col" class="number" title="{KIND_WORDS[kind]}">{kind}</th>' for kind in KINDS)
        body = "".join(
            f'<tr><th scope="row">{_escaped(label)}</th>{"".join(map(_cell, row))}</tr>\n' for label, row in rows
        )
        return (
            f'<section class="kinds" aria-label="Errors by class">\n<table>\n<thead><tr><th scope="col">class</th>'
            f"{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n</section>"
        )


def _cell(n: int) -> str:
    return f'<td class="number">{n or "–"}</td>'


def _line(line: Line, page: str) -> str:
    words = f"{_escaped(line.caption)} in {_escaped(line.image)}<small>{_escaped(line.note)}</small>"
    place = f'data-index="{line.number}" data-box="{line.box}"' if not page else ""
    return f'<li><a href="{page}#{line.number}.{line.box}" {place}><b class="kind">{line.kind}</b> {words}</a></li>'


def _escaped(text: str) -> str:
    return html.escape(printable(text))
