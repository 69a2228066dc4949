"""Make the pictures of README.md and docs/, below docs/figures: python scripts/figures.py [--check].

All are of the demo checkpoint, weights/best.pt, on two photographs that come with YOLOv5, each by the
command that a user would type; `yolov5-featviz info` tells which. Made twice on one machine they are the
same bytes: --check makes them anew beside and names those that differ.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List

import yolov5_featviz as fv
from yolov5_featviz.runs.provenance import read_record
from yolov5_featviz.yolov5.source import find_source

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
WEIGHTS, PRUNED = ROOT / "weights" / "best.pt", ROOT / "weights" / "pruned.pt"
# Of each run of detect.py: its flags, and what is taken from the folder of bus.jpg.
RUNS: List[Dict[str, object]] = [
    {
        "flags": ["--visualize-channels", "top:16:contrast", "--visualize-dpi", "150"],
        "take": {"stage17_C3_features.png": "grid.png"},
    },
    {
        "flags": ["--visualize-mode", "heatmap", "--visualize-boxes", "--visualize-format", "jpg"],
        "take": {"stage17_C3_heatmap.jpg": "heatmap.jpg"},
    },
]


def make(folder: Path) -> None:
    """Make all of them in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    images = find_source().root / "data" / "images"
    tool("scripts/prune_demo.py", cwd=ROOT)
    with tempfile.TemporaryDirectory() as home:
        for i, run in enumerate(RUNS):
            words = ["--weights", WEIGHTS, "--source", images / "bus.jpg", "--visualize-layers", "17"]
            tool(ROOT / "detect.py", *words, *run["flags"], "--nosave", "--name", f"run{i}", cwd=home)
            for pattern, name in run["take"].items():
                (picture,) = Path(home, "runs", "detect", f"run{i}", "bus").glob(pattern)
                (folder / name).write_bytes(picture.read_bytes())
        words = ["--layers", "17", "--format", "jpg", "--dpi", "100", "--project", "runs", "--name", "compare"]
        words = ["compare", "--weights", WEIGHTS, PRUNED, "--source", images / "bus.jpg", *words]
        tool("-m", "yolov5_featviz", *words, cwd=home)
        (picture,) = Path(home, "runs", "compare").rglob("bus*.jpg")
        (folder / "compare.jpg").write_bytes(picture.read_bytes())
        for name in ("layers", "comparison", "ways"):
            output = ["--output", Path(home, f"{name}.jpg"), "--dpi", "150"]
            tool("-m", "yolov5_featviz", "figure", f"scripts/figure_{name}.yaml", *output, cwd=ROOT)
            (folder / f"{name}.jpg").write_bytes(Path(home, f"{name}.jpg").read_bytes())
    fv.kernels(fv.load(WEIGHTS), 0, dpi=150).save(folder / "kernels.png")


def tool(*words: object, cwd: object) -> None:
    """Run Python with this project's package; what it says is shown only if it fails."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=str(cwd), env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def differ(folder: Path, other: Path) -> List[str]:
    """The names of files that are not the same in both."""
    names = sorted({path.name for path in (*folder.glob("*"), *other.glob("*"))})
    return [
        name
        for name in names
        if not ((folder / name).is_file() and (other / name).is_file())
        or (folder / name).read_bytes() != (other / name).read_bytes()
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if they would come out anew")
    if parser.parse_args().check:
        with tempfile.TemporaryDirectory() as fresh:
            make(Path(fresh))
            changed = differ(Path(fresh), FIGURES)
        sys.exit(f"not as they are in docs/figures: {', '.join(changed)}" if changed else 0)
    make(FIGURES)
    for figure in sorted(FIGURES.glob("*.*")):
        print(
            f"{figure.relative_to(ROOT)}  {figure.stat().st_size / 1000:.0f} kB  {read_record(figure).get('shows', '')}"
        )
