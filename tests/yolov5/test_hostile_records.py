"""A stranger's file runs nothing, writes nothing, hangs nothing and ends in no traceback: `info`, `redo`, `figure`."""

import json
import os
import shutil
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import fuzz_records
import fuzz_yaml
import numpy as np
import pytest
from fuzz_records import call, contained, verdict
from helpers import WEIGHTS, feature_map, files_below
from PIL import Image

import yolov5_featviz as fv
from yolov5_featviz import cli
from yolov5_featviz.cli import entry
from yolov5_featviz.cli.parser import run_flags
from yolov5_featviz.draw.record import KEY
from yolov5_featviz.figures.composition import compose
from yolov5_featviz.figures.layout import Panel
from yolov5_featviz.figures.painters import photograph
from yolov5_featviz.figures.style import Style
from yolov5_featviz.runs.provenance import read_record, sha256
from yolov5_featviz.yolov5.recorded import FLAGS, TRUST
from yolov5_featviz.yolov5.redo import redo

CONTAINERS = (*fuzz_records.FORMATS, "npy", "tex", "json")
EVIL = "import os, pathlib\npathlib.Path({!r}).write_text('ran')\ndef net():\n    pass\n"
DETECT = ["run", "detect.py", "--weights", "best.pt", "--source", "bus.jpg", "--visualize-layers", "20"]
IMAGE = ["image", "--model", "torchvision:alexnet", "--layers", "0", "--source", "bus.jpg"]
COMPARE = ["compare", "--weights", "best.pt", "best.pt", "--layers", "17", "--source", "bus.jpg"]
SPEC = {"weights": "best.pt", "image": "bus.jpg", "rows": [{"crop": [0, 0, 9, 9]}], "columns": [{"layer": 17}]}
IMAGES = {"images": [{"name": "bus.jpg"}]}


def image(model, *more):
    return {"command": ["image", "--model", model, *IMAGE[3:], *more]}


def detect(*more, script="detect.py"):
    return {"command": ["run", script, *DETECT[2:], *more]}


def instead(words, old, *new):
    at = words.index(old)
    return {"command": [*words[:at], *new, *words[at + 1 :]]}


def figure(more=None, **change):
    return {"command": ["figure", "f.yaml"], **IMAGES, "figure": {**SPEC, **(more or {})}, **change}


