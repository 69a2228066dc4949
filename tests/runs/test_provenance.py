"""Every file says how it was made, tells nothing about who made it, and can be made again."""

import getpass
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, WEIGHTS, feature_map, files_below, other_weights, run
from PIL import Image

import yolov5_featviz as fv
from yolov5_featviz.cli import main
from yolov5_featviz.draw.channels import choose_channels
from yolov5_featviz.draw.encode import FORMATS
from yolov5_featviz.draw.record import KEY, dumps, map_record, spans
from yolov5_featviz.runs.provenance import identity, portable, read_record, run_record, sha256

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
HOME = Path("runs/detect/exp")
TOOL = ("-m", "yolov5_featviz")


@pytest.fixture(scope="module")
def demo(tmp_path_factory, images):
    """A run in a folder named after nobody, whose image and checkpoint are given by absolute paths."""
    cwd = tmp_path_factory.mktemp("demo")
    (cwd / "best.pt").write_bytes(WEIGHTS.read_bytes())
    formats = "png,jpg,tif,svg,pdf,npy"
    run(
        *("--weights", cwd / "best.pt", "--source", images / "bus.jpg", "--visualize-layers", "20"),
        *("--visualize-mode", "grid,heatmap", "--visualize-channels", "top:5", "--visualize-format", formats),
        cwd=cwd,
    )
    return cwd


def test_every_file_of_a_run_tells(demo, images):
    files = [name for name in files_below(demo / HOME / "bus") if not name.endswith(".json")]
    assert len(files) == 2 * 5 + 2  # two pictures in five formats, the values, the ranking
    for name in files:
        about = read_record(demo / HOME / "bus" / name)
        assert (about["file"], about["folder"]) == (name, "bus")
        assert about[KEY] == fv.__version__ and about["yolov5"] == "7.0.0"
        assert about["command"][:6] == ["run", "detect.py", "--weights", "best.pt", "--source", "bus.jpg"]
        assert about["weights"] == [{"name": "best.pt", "sha256": hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()}]
        assert about["image"]["name"] == "bus.jpg"
        assert about["image"]["sha256"] == hashlib.sha256((images / "bus.jpg").read_bytes()).hexdigest()
        assert (about["layer"], about["type"], about["map"]) == ("20", "C3", [128, 40, 30])


def test_what_is_told_is_what_is_shown(demo):
    values = np.load(demo / HOME / "bus/stage20_C3_features.npy")
    assert values.shape == (128, 40, 30)
    about = read_record(demo / HOME / "bus/stage20_C3_features.pdf")
    best = np.argsort(-values.reshape(128, -1).mean(axis=1))[:5]
    assert choose_channels(about["channels"], 128) == best.tolist() and about["by"] == "mean"
    expected = [[values[channel].min(), values[channel].max()] for channel in best]
    np.testing.assert_allclose(about["scale"], expected, rtol=1e-5)
    about = read_record(demo / HOME / "bus/stage20_C3_heatmap.jpg")
    np.testing.assert_allclose(about["scale"], [0, values[best].mean(axis=0).max()], rtol=1e-5)
    assert (about["reduce"], about["norm"], about["cmap"], about["alpha"]) == ("mean", "zero", "inferno", 0.8)


def test_no_names_of_folders_or_users(demo, images):
    words = [str(demo.parent), str(images.parent), getpass.getuser() + "/", str(ROOT)]
    for name in files_below(demo / HOME / "bus"):
        content = (demo / HOME / "bus" / name).read_bytes()
        told = json.dumps(read_record(demo / HOME / "bus" / name))
        for word in words:
            assert word.encode() not in content and word not in told, (name, word)


def test_info(demo, capsys):
    assert main(["info", str(demo / HOME / "bus/stage20_C3_features.png")]) == 0
    out = capsys.readouterr().out
    assert "made by   yolov5-featviz" in out and f"weights   best.pt  sha256 {sha256(WEIGHTS)}" in out
    assert "command   yolov5-featviz run detect.py --weights best.pt --source bus.jpg --visualize-layers 20" in out
    assert out.count("scale     channel ") == 5
    assert main(["info", "--json", str(demo / HOME / "bus/stage20_C3_ranking.csv")]) == 0
    assert json.loads(capsys.readouterr().out)["shows"] == "ranking"


def test_redo(demo, images):
    """The image given by hand, beside our launcher, which is not the script that is meant."""
    figure = HOME / "bus/stage20_C3_heatmap.png"
    (demo / "detect.py").write_bytes((ROOT / "detect.py").read_bytes())
    before = files_below(demo)
    done = run(*TOOL, "redo", figure, "--source", images / "bus.jpg", cwd=demo, script=None)
    assert done.stdout.splitlines() == [
        "best.pt: the same file",
        "bus.jpg: the same file",
        f"{figure}: identical, byte for byte",
    ]
    assert files_below(demo) == before


