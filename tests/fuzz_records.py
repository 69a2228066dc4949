"""Fuzz of records: real files, changed by structure and by bytes, through `info` and `redo`.

``fuzz(count, seed)`` returns how many calls ended in which way: ``told`` (exit 0), ``refused`` (one line, exit 2),
``wrong`` (anything else; of these ``examples`` holds the first). Nothing is run: a command that would be is counted
as ``run``, and only those that :mod:`yolov5_featviz.yolov5.recorded` lets pass may come that far.
"""

import contextlib
import copy
import io
import json
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np

import yolov5_featviz as fv
import yolov5_featviz.cli as cli
from yolov5_featviz.about import KEY
from yolov5_featviz.layers import Layer
from yolov5_featviz.provenance import made
from yolov5_featviz.text import printable

FORMATS = ("png", "jpg", "tif", "svg", "pdf")
SECONDS = 20  # that a call may take
RECORD = {
    "layer": "20",
    "type": "C3",
    "map": [8, 4, 5],
    "input": [32, 40],
    "shows": "grid",
    "channels": "0-7",
    "by": "mean",
    "norm": "channel",
    "scale": [[0.0, 1.0]] * 8,
    "file": "a.png",
    "folder": "bus",
    "image": {"name": "bus.jpg", "sha256": "0" * 64},
}
COMMANDS = (
    ["run", "detect.py", "--weights", "best.pt", "--source", "bus.jpg", "--visualize-layers", "20", "--imgsz", "64"],
    ["image", "--model", "torchvision:alexnet", "--layers", "0", "--source", "a.png"],
    ["compare", "--weights", "a.pt", "b.pt", "--layers", "17,20", "--source", "bus.jpg", "--project", "runs"],
    ["figure", "fig.yaml", "--output", "fig.pdf"],
)
SPEC = {"weights": "a.pt", "rows": ["bus.jpg"], "columns": ["input", {"layer": 17, "title": "x"}], "width": 3.5}
ODD = (
    *(None, True, False, 0, -1, 5, 10**30, -0.5, 1e308, "", "a", "5", "../../x", "/etc/passwd", "a/b", "\x1b[31m"),
    *("\ud800", "\u202e", "\x00", "0-9999999999999", "9" * 400, "--run", "-x", "default", "rtsp://a/b", "x" * 300),
    *([], {}, [[]], [None], [5], ["run"], {"a": 1}, {"name": 5}, {"name": "x", "sha256": 5}, [[1, 2], 3], [1, 2, 3]),
    *(["a"] * 300, {"name": "../x.jpg", "sha256": "0" * 64}, {"name": "\x1b]0;x\x07"}, [["x", "y"]], "os:system(1)"),
)
RAW = (
    *("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "-" + "9" * 5000, "[" * 2000 + "]" * 2000, '"\\ud800"'),
    *('{"a":' * 500 + "1" + "}" * 500, '"\\u0000"', '"\\u001b[2J"', "[" * 60 + "]" * 60, "1e-400", "tru", "01", "'a'"),
)


def records():
    """Records of each command, as they are written."""
    weights = [{"name": "a.pt", "sha256": "0" * 64}, {"name": "b.pt", "sha256": "1" * 64}]
    for command in COMMANDS:
        n = 2 if command[0] == "compare" else 0 if command[0] == "image" else 1
        more = {"weights": weights[:n]} if n else {}
        if command[0] == "figure":
            more.update(figure=SPEC, images=[{"name": "bus.jpg", "sha256": "0" * 64}])
        if command[0] == "compare":
            more.update(models=["a", "b"])
        yield {**made(command), **RECORD, **more}


def mutated(value, rng, depth=0):
    """``value`` with one of its parts changed."""
    value = copy.copy(value)
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys or (depth and rng.random() < 0.25):
        return rng.choice(ODD)
    key = rng.choice(keys)
    act = rng.random()
    if act < 0.1:
        del value[key]
    elif act < 0.2 and isinstance(value, list):
        value.insert(key, rng.choice(ODD))
    elif act < 0.25 and isinstance(value, dict):
        value[str(rng.choice(ODD))] = rng.choice(ODD)
    else:
        value[key] = mutated(value[key], rng, depth + 1)
    return value


def damaged(content, rng):
    """Bytes with some of them changed, taken out or put in."""
    content = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 20))):
        at = rng.randrange(len(content))
        act = rng.random()
        if act < 0.6:
            content[at] = rng.choice((0, 255, rng.randrange(256)))
        elif act < 0.8:
            del content[at : at + rng.choice((1, 4, 100))]
        else:
            content[at:at] = rng.choice((b"\xff\xff\xff\xff", b"(", b"\0" * 9, b"{", content[:50]))
        if len(content) < 2:
            break
    return bytes(content)


