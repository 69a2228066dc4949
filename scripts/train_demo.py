"""Train ``weights/best.pt``, the demo checkpoint, or ``weights/epoch60.pt``, with YOLOv5's own ``train.py``.

The photographs are those that come inside the packages of ``requirements-dev.txt``; the boxes
below were drawn by hand. Ten photographs are far too few for a detector to learn from: the
result has memorised them, which is all that the demo and the tests need.

    python scripts/train_demo.py --epochs 150 --out weights/best.pt
    python scripts/train_demo.py --epochs 60 --hyp mosaic=0.5 scale=0.6 --out weights/epoch60.pt
    python scripts/train_demo.py --only-data demo-data  # the photographs and their labels, for val.py or a comparison
"""

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import matplotlib
import skimage
import sklearn.datasets
import yaml

NAMES = ["person", "bus", "tie", "motorcycle", "cat", "cup"]

# photograph: [(class, x1, y1, x2, y2) in pixels of the original]
LABELS = {
    "yolov5/bus.jpg": [
        ("bus", 8, 232, 803, 718),
        ("person", 57, 400, 246, 901),
        ("person", 224, 405, 344, 859),
        ("person", 669, 398, 810, 880),
        ("person", 0, 553, 78, 872),
    ],
    "yolov5/zidane.jpg": [
        ("person", 118, 203, 1153, 720),
        ("person", 748, 42, 1142, 720),
        ("tie", 438, 437, 522, 720),
    ],
    "skimage/astronaut.png": [("person", 22, 18, 358, 512)],
    "skimage/camera.png": [("person", 20, 60, 332, 512)],
    "skimage/chelsea.png": [("cat", 8, 0, 420, 300)],
    "skimage/coffee.png": [("cup", 168, 15, 427, 310)],
    "skimage/motorcycle_left.png": [("motorcycle", 94, 95, 690, 458)],
    "matplotlib/grace_hopper.jpg": [("person", 12, 22, 512, 600)],
    "sklearn/china.jpg": [],
    "sklearn/flower.jpg": [],
}

# What differs from YOLOv5's hyp.scratch-low.yaml. The optimiser normally steps once in 64 images;
# while it warms up it steps more often, so a warm-up as long as the training gets the most out of
# few images, and the rate it warms up to is never reached.
HYP = {
    "lr0": 0.005,
    "lrf": 0.01,
    "warmup_bias_lr": 0.01,
    "degrees": 5.0,
    "scale": 0.5,
    "mosaic": 0.4,
    "mixup": 0.05,
    "hsv_h": 0.02,
}


def folder_of(package: str, yolov5: Path) -> Path:
    """The folder inside an installed package in which its photographs lie."""
    return {
        "yolov5": yolov5 / "data" / "images",
        "skimage": Path(skimage.__file__).parent / "data",
        "matplotlib": Path(matplotlib.get_data_path()) / "sample_data",
        "sklearn": Path(sklearn.datasets.__file__).parent / "images",
    }[package]


def write_dataset(root: Path, yolov5: Path, copies: int, hyp: dict) -> Path:
    """Lay the photographs and labels out as YOLOv5 wants them; return the dataset's YAML.

    YOLOv5 reads each file once an epoch, so files are copied to make an epoch of a useful length;
    the two demo photographs twice as often as the rest.
    """
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
    for name, boxes in LABELS.items():
        package, file = name.split("/")
        source = folder_of(package, yolov5) / file
        height, width = cv2.imread(str(source)).shape[:2]
        rows = [
            f"{NAMES.index(c)} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} "
            f"{(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f}"
            for c, x1, y1, x2, y2 in boxes
        ]
        n = copies * (2 if package == "yolov5" else 1)
        for split, k in [("val", 0)] + [("train", k) for k in range(n)]:
            stem = f"{source.stem}_{k:02d}"
            shutil.copy(source, root / "images" / split / f"{stem}{source.suffix}")
            (root / "labels" / split / f"{stem}.txt").write_text("\n".join(rows) + "\n")
    data = {"path": str(root), "train": "images/train", "val": "images/val", "nc": len(NAMES), "names": NAMES}
    (root / "data.yaml").write_text(yaml.safe_dump(data))
    known = yaml.safe_load((yolov5 / "data" / "hyps" / "hyp.scratch-low.yaml").read_text())
    if set(hyp) - set(known):
        sys.exit(f"no hyperparameter {min(set(hyp) - set(known))}: YOLOv5 has {', '.join(known)}")
    (root / "hyp.yaml").write_text(yaml.safe_dump({**known, **HYP, **hyp}))
    return root / "data.yaml"