def test_redo_of_a_ranking_by_its_record(demo, images):
    ranking = HOME / "bus/stage20_C3_ranking.csv"
    done = run(*TOOL, "redo", f"{ranking}.json", "--source", images / "bus.jpg", cwd=demo, script=None)
    assert done.stdout.splitlines()[-1] == f"{ranking}: identical, byte for byte"


def test_redo_with_other_weights(demo, tmp_path):
    """The image is YOLOv5's own, and found by its name; the new figure is kept beside, the old one as it is."""
    figure = demo / HOME / "bus/stage20_C3_features.png"
    content = figure.read_bytes()
    other = other_weights(tmp_path / "best.pt", lambda w: w * 0.9)
    (tmp_path / "stage20_C3_features_redo.png").write_text("taken")
    done = run(*TOOL, "redo", figure, "--weights", other, cwd=tmp_path, script=None, check=1)
    first, second, last = done.stdout.splitlines()
    assert (first, second) == ("best.pt: not the same file", "bus.jpg: the same file")
    assert "not identical: " in last and "other weights" in last and "stage20_C3_features_redo2.png" in last
    assert figure.read_bytes() == content and (tmp_path / "stage20_C3_features_redo.png").read_text() == "taken"
    about = read_record(tmp_path / "stage20_C3_features_redo2.png")
    assert about["weights"][0]["sha256"] == sha256(other) and about["command"] == read_record(figure)["command"]


def test_redo_without_the_weights(demo, tmp_path, capsys, monkeypatch):
    figure = tmp_path / "figure.png"
    figure.write_bytes((demo / HOME / "bus/stage20_C3_features.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["redo", str(figure)]) == 2
    assert capsys.readouterr().err == "yolov5-featviz: error: no best.pt here: give --weights, where it is\n"
    assert main(["redo", str(figure), "--weights", "a.pt", "b.pt"]) == 2
    assert "2 --weights for a figure of 1" in capsys.readouterr().err


def test_any_other_model(tmp_path, images):
    """``yolov5-featviz image``, told and made again likewise."""
    code = "import torch\ndef build():\n    torch.manual_seed(0)\n    return torch.nn.Sequential("
    (tmp_path / "net.py").write_text(f"{code}torch.nn.Conv2d(3, 4, 3))\n")
    words = ("image", "--model", "net.py:build", "--layers", "0", "--source", images / "bus.jpg")
    run(*TOOL, *words, cwd=tmp_path, script=None)
    figure = "runs/featviz/exp/bus/stage0_Conv2d_features.png"
    about = read_record(tmp_path / figure)
    assert about["command"] == ["image", "--model", "net.py:build", "--layers", "0", "--source", "bus.jpg"]
    assert about["image"]["sha256"] == sha256(images / "bus.jpg")
    done = run(*TOOL, "redo", figure, "--source", images / "bus.jpg", cwd=tmp_path, script=None, check=2)
    assert "--model net.py:build" in done.stdout and "add --run to run this command" in done.stderr
    done = run(*TOOL, "redo", figure, "--source", images / "bus.jpg", "--run", cwd=tmp_path, script=None)
    assert done.stdout.splitlines()[-1] == f"{figure}: identical, byte for byte"


@pytest.mark.parametrize("format", FORMATS)
def test_pictures_made_in_python_tell_too(format, tmp_path):
    fm = feature_map(RNG.normal(size=(6, 5, 4)).astype(np.float32), input_size=(40, 32))
    for picture in (fm.grid("0,2-4"), fm.heatmap("l2").picture("magma"), fm.pca()):
        path = tmp_path / f"p.{format}"
        picture.save(path)
        assert read_record(path) == json.loads(dumps(picture.about))
    assert read_record(path)["shows"] == "pca" and read_record(path)["input"] == [40, 32]


def test_a_long_record_in_a_jpeg(tmp_path):
    fm = feature_map(RNG.normal(size=(6000, 1, 1)))
    picture = fm.heatmap().over(np.zeros((8, 8, 3), np.uint8))
    picture.about.update(map_record(fm, "grid", range(6000), RNG.normal(size=(6000, 2))))
    assert len(dumps(picture.about)) > 70000
    picture.save(tmp_path / "p.jpg")
    assert read_record(tmp_path / "p.jpg") == json.loads(dumps(picture.about))
    Image.open(tmp_path / "p.jpg").load()


def test_values_are_read_as_before(tmp_path):
    fm = feature_map(RNG.normal(size=(3, 4, 5)).astype(np.float32))
    from yolov5_featviz.runs.look import Look, render

    ((name, content),) = render(fm, Look(modes=(), formats=("npy",)))
    np.testing.assert_array_equal(np.load(io.BytesIO(content)), fm.data.numpy())
    (tmp_path / name).write_bytes(content)
    np.testing.assert_array_equal(np.load(tmp_path / name, mmap_mode="r"), fm.data.numpy())
    assert read_record(tmp_path / name)["map"] == [3, 4, 5]


def test_files_that_do_not_tell(tmp_path, capsys):
    Image.new("RGB", (3, 3)).save(tmp_path / "a.png")
    Image.new("RGB", (3, 3)).save(tmp_path / "b.jpg")
    np.save(tmp_path / "c.npy", np.zeros(3))
    (tmp_path / "d.pdf").write_bytes(b"%PDF-1.4 /Subject (\xff\\")
    (tmp_path / "e.png").write_bytes(b"\x89PNG broken")
    (tmp_path / "f.svg").write_text("<svg><metadata>yolov5-featviz {nonsense</metadata></svg>")
    (tmp_path / "g").write_bytes(b"")
    for path in sorted(tmp_path.iterdir()):
        assert main(["info", str(path)]) == 2
        assert f"error: {path} has no record" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "none.png")]) == 2
    assert capsys.readouterr().err == f"yolov5-featviz: error: no file {tmp_path / 'none.png'}\n"


