"""Width, font and lettering of a figure; measure and wrap its text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Dict, List, Optional, Tuple

from yolov5_featviz.draw.lettering import font_file
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.text import near, printable

# Text widths in inches, from the authors' guides of these publishers.
WIDTHS: Dict[str, float] = {
    "ieee-column": 3.5,
    "ieee-page": 7.16,
    "cvpr-column": 3.25,
    "cvpr-page": 6.875,
    "lncs": 4.8,
    "neurips": 5.5,
    "elsevier-column": 90 / 25.4,
    "elsevier-page": 190 / 25.4,
    "nature-single": 89 / 25.4,
    "nature-double": 183 / 25.4,
}
LINE = 1.25  # from one line of a title to the next, in sizes of its letters
LEAST = 4.5  # points, of the smallest letters
LINES = 4  # of a title at most
FONTS = {"sans": "DejaVu Sans", "serif": "STIXGeneral"}  # these come with matplotlib
LETTERS = ("none", "panels", "columns", "rows")


@dataclass(frozen=True)
class Style:
    """How a figure is set.

    Attributes:
        width: in inches.
        font: a family that matplotlib finds, or ``sans`` or ``serif``.
        font_size: in points; what stands within panels is smaller.
        dpi: pixels an inch, of photographs in vector formats too.
        gap: between panels, in points.
        letters: what is lettered: ``panels``, ``columns``, ``rows`` or ``none``.
        letter: how: ``(a)``, ``a``, ``A``, ``a)``...
        titles: where the columns' titles stand, ``top`` or ``bottom``.

    Raises:
        FeatvizError: one of them is not understood, or the font is not found.
    """

    width: float = WIDTHS["ieee-column"]
    font: str = "sans"
    font_size: float = 8.0
    dpi: int = 300
    gap: float = 3.0
    letters: str = "none"
    letter: str = "(a)"
    titles: str = "top"

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("width", self.width, 1, 40),
            ("font_size", self.font_size, 4, 24),
            ("dpi", self.dpi, 72, 2400),
            ("gap", self.gap, 0, 36),
        ):
            if not low <= value <= high:
                raise FeatvizError(f"{name} {value:g} is out of range: take {low} to {high}")
        if self.letters not in LETTERS:
            raise FeatvizError(f"no letters for {self.letters!r}: take one of {', '.join(LETTERS)}")
        if sum(self.letter.count(letter) for letter in "aA") != 1:
            raise FeatvizError(f"letter {self.letter!r}: write how the first one looks, such as (a), a) or A")
        if self.titles not in ("top", "bottom"):
            raise FeatvizError(f"no titles {self.titles!r}: take top or bottom")
        font_file_of(self.font)


def plain(words: str) -> str:
    """Words that are no formula, whatever they hold: a class may be called ``$``."""
    return words.replace("$", r"\$")


def font(style: Style, size: Optional[float] = None, weight: str = "normal", words: str = "") -> Any:
    """The style's font, for matplotlib, or for ``words`` that it lacks letters of another that is installed.

    Raises FeatvizError if the style's is not found.
    """
    from matplotlib.font_manager import FontProperties

    # the file is what is drawn with; the names are what an SVG file carries, with what to take where it is missing
    alike = ["Times New Roman", "Times", "serif"] if style.font == "serif" else ["sans-serif"]
    return FontProperties(
        family=[FONTS.get(style.font, style.font), *alike],
        weight=weight,
        size=size or style.font_size,
        fname=font_file(words) if lacking(words, style) else font_file_of(style.font, weight),
    )


@lru_cache(maxsize=32)
def font_file_of(name: str, weight: str = "normal") -> str:
    """The file of a font, by its family, ``sans`` or ``serif``. Raises FeatvizError if there is none."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    family = FONTS.get(name, name)
    try:
        return str(findfont(FontProperties(family=[family], weight=weight), fallback_to_default=False))
    except ValueError:
        names = sorted({entry.name for entry in fontManager.ttflist})
        hint = near(name, [*FONTS, *names], "take sans, serif, or one that is installed here")
        raise FeatvizError(f"no font {name!r}{hint}") from None


def check_letters(words: str, style: Style) -> None:
    """Raise FeatvizError if ``words`` cannot be set: a formula that is none, or letters that no installed font has."""
    missing = lacking(words, style)
    if missing and font_file(words) == font_file():
        raise FeatvizError(
            f"the font {style.font} has no {missing!r}, which {words!r} needs: install a font that has, or name it"
        )
    text_extent(printable(words), style)


def lacking(words: str, style: Style) -> str:
    """The first letter of ``words`` that the style's font lacks; empty if it has all."""
    from matplotlib.font_manager import get_font

    if words.isascii() or "$" in words:  # a formula has fonts of its own
        return ""
    known = get_font(font_file_of(style.font)).get_charmap()
    return next((letter for letter in words if ord(letter) not in known and not letter.isspace()), "")


def text_extent(words: str, style: Style, size: Optional[float] = None, weight: str = "normal") -> Tuple[float, float]:
    """Width and height of a line in points. Raises FeatvizError for a formula that is none."""
    from matplotlib.cbook import is_math_text
    from matplotlib.textpath import text_to_path

    prop = font(style, size, weight, words)
    try:
        width, height, _ = text_to_path.get_text_width_height_descent(words, prop, is_math_text(words))
    except (ValueError, RecursionError) as error:
        raise FeatvizError(f"{printable(words, 80)} is no formula that matplotlib reads: {reason(error)}") from None
    return float(width), max(float(height), 1.05 * float(prop.get_size_in_points()))


def wrap(words: str, room: float, style: Style, size: Optional[float] = None) -> str:
    """Words on as few lines as they fit on, ``room`` being in points.

    Only a word that is too long for a line is broken; what would come after ``LINES`` lines becomes an ellipsis.
    """

    def fits(text: str) -> bool:
        return text_extent(text, style, size)[0] <= room

    lines: List[str] = []
    for word in words.split():
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
            continue
        if len(lines) > LINES:
            break
        while len(lines) <= LINES and "$" not in word and len(word) > 1 and not fits(word):
            n, beyond = 1, len(word)  # as many letters as fit, by halves
            while beyond - n > 1:
                middle = (n + beyond) // 2
                n, beyond = (middle, beyond) if fits(word[:middle]) else (n, middle)
            lines.append(word[:n])
            word = word[n:]
        lines.append(word)
    if len(lines) > LINES:
        last = lines[LINES - 1]
        while last and not fits(f"{last}…"):
            last = last[:-1]
        lines = [*lines[: LINES - 1], f"{last}…"]
    for line in lines:
        if "$" in line:  # it may be a formula only now
            text_extent(line, style, size)
    return "\n".join(lines)
