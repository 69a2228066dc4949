"""Signals, kills, full disks, closed streams: no fault loses work, and each is told in one line."""

import importlib.util
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from helpers import ROOT, WEIGHTS, files_below

import yolov5_featviz as fv
from yolov5_featviz import console, leftovers, stop
from yolov5_featviz.cli import guarded, main
from yolov5_featviz.files import check_writable, write, write_new

pytestmark = pytest.mark.slow

spec = importlib.util.spec_from_file_location("faults", ROOT / "scripts" / "faults.py")
faults = importlib.util.module_from_spec(spec)
spec.loader.exec_module(faults)

RUN = "runs/detect/exp"
DETECT = [str(ROOT / "detect.py"), "--weights", str(WEIGHTS), "--imgsz", "64", "--visualize-layers", "17,20"]


def start(words, cwd, ignored=(), **options):
    """A process whose signals are as in a terminal, wherever the tests run."""

    def reset():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    env = {**os.environ, "HOME": str(cwd), "YOLOV5_ROOT": "", "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([sys.executable, *words], cwd=cwd, text=True, preexec_fn=reset, env=env, **pipes)


def wait_for(there, process, seconds=60):
    until = time.monotonic() + seconds
    while not there() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert there(), process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_the_way_of_an_interrupt(number, tmp_path):
    """The report is there, and it is told in one line what there is."""
    source = faults.small_images(tmp_path / "in", 300)
    process = start([*DETECT, "--nosave", "--source", str(source)], tmp_path)
    wait_for((tmp_path / RUN / "004").exists, process)
    process.send_signal(number)
    process.send_signal(number)  # as timeout(1) does, to the process and to its group
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    last = errors.splitlines()[-1]
    told = re.fullmatch(
        rf"yolov5-featviz: interrupted by {number.name}; (\d+) pictures written in {RUN}; open .*", last
    )
    pictures = [f for f in files_below(tmp_path / RUN) if f.endswith(".png")]
    assert told and int(told[1]) == len(pictures) >= 4
    assert (tmp_path / RUN / "index.html").read_text(encoding="utf-8").endswith("</html>\n")
    assert faults.damaged(tmp_path / "runs") == [] and not list(tmp_path.rglob("*.part"))


def test_nohup_is_respected_and_a_second_signal_ends_at_once(tmp_path):
    source = faults.small_images(tmp_path / "in", 400)
    words = [*DETECT, "--nosave", "--source", str(source), "--visualize-mode", "channels"]
    process = start(words, tmp_path, ignored=[signal.SIGHUP])
    wait_for((tmp_path / RUN / "002").exists, process)
    process.send_signal(signal.SIGHUP)
    wait_for((tmp_path / RUN / "020").exists, process)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    process.communicate(timeout=20)
    assert process.returncode in (-signal.SIGTERM, 143) and time.monotonic() - begin < 3
    assert faults.damaged(tmp_path / "runs") == [] and not list(tmp_path.rglob("*.part"))


LAYERS = ["-m", "yolov5_featviz", "layers", "--weights", str(WEIGHTS)]


@pytest.mark.parametrize("words", [LAYERS, DETECT], ids=["module", "launcher"])
@pytest.mark.parametrize("wait", [0.6, 1.0])
def test_an_interrupt_while_torch_is_imported(words, wait, tmp_path):
    process = start(words, tmp_path)
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out, errors) == (130, "", "yolov5-featviz: interrupted\n")


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, ""), (signal.SIGTERM, " by SIGTERM")])
def test_a_signal_never_becomes_an_exception_within_torchs_own_import(number, name, tmp_path):
    """Raised there, it can reach C++ code that aborts the process."""
    (tmp_path / "torch.py").write_text(
        f"import os, time\ntry:\n    os.kill(os.getpid(), {int(number)})\n    time.sleep(5)\n"
        "except BaseException as error:\n    print('raised', type(error))\n"
    )
    process = start(LAYERS, tmp_path, env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out, errors) == (128 + number, "", f"yolov5-featviz: interrupted{name}\n")


