"""Channels chosen by the contrast of one class, in a run of detect.py."""

import csv
import sys

import numpy as np
import pytest
from helpers import ROOT, WEIGHTS, files_below, run
from PIL import Image

import yolov5_featviz as fv
from yolov5_featviz.cli import launch
from yolov5_featviz.runs.provenance import read_record

pytestmark = pytest.mark.slow
LAYER = ("--visualize-layers", "17", "--visualize-channels")


def cohens_d(inside, outside):
    n, m = inside.shape[1], outside.shape[1]
    squares = (n - 1) * inside.var(axis=1, ddof=1) + (m - 1) * outside.var(axis=1, ddof=1)
    return (inside.mean(axis=1) - outside.mean(axis=1)) / np.sqrt(squares / (n + m - 2))


def test_a_run_ranks_by_the_boxes_of_one_class(tmp_path, images):
    """The bus of bus.jpg; on zidane.jpg is none, and file, title and record say that the ranking is another."""
    done = run("--weights", WEIGHTS, "--source", images, *LAYER, "top:4:contrast:bus", "--nosave", cwd=tmp_path)
    home = tmp_path / "runs/detect/exp"
    seen = fv.Predictor(WEIGHTS)(images / "bus.jpg", 17)
    (box,) = seen.boxes.xyxy[np.array(seen.boxes.labels) == "bus"]
    y, x = (np.indices(seen[17].size) + 0.5) * 8  # at this size there is no padding
    inside = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
    data = seen[17].values.astype(float)
    expected = cohens_d(data[:, inside], data[:, ~inside])
    with open(home / "bus/stage17_C3_ranking.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["rank", "channel", "contrast of bus", "mean", "max", "std"]
    order = [int(row["channel"]) for row in rows]
    assert order == np.argsort(-expected, kind="stable").tolist()
    np.testing.assert_allclose([float(row["contrast of bus"]) for row in rows], expected[order], rtol=1e-4, atol=1e-4)
    assert f"bus, layer 17 (C3): best channels by contrast of bus: {order[0]} (" in done.stderr
    for image, by, words in (
        ("bus", "contrast of bus", "top 4 of 64 channels by contrast of bus"),
        ("zidane", "std", "top 4 of 64 channels by std instead of contrast of bus: no bus was detected"),
    ):
        picture = home / image / "stage17_C3_features.png"
        assert words in Image.open(picture).info["Title"]
        assert read_record(picture)["by"] == read_record(f"{picture.parent}/stage17_C3_ranking.csv.json")["by"] == by


@pytest.mark.parametrize(
    ("channels", "says"),
    [
        ("top:4:contrast:persn", "channels 'top:4:contrast:persn': no class 'persn': did you mean person?"),
        ("top:4:contrast:99", "channels 'top:4:contrast:99': no class '99': there are person (0), bus (1)"),
        ("top:4:contrast:person:0", "no class 'person:0': did you mean person?"),
        (
            "top:4:std:person",
            "no ranking by 'std:person': only contrast and ablation take a class, as in contrast:person",
        ),
    ],
)
def test_a_class_that_cannot_be_ranked_by_is_refused_before_the_run(channels, says, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["detect.py", "--weights", str(WEIGHTS), *LAYER, channels])
    assert launch(ROOT) == 2
    error = capfd.readouterr().err.splitlines()
    assert error[-1].startswith("yolov5-featviz: error: ") and says in error[-1]
    assert files_below(tmp_path) == []
