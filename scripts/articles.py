"""Recipes of five blog articles on feature maps, each redone by one command, with their faults mended.

    python scripts/articles.py a                  # ResNet-50: every channel of a layer, and their sum
    python scripts/articles.py b                  # a detector's backbone and FPN as heat maps over the image
    python scripts/articles.py c                  # YOLOv5: grids of the layers that feed Detect
    python scripts/articles.py d                  # one channel, the first and last n, PCA of them
    python scripts/articles.py e --layer 5        # VGG-16: one filter through a sigmoid

Networks are torchvision's. Their default weights are used if they lie in torch hub's cache, random
ones (of a fixed seed) otherwise: nothing is downloaded. C takes the demo checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, List, Optional

import torch
import torchvision.transforms.functional as T
from PIL import Image
from torchvision import models
from torchvision.transforms import InterpolationMode

import yolov5_featviz as fv
from yolov5_featviz.models.summary import layer_table

ROOT = Path(__file__).resolve().parents[1]
BUS = Path(str(metadata.distribution("yolov5").locate_file("yolov5"))) / "data" / "images" / "bus.jpg"


def network(name: str) -> torch.nn.Module:
    """One of torchvision's networks, with its default weights if they are at hand."""
    builder = getattr(models.detection if "fcos" in name else models, name)
    torch.manual_seed(0)
    net: torch.nn.Module = builder(weights=None, **({"weights_backbone": None} if "fcos" in name else {}))
    file = Path(torch.hub.get_dir()) / "checkpoints" / models.get_model_weights(name).DEFAULT.url.rsplit("/", 1)[-1]
    if file.is_file():
        net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    else:
        print(f"no {file.name} in torch hub's cache: {name} has random weights", file=sys.stderr)
    return net.eval()


def imagenet(image: Path, size: int, how: InterpolationMode = InterpolationMode.BILINEAR) -> torch.Tensor:
    """An image as ImageNet's networks take it, ``[1, 3, size, size]``."""
    with Image.open(image) as file:
        pixels = T.to_tensor(T.resize(file.convert("RGB"), [size, size], how, antialias=True))
    return T.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])[None]


def see(net: torch.nn.Module, layers: str, x: Any, name: str) -> List[fv.FeatureMap]:
    """What ``layers`` put out for the first image of ``x``."""
    with fv.capture(net, layers) as features, torch.no_grad():
        net(x)
    return [replace(fm, image=name) for fm in features]


def a(o: argparse.Namespace) -> None:
    """Every channel of a layer of ResNet-50, and the sum of them, eight times as large."""
    (fm,) = see(
        network("resnet50"), o.layer or "layer1", imagenet(o.image, 384, InterpolationMode.BICUBIC), o.image.stem
    )
    for how in ("bilinear", "bilinear-left"):
        fm.heatmap("sum").picture("gray", resample=how, scale=8).save(o.out / f"{fm.stem}_sum_{how}.png")
    for k in range(fm.channels if o.channels is None else o.channels):
        path = o.out / f"{fm.stem}_channel{k:03d}.png"
        fm.channel(k).picture("gray", resample="bilinear", scale=8, plain=True).save(path)


def b(o: argparse.Namespace) -> None:
    """C2 to C5 of a detector's backbone and P3 to P7 of its FPN, over the image; and some channels of each.

    The detector resizes and pads its images itself, so where the image ended up is asked of it.
    """
    detector = network("fcos_resnet50_fpn")
    with Image.open(o.image) as file:
        image = T.to_tensor(file.convert("RGB"))
    batch, _ = detector.transform([image])
    height, width = batch.image_sizes[0]
    layers = o.layer or "body.layer1,body.layer2,body.layer3,body.layer4,fpn"
    mixed = {"cmap": "jet", "alpha": 0.4, "blend": "even"}  # as in the article
    for fm in see(detector.backbone, layers, batch.tensors, o.image.stem):
        fm = replace(fm, region=(0.0, 0.0, float(width), float(height)))
        fm.heatmap("mean").over(o.image, **mixed).save(o.out / f"{fm.stem}_heatmap.png")
        for k in range(4 if o.channels is None else o.channels):
            fm.channel(k).over(o.image, **mixed).save(o.out / f"{fm.stem}_channel{k:03d}.png")


def c(o: argparse.Namespace) -> None:
    """The first 64 channels of YOLOv5's layers, named by type and by index; and as the article's figures have them."""
    model = fv.load(ROOT / "weights" / "best.pt")
    with Image.open(o.image) as file:
        scale = 640 / max(file.size)
        size = [max(32, round(side * scale / 32) * 32) for side in (file.height, file.width)]
        x = T.to_tensor(T.resize(file.convert("RGB"), size, antialias=True))[None]
    for fm in see(model, o.layer or "SPPF,17,20,23", x, o.image.stem):
        fm.grid("64" if o.channels is None else o.channels).save(o.out / f"{fm.stem}_features.png")
        fm.grid("64" if o.channels is None else o.channels, norm="byte").save(o.out / f"{fm.stem}_features_byte.png")


def d(o: argparse.Namespace) -> None:
    """One channel; the first and the last n side by side; PCA of either."""
    n = 8 if o.channels is None else o.channels
    for fm in see(network("resnet50"), o.layer or "layer1,layer4", imagenet(o.image, 384), o.image.stem):
        fm.channel(0).save(o.out / f"{fm.stem}_channel000.png")
        for which in (f"first:{n}", f"last:{n}"):
            end = which.replace(":", "")
            fm.grid(which).save(o.out / f"{fm.stem}_{end}.png")
            fm.pca(which).save(o.out / f"{fm.stem}_{end}_pca.png")


def e(o: argparse.Namespace) -> None:
    """VGG-16's layers as a table, and a filter of one of them through a sigmoid, in grey."""
    net = network("vgg16").features
    print(layer_table(fv.list_layers(net, 224)))
    for fm in see(net, o.layer or "5", imagenet(o.image, 224), o.image.stem):
        for k in range(1 if o.channels is None else o.channels):
            path = o.out / f"{fm.stem}_channel{k:03d}.png"
            fm.channel(k, "sigmoid").picture("gray", plain=True, scale=4).save(path)


def main(arguments: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("article", choices="abcde")
    parser.add_argument("--image", type=Path, default=BUS, help="default: YOLOv5's bus.jpg")
    parser.add_argument("--layer", help="a layer selection; default: the article's")
    parser.add_argument("--channels", type=int, help="how many channels; default: the article's")
    parser.add_argument("--out", type=Path, help="default runs/articles/a and so on")
    o = parser.parse_args(arguments)
    o.out = o.out or Path("runs") / "articles" / o.article
    try:
        globals()[o.article](o)
    except fv.FeatvizError as error:
        parser.error(str(error))
    print(f"{len(list(o.out.glob('*.png')))} pictures in {o.out}")


if __name__ == "__main__":
    main()
