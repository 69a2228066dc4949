"""Predictor: the maps and boxes of the real detect.py, in this process or in one of its own."""

import asyncio
import io
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout

import cv2
import numpy as np
import pytest
import torch
from helpers import WEIGHTS, run

import yolov5_featviz as fv
from yolov5_featviz.yolov5.predictor import RemotePredictor, _modules_of, predictors, read_image

pytestmark = pytest.mark.slow

LAYERS = ("4", "17", "23")


@pytest.fixture(scope="module")
def see():
    return fv.Predictor(WEIGHTS)


@pytest.fixture(scope="module")
def detected(tmp_path_factory, images):
    """What detect.py leaves behind: ``[C, H, W]`` by image and layer, and the lines of its label files."""
    home = tmp_path_factory.mktemp("detected")
    words = ("--weights", WEIGHTS, "--source", images, "--imgsz", 320, "--save-txt", "--save-conf", "--nosave")
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # YOLOv5 sets it too, once it is imported here
    run(
        *words,
        "--visualize-layers",
        ",".join(LAYERS),
        "--visualize-format",
        "npy",
        "--visualize-report",
        "off",
        cwd=home,
        env=threads,
    )
    exp = home / "runs" / "detect" / "exp"
    maps = {
        (name, layer): np.load(next((exp / name).glob(f"stage{layer}_*_features.npy")))
        for name in ("bus", "zidane")
        for layer in LAYERS
    }
    lines = {name: (exp / "labels" / f"{name}.txt").read_text().splitlines() for name in ("bus", "zidane")}
    return maps, lines