@pytest.fixture
def interruptible():
    """As in a terminal: where SIGINT is ignored, as in a background job, so it stays."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_handlers_are_put_back_and_those_of_others_left_alone(interruptible):
    def mine(number, frame):
        raise AssertionError

    before = [signal.signal(signal.SIGTERM, mine), signal.signal(signal.SIGHUP, signal.SIG_IGN)]
    try:
        inside = signal.getsignal(signal.SIGINT)
        with stop.signals():
            assert signal.getsignal(signal.SIGTERM) is mine
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGINT) is not inside
            pid = os.fork()
            if pid == 0:  # as a worker of a loader
                os._exit(signal.getsignal(signal.SIGINT) is not inside)
            assert os.waitpid(pid, 0)[1] == 0
        assert signal.getsignal(signal.SIGINT) is inside
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        found = []
        thread = threading.Thread(target=lambda: found.append(guarded(lambda: signal.getsignal(signal.SIGTERM).value)))
        thread.start()
        thread.join()
        assert found == [signal.SIG_DFL.value]
        with stop.signals():
            signal.signal(signal.SIGTERM, mine)  # as a script may
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGHUP, before[1])


def test_a_script_that_takes_the_signal_for_an_interrupt(interruptible, capsys):
    """It ends by itself; the shell still learns why."""

    def command():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt:
            return 0
        return 1

    assert guarded(command) == 143
    assert stop.asked() is None

    def converted():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise RuntimeError("a library's own") from None

    assert guarded(converted) == 130
    assert capsys.readouterr().err == "yolov5-featviz: interrupted\n"


def test_compare_interrupted_before_its_first_image(tmp_path, monkeypatch, capsys):
    from yolov5_featviz.yolov5 import compare

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "read_image", interrupt)
    source = faults.small_images(tmp_path / "in", 2)
    assert main(faults.jobs(source)["compare"]) == 130
    assert capsys.readouterr().err == "yolov5-featviz: interrupted; 0 pictures written\n"
    assert not (tmp_path / "runs").exists()


def in_forks(code, folder):
    """What ``code`` puts into ``found``, in a process that imports all once and forks; see scripts/faults.py."""
    head = (
        "import importlib.util, json, sys; from pathlib import Path\n"
        "spec = importlib.util.spec_from_file_location('faults', sys.argv[1])\n"
        "faults = sys.modules['faults'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(faults); faults.prepare(); home = Path(sys.argv[2]); found = []\n"
    )
    words = ["-c", f"{head}{code}\nprint(json.dumps(found))", str(ROOT / "scripts" / "faults.py"), str(folder)]
    out, errors = start(words, folder).communicate(timeout=300)
    return json.loads(out.splitlines()[-1] if out else errors)


def test_a_full_disk_is_told_by_name(tmp_path):
    """Which files are missing, and nothing that is not there; compare's tables are small, and written."""
    (tmp_path / "f.yaml").write_text(
        "rows: [{image: in/000.jpg}]\ncolumns: [{layer: 17}]\nimgsz: 64\n"
        f"weights: {WEIGHTS}\noutput: [f.png, f.svg]\n"
    )
    code = (
        "jobs = faults.jobs(faults.small_images(home / 'in', 7))\n"
        "for words, size in (jobs['image'], 3000), (jobs['compare'], 9000), (['figure', 'f.yaml'], 3000):\n"
        "    found.append(faults.forked(words, home, file_size=size))\n"
    )
    (image, told), (compare, compared), (figure, drawn) = in_forks(code, tmp_path)
    assert (image, compare, figure) == (1, 1, 1) and "Traceback" not in told + compared + drawn

    lines = [line for line in told.splitlines() if "could not save" in line]
    assert re.fullmatch(
        r"yolov5-featviz: error: could not save: \[Errno 27\] File too large: "
        r"(\d{3}/layer[12]_Sequential_features\.png, ){4}\d{3}/layer[12]_Sequential_features\.png and 9 more",
        lines[0],
    )
    assert "index.html" in lines[1] and len(lines) == 2
    assert "open " not in told and "feature maps in" not in told
    assert files_below(tmp_path / "runs/featviz") == []

    missing = "000.png, 001.png, 002.png, 003.png, 004.png and 2 more"
    assert f"error: could not save: [Errno 27] File too large: {missing}\n" in compared
    tables = "metrics.csv, means.csv, differences.csv, table.tex and table_column.tex"
    assert f"the numbers are in {tables}" in compared and "open " not in compared
    made = files_below(tmp_path / "runs/compare/exp")
    kept = ("differences.csv", "means.csv", "metrics.csv")
    assert made == sorted([*kept, *(f"{name}.json" for name in kept), "table.tex", "table_column.tex"])

    (line,) = (line for line in drawn.splitlines() if line.startswith("yolov5-featviz"))
    assert line == "yolov5-featviz: error: could not save: [Errno 27] File too large: f.png, f.svg"
    assert not list(tmp_path.glob("f.[ps]*"))


