"""What the command line says, and when it keeps still."""

import io
import os
import subprocess
import sys

import pytest
from helpers import ROOT, WEIGHTS, files_below, run

import yolov5_featviz as fv
from yolov5_featviz.cli.parser import split
from yolov5_featviz.cli.run import options
from yolov5_featviz.runs import progress as module
from yolov5_featviz.runs.progress import progress

pytestmark = pytest.mark.slow


class Terminal(io.StringIO):
    """Keeps what is written, and what stands on the screen."""

    def isatty(self):
        return True

    @property
    def screen(self):
        lines = []
        for line in self.getvalue().split("\n"):
            shown = ""
            for piece in line.split("\r"):
                shown = piece + shown[len(piece) :]
            lines.append(shown.rstrip())
        return lines


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "DELAY", 0)
    monkeypatch.setattr(module, "INTERVAL", 0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")


def test_progress_on_a_terminal(impatient):
    terminal, seen = Terminal(), []
    for item in progress("abcd", "drawing", stream=terminal):
        seen.append((item, terminal.screen))
    assert [item for item, _ in seen] == list("abcd")
    assert seen[0][1] == ["drawing [                    ] 0 of 4, ? left"]
    assert seen[1][1] == ["drawing [#####               ] 1 of 4, 00:00 left"]
    assert terminal.screen == [""]
    assert "\x1b" not in terminal.getvalue() and "\n" not in terminal.getvalue()


def test_progress_is_gone_after_an_error_and_never_wider_than_the_screen(impatient, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    terminal = Terminal()
    with pytest.raises(KeyError):
        for i in progress(iter(range(9)), "drawing pictures", 9, terminal):
            assert len(terminal.screen[0]) <= 29
            if i == 3:
                raise KeyError
    assert terminal.screen == [""]


def test_progress_is_for_terminals_and_for_the_patient(impatient, monkeypatch):
    pipe = io.StringIO()
    assert list(progress("abc", "drawing", stream=pipe)) == list("abc") and pipe.getvalue() == ""
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    assert list(progress("abc", "drawing", stream=terminal)) == list("abc") and terminal.getvalue() == ""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module, "DELAY", 60)
    assert list(progress("abc", "drawing", stream=terminal)) == list("abc") and terminal.getvalue() == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--visualize-report maybe", "report maybe: take on or off"),
        ("--visualize-quiet --visualize-verbose", "take one of them"),
    ],
)
def test_flags_refused(words, says):
    with pytest.raises(fv.FeatvizError, match=says):
        options(split(words.split())[0])


def test_flags():
    assert (options([]).report, options([]).say) == (True, 0)
    found = options(split(["--visualize-report=off", "--visualize-quiet"])[0])
    assert (found.report, found.say) == (False, -1)
    assert options(["--visualize-verbose"]).say == 1


def ours(done):
    return [line for line in done.stderr.splitlines() if line.startswith("yolov5-featviz")]


def test_what_is_said(tmp_path, images):
    """By default where it comes from, the first image's best channels, what was made, and the one file to open."""
    words = ("--weights", WEIGHTS, "--source", images, "--imgsz", 320, "--visualize-layers", "17,20")
    words += ("--visualize-channels", "top:8:std", "--visualize-format", "npy")
    lines = ours(run(*words, cwd=tmp_path))
    assert len(lines) == 5 and not any("\x1b" in line for line in lines)
    assert lines[1].startswith("yolov5-featviz: bus, layer 17 (C3): best channels by std: ")
    assert lines[1].count("(") == 1 + 5 and lines[2].startswith("yolov5-featviz: bus, layer 20 (C3): best")
    assert lines[3:] == [
        "yolov5-featviz: 4 feature maps in runs/detect/exp: bus/, zidane/",
        "yolov5-featviz: open runs/detect/exp/index.html",
    ]
    page = (tmp_path / "runs/detect/exp/index.html").read_text(encoding="utf-8")
    assert "detect.py · YOLOv5 7.0.0 · best.pt · layers 17,20 · yolov5-featviz" in page
    for private in (tmp_path, images, WEIGHTS.parent):  # the page may go to others
        assert str(private) not in page

    assert ours(run(*words, "--visualize-quiet", "--visualize-report", "off", cwd=tmp_path)) == []
    assert "index.html" not in files_below(tmp_path / "runs/detect/exp2")

    loud = run(*words, "--visualize-verbose", cwd=tmp_path)
    assert loud.stderr.count("rank  channel") == 4
    made = {
        f"yolov5-featviz: wrote runs/detect/exp3/{f}" for f in files_below(tmp_path / "runs/detect/exp3") if "/" in f
    }
    assert len(made) == 12 and made <= set(ours(loud))


def test_wrong_input_is_told_also_when_quiet(tmp_path):
    words = ("--weights", WEIGHTS, "--visualize-layers", "99", "--visualize-quiet")
    done = run(*words, cwd=tmp_path, check=2)
    assert len(done.stderr.splitlines()) == 1 and "no layer 99" in done.stderr


def test_a_reader_that_leaves_early_is_no_error():
    """As ``yolov5-featviz layers --weights best.pt | head``."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "yolov5_featviz", "layers", "--weights", str(WEIGHTS)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, cwd=str(ROOT))
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
