"""The command line: its tables of flags, its errors, and that help does not wait for torch."""

import dataclasses
import re
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT, run

from yolov5_featviz.attribution.cam import CAM_METHODS
from yolov5_featviz.cli import compare, entry, explain, faithfulness, figure, flags, image, layers, main, redo
from yolov5_featviz.cli.parser import split
from yolov5_featviz.cli.run import options
from yolov5_featviz.compare.options import CompareOptions
from yolov5_featviz.errors import FeatvizError
from yolov5_featviz.runs.look import FILE_FORMATS, MODES, Look
from yolov5_featviz.yolov5.explain_images import ExplainOptions
from yolov5_featviz.yolov5.measure_images import MeasureOptions
from yolov5_featviz.yolov5.script.artist import RunOptions

TABLES = {"run": flags.RUN, "image": image.FLAGS + image.DRAWN, "layers": layers.FLAGS, "compare": compare.FLAGS}
TABLES.update(figure=figure.FLAGS, redo=redo.FLAGS, explain=explain.FLAGS + explain.DRAWN)
TABLES.update(faithfulness=faithfulness.FLAGS)


def fields_of(table):
    return {name for flag in table for name in ((flag.field,) if isinstance(flag.field, str) else flag.field)}


@pytest.mark.parametrize(
    ("table", "options"),
    [
        (flags.RUN + flags.OWN_NAMES, RunOptions),
        (image.LOOK, Look),
        (compare.FLAGS, CompareOptions),
        (explain.FLAGS + flags.REPORT, ExplainOptions),
        (faithfulness.FLAGS, MeasureOptions),
    ],
)
def test_flags_set_the_fields_of_the_options(table, options):
    """Every flag a field that there is; every field a flag, but for what belongs to detections."""
    known = {field.name for field in dataclasses.fields(options)}
    assert fields_of(table) <= known
    assert known - fields_of(table) <= {Look: {"boxes"}, ExplainOptions: {"look", "folder"}}.get(options, set())


def test_help_names_the_defaults():
    """Those of the options objects, which hold for what is not given."""
    plain, compared = Look(), {field.name: field.default for field in dataclasses.fields(CompareOptions)}
    for table, default in ((flags.LOOK, lambda name: getattr(plain, name)), (compare.FLAGS, compared.get)):
        for flag in table:
            value = default(flag.field) if isinstance(flag.field, str) else default(flag.field[0])
            if flag.metavar is None or value in (None, dataclasses.MISSING, (), flags.FORMATS):
                continue
            words = value[0] if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
            named = flag.field == "width" or f"default {words}" in flag.help or f"{words} (default)" in flag.help
            assert named, (flag.name, flag.help)


def test_help_names_the_choices():
    """Of those that the table cannot import, since they need torch."""
    by_name = {flag.name: flag for flag in flags.LOOK}
    for name, choices in (("mode", MODES), ("method", CAM_METHODS), ("format", FILE_FORMATS)):
        assert all(choice in by_name[name].help for choice in choices)
    assert {mode for flag in flags.LOOK for mode in flag.modes} <= {*MODES, "report", "overlay"}