def test_a_new_name_appears_with_its_whole_content(tmp_path, monkeypatch):
    """Killed between taking the name and filling it: there was an empty file."""

    def killed(*_):
        raise SystemExit

    monkeypatch.setattr(os, "replace", killed)
    assert write_new(tmp_path / "index.html", [b"whole"]).read_bytes() == b"whole"
    assert write_new(tmp_path / "index.html", [b"other"]) == tmp_path / "index2.html"
    assert files_below(tmp_path) == ["index.html", "index2.html"]


def test_where_there_are_no_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert [write_new(tmp_path / "a.html", [b"x"]).name for _ in range(3)] == ["a.html", "a2.html", "a3.html"]
    assert files_below(tmp_path) == ["a.html", "a2.html", "a3.html"]


def killed_one(folder):
    """What is in the names of files of a process that has been killed, and of one that lives; and that one."""
    processes = [start(["-c", "input()"], folder, stdin=subprocess.PIPE) for _ in range(2)]
    owners = [f"{leftovers._place()}-{process.pid}-{leftovers._start(process.pid)}" for process in processes]
    processes[0].kill()
    processes[0].communicate()
    return owners, processes[1]


def test_what_dead_processes_left_is_removed(tmp_path, monkeypatch):
    (dead, living), process = killed_one(tmp_path)
    try:
        place, pid, begun = dead.split("-")
        runs = tmp_path / "runs"
        kept = [
            f"exp/bus/.a.png.{living}-1.part",
            f"exp/bus/.a.png.{'0' * 8}-{pid}-{begun}-1.part",  # of another machine
            f"exp/.a.png.{place}-{os.getpid()}-{leftovers._start(os.getpid())}-1.part",
            f"other/.a.png.{dead}-1.part",  # no run of this name
            "exp/mine.part",
        ]
        gone = [
            f"exp/bus/.a.png.{dead}-1.part",
            f"exp2/.a.png.{place}-{os.getpid()}-1-1.part",  # this number was another's, before
            f"exp2/epoch001/bus/17/.a.png.{dead}-f.part",
        ]
        for name in (*kept, *gone):
            (runs / name).parent.mkdir(parents=True, exist_ok=True)
            (runs / name).write_text("")
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / f".a.png.{dead}-1.part").write_text("")
        (runs / "exp" / "link").symlink_to(outside)
        leftovers.clean_run(runs / "exp3")
        assert sorted(str(p.relative_to(runs)) for p in runs.rglob("*.part") if not p.is_symlink()) == sorted(kept)
        assert len(list(outside.iterdir())) == 1

        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        for owner in (dead, living):
            (tmp_path / f"yolov5-featviz-{owner}-1").mkdir()
        (tmp_path / f"yolov5-featviz-{dead}-1" / "Arial.ttf").symlink_to(outside)
        (tmp_path / f"yolov5-featviz-{dead}-2").symlink_to(outside)
        leftovers._clean_temporary.cache_clear()
        own = Path(leftovers.temporary_folder())
        assert stat.S_IMODE(own.stat().st_mode) == 0o700
        assert sorted(p.name for p in tmp_path.glob("yolov5-featviz-*")) == sorted(
            [own.name, f"yolov5-featviz-{living}-1", f"yolov5-featviz-{dead}-2"]
        )
        assert len(list(outside.iterdir())) == 1
        leftovers.remove_own()
        assert not own.exists()
    finally:
        process.communicate("")


@pytest.mark.parametrize("end", ["2>&-", ">&- 2>/dev/full"])
def test_closed_and_full_streams(end, tmp_path):
    """Pictures are written all the same, and nothing that was to be said goes into one."""
    source = faults.small_images(tmp_path / "in", 1)
    command = " ".join(f"'{word}'" for word in [sys.executable, "-m", "yolov5_featviz", *faults.jobs(source)["image"]])
    done = start(["-c", "import os, sys; os.execvp('sh', ['sh', '-c', sys.argv[1]])", f"{command} {end}"], tmp_path)
    out, errors = done.communicate(timeout=60)
    assert (done.returncode, out, errors) == (int("full" in end), "", "")
    made = files_below(tmp_path / "runs/featviz/exp")
    assert [f for f in made if f.endswith(".png")] and "index.html" in made
    assert faults.damaged(tmp_path / "runs") == []


