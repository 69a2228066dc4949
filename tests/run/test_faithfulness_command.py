"""``yolov5-featviz faithfulness`` and ``fv.faithfulness`` as a user calls them: files, resuming, bad input."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, WEIGHTS, files_below

import yolov5_featviz as fv
from yolov5_featviz.attribution.measured import BASELINES
from yolov5_featviz.cli import main
from yolov5_featviz.runs.provenance import read_record
from yolov5_featviz.yolov5.faithfulness import Subject

pytestmark = pytest.mark.slow

SMALL = ("--imgsz", "320", "--steps", "3", "--dpi", "100", "--batch", "4")
TABLES = ("faithfulness.csv", "curves.csv", "means.csv", "differences.csv")
FILES = (*TABLES, "table.tex", "table_column.tex", "faithfulness.html", "curves.png", "faithfulness.json")


def words_of(*words):
    return ["faithfulness", "--weights", str(WEIGHTS), *map(str, words)]


def faithfulness(*words):
    return main(words_of(*words))


def rows_of(folder, name="faithfulness.csv"):
    with open(folder / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(folder):
    """The numbers of a run that do not depend on how fast it was."""
    rows = rows_of(folder)
    for row in rows:
        del row["seconds"]
    return rows, rows_of(folder, "curves.csv")


@pytest.fixture(scope="module")
def both(tmp_path_factory, images):
    """A run over the two photographs, both by two methods, the first checked."""
    home = tmp_path_factory.mktemp("run") / "home"
    methods = ("--methods", "layer-cam,heatmap", "--checks", 1)
    assert faithfulness("--source", images, "--dir", home, *methods, *SMALL, "--format", "png,pdf") == 0
    return home


def test_the_files(both, images):
    assert set(FILES) | {"curves.pdf"} <= set(files_below(both)), files_below(both)
    rows = rows_of(both)
    methods = ["layer-cam", "heatmap", *BASELINES]
    assert [row["method"] for row in rows if row["detection"] == "0" and row["image"] == "bus"] == methods
    see = fv.Predictor(WEIGHTS)
    for name in ("bus", "zidane"):
        count = len([row for row in rows if row["image"] == name]) // len(methods)
        assert count == len(see(images / f"{name}.jpg", imgsz=320).boxes) >= 2
    checked = [row for row in rows if row["method"] == "layer-cam"]
    assert all(bool(row["change"]) == (row["image"] == "bus") for row in checked)
    stages = [name for name in rows[0] if name.startswith("sanity")]
    assert len(stages) == 5
    for name in files_below(both):
        if name.endswith((".csv", ".tex", ".html")):
            text = (both / name).read_text(encoding="utf-8")
            shown = re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.S)
            assert not re.search(r"\b(nan|inf)\b", shown, re.I), name
    for name in (*TABLES, "table.tex", "curves.png", "curves.pdf"):
        assert "faithfulness" in read_record(both / name)["command"], name
    assert all(row["p"] == row["low"] == "" for row in rows_of(both, "differences.csv"))
    assert "2 images: no conclusion" in (both / "table.tex").read_text()


def test_the_rows_are_those_of_the_library(both, images):
    see = fv.Predictor(WEIGHTS)
    how = {"methods": ["layer-cam", "heatmap"], "steps": 3, "imgsz": 320, "stages": 0, "batch": 4}
    found = fv.faithfulness(see, images / "bus.jpg", **how)
    written = [row for row in rows_of(both) if row["image"] == "bus"]
    assert len(found.rows) == len(written)
    for one, row in zip(found.rows, written):
        assert (one.method, str(one.detection), one.label) == (row["method"], row["detection"], row["class"])
        for name in ("deletion", "insertion", "odi", "energy", "pointing", "box_area", "sparsity"):
            assert getattr(one, name) == pytest.approx(float(row[name]), rel=1e-6), name
    assert "1 image: no conclusion" in "\n".join(found.statements) and "layer-cam" in str(found)
    assert found.to_csv().count("\n") == len(found.rows) + 1
    assert r"\toprule" in found.to_latex() and found.curves(3.5).to_rgb().shape[1] == 1050
    # an array, and a function
    pixels = np.ascontiguousarray(cv2.imread(str(images / "bus.jpg"))[..., ::-1])
    given = {"middle": lambda model, image, detections: [np.eye(8)] * len(detections)}
    array = fv.faithfulness(see, pixels, **{**how, "methods": given})
    alone = [row for row in array.rows if row.method == "box"]
    assert [row.deletion for row in alone] == [row.deletion for row in found.rows if row.method == "box"]
    assert {row.method for row in array.rows} == {"middle", *BASELINES}


def test_labels_are_the_other_objects(both, images, tmp_path):
    """One more label, at the bottom left of zidane.jpg, changes the object discrimination index, and nothing else."""
    (tmp_path / "labels").mkdir()
    rows = [row for row in rows_of(both) if row["image"] == "zidane" and row["method"] == "heatmap"]
    lines = ["0 0.1 0.9 0.2 0.2\n"]
    for row in rows:
        left, top, right, bottom = (float(row[edge]) for edge in ("left", "top", "right", "bottom"))
        place = (left + right) / 2 / 1280, (top + bottom) / 2 / 720, (right - left) / 1280, (bottom - top) / 720
        lines.append(" ".join(map(str, (0, *place))) + "\n")
    (tmp_path / "labels" / "zidane.txt").write_text("".join(lines))
    options = ("--source", images / "zidane.jpg", "--labels", tmp_path / "labels", "--checks", 0, "--quiet")
    assert faithfulness(*options, "--methods", "heatmap", "--dir", tmp_path / "home", *SMALL) == 0
    labelled = [row for row in rows_of(tmp_path / "home") if row["method"] == "heatmap"]
    assert [row["deletion"] for row in labelled] == [row["deletion"] for row in rows]
    more = [float(row["odi"]) - float(before["odi"]) for row, before in zip(labelled, rows)]
    assert min(more) >= 0 and max(more) > 0.001  # it lies in the box of a person, so not for the others


# --- resuming -------------------------------------------------------------------------------------------------------


def test_a_run_that_was_killed_goes_on(both, images, tmp_path):
    """Killed after the first image: the second is measured, the first is not again, and the numbers are the same."""
    home = tmp_path / "home"
    words = ("--source", images, "--methods", "layer-cam,heatmap", "--checks", 1, *SMALL)
    command = [sys.executable, "-m", "yolov5_featviz", *words_of(*words, "--dir", home)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = home / "parts" / "bus.json"
    ends = time.monotonic() + 240
    while not first.exists() and time.monotonic() < ends and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert first.exists() and not (home / "means.csv").exists()
    assert not (home / "parts" / "zidane.json").exists()
    before = first.stat().st_mtime_ns, first.read_bytes()
    assert faithfulness(*words, "--resume", home) == 0
    assert (first.stat().st_mtime_ns, first.read_bytes()) == before
    assert without_seconds(home) == without_seconds(both)
    assert set(files_below(home)) == set(files_below(both)) - {"curves.pdf"}


def test_resuming_what_is_done_changes_nothing(both, images, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(both, home)
    words = ("--source", images, "--methods", "layer-cam,heatmap", "--checks", 1, *SMALL, "--format", "png,pdf")
    before = {name: (home / name).read_bytes() for name in TABLES}
    assert faithfulness(*words, "--resume", home, "--quiet") == 0
    assert {name: (home / name).read_bytes() for name in TABLES} == before


def test_what_cannot_be_resumed(both, images, tmp_path, capsys):
    home = tmp_path / "home"
    shutil.copytree(both, home)
    words = ("--source", images, "--methods", "layer-cam,heatmap", "--checks", 1, *SMALL)

    def says(*more):
        code = faithfulness(*more)
        lines = capsys.readouterr().err.strip().splitlines()
        assert code == 2 and len(lines) == 1, (code, lines)
        return lines[0]

    assert "steps 3, and now it is steps 4" in says(*words[:-6], "--imgsz", "320", "--steps", "4", "--resume", home)
    assert "has no faithfulness.json: --resume takes the folder" in says(*words, "--resume", tmp_path)
    assert "take one of them" in says(*words, "--resume", home, "--dir", home)
    assert f"has a run already: go on with --resume {home}" in says(*words, "--dir", home)
    (home / "parts" / "bus.json").write_text("{")
    code = faithfulness(*words, "--resume", home)
    assert code == 1 and "bus.json is damaged: remove it, and it is measured again" in capsys.readouterr().err
    changed = json.loads((both / "parts" / "bus.json").read_text())
    changed["image"]["sha256"] = "0" * 64
    (home / "parts" / "bus.json").write_text(json.dumps(changed))
    assert faithfulness(*words, "--resume", home, "--quiet") == 0  # of another file: measured again
    assert (home / "parts" / "bus.json").read_text() != json.dumps(changed)


DAMAGES = {
    "a field more": lambda row: row.append(1),
    "a word for a number": lambda row: row.__setitem__(7, "0.5"),
    "out of range": lambda row: row.__setitem__(7, -5.0),
    "too large a number": lambda row: row.__setitem__(7, 10**400),
    "another method": lambda row: row.__setitem__(5, "evil"),
    "another image": lambda row: row.__setitem__(0, "cat"),
    "a box of three": lambda row: row.__setitem__(4, [1.0, 2.0, 3.0]),
    "a curve cut short": lambda row: row[18].pop(),
}


@pytest.mark.parametrize("what", [*DAMAGES, "a row less", "no rows", "a list"])
def test_a_damaged_result_is_refused_in_one_line(what, both, images, tmp_path, capsys):
    home = tmp_path / "home"
    shutil.copytree(both, home)
    part = home / "parts" / "zidane.json"
    result = json.loads(part.read_text())
    assert result["rows"][0][18][0] == 1.0  # the deletion curve
    if what in DAMAGES:
        DAMAGES[what](result["rows"][0])
    elif what == "a list":
        result["rows"] = [[]]
    else:
        result["rows"] = result["rows"][1:] if what == "a row less" else []
    part.write_text(json.dumps(result))
    words = ("--source", images, "--methods", "layer-cam,heatmap", "--checks", 1, *SMALL)
    assert faithfulness(*words, "--resume", home, "--quiet") == 1
    assert "zidane.json is damaged: remove it, and it is measured again" in capsys.readouterr().err
    assert {row["image"] for row in rows_of(home)} == {"bus"}


def test_results_of_another_plan_are_measured_again(both, images, tmp_path):
    """A part that was put into the folder of a run with another fill."""
    words = ("--source", images / "bus.jpg", "--methods", "heatmap", "--checks", 0, *SMALL, "--quiet")
    for fill in ("mean", "black"):
        assert faithfulness(*words, "--fill", fill, "--dir", tmp_path / fill) == 0
    shutil.copy(tmp_path / "mean" / "parts" / "bus.json", tmp_path / "black" / "parts")
    before = without_seconds(tmp_path / "black")
    assert faithfulness(*words, "--fill", "black", "--resume", tmp_path / "black") == 0
    assert without_seconds(tmp_path / "black") == before != without_seconds(tmp_path / "mean")


def test_a_folder_that_another_process_took_meanwhile(images, tmp_path, monkeypatch, capsys):
    """Its plan appears while the first image is measured: nothing is written there."""
    home = tmp_path / "home"

    def measure(*arguments, **options):
        home.mkdir(exist_ok=True)
        (home / "faithfulness.json").write_text("{}")
        return real(*arguments, **options)

    real = Subject.measure
    monkeypatch.setattr(Subject, "measure", measure)
    words = ("--source", images, "--methods", "heatmap", "--checks", 0, "--dir", home, *SMALL)
    assert faithfulness(*words) == 2
    assert "has a run already: name another folder" in capsys.readouterr().err
    assert files_below(home) == ["faithfulness.json"] and (home / "faithfulness.json").read_text() == "{}"


def test_copies_of_a_file_are_left_out(images, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        shutil.copy(images / "zidane.jpg", folder / name)
    words = ("--source", folder, "--methods", "heatmap", "--checks", 0, "--dir", tmp_path / "out", *SMALL)
    assert faithfulness(*words) == 0
    assert "b.jpg is the same file as a.jpg: left out" in "".join(capsys.readouterr())
    assert {row["image"] for row in rows_of(tmp_path / "out")} == {"a"}


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--conf-thres", "0.99"), "nothing was detected above 0.99: take a lower confidence threshold"),
        (("--methods", "gradcam"), "no method 'gradcam': did you mean grad-cam?"),
        (("--methods", "box"), "method 'box' is a baseline, which is always measured: leave it out"),
        (("--methods", "odam", "--reference", "layer-cam"), "--reference layer-cam is not among --methods odam"),
        (("--fill", "red"), "no fill 'red'"),
        (("--steps", "1"), "--steps 1: take 2 or more"),
        (("--dpi", "100000"), "100000"),
        (("--target", "person@0,0,40,40"), "no candidate overlaps 0,0,40,40 by half"),
        (("--target", "errors"), "--target errors: only detections can be measured; give a class"),
        (("--target", "unicorn"), "no class 'unicorn'"),
        (("--layers", "99"), "99"),
        (("--labels", "nowhere"), "no folder nowhere: --labels takes the folder of the label files"),
        (("--labels", "."), "--labels . has no zidane.txt, nor one of any other image"),
        (("--checks", "-1"), "--checks -1: take 0 or more"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(options, says, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = faithfulness("--source", images / "zidane.jpg", "--imgsz", "320", "--steps", "2", "--checks", "0", *options)
    captured = capsys.readouterr()
    assert code == 2 and says in captured.err and len(captured.err.strip().splitlines()) == 1, captured.err
    assert not files_below(tmp_path)


def test_an_image_without_detections_is_said_and_left_out(images, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(images / "zidane.jpg", folder)
    cv2.imwrite(str(folder / "grey.png"), np.full((320, 320, 3), 114, np.uint8))
    (folder / "broken.jpg").write_bytes(b"no image")
    words = ("--source", folder, "--methods", "heatmap", "--checks", 0, "--dir", tmp_path / "out", *SMALL)
    assert faithfulness(*words) == 1
    said = "".join(capsys.readouterr())
    assert "grey: nothing was detected above 0.25" in said
    assert re.search(r"broken\.jpg.*; skipped", said)
    assert {row["image"] for row in rows_of(tmp_path / "out")} == {"zidane"}
    assert not list((tmp_path / "out" / "parts").glob("broken*"))


def test_a_method_that_cannot_explain_says_why(images, tmp_path):
    """Layer 24 is after the scores: no map there, the reason in the rows, and the baselines are measured."""
    found = fv.faithfulness(
        WEIGHTS, images / "zidane.jpg", ["layer-cam", "heatmap"], layers="23", steps=2, stages=1, imgsz=320, batch=4
    )
    by = {}
    for row in found.rows:
        by.setdefault(row.method, []).append(row)
    assert all(np.isfinite(row.deletion) for row in by["box"])
    assert all(row.note or np.isfinite(row.deletion) for row in by["layer-cam"])
    assert "nan" not in found.to_csv().lower()


@pytest.mark.parametrize("build", ["ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn"])
def test_detectors_of_torchvision(build):
    """With random weights nothing is above the threshold: a candidate is named by its box."""
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models.detection, build)(weights=None, weights_backbone=None).eval()
    image = torch.rand(1, 3, 128, 160, generator=torch.Generator().manual_seed(0))
    try:
        found = fv.faithfulness(model, image, ["layer-cam"], "@20,20,100,100", steps=2, stages=1, batch=2)
    except fv.FeatvizError as error:
        assert "no candidate overlaps" in str(error) or "nothing was detected" in str(error)
        return
    assert {row.method for row in found.rows} == {"layer-cam", *BASELINES}
