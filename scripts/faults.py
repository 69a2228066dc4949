"""Kill, interrupt, fill the disk and fuzz: each class of fault with counts, as a Markdown table.

``python scripts/faults.py``; with ``--quick`` a smoke run. Exits with 1 if anything beside the tries is not zero, or
if a class tried nothing.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = str(ROOT / "weights" / "best.pt")
COLUMNS = ("tries", "code_run", "crashes", "hangs", "tracebacks", "wrong")
HANG = 20.0  # seconds
DELEGATED = {"YAML": ("fuzz_yaml", 2000), "records": ("fuzz_records", 2000), "checkpoints": ("fuzz_checkpoints", 10000)}
CANARY = "pwned"
ENDS = {".html": b"</html>\n", ".csv": b"\n", ".tex": b"\n"}
KINDS = {".jpg": "JPEG", ".png": "PNG", ".tif": "TIFF"}


class Tally(Counter):  # type: ignore[type-arg]
    """The counts of a class of faults; ``notes`` say what each of the bad ones was."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(COLUMNS, 0))
        self.notes: List[str] = []

    def note(self, column: str, words: str) -> None:
        """Count one, and keep the words."""
        self[column] += 1
        self.notes.append(f"{column}: {words}")

    def judge(self, code: Optional[int], errors: str, home: Path, words: object, allowed: Sequence[int]) -> None:
        """Count what is wrong with an ended process; ``code`` is None if it did not end, negative for a signal."""
        self["tries"] += 1
        told = f"{words!s:.300}: {code}: {errors.strip()[-300:]!r}"
        if (home / CANARY).exists():
            self.note("code_run", told)
        if code is None:
            self.note("hangs", told)
        elif code not in allowed:
            self.note("crashes" if code < 0 or code in (134, 139) else "wrong", told)
        if is_ours(errors):
            self.note("tracebacks", told)


def is_ours(errors: str) -> bool:
    """Whether there is a traceback that is not of a script of YOLOv5 alone."""
    for trace in errors.split("Traceback (most recent call last):")[1:]:
        files = re.findall(r'File "([^"]+)", line', trace)
        if not files or "yolov5_featviz" in files[-1] or Path(files[0]).name not in ("detect.py", "val.py"):
            return True
    return "Exception ignored in" in errors


def images_folder() -> Path:
    """The photographs that YOLOv5 brings along."""
    return Path(str(metadata.distribution("yolov5").locate_file("yolov5"))) / "data" / "images"


def small_images(folder: Path, count: int, size: Tuple[int, int] = (96, 128)) -> Path:
    """A folder with so many small photographs."""
    folder.mkdir(parents=True)
    with Image.open(images_folder() / "bus.jpg") as image:
        small = image.resize(size)
    for i in range(count):
        small.save(folder / f"{i:03d}.jpg")
    return folder


def forked(words: Sequence[str], home: Path, after: Optional[float] = None, file_size: int = 0) -> Tuple[Any, str]:
    """Run a command in a fork of this process, which has imported all that takes long.

    Args:
        words: the command line.
        home: the current folder.
        after: send SIGKILL after so many seconds.
        file_size: no file may become larger than so many bytes, if not 0.

    Returns:
        The exit code, negative for a signal and None for a hang, and what went to standard error.
    """
    from yolov5_featviz import cli

    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(writing, 1)
            os.dup2(writing, 2)
            os.chdir(home)
            if file_size:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
            code = 1
            try:
                code = cli.main(list(words))
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(writing)
    return _ended(pid, reading, after)


def _ended(pid: int, reading: int, after: Optional[float]) -> Tuple[Optional[int], str]:
    os.set_blocking(reading, False)
    start, told, status, hung = time.monotonic(), b"", None, False
    while status is None:
        with suppress(BlockingIOError):
            told = (told + os.read(reading, 1 << 16))[-200_000:]
        done, found = os.waitpid(pid, os.WNOHANG)
        status = found if done else None
        spent = time.monotonic() - start
        if status is None and spent > (HANG if after is None else after):
            hung = after is None
            os.killpg(pid, signal.SIGKILL) if hung else os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
        time.sleep(0.002)
    with suppress(BlockingIOError):
        while block := os.read(reading, 1 << 16):
            told += block
    os.close(reading)
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return None if hung else code, told.decode(errors="replace")


