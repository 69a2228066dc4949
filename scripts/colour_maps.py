"""Print how well the values of colour maps are told apart, alone and over photographs: the tables of docs/reading.md.

The least colour difference is CIE76 (the Euclidean distance in L*a*b*, D65) between two values at least a
quarter of the scale apart: seen normally; in deuteranopia, as simulated by G. M. Machado, M. M. Oliveira and
L. A. F. Fernandes (A Physiologically-based Model for Simulation of Color Vision Deficiency, IEEE TVCG 15(6),
2009) at severity 1; and in grey, where only the lightness L* is left. In grey, the share of an overlay that
the map explains is the squared correlation between its values and L* of the overlay, over all pixels and the
mean of four maps. These are smooth and random, of fixed seeds, so that no model is needed: values uniform in
[0, 1], or their squares, of which half are below 0.25, as in many heat maps.
"""

from __future__ import annotations

from typing import Dict, List, Tuple

import cv2
import numpy as np

from yolov5_featviz.arrays.image import as_rgb
from yolov5_featviz.draw.heatmap import blended, grey
from yolov5_featviz.draw.palette import COLOURS, opacities, palette_of, quantise
from yolov5_featviz.yolov5.source import find_source

MAPS = ("jet", "turbo", "viridis", "magma", "inferno", "cividis")
GAP = 0.25
BLENDS = {"even:0.4": (0.4, "even"), "even:0.8": (0.8, "even"), "0.8": (0.8, "mix")}
GREY = 128
SEEDS = range(4)
CELLS, SIDE = 12, 640  # of a random map, and of a photograph, along the longer side
# Of linear RGB, severity 1.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)


def linear(rgb: np.ndarray) -> np.ndarray:
    """Undo sRGB's transfer function, for values in [0, 1]."""
    found: np.ndarray = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return found


def lab(light: np.ndarray) -> np.ndarray:
    """Convert linear RGB ``[..., 3]`` to L*a*b*. From sRGB, OpenCV interpolates and is off by up to 0.6."""
    pixels = np.asarray(light, np.float32).reshape(1, -1, 3)
    found: np.ndarray = cv2.cvtColor(pixels, cv2.COLOR_LRGB2LAB).reshape(light.shape)
    return found


def least(colours: np.ndarray) -> float:
    """Return the least distance between colours ``[n, k]`` of values at least ``GAP`` of the scale apart."""
    n = len(colours)
    apart = np.subtract.outer(np.arange(n), np.arange(n)) >= GAP * (n - 1)
    return float(np.linalg.norm(colours[:, None] - colours, axis=2)[apart].min())


def differences(rgb: np.ndarray) -> Tuple[float, float, float]:
    """Return the least difference of a scale's colours ``[n, 3]``: seen normally, in deuteranopia, in grey."""
    light = linear(rgb)
    seen = lab(light)
    return least(seen), least(lab((light @ DEUTERANOPIA.T).clip(0, 1))), least(seen[:, :1])


def monotone(rgb: np.ndarray) -> bool:
    """Return whether L* only rises, but for steps of 0.1, which are the rounding to eight bits."""
    return bool((np.diff(lab(linear(rgb))[:, 0]) > -0.1).all())


def over_ground(cmap: str, alpha: float, blend: str, ground: int = GREY) -> np.ndarray:
    """Return the colours ``[n, 3]`` of a scale over a uniform ground, in [0, 1]."""
    share = opacities(alpha, blend)[:COLOURS, None]
    return (palette_of(cmap)[:COLOURS] * share + ground * (1 - share)) / 255


def grounds() -> Dict[str, np.ndarray]:
    """Return what is below: YOLOv5's two photographs, and mid-grey."""
    found = {}
    for name in ("bus.jpg", "zidane.jpg"):
        pixels = as_rgb(find_source().root / "data" / "images" / name)
        factor = SIDE / max(pixels.shape)
        found[name] = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return {**found, "mid-grey": np.full((SIDE, SIDE, 3), GREY, np.uint8)}


def random_map(image: np.ndarray, seed: int) -> np.ndarray:
    """Return a smooth map of the size of an image, float32 ``[H, W]``, whose values are uniform in [0, 1]."""
    height, width = image.shape[:2]
    step = max(height, width) / CELLS
    noise = np.random.default_rng(seed).normal(size=(round(height / step), round(width / step)))
    values = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).ravel()
    ranks = np.empty(values.size, np.float32)
    ranks[values.argsort()] = np.linspace(0, 1, values.size)
    return ranks.reshape(height, width)


def explained(cmap: str, alpha: float, blend: str, image: np.ndarray, power: int) -> float:
    """Return the share of the lightness of overlays that the map explains; see above."""
    shares = []
    for seed in SEEDS:
        values = random_map(image, seed) ** power
        overlay = blended(quantise(values), palette_of(cmap), image, alpha, blend)
        shares.append(np.corrcoef(values.ravel(), lab(linear(overlay / 255))[..., 0].ravel())[0, 1] ** 2)
    return float(np.mean(shares))


def table(heads: List[str], rows: List[List[str]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def alone() -> str:
    """Return the table of the colour maps by themselves."""
    rows = []
    for cmap in MAPS:
        rgb = palette_of(cmap)[:COLOURS] / 255
        rows.append([f"`{cmap}`", "yes" if monotone(rgb) else "no", *(f"{x:.0f}" for x in differences(rgb))])
    return table(["colour map", "L* monotone", "normal", "deuteranopia", "grey"], rows)


def over() -> str:
    """Return the table of overlays: differences over mid-grey, and what the map explains of their lightness."""
    below = grounds()
    rows = []
    for words, (alpha, blend) in BLENDS.items():
        for cmap in MAPS:
            row = [f"{x:.0f}" for x in differences(over_ground(cmap, alpha, blend))]
            for image in below.values():
                row.append(" / ".join(f"{explained(cmap, alpha, blend, image, power):.2f}" for power in (1, 2)))
            row += [f"{explained(cmap, alpha, blend, grey(below[name]), 1):.2f}" for name in list(below)[:2]]
            rows.append([f"`{words}`", f"`{cmap}`", *row])
    heads = ["opacity", "colour map", "normal", "deuteranopia", "grey", *below, "bus.jpg in grey", "zidane.jpg in grey"]
    return table(heads, rows)


def lightness() -> str:
    """Return the table of L* along the default overlay: at 0, the least and where it lies, and at 1."""
    rows = []
    for cmap in MAPS:
        row = [f"`{cmap}`"]
        for ground in (0, GREY, 255):
            light = lab(linear(over_ground(cmap, *BLENDS["0.8"], ground)))[:, 0]
            at = light.argmin() / (COLOURS - 1)
            row.append(f"{light[0]:.0f}, {light.min():.0f} at {at:.2f}, {light[-1]:.0f}")
        rows.append(row)
    return table(["colour map", "over black", "over mid-grey", "over white"], rows)


if __name__ == "__main__":
    print(alone())
    print(over())
    print(lightness())
