"""What runs where, as measured: the tables in the README.

    compatibility.py stacks [NAME ...]   a line for each file of tests/stacks/, or for those named
    compatibility.py releases            a line for each YOLOv5: the wheels, and the checkouts in $CHECKOUTS

A stack is a file of pinned packages whose first line names a Python, and wheels of YOLOv5 to run there. Its environment
is made once, below .stacks/, where the tables are written too. The package is installed as a user would install it, and
a copy of the tests runs against that.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, List, NamedTuple, Sequence
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
STACKS = ROOT / "tests" / "stacks"
BUILT = ROOT / ".stacks"
PACKAGE = ("pyproject.toml", "README.md", "LICENSE", "yolov5_featviz", "patches")
TESTS = ("pyproject.toml", "README.md", "LICENSE", "detect.py", "weights", "tests")
FILES = (
    *("layers", "capture", "normalize", "channels", "resample", "grid", "heatmap", "encode", "tensor", "kernels"),
    *("batch", "saver", "checkpoint", "hostile", "metrics", "composition", "provenance"),
)
JOBS = ("the_main_job", "nothing_else_is_written", "detections_are_the_same_to_the_byte", "undo_leaves_no_trace")
VERSIONS = """
import json, platform
from importlib import metadata
print(json.dumps([platform.python_version(), *map(metadata.version, ("torch", "torchvision", "numpy", "yolov5"))]))
"""
CHECKS = ("loads", "draws once", "maps exact", "detections identical", "nothing left, no network")
PATCH = "patch applies and reverses"


class Stack(NamedTuple):
    name: str
    python: str
    releases: List[str]
    pins: str


def read_stacks() -> List[Stack]:
    found = []
    for path in sorted(STACKS.glob("*.txt")):
        pins = _text(path)
        head = re.match(r"# (python\S+), yolov5 (.+)\n", pins)
        if head:
            found.append(Stack(path.stem, head.group(1), head.group(2).split(), pins))
    return found


def _test_file(name: str) -> str:
    (path,) = (ROOT / "tests").rglob(f"test_{name}.py")
    return path.relative_to(ROOT).as_posix()


def _text(path: Path) -> str:
    """A requirements file and those it refers to."""
    text = path.read_text(encoding="utf-8")
    return text + "".join(_text(path.parent / other) for other in re.findall(r"^-r (\S+)", text, re.MULTILINE))


def find_python(name: str) -> str:
    """``python3.x`` of the PATH if it runs (pyenv puts some there that do not), else of pyenv's folder; else empty."""
    check = f"import sys, venv; sys.exit(sys.version_info[:2] != {tuple(map(int, name[6:].split('.')))})"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for python in [shutil.which(name), *map(str, sorted(pyenv.glob(f"{name[6:]}.*/bin/{name}"), reverse=True))]:
        if python and subprocess.run([python, "-c", check], stderr=subprocess.DEVNULL).returncode == 0:
            return python
    return ""


def install(python: Path, *words: Any) -> None:
    subprocess.run([str(python), "-m", "pip", "install", "-qq", "--no-deps", *map(str, words)], check=True)


def build(stack: Stack, interpreter: str) -> Path:
    """The Python of the stack's environment, which is made anew when its pins have changed."""
    folder = BUILT / stack.name
    python, stamp = folder / "bin" / "python", folder / "pins.txt"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != stack.pins:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([interpreter, "-m", "venv", str(folder)], check=True)
        install(python, "-r", STACKS / f"{stack.name}.txt")
        for release in stack.releases:
            install(python, "--target", folder / "wheels" / release, f"yolov5=={release}")
        stamp.write_text(stack.pins, encoding="utf-8")
    return python


def copy(names: Sequence[str], folder: str) -> None:
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)


