"""Sanitise text for terminals, file names and documents; align columns; suggest spellings."""

from __future__ import annotations

import difflib
import unicodedata
from functools import lru_cache
from typing import Any, Container, Iterable, Sequence

LONGEST = 255  # bytes of a file name on every common file system
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, format (bidi), surrogates, private, unassigned, ends
_ALLOWED = "\u200c\u200d"  # joiners, which Persian and Indic scripts need


def printable(text: Any, longest: int = 10_000) -> str:
    """Replace control characters, line ends, bidi marks and lone surrogates by ``\ufffd``; truncate to ``longest``."""
    words = str(text)
    if len(words) > longest:
        words = f"{words[: longest - 1]}…"
    return words if words.isascii() and words.isprintable() else _cleaned(words)


@lru_cache(maxsize=256)
def _cleaned(words: str) -> str:
    return "".join(c if c in _ALLOWED or unicodedata.category(c) not in _INVISIBLE else "\ufffd" for c in words)


def file_name(text: Any, longest: int = LONGEST - 55) -> str:
    """Convert any text to one path component of at most ``longest`` bytes in UTF-8.

    Separators, control characters and what Windows forbids become ``_``. The default leaves room for
    a suffix such as ``_features.png``.
    """
    words = printable(text).replace("\ufffd", "_")
    words = "".join("_" if c in '/\\:*?"<>|' else c for c in words).strip()
    while len(words.encode("utf-8")) > longest:
        words = words[:-1]
    return words if words.strip(".") else "_"


def align(lines: Sequence[Sequence[str]], right: Container[int] = ()) -> str:
    """Align words in columns, those of ``right`` flush right, with control characters replaced."""
    lines = [[printable(word) for word in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            word.rjust(w) if i in right else word.ljust(w) for i, (word, w) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


def close_to(word: Any, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the known word that ``word`` most likely misspells; empty if none is similar."""
    found = difflib.get_close_matches(str(word)[:80], list(known), 1, cutoff)
    return found[0] if found else ""


def near(word: Any, known: Iterable[str], otherwise: str = "") -> str:
    """Return ``: did you mean heatmap?`` for a misspelt known word; else ``: `` and ``otherwise``, if given."""
    found = close_to(word, known)
    return f": did you mean {found}?" if found else f": {otherwise}" if otherwise else ""
