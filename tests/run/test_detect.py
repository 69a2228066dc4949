"""The main job, as its user runs it: the real detect.py in a process of its own."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT, WEIGHTS, files_below, independent_hooks, run
from PIL import Image

from yolov5_featviz.cli import launch

pytestmark = pytest.mark.slow

LAYERS = ("--visualize-layers", "17,20,23")
PICTURES = [f"stage{i}_C3_features.png" for i in (17, 20, 23)]
RUN = "runs/detect/exp"
# With several threads the order of additions, and so the last bit, is up to the machine's load.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory, images):
    """The command of the title, in an empty folder, with the numbers dumped beside the pictures."""
    cwd = tmp_path_factory.mktemp("demo")
    flags = ("--visualize-format", "png,npy", "--save-txt", "--save-conf")
    done = run("--weights", "best.pt", *LAYERS, *flags, cwd=cwd, env=ONE_THREAD)
    return cwd, done


def test_the_main_job(demo):
    cwd, done = demo
    expected = [f"{image}/{p}" for image in ("bus", "zidane") for p in PICTURES]
    assert [f for f in files_below(cwd / RUN) if f.endswith("features.png")] == sorted(expected)
    for picture in expected:
        with Image.open(cwd / RUN / picture) as image:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.01)
            assert image.width >= 1400
    first = done.stderr.splitlines()[0]
    assert re.match(r"yolov5-featviz: \S+, YOLOv5 7\.0\.0 \(installed package: .*/yolov5\)", first)
    assert done.stderr.splitlines()[-2:] == [
        "yolov5-featviz: 6 feature maps in runs/detect/exp: bus/, zidane/",
        "yolov5-featviz: open runs/detect/exp/index.html",
    ]


def test_nothing_else_is_written(demo, images):
    cwd, _ = demo
    rest = [f for f in files_below(cwd) if "features" not in f]
    assert rest == [
        f"{RUN}/{f}" for f in ("bus.jpg", "index.html", "labels/bus.txt", "labels/zidane.txt", "zidane.jpg")
    ]
    assert not (images.parent.parent / "runs").exists()


def test_the_demo_checkpoint_finds_what_it_should(demo):
    def classes(name):
        return [int(line.split()[0]) for line in (demo[0] / RUN / "labels" / f"{name}.txt").read_text().splitlines()]

    assert classes("bus").count(1) >= 1 and classes("bus").count(0) >= 3
    assert classes("zidane").count(0) == 2


def test_maps_are_those_of_the_detection(demo, model, bus, images):
    """Against hooks of our own on the model fused by YOLOv5, on the image as YOLOv5 prepares it."""
    from copy import deepcopy

    cwd, _ = demo
    image = cv2.imread(str(images / "bus.jpg"))
    ratio = 640 / max(image.shape[:2])
    image = cv2.resize(image, (round(810 * ratio), round(1080 * ratio)), interpolation=cv2.INTER_LINEAR)
    assert image.shape == (640, 480, 3)  # a multiple of the stride: no letterbox
    tensor = torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))[None]).float() / 255
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fused = deepcopy(model).fuse()
        found = independent_hooks(fused, [17, 20, 23], tensor)
    finally:
        torch.set_num_threads(threads)
    for i, expected in found.items():
        dumped = np.load(cwd / RUN / "bus" / f"stage{i}_C3_features.npy")
        np.testing.assert_array_equal(dumped, expected[0])


def test_detections_are_the_same_to_the_byte(demo, yolov5, images, tmp_path):
    """YOLOv5 alone, ours without the flag, ours with it."""
    flags = ("--save-txt", "--save-conf")
    alone, without = tmp_path / "alone", tmp_path / "without"
    for folder in (alone, without):
        folder.mkdir()
    env = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "YOLOv5_AUTOINSTALL": "false", **ONE_THREAD}
    run("--weights", WEIGHTS, *flags, cwd=alone, script=yolov5 / "detect.py", env=env)
    run("--weights", WEIGHTS, *flags, cwd=without, env=ONE_THREAD)
    for name in ("labels/bus.txt", "labels/zidane.txt", "bus.jpg", "zidane.jpg"):
        content = (alone / RUN / name).read_bytes()
        assert content
        assert (without / RUN / name).read_bytes() == content
        assert (demo[0] / RUN / name).read_bytes() == content


COUNTED = """
import sys, runpy
import yolov5_featviz.yolov5.script.watcher as watch, yolov5_featviz.yolov5.script.runner as runner
passes, drawn = [], []
real = watch.Watcher._follow
def counted(self, original, once):
    def inner(model, x, *args, **kwargs):
        passes.append(x.shape[-1])
        return original(model, x, *args, **kwargs)
    return real(self, inner if once else original, once)
