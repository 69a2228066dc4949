"""What the pictures cost, and what others charge for them: all measured in one run, on this machine.

    make bench                                       # the tables of the README
    python scripts/benchmark.py --images 2000        # does memory stay flat?
    python scripts/benchmark.py --cpu                # the processor time that drawing adds, and its floor
    python scripts/benchmark.py --explain            # what explanations cost, in passes of the network

First, one layer of 64 channels to a PNG file at 300 dpi: ours, YOLOv5's own `feature_visualization`
from the installed wheel, the recipe that is pasted into models/yolo.py, and mmengine's `draw_featmap`
and torchshow where they are installed. Then YOLOv5's detect.py over a folder, alone and through us.

With --cpu only this, over 200 different images, at two sizes, by the processor time of the whole
process (getrusage), with the floor beside it: zlib's time for the grids that were written, line by
line as they are in the files, at its fastest setting for them, on one thread. The pictures of the
report are no part of the floor, and all of the report is part of what is measured.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch

import yolov5_featviz as fv
from yolov5_featviz.attribution.deletion import both_curves
from yolov5_featviz.attribution.passes import best_batch
from yolov5_featviz.draw.encode import filtered, run_lengths
from yolov5_featviz.models.detections import Thresholds, watching
from yolov5_featviz.text import align

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "weights" / "best.pt"
YOLOV5 = Path(str(metadata.distribution("yolov5").locate_file("yolov5")))
IMAGES = [YOLOV5 / "data" / "images" / name for name in ("bus.jpg", "zidane.jpg")]
LAYERS = (17, 20, 23)
CHANNELS, DPI = 64, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="the median of so many is reported")
    parser.add_argument("--images", type=int, help="size of the folder, 50 or 200; 0 leaves that part out")
    parser.add_argument("--cpu", action="store_true", help="processor time over 200 images at 640 and 320 alone")
    parser.add_argument("--explain", action="store_true", help="what explanations cost alone")
    parser.add_argument("--masks", type=int, default=1000, help="number of masks of D-RISE")
    parser.add_argument("--json", default="runs/benchmark.json", help="where the numbers go")
    o = parser.parse_args()
    found: Dict[str, Any] = {"machine": machine(), "channels": CHANNELS, "dpi": DPI}
    print(found["machine"])
    with tempfile.TemporaryDirectory() as folder:
        if o.cpu:
            found["cpu"] = processor_time(Path(folder), o.images or 200, min(3, o.repeats))
            save(found, Path(o.json))
            return
        if o.explain:
            found["explain"] = explanations(o.repeats, o.masks)
            found["faithfulness"] = deletion_and_insertion(o.repeats)
            save(found, Path(o.json))
            return
        found["layers"] = layers(Path(folder), o.repeats)
        found["overlay"] = overlays(o.repeats)
        count = 50 if o.images is None else o.images
        if count:
            found["folder"] = detection(Path(folder), count, max(1, o.repeats // 2) if count <= 100 else 1)
    save(found, Path(o.json))


def save(found: Dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\nsaved to {path}")


def machine() -> str:
    libraries = ("torch", "numpy", "matplotlib", "opencv-python")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in libraries)
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {versions}, zlib {zlib.ZLIB_RUNTIME_VERSION}"


def median_ms(work: Callable[[], Any], repeats: int) -> float:
    """Median of ``repeats`` after one that does not count."""
    work()
    spent = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) * 1000


# One layer to a file


def maps() -> Dict[int, fv.FeatureMap]:
    """Three layers of the demo checkpoint on bus.jpg, at 640 x 480."""
    image = cv2.resize(cv2.imread(str(IMAGES[0])), (480, 640))
    tensor = torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))[None]).float() / 255
    model = fv.load(WEIGHTS)
    with fv.capture(model, list(LAYERS)) as features, torch.no_grad():
        model(tensor)
    return {i: features[i] for i in LAYERS}


def ours(fm: fv.FeatureMap, path: Path, dpi: int = DPI) -> None:
    fm.grid(CHANNELS, dpi=dpi).save(path)


def pasted(fm: fv.FeatureMap, path: Path) -> None:
    """The recipe of the blog posts: one matplotlib axes a channel."""
    import matplotlib.pyplot as plt
    from torchvision.transforms import ToPILImage

    plt.figure()
    side = int(np.ceil(np.sqrt(CHANNELS)))
    for k in range(min(CHANNELS, fm.channels)):
        plt.subplot(side, side, k + 1)
        plt.imshow(ToPILImage()(fm.data[k]))
        plt.xticks([])
        plt.yticks([])
    plt.savefig(path, dpi=DPI)
    plt.close()


def contestants() -> Dict[str, Callable[[fv.FeatureMap, Path], Any]]:
    os.environ.update({"YOLOv5_AUTOINSTALL": "false"})
    from yolov5.utils.plots import feature_visualization

    logging.getLogger("yolov5").setLevel(logging.ERROR)
    tools: Dict[str, Callable[[fv.FeatureMap, Path], Any]] = {
        "yolov5-featviz": ours,
        f"YOLOv5 {metadata.version('yolov5')} feature_visualization": lambda fm, path: feature_visualization(
            fm.data[None], fm.layer.type, fm.layer.index, n=CHANNELS, save_dir=path.parent
        ),
        "pasted into models/yolo.py": pasted,
    }
    try:
        from mmengine.visualization import Visualizer

        def draw_featmap(fm: fv.FeatureMap, path: Path) -> None:
            size = tuple(int(np.ceil(1400 / 8 / fm.data.shape[2])) * side for side in fm.data.shape[1:])
            options = {"channel_reduction": None, "topk": CHANNELS, "arrangement": (8, 8), "resize_shape": size}
            cv2.imwrite(str(path), Visualizer.draw_featmap(fm.data, **options)[..., ::-1])

        tools[f"mmengine {metadata.version('mmengine')} draw_featmap"] = draw_featmap
    except ImportError:
        pass
    try:
        import torchshow

        tools[f"torchshow {metadata.version('torchshow')}"] = lambda fm, path: torchshow.save(
            fm.data[:CHANNELS], str(path), nrows=8, ncols=8, dpi=DPI
        )
    except ImportError:
        pass
    return tools


def layers(folder: Path, repeats: int) -> List[Dict[str, Any]]:
    """ms a layer of each tool, how often that is ours, and what it leaves on disk."""
    features = maps()
    tools = contestants()
    theirs = next(tool for name, tool in tools.items() if name.startswith("YOLOv5"))
    dpis = {i: resolution(fm, theirs, folder) for i, fm in features.items()}
    tools["yolov5-featviz"] = lambda fm, path: ours(fm, path, dpis[fm.layer.index])
    rows: List[Dict[str, Any]] = []
    for name, tool in tools.items():
        place = folder / name.replace("/", "_")
        place.mkdir()
        spent, pixels, size = [], [], []
        for fm in features.values():
            path = place / f"{fm.stem}_features.png"
            spent.append(median_ms(lambda fm=fm, path=path, tool=tool: tool(fm, path), repeats))
            pixels.append(area(path))
            size.append(path.stat().st_size)
        rows.append({"tool": name, "ms": spent, "mean_ms": statistics.mean(spent), "pixels": pixels, "bytes": size})
    rows[0]["dpi"] = list(dpis.values())
    lines = [filtered(fm.grid(CHANNELS, dpi=dpis[i]).pixels) for i, fm in features.items()]
    floor = [median_ms(lambda part=part: deflated(part.data), repeats * 3) for part in lines]
    rows.append({"tool": "the floor: deflating our pixels", "ms": floor, "mean_ms": statistics.mean(floor)})
    for row in rows:
        row["ratio"] = row["mean_ms"] / rows[0]["mean_ms"]
    columns = [f"{fm.layer.name}, ms" for fm in features.values()]
    head = ["one layer to a PNG file", *columns, "mean, ms", "ratio", "Mpixels", "kB"]
    body = [
        [
            row["tool"],
            *(f"{ms:.1f}" for ms in row["ms"]),
            f"{row['mean_ms']:.1f}",
            f"{row['ratio']:.2g}" if row["ratio"] < 10 else f"{row['ratio']:.0f}",
            f"{statistics.mean(row['pixels']) / 1e6:.2f}" if "pixels" in row else "",
            f"{statistics.mean(row['bytes']) / 1e3:.0f}" if "bytes" in row else "",
        ]
        for row in rows
    ]
    print("\n" + align([head, *body], right=range(1, 8)))
    return rows


def deflated(lines: Any) -> bytes:
    """Lines of a PNG compressed by zlib as fast as it can."""
    deflate = run_lengths()
    return bytes(deflate.compress(lines) + deflate.flush())


def area(path: Path) -> int:
    """Pixels of a picture."""
    height, width = cv2.imread(str(path)).shape[:2]
    return height * width


def resolution(fm: fv.FeatureMap, theirs: Callable[[fv.FeatureMap, Path], Any], folder: Path) -> int:
    """The dpi at which our picture has no fewer pixels than YOLOv5's; 300, or where that leaves fewer, more."""
    path = folder / f"{fm.stem}_features.png"
    theirs(fm, path)
    least = area(path)
    return next(dpi for dpi in range(DPI, 2400, 10) if fm.grid(CHANNELS, dpi=dpi).pixels.size >= least)


