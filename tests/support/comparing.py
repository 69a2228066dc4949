"""What tests of comparisons share: the command in this process, its tables, and labels of the two photographs."""

import csv

from yolov5_featviz.cli import main

LABELS = {  # as scripts/train_demo.py has them: class, and edges in pixels
    "bus": [(1, 8, 232, 803, 718), (0, 57, 400, 246, 901), (0, 224, 405, 344, 859)],
    "zidane": [(0, 118, 203, 1153, 720), (2, 438, 437, 522, 720)],
}
SIZES = {"bus": (1080, 810), "zidane": (720, 1280)}


def write_labels(folder, names=tuple(LABELS)):
    folder.mkdir(parents=True)
    for name in names:
        height, width = SIZES[name]
        lines = [
            f"{k} {(x0 + x1) / 2 / width} {(y0 + y1) / 2 / height} {(x1 - x0) / width} {(y1 - y0) / height}\n"
            for k, x0, y0, x1, y1 in LABELS[name]
        ]
        (folder / f"{name}.txt").write_text("".join(lines))


def compare(*words):
    return main(["compare", *map(str, words)])


def rows_of(file):
    with open(file, newline="") as lines:
        return list(csv.DictReader(lines))
