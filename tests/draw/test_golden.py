"""Small golden pictures of every layout, so that a change shows up as a picture that a person can look at.

UPDATE_GOLDEN=1 pytest tests/draw/test_golden.py draws them anew; look at them before committing.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import feature_map
from PIL import Image

import yolov5_featviz as fv

GOLDEN = Path(__file__).parent / "golden"


def layer():
    """A map of 24 channels, 12 x 16 cells: waves of growing frequency; then a constant, a spike, NaN and infinity."""
    y, x = np.mgrid[0:12, 0:16]
    data = np.stack([np.sin(x * k / 9) * np.cos(y * k / 7) * (1 + k / 12) for k in range(24)])
    data[5, 3:6, 4:9] += 4
    data[20] = 0.25
    data[21] = 0
    data[21, 7, 7] = 9
    data[22, 2:5, 2:5], data[23, 0, 0] = np.nan, np.inf
    boxes = fv.Boxes([[32, 32, 72, 56], [90, 40, 126, 86]], [0.91, 0.5], ["cup", "spoon"], [0, 1])
    region = (0.0, 8.0, 128.0, 88.0)
    return feature_map(data, input_size=(96, 128), boxes=boxes, region=region, image="table")


def photo():
    """240 x 150, grey stripes under a colour ramp."""
    y, x = np.mgrid[0:150, 0:240]
    return np.stack([x, (x + y) % 40 * 5, 255 - y], axis=2).astype(np.uint8)


PICTURES = {
    "grid": lambda: layer().grid("all", dpi=100),
    "grid_ranked": lambda: layer().grid("top:6:contrast", norm="layer", dpi=100),
    "grid_one": lambda: layer().grid("5-5", norm="robust", dpi=100),
    "heatmap": lambda: layer().heatmap("mean", "0-19").picture(dpi=100),
    "heatmap_over": lambda: layer().heatmap("mean", "0-19").over(photo(), boxes=True, dpi=100),
    "channel_over_added": lambda: layer().channel(5).over(photo(), blend="add", dpi=100),
    "pca": lambda: layer().pca("0-19", dpi=100),
    "tensor_photos": lambda: fv.picture(np.stack([photo()[::5, ::5], photo()[::-5, ::5], photo()[::5, ::-5]]), dpi=100),
    "plain_grid": lambda: layer().grid("0-5", plain=True, resample="bilinear", dpi=50),
    "plain_over": lambda: layer().heatmap("mean", "0-19").over(photo(), plain=True),
}


@pytest.mark.parametrize("name", PICTURES)
def test_golden(name):
    picture = PICTURES[name]()
    path = GOLDEN / f"{name}.png"
    if os.environ.get("UPDATE_GOLDEN"):
        picture.save(path)
    with Image.open(path) as file:
        expected = np.asarray(file.convert("RGB")).astype(int)
    found = picture.to_rgb().astype(int)
    assert found.shape == expected.shape
    off = np.abs(found - expected).max(axis=2)
    if name.startswith("plain"):
        assert off.max() <= 6  # one step of a colour map, where arithmetic rounds otherwise
    else:
        assert (off > 40).mean() < 0.005  # letters, which FreeType smooths a little differently from release to release
