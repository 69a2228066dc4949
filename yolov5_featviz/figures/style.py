"""Figure style: width, fonts and lettering; text measuring and wrapping."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, List, Optional, Tuple

from yolov5_featviz.draw.lettering import font_file
from yolov5_featviz.draw.widths import WIDTHS
from yolov5_featviz.errors import FeatvizError, reason
from yolov5_featviz.text import near, printable

LINE = 1.25  # line spacing in multiples of the font size
LEAST = 6.0  # smallest font size of labels in points
LINES = 4  # most lines of a title
FONTS = {"sans": "DejaVu Sans", "serif": "STIXGeneral"}  # bundled with matplotlib
LETTERS = ("none", "panels", "columns", "rows")


@dataclass(frozen=True)
class Style:
    """Style of a figure.

    Attributes:
        width: in inches.
        font: font family known to matplotlib, or ``sans`` or ``serif``.
        font_size: in points, at least 6; text within panels is smaller.
        dpi: pixels per inch, also of photographs in vector formats.
        gap: between panels, in points.
        letters: what to letter: ``panels``, ``columns``, ``rows`` or ``none``.
        letter: format: ``(a)``, ``a``, ``A``, ``a)``...
        titles: position of the column titles, ``top`` or ``bottom``.

    Raises:
        FeatvizError: a value is invalid, or the font is not found.
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
            ("font_size", self.font_size, 6, 24),
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

    @property
    def small(self) -> float:
        """Font size of colour bars, in points."""
        return max(LEAST, self.font_size - 1)


def plain(words: str) -> str:
    """Escape ``$``, so that matplotlib does not read class names as formulas."""
    return words.replace("$", r"\$")


def font(style: Style, size: Optional[float] = None, weight: str = "normal", words: str = "") -> Any:
    """Return the style's font for matplotlib, or an installed fallback if it lacks glyphs of ``words``.

    Raises FeatvizError if the style's font is not found.
    """
    from matplotlib.font_manager import FontProperties

    # `fname` is used for drawing; the families are written to SVG files, with fallbacks
    alike = ["Times New Roman", "Times", "serif"] if style.font == "serif" else ["sans-serif"]
    return FontProperties(
        family=[FONTS.get(style.font, style.font), *alike],
        weight=weight,
        size=size or style.font_size,
        fname=font_file(words) if lacking(words, style) else font_file_of(style.font, weight),
    )


@lru_cache(maxsize=32)
def font_file_of(name: str, weight: str = "normal") -> str:
    """Find the file of a font by family, ``sans`` or ``serif``. Raises FeatvizError if there is none."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    family = FONTS.get(name, name)
    try:
        return str(findfont(FontProperties(family=[family], weight=weight), fallback_to_default=False))
    except ValueError:
        names = sorted({entry.name for entry in fontManager.ttflist})
        hint = near(name, [*FONTS, *names], "take sans, serif, or one that is installed here")
        raise FeatvizError(f"no font {name!r}{hint}") from None


def check_letters(words: str, style: Style) -> None:
    """Raise FeatvizError if ``words`` cannot be set: invalid mathtext, or glyphs that no installed font has."""
    missing = lacking(words, style)
    if missing and font_file(words) == font_file():
        raise FeatvizError(
            f"the font {style.font} has no {missing!r}, which {words!r} needs: install a font that has, or name it"
        )
    text_extent(printable(words), style)


def lacking(words: str, style: Style) -> str:
    """Return the first character of ``words`` that the style's font lacks; empty if it has all."""
    from matplotlib.font_manager import get_font

    if words.isascii() or "$" in words:  # mathtext uses its own fonts
        return ""
    known = get_font(font_file_of(style.font)).get_charmap()
    return next((letter for letter in words if ord(letter) not in known and not letter.isspace()), "")


def text_extent(words: str, style: Style, size: Optional[float] = None, weight: str = "normal") -> Tuple[float, float]:
    """Measure the width and height of a line in points. Raises FeatvizError for invalid mathtext."""
    from matplotlib.cbook import is_math_text
    from matplotlib.textpath import text_to_path

    prop = font(style, size, weight, words)
    try:
        width, height, _ = text_to_path.get_text_width_height_descent(words, prop, is_math_text(words))
    except (ValueError, RecursionError) as error:
        raise FeatvizError(f"matplotlib cannot read the formula {printable(words, 80)}: {reason(error)}") from None
    return float(width), max(float(height), 1.05 * float(prop.get_size_in_points()))


def wrap(words: str, room: float, style: Style, size: Optional[float] = None, most: int = LINES) -> str:
    """Wrap words to lines of at most ``room`` points.

    Only words too long for a line are broken; text beyond ``most`` lines is replaced by an ellipsis.
    """

    def fits(text: str) -> bool:
        return text_extent(text, style, size)[0] <= room

    lines: List[str] = []
    for word in words.split():
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
            continue
        if len(lines) > most:
            break
        while len(lines) <= most and "$" not in word and len(word) > 1 and not fits(word):
            n, beyond = 1, len(word)  # bisect for as many characters as fit
            while beyond - n > 1:
                middle = (n + beyond) // 2
                n, beyond = (middle, beyond) if fits(word[:middle]) else (n, middle)
            lines.append(word[:n])
            word = word[n:]
        lines.append(word)
    if len(lines) > most:
        last = lines[most - 1]
        while last and not fits(f"{last}…"):
            last = last[:-1]
        lines = [*lines[: most - 1], f"{last}…"]
    for line in lines:
        if "$" in line:  # wrapping may have split a formula
            text_extent(line, style, size)
    return "\n".join(lines)