def overlays(repeats: int) -> Dict[str, float]:
    """The other pictures, ms each; and what OpenCV's resize, colour map and blend alone take for an overlay."""
    fm = maps()[17]
    image = np.ascontiguousarray(cv2.imread(str(IMAGES[0]))[..., ::-1])
    small = (np.clip(fm.heatmap().values, 0, 1) * 255).astype(np.float32)

    def opencv() -> Any:
        heat = cv2.resize(small, image.shape[1::-1]).astype(np.uint8)
        return cv2.addWeighted(cv2.applyColorMap(heat, cv2.COLORMAP_JET), 0.4, image, 0.6, 0)

    picture = fm.grid(CHANNELS)
    works: Dict[str, Callable[[], Any]] = {
        "heat map over bus.jpg, pixels only": lambda: fm.heatmap().over(image, plain=True),
        "OpenCV's resize, colour map and blend": opencv,
        "heat map over bus.jpg to PNG": lambda: fm.heatmap().over(image).to_png(),
        "PCA of 64 channels to PNG": lambda: fm.pca().to_png(),
        **{f"grid to {kind.upper()}": lambda kind=kind: picture.encode(kind) for kind in ("pdf", "svg", "jpg", "tif")},
    }
    found = {name: median_ms(work, repeats) for name, work in works.items()}
    print("\n" + align([["other pictures, layer 17", "ms"], *([k, f"{v:.1f}"] for k, v in found.items())], right={1}))
    return found


