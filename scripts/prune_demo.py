"""Prune the demo checkpoint, for something to compare it with: python scripts/prune_demo.py.

In each convolution the weights of the smallest magnitude become 0, a given share of them, without any
training after that: what a network is before it recovers. Nothing of YOLOv5 is needed, and the same
checkpoint gives the same bytes.
"""

import argparse
import zipfile
from pathlib import Path

import numpy as np

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"


def prune(checkpoint: Path, out: Path, amount: float) -> None:
    """Write ``checkpoint``, of fp16 weights, with ``amount`` of each convolution's weights 0."""
    with zipfile.ZipFile(checkpoint) as old, zipfile.ZipFile(out, "w") as new:
        for member in old.infolist():
            content = old.read(member)
            if "/data/" in member.filename and len(content) > 2048:  # what is smaller are biases and norms
                weights = np.frombuffer(content, np.float16).copy()
                weights[np.abs(weights) < np.quantile(np.abs(weights.astype(np.float32)), amount)] = 0
                content = weights.tobytes()
            new.writestr(member, content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS / "best.pt")
    parser.add_argument("--out", type=Path, default=WEIGHTS / "pruned.pt")
    parser.add_argument("--amount", type=float, default=0.4, help="share of the weights, default 0.4")
    args = parser.parse_args()
    prune(args.weights, args.out, args.amount)