def test_made_in_python_is_not_made_again(tmp_path, capsys):
    feature_map(np.ones((1, 2, 2))).grid().save(tmp_path / "p.png")
    assert main(["redo", str(tmp_path / "p.png")]) == 2
    assert "was made in Python, not by a command" in capsys.readouterr().err


def test_a_training_is_not_made_again(tmp_path, capsys):
    from dataclasses import replace

    picture = feature_map(np.ones((1, 2, 2))).grid()
    about = {**run_record(["run", "train.py", "--epochs", "3"]), "image": {"name": "a.jpg", "epoch": 2}}
    replace(picture, about=about).save(tmp_path / "p.png")
    assert main(["redo", str(tmp_path / "p.png")]) == 2
    assert "epoch 2 of a training" in capsys.readouterr().err


@pytest.mark.parametrize("trust", [False, True])
def test_a_figure_cannot_ask_to_be_trusted(tmp_path, monkeypatch, capsys, trust):
    """It may come from a stranger, with a checkpoint beside it."""
    from dataclasses import replace

    from yolov5_featviz.cli import entry

    command = ["image", "--model", "torchvision:alexnet", "--trust-weights", "--layers", "0", "--source", "a.png"]
    picture = replace(feature_map(np.ones((1, 2, 2))).grid(), about={**run_record(command), "file": "p.png"})
    picture.save(tmp_path / "p.png")
    ran = []
    monkeypatch.setattr(entry, "_again", lambda words, recorded: ran.append((words, recorded)) or 0)
    monkeypatch.chdir(tmp_path)
    assert main(["redo", "p.png", *["--trust-weights"] * trust]) == 2  # since nothing was made
    ((words, recorded),) = ran
    assert words.count("--trust-weights") == trust and recorded == command
    assert "yolov5-featviz: running yolov5-featviz image --model torchvision:alexnet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("17,20,23", "17,20,23"),
        ("--conf-thres", "--conf-thres"),
        ("--iou=0.4", "--iou=0.4"),
        ("images/bus.jpg", "images/bus.jpg"),
        ("./images//bus.jpg", "images/bus.jpg"),
        ("../somebody/bus.jpg", "bus.jpg"),
        ("/data/somebody/bus.jpg", "bus.jpg"),
        ("/data/somebody/images/", "images"),
        ("/data/*.jpg", "*.jpg"),
        ("--weights=/data/best.pt", "--weights=best.pt"),
        ("~/yolov5/best.pt", "best.pt"),
        ("~nobodyknown/best.pt", "best.pt"),
        ("C:\\Users\\somebody\\best.pt", "best.pt"),
        ("rtsp://user:secret@10.0.0.1:554/stream?token=1", "rtsp://10.0.0.1:554/stream"),
        ("somebody/best.pt", "best.pt"),
        ("runs/train/exp/best.pt", "runs/train/exp/best.pt"),
        ("net.py:build", "net.py:build"),
        ("/code/net.py:build", "net.py:build"),
    ],
)
def test_portable(word, expected, monkeypatch):
    import yolov5_featviz.runs.provenance as provenance

    monkeypatch.setattr(provenance, "_users", lambda: frozenset({"somebody"}))
    assert portable([word]) == [expected]
    assert portable([expected]) == [expected]


def test_paths_below_the_current_folder_become_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert portable(["--source", str(tmp_path / "images" / "a.jpg"), f"--project={tmp_path}/runs"]) == [
        "--source",
        "images/a.jpg",
        "--project=runs",
    ]


def test_hashes_are_taken_anew_when_the_file_changes(tmp_path):
    import os

    path = tmp_path / "a.pt"
    path.write_bytes(b"one")
    assert identity(path) == {"name": "a.pt", "sha256": hashlib.sha256(b"one").hexdigest()}
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert sha256(path) == hashlib.sha256(b"two").hexdigest()
    assert identity("rtsp://user:secret@host/stream") == {"name": "stream"}


@pytest.mark.parametrize("channels", [[0], [5], [0, 1, 2], [7, 3, 4, 5], [3, 2, 1], list(range(64)), [0, 1, 5, 6, 7]])
def test_spans(channels):
    assert choose_channels(spans(channels), 64) == channels
