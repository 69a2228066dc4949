"""The diff that adds our flags to a fork's own detect.py, and the command that applies it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, WEIGHTS, files_below, run
from releases import ALONE, BUILD, CHECKOUTS, RELEASES, SITE, WHEELS

from yolov5_featviz import cli
from yolov5_featviz.cli.parser import run_flags
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.yolov5 import handover
from yolov5_featviz.yolov5.fork_patch import diff, insert, patch, remove
from yolov5_featviz.yolov5.script.execute import Script

pytestmark = pytest.mark.slow

DIFF = ROOT / "patches" / "detect.diff"
HUNK = [line[1:] for line in DIFF.read_text().splitlines() if line.startswith("+") and not line.startswith("+++")]
SCRIPTS = [WHEELS / release / "yolov5" / "detect.py" for release in RELEASES]
SCRIPTS += [checkout / "detect.py" for checkout in CHECKOUTS]


def git(*words, cwd):
    # no repository around cwd is meant, and nobody's settings
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(cwd.parent), "GIT_CONFIG_GLOBAL": os.devnull}
    words = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *map(str, words)]
    return subprocess.run(words, cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout


def lay(folder, content):
    """As little of a checkout as is one."""
    (folder / "models").mkdir(parents=True)
    (folder / "utils").mkdir()
    (folder / "models" / "yolo.py").touch()
    (folder / "detect.py").write_bytes(content)
    return folder / "detect.py"


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.parent.parent.name + "/" + path.parent.name for path in SCRIPTS])
def test_one_diff_fits_every_release(script, tmp_path):
    """By the command, by git and by patch: the same bytes; taken out, the bytes of before."""
    before = script.read_bytes()
    ours = lay(tmp_path / "ours", before)
    ours.chmod(0o755)
    assert patch(str(ours.parent)).endswith("now takes --visualize-layers")
    after = ours.read_bytes()
    assert (
        after.decode().split("\n")
        == [  # nothing but the added lines
            *before.decode().split("import argparse\n")[0].split("\n")[:-1],
            *HUNK,
            *("import argparse\n" + before.decode().split("import argparse\n")[1]).split("\n"),
        ]
    )
    assert patch(str(ours.parent)).endswith("already patched") and ours.read_bytes() == after
    for tool in (["git", "apply"], ["patch", "-s", "-p1", "--no-backup-if-mismatch", "-i"]):
        if not shutil.which(tool[0]):
            continue  # git is a requirement of this project, patch is not
        theirs = lay(tmp_path / tool[0], before)
        env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path)}
        subprocess.run([*tool, str(DIFF)], cwd=theirs.parent, env=env, check=True)
        assert theirs.read_bytes() == after
        subprocess.run([tool[0], tool[1], "-R", *tool[2:], str(DIFF)], cwd=theirs.parent, env=env, check=True)
        assert theirs.read_bytes() == before
        assert files_below(theirs.parent) == ["detect.py", "models/yolo.py"]
    assert patch(str(ours.parent), reverse=True).endswith("patch removed") and ours.read_bytes() == before
    assert patch(str(ours.parent), reverse=True).endswith("no patch to remove") and ours.read_bytes() == before
    assert ours.stat().st_mode & 0o777 == 0o755
    assert files_below(ours.parent) == ["detect.py", "models/yolo.py"]


def test_line_endings_are_kept(tmp_path):
    """As Windows has them: what git makes of the diff where it turns line endings."""
    before = SCRIPTS[-1].read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    ours, theirs = lay(tmp_path / "ours", before), lay(tmp_path / "theirs", before)
    for words in (("init", "-q"), ("config", "core.autocrlf", "true"), ("add", "-A"), ("commit", "-qm", "x")):
        git(*words, cwd=theirs.parent)
    git("apply", DIFF, cwd=theirs.parent)
    patch(str(ours.parent))
    assert ours.read_bytes() == theirs.read_bytes()
    assert ours.read_bytes().count(b"\r\n") == ours.read_bytes().count(b"\n") == before.count(b"\n") + len(HUNK)
    patch(str(ours.parent), reverse=True)
    assert ours.read_bytes() == before


def test_edits_elsewhere_stay(tmp_path):
    """Those that were there, and those made since; however close they are to the added lines."""
    before = b"# mine\nimport os\nimport argparse\nprint(os)  # mine too, and no end of line"
    script = lay(tmp_path / "fork", before)
    patch(str(script.parent))
    script.write_bytes(b"# more\n" + script.read_bytes().replace(b"import argparse", b"import csv\nimport argparse"))
    patch(str(script.parent), reverse=True)
    assert script.read_bytes() == b"# more\n" + before.replace(b"import argparse", b"import csv\nimport argparse")


def test_applied_twice_by_hand_comes_out_whole(tmp_path):
    script = lay(tmp_path / "fork", b"import argparse\n")
    git("apply", DIFF, cwd=script.parent)
    git("apply", DIFF, cwd=script.parent)
    assert script.read_bytes().count(b"hand_over(__file__)") == 2
    patch(str(script.parent), reverse=True)
    assert script.read_bytes() == b"import argparse\n"


def test_a_link_stays_one(tmp_path):
    script = lay(tmp_path / "fork", b"import argparse\n")
    script.rename(tmp_path / "mine.py")
    script.symlink_to(tmp_path / "mine.py")
    patch(str(script.parent))
    assert script.is_symlink() and len((tmp_path / "mine.py").read_text().splitlines()) == len(HUNK) + 1


PATCHED = "\n".join([*HUNK, "import argparse", ""])
EDITED = PATCHED.replace("sys.exit(2)", "sys.exit(3)")


@pytest.mark.parametrize(
    ("content", "reverse", "says"),
    [
        (
            "import argparse, os\n",
            False,
            "does not fit: the line 'import argparse', before which it goes, is missing",
        ),
        ("import argparse\nimport argparse\n", False, "occurs 2 times"),
        (
            '"""\nimport argparse\n"""\nfrom argparse import *\n',
            False,
            "'import argparse' in line 2 is not a statement",
        ),
        ("import argparse\nif:\n", False, "is not Python: invalid syntax (<unknown>, line 2)"),
        ('import argparse\nx = "--visualize-cam"\n', False, "has --visualize-cam of its own"),
        ("import argparse\nx = '--yolov5'\n", False, "has --yolov5 of its own"),
        (EDITED, False, "the patch in line 1 was edited: restore it as in"),
        (EDITED, True, "the patch in line 1 was edited: restore it as in"),
        (PATCHED + EDITED, True, f"the patch in line {len(HUNK) + 2} was edited"),
    ],
)
def test_where_it_does_not_fit(content, reverse, says, tmp_path, capsys):
    """One line that names the file, exit code 2, and the file as it was."""
    script = lay(tmp_path / "fork", content.encode())
    stamp = script.stat().st_mtime_ns
    assert cli.main(["patch", str(script.parent), *["--reverse"] * reverse]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"yolov5-featviz: error: {script}: ") and says in line
    assert script.read_text() == content and script.stat().st_mtime_ns == stamp
    assert files_below(script.parent) == ["detect.py", "models/yolo.py"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "required: CHECKOUT"),
        (["--upgrade", "fork"], "no flag --upgrade"),
        (["nowhere"], "nowhere holds no YOLOv5: there is no models/yolo.py in it"),
        (["."], "holds no YOLOv5: there is no models/yolo.py in it"),
        (["empty"], "detect.py: No such file or directory"),
        (["site-packages/yolov5"], "site-packages/yolov5 is an installed package, not a checkout"),
        ([str(SCRIPTS[0].parent)], "is an installed package, not a checkout"),
    ],
)
def test_what_cannot_be_patched(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lay(tmp_path / "site-packages" / "yolov5", b"import argparse\n")
    (tmp_path / "site-packages" / "yolov5-7.0.0.dist-info").mkdir()
    lay(tmp_path / "empty", b"").unlink()
    assert cli.main(["patch", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_a_full_disk_leaves_the_script_whole(tmp_path, monkeypatch):
    script = lay(tmp_path / "fork", b"import argparse\n")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FeatvizError, match=r"cannot patch .*detect\.py: No space left on device"):
        patch(str(script.parent))
    assert script.read_bytes() == b"import argparse\n"
    assert files_below(script.parent) == ["detect.py", "models/yolo.py"]


def added_lines(monkeypatch, *words, name="__main__"):
    """Run the lines that the diff adds, with ``words`` on the line."""
    monkeypatch.setattr(sys, "argv", ["detect.py", *words])
    exec("\n".join(HUNK), {"__name__": name, "__file__": "detect.py"})


def handed_over(monkeypatch, *words, name="__main__"):
    """Whether the added lines hand over with ``words`` on the line."""
    calls = []
    with monkeypatch.context() as context:
        context.setattr(handover, "hand_over", calls.append)
        added_lines(context, *words, name=name)
    assert calls in ([], ["detect.py"])
    return bool(calls)


def test_which_flags_hand_over(monkeypatch):
    """All of ours, help, and none of YOLOv5's in any release."""
    for flag in [*run_flags()._option_string_actions, "-h", "--help", "--visualize-layers=17"]:
        assert handed_over(monkeypatch, "--weights", "x.pt", flag)
        assert not handed_over(monkeypatch, flag, name="detect")
    theirs = {flag for script in SCRIPTS for flag in re.findall(r"['\"](--[\w-]+)['\"]", script.read_text())}
    assert len(theirs) > 25 and "--visualize" in theirs
    assert not handed_over(monkeypatch, *theirs)