def damaged(home: Path) -> List[str]:
    """The files of ours below a folder that are not whole."""
    found = []
    for path in home.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.name.endswith(".part"):
            continue
        try:
            if path.suffix == ".png":
                with Image.open(path) as image:
                    image.load()
            elif path.suffix in ENDS and not path.read_bytes().endswith(ENDS[path.suffix]):
                found.append(str(path))
            elif path.suffix == ".json":
                json.loads(path.read_bytes())
        except (OSError, ValueError, SyntaxError):
            found.append(str(path))
    return found


def jobs(source: Path) -> Dict[str, List[str]]:
    """A command of each kind that writes pictures."""
    look = ["--visualize-dpi", "40", "--visualize-layers", "17,20"]
    size = ["--imgsz", "64"]
    run = ["run", "detect.py", "--weights", WEIGHTS, "--source", str(source), "--nosave", *size, *look]
    image = ["image", "--model", "torchvision:resnet18", "--layers", "layer1,layer2", "--source", str(source), *size]
    compare = ["compare", "--weights", WEIGHTS, WEIGHTS, "--layers", "17", "--source", str(source), *size]
    return {"run": run, "image": [*image, "--visualize-dpi", "40"], "compare": [*compare, "--dpi", "72"]}


def kills(home: Path, count: int, seed: int) -> Tally:
    """SIGKILL at random moments: no truncated file under a final name, and the next run cleans up."""
    tally, chance = Tally(), random.Random(seed)
    commands = jobs(small_images(home / "in", 8))
    lasts = {}
    for name, words in commands.items():
        if len(lasts) < count:
            start = time.monotonic()
            tally.judge(*forked(words, home), home, words, [0])
            lasts[name] = time.monotonic() - start
    for i in range(count):
        name = list(lasts)[i % len(lasts)]
        after = chance.uniform(0.1, lasts[name])
        tally.judge(*forked(commands[name], home, after), home, commands[name], [0, -signal.SIGKILL])
        for path in damaged(home):
            tally.note("wrong", f"{path} is not whole")
            os.unlink(path)
    dead = [name for name in os.listdir(tempfile.gettempdir()) if _is_dead(name)]
    for name in lasts:
        forked(commands[name], home)
    left = [str(path) for path in home.rglob("*.part")]
    left += [name for name in os.listdir(tempfile.gettempdir()) if name in dead]
    if left:
        tally.note("wrong", f"left behind: {left[:5]}")
    return tally


def _is_dead(name: str) -> bool:
    found = re.match(r"yolov5-featviz-[0-9a-f]{8}-(\d+)-", name)
    return found is not None and not os.path.exists(f"/proc/{found[1]}")


