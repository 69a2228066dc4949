"""Where the image lies in the network's input, against YOLOv5's own letterbox."""

import cv2
import numpy as np
import pytest

from yolov5_featviz.yolov5.letterbox import letterbox_region

RNG = np.random.default_rng(0)


def real(shape, new_shape, **options):
    """What YOLOv5's letterbox makes of a white image: its size, and the edges of the white in it."""
    from yolov5.utils.augmentations import letterbox

    boxed = letterbox(np.full((*shape, 1), 255, np.uint8), new_shape, color=(114,), **options)[0]
    rows, columns = (np.flatnonzero((boxed.reshape(boxed.shape[:2]) == 255).any(axis=axis)) for axis in (1, 0))
    return boxed.shape[:2], (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def shapes(n):
    return [tuple(map(int, pair)) for pair in np.exp(RNG.uniform(np.log(16), np.log(600), (n, 2))).astype(int)]


@pytest.mark.parametrize("side", [64, 160, 320])
@pytest.mark.parametrize("auto", [True, False])
def test_detection(side, auto):
    for shape in [*shapes(150), (side, side), (1, 64), (side, side - 1), (side + 1, side)]:
        network, expected = real(shape, side, auto=auto)
        assert letterbox_region(shape, network) == expected, shape


@pytest.mark.parametrize("size", [(96, 160), (160, 96), (128, 320)])
def test_sizes_that_are_not_square(size):
    """Exact but for the one pixel that nobody can know who does not know the size asked for."""
    off = 0
    for shape in shapes(150):
        for auto in (True, False):
            network, expected = real(shape, size, auto=auto)
            difference = np.abs(np.subtract(letterbox_region(shape, network), expected)).max()
            assert difference <= 1, shape
            off += difference > 0
    assert off < 15


@pytest.mark.parametrize("size", [(96, 160), (160, 160), (320, 128)])
def test_validation(size):
    """As YOLOv5's dataset does it: the long side to the size first, never enlarged after, ratio and padding kept."""
    from yolov5.utils.augmentations import letterbox

    for h0, w0 in shapes(100):
        r = max(size) / max(h0, w0)
        h, w = (max(1, int(side * r)) for side in (h0, w0))
        image = cv2.resize(np.full((h0, w0), 255, np.uint8), (w, h))
        if h > size[0] or w > size[1]:
            continue
        _, ratio, pad = letterbox(image[..., None], size, auto=False, scaleup=False)
        assert ratio == (1.0, 1.0)
        network, expected = real((h, w), size, auto=False, scaleup=False)
        assert letterbox_region((h0, w0), network, ratio_pad=((h / h0, w / w0), pad)) == expected
        assert letterbox_region((h, w), network, scaleup=False) == expected