# Detection over a folder


def detection(folder: Path, count: int, repeats: int) -> Dict[str, Any]:
    """detect.py over ``count`` images with and without us: seconds, and memory on the way."""
    one, many = folder / "one", folder / "many"
    for place, n in ((one, 1), (many, count)):
        place.mkdir()
        for i in range(n):
            image = IMAGES[i % len(IMAGES)]
            (place / f"{i:05d}{image.suffix}").symlink_to(image)
    ways = {"YOLOv5 alone": [], "with three layers drawn": ["--visualize-layers", ",".join(map(str, LAYERS))]}
    found: Dict[str, Any] = {"images": count}
    table = [["detect.py over a folder", "1 image, s", f"{count} images, s", "ms an image", "memory on the way, MB"]]
    times: Dict[str, List[Tuple[float, float]]] = {name: [] for name in ways}
    memory: Dict[str, List[int]] = {}
    for _ in range(repeats):  # in turns, so that whatever else the machine does falls on both
        for name, flags in ways.items():
            short, _ = detect(one, folder / "out", flags, 1)
            long, memory[name] = detect(many, folder / "out", flags, count)
            times[name].append((short, long))
    for name in ways:
        short, long = (statistics.median(column) for column in zip(*times[name]))
        each = (long - short) / (count - 1) * 1000 if count > 1 else float("nan")
        found[name] = {"one_s": short, "all_s": long, "ms_an_image": each, "memory_mb": memory[name]}
        table.append([name, f"{short:.1f}", f"{long:.1f}", f"{each:.0f}", ", ".join(map(str, memory[name]))])
    alone, drawn = (found[name] for name in ways)
    found["ratio"] = drawn["all_s"] / alone["all_s"]
    found["ratio_an_image"] = drawn["ms_an_image"] / alone["ms_an_image"]
    table.append(["ratio", "", f"{found['ratio']:.2f}", f"{found['ratio_an_image']:.2f}", ""])
    print("\n" + align(table, right={1, 2, 3}))
    return found


# Explanations