@pytest.mark.parametrize("name", ["bus", "zidane"])
def test_maps_and_boxes_are_those_of_detect(see, detected, images, name):
    maps, lines = detected
    seen = see(images / f"{name}.jpg", layers=",".join(LAYERS), imgsz=320)
    for layer in LAYERS:
        assert seen[layer].data.numpy().dtype == np.float32
        np.testing.assert_array_equal(seen[layer].data.numpy(), maps[name, layer])
    height, width = cv2.imread(str(images / f"{name}.jpg")).shape[:2]
    assert seen.size == (height, width) and len(lines[name]) == len(seen.boxes) > 0
    boxes = seen.boxes.mapped(seen.region, seen.size)
    names = see.model.names
    ours = []
    for (x0, y0, x1, y1), score, label in zip(boxes.xyxy.clip(0, [width, height] * 2), boxes.scores, boxes.labels):
        ours.append(
            [label, (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height, score]
        )
    theirs = [[names[int(line.split()[0])], *map(float, line.split()[1:])] for line in lines[name]]
    for mine, other in zip(sorted(ours, key=lambda row: row[-1]), sorted(theirs, key=lambda row: row[-1])):
        assert mine[0] == other[0]
        # detect.py writes six digits, and boxes of whole pixels
        np.testing.assert_allclose(mine[1:5], other[1:5], atol=1.01 / min(height, width))
        assert abs(mine[5] - other[5]) < 1e-5


def test_an_array_is_as_good_as_its_file(see, images):
    pixels = cv2.imread(str(images / "zidane.jpg"))[..., ::-1]
    first, second = (see(image, layers=23, imgsz=320, name="x") for image in (images / "zidane.jpg", pixels))
    np.testing.assert_array_equal(first[23].data.numpy(), second[23].data.numpy())
    np.testing.assert_array_equal(first.boxes.xyxy, second.boxes.xyxy)
    assert (first.image, second.image) == ("x", "x") and see(pixels, imgsz=64).image == "image"
    x, region = see.prepare(pixels, 300)  # to the next multiple of 32
    assert tuple(x.shape) == (1, 3, 192, 320) and region == (0.0, 6.0, 320.0, 186.0)
    assert float(x.min()) >= 0 and float(x.max()) <= 1


def test_thresholds_are_those_of_detect(see, images):
    many = see(images / "bus.jpg", conf=0.01, imgsz=320).boxes
    few = see(images / "bus.jpg", conf=0.6, imgsz=320).boxes
    assert len(many) > len(few) and (few.scores > 0.6).all() and (many.scores > 0.01).all()
    assert len(see(images / "bus.jpg", conf=0.01, iou=0.95, imgsz=320).boxes) > len(many)


def test_two_checkouts_are_two_processes(see, checkout, yolov5, images):
    """Modules of one name in one process would be those of whoever came first. The answers are the same."""
    bus = str(images / "bus.jpg")
    with predictors([str(WEIGHTS), str(WEIGHTS)], [str(yolov5), str(checkout)]) as (first, second):
        assert isinstance(first, RemotePredictor) and isinstance(second, RemotePredictor)
        assert first.release == see.release == "7.0.0"
        assert first.layers("17,SPPF") == see.layers("17,SPPF") and second.layers(17) == ["17"]
        here, there, other = (one(bus, "17,23", 160) for one in (see, first, second))
        for layer in (17, 23):
            np.testing.assert_array_equal(here[layer].data.numpy(), there[layer].data.numpy())
            assert there[layer].stride == here[layer].stride and there[layer].region == here[layer].region
            # the wheel's `fuse` does not know its own classes, the checkout's does: other roundings
            np.testing.assert_allclose(here[layer].data.numpy(), other[layer].data.numpy(), atol=1e-4)
        np.testing.assert_array_equal(here.boxes.xyxy, there.boxes.xyxy)
        np.testing.assert_array_equal(here.boxes.scores, there.boxes.scores)
        np.testing.assert_array_equal(here.pixels, there.pixels)
        assert here.boxes.labels == there.boxes.labels == other.boxes.labels
        mine, same = (one.cam(bus, 23, None, "eigen-cam", 160, smooth=True) for one in (see, first))
        np.testing.assert_array_equal(mine.values, same.values)
        assert mine.title == same.title and "smoothed 3×3" in mine.title
        with pytest.raises(fv.FeatvizError) as local:
            see.layers("99")
        with pytest.raises(fv.FeatvizError) as remote:
            first.layers("99")
        assert str(remote.value) == str(local.value)
        assert first.layers(17) == ["17"]  # an error does not end it
    assert first._process.returncode == second._process.returncode == 0
    with predictors([str(WEIGHTS)]) as (one,):
        assert isinstance(one, fv.Predictor)
    message = "3 checkouts for 2 checkpoints: give one, or one for each"
    with pytest.raises(fv.FeatvizError, match=message), predictors(["a.pt", "b.pt"], ["x", "y", "z"]):
        pass


def test_what_cannot_be_read_is_told(see, tmp_path, images):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    (tmp_path / "c.jpg").mkdir()
    (tmp_path / "d.jpg").symlink_to("nowhere")
    (tmp_path / "e.jpg").touch()
    for image, expected in (
        (tmp_path / "b.jpg", f"no image {tmp_path / 'b.jpg'}"),
        (tmp_path / "a.jpg", f"cannot read the image {tmp_path / 'a.jpg'}: it is damaged or not an image"),
        (tmp_path / "c.jpg", f"no image {tmp_path / 'c.jpg'}: it is a folder"),
        (tmp_path / "d.jpg", f"no image {tmp_path / 'd.jpg'}: the link leads nowhere"),
        (tmp_path / "e.jpg", f"cannot read the image {tmp_path / 'e.jpg'}"),
        (np.zeros((4, 4), np.uint8), "not an image: uint8 of shape [4, 4]: give uint8 RGB [H, W, 3]"),
        (np.zeros((4, 4, 3)), "not an image: float64 of shape [4, 4, 3]"),
    ):
        with pytest.raises(fv.FeatvizError, match=re.escape(expected)):
            read_image(image)
    for shape in ((1, 5000, 3), (5000, 1, 3), (0, 9, 3)):
        with pytest.raises(
            fv.FeatvizError, match=f"an image, of {shape[1]} x {shape[0]} pixels, to 64: nothing is left"
        ):
            see(np.zeros(shape, np.uint8), imgsz=64)
    with pytest.raises(fv.FeatvizError, match="99"):
        see(images / "bus.jpg", layers=99, imgsz=64)
    seen = see(images / "bus.jpg", layers=17, imgsz=64)
    with pytest.raises(fv.FeatvizError, match="no map of layer 20: there are 17"):
        seen[20]
    with pytest.raises(fv.FeatvizError, match=r"nothing\.pt"):
        fv.Predictor(tmp_path / "nothing.pt")


def test_nothing_is_left_behind(see, images, capfd):
    before = list(sys.path), logging.root.manager.disable
    see(images / "bus.jpg", layers=17, imgsz=64)
    assert (list(sys.path), logging.root.manager.disable) == before
    assert capfd.readouterr() == ("", "")
    assert not any(module._forward_hooks for module in see.model.modules())


def test_threads(see):
    """Maps and boxes of each image, whoever asks; what other threads print and log meanwhile is heard."""
    pixels = [np.random.default_rng(i).integers(0, 256, (90, 120, 3), np.uint8) for i in range(12)]

    def look(image):
        return see(image, layers="4,17,23", imgsz=64, conf=0.001)

    alone = list(map(look, pixels))
    said, heard, done = [], io.StringIO(), threading.Event()
    handler = logging.StreamHandler(heard)
    logger = logging.getLogger("yolov5")
    level = logger.level  # a process that has imported another package of that name may have raised it

    def talk():
        while not done.wait(0.002):
            print("words")
            logger.info("words")
            said.append(1)

    talker = threading.Thread(target=talk)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    assert not logger.disabled
    before = os.environ.copy(), warnings.filters[:], logging.root.manager.disable, logger.filters[:]
    try:
        with redirect_stdout(io.StringIO()) as printed, ThreadPoolExecutor(4) as pool:
            stdout = sys.stdout
            talker.start()
            found = list(pool.map(look, pixels))
            assert sys.stdout is stdout
            done.set()
            talker.join()
    finally:
        done.set()
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert printed.getvalue() == heard.getvalue() == "words\n" * len(said)
    assert (os.environ.copy(), warnings.filters[:], logging.root.manager.disable, logger.filters[:]) == before
    assert not any("print" in vars(module) for module in _modules_of(see.source))
    for a, b in zip(alone, found):
        assert all(torch.equal(a[layer].data, b[layer].data) for layer in (4, 17, 23))
        np.testing.assert_array_equal(a.boxes.xyxy, b.boxes.xyxy)


def test_within_a_capture_and_without_waiting(see):
    """A predictor within a capture of its model, and in tasks that run it in threads."""
    pixels = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8) for i in range(3)]
    alone = [see(image, layers=17, imgsz=64)[17].data for image in pixels]
    with fv.capture(see.model, "17") as features:
        seen = see(pixels[1], layers=17, imgsz=64)
    assert torch.equal(features[17].data, alone[1]) and torch.equal(seen[17].data, alone[1])

    async def tasks():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(None, lambda x=x: see(x, 17, 64)) for x in pixels))

    for seen, expected in zip(asyncio.run(tasks()), alone):
        assert torch.equal(seen[17].data, expected)