def publish(trained: Path, out: Path) -> None:
    """Re-save ``trained`` as a plain YOLOv5 checkout would have saved it.

    The wheel pickles its classes as ``yolov5.models.*``, a checkout as ``models.*``, which is what
    every reader of checkpoints knows. The training options go: they hold paths of this machine.
    """
    import torch

    checkpoint = torch.load(trained, map_location="cpu", weights_only=False)
    model = checkpoint["model"].half()
    for name in [n for n in sys.modules if n == "yolov5.models" or n.startswith("yolov5.models.")]:
        sys.modules[name[len("yolov5.") :]] = sys.modules[name]
    for module in model.modules():
        kind = type(module)
        if kind.__module__.startswith("yolov5."):
            kind.__module__ = kind.__module__[len("yolov5.") :]
        if isinstance(getattr(module, "type", None), str):
            module.type = module.type.replace("yolov5.models.", "models.")
    model.names = dict(enumerate(NAMES))
    empty = dict.fromkeys(["best_fitness", "ema", "updates", "optimizer", "wandb_id", "opt", "git"])
    torch.save({**empty, "epoch": -1, "model": model, "date": checkpoint["date"]}, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--copies", type=int, default=16, help="copies of a photograph in one epoch")
    parser.add_argument("--imgsz", type=int, default=448, help="varied by +-50%% while training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hyp", nargs="+", default=[], metavar="NAME=VALUE", help="other hyperparameters than here")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "weights" / "best.pt")
    parser.add_argument("--only-data", type=Path, metavar="DIR", help="write photographs and labels; do not train")
    args = parser.parse_args()
    changed = {name: float(value) for name, _, value in (word.partition("=") for word in args.hyp)}
    hyp = {"warmup_epochs": float(args.epochs), **changed}

    checkout = Path(importlib.util.find_spec("yolov5").origin).parent
    if args.only_data is not None:
        print(write_dataset(args.only_data.absolute(), checkout, 0, hyp))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = write_dataset(root / "data", checkout, args.copies, hyp)
        command = [
            *(
                sys.executable,
                str(checkout / "train.py"),
                "--weights",
                "",
                "--cfg",
                str(checkout / "models/yolov5n.yaml"),
            ),
            *("--data", str(data), "--hyp", str(root / "data" / "hyp.yaml"), "--epochs", str(args.epochs)),
            *("--imgsz", str(args.imgsz), "--multi-scale", "--batch-size", "16", "--optimizer", "AdamW"),
            *("--noautoanchor", "--noplots", "--workers", "2", "--cache", "ram", "--seed", str(args.seed)),
            *("--device", "cpu", "--project", str(root / "runs"), "--name", "demo", "--patience", "0"),
        ]
        # YOLOv5 fetches a font for its plots unless one of that name lies in its settings folder.
        (root / "settings").mkdir()
        font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
        shutil.copy(font, root / "settings" / "Arial.ttf")
        env = {
            **os.environ,
            "YOLOV5_CONFIG_DIR": str(root / "settings"),
            "YOLOv5_AUTOINSTALL": "false",
            # train.py reads back, at its end, the file that it has just written
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
        }
        subprocess.run(command, check=True, cwd=root, env=env)
        publish(root / "runs" / "demo" / "weights" / "best.pt", args.out)
        print((root / "runs" / "demo" / "results.csv").read_text().splitlines()[-1])
    digest = hashlib.sha256(args.out.read_bytes()).hexdigest()
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, sha256 {digest}")


if __name__ == "__main__":
    main()
