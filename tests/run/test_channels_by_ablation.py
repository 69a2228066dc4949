"""Channels ranked by what the script's detections lose without them, by the real scripts."""

import csv
import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, WEIGHTS, files_below, run
from PIL import Image

import yolov5_featviz as fv
from yolov5_featviz.cli import launch
from yolov5_featviz.runs.provenance import read_record

pytestmark = pytest.mark.slow
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
NAMES = ("person", "bus", "tie", "motorcycle", "cat", "cup")  # of the demo checkpoint
LAYER = ("--visualize-layers", "23", "--visualize-channels")
SMALL = ("--weights", WEIGHTS, "--imgsz", "320", "--save-txt", "--save-conf")


def rows_of(file):
    with open(file, encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def lost_by_hand(image, size=320):
    """Detections, and what each loses, channel by channel, by hooks of this test alone."""
    predictor = fv.Predictor(WEIGHTS)
    boxes = predictor(image, imgsz=size).boxes
    x, _ = predictor.prepare(image, size)

    def confidences():
        with torch.no_grad():
            found = predictor.model(x)[0][0].double()
        centre, half = found[:, :2], found[:, 2:4] / 2
        off = (torch.cat([centre - half, centre + half], 1)[:, None] - torch.from_numpy(boxes.xyxy)).abs().amax(2)
        return off, found[:, 4:5] * found[:, 5:][:, torch.from_numpy(boxes.classes)]

    off, every = confidences()
    assert float(off.amin(0).max()) < 0.05
    rows = (off + 100 * (every - torch.from_numpy(boxes.scores)).abs()).argmin(0)
    at = torch.arange(len(boxes))
    lost = []
    for channel in range(256):

        def without(module, args, output, channel=channel):
            changed = output.clone()
            changed[:, channel] = output[:, channel].mean()
            return changed

        handle = predictor.model.model[23].register_forward_hook(without)
        lost.append((every - confidences()[1])[rows, at].numpy())
        handle.remove()
    return boxes, every[rows, at].numpy(), np.array(lost).T


@pytest.fixture(scope="module")
def ran(images, tmp_path_factory):
    """A run with the channels ranked by ablation, and one without any of it."""
    home = tmp_path_factory.mktemp("ran")
    done = run(*SMALL, "--source", images, *LAYER, "top:4:ablation", cwd=home, env=ONE_THREAD)
    run(*SMALL, "--source", images, "--name", "alone", cwd=home, env=ONE_THREAD)
    return home / "runs/detect", done.stderr


def test_detections_are_the_same_to_the_byte(ran):
    home, _ = ran
    files = [f for f in files_below(home / "alone") if f.endswith((".txt", ".jpg"))]
    assert sorted(files) == ["bus.jpg", "labels/bus.txt", "labels/zidane.txt", "zidane.jpg"]
    for file in files:
        assert (home / "exp" / file).read_bytes() == (home / "alone" / file).read_bytes()


@pytest.mark.parametrize("image", ["bus", "zidane"])
def test_the_ranking_of_a_run(ran, image, images):
    """By hand; those that depend on layer 23 at all are among the detections."""
    home, told = ran
    boxes, scores, lost = lost_by_hand(images / f"{image}.jpg")
    assert np.abs(lost).max() > 0.02
    rows = rows_of(home / "exp" / image / "stage23_C3_ranking.csv")
    columns = list(rows[0])
    assert columns[:7] == ["rank", "channel", "ablation", "contrast", "mean", "max", "std"]
    assert columns[7:] == [f"lost: {boxes.caption(i)}" for i in range(len(boxes))]
    order = [int(row["channel"]) for row in rows]
    values = {name: np.array([float(row[name]) for row in rows]) for name in columns[2:]}
    shares = (lost / scores[:, None]).mean(0)
    np.testing.assert_allclose(values["ablation"], shares[order], atol=1e-5)
    assert (np.diff(values["ablation"]) <= 0).all()
    for one, name in zip(lost, columns[7:]):
        np.testing.assert_allclose(values[name], one[order], atol=1e-5)
    seen = fv.Predictor(WEIGHTS)(images / f"{image}.jpg", 23, 320)
    np.testing.assert_allclose(values["contrast"], fv.rank(seen[23], "contrast").scores["contrast"][order], rtol=1e-3)
    picture = home / "exp" / image / "stage23_C3_features.png"
    assert "top 4 of 256 channels by ablation" in Image.open(picture).info["Title"]
    assert read_record(picture)["by"] == "ablation"
    assert image != "bus" or f"bus, layer 23 (C3): best channels by ablation: {order[0]} (" in told


def test_the_report_of_a_run(ran):
    """All channels in the plot, those of the pictures marked, and the score lost before the contrast in the table."""
    home, _ = ran
    text = (home / "exp/index.html").read_text(encoding="utf-8")
    found = [json.loads(part) for part in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    assert len(found) == 2
    for image in found:
        (layer,) = image["parts"][0]["layers"]
        rows = rows_of(home / "exp" / image["name"] / "stage23_C3_ranking.csv")
        points = layer["plot"]["points"]
        assert [point[0] for point in points] == [int(row["channel"]) for row in rows]
        np.testing.assert_allclose([point[1] for point in points], [float(row["contrast"]) for row in rows], rtol=6e-3)
        np.testing.assert_allclose([point[2] for point in points], [float(row["ablation"]) for row in rows], rtol=6e-3)
        assert layer["plot"]["shown"] == [int(row["channel"]) for row in rows[:4]] and layer["by"] == "ablation"
        for box, caption in enumerate(image["captions"], 1):
            name = f"lost: {caption}"
            best = max(float(row[name]) / float(caption.split()[-1]) for row in rows)
            assert layer["top"][box][0][1] == pytest.approx(best, rel=0.02, abs=1e-5)


@pytest.mark.parametrize(
    ("channels", "flags", "by", "says"),
    [
        ("ablation:person", (), "ablation of person", ""),
        ("ablation:bus", (), "std", "by std instead of ablation of bus: no bus was detected"),
        ("ablation", ("--conf-thres", "0.99"), "std", "by std instead of ablation: nothing was detected"),
        ("ablation:tie", (), "std", "of tie: the detections depend on no single channel of this layer"),
    ],
)
def test_one_class_and_none(channels, flags, by, says, images, tmp_path):
    """Of zidane.jpg; the tie is found by another layer alone."""
    words = (*SMALL, "--source", images / "zidane.jpg", *flags, "--nosave", "--visualize-report", "off")
    done = run(*words, *LAYER, f"top:4:{channels}", cwd=tmp_path, env=ONE_THREAD)
    picture = tmp_path / "runs/detect/exp/zidane/stage23_C3_features.png"
    assert read_record(picture)["by"] == by and says in done.stderr and says in Image.open(picture).info["Title"]


def test_augmentation(images, tmp_path):
    """Measured on the image as it is, for what its pass detected; the other passes say why they have none."""
    words = (*SMALL, "--source", images / "bus.jpg", "--augment", "--nosave", "--visualize-report", "off")
    done = run(*words, *LAYER, "top:4:ablation", cwd=tmp_path, env=ONE_THREAD)
    assert "detections come from scaled or flipped copies of the image" in done.stderr
    home = tmp_path / "runs/detect/exp/bus"
    by = {path.name: read_record(path / "stage23_C3_features.png")["by"] for path in sorted(home.iterdir())}
    assert by.pop("scale0.67") == by.pop("scale0.83_flipped") == "std" and list(by) == ["scale1.00"]
    assert "it is measured on the image as it is" in done.stderr


def test_validation(checkout, images, tmp_path):
    """A batch; what is drawn, from 0.25, is what counts, and the script's own results stay as they are."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in ("bus", "zidane"):
        shutil.copy(images / f"{name}.jpg", tmp_path / "images")
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(NAMES))
    folder = tmp_path / "images"
    (tmp_path / "data.yaml").write_text(f"train: {folder}\nval: {folder}\nnc: 6\nnames:\n{names}")
    words = ("--weights", WEIGHTS, "--data", tmp_path / "data.yaml", "--img", "320", "--save-txt", "--save-conf")
    words = ("-m", "yolov5_featviz", "run", checkout / "val.py", *words, "--project", "val")
    ours = (*LAYER, "top:4:ablation", "--visualize-report", "off")
    run(*words, *ours, cwd=tmp_path, script=None, env=ONE_THREAD)
    run(*words, "--name", "alone", cwd=tmp_path, script=None, env=ONE_THREAD)
    for name in ("bus", "zidane"):
        label = f"labels/{name}.txt"
        assert (tmp_path / "val/exp" / label).read_bytes() == (tmp_path / "val/alone" / label).read_bytes()
        lines = [line.split() for line in (tmp_path / "val/exp" / label).read_text().splitlines()]
        found = sorted(f"lost: {NAMES[int(line[0])]} {float(line[5]):.2f}" for line in lines if float(line[5]) >= 0.25)
        columns = list(rows_of(tmp_path / "val/exp" / name / "stage23_C3_ranking.csv")[0])[7:]
        assert sorted(re.sub(r" \(\d+\)$", "", column) for column in columns) == found and found


LOADERLESS = """
import sys, torch, cv2
from models.experimental import attempt_load
from utils.general import non_max_suppression
model = attempt_load(sys.argv[1])
for picture in sys.argv[2:]:
    x = torch.from_numpy(cv2.resize(cv2.imread(picture), (160, 96)).transpose(2, 0, 1)[None].copy()).float() / 255
    with torch.no_grad():
        found = non_max_suppression(model(x)[0], 0.02)
    print("FOUND", len(found[0]))
"""


def test_a_script_without_a_loader(checkout, images, tmp_path):
    """Every pass counts there, but for ours."""
    root = tmp_path / "checkout"
    shutil.copytree(checkout, root)
    (root / "look.py").write_text(LOADERLESS)
    words = ("-m", "yolov5_featviz", "run", root / "look.py", WEIGHTS, images / "bus.jpg", images / "zidane.jpg")
    ours = ("--visualize-report", "off", "--visualize-layers", "17,23", "--visualize-channels", "top:4:ablation")
    done = run(*words, *ours, cwd=tmp_path, script=None, env=ONE_THREAD)
    assert done.stdout.count("FOUND") == 2
    found = [f for f in files_below(tmp_path / "runs") if f.endswith("ranking.csv")]
    stems = ("stage17_C3_ranking.csv", "stage23_C3_ranking.csv")
    assert found == [f"featviz/exp/{name}/{stem}" for name in ("bus", "zidane") for stem in stems]
    assert "ablation" in rows_of(tmp_path / "runs" / found[0])[0]


@pytest.mark.parametrize(
    ("channels", "says"),
    [
        ("top:4:ablation:persn", "channels 'top:4:ablation:persn': no class 'persn': did you mean person?"),
        ("top:4:ablate", "no ranking by 'ablate': take one of mean, max, std, contrast, ablation"),
    ],
)
def test_what_cannot_be_ranked_by_is_refused_before_the_run(channels, says, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["detect.py", "--weights", str(WEIGHTS), *LAYER, channels])
    assert launch(ROOT) == 2
    error = capfd.readouterr().err.splitlines()
    assert error[-1].startswith("yolov5-featviz: error: ") and says in error[-1]
    assert files_below(tmp_path) == []


def test_figures(images):
    """The top channel of a class over two images, by the mean of their scores, as each image alone has them."""
    predictor = fv.Predictor(WEIGHTS)
    columns = [
        {"layer": 20, "show": show, "channels": f"top:{n}:ablation:person"} for show, n in (("channel", 1), ("grid", 4))
    ]
    rows = [{"image": str(images / f"{name}.jpg")} for name in ("bus", "zidane")]
    made = fv.figure({"weights": str(WEIGHTS), "imgsz": 320, "rows": rows, "columns": columns})
    scores = []
    for row, panels in zip(rows, (made.about["panels"][:2], made.about["panels"][2:])):
        ranking = fv.rank(predictor(row["image"], 20, 320, ablate=20)[20], "ablation:person")
        scores.append(ranking.scores["ablation of person"])
        assert panels[1]["channels"] == ",".join(map(str, ranking.channels[:4])) and panels[1]["by"] == ranking.by
    k = int(np.argmax(np.mean(scores, axis=0)))
    assert [made.about["panels"][i]["channels"] for i in (0, 2)] == [f"{k}-{k}"] * 2


def test_only_the_layers_that_are_asked_for_are_ablated(images):
    predictor = fv.Predictor(WEIGHTS)
    passes = []
    handle = predictor.index.root.register_forward_hook(lambda *_: passes.append(1))
    seen = predictor(images / "bus.jpg", "20,23", 320, ablate="23")
    handle.remove()
    assert seen[20].dependence is None and seen[23].dependence.lost.shape == (len(seen.boxes), 256)
    assert 256 / 8 < len(passes) < 256
    for field in ("xyxy", "scores", "classes"):
        np.testing.assert_allclose(getattr(seen[23].dependence.boxes, field), getattr(seen.boxes, field), atol=1e-4)


def test_redo(ran, images):
    home, _ = ran
    words = ("--weights", WEIGHTS, "--source", images / "bus.jpg")
    for file in ("stage23_C3_features.png", "stage23_C3_ranking.csv"):
        words_of = ("-m", "yolov5_featviz", "redo", home / "exp/bus" / file, *words)
        done = run(*words_of, cwd=home, script=None, env=ONE_THREAD)
        assert done.stdout.splitlines()[-1].endswith(f"{file}: identical, byte for byte")