@pytest.mark.parametrize("words", [["--", "--visualize-layers", "17"], ["--source", "--yolov5-list.txt"]])
def test_hand_over_returns_where_nothing_is_ours(words, monkeypatch):
    assert handed_over(monkeypatch, *words)
    monkeypatch.setattr(sys, "argv", ["detect.py", *words])
    monkeypatch.setattr(handover, "run_script", None)  # to call it is an error
    handover.hand_over("detect.py")


def test_where_we_are_not_installed(monkeypatch, capsys):
    """Help, and all that is YOLOv5's own, is left to YOLOv5; a flag of ours gets the line to type."""
    monkeypatch.setitem(sys.modules, "yolov5_featviz.yolov5.handover", None)
    added_lines(monkeypatch, "--weights", "best.pt", "--help")
    assert capsys.readouterr() == ("", "")
    with pytest.raises(SystemExit) as stop:
        added_lines(monkeypatch, "--weights", "best.pt", "--visualize-layers", "17", "--help")
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"--visualize-layers needs {sys.executable} -m pip install path/to/yolov5-featviz (")


def test_a_mistake_in_a_flag_is_told(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        added_lines(monkeypatch, "--visualize-layer", "17")
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "yolov5-featviz: error: no flag --visualize-layer: did you mean --visualize-layers?\n"
    )


