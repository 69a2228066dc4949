"""Clean text that comes from files before it reaches a terminal, a file name or a document."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any

LONGEST = 255  # bytes of a file name on every common file system
_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, format (bidi), surrogates, private, unassigned, ends
_ALLOWED = "\u200c\u200d"  # joiners, which Persian and Indic scripts need


def printable(text: Any, longest: int = 10_000) -> str:
    """Replace each control character, line end, bidi mark and lone surrogate by ``\ufffd``; cut at ``longest``."""
    words = str(text)
    if len(words) > longest:
        words = f"{words[: longest - 1]}…"
    return words if words.isascii() and words.isprintable() else _cleaned(words)


@lru_cache(maxsize=256)
def _cleaned(words: str) -> str:
    return "".join(c if c in _ALLOWED or unicodedata.category(c) not in _INVISIBLE else "\ufffd" for c in words)


def file_name(text: Any, longest: int = LONGEST - 55) -> str:
    """Make one path component of any text, of at most ``longest`` bytes in UTF-8.

    Separators, control characters and what Windows forbids become ``_``. The default leaves room for
    what is put behind it, such as ``_features.png``.
    """
    words = printable(text).replace("\ufffd", "_")
    words = "".join("_" if c in '/\\:*?"<>|' else c for c in words).strip()
    while len(words.encode("utf-8")) > longest:
        words = words[:-1]
    return words if words.strip(".") else "_"