HOSTILE = [
    image("os:system(command='touch canary')"),
    image("subprocess:call(args=['touch', 'canary'])"),
    image("evil.py:net"),
    image("evil:net"),
    image("./evil.py:net"),
    image("torchvision:alexnet(progress=True)"),
    image("torchvision:alexnet\n(x=1)"),
    image("torchvision.models:alexnet"),
    image("timm:hf-hub:somebody/evil"),
    image("torchvision:../evil"),
    image("evil:torchvision:alexnet"),
    image("torchvision:alexnet", "--model", "evil:net"),
    image("torchvision:alexnet", "--model=evil:net"),
    image("torchvision:alexnet", "--weights", "default"),
    image("torchvision:alexnet", "--weights", "evil.pt"),
    image("torchvision:alexnet", "--weights=/etc/passwd"),
    image("torchvision:alexnet", "--trust-weights", "--weights", "evil.pt"),
    image("torchvision:alexnet", "--imgsz", "99999999"),
    image("torchvision:alexnet", "--visualize-dpi", "99999999"),
    image("torchvision:alexnet", "--visualize-dir", "/tmp/evil"),
    image("torchvision:alexnet", "--visualize-dir", "../evil"),
    image("torchvision:alexnet", "--trust-weights=1"),
    image("torchvision:alexnet", "--", "--model", "evil:net"),
    image("torchvision:alexnet", "stray"),
    {"command": ["image", *IMAGE[3:]], "image": {"name": "bus.jpg"}, "models": ["--model", "evil:net"]},
    {"command": [*IMAGE], "models": ["--model=evil:net"]},
    {"command": ["image", "--model=evil:net", *IMAGE[3:]]},
    {"command": ["image", "--mod", "evil:net", *IMAGE[3:]]},
    detect(script="evil.py"),
    detect(script="./detect.py"),
    detect(script="evil/detect.py"),
    detect(script="train.py"),
    detect(script="export.py"),
    detect(script="../detect.py"),
    detect(script="val.py"),
    detect("--yolov5", "evil"),
    detect("--yolov5=evil"),
    detect("--data", "evil.yaml"),
    detect("--data=evil.yaml"),
    detect("--update"),
    detect("--save-crop"),
    detect("--hyp", "evil.yaml"),
    detect("--cfg", "evil.yaml"),
    detect("--name", "../../evil"),
    detect("--project", "/tmp/evil"),
    detect("--save-dir=../evil"),
    detect("--device", "$(touch canary)"),
    detect("--imgsz", "99999"),
    detect("--wei", "evil.pt"),
    detect("--weights", "evil.pt"),
    detect("--weights=http://127.0.0.1:9/evil.pt"),
    detect("--view-img"),
    detect("--visualize-layers", "17"),
    detect("-h"),
    {**instead(DETECT, "bus.jpg", "rtsp://127.0.0.1:9/x"), "image": {"name": "x"}},
    {**instead(DETECT, "bus.jpg", "0"), "image": {"name": "0"}},
    {**instead(DETECT, "bus.jpg", "evil.streams"), "image": {"name": "evil.streams", "sha256": "0" * 64}},
    {**instead(DETECT, "bus.jpg", "evil.txt"), "image": {"name": "evil.txt", "sha256": "0" * 64}},
    {**instead(DETECT, "best.pt", "evil.torchscript"), "weights": [{"name": "evil.torchscript"}]},
    {**instead(DETECT, "best.pt", "evil.engine"), "weights": [{"name": "evil.engine"}]},
    {**instead(DETECT, "best.pt", "evil.torchscript.pt"), "weights": [{"name": "evil.torchscript.pt"}]},
    {**detect(), "weights": []},
    {**detect(), "models": ["--yolov5", "evil"]},
    {**detect(), "image": {"name": "--yolov5=evil", "sha256": "0" * 64}},
    {"command": [*COMPARE, "--yolov5", "evil"], "models": ["a", "b"], "weights": [{"name": "best.pt"}] * 2},
    {"command": [*COMPARE], "models": ["--yolov5", "evil"], "weights": [{"name": "best.pt"}] * 2},
    {"command": [*COMPARE, "--labels", "/etc"], "weights": [{"name": "best.pt"}] * 2},
    {"command": [*COMPARE, "--name", "../x"], "weights": [{"name": "best.pt"}] * 2},
    figure({"yolov5": "evil"}),
    figure({"rows": [{"yolov5": "evil"}]}),
    figure({"yolov5": "../evil"}),
    figure({"image": "/etc/passwd"}),
    figure({"weights": "../evil.pt"}),
    figure({"weights": "best.pt", "rows": [{"weights": "evil.pt"}]}),
    figure(file="/tmp/evil.png"),
    figure(file="../../evil.png"),
    figure(file="..\\evil.png"),
    figure(folder="/tmp"),
    figure(folder="../.."),
    {"command": ["python", "evil.py"]},
    {"command": ["run"]},
    {"command": ["patch", "evil"]},
    {"command": ["redo", "a.png"]},
]


