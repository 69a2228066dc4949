"""The reference says what the code says."""

import re
import subprocess
import sys

from conftest import ROOT, WEIGHTS

from yolov5_featviz.compose import WIDTHS, Style
from yolov5_featviz.figure import _CELL, _FIGURE, SHOWS
from yolov5_featviz.provenance import read, sha256


def test_the_api_reference_is_up_to_date():
    done = subprocess.run(
        [sys.executable, "scripts/api_reference.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + "run python scripts/api_reference.py"


def test_links_lead_somewhere():
    pages = [*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pictures_are_small_say_how_they_were_made_and_are_shown():
    """What `make figures` makes; scripts/figures.py --check compares their bytes."""
    pages = [*ROOT.glob("README*.md"), *(ROOT / "docs").glob("*.md")]
    words = "".join(page.read_text(encoding="utf-8") for page in pages)
    pictures = sorted((ROOT / "docs" / "figures").iterdir())
    assert len(pictures) == 7 and sum(picture.stat().st_size for picture in pictures) < 2.5e6
    weights = sha256(WEIGHTS)
    for picture in pictures:
        assert f"figures/{picture.name})" in words, picture.name
        about = read(picture)
        assert "root" not in str(about) and "tmp" not in str(about)
        if picture.name != "kernels.png":  # which was made in Python
            assert about["weights"][0]["sha256"] == weights and about["command"], picture.name


def test_the_page_on_figures_names_every_key_and_width():
    text = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w-]+)`", text))
    assert {*_FIGURE, *_CELL, *WIDTHS, *SHOWS} <= named
    defaults = {"width": WIDTHS["ieee-column"], "font": "sans", "font_size": 8.0, "dpi": 300, "gap": 3.0}
    defaults.update(letters="none", letter="(a)", titles="top")
    assert Style() == Style(**defaults)