def signals(home: Path, count: int, seed: int) -> Tally:
    """SIGTERM, SIGHUP and SIGINT at random moments of whole processes: one line, the page, the right code."""
    tally, chance = Tally(), random.Random(seed)
    commands = jobs(small_images(home / "in", 200))
    for i in range(count):
        name = ("run", "image", "compare", "run")[i % 4]
        number = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)[i % 3]
        there = home / f"{i}"
        there.mkdir()
        reset = functools.partial(signal.signal, number, signal.SIG_DFL)
        process = subprocess.Popen(
            [sys.executable, "-m", "yolov5_featviz", *commands[name]],
            cwd=there,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=reset,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        if i % 2:  # in the middle of the pictures
            until = time.monotonic() + HANG
            while not list(there.rglob("*.png")) and time.monotonic() < until and process.poll() is None:
                time.sleep(0.02)
        time.sleep(chance.uniform(0.3, 2.5) if i % 2 == 0 else chance.uniform(0, 0.5))
        process.send_signal(number)
        try:
            errors = process.communicate(timeout=HANG)[1]
            code: Optional[int] = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            errors, code = process.communicate()[1], None
        words = f"{number.name} to {name}"
        early = [] if number == signal.SIGINT else [-number]  # before anything of ours runs
        tally.judge(code, errors, there, words, [0, 128 + number, *early])
        for path in damaged(there):
            tally.note("wrong", f"{words}: {path} is not whole")
        pictures = list(there.rglob("*.png"))
        page = list(there.rglob("means.csv" if name == "compare" else "index.html"))
        if pictures and not page:
            tally.note("wrong", f"{words}: {len(pictures)} pictures, but no page or table: {errors[-300:]}")
        if code == 128 + number and errors.count("yolov5-featviz: interrupted") != 1:
            tally.note("wrong", f"{words}: not one line: {errors[-300:]}")
    return tally


def full_disk(home: Path, count: int, seed: int) -> Tally:
    """No file may grow beyond a random size: exit code 1, one line for each reason, whole files."""
    tally, chance = Tally(), random.Random(seed)
    commands = jobs(small_images(home / "in", 3))
    figure = "rows: [{image: in/000.jpg}]\ncolumns: [{show: detections}, {layer: 17}]\nimgsz: 64\ndpi: 72\n"
    (home / "f.yaml").write_text(f"{figure}output: [f.png, f.svg]\nweights: {WEIGHTS}\n")
    commands["figure"] = ["figure", "f.yaml"]
    for i in range(count):
        name = list(commands)[i % len(commands)]
        size = int(10 ** chance.uniform(2, 5.3))
        code, errors = forked(commands[name], home, file_size=size)
        tally.judge(code, errors, home, (name, size), [0, 1])
        if code == 1 and "could not save: [Errno 27]" not in errors:
            tally.note("wrong", f"{name} at {size} does not say what is missing: {errors[-300:]}")
        for path in [*damaged(home), *map(str, home.rglob("*.part"))]:
            tally.note("wrong", f"{name} at {size}: {path} is not whole")
            os.unlink(path)
    return tally


def odd_files(folder: Path) -> Dict[str, Callable[[Path], Any]]:
    """Makers of files that a folder of images may hold, by name."""
    whole = (images_folder() / "bus.jpg").read_bytes()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)

    def saved(mode: str, size: Tuple[int, int] = (64, 48), **options: Any) -> Callable[[Path], Any]:
        image = Image.fromarray(pixels).resize(size).convert("RGB")
        image = image if mode == "RGB" else image.convert(mode)
        return lambda path: image.save(path, **{"format": KINDS[path.name[-4:]], **options})

    def raw(content: bytes) -> Callable[[Path], Any]:
        return lambda path: path.write_bytes(content)

    makers = {
        "empty.jpg": raw(b""),
        "text.jpg": raw(b"no image"),
        "cut.jpg": raw(whole[: len(whole) // 2]),
        "head.jpg": raw(whole[:20]),
        "zeros.png": raw(bytes(1000)),
        "as_png.png": raw(whole),
        "as_jpg.jpg": saved("RGB", format="PNG"),
        "grey.png": saved("L"),
        "one_bit.png": saved("1"),
        "palette.png": saved("P"),
        "alpha.png": saved("RGBA"),
        "grey_alpha.png": saved("LA"),
        "cmyk.jpg": saved("CMYK"),
        "sixteen.png": lambda p: Image.fromarray(pixels[..., 0].astype(np.uint16)).save(p),
        "float.tif": saved("F"),
        "one.png": saved("RGB", (1, 1)),
        "flat.png": saved("RGB", (5000, 1)),
        "thin.png": saved("RGB", (1, 5000)),
        "two.png": saved("RGB", (2, 3)),
        "folder.jpg": lambda path: path.mkdir(),
        "broken_link.jpg": lambda path: path.symlink_to("nowhere"),
        "loop.jpg": lambda path: path.symlink_to(path.name),
        "null.jpg": lambda path: path.symlink_to(os.devnull),
        "fifo.jpg": lambda path: os.mkfifo(path),
        "line\nend.jpg": saved("RGB"),
        "escape\x1b[31m.jpg": saved("RGB"),
        "bidi\u202e.jpg": saved("RGB"),
        os.fsdecode(b"\xff\xfe.jpg"): saved("RGB"),
        "<b>&amp;.jpg": saved("RGB"),
        f"$(touch {CANARY}).jpg": saved("RGB"),
        "%s%n.jpg": saved("RGB"),
        f"{'long' * 62}.jpg": saved("RGB"),
        "é中.jpg": saved("RGB"),
        " .jpg": saved("RGB"),
        "....jpg": saved("RGB"),
        "-rf.jpg": saved("RGB"),
        "good.png": saved("RGB"),
    }
    animated = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    makers["animated.webp"] = lambda p: animated[0].save(p, save_all=True, append_images=animated[1:])
    makers["pages.tif"] = lambda p: animated[0].save(p, save_all=True, append_images=animated[1:])
    return makers


BLOCKING = ("fifo.jpg", "null.jpg")  # YOLOv5 itself would wait for their pixels: `run` refuses the folder


def odd_images(home: Path, count: int, seed: int) -> Tally:
    """A good image and an odd file in one folder: the good one is always drawn."""
    tally = Tally()
    makers = list(odd_files(home).items())
    random.Random(seed).shuffle(makers)
    for i, (file, make) in enumerate(makers[:count]):
        for name in ("run", "image", "compare"):
            there = home / f"{i}{name}"
            source = small_images(there / "in", 1)
            make(source / file)
            code, errors = forked(jobs(source)[name], there)
            blocks = name == "run" and file in BLOCKING
            tally.judge(code, errors, there, (name, file), [2] if blocks else [0, 1])
            if not blocks and not [path for path in there.rglob("*.png") if "000" in str(path) and "in" not in path.parts]:
                tally.note("wrong", f"{name} beside {file!r}: the good image was not drawn: {errors[-300:]!r}")
            for path in damaged(there / "runs"):
                tally.note("wrong", f"{name}: {path} is not whole")
    return tally


VALUES = [
    *("", "--", "-", "---", "0", "-1", "1", "17", "999", "99999999999999999999", "nan", "inf", "1e400", "0x10", "٣"),
    *("x" * 300, "x/" * 3000, "\udcff", "a\nb", "\x1b[31mred", "17,", ",", "all", "0-9", "24", "..", "/dev/null", "{}"),
    *("%s", "a=b", "*", "[", "~nobody", "http://[", "1 2", "é中", "on", "off", "jet", "mean", "max", "png", "pdf,npy"),
    *("grid,cam", "top:3", "top:999", "first:0", "person:0", "add:0.4", "torchvision:nope", "os:system", "x.py:f"),
]


def mutated(words: Sequence[str], chance: random.Random) -> List[str]:
    """A command line with one to three changes."""
    words = list(words)
    for _ in range(chance.randint(1, 3)):
        i = chance.randrange(len(words))
        change = chance.randrange(7)
        if change == 0:
            del words[i]
        elif change == 1:
            words.insert(i, words[chance.randrange(len(words))])
        elif change == 2 and words[i].startswith("--"):
            words[i] = f"{words[i].split('=')[0]}={chance.choice(VALUES)}"
        elif change == 3 and words[i]:
            at = chance.randrange(len(words[i]))
            words[i] = words[i][:at] + chance.choice("-=,:/*0 é\udc80\x07") + words[i][at + 1 :]
        elif change == 4:
            words.insert(i, chance.choice(VALUES))
        else:
            words[i] = chance.choice(VALUES)
        words = words or ["layers"]
    return [word.replace("\0", "") for word in words]


def command_lines(home: Path, count: int, seed: int) -> Tally:
    """Mutants of real command lines: done, or refused in one line."""
    tally, chance = Tally(), random.Random(seed)
    there = home / "a" / "b" / "c"
    source = small_images(there / "in", 1)
    shutil.copy(WEIGHTS, there / "w.pt")
    real = [[word.replace(WEIGHTS, "w.pt").replace(str(source), "in") for word in job] for job in jobs(source).values()]
    flags = ["--visualize-mode", "grid,heatmap", "--visualize-channels", "8", "--visualize-dir", "d"]
    flags += [
        "--visualize-norm",
        "layer",
        "--visualize-reduce",
        "max",
        "--visualize-cmap",
        "jet",
        "--visualize-limit=1",
    ]
    real[0] += flags
    real += [
        ["layers", "--weights", "w.pt", "--imgsz", "64", "--json"],
        ["layers", "--model", "torchvision:resnet18", "--imgsz", "64", "--depth", "1"],
        ["figure", "f.yaml", "--output", "f.png", "--dpi", "72"],
        ["info", "in/000.jpg", "--json"],
        ["redo", "in/000.jpg", "--weights", "w.pt"],
        ["patch", "in", "--reverse"],
    ]
    for _ in range(count):
        words = mutated(chance.choice(real), chance)
        code, errors = forked(words, there)
        tally.judge(code, errors, there, words, [0, 1, 2])
    return tally


def delegated(module: str, count: int, seed: int) -> Optional[Tally]:
    """What ``fuzz(count, seed)`` of a module in ``tests`` counts; None if there is no such module."""
    if not (ROOT / "tests" / f"{module}.py").is_file():
        return None
    code = f"import json, {module}; print(json.dumps({module}.fuzz({count}, {seed})))"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    tally = Tally()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            timeout=120 + count,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        tally["tries"] += found.get("tries", count)
        for column in COLUMNS[1:]:
            tally[column] += found.get(column, 0)
        for example in found.get("examples") or ():
            print(f"{module}: {example}", file=sys.stderr)
    except subprocess.TimeoutExpired:
        tally.note("hangs", f"{module} did not end")
    except (subprocess.CalledProcessError, ValueError, IndexError) as error:
        tally.note("crashes", f"{module}: {error}")
    return tally


CLASSES: Dict[str, Tuple[Callable[[Path, int, int], Tally], int, int]] = {  # with tries, and those of a smoke run
    "killed at random moments": (kills, 40, 3),
    "SIGTERM, SIGHUP, SIGINT": (signals, 30, 3),
    "full disk": (full_disk, 20, 4),
    "odd images": (odd_images, 100, 4),
    "command lines": (command_lines, 1000, 40),
}


def table(tallies: Dict[str, Tally]) -> str:
    """The counts, in Markdown."""
    lines = [
        "| class of fault | tries | code run | crashes | hangs (20 s) | tracebacks | wrong results |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [f"| {name} | {' | '.join(str(tally[c]) for c in COLUMNS)} |" for name, tally in tallies.items()]
    return "\n".join(lines)


def main() -> int:
    """Run all classes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="the classes whose name holds this")
    o = parser.parse_args()
    prepare()
    tallies: Dict[str, Tally] = {}
    for name, (run, count, few) in CLASSES.items():
        if o.only is None or o.only in name:
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as home:
                tallies[name] = run(Path(home), few if o.quick else count, o.seed)
            print(f"{name}: {tallies[name]['tries']} tries in {time.monotonic() - start:.0f} s", file=sys.stderr)
    for name, (module, count) in DELEGATED.items():
        if o.only is None or o.only in name:
            found = delegated(module, 50 if o.quick else count, o.seed)
            if found is None:
                print(f"{name}: there is no tests/{module}.py", file=sys.stderr)
            else:
                tallies[name] = found
    for name, tally in tallies.items():
        for note in tally.notes:
            print(f"{name}: {note}", file=sys.stderr)
    print(table(tallies))
    bad = [name for name, tally in tallies.items() if not tally["tries"] or any(tally[c] for c in COLUMNS[1:])]
    return int(bool(bad) or not tallies)


def prepare() -> None:
    """Import what takes long, so that forks need not; and few threads, since a fork has none of them."""
    os.environ.update(OMP_NUM_THREADS="1", MPLBACKEND="agg")
    sys.path.insert(0, str(ROOT))
    import torch
    import torchvision  # noqa: F401

    import yolov5_featviz.yolov5.compare
    import yolov5_featviz.yolov5.runner  # noqa: F401

    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())
