"""Other scripts, other sources, and YOLOv5s that their authors have changed."""

import shutil
import signal
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from helpers import WEIGHTS, files_below, run

import yolov5_featviz as fv
from yolov5_featviz.yolov5.script.watcher import Watcher
from yolov5_featviz.yolov5.source import Source

pytestmark = pytest.mark.slow

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
TRUSTED = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "YOLOv5_AUTOINSTALL": "false", **ONE_THREAD}
THROUGH_US = ("-m", "yolov5_featviz", "run")

# A script of YOLOv5 alone: what layer 17 puts out in each pass on more than zeros, as its n-th argument says.
ALONE = """
import runpy, sys
import numpy as np, torch
passes = []
def hook(module, args, output):
    if vars(module).get("i") == 17 and "f" in vars(module) and not module.training:
        passes.append(output.detach().numpy().copy())
torch.nn.modules.module.register_module_forward_hook(hook)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
np.savez("passes.npz", *passes)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory, images):
    """A data set of two images, labelled with what the demo checkpoint finds on them."""
    root = tmp_path_factory.mktemp("data")
    run("--weights", WEIGHTS, "--save-txt", "--nosave", cwd=root)
    (root / "runs" / "detect" / "exp" / "labels").rename(root / "labels")
    (root / "images").mkdir()
    for name in ("bus", "zidane"):
        shutil.copy(images / f"{name}.jpg", root / "images")
    (root / "data.yaml").write_text(f"train: {root}/images\nval: {root}/images\nnc: 6\nnames: [a, b, c, d, e, f]\n")
    return root


def alone(script, *words, cwd):
    """The passes of ``ALONE``. YOLOv5 by itself fetches a font when it finds none."""
    (cwd / "alone.py").write_text(ALONE)
    (cwd / "settings").mkdir()
    shutil.copy(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", cwd / "settings" / "Arial.ttf")
    run(script, *words, cwd=cwd, script=cwd / "alone.py", env={**TRUSTED, "YOLOV5_CONFIG_DIR": str(cwd / "settings")})
    return list(np.load(cwd / "passes.npz").values())


@pytest.mark.parametrize("limit", [None, 1])
def test_validation(limit, checkout, data, tmp_path):
    words = ("--weights", WEIGHTS, "--data", data / "data.yaml", "--img", "320", "--save-txt", "--save-conf")
    ours = ("--visualize-layers", "17", "--visualize-format", "png,npy")
    ours += ("--visualize-limit", limit) if limit else ()
    run(*THROUGH_US, checkout / "val.py", *words, "--project", "ours", *ours, cwd=tmp_path, script=None, env=ONE_THREAD)
    expected = alone(checkout / "val.py", *words, "--project", "alone", cwd=tmp_path)[-1]
    order = ("zidane", "bus")  # by their aspect ratio
    for i, name in enumerate(order[:limit]):
        folder = tmp_path / "ours" / "exp" / name
        assert files_below(folder) == ["stage17_C3_features.npy", "stage17_C3_features.png"]
        np.testing.assert_array_equal(np.load(folder / "stage17_C3_features.npy"), expected[i])
        label = Path("exp") / "labels" / f"{name}.txt"
        assert (tmp_path / "ours" / label).read_bytes() == (tmp_path / "alone" / label).read_bytes()
    assert len(list((tmp_path / "ours" / "exp").rglob("*.npy"))) == (limit or 2)


def test_training(checkout, data, tmp_path):
    """Every second epoch and the last, each validation image once; the numbers of the training stay what they are."""
    words = ("--weights", "", "--cfg", "yolov5n.yaml", "--data", data / "data.yaml", "--img", "64", "--epochs", "4")
    words += ("--batch-size", "2", "--workers", "0", "--noplots")
    ours = ("--visualize-layers", "17", "--visualize-every", "2", "--visualize-format", "npy")
    run(
        *THROUGH_US,
        checkout / "train.py",
        *words,
        "--project",
        "ours",
        *ours,
        cwd=tmp_path,
        script=None,
        env=ONE_THREAD,
    )
    passes = alone(checkout / "train.py", *words, "--project", "alone", cwd=tmp_path)
    results = Path("exp") / "results.csv"
    assert (tmp_path / "ours" / results).read_bytes() == (tmp_path / "alone" / results).read_bytes()
    found = [f for f in files_below(tmp_path / "ours" / "exp") if "features" in f]
    assert found == [f"epoch00{e}/{name}/stage17_C3_features.npy" for e in (0, 2, 3) for name in ("bus", "zidane")]
    passes = [p for p in passes if len(p) == 2 and p.any()]
    for epoch in (0, 2, 3):
        dumped = [
            np.load(tmp_path / "ours" / "exp" / f"epoch00{epoch}/{name}/stage17_C3_features.npy")
            for name in ("zidane", "bus")
        ]
        np.testing.assert_array_equal(dumped, passes[epoch])


def test_a_training_is_told_of_a_wrong_layer_at_once(checkout, data, tmp_path):
    words = ("--weights", "", "--cfg", "yolov5n.yaml", "--data", data / "data.yaml", "--img", "64", "--epochs", "9")
    words += ("--visualize-layers", "99", "--project", "runs", "--workers", "0")
    done = run(*THROUGH_US, checkout / "train.py", *words, cwd=tmp_path, script=None, check=2)
    assert "error: no layer 99" in done.stderr.splitlines()[-1]
    assert "0/8" not in done.stderr.splitlines()[-1] and not list(tmp_path.rglob("*.pt"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two films of twenty frames, one dark, one light, in folders of their own but of one name."""
    root = tmp_path_factory.mktemp("videos")
    for folder, grey in (("dark", 30), ("light", 220)):
        (root / folder).mkdir()
        film = cv2.VideoWriter(str(root / folder / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (160, 96))
        for _ in range(20):
            film.write(np.full((96, 160, 3), grey, np.uint8))
        film.release()
    return root


def test_a_video(videos, tmp_path):
    words = ("--weights", WEIGHTS, "--source", videos / "dark" / "film.avi", "--img", "160", "--nosave")
    run(*words, "--visualize-layers", "17", "--visualize-every", "9", cwd=tmp_path)
    found = [f for f in files_below(tmp_path / "runs/detect/exp") if "stage" in f]
    assert sorted(found) == [f"film_{frame}/stage17_C3_features.png" for frame in (1, 10, 19)]


CAMERA = """
import cv2, time
class Camera(cv2.VideoCapture):  # a film's frames come as slowly as a camera's
    def grab(self):
        time.sleep(0.3)
        return super().grab()
cv2.VideoCapture = Camera
"""


def test_several_streams(videos, checkout, tmp_path):
    """A batch holds an image of each stream; its map must come out under that stream's name."""
    (tmp_path / "films.streams").write_text("".join(f"{videos}/{name}/film.avi\n" for name in ("dark", "light")))
    words = ("--weights", WEIGHTS, "--source", "films.streams", "--img", "160", "--nosave", "--project")
    ours = ("--visualize-layers", "0", "--visualize-format", "npy", "--visualize-limit", "2")
    (tmp_path / "sitecustomize.py").write_text(CAMERA)
    environment = {"PYTHONPATH": str(tmp_path)}
    for turn in range(8):
        # YOLOv5's threads go on reading films that have ended; alone, too, it often dies of them (SIGSEGV)
        command = (*THROUGH_US, checkout / "detect.py", *words, f"runs{turn}", *ours)
        done = run(*command, cwd=tmp_path, script=None, env=environment, check=None)
        # OpenCV writes there, too, and may begin a line that ours then ends
        told = f"yolov5-featviz: 2 feature maps in runs{turn}/exp: film_0_0/, film_1_0/" in done.stderr
        if told or done.returncode != -signal.SIGSEGV:
            break
    assert told, done.stderr
    found = [f for f in files_below(tmp_path / f"runs{turn}" / "exp") if "stage" in f]
    assert found == [f"film_{i}_0/stage0_Conv_features.npy" for i in (0, 1)]
    model = fv.load(WEIGHTS).model[0]
    with torch.no_grad():
        expected = [model(torch.full((1, 3, 96, 160), grey / 255))[0].mean((1, 2)).numpy() for grey in (30, 220)]
    for i, file in enumerate(found):
        dumped = np.load(tmp_path / f"runs{turn}" / "exp" / file).mean((1, 2))
        own, other = (np.abs(dumped - expected[k]).max() for k in (i, 1 - i))
        assert own < other / 5


def test_several_weights_and_six_levels(checkout, images, tmp_path):
    """An ensemble has a folder for each of its weights; a P6 model feeds its head from four layers."""
    script = tmp_path / "build.py"
    script.write_text(
        "import sys, torch; sys.path.insert(0, sys.argv[1])\n"
        "from models.yolo import Model\n"
        "model = Model(sys.argv[1] + '/models/hub/yolov5n6.yaml', nc=6); model.names = list('abcdef')\n"
        "torch.save({'model': model.half()}, 'p6.pt')\n"
    )
    run(checkout, cwd=tmp_path, script=script)
    shutil.copy(WEIGHTS, tmp_path / "copy.pt")
    words = ("--weights", WEIGHTS, "copy.pt", "--source", images / "bus.jpg", "--img", "320", "--project", "runs")
    run(*THROUGH_US, checkout / "detect.py", *words, "--visualize-layers", "9", cwd=tmp_path, script=None)
    found = [f for f in files_below(tmp_path / "runs" / "exp") if "stage" in f]
    assert found == [f"bus/{name}/stage9_SPPF_features.png" for name in ("best", "copy")]

    words = ("--weights", "p6.pt", "--source", images / "bus.jpg", "--img", "320", "--project", "runs", "--half")
    run(*THROUGH_US, checkout / "detect.py", *words, "--visualize-layers", "detect", cwd=tmp_path, script=None)
    found = [f for f in files_below(tmp_path / "runs" / "exp2") if "stage" in f]
    assert found == [f"bus/stage{i}_C3_features.png" for i in (23, 26, 29, 32)]


def test_augmentation_is_turned_back(checkout, images, tmp_path):
    """The flipped pass, flipped back, lies as the others do: near to the map of the unflipped image at that scale."""
    words = ("--weights", WEIGHTS, "--source", images / "bus.jpg", "--project", "runs", "--augment")
    ours = ("--visualize-layers", "17", "--visualize-format", "npy")
    run(*THROUGH_US, checkout / "detect.py", *words, *ours, cwd=tmp_path, script=None, env=ONE_THREAD)
    passes = alone(checkout / "detect.py", *words[:-3], "--project", "alone", "--augment", cwd=tmp_path)[-3:]
    for name, expected in zip(("scale1.00", "scale0.83_flipped", "scale0.67"), passes):
        dumped = np.load(tmp_path / "runs" / "exp" / "bus" / name / "stage17_C3_features.npy")
        expected = expected[0, :, :, ::-1] if "flipped" in name else expected[0]
        np.testing.assert_array_equal(dumped, expected)


def test_augmentation_by_another_name(checkout, images, tmp_path):
    """Where no pass has a name that is known, the last is drawn as what it is, and that is said."""
    fork = tmp_path / "fork"
    shutil.copytree(checkout, fork)
    file = fork / "models" / "yolo.py"
    file.write_text(file.read_text().replace("_forward_once", "_one_pass"))
    words = ("--weights", WEIGHTS, "--source", images / "bus.jpg", "--project", "runs", "--augment")
    ours = ("--visualize-layers", "17", "--visualize-format", "npy", "--visualize-report", "off")
    done = run(*THROUGH_US, fork / "detect.py", *words, *ours, cwd=tmp_path, script=None, env=ONE_THREAD)
    assert "passes at several scales cannot be separated: only the last one is drawn" in done.stderr
    expected = alone(fork / "detect.py", *words[:-3], "--project", "alone", "--augment", cwd=tmp_path)[-1]
    (file,) = [file for file in files_below(tmp_path / "runs" / "exp") if file.endswith(".npy")]
    np.testing.assert_array_equal(np.load(tmp_path / "runs" / "exp" / file), expected[0])


FORK = """
import torch
from torch import nn
from models.yolo import DetectionModel

class Face(DetectionModel):
    def forward(self, x, task="train"):
        if isinstance(x, dict):
            x = x["image"]
        found = self.{loop}(task, x)
        return found if self.training else (*found, "extra")

    def {loop}(self, task, x, keep=None):
        outputs = []
        for layer in self.model:
            given = [layer.f] if isinstance(layer.f, int) else layer.f
            given = [outputs[i] if outputs else x for i in given]
            outputs.append(layer(given if len(given) > 1 else given[0]))
        return outputs[-1]
"""

FORK_MODULES = """

class Wide(nn.Module):
    def forward(self, x):
        return {"fine": x, "coarse": nn.functional.max_pool2d(x, 2)}

class Fine(nn.Module):
    def forward(self, x):
        return x["fine"]
"""

FORK_YAML = """
nc: 3
depth_multiple: 1.0
width_multiple: 1.0
anchors: [[10, 13, 16, 30], [30, 61, 62, 45]]
backbone: [[-1, 1, Conv, [16, 3, 2]], [-1, 1, Wide, []], [-1, 1, Fine, []], [-1, 1, C3, [16]]]
head: [[-1, 1, Conv, [32, 3, 2]], [[3, 4], 1, Detect, [nc, anchors]]]
"""

FORK_SCRIPT = """
import sys, torch, cv2
from pathlib import Path
sys.path.append(str(Path(__file__).resolve().parents[1]))
from models.experimental import attempt_load

def read(picture):
    return torch.from_numpy(cv2.resize(cv2.imread(picture), (160, 96)).transpose(2, 0, 1)[None].copy()).float() / 255

def look_at(model, picture):
    x = read(picture)
    print("FOUND", len(model({"image": x} if "--dictionary" in sys.argv else x, task="faces")))

def main(weights, folder):
    model = attempt_load(weights)
    model(torch.zeros(1, 3, 96, 160), task="warm-up")
    for picture in sorted(Path(folder).glob("*.jpg")):
        look_at(model, str(picture))

if __name__ == "__main__":
    main(sys.argv[sys.argv.index("--weights") + 1], sys.argv[sys.argv.index("--pictures") + 1])
"""

FORK_BUILD = """
import sys, torch
import numpy as np
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tools"]
from models.faces import Face
from find_faces import read
torch.manual_seed(0)
model = Face(sys.argv[1] + "/models/faces.yaml")
torch.save({"model": model}, "fork.pt")
model.eval()
with torch.no_grad():
    first = model.model[0](read(sys.argv[2]))
np.save("first.npy", first[0].numpy())
"""


@pytest.mark.parametrize(("loop", "flags"), [("forward_once", []), ("run_everything", ["--dictionary"])])
def test_a_fork(loop, flags, checkout, images, tmp_path):
    """A model class, modules, a signature, a loop and a script of its own, which reads its images by itself."""
    root = tmp_path / "fork"
    shutil.copytree(checkout, root)
    with (root / "models" / "common.py").open("a") as common:
        common.write(FORK_MODULES)
    (root / "models" / "faces.py").write_text(FORK.replace("{loop}", loop))
    (root / "models" / "faces.yaml").write_text(FORK_YAML)
    (root / "tools").mkdir()
    (root / "tools" / "find_faces.py").write_text(FORK_SCRIPT)
    (tmp_path / "build.py").write_text(FORK_BUILD)
    run(root, images / "bus.jpg", cwd=tmp_path, script=tmp_path / "build.py", env=ONE_THREAD)
    words = ("--weights", "fork.pt", "--pictures", images, *flags)
    ours = ("--visualize-layers", "0,1,c3", "--visualize-format", "npy")
    script = root / "tools" / "find_faces.py"
    done = run(*THROUGH_US, script, *words, *ours, cwd=tmp_path, script=None, env=ONE_THREAD)
    assert done.stdout.splitlines() == ["FOUND 3", "FOUND 3"]
    stems = ["stage0_Conv", "stage1_Wide_levelcoarse", "stage1_Wide_levelfine", "stage3_C3"]
    found = [f for f in files_below(tmp_path / "runs") if "stage" in f]
    assert found == [f"featviz/exp/{name}/{stem}_features.npy" for name in ("bus", "zidane") for stem in stems]
    dumped = np.load(tmp_path / "runs" / "featviz" / "exp" / "bus" / "stage0_Conv_features.npy")
    np.testing.assert_allclose(dumped, np.load(tmp_path / "first.npy"), rtol=1e-4, atol=1e-5)  # it was fused


IN_PYTHON = """
import sys, torch
import yolov5_featviz as fv
root, weights, images = sys.argv[1:4]
real = torch.load
with fv.compatible(root):
    hub = torch.hub.load(root, "custom", weights, source="local", verbose=False)
    from models.experimental import attempt_load
    plain = attempt_load(weights)
assert torch.load is real
for model in (hub, plain):
    inner = next(m for m in model.modules() if type(m).__name__ == "DetectionModel")
    seen = []
    handle = inner.model[17].register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    with fv.capture(model, "17,20,detect") as features, torch.no_grad():
        if model is hub:
            model([images + "/bus.jpg", images + "/zidane.jpg"], size=320)
        else:
            model(torch.rand(2, 3, 320, 320))
    handle.remove()
    assert torch.equal(features.get(17, image=1).data, seen[-1][1])
    assert len(features) == 6
print("EQUAL")
"""


def test_yolov5s_own_loaders(checkout, images, tmp_path):
    """torch hub and ``attempt_load``, under a torch that refuses what they do by themselves."""
    (tmp_path / "load.py").write_text(IN_PYTHON)
    done = run(checkout, WEIGHTS, images, cwd=tmp_path, script=tmp_path / "load.py")
    assert done.stdout.splitlines()[-1] == "EQUAL"


def test_the_packages_own_loader(images, tmp_path):
    (tmp_path / "load.py").write_text(
        "import sys, torch, yolov5, yolov5_featviz as fv\n"
        "with fv.compatible():\n"
        "    model = yolov5.load(sys.argv[1])\n"
        "with fv.capture(model, '17') as features:\n"
        "    model(sys.argv[2], size=320)\n"
        "print(*features[17].data.shape)\n"
    )
    done = run(WEIGHTS, images / "bus.jpg", cwd=tmp_path, script=tmp_path / "load.py")
    assert done.stdout.splitlines()[-1] == "64 40 32"


def test_a_script_that_is_named_from_inside_its_checkout(tmp_path, monkeypatch):
    """``run train.py``: Python knows such code by a bare name, and still its variables tell the epoch."""
    monkeypatch.chdir(tmp_path)
    watcher = Watcher(Source(tmp_path, "test"), "17", lambda *_: None, print)
    script = "def train(epochs):\n    for epoch in range(epochs):\n        found.append(watcher._epoch())\ntrain(2)\n"
    for name, seen in (("train.py", [(0, False), (1, True)]), ("<string>", [(None, False)] * 2)):
        found = []
        exec(compile(script, name, "exec"), {"watcher": watcher, "found": found})
        assert found == seen