watch.Watcher._follow = counted
draw = runner.Artist.draw
runner.Artist.draw = lambda self, item, i, parts: (drawn.append(item.name(i)), draw(self, item, i, parts))
from yolov5_featviz.cli import main
code = main(["run", "detect.py", *sys.argv[1:]])
print("PASSES", sum(p < 100 for p in passes), sum(p >= 100 for p in passes), "DRAWN", *drawn)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("flags", "summaries", "folders"),
    [
        ((), 0, [""]),  # the summary is skipped altogether
        (("--visualize-summary",), 1, [""]),
        (("--augment",), 0, ["scale0.67/", "scale0.83_flipped/", "scale1.00/"]),
    ],
)
def test_a_picture_is_drawn_once_per_image(flags, summaries, folders, tmp_path):
    """However often the network runs: for the model summary, on 32 pixels, and thrice an image with --augment."""
    script = tmp_path / "counted.py"
    script.write_text(COUNTED)
    done = run("--weights", WEIGHTS, "--visualize-layers", "9", *flags, cwd=tmp_path, script=script)
    assert done.stdout.splitlines()[-1] == f"PASSES {summaries} {2 * len(folders)} DRAWN bus zidane"
    found = [f for f in files_below(tmp_path / RUN) if "stage" in f]
    assert found == [f"{image}/{f}stage9_SPPF_features.png" for image in ("bus", "zidane") for f in folders]
    assert ("summary" in done.stdout + done.stderr) == bool(summaries)


UNDO = """
import sys, torch
from pathlib import Path
from yolov5_featviz.yolov5.script import artist, runner
from yolov5_featviz.yolov5.source import find_source
source = find_source()
sys.path.append(str(source.root))
import models.yolo, yolov5.models.yolo, yolov5.utils.dataloaders
watched = [torch, torch.utils.data.dataloader._BaseDataLoaderIter, models.yolo, models.yolo.DetectionModel,
           models.yolo.BaseModel, yolov5.models.yolo.BaseModel,
           yolov5.utils.dataloaders.LoadImages, yolov5.utils.dataloaders.LoadStreams]
before = [dict(vars(w)) for w in watched]
argv, path, main = sys.argv[:], sys.path[:], sys.modules["__main__"]
seen = []
attach = runner.Watcher.attach
def spy(self, patches, *loaded):
    attach(self, patches, *loaded)
    seen.append([sorted(k for k in vars(w) if vars(w)[k] is not b.get(k)) for w, b in zip(watched, before)])
runner.Watcher.attach = spy
code = runner.run("detect.py", ["--weights", sys.argv[1]], artist.RunOptions(layers="17", trust=True))
assert code == 0
print(seen[-1])
assert [dict(vars(w)) for w in watched] == before
assert (sys.argv, sys.path, sys.modules["__main__"]) == (argv, path, main)
print("NO TRACE")
"""


def test_undo_leaves_no_trace(tmp_path):
    (tmp_path / "undo.py").write_text(UNDO)
    done = run(WEIGHTS, cwd=tmp_path, script=tmp_path / "undo.py")
    lines = done.stdout.splitlines()
    assert lines[-1] == "NO TRACE"
    # and while it ran, this and nothing else was patched
    assert lines[-2] == (
        "[['load'], ['__next__'], ['non_max_suppression', 'scale_img'], ['forward'],"
        " ['_forward_once', 'forward', 'info'], ['_forward_once', 'forward', 'info'], ['__next__'], ['__next__']]"
    )