@pytest.fixture
def trap(tmp_path, images, monkeypatch):
    """A folder as a stranger sends it: code of every kind beside the picture, which leaves a file if it is run."""
    for name in ("evil.py", "detect.py", "train.py", "val.py", "evil/detect.py", "evil/models/yolo.py", "segment.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(EVIL.format(str(tmp_path / "canary")))
    for name in ("evil/models/__init__.py", "evil/utils/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(EVIL.format(str(tmp_path / "canary")))
    for name in ("evil.pt", "evil.torchscript", "evil.engine", "evil.torchscript.pt", "evil.txt", "evil.streams", "0"):
        (tmp_path / name).write_bytes(b"127.0.0.1:9/x\n")
    (tmp_path / "--yolov5=evil").write_bytes(b"")
    (tmp_path / "evil.yaml").write_text(f"download: |\n  import pathlib; pathlib.Path({str(tmp_path)!r}, 'canary')\n")
    shutil.copy(images / "bus.jpg", tmp_path)
    (tmp_path / "best.pt").symlink_to(WEIGHTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("i", range(len(HOSTILE)))
def test_nothing_is_run_by_the_word_of_a_file(trap, images, i):
    about = {
        "file": "a.png",
        "folder": "",
        "weights": [{"name": "best.pt", "sha256": sha256(WEIGHTS)}],
        "image": {"name": "bus.jpg", "sha256": sha256(images / "bus.jpg")},
        **HOSTILE[i],
    }
    if about["command"][0] == "image" and "weights" not in HOSTILE[i]:
        del about["weights"]
    kind = CONTAINERS[i % len(CONTAINERS)]
    name = f"picture.{kind}"
    (trap / name).write_bytes(contained(about, None, kind))
    before, known, content = files_below(trap), set(sys.modules), (trap / name).read_bytes()
    code, out, err = call(["redo", name])
    assert verdict(code, out, err) == "refused", (code, out, err)
    assert files_below(trap) == before and (trap / name).read_bytes() == content
    assert not {"evil", "segment"} & (set(sys.modules) - known)
    assert verdict(*call(["info", name])) in ("told", "refused")


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_refused_command_is_shown_and_run_when_asked(trap, kind, monkeypatch):
    """In every container, with the words quoted as a shell wants them, and without what a terminal would obey."""
    about = {
        **image("evil.py:net", "--visualize-cmap", "a\x1b[31m;rm x"),
        "file": "a.png",
        "image": {"name": "bus.jpg"},
    }
    (trap / f"p.{kind}").write_bytes(contained(about, None, kind))
    code, out, err = call(["redo", f"p.{kind}"])
    assert code == 2 and "add --run to run this command" in err and err.count("\n") == 1
    assert "--model evil.py:net" in out and "'a\ufffd[31m;rm x'" in out and not (trap / "canary").exists()
    ran = []
    monkeypatch.setattr(entry, "_again", lambda words, command: ran.append((words, command)) or 0)
    assert cli.main(["redo", f"p.{kind}", "--run"]) == 2  # since nothing was made
    assert ran[0][0][:3] == ["image", "--model", "evil.py:net"] and ran[0][1] == about["command"]


def test_with_run_it_is_run(trap, capsys):
    about = {**image("evil.py:net"), "file": "a.png", "image": {"name": "bus.jpg"}}
    (trap / "p.json").write_bytes(contained(about, None, "json"))
    assert cli.main(["redo", "p.json", "--run"]) == 2
    assert (trap / "canary").exists() and "returned a NoneType" in capsys.readouterr().err


def test_what_was_checked_is_what_is_run(trap, yolov5, images):
    """The script by its path in YOLOv5, not the one of its name beside the picture; each file that was found."""
    about = {
        "file": "a.png",
        "weights": [{"name": "best.pt", "sha256": sha256(WEIGHTS)}],
        **detect("--project", "x"),
        "image": {"name": "bus.jpg", "sha256": sha256(images / "bus.jpg")},
    }
    (trap / "p.json").write_bytes(contained(about, None, "json"))
    ran = []
    with pytest.raises(fv.FeatvizError, match=r"made no a\.png"):
        redo("p.json", lambda words, command: ran.append(words) or 0, log=lambda words: None)
    (words,) = ran
    assert words[:2] == ["run", str(yolov5.resolve() / "detect.py")] and TRUST not in words
    assert "featviz-" in words[words.index("--project") + 1] and words.count("--project") == 1


def test_every_flag_of_ours_is_judged():
    """A new flag must be put among those that a record may give, or be left out on purpose."""
    own = {name for action in run_flags()._actions for name in action.option_strings}
    assert own - set(FLAGS["run"]) == {"--yolov5", "--trust-weights", "--visualize-report"} - set(FLAGS["run"])


NAMES = [
    "a\x1b[31mb",
    "a\x00b",
    "a\nb",
    "a\udcffb",
    "a\ufffe\uffff",
    "$\\frac{$",
    "a$b$",
    "\u202eabc",
    "<&\"'>",
    "名\x9b",
]


def test_hostile_names_in_every_format(tmp_path):
    """Of classes, images and titles: an SVG stays well-formed, and every picture is drawn."""
    n = len(NAMES)
    boxes = fv.Boxes([[2 * i, 2 * i, 20 + 2 * i, 20 + 2 * i] for i in range(n)], [0.5] * n, NAMES)
    photo = np.zeros((64, 64, 3), np.uint8)
    fm = feature_map(np.random.default_rng(0).normal(size=(3, 8, 8)), image=" ".join(NAMES), input_size=(64, 64))
    fm = replace(fm, boxes=boxes)
    window = (0.0, 0.0, 64.0, 64.0)
    drawn = [
        fm.grid(dpi=50),
        fm.heatmap().over(photo, boxes=True, dpi=100),
        compose(
            [[Panel(photograph(photo), window, boxes)] * 2], [NAMES[0], NAMES[3]], [NAMES[2]], Style(dpi=100), NAMES[3]
        ),
    ]
    for picture in drawn:
        for format in ("png", "jpg", "tif", "svg", "pdf"):
            path = tmp_path / f"p.{format}"
            picture.save(path)
            if format == "svg":
                texts = "".join(ElementTree.parse(path).getroot().itertext())
                assert not {"\x1b", "\x00", "\udcff", "\ufffe", "\u202e"} & set(texts)
            elif format != "pdf":
                with Image.open(path) as image:
                    image.load()


def test_hostile_names_in_tables():
    from yolov5_featviz.compare.measure import Row
    from yolov5_featviz.compare.summary import summarise
    from yolov5_featviz.compare.tables import to_csv, to_latex

    row = Row("a\x1bb\r", "17", "m\x07\udcff", "labels", *[0.5] * 7)
    for text in (to_csv([row, row]), to_latex(summarise([row, row]))):
        assert all(c.isprintable() for c in text if c != "\n")


def png_chunk(kind, body):
    import struct
    import zlib

    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bombs():
    """Files that claim to be huge, or unpack to it."""
    import struct
    import zlib

    head = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0))
    packed = zlib.compress(KEY.encode() + b" " * (1 << 28), 1)
    yield "huge.png", head + png_chunk(b"IEND", b"")
    yield "bomb.png", head + png_chunk(b"zTXt", KEY.encode() + b"\0\0" + packed) + png_chunk(b"IEND", b"")
    yield "many.png", head + png_chunk(b"tEXt", b"a\0") * 200_000
    yield "long.png", b"\x89PNG\r\n\x1a\n" + b"\xff\xff\xff\xffzTXt" + b"a" * 100
    yield "zero.jpg", b"\xff\xd8" + b"\xff\xfe\x00\x00" * 1_000_000
    yield "a.tif", b"II*\0" + b"\xff" * 100
    yield "b.tif", b"II*\0" + struct.pack("<IHHHII", 8, 1, 270, 2, 2**31, 0)
    yield "a.pdf", b"%PDF-1.4 " + b"/Subject (" * 1_000_000
    yield "b.pdf", b"%PDF-1.4 /Subject (" + b"\\" * 5_000_001
    yield "a.svg", b"<svg><metadata>" + f"{KEY} {{&#".encode() + b"9" * 100_000 + b";</metadata></svg>"
    yield "b.svg", f"{KEY} {{".encode() * 500_000
    for i, shape in enumerate(
        ("(10**9,)", "(99999999999, 999999999)", "(-1,)", "(" * 500, "-" * 900 + "1", "(1,) * 9")
    ):
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
        yield f"{i}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    text = b"{'descr': '|O', 'fortran_order': False, 'shape': (3,)}"
    yield (
        "object.npy",
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"cos\nsystem\n(S'touch canary'\ntR.",
    )
    yield "header.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"(" * 1_000_000
    yield "deep.json", f'{{"{KEY}": "1", "a": '.encode() + b"[" * 1_000_000
    yield "digits.json", f'{{"{KEY}": "1", "a": '.encode() + b"9" * 5_000_000 + b"}"


def test_bombs_and_odd_files(tmp_path, monkeypatch):
    """In one line, in time and in bounded memory."""
    resource = pytest.importorskip("resource")
    monkeypatch.chdir(tmp_path)
    names = []
    for name, content in bombs():
        (tmp_path / name).write_bytes(content)
        names.append(name)
    with open("sparse.png", "wb") as file:
        file.write(b"{")
        file.truncate(1 << 36)
    os.mkfifo("pipe.png")
    os.mkdir("folder.png")
    os.symlink("nowhere", "broken.png")
    os.symlink("loop.png", "loop.png")
    names += [
        "sparse.png",
        "pipe.png",
        "folder.png",
        "broken.png",
        "loop.png",
        "/dev/zero",
        "x" * 300,
        "a\0b",
        "",
        "a\udcff",
    ]
    names += ["folder.png/x", "x/" * 3000]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in names:
        for command in (["info"], ["redo"], ["figure"]):
            start = time.monotonic()
            ended = call([*command, name])
            assert verdict(*ended) == "refused", (name[:50], command, ended)
            assert time.monotonic() - start < 10, name[:50]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # KB
    assert not (tmp_path / "canary").exists()


def test_a_long_scale_of_channels_that_are_not_there(tmp_path, capsys):
    about = {KEY: "1", "channels": "0-999999999", "scale": [[0, 1]] * 3}
    (tmp_path / "a.json").write_text(json.dumps(about))
    assert cli.main(["info", str(tmp_path / "a.json")]) == 0
    assert capsys.readouterr().out.count("scale     channel ") == 3
    assert read_record(tmp_path / "a.json") == about


def test_odd_names_of_ordinary_files_are_no_damage(tmp_path):
    for name in ("~bus", "a:b", "-x", "...", "a..b", "名字", "a b", "x" * 250):
        about = {KEY: "1", "file": f"{name}.png", "folder": f"epoch003/{name}", "image": {"name": f"{name}.jpg"}}
        (tmp_path / "a.json").write_text(json.dumps(about))
        assert read_record(tmp_path / "a.json") == about


def test_json_for_a_terminal_is_still_the_record(tmp_path, capsys):
    about = {KEY: "1", "layer": "\x1b[31m \x9b \u202e 名字 \U0010fffd \ud800"}
    (tmp_path / "a.json").write_text(json.dumps(about))
    assert cli.main(["info", "--json", str(tmp_path / "a.json")]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == about and "名字" in out and "\x9b" not in out and "\u202e" not in out


def test_outputs_of_a_yaml_stay_near_it(tmp_path, monkeypatch, capsys, images):
    home = tmp_path / "home"
    home.mkdir()
    (home / "link").symlink_to(tmp_path)
    monkeypatch.chdir(home)
    shutil.copy(images / "bus.jpg", home)
    for output in (str(tmp_path / "x.png"), "../x.png", "link/x.png", "a/../../x.png", "~/../../x.png"):
        (home / "f.yaml").write_text(f"rows: [bus.jpg]\ncolumns: [input]\noutput: {output}\n")
        code = cli.main(["figure", "f.yaml"])
        error = capsys.readouterr().err
        assert (code, error.count("\n")) == (2, 1) and "give it with --output" in error, output
    assert files_below(tmp_path) == ["home/bus.jpg", "home/f.yaml"] and not (tmp_path / "x.png").exists()
    assert cli.main(["figure", "f.yaml", "--dpi", "72", "--output", "../x.png"]) == 0
    assert (tmp_path / "x.png").is_file()


def test_titles_that_cannot_be_set(tmp_path, monkeypatch, images):
    """A formula that is none is told in one line before anything is written, a long word does not take long."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(images / "bus.jpg", tmp_path)
    cases = {'"$\\\\frac{$"': 2, '"$ \\\\frac{ $ x $"': 2, ".nan": 2, "[a, [b]]": 2, '"\\e[31m"': 0, "w" * 1900: 0}
    for title, expected in cases.items():
        text = f"rows: [bus.jpg]\ncolumns: [{{show: input, title: {title}}}]\noutput: a.svg\ndpi: 72\n"
        (tmp_path / "f.yaml").write_text(text)
        start = time.monotonic()
        code, _, err = call(["figure", "f.yaml"])
        assert (code, err.count("\n")) == (expected, 1) and time.monotonic() - start < 5, (title[:40], code, err)
        if code == 0:
            ElementTree.parse("a.svg")
        assert (tmp_path / "a.svg").exists() == (code == 0)
        (tmp_path / "a.svg").unlink(missing_ok=True)


def test_patch_of_what_is_no_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("yolo/models/yolo.py", "yolo/utils/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo("yolo/detect.py")
    os.symlink("loop", "loop")
    for name in ("yolo", "loop", "x" * 300, "a\0b", "~nobody/x", "/dev/zero", "yolo/models/yolo.py"):
        assert verdict(*call(["patch", name])) == "refused", name


def test_fuzz_of_records():
    found = fuzz_records.fuzz(400, seed=10)
    assert "wrong" not in found and found["told"] > 40 and found["refused"] > 100 and found["run"] > 10, found


def test_fuzz_of_yaml():
    found = fuzz_yaml.fuzz(200, seed=10)
    assert "wrong" not in found and found["accepted"] > 5 and found["refused"] > 100, found