def explanations(repeats: int, masks: int) -> Dict[str, Any]:
    """Explaining all of 20 detections, in passes forward and backward; D-RISE, in passes forward.

    A pass forward and backward is that of a training step: gradients of all weights. The passes that D-RISE is
    compared with are made with the size of batch, of 1, 2, 4, 8 and 16, at which one image takes the least time.
    """
    see = fv.Predictor(WEIGHTS)
    x, _ = see.prepare(str(IMAGES[0]), 320)
    x = x.to(see.device)
    found: Dict[str, Any] = {"threads": torch.get_num_threads(), "device": str(see.device)}
    rows = [["explanations", "wall, ms", "CPU, ms", "in passes, wall", "in passes, CPU"]]
    everything = {"conf": 0.0005, "iou": 0.9}
    count = len(fv.explain(see, x, **everything))
    chosen = list(range(min(20, count)))
    for parameter in see.model.parameters():
        parameter.requires_grad_(True)

    def step() -> None:
        with see.own():
            see.model(x)[0].sum().backward()
        see.model.zero_grad()

    works: Dict[str, Callable[[], Any]] = {"one pass forward and backward": step}
    for method in ("layer-cam", "odam", "ss-grad-cam++"):
        works[f"{method} of {len(chosen)} detections"] = lambda method=method: fv.explain(
            see, x, chosen, method, **everything
        )
    times = {name: both_ms(work, repeats) for name, work in works.items()}
    unit = times["one pass forward and backward"]
    for name, (wall, cpu) in times.items():
        found[name] = {"wall_ms": wall, "cpu_ms": cpu, "wall_ratio": wall / unit[0], "cpu_ratio": cpu / unit[1]}
        rows.append([name, f"{wall:.0f}", f"{cpu:.0f}", f"{wall / unit[0]:.2f}", f"{cpu / unit[1]:.2f}"])

    def passes(batch: int, n: int) -> Callable[[], None]:
        images = x.repeat(batch, 1, 1, 1)

        def run() -> None:
            with torch.no_grad(), see.own():
                for _ in range(n):
                    see.model(images)

        return run

    each = {batch: both_ms(passes(batch, max(1, 16 // batch)), 3)[0] / max(batch, 16) for batch in (1, 2, 4, 8, 16)}
    best = min(each, key=lambda batch: each[batch])
    runs = []
    for _ in range(max(1, min(3, repeats // 2))):  # in turns
        plain = both_ms(passes(best, -(-masks // best)), 1, warm=False)
        rise = both_ms(lambda: fv.explain(see, x, [0], "d-rise", masks=masks, **everything), 1, warm=False)
        runs.append([*plain, *rise, rise[0] / plain[0], rise[1] / plain[1]])
    middle = [statistics.median(column) for column in zip(*runs)]
    found["d-rise"] = {"masks": masks, "best_batch": best, "ms_an_image": each, "runs": runs}
    rows.append([f"{masks} passes forward, {best} images each", f"{middle[0]:.0f}", f"{middle[1]:.0f}", "1", "1"])
    rows.append([f"D-RISE, {masks} masks", *(f"{v:.0f}" for v in middle[2:4]), *(f"{v:.2f}" for v in middle[4:])])
    print("\n" + align(rows, right={1, 2, 3, 4}))
    return found


def deletion_and_insertion(repeats: int, steps: int = 50) -> Dict[str, Any]:
    """Deletion and insertion of one map, in turns with 2 ``steps`` passes forward at the best size of batch."""
    see = fv.Predictor(WEIGHTS)
    x, _ = see.prepare(str(IMAGES[0]), 640)
    x = x.to(see.device)
    values = np.random.default_rng(0).random((20, 15))
    with see.own(), torch.no_grad():
        with watching(see.model) as watched:
            every = watched(see.model(x), Thresholds())
        detections = every.of(every.rows[:1].tolist(), every.classes[:1].tolist())
        batch = best_batch(see.model, x)
        images = x.repeat(batch, 1, 1, 1)

        def passes() -> None:
            for _ in range(-(-2 * steps // batch)):
                see.model(images)

        def curves() -> None:
            both_curves(see.model, x, detections, [values], [0], steps, batch=batch)

        passes()
        curves()
        runs = [[*both_ms(passes, 1, warm=False), *both_ms(curves, 1, warm=False)] for _ in range(repeats)]
    times = [statistics.median(column) for column in zip(*runs)]
    ratios = [statistics.median(run[i + 2] / run[i] for run in runs) for i in range(2)]
    rows = [
        ["faithfulness", "wall, ms", "CPU, ms", "ratio, wall", "ratio, CPU"],
        [f"{2 * steps} passes forward, {batch} images each", *(f"{v:.0f}" for v in times[:2]), "1", "1"],
        [f"deletion and insertion, {steps} steps", *(f"{v:.0f}" for v in times[2:]), *(f"{v:.2f}" for v in ratios)],
    ]
    print("\n" + align(rows, right={1, 2, 3, 4}))
    return {"steps": steps, "batch": batch, "runs": runs, "wall_ratio": ratios[0], "cpu_ratio": ratios[1]}


def both_ms(work: Callable[[], Any], repeats: int, warm: bool = True) -> Tuple[float, float]:
    """Medians of wall and processor time of this process, after one run that does not count."""
    if warm:
        work()
    spent: List[Tuple[float, float]] = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        spent.append(((time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000))
    first, second = (statistics.median(column) for column in zip(*spent))
    return first, second


# Processor time


def processor_time(folder: Path, count: int, repeats: int, sizes: Sequence[int] = (640, 320)) -> List[Dict[str, Any]]:
    """ms an image of detect.py over ``count`` different images, alone and with three layers drawn and the report.

    The libraries are held to one thread each, or the time that their threads spend waiting would count.
    """
    source = folder / "images"
    source.mkdir()
    photographs = [cv2.imread(str(path)) for path in IMAGES]
    for i in range(count):  # shifted, so that no two are the same
        cv2.imwrite(str(source / f"{i:05d}.jpg"), np.roll(photographs[i % 2], 3 * i, axis=1))
    os.environ["OMP_NUM_THREADS"] = "1"
    drawn = ["--visualize-layers", ",".join(map(str, LAYERS))]
    names = ["alone, CPU", "drawn, CPU", "added, CPU", "floor, CPU", "added / floor", "alone, wall", "drawn, wall"]
    rows, table = [], [["`detect.py`, ms an image", *names]]
    for size in sizes:
        runs = []
        for _ in range(repeats):
            found: List[float] = []
            for flags in ([], drawn):
                before = spent()
                seconds, _ = detect(source, folder / "out", ["--imgsz", str(size), *flags], count, bool(flags))
                found += [(spent() - before) / count * 1000, seconds / count * 1000]
            (alone, alone_wall), (with_us, with_us_wall) = found[:2], found[2:]
            least = floor(folder / "out") / count * 1000
            added = with_us - alone
            runs.append([alone, with_us, added, least, added / least, alone_wall, with_us_wall])
        middle = [statistics.median(column) for column in zip(*runs)]
        rows.append({"size": size, "images": count, "runs": runs, **dict(zip(names, middle))})
        table.append([f"`--imgsz {size}`", *(f"{v:.2f}" if n == 4 else f"{v:.0f}" for n, v in enumerate(middle))])
        for run in runs:
            print(size, *(f"{v:.2f}" for v in run))
    print(f"\nover {count} images, median of {repeats}\n")
    print("\n".join(f"| {' | '.join(row)} |" for row in [table[0], ["---"] * len(table[0]), *table[1:]]))
    return rows


def spent() -> float:
    """Seconds of processor time, in user and system mode, of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def floor(out: Path) -> float:
    """Seconds of processor time in which zlib compresses the lines of all grids below a folder."""
    seconds = 0.0
    for path in sorted(out.rglob("stage*.png")):
        lines = lines_of(path)
        start = time.thread_time()
        deflated(lines)
        seconds += time.thread_time() - start
    return seconds


def lines_of(path: Path) -> bytes:
    """The filtered lines that are in a PNG file."""
    content, at, packed = path.read_bytes(), 8, b""
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        packed += content[at + 8 : at + 8 + size] if content[at + 4 : at + 8] == b"IDAT" else b""
        at += 12 + size
    return zlib.decompress(packed)


def detect(
    images: Path, out: Path, flags: List[str], count: int, ours: Optional[bool] = None
) -> Tuple[float, List[int]]:
    """Seconds that one run takes, and the memory it holds, in MB, at each fifth of the way."""
    import shutil

    shutil.rmtree(out, ignore_errors=True)
    script = ROOT / "detect.py" if (bool(flags) if ours is None else ours) else YOLOV5 / "detect.py"
    words = ["--weights", WEIGHTS, "--source", images, "--project", out, "--name", "exp", *flags]
    env = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "YOLOv5_AUTOINSTALL": "false", **os.environ}
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([sys.executable, str(script), *map(str, words)], stdout=log, stderr=log, env=env)
        marks, memory = sorted({max(1, count * k // 5) for k in range(1, 6)}), []
        while process.poll() is None:
            time.sleep(0.05 if count < 500 else 0.5)
            done = len(list((out / "exp").glob("*.jpg"))) if (out / "exp").exists() else 0
            if marks and done >= marks[0]:
                marks.pop(0)
                memory.append(resident(process.pid) or (memory or [0])[-1])
        spent = time.perf_counter() - start
        if process.returncode:
            log.seek(0)
            raise SystemExit(log.read().decode()[-2000:])
    return spent, memory


def resident(pid: int) -> Optional[int]:
    """Memory that a process holds, in MB; None where the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS")), None)


if __name__ == "__main__":
    main()