def test_a_checkout_runs_its_own_script(checkout, images, tmp_path):
    """Unedited, from its own folder or another, and nothing is left behind in it."""
    subprocess.run(["git", "init", "-q", "."], cwd=checkout, check=True)
    (checkout / ".gitignore").write_text("__pycache__/\n")
    subprocess.run(["git", "add", "-A"], cwd=checkout, check=True)
    commit = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]
    subprocess.run(commit, cwd=checkout, check=True)
    featviz = ("-m", "yolov5_featviz", "run")
    rest = (
        "--weights",
        WEIGHTS,
        "--source",
        images / "bus.jpg",
        "--visualize-layers",
        "SPPF,-2",
        "--project",
        tmp_path / "out",
    )
    for words, cwd in (
        ((*featviz, "detect.py", *rest), checkout),
        ((*featviz, checkout / "detect.py", *rest), tmp_path),
        ((ROOT / "detect.py", *rest, "--yolov5", checkout), tmp_path),
    ):
        done = run(*words, cwd=cwd, script=None)
        assert "(judging" not in done.stderr
        assert str(checkout) in done.stderr.splitlines()[0]
    expected = ["bus/stage23_C3_features.png", "bus/stage9_SPPF_features.png"]
    for name in ("exp", "exp2", "exp3"):
        assert [f for f in files_below(tmp_path / "out" / name) if "stage" in f] == expected
    status = subprocess.run(["git", "status", "--porcelain"], cwd=checkout, capture_output=True, text=True)
    assert status.stdout == ""


SCRIPT = """
import sys, os
if __name__ == "__main__":
    print("ARGV", sys.argv)
    print("PATH0", sys.path[0])
    print("FILE", __file__, "CWD", os.getcwd())
    import __main__
    print("MAIN", __main__.__file__ == __file__, __name__)
    if "boom" in sys.argv:
        def deeper(): raise KeyError("boom")
        deeper()
    if "words" in sys.argv:
        sys.exit("some words")
    sys.exit(7 if "seven" in sys.argv else None)
"""


@pytest.mark.parametrize("word", ["none", "seven", "boom", "words"])
def test_a_script_sees_what_it_would_see_alone(word, checkout, tmp_path):
    script = checkout / "script_of_mine.py"
    script.write_text(SCRIPT)
    try:
        flags = ["--img", "64", word, "--a=b", "-x", "--", "--visualize-layers"]
        alone = run(script, *flags, cwd=tmp_path, script=None, check=None)
        ours = run("-m", "yolov5_featviz", "run", script, *flags, cwd=tmp_path, script=None, check=None)
    finally:
        script.unlink()
    assert ours.stdout == alone.stdout
    assert ours.returncode == alone.returncode == {"none": 0, "seven": 7, "boom": 1, "words": 1}[word]
    theirs = re.sub(r"\n +[\^~]+(?=\n)", "", alone.stderr)
    mine = re.sub(r"\n +[\^~]+(?=\n)", "", ours.stderr)
    assert mine.split("\n", 1)[1] == theirs


def test_flags_reach_yolov5_untouched(tmp_path, images):
    flags = (
        "--source",
        images / "bus.jpg",
        "--imgsz",
        "320",
        "256",
        "--name",
        "my run",
        "--nosave",
        "--conf-thres=0.9",
    )
    run(
        "--weights=best.pt",
        *flags,
        "--visualize-layers=17",
        "--visualize-channels=last:4",
        "--visualize-plain",
        "--visualize-report=off",
        cwd=tmp_path,
    )
    assert files_below(tmp_path) == ["runs/detect/my run/bus/stage17_C3_features.png"]


def test_help_shows_both(tmp_path):
    out = run("--help", cwd=tmp_path).stdout
    assert "--visualize-layers" in out and "--conf-thres" in out