def contained(about, words, suffix):
    """A file of one of the formats with a record in it; ``words`` instead of the record's JSON, if they are given."""
    text = words if words is not None else json.dumps({KEY: "0.1.0", **about})
    if suffix in FORMATS:
        layer = Layer("model.20", None, "C3", index=20, name="20")
        picture = fv.FeatureMap(fv_tensor(), layer).grid(plain=True, dpi=20)
        with mock.patch("yolov5_featviz.formats.dumps", lambda about: text):
            return picture.encode(suffix)
    if suffix == "npy":
        stream = io.BytesIO()
        np.save(stream, np.zeros((2, 3), np.float32))
        np.save(stream, np.array(text.encode("utf-8", "surrogatepass")))
        return stream.getvalue()
    return (text if suffix == "json" else f"% {KEY} {text}\n\\begin{{tabular}}").encode("utf-8", "surrogatepass")


def fv_tensor():
    """The values of a small map."""
    import torch

    return torch.zeros(1, 2, 2)


def call(words):
    """Run the command line in this process; return exit code or exception, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(words)
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            code = error
    return code, out.getvalue(), err.getvalue()


def verdict(code, out, err):
    """``told``, ``refused``, or what is wrong with how a call ended."""
    lines = err.splitlines()
    if isinstance(code, BaseException):
        return f"wrong: {type(code).__name__}: {code}"
    if any(printable(c) != c for c in (out + err) if c != "\n"):
        return "wrong: control characters"
    if code == 0:
        return "told"
    own = [line for line in lines if not line.startswith(f"{KEY}: running ")]
    if code != 2 or len(own) != 1 or not own[0].startswith(f"{KEY}: error: "):
        return f"wrong: exit {code}, {len(own)} lines"
    return "refused"


def fuzz(count, seed=0):
    """Call `info`, `info --json` and `redo` with ``count`` mutated files; return how often each ended in which way."""
    rng = random.Random(seed)
    found = Counter()
    kinds = (*FORMATS, "npy", "tex", "json")
    originals = list(records())
    files = {kind: [contained(about, None, kind) for about in originals] for kind in kinds}
    before, ran = os.getcwd(), []

    def record_run(words, command):
        if not asked:
            ran.append(words)
        return 0

    asked = False
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(cli, "_again", record_run):
        os.chdir(folder)
        Path("a.png").write_bytes(files["png"][0])
        for name in ("a.pt", "b.pt", "best.pt", "bus.jpg"):
            Path(name).write_bytes(b"")
        try:
            for n in range(count):
                kind = rng.choice(kinds)
                i = rng.randrange(len(originals))
                act = rng.random()
                if act < 0.25:
                    content = damaged(files[kind][i], rng)
                else:
                    about = originals[i]
                    for _ in range(rng.choice((1, 1, 2, 4))):
                        about = mutated(about, rng)
                        about = about if isinstance(about, dict) else originals[i]
                    words = None
                    if act < 0.4:
                        key = rng.choice(sorted(about)) if about else "x"
                        rest = {name: value for name, value in about.items() if name != key}
                        words = json.dumps(rest)[:-1] + f", {json.dumps(str(key))}: {rng.choice(RAW)}}}"
                    content = contained(about, words, kind if act >= 0.4 else rng.choice(("tex", "json", "npy", "svg")))
                name = f"f{n}.{kind}"
                Path(name).write_bytes(content)
                words = rng.choice((["info"], ["info", "--json"], ["redo"], ["redo"], ["redo", "--run"]))
                asked = words == ["redo", "--run"]
                start = time.monotonic()
                ended = verdict(*call([*words, name]))
                if time.monotonic() - start > SECONDS:
                    ended = "wrong: too slow"
                found[ended.split(":")[0]] += 1
                if ended.startswith("wrong"):
                    found.setdefault("examples", [])
                    found["examples"] += [f"{' '.join(words)} {n}: {ended}"] * (len(found["examples"]) < 20)
                os.unlink(name)
        finally:
            os.chdir(before)
    found["run"] = len(ran)
    strange = [words for words in ran if not _is_harmless(words, Path(folder).resolve())]
    if strange:
        found["wrong"] += len(strange)
        found["examples"] = [*found.get("examples", []), *(f"ran {words}" for words in strange[:20])]
    return dict(found)


def _is_harmless(words, folder):
    """Judged by other means than the package: no code but YOLOv5's, no address, no place to write but a new folder."""
    script = [words[1]] if words[0] == "run" else []
    if script and (Path(script[0]).name not in ("detect.py", "predict.py") or folder in Path(script[0]).parents):
        return False
    if words[0] == "image" and not words[words.index("--model") + 1].startswith(("torchvision:", "timm:")):
        return False
    for flag in ("--visualize-dir", "--output", "--project"):
        value = words[words.index(flag) + 1] if flag in words else ""
        if value and "featviz-" not in value:
            return False
    words = [word for word in words if "featviz-" not in word]  # in the new folder a file may have any name
    return not any("://" in word or ".." in word or "\x1b" in word or "system" in word for word in words)


if __name__ == "__main__":
    import sys

    print(fuzz(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