def test_hand_over_returns_where_it_is_run_by_us(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["detect.py", "--help"])
    monkeypatch.setitem(sys.modules, "__main__", Script("__main__"))
    monkeypatch.setattr(handover, "run_script", None)
    handover.hand_over("detect.py")


ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
NAMES = ("bus", "zidane")
STAGES = [f"stage{i}_%s_features.png" for i in (17, 20, 23)]


# At YOLOv5's own thresholds a model at random weights detects everywhere or nowhere, at length: this shifts its head
# so that it finds some objects, all of one class.
FEW = """
import copy, cv2
outputs = []
trial = copy.deepcopy(model).eval()
def heads(model):  # v1.0 keeps them among the layers
    detect = model.model[-1]
    return getattr(detect, "m", None) or [model.model[i % detect.i] for i in detect.f]
for head in heads(trial):
    head.register_forward_hook(lambda module, args, output: outputs.append(output.detach()))
image = cv2.imread(sys.argv[4])[:640, :640]
trial(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float() / 255)
for head, output in zip(heads(model), outputs):
    objectness = output[0].view(3, -1, *output.shape[2:])[:, 4].flatten(1)
    scale = 2 / objectness.std(1)
    weight, bias = head.weight.data.view(3, -1, head.in_channels), head.bias.data.view(3, -1)
    weight[:, 4] *= scale[:, None]
    bias[:, 4] = 1 - scale * objectness.topk(5).values[:, -1]
    bias[:, 5:] = -9
    bias[:, 5] = 9
"""


def two_copies(root, weights, tmp_path):
    """A checkout as it is and a patched one, both with ``best.pt`` in them, under git."""
    folders = tmp_path / "plain", tmp_path / "patched"
    for folder in folders:
        shutil.copytree(root, folder, ignore=shutil.ignore_patterns("__pycache__", "runs", ".git", "*.pt"))
        shutil.copy(weights, folder / "best.pt")
        (folder / ".gitignore").write_text("runs/\ninference/output/\n__pycache__/\n")  # as YOLOv5's own
        for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "x")):
            git(*words, cwd=folder)
    run("-m", "yolov5_featviz", "patch", ".", cwd=folders[1], script=None)
    assert git("status", "--porcelain", cwd=folders[1]) == " M detect.py\n"
    return folders


def pictures(folder):
    return sorted(f"{path.parent.name}/{path.name}" for path in folder.rglob("stage*"))


def labels(folder):
    """The newest label file of each image."""
    newest = {}
    for path in sorted(folder.rglob("*.txt"), key=lambda path: path.stat().st_mtime_ns):
        if path.stem in NAMES:
            newest[path.stem] = path.read_bytes()
    assert sorted(newest) == sorted(NAMES) and all(newest.values())
    return newest


def reversed_clean(folder, root):
    run("-m", "yolov5_featviz", "patch", folder, "--reverse", cwd=folder, script=None)
    assert git("status", "--porcelain", cwd=folder) == ""
    assert (folder / "detect.py").read_bytes() == (root / "detect.py").read_bytes()