def test_results_that_are_lost(tmp_path, monkeypatch, capsys):
    for out, why in ((None, "standard output is closed"), ("/dev/full", "cannot write to standard output: No space")):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out and open(out, "w"))  # noqa: SIM115
            assert main(["--version"]) == 1
        assert capsys.readouterr().err.startswith(f"yolov5-featviz: error: {why}")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        assert main(["info", "nothing.png"]) == 2
        assert sys.stderr is None
    assert capsys.readouterr() == ("", "")  # print() takes standard output if there is no other


def test_results_in_a_narrow_encoding(tmp_path, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["layers", "--weights", str(WEIGHTS), "--imgsz", "64"]) == 0
    console.out("\udcff×")
    assert stream.buffer.getvalue().endswith(b"\\udcff\\xd7\n")


LONG = "x" * 300


@pytest.mark.parametrize(
    "words",
    [
        ["run", "detect.py", "--weights", WEIGHTS, "--visualize-layers", "17", "--visualize-dir", LONG],
        ["run", "detect.py", "--weights", WEIGHTS, "--visualize-layers", "17", "--project", f"new/{LONG}"],
        ["run", "detect.py", "--weights", WEIGHTS, "--visualize-layers", "17", "--name", LONG],
        ["run", "detect.py", "--weights", WEIGHTS, "--visualize-layers", "17", "--source", LONG],
        ["run", "detect.py", "--weights", LONG, "--visualize-layers", "17"],
        ["run", "detect.py", "--yolov5", LONG, "--visualize-layers", "17"],
        ["run", LONG, "--visualize-layers", "17"],
        ["run", WEIGHTS, "--visualize-layers", "17"],
        ["layers", "--weights", LONG],
        ["layers", "--model", f"{LONG}.py:f"],
        ["figure", LONG],
        ["info", LONG],
        ["redo", LONG],
        ["patch", LONG],
        ["compare", "--weights", WEIGHTS, WEIGHTS, "--layers", "17", "--source", ROOT, "--labels", LONG],
        ["compare", "--weights", WEIGHTS, WEIGHTS, "--layers", "17", "--source", LONG],
        ["run", "detect.py", "--visualize-layers", "17", "--visualize-reduce=--"],
        ["run", "detect.py", "--visualize-layers", "17", "--visualize-dir="],
        ["run", "detect.py", "--yolov5", "~nobody/yolov5", "--visualize-layers", "17"],
        ["compare", "--weights", WEIGHTS, WEIGHTS, "--layers", "17", "--source", ROOT, "--reduce=--"],
    ],
    ids=lambda words: " ".join(map(str, words))[-40:].replace(LONG[:30], "x"),
)
def test_words_that_are_no_names(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([str(word) for word in words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("yolov5-featviz: 0")]
    assert len(errors) == 1 and errors[0].startswith("yolov5-featviz: error: ")
    assert list(tmp_path.iterdir()) == []


def test_names_with_null_bytes(tmp_path):
    from yolov5_featviz.runs.images import find_images
    from yolov5_featviz.yolov5.source import find_source

    for call in (lambda: find_images("a\0b"), lambda: find_source("a\0b"), lambda: check_writable(tmp_path / "a\0b")):
        with pytest.raises(fv.FeatvizError, match="a\ufffdb"):
            call()


def test_a_name_of_the_greatest_length(tmp_path):
    """The name of the unfinished file beside it has to fit, too."""
    write(tmp_path / ("é" * 125 + ".png"), b"x")
    write_new(tmp_path / ("é" * 125 + ".html"), [b"x"])
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["é" * 125 + ".html", "é" * 125 + ".png"]


def test_a_folder_that_is_removed_meanwhile(tmp_path):
    page = write_new(tmp_path / "gone" / "index.html", [b"x"])
    assert page.read_bytes() == b"x"


def test_campaign(tmp_path):
    """A small part of ``make test-faults``, with a seed of its own."""
    code = (
        "for name, n in (('kills', 2), ('command_lines', 15)):\n"
        "    (home / name).mkdir(); tally = getattr(faults, name)(home / name, n, 1)\n"
        "    found.append([name, dict(tally), tally.notes])\n"
    )
    for name, tally, notes in in_forks(code, tmp_path):
        assert tally.pop("tries") >= 4 and not any(tally.values()), (name, notes)
