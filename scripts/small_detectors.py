"""Two small detectors besides the demo checkpoint, to measure on: Ultralytics' YOLO11n, torchvision's Faster R-CNN.

Both are trained from random weights on the photographs and boxes of train_demo.py, which they memorise: a few
minutes each on two cores. Weights are kept in a folder, and read from there the next time.

    python scripts/small_detectors.py             # train what is missing, and say what is detected
"""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

import cv2
import numpy as np
import torch
from torch import nn
from train_demo import LABELS, NAMES, folder_of

from yolov5_featviz.models.detections import Thresholds, watching
from yolov5_featviz.yolov5.letterbox import letterboxed

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "runs" / "deletion"
YOLOV5 = Path(str(importlib.util.find_spec("yolov5").origin)).parent
SIDE = 320  # longer side of the inputs, in pixels
SIZES = (
    (320, 256),
    (192, 320),
    (256, 320),
)  # of the inputs in training: those of the two demo photographs, and another

Batch = Tuple[List[torch.Tensor], List[torch.Tensor], List[torch.Tensor]]  # images [3, H, W], boxes [n, 4], classes [n]


class Photograph(NamedTuple):
    """uint8 RGB ``[H, W, 3]``, boxes ``[n, 4]`` in its pixels, and class numbers ``[n]``."""

    pixels: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


class Recipe(NamedTuple):
    """How a detector is built and trained.

    Attributes:
        build: returns the model with random weights.
        loss: returns the loss of a model in training mode on a batch, a scalar.
        steps, batch, rate: the number of steps, images in each, and the highest learning rate.
    """

    build: Callable[[], nn.Module]
    loss: Callable[[Any, Batch], torch.Tensor]
    steps: int
    batch: int
    rate: float


def yolo11() -> nn.Module:
    # Ultralytics writes its settings when it is imported, by default to the home folder.
    FOLDER.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("YOLO_CONFIG_DIR", str(FOLDER))
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolo11n.yaml", nc=len(NAMES), verbose=False)
    model.names = dict(enumerate(NAMES))
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)  # weights of the loss: its defaults
    return model


def yolo11_loss(model: Any, batch: Batch) -> torch.Tensor:
    images, boxes, classes = batch
    height, width = images[0].shape[1:]
    owners = torch.cat([torch.full((len(one),), i) for i, one in enumerate(classes)])
    corners = torch.cat(boxes) / torch.tensor([width, height, width, height])
    centred = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1)
    labels = {"batch_idx": owners.float(), "cls": torch.cat(classes).float()[:, None], "bboxes": centred}
    return model.loss({"img": torch.stack(images), **labels})[0].sum() / len(images)


