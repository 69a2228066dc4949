"""Class activation maps in ``run``: what is explained is what the script itself detected, by the real scripts."""

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import WEIGHTS, files_below, other_weights, run

import yolov5_featviz as fv
from yolov5_featviz.runs.provenance import read_record

pytestmark = pytest.mark.slow

NAMES = ("person", "bus", "tie", "motorcycle", "cat", "cup")  # of the demo checkpoint
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
SMALL = ("--weights", WEIGHTS, "--imgsz", "320", "--nosave", "--save-txt", "--save-conf")
CAM = ("--visualize-mode", "cam", "--visualize-layers", "17", "--visualize-report", "off", "--visualize-plain")
EXP = "runs/detect/exp"


def explained(folder):
    """Image -> what its class activation map is said to show."""
    found = sorted(folder.rglob("stage17_C3_cam*.png"))
    return {file.parent.relative_to(folder).as_posix(): read_record(file)["shows"].split(" · ")[0] for file in found}


def detected(folder):
    """Image -> the class and score of each line of its label file."""
    files = sorted((folder / "labels").glob("*.txt"))
    lines = {file.stem: [line.split() for line in file.read_text().splitlines()] for file in files}
    return {image: [(NAMES[int(line[0])], float(line[5])) for line in rows] for image, rows in lines.items()}


def in_words(found):
    """``Layer-CAM of 4 × person, 1 × bus``, or of ``bus 0.87``; detections are those of a label file."""
    ordered = sorted(found, key=lambda one: -one[1])
    if len(ordered) == 1:
        return f"Layer-CAM of {ordered[0][0]} {ordered[0][1]:.2f}"
    counts = Counter(name for name, _ in ordered)
    return "Layer-CAM of " + ", ".join(f"{count} × {name}" for name, count in counts.items())


@pytest.mark.parametrize(
    "flags",
    [
        ("--conf-thres", "0.9"),
        ("--conf-thres", "0.02"),
        ("--classes", "1"),
        ("--agnostic-nms", "--max-det", "2", "--iou-thres", "0.2"),
    ],
)
def test_thresholds_and_classes_of_the_script(flags, images, tmp_path):
    done = run(*SMALL, "--source", images, *flags, *CAM, cwd=tmp_path, env=ONE_THREAD)
    found = detected(tmp_path / EXP)
    assert explained(tmp_path / EXP) == {image: in_words(rows) for image, rows in found.items()}
    without = {"bus", "zidane"} - set(found)
    assert [line.split(": ")[1] for line in done.stderr.splitlines() if "no class activation map" in line] == [*without]
    run(*SMALL, "--source", images, *flags, "--name", "alone", cwd=tmp_path, env=ONE_THREAD)
    for image in found:
        label = f"labels/{image}.txt"
        assert (tmp_path / EXP / label).read_bytes() == (tmp_path / "runs/detect/alone" / label).read_bytes()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--visualize-target", "cup"), "no cup was detected; found: 4 × person, 1 × bus"),
        (("--visualize-target", "person", "--classes", "1"), "no person was detected; found: 1 × bus"),
        (("--visualize-target", "bus:1"), "no bus number 1 was detected; found: 4 × person, 1 × bus"),
        (("--conf-thres", "0.99"), "nothing was detected"),
    ],
)
def test_nothing_to_explain_is_no_failure(flags, says, images, tmp_path):
    done = run(*SMALL, "--source", images / "bus.jpg", *flags, *CAM, cwd=tmp_path, env=ONE_THREAD)
    ours = [line for line in done.stderr.splitlines() if line.startswith("yolov5-featviz: ")]
    assert ours[1:] == [f"yolov5-featviz: bus: {says}; no class activation map"]
    assert not list(tmp_path.rglob("*.png"))