def test_other_folders_and_same_names(tmp_path, images):
    """Two images of one name, a second run into the same folder, odd characters: nothing is overwritten."""
    source = tmp_path / "in put"
    source.mkdir()
    shutil.copy(images / "bus.jpg", source / "a.jpg")
    cv2.imwrite(str(source / "a.png"), cv2.imread(str(images / "zidane.jpg")))
    shutil.copy(images / "bus.jpg", source / "b [1] 'x' é.jpg")
    flags = (
        "--source",
        source,
        "--imgsz",
        "160",
        "--visualize-layers",
        "23",
        "--visualize-dir",
        "my figures",
        "--exist-ok",
        "--visualize-report",
        "off",
    )
    run("--weights", WEIGHTS, *flags, cwd=tmp_path)
    first = {f: (tmp_path / "my figures" / f).read_bytes() for f in files_below(tmp_path / "my figures")}
    assert sorted(f.split("/")[0] for f in first) == ["a.jpg", "a.png", "b [1] 'x' é"]
    assert first["a.jpg/stage23_C3_features.png"] != first["a.png/stage23_C3_features.png"]
    run("--weights", WEIGHTS, *flags, cwd=tmp_path)
    for file, content in first.items():
        assert (tmp_path / "my figures" / file).read_bytes() == content
    assert len(files_below(tmp_path / "my figures")) == 6


def test_odd_files_and_names(tmp_path, images):
    """What is no image, or too narrow for YOLOv5, is skipped by name; any name gives a folder with pictures."""
    source = tmp_path / "in"
    source.mkdir()
    small = cv2.resize(cv2.imread(str(images / "bus.jpg")), (90, 120))
    content = cv2.imencode(".jpg", small)[1].tobytes()
    for name in (
        b"same.jpg",
        b"same2.jpg",
        b"line\nend.jpg",
        b"\x1b[31m.jpg",
        b"\xff\xfe.jpg",
        b"sp .jpg",
        b"x" * 250 + b".jpg",
    ):
        (Path(os.fsdecode(os.fsencode(source) + b"/" + name))).write_bytes(content)
    cv2.imwrite(str(source / "same.png"), small[::-1])
    cv2.imwrite(str(source / "narrow.png"), np.zeros((1, 5000, 3), np.uint8))
    (source / "folder.jpg").mkdir()
    (source / "broken.jpg").symlink_to("nowhere")
    flags = ("--source", source, "--imgsz", 96, "--nosave", "--visualize-layers", 23, "--visualize-report", "off")
    flags += ("--visualize-format", "png,npy", "--project", "out")
    done = run("--weights", WEIGHTS, *flags, cwd=tmp_path, check=1, env={"PYTHONIOENCODING": "utf-8:surrogateescape"})
    told = [line for line in done.stderr.splitlines() if "skipped" in line]
    assert [Path(line.split(": ")[1].split(";")[0].split(",")[0].split(" ")[-1]).name for line in told] == [
        "broken.jpg",
        "folder.jpg",
        "narrow.png",
    ]
    assert "of 5000 x 1 pixels, to 96 x 96: nothing is left of it" in told[2]
    files = files_below(tmp_path / "out" / "exp")
    assert sorted({file.split("/")[0] for file in files}) == sorted(
        ["same.jpg", "same.png", "same2", "line_end", "_[31m", "__", "sp", "x" * 200]
    )
    assert len(files) == 16
    maps = {
        name: np.load(tmp_path / "out/exp" / name / "stage23_C3_features.npy")
        for name in ("same.jpg", "same.png", "same2")
    }
    assert np.array_equal(maps["same.jpg"], maps["same2"]) and not np.array_equal(maps["same.jpg"], maps["same.png"])


def test_groups_pass_over_layers_without_a_map(tmp_path, images):
    flags = ("--weights", WEIGHTS, "--source", images / "bus.jpg", "--imgsz", "128", "--visualize-layers", "all")
    done = run(*flags, cwd=tmp_path)
    assert len([f for f in files_below(tmp_path) if "stage" in f]) == 24
    assert done.stderr.count("layer 24 (Detect) yields tensors") == 1