def faster_rcnn() -> nn.Module:
    """Faster R-CNN on a ResNet of one block a stage, with a feature pyramid of 64 channels and few proposals."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.resnet import BasicBlock, ResNet
    from torchvision.ops import MultiScaleRoIAlign

    stages = {"layer2": "0", "layer3": "1", "layer4": "2"}
    return FasterRCNN(
        BackboneWithFPN(ResNet(BasicBlock, [1, 1, 1, 1]), stages, [128, 256, 512], 64),
        min_size=SIDE,  # as the other: inputs of that length keep their size
        max_size=SIDE,
        rpn_anchor_generator=AnchorGenerator(((24,), (48,), (96,), (192,)), ((0.5, 1.0, 2.0, 4.0),) * 4),
        rpn_pre_nms_top_n_train=300,
        rpn_post_nms_top_n_train=150,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=150,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 7, 2),
        box_head=TwoMLPHead(64 * 7 * 7, 256),
        box_predictor=FastRCNNPredictor(256, len(NAMES) + 1),
        box_batch_size_per_image=64,
        box_score_thresh=0.6,
    )


def faster_rcnn_loss(model: Any, batch: Batch) -> torch.Tensor:
    images, boxes, classes = batch
    labels = [{"boxes": corners, "labels": kinds + 1} for corners, kinds in zip(boxes, classes)]  # 0: background
    return sum(model(images, labels).values())


RECIPES: Dict[str, Recipe] = {
    "yolo11n": Recipe(yolo11, yolo11_loss, steps=320, batch=8, rate=0.003),
    "faster-rcnn": Recipe(faster_rcnn, faster_rcnn_loss, steps=360, batch=4, rate=0.001),
}


def photographs() -> List[Photograph]:
    """Return the photographs of train_demo.py, not much larger than they are needed."""
    found = []
    for name, labels in LABELS.items():
        package, file = name.split("/")
        pixels = cv2.imread(str(folder_of(package, YOLOV5) / file))[..., ::-1]
        scale = 1.25 * SIDE / max(pixels.shape[:2])
        small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        boxes = np.array([corners for _, *corners in labels], np.float64).reshape(-1, 4) * scale
        found.append(Photograph(small, boxes, np.array([NAMES.index(kind) for kind, *_ in labels], np.int64)))
    return found


def varied(
    photograph: Photograph, size: Tuple[int, int], random: np.random.Generator
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return an input ``[3, H, W]`` with the photograph at a random scale, place and brightness, and its labels."""
    height, width = photograph.pixels.shape[:2]
    scale = min(size[0] / height, size[1] / width) * random.uniform(0.75, 1.15)
    free = size[0] - scale * height, size[1] - scale * width
    top, left = free[0] * random.random(), free[1] * random.random()
    across = scale
    if random.random() < 0.5:  # mirrored
        across, left = -scale, left + scale * width
    matrix = np.array([[across, 0, left], [0, scale, top]])
    pixels = cv2.warpAffine(photograph.pixels, matrix, size[::-1], borderValue=(114, 114, 114)).astype(np.float32) / 255
    pixels = (pixels * random.uniform(0.7, 1.3) + random.uniform(-0.1, 0.1)).clip(0, 1)
    for _ in range(random.integers(4)):  # hidden parts, without which any would be needed to detect anything
        sides = (random.uniform(0.1, 0.4, 2) * size).astype(int)
        y, x = (random.random(2) * (size - sides)).astype(int)
        pixels[y : y + sides[0], x : x + sides[1]] = random.random(3)
    boxes = photograph.boxes * [across, scale, across, scale] + [left, top, left, top]
    boxes[:, ::2].sort(axis=1)
    seen = boxes.clip(0, [size[1], size[0], size[1], size[0]])
    kept = (seen[:, 2:] - seen[:, :2]).prod(axis=1) > 0.4 * (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return image, torch.from_numpy(seen[kept]).float(), torch.from_numpy(photograph.classes[kept])


def train(recipe: Recipe) -> nn.Module:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = recipe.build().train()
    photos = photographs()
    weights = np.array([4.0 if name.startswith("yolov5/") else 1.0 for name in LABELS])  # what is measured on
    optimizer = torch.optim.AdamW(model.parameters(), recipe.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, recipe.steps, pct_start=0.15)
    started, losses = time.perf_counter(), []
    for step in range(recipe.steps):
        chosen = random.choice(len(photos), recipe.batch, p=weights / weights.sum())
        images, boxes, classes = zip(*(varied(photos[i], SIZES[step % len(SIZES)], random) for i in chosen))
        loss = recipe.loss(model, (list(images), list(boxes), list(classes)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 40 == 39:
            took = time.perf_counter() - started
            print(f"step {step + 1} of {recipe.steps}: loss {np.mean(losses[-40:]):.2f}, {took:.0f} s", flush=True)
    return model.eval()


def load(name: str, folder: Path = FOLDER) -> nn.Module:
    """Return the detector ``name`` of ``RECIPES``, trained if there are no weights of it in ``folder``."""
    path = folder / f"{name}.pt"
    if path.exists():
        model = RECIPES[name].build()
        model.load_state_dict(torch.load(path))
        return model.eval()
    print(f"training {name}")
    model = train(RECIPES[name])
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model


def demo_inputs(side: int = SIDE) -> Dict[str, torch.Tensor]:
    """Return the two demo photographs as inputs ``[1, 3, H, W]`` in [0, 1], by the names of their files."""
    inputs = {}
    for name in ("bus.jpg", "zidane.jpg"):
        pixels, _ = letterboxed(cv2.imread(str(YOLOV5 / "data" / "images" / name))[..., ::-1], side, 32)
        inputs[name] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].float() / 255
    return inputs


def main() -> None:
    for name in RECIPES:
        model = load(name)
        for file, image in demo_inputs().items():
            with torch.no_grad(), watching(model) as found:
                detections = found(model(image), Thresholds())
            print(f"{name}, {file}: {', '.join(detections.label(i) for i in range(len(detections)))}")


if __name__ == "__main__":
    main()
