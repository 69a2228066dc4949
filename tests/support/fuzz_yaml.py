"""Fuzz of figures' YAML files, changed by structure and by bytes, through `figure`.

``fuzz(count, seed)`` returns how many calls ended in which way: ``accepted`` (all checks passed; nothing is drawn),
``refused`` (one line, exit 2), ``wrong`` (anything else; of these ``examples`` holds the first).
"""

import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
from fuzz_records import SECONDS, call, damaged, verdict
from PIL import Image

import yolov5_featviz.yolov5.figure as figures

FIGURES = (
    """\
output: fig.png
weights: a.pt
image: light.png
width: ieee-column
columns: [input, {layer: 17, title: "heat $x^2$"}, {layer: 20, show: channel, channel: 3}]
rows: [{crop: [0, 0, 5, 5]}, light.png]
""",
    """\
output: [a.pdf, b.svg]
width: 3.5
dpi: 300
font: serif
letters: panels
letter: (a)
style: &s {norm: zero, cmap: jet}
weights: a.pt
rows:
  - image: light.png
    zoom: {box: [0, 0, 4, 4], corner: upper left, share: 0.4}
columns:
  - {layer: 17, channels: 0-63, scale: [0, 1.5], boxes: true}
  - {layer: 17, show: cam, method: layer-cam, target: person}
""".replace("style: &s {norm: zero, cmap: jet}\n", "norm: zero\ncmap: jet\n"),
)
ODD = (
    *("2020-13-45", "2020-01-01", "!!float x", "!!int x", "!!bool x", "!!timestamp x", "!!binary x", "!!null x"),
    *("[" * 800 + "]" * 800, "[" * 15 + "]" * 15, "{a: " * 30 + "1" + "}" * 30, "9" * 5000, "-" + "9" * 60, "1e999"),
    *(".nan", ".inf", "-.inf", "1e9", "1e6", "0x" + "f" * 80, "1:" * 20 + "1", "!!python/object/apply:os.system [x]"),
    *("!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!str [a]", "!!map a", "!!seq a", "? [a]", "~", "''", "yes"),
    *('"\\e[31m"', '"\\uD800"', '"\\0"', '"\\u202E"', "/etc/x.png", "../../x.png", "x" * 300, "x" * 3000, "*", "&a a"),
    *("[1, 2, 3, 4]", "[.nan, 0, 1, 1]", "[-.inf, 0, .inf, 5]", "{a: 1, a: 2}", "-1", "0", "5", "0-9999999999", "all"),
    *(
        "top:999999999999",
        "$\\frac{$",
        '"$\\\\frac{" + "$"',
        "'$\\frac{1}{$'",
        "'$' ",
        "'$_$'",
        "\x07",
        "\ufeff",
        "\xff",
    ),
    *("[light.png, light.png]", "input", "detections", "grid", "cam", "&x [*x]", "'" + "$x^{" * 100 + "}" * 100 + "$'"),
)
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(12)
)
WHOLE = (
    *("", "\n", "a", "- a", "[", "{", "--- a\n--- b", "\ufeff" + FIGURES[0], BOMB, BOMB + FIGURES[0], "rows: 5"),
    *("%YAML 9.9\n---\na: 1", "<<: *x", "a: &a\n  <<: *a", "rows: [" + "light.png, " * 200_000 + "]\ncolumns: [input]"),
    *("rows: [" + "light.png, " * 200 + "]\ncolumns: [input]", "? " * 500, "- " * 900, "a: |\n " + "x\n " * 5000),
    *("x" * (2 << 20), "#" * 100_000, "&a " * 50, "!<tag:yaml.org,2002:python/name:os.system> x", "\x00", "\t: x"),
)


def mutated(text, rng):
    """A figure with one of its values replaced, or lines repeated, moved or taken out."""
    act = rng.random()
    if act < 0.75:
        places = [i for i, c in enumerate(text) if c in ":[,{" and text[i + 1 : i + 2] == " "] or [0]
        at = rng.choice(places) + 2
        end = next((i for i in range(at, len(text)) if text[i] in ",]}\n"), len(text))
        return text[:at] + rng.choice(ODD) + text[end:]
    lines = text.splitlines(keepends=True)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    if act < 0.85:
        lines[i:i] = [lines[j]]
    elif act < 0.95:
        del lines[i]
    else:
        lines[i], lines[j] = lines[j], lines[i]
    return "".join(lines) or "a"


def fuzz(count, seed=0):
    """Check ``count`` mutated files as `figure` does; return how often each ended in which way."""
    rng = random.Random(seed)
    found = Counter()
    before, accepted = os.getcwd(), []

    def drawn(spec, command, trust=False, device=None):
        accepted.append(spec)
        raise figures.FeatvizError("not drawn here")

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(figures, "draw_figure", drawn):
        os.chdir(folder)
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save("light.png")
        Path("a.pt").write_bytes(b"")
        there = sorted(os.listdir())
        try:
            for n in range(count):
                text = rng.choice(FIGURES)
                act = rng.random()
                if act < 0.1:
                    content = rng.choice(WHOLE).encode("utf-8", "surrogatepass")
                elif act < 0.3:
                    content = damaged(text.encode(), rng)
                else:
                    for _ in range(rng.choice((1, 1, 2, 3))):
                        text = mutated(text, rng)
                    content = text.encode("utf-8", "surrogatepass")
                Path("f.yaml").write_bytes(content)
                passed, start = len(accepted), time.monotonic()
                ended = verdict(*call(["figure", "f.yaml"]))
                if time.monotonic() - start > SECONDS:
                    ended = "wrong: too slow"
                if len(accepted) > passed:
                    ended = "accepted" if ended == "refused" else ended
                    home = Path(folder).resolve()
                    if any(home not in Path(output).resolve().parents for output in accepted[-1].outputs):
                        ended = "wrong: an output elsewhere"
                os.unlink("f.yaml")
                if sorted(os.listdir()) != there:
                    ended = "wrong: something was written"
                found[ended.split(":")[0]] += 1
                if ended.startswith("wrong"):
                    found["examples"] = found.get("examples") or []
                    found["examples"] += [f"{n}: {ended}: {content[:300]!r}"] * (len(found["examples"]) < 20)
        finally:
            os.chdir(before)
    return dict(found)


if __name__ == "__main__":
    import sys

    print(fuzz(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