def test_a_corrupt_image_among_good_ones(tmp_path, images):
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(images / "bus.jpg", source / "a.jpg")
    (source / "b.jpg").write_bytes(b"not an image")
    (source / "c.png").write_bytes(b"")
    shutil.copy(images / "zidane.jpg", source / "d.jpg")
    done = run("--weights", WEIGHTS, "--source", source, *LAYERS, cwd=tmp_path, check=1)
    assert "Traceback" not in done.stderr
    for name in ("b.jpg", "c.png"):
        assert len([line for line in done.stderr.splitlines() if f"cannot read the image {source / name}" in line]) == 1
    assert [f for f in files_below(tmp_path / RUN) if "stage" in f] == [f"{i}/{p}" for i in "ad" for p in PICTURES]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--visualize-layers", "99"), "no layer 99: this model has layers 0 to 24"),
        (("--visualize-layers", "17,Focus"), "no layer 'Focus'"),
        (("--visualize-layers", "24"), "layer 24 (Detect) yields tensors of shapes"),
        (("--visualize-layers", "-1"), "not a feature map"),
        (("--visualize-layers",), "--visualize-layers needs a value"),
        (("--visualize-layer", "17"), "did you mean --visualize-layers?"),
        (("--visualise-layers", "17"), "no flag --visualise-layers: did you mean --visualize-layers?"),
        (("--visualize_mode", "pca"), "no flag --visualize_mode: did you mean --visualize-mode?"),
        (("--visualize-layers", "17,"), "no layer '': this model has layers 0 to 24"),
        (("--visualize-mode", "pca"), "--visualize-mode does nothing without --visualize-layers"),
        ((*LAYERS, "--visualize-boxes=1"), "--visualize-boxes takes no value"),
        ((*LAYERS, "--visualize-channels", ""), "channels '' are not understood"),
        ((*LAYERS, "--visualize-channels", "60-70"), "no channel 70: this layer has channels 0 to 63"),
        ((*LAYERS, "--visualize-cmap", "virids"), "no colour map 'virids'"),
        ((*LAYERS, "--visualize-dpi", "many"), "dpi 'many' is not a whole number"),
        ((*LAYERS, "--visualize-format", "bmp"), "take one or more of png, pdf"),
        ((*LAYERS, "--visualize-norm", "z"), "take one of channel, layer"),
        ((*LAYERS, "--weights", "nope.pt"), "no weights at nope.pt"),
        ((*LAYERS, "--weights", "best.onnx"), "exported model (ONNX)"),
        ((*LAYERS, "--weights", "best.engine"), "exported model (TensorRT)"),
        ((*LAYERS, "--weights", "half.pt"), "half.pt is not a PyTorch checkpoint, or is damaged"),
        ((*LAYERS, "--weights", "text.pt"), "text.pt is not a PyTorch checkpoint"),
        ((*LAYERS, "--yolov5", "empty"), "holds no YOLOv5"),
        ((*LAYERS, "--source", "nowhere"), "no source nowhere"),
        ((*LAYERS, "--source", "empty"), "source empty holds no image"),
        ((*LAYERS, "--source", "text.pt"), "source text.pt holds no image"),
        ((*LAYERS, "--source", "empty/*.jpg"), "holds no image"),
        ((*LAYERS, "--source", "broken"), "holds no image that can be read: x.jpg is damaged"),
        ((*LAYERS, "--project", "/proc/none"), "cannot write into /proc/none"),
        ((*LAYERS, "--visualize-dir", "text.pt/x"), "cannot write into text.pt/x"),
    ],
)
def test_bad_input(flags, says, tmp_path, monkeypatch, capfd):
    """In this process, since Python takes seconds to start; :func:`test_bad_input_of_the_program` is the real thing."""
    before = bad_files(tmp_path)
    weights = () if "--weights" in flags else ("--weights", str(WEIGHTS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["detect.py", *weights, *flags])
    assert launch(ROOT) == 2
    refused(*capfd.readouterr(), says)
    assert files_below(tmp_path) == before and not (tmp_path / "runs").exists()


def test_bad_input_of_the_program(tmp_path):
    before = bad_files(tmp_path)
    done = run("--weights", WEIGHTS, "--visualize-layers", "99", cwd=tmp_path, check=2)
    refused(done.stdout, done.stderr, "no layer 99: this model has layers 0 to 24")
    assert files_below(tmp_path) == before and not (tmp_path / "runs").exists()


def bad_files(folder):
    for name in ("empty", "broken"):
        (folder / name).mkdir()
    (folder / "broken" / "x.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    (folder / "half.pt").write_bytes(WEIGHTS.read_bytes()[:1_000_000])
    for name in ("text.pt", "best.onnx", "best.engine"):
        (folder / name).write_text("text")
    return files_below(folder)


def refused(out, err, says):
    errors = [line for line in err.splitlines() if not line.startswith("yolov5-featviz: 0")]
    assert len(errors) == 1 and says in errors[0], err
    assert out == ""


def test_no_yolov5_at_all(tmp_path):
    """As if the package were not installed: the launcher says the two ways to get it."""
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "from importlib import metadata\n"
        "real = metadata.distribution\n"
        "def distribution(name):\n"
        "    if name == 'yolov5': raise metadata.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "metadata.distribution = distribution\n"
    )
    done = run("--weights", WEIGHTS, *LAYERS, cwd=tmp_path, check=2, env={"PYTHONPATH": str(hide)})
    assert len(done.stderr.splitlines()) == 1
    assert "--yolov5" in done.stderr and "pip install" in done.stderr


def test_a_script_that_draws_nothing_says_so(checkout, tmp_path):
    script = checkout / "idle.py"
    script.write_text("print('idle')\n")
    try:
        done = run("-m", "yolov5_featviz", "run", script, *LAYERS, cwd=tmp_path, script=None, check=1)
    finally:
        script.unlink()
    assert "nothing was drawn" in done.stderr


def test_full_disk(tmp_path, images):
    """No file may grow past 150 kB: YOLOv5's own results fit, the pictures do not."""
    small = tmp_path / "small.jpg"
    cv2.imwrite(str(small), cv2.resize(cv2.imread(str(images / "bus.jpg")), (96, 128)))
    limit = (
        "import resource, signal, sys, runpy\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"
        f"sys.argv = sys.argv[1:]; runpy.run_path({str(ROOT / 'detect.py')!r}, run_name='__main__')\n"
    )
    words = ("-c", limit, ROOT / "detect.py", "--weights", WEIGHTS, "--source", small, "--imgsz", "640", "--save-txt")
    done = run(*words, "--visualize-layers", "0,23", cwd=tmp_path, script=None, check=1)
    assert "could not save: [Errno 27]" in done.stderr
    assert "Traceback" not in done.stderr
    written = files_below(tmp_path / RUN)
    assert "small/stage0_Conv_features.png" not in written
    assert not [f for f in written if f.endswith(".part")]
    assert "small.jpg" in written


def test_interrupt(tmp_path, images):
    """Ctrl-C in the middle: what is there is whole."""
    source = tmp_path / "in"
    source.mkdir()
    for i in range(300):
        (source / f"{i:03d}.jpg").symlink_to(images / "bus.jpg")
    words = [sys.executable, str(ROOT / "detect.py"), "--weights", str(WEIGHTS), "--source", str(source), *LAYERS]
    process = subprocess.Popen(
        words,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # in the background of a script, where CI may run this, the signal is ignored and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.time() + 60
    while not (tmp_path / RUN / "004").exists() and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors and "KeyboardInterrupt" not in errors
    last = errors.splitlines()[-1]
    assert last.startswith("yolov5-featviz: interrupted; ") and f" pictures written in {RUN}; open {RUN}/" in last
    pictures = [f for f in files_below(tmp_path / RUN) if "stage" in f]
    assert len(pictures) >= 3 and all(f.endswith("_features.png") for f in pictures)
    for picture in pictures:
        Image.open(tmp_path / RUN / picture).load()
    page = (tmp_path / RUN / "index.html").read_text(encoding="utf-8")
    assert page.endswith("</html>\n") and 3 <= page.count('<li data-index="') <= len(pictures)
    assert not [f for f in files_below(tmp_path / RUN) if f.endswith(".part")]