def pytest(python: Path, folder: str, *words: str) -> ElementTree.Element:
    """Run pytest in a folder; what it reports, empty if it did not get that far."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as reports:
        report = os.path.join(reports, "report.xml")
        options = ["--junitxml", report, "-o", "junit_family=xunit1"]
        subprocess.run([str(python), "-m", "pytest", *options, *words], cwd=folder, env=environment)
        return ElementTree.parse(report).getroot() if os.path.exists(report) else ElementTree.Element("none")


def outcome(case: ElementTree.Element) -> str:
    kinds = {child.tag for child in case}
    return "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"


def run_stack(stack: Stack, interpreter: str) -> List[str]:
    """The stack's line in the table."""
    python = build(stack, interpreter)
    with tempfile.TemporaryDirectory() as package:
        copy(PACKAGE, package)
        install(python, "--no-build-isolation", "--force-reinstall", package)
    with tempfile.TemporaryDirectory() as folder:
        copy(TESTS, folder)
        files = [_test_file(name) for name in FILES]
        jobs = [f"{_test_file('detect')}::test_{name}" for name in JOBS]
        wheels = [f"{_test_file('releases')}::test_wheel[{release}]" for release in stack.releases]
        report = pytest(python, folder, *files, *jobs, *wheels)
    *versions, yolov5 = json.loads(subprocess.check_output([str(python), "-c", VERSIONS]).decode())
    outcomes = [outcome(case) for case in report.iter("testcase")]
    counts = [str(outcomes.count(kind)) for kind in ("passed", "skipped", "failed")]
    seconds = sum(float(suite.get("time", 0)) for suite in report.iter("testsuite"))
    return [*versions, ", ".join(sorted({*stack.releases, yolov5})), *counts, f"{seconds:.0f}"]


def stacks(names: List[str]) -> bool:
    """Whether every stack is as it should be."""
    known = read_stacks()
    chosen = [stack for stack in known if not names or stack.name in names]
    if not chosen:
        sys.exit(f"error: no stack {' '.join(names)}: take some of {', '.join(stack.name for stack in known)}")
    pythons = {stack.python: find_python(stack.python) for stack in chosen}
    missing = [name for name, path in pythons.items() if not path]
    if missing:
        sys.exit(f"error: {', '.join(missing)} is neither on the PATH nor among pyenv's: pyenv install it")
    rows = [run_stack(stack, pythons[stack.python]) for stack in chosen]
    write("stacks", ["Python", "torch", "torchvision", "numpy", "YOLOv5", "passed", "skipped", "failed", "s"], rows)
    return all(int(row[5]) and not int(row[7]) for row in rows)


def releases() -> bool:
    """Whether every YOLOv5 does all that the tests ask of it."""
    files = [_test_file(name) for name in ("releases", "fork_patch")]
    words = [file for file in files if (ROOT / file).is_file()]
    report = pytest(Path(sys.executable), str(ROOT), *words, "-k", "test_wheel or checkout or one_diff")
    good = all(outcome(case) != "failed" for case in report.iter("testcase"))
    checked, patched = {}, {}
    for case in report.iter("testcase"):
        name = "".join(re.findall(r"\[(.*)\]", case.get("name", "")))
        if "test_fork_patch" not in case.get("classname", ""):
            checked[name] = {p.get("name"): p.get("value") for p in case.iter("property")}
            continue
        for part in name.split("/"):  # of 7.0.0/yolov5, or folder/v7.0
            patched[part] = "no" if "no" in (patched.get(part), {"failed": "no"}.get(outcome(case))) else "yes"
    rows = [
        [name, *(values.get(check, "-") for check in CHECKS), patched.get(name, "-")]
        for name, values in checked.items()
        if values
    ]
    write("releases", ["YOLOv5", *CHECKS, PATCH], rows)
    return good and bool(rows)


def write(name: str, head: List[str], rows: List[List[str]]) -> None:
    """Print a table, and leave it below .stacks/ too."""
    lines = [head, ["---"] * len(head), *rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    BUILT.mkdir(exist_ok=True)
    (BUILT / f"{name}.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["stacks"]:
        sys.exit(not stacks(sys.argv[2:]))
    if sys.argv[1:] == ["releases"]:
        sys.exit(not releases())
    sys.exit(__doc__)