def test_a_place_without_a_candidate_is_a_failure(images, tmp_path):
    words = ("--source", images / "bus.jpg", "--classes", "1", "--visualize-target", "bus@0,0,10,9000")
    done = run(*SMALL, *words, *CAM, cwd=tmp_path, check=1, env=ONE_THREAD)
    assert "bus: no candidate overlaps 0,0,10,9000 by half" in done.stderr
    assert "nothing was drawn" not in done.stderr


def test_the_best_candidate_at_a_place(images, tmp_path):
    """In pixels of the photograph, which is letterboxed; the best score there is found by hand."""
    from torchvision.ops import box_iou

    image, look = images / "zidane.jpg", (*CAM, "--visualize-format", "png,npy")
    predictor = fv.Predictor(WEIGHTS)
    seen = predictor(image, imgsz=320)
    height, width = seen.pixels.shape[:2]
    boxes = seen.boxes.mapped(seen.region, (height, width))
    i = boxes.labels.index("person")
    place = ",".join(f"{edge:.1f}" for edge in boxes.xyxy[i])
    with torch.no_grad():
        rows = predictor.model(predictor.prepare(image, 320)[0])[0][0]
    centre, half = rows[:, :2], rows[:, 2:4] / 2
    shares = box_iou(torch.cat([centre - half, centre + half], 1), torch.from_numpy(seen.boxes.xyxy[i : i + 1]))[:, 0]
    best = float((rows[:, 4] * rows[:, 5 + NAMES.index("cat")])[shares >= 0.5].max())
    score = f"{best:.2f}" if best >= 0.01 else f"{best:.1g}"
    words = f"Layer-CAM of cat {score}, not detected: best candidate {score}, below 0.25"

    run(*SMALL, "--source", image, *look, "--visualize-target", f"cat@{place}", cwd=tmp_path, env=ONE_THREAD)
    assert explained(tmp_path / EXP) == {"zidane": words}
    expected = predictor.cam(image, 17, f"cat@{place}", imgsz=320)
    assert words in expected.title
    values = np.load(tmp_path / EXP / "zidane" / "stage17_C3_cam.npy")
    np.testing.assert_allclose(values, expected.feature_map.data[0], rtol=1e-3, atol=1e-5 * values.max())

    # left out by the script's classes, not by a threshold
    words = ("--source", image, *CAM, "--visualize-target", f"@{place}", "--classes", "1", "--name", "classes")
    run(*SMALL, *words, cwd=tmp_path, env=ONE_THREAD)
    score = f"{boxes.scores[i]:.2f}"
    found = explained(tmp_path / "runs/detect/classes")["zidane"]
    assert found == f"Layer-CAM of person {score}, not detected: best candidate {score}, left out by the script"


def test_augmentation_has_other_candidates(images, tmp_path):
    """The pass at the image's own scale keeps no large object, so that the others' are left out, or all are."""
    done = run(*SMALL, "--source", images, "--augment", *CAM, cwd=tmp_path, env=ONE_THREAD)
    told = {line.split(": ")[1]: line for line in done.stderr.splitlines() if "scaled or flipped copies" in line}
    found, shown = detected(tmp_path / EXP), explained(tmp_path / EXP)
    assert set(told) == set(shown) == {"bus", "zidane"}
    for image, line in told.items():
        if "all " in line:
            assert f"all {len(found[image])} detections come from" in line
            assert line.endswith(": those that the model alone makes are explained")
        else:
            lost = int(line.split(": ")[2].split(" of ")[0])
            assert 0 < lost < len(found[image]) and f"{lost} of {len(found[image])} detections come from" in line
            (count,) = [int(word) for word in shown[image].split() if word.isdigit()] or [1]
            assert count == len(found[image]) - lost