def test_the_process_is_as_it_was(tmp_path):
    """Importing YOLOv5 sets some things for all; and of two checkouts the second would get the first one's modules."""
    code = (
        "import os, sys, logging, warnings, numpy as np, torch, yolov5_featviz as fv\n"
        "from yolov5_featviz.yolov5.predictor import SETS\n"
        "def state():\n"
        "    return (np.get_printoptions(), vars(torch._tensor_str.PRINT_OPTS).copy(), [*map(os.environ.get, SETS)],\n"
        "            torch.is_grad_enabled(), torch.get_default_dtype(), logging.root.manager.disable, sys.stdout,\n"
        "            torch.get_num_threads(), warnings.filters[:])\n"
        "before = state()\n"
        "torch.set_default_dtype(torch.float32)\n"
        "see = fv.Predictor(sys.argv[1])\n"
        "see(np.zeros((64, 64, 3), np.uint8), 17, 64)\n"
        "print(before == state() or [pair for pair in zip(before, state()) if pair[0] != pair[1]])\n"
        "sys.modules['yolov5.utils'].__path__ = ['/elsewhere/utils']\n"
        "try: fv.Predictor(sys.argv[1])\n"
        "except fv.FeatvizError as error: print(error)\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words = [sys.executable, "-c", code, str(WEIGHTS)]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "True" and "a module utils was imported from /elsewhere/utils" in second
