"""The reference says what the code says."""

import re
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT, WEIGHTS, run

from yolov5_featviz.cli.entry import COMMANDS
from yolov5_featviz.draw.widths import WIDTHS
from yolov5_featviz.figures.spec import _CELL, _FIGURE, SHOWS
from yolov5_featviz.figures.style import Style
from yolov5_featviz.runs.provenance import read_record, sha256


def test_the_api_reference_is_up_to_date():
    done = subprocess.run(
        [sys.executable, "scripts/api_reference.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + "run python scripts/api_reference.py"


def fenced(page):
    """Code blocks without their comments, which are in the page's language, and the words between them."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```[^`]*```|(?<=\n\n)(?: {4}.*\n)+", text)
    for block in blocks:
        text = text.replace(block, "")
    return [re.sub(r"(?m) *#.*$", "", block) for block in blocks], text


def test_both_readmes_say_the_same():
    """But for the language: code, pictures, links, headings, tables, and in each row the same flags and values."""
    (code, english), (their_code, chinese) = fenced("README.md"), fenced("README.zh-CN.md")
    assert code == their_code and len(code) == 5
    for pattern in (r"(?m)^#+", r"\]\(((?!README)[^)]+)\)", r"<!--.*?-->"):
        assert re.findall(pattern, english) == re.findall(pattern, chinese), pattern
    rows, their_rows = (re.findall(r"(?m)^\|.*\|$", text) for text in (english, chinese))
    assert len(rows) == len(their_rows) > 60
    for row, theirs in zip(rows, their_rows):
        assert sorted(re.findall(r"`[^`]+`", row)) == sorted(re.findall(r"`[^`]+`", theirs)), row
        assert row.count("|") == theirs.count("|")
        theirs = re.sub(r"\d+ 月", "", theirs)  # a month, which is a word in English
        assert re.findall(r"\d[\d.]*", row) == re.findall(r"\d[\d.]*", theirs), row
    assert set(re.findall(r"`[^`]+`", english)) == set(re.findall(r"`[^`]+`", chinese))


@pytest.mark.slow
def test_the_snippets_run_as_they_stand(checkout, images, tmp_path):
    """Those of README.md and docs/report.md, for which nothing is needed but a checkpoint and a photograph."""
    for path in (WEIGHTS, images / "bus.jpg"):
        shutil.copy(path, tmp_path)
    shutil.copytree(checkout, tmp_path / "path" / "to" / "yolov5")
    for page in ("README.md", "docs/report.md"):
        snippets = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
        assert len(snippets) == 1 + (page == "README.md")
        for snippet in snippets:  # a process each, since each can import one YOLOv5
            run("-c", f"import torch\nimport yolov5_featviz as fv\n{snippet}", cwd=tmp_path, script=None)
    made = {path.name for path in tmp_path.iterdir() if path.suffix in (".pdf", ".png")}
    people = {f"person_{score}.png" for score in ("0.93", "0.91", "0.88", "0.85")}
    assert made == {"heat.png", "stage17.pdf", "channel37.png", "pca.png"} | people
    assert (tmp_path / "out" / "index.html").is_file()


def test_the_readmes_name_every_command_and_target():
    targets = re.findall(r"(?m)^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert len(targets) > 10 and len(COMMANDS) == 10
    for page in ("README.md", "README.zh-CN.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for words in [f"make {name}" for name in {*targets} - {"help", "lint", "clean"}]:
            assert re.search(rf"{words}(?![\w-])", text), words
        for name in COMMANDS:
            assert f"yolov5-featviz {name} " in text, name


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
        about = read_record(picture)
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
