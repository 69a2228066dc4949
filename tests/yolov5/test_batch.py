"""Where the image lies in what a layer put out: a spot of known place, through YOLOv5's own preparations."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import yolov5_featviz as fv
from yolov5_featviz.arrays.image import smaller
from yolov5_featviz.yolov5.script.batch import (
    Batch,
    Pass,
    Visit,
    distinct,
    find_originals,
    find_paths,
    find_shapes,
    small_rgb,
)

STRIDE = 8


def photograph(height, width, y, x):
    image = np.zeros((height, width, 3), np.uint8)
    image[max(0, y - 6) : y + 7, max(0, x - 6) : x + 7] = 255
    return image


def tensor(image):
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))[None]).float() / 255


def look(images):
    """A layer that only averages, so that the spot stays where it is."""
    model = nn.Sequential(nn.AvgPool2d(STRIDE)).eval()
    with fv.capture(model, "0") as features:
        model(images)
    return features


def spot(feature_map, size):
    """The middle of the spot, in pixels of the original image."""
    heat = feature_map.data.sum(0).double().numpy()
    heat = heat * (heat > heat.max() / 2)
    rows, columns = np.mgrid[: heat.shape[0], : heat.shape[1]]
    down, across = feature_map.stride
    y, x = ((heat * (grid + 0.5)).sum() / heat.sum() * s for grid, s in ((rows, down), (columns, across)))
    left, top, right, bottom = feature_map.region
    return (y - top) / (bottom - top) * size[0], (x - left) / (right - left) * size[1]


@pytest.mark.parametrize(("ratio", "dims"), [(1.0, ()), (0.83, (3,)), (0.67, ()), (0.67, (2,)), (0.83, (2, 3))])
@pytest.mark.parametrize("size", [(480, 640), (900, 500), (333, 777)])
def test_augmented_passes_fall_on_the_image(size, ratio, dims):
    from yolov5.utils.augmentations import letterbox
    from yolov5.utils.torch_utils import scale_img

    at = (size[0] // 3, size[1] * 3 // 4)
    prepared = letterbox(photograph(*size, *at), 640, stride=32, color=(0, 0, 0))[0]
    images = tensor(prepared)
    scaled = scale_img(images.flip(dims) if dims else images, ratio, gs=32) - 0.447 * (ratio != 1)
    features = look(scaled.clamp(0))
    boxes = torch.tensor([[10.0, 20.0, 110.0, 220.0, 0.9, 1.0]])
    item = Batch(["spot.jpg"], [size], found=[boxes])
    (fm,) = Pass(features, ratio, dims).maps(item, 0, Visit(nn.Identity(), images))
    cell = STRIDE / ratio * max(size) / 640
    assert np.abs(np.subtract(spot(fm, size), at)).max() < cell / 2
    # the same box, whatever the pass: back in the image it lies where it lay
    (plain,) = Pass(look(images)).maps(item, 0, Visit(nn.Identity(), images))
    there, here = (f.boxes.mapped(f.region, size).xyxy for f in (fm, plain))
    np.testing.assert_allclose(there, here, atol=0.01)


@pytest.mark.parametrize("size", [(480, 640), (900, 500)])
def test_a_cut_image(size):
    from yolov5.utils.augmentations import CenterCrop

    at = (size[0] // 2 + 30, size[1] // 2 - 40)
    images = tensor(CenterCrop(224)(photograph(*size, *at)))
    (fm,) = Pass(look(images)).maps(Batch(["spot.jpg"], [size], cropped=True), 0, Visit(nn.Identity(), images))
    assert np.abs(np.subtract(spot(fm, size), at)).max() < STRIDE * min(size) / 224 / 2


def test_a_script_that_stretches_its_images_or_pads_them():
    item = Batch(["spot.jpg"], [(300, 600)], prepared=False)
    stretched = torch.rand(1, 3, 320, 320)
    assert item.region(0, stretched) is None  # all of it
    padded = stretched.clone()
    padded[:, :, :80] = padded[:, :, 240:] = 114 / 255
    assert item.region(0, padded) == (0, 80, 320, 240)


def test_a_data_sets_own_words(checkout):
    """What its loader yields, and what we read out of it."""
    shapes = (((300, 600), ((0.5, 0.5), (0.0, 85.0))), ((600, 600), ((0.5, 0.5), (10.0, 10.0))))
    batch = [torch.zeros(2, 3, 320, 320), torch.zeros(5, 6), ("a/x.jpg", "b/x.jpg"), shapes]
    assert find_paths(batch) == (["a/x.jpg", "b/x.jpg"], False)
    assert find_shapes(batch) == list(shapes)
    assert find_shapes([batch[0], batch[1], batch[2], (None, None)]) == []
    item = Batch(find_paths(batch)[0])
    assert [item.name(i) for i in (0, 1)] == ["x_0", "x_1"]


def test_a_validations_guesses_are_not_shown():
    found = torch.tensor([[0.0, 0, 9, 9, 0.9, 1], [0, 0, 5, 5, 0.24, 0]])
    assert [len(Batch(["x.jpg"], found=[found], limit=n).boxes(0, ["a", "b"])) for n in (None, 8)] == [2, 1]
    assert Batch(["x.jpg"], found=[found], limit=8).boxes(0, {0: "a", 1: "b"}).caption(0) == "b 0.90"
    assert len(Batch(["x.jpg"], found=[None]).boxes(0, [])) == 0 and Batch(["x.jpg"]).boxes(0, []) is None


def test_what_a_loader_of_images_yields():
    network, original = np.zeros((3, 320, 640), np.uint8), np.zeros((500, 900, 3), np.uint8)
    (found,) = find_originals(("x.jpg", network, original, None, ""))
    assert found is original
    both = [original, original]
    assert [id(image) for image in find_originals((["0", "1"], network[None], both, None))] == list(map(id, both))
    assert distinct(["a", "b", "a", "a2", "a"]) == ["a", "b", "a2", "a22", "a3"]


def test_the_copy_for_the_report_is_the_image_before_the_script_draws_into_it():
    image = np.zeros((900, 1280, 3), np.uint8)
    image[:450] = (10, 100, 200)  # blue, green, red
    small = small_rgb(image, 640)
    image[:] = 255
    assert small.shape == (450, 640, 3) and (small[:220] == (200, 100, 10)).all() and not small[230:].any()
    grey = np.full((20, 30, 1), 7, np.uint8)
    assert (small_rgb(grey, 640) == 7).all() and small_rgb(grey, 640).shape == (20, 30, 3)
    assert (small_rgb(np.full((20, 30, 4), (1, 2, 3, 0), np.uint8), 10)[0, 0] == (3, 2, 1)).all()
    item = Batch(["a.jpg"], [(900, 1280)], photos=[small])
    assert item.photo(0) is small and item.size(0) == (900, 1280)
    assert Batch(["a.jpg"], [(900, 1280)]).photo(0) is None and Batch(["a.jpg"], [(900, 1280)]).size(0) is None


@pytest.mark.parametrize(
    "shape", [(100, 70, 3), (640, 640, 3), (641, 100, 3), (3000, 4001, 3), (5, 7000, 3), (1919, 1081, 3)]
)
def test_smaller_images_show_the_same(shape):
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    image = np.stack([y * 255 / shape[0], x * 255 / shape[1], (x + y) % 64 * 4], axis=2).astype(np.uint8)
    found = smaller(image, 640)
    scale = min(1, 640 / max(shape))
    assert found.shape == (max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale)), 3)
    if scale == 1:
        assert found is image
        return
    expected = cv2.resize(image, found.shape[1::-1], interpolation=cv2.INTER_AREA).astype(int)
    off = np.abs(found - expected)[..., :2]
    assert off.max() <= 2 + 255 * (shape[0] < 10)  # a place is off by less than a pixel