def test_a_patched_fork(checkout, tmp_path):
    """With our flags, with none, with none where we are not installed, and asked for help."""
    plain, patched = two_copies(checkout, WEIGHTS, tmp_path)
    words = ("--weights", "best.pt", "--save-txt", "--save-conf")
    layers = ("--visualize-layers", "17,20,23")
    alone = {**ENVIRONMENT, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "YOLOv5_AUTOINSTALL": "false"}
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['yolov5_featviz'] = None")
    absent = {**alone, "PYTHONPATH": str(tmp_path)}
    run(*words, cwd=plain, script="detect.py", env=alone)

    done = run(*words, *layers, cwd=patched, script="detect.py", env=ENVIRONMENT)
    assert f"(the script's folder: {patched})" in done.stderr.splitlines()[0] and "(judging" not in done.stderr
    assert pictures(patched) == sorted(f"{name}/{stage % 'C3'}" for name in NAMES for stage in STAGES)
    assert labels(patched) == labels(plain)
    shutil.rmtree(patched / "runs")
    done = run(*words, cwd=patched, script="detect.py", env=absent)
    assert "featviz" not in done.stderr and not pictures(patched)
    assert labels(patched) == labels(plain)
    shutil.rmtree(patched / "runs")

    for words in (("detect.py",), ("-m", "yolov5_featviz", "run", "detect.py")):  # of both, and once
        out = run(*words, "--help", cwd=patched, script=None).stdout
        assert out.count("flags added by yolov5-featviz") == out.count("--conf-thres CONF_THRES\n") == 1
    reversed_clean(patched, checkout)


@pytest.mark.parametrize("root", CHECKOUTS, ids=[path.name for path in CHECKOUTS])
def test_a_patched_checkout(root, images, tmp_path):
    """Word for word, in each of the checkouts that make test-checkouts was given, and without the network."""
    import matplotlib

    site, settings = tmp_path / "site", tmp_path / "settings"
    site.mkdir()
    settings.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    (settings / "Arial.ttf").write_bytes(font.read_bytes())
    alone = {
        **ENVIRONMENT,
        "YOLOV5_CONFIG_DIR": str(settings),
        "YOLOv5_AUTOINSTALL": "false",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
    }
    (tmp_path / "build.py").write_text(BUILD.replace("model.names", f"{FEW}model.names"))
    (tmp_path / "alone.py").write_text(ALONE.format(LAYERS=(17, 20, 23)))
    run(tmp_path / "w.pt", root, "", images / "bus.jpg", cwd=tmp_path, script=tmp_path / "build.py", env=alone)
    plain, patched = two_copies(root, tmp_path / "w.pt", tmp_path)
    run(plain, "--weights", "best.pt", "--save-txt", cwd=plain, script=tmp_path / "alone.py", env=alone)
    offline = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    words = ("--weights", "best.pt", "--visualize-layers", "17,20,23")
    run(*words, cwd=patched, script="detect.py", env=offline)
    passed = [path.relative_to(plain).with_suffix(".png").as_posix() for path in plain.glob("*/stage*_features.npy")]
    assert pictures(patched) == sorted(passed) and len(passed) == 6
    run(*words, "--save-txt", cwd=patched, script="detect.py", env=offline)
    assert labels(patched) == labels(plain)
    out = run("--help", cwd=patched, script="detect.py", env=offline).stdout
    assert out.count("flags added by yolov5-featviz") == out.count("--conf-thres CONF_THRES\n") == 1
    assert not list(tmp_path.rglob("NETWORK"))
    reversed_clean(patched, root)


def test_the_wheel_holds_everything(tmp_path):
    """What pip installs patches a checkout with the diff that it carries."""
    source, target = tmp_path / "source", tmp_path / "target"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("yolov5_featviz", "patches"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-compile"]
    subprocess.run([*pip, "--no-index", "--target", str(target), str(source)], check=True)
    shutil.rmtree(source)
    expected = [f for f in files_below(ROOT / "yolov5_featviz") if "__pycache__" not in f]
    assert files_below(target / "yolov5_featviz") == sorted([*expected, "patches/detect.diff"])
    script = lay(tmp_path / "fork", b"import argparse\n")
    env = {"PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1"}
    run("-m", "yolov5_featviz", "patch", script.parent, cwd=tmp_path, script=None, env=env)
    assert script.read_bytes() == insert(b"import argparse\n") != b"import argparse\n"
    assert remove(script.read_bytes()) == b"import argparse\n"
    assert (target / "yolov5_featviz" / "patches" / "detect.diff").read_bytes() == diff().read_bytes()