@pytest.mark.parametrize("name", [name for name in entry.COMMANDS if name != "run"])
def test_each_command_has_help_with_examples(name, capsys):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: yolov5-featviz {name} ") and "examples:" in out
    for flag in TABLES.get(name, ()):
        assert re.search(rf"(?m)^  --{flag.name}\b", out), flag.name
    for example in re.findall(r"(?m)^  (yolov5-featviz .*)", out):
        assert example.startswith(f"yolov5-featviz {name} ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "no command: take one of run, explain, faithfulness, layers, image"),
        ("runn detect.py", "no command 'runn': did you mean run?"),
        ("xyzzy", "no command 'xyzzy': see yolov5-featviz --help"),
        ("--verison", "no flag '--verison': did you mean --version?"),
        ("run", "run: give a script first"),
        ("run --weights a.pt", "run: give a script first"),
        ("run detcet.py --weights a.pt", "no script detcet.py: did you mean detect.py?"),
        ("run segment/perdict.py", "no script segment/perdict.py: did you mean segment/predict.py?"),
        ("run xyzzy.py", "no script xyzzy.py: neither here nor in"),
        ("run detect.py --weigths a.pt", "detect.py has no flag --weigths: did you mean --weights?"),
        ("run detect.py --conf_thres 0.3", "detect.py has no flag --conf_thres: did you mean --conf-thres?"),
        ("run detect.py --visualize-layer 17", "no flag --visualize-layer: did you mean --visualize-layers?"),
        ("image --model a --layers b --source c --formt png", "no flag --formt: did you mean --format?"),
        ("image --model a --layers b --source c --visualize-formt png", "no flag --visualize-formt: did you mean"),
        ("image --model a --layers b --source c d", "no argument d"),
        ("image --model a --layers b", "the following arguments are required: --source"),
        ("image --model a --layers b --source c --boxes", "`image` has no detections to draw"),
        ("compare --weights a.pt b.pt --layers 17 --source c --quiet --verbose", "take one of them"),
        ("compare --weights a.pt b.pt --layers 17 --source c --imgsz small", "--imgsz 'small' is not a whole number"),
        ("layers --weights a.pt --depth 0", "--depth 0: take 1 or more"),
        ("layers --weights a.pt --ablate", "--ablate needs images to detect something in: give --source, such as bus"),
        ("layers --weights a.pt --source a.png", "--source does nothing without --ablate"),
        ("layers --weights a.pt --conf-thres 0.5", "--conf-thres does nothing without --ablate"),
        ("layers --weights a.pt --ablate --source a.png --conf-thres 2", "--conf-thres 2: take 0 to 1"),
        ("layers --weights a.pt --ablate --source a.png --imgsz 64 96", "--imgsz 64 96: --ablate takes one size, of"),
        ("layers --weights a.pt --ablate --source b.png", "no image b.png: give a file, or a folder"),
        (
            "layers --model torchvision:resnet18 --ablate --source a.png",
            "--ablate: torchvision:resnet18 is no detector of a known family",
        ),
        ("figure a.yaml --dpi few", "dpi 'few' is not a whole number"),
        ("info a.png --jsn", "no flag --jsn: did you mean --json?"),
        ("image --model torchvision:alexnet --layers 0 --source a.png --device cuda:99", "no device 'cuda:99'"),
    ],
)
def test_mistakes_get_one_line(words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "tests/draw/golden/heatmap.png", tmp_path / "a.png")
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("yolov5-featviz: 0.")]
    assert out == "" and len(lines) == 1 and lines[0].startswith("yolov5-featviz: error: ") and says in lines[0], err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--visualize-method grad-cam", "--visualize-method does nothing here: it goes with --visualize-mode cam"),
        ("--visualize-mode pca --visualize-norm layer", "--visualize-norm does nothing here: it goes with"),
        (
            "--visualize-boxes",
            "goes with --visualize-mode heatmap, --visualize-mode cam, --visualize-mode pca or --visualize-overlay",
        ),
        ("--visualize-overlay", "--visualize-overlay does nothing here: it goes with --visualize-mode channels"),
        ("--visualize-report off --visualize-reduce l2", "--visualize-reduce does nothing here"),
        ("--visualize-mode cam --visualize-channels 3", "--visualize-channels does nothing here"),
    ],
)
def test_a_flag_that_does_nothing_is_refused(words, says):
    with pytest.raises(FeatvizError, match=re.escape(says)):
        options(split(["--visualize-layers", "17", *words.split()])[0])


@pytest.mark.parametrize(
    "words",
    [
        "--visualize-reduce l2",  # the report's heat map
        "--visualize-mode channels --visualize-overlay --visualize-alpha 0.5 --visualize-boxes",
        "--visualize-mode grid,cam --visualize-method grad-cam --visualize-target 0 --visualize-merge",
    ],
)
def test_a_flag_that_does_something_is_taken(words):
    assert options(split(["--visualize-layers", "17", *words.split()])[0]).layers == "17"


def test_image_takes_both_names(monkeypatch, tmp_path):
    """The bare ones, and those of `run`."""
    seen = []
    monkeypatch.setattr("yolov5_featviz.cli.image.zoo_model", lambda *a: type("Zoo", (), {"weights": "random"})())
    monkeypatch.setattr("yolov5_featviz.runs.images.run_images", lambda *a, **k: seen.append((a[3], a[4], k)) or 0)
    words = ["image", "--model", "torchvision:alexnet", "--layers", "0", "--source", "a.png"]
    for prefix in ("--", "--visualize-"):
        ours = "mode=heatmap cmap=gray alpha=add:0.2 dpi=200 format=pdf dir=out report=off quiet"
        assert main([*words, *(prefix + word for word in ours.split())]) == 0
    assert seen[0] == seen[1]
    look, folder, rest = seen[0]
    assert look == Look(["heatmap"], cmap="gray", alpha=0.2, blend="add", dpi=200, formats=["pdf"])
    assert (folder, rest) == ("out", {"report": False, "say": -1, "device": None})


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["run", "--help"], ["image", "--help"], []])
def test_help_imports_no_torch(words):
    code = (
        "import sys\nfrom yolov5_featviz.cli import main\ncode = main(sys.argv[1:])\n"
        "found = {'torch', 'matplotlib', 'cv2'} & set(sys.modules)\nassert not found, found\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == (0 if words else 2), done.stderr
    assert done.stdout if words else len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_shell_completion(tmp_path):
    """As docs say, by shtab from our parser."""
    done = run("-m", "shtab", "--shell", "bash", "yolov5_featviz.cli.entry.parser", cwd=tmp_path, script=None)
    for word in ("run", "compare", "--visualize-layers", "--trust-weights", "--mode"):
        assert word in done.stdout
    subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)