def test_models_of_an_ensemble_explain_their_own(images, tmp_path):
    """Of two models that hardly differ, each has the best candidate of some of the objects."""
    noise = np.random.default_rng(0)
    other = other_weights(tmp_path / "other.pt", lambda values: values * noise.normal(1, 0.01, values.shape))
    words = ("--source", images / "bus.jpg", "--weights", WEIGHTS, other)
    done = run(*SMALL, *words, *CAM, cwd=tmp_path, env=ONE_THREAD)
    (found,) = detected(tmp_path / EXP).values()
    lost = {line.split(": ")[1]: line.split(": ")[2] for line in done.stderr.splitlines() if "other models" in line}
    counts = [int(words.split(" of ")[0]) for words in lost.values()]
    assert set(lost) == {"bus, best", "bus, other"} and sum(counts) == len(found) and min(counts) > 0
    assert set(explained(tmp_path / EXP)) == {"bus/best", "bus/other"}


def test_validation_explains_what_it_draws(checkout, images, tmp_path):
    """Boxes from 0.25, several classes a box; YOLOv5's own plots change the images after the pass."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in ("bus", "zidane"):
        shutil.copy(images / f"{name}.jpg", tmp_path / "images")
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(NAMES))
    folder = tmp_path / "images"
    (tmp_path / "data.yaml").write_text(f"train: {folder}\nval: {folder}\nnc: 6\nnames:\n{names}")
    words = ("--weights", WEIGHTS, "--data", tmp_path / "data.yaml", "--img", "320", "--save-txt", "--save-conf")
    words = ("-m", "yolov5_featviz", "run", checkout / "val.py", *words, "--project", "val", *CAM)
    done = run(*words, cwd=tmp_path, script=None, env=ONE_THREAD)
    assert "explained" not in done.stderr
    found = {image: [one for one in rows if one[1] >= 0.25] for image, rows in detected(tmp_path / "val/exp").items()}
    assert explained(tmp_path / "val/exp") == {image: in_words(rows) for image, rows in found.items()}


def test_scripts_that_detect_otherwise(checkout, images, tmp_path):
    """Segmentation has rows with masks; classification has no detections, and explains its class."""
    build = (
        "import sys, torch\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from models.yolo import ClassificationModel, DetectionModel, SegmentationModel\n"
        "torch.manual_seed(0)\n"
        "segment = SegmentationModel(sys.argv[1] + '/models/segment/yolov5n-seg.yaml')\n"
        "for head in segment.model[-1].m: head.bias.data.view(3, -1)[:, 4:85] = 0\n"
        "classify = ClassificationModel(model=DetectionModel(sys.argv[1] + '/models/yolov5n.yaml'), nc=10)\n"
        "for name, model in (('segment', segment), ('classify', classify)):\n"
        "    model.names = [f'class{i}' for i in range(80)]\n"
        "    torch.save({'epoch': -1, 'model': model.half()}, name + '.pt')\n"
    )
    (tmp_path / "build.py").write_text(build)
    run(checkout, cwd=tmp_path, script=tmp_path / "build.py", env=ONE_THREAD)
    look = ("--visualize-mode", "cam", "--visualize-report", "off", "--visualize-plain", "--nosave")
    shown = {}
    for task, layer in (("segment", "17"), ("classify", "4")):
        words = ("--weights", f"{task}.pt", "--source", images / "bus.jpg", "--imgsz", "64", "--project", task)
        words += ("--conf-thres", "0.2", "--max-det", "3") if task == "segment" else ()
        words = (checkout / task / "predict.py", *words, *look, "--visualize-layers", layer)
        done = run("-m", "yolov5_featviz", "run", *words, cwd=tmp_path, script=None, env=ONE_THREAD)
        assert "explained" not in done.stderr
        (picture,) = [f for f in files_below(tmp_path / task) if f.endswith("_cam.png")]
        shown[task] = read_record(tmp_path / task / picture)["shows"]
    counts = [int(word) for word in shown["segment"].split(" · ")[0].split() if word.isdigit()]
    assert sum(counts) == 3 and shown["segment"].count("class") == len(counts)
    assert shown["classify"].startswith("Layer-CAM of class") and "·" not in shown["classify"]
