"""D-RISE beside that of xaitk-saliency, on the bundled checkpoint and two photographs: make test-xaitk."""

import cv2
import numpy as np
import pytest
import torch

from yolov5_featviz.arrays.ranks import spearman
from yolov5_featviz.attribution.d_rise import d_rise
from yolov5_featviz.models.detections import Thresholds, watching

pytest.importorskip("xaitk_saliency")

from smqtk_detection import DetectImageObjects
from smqtk_image_io.bbox import AxisAlignedBoundingBox
from xaitk_saliency.impls.gen_detector_prop_sal.drise_scoring import DRISEScoring
from xaitk_saliency.impls.gen_object_detector_blackbox_sal.drise import DRISEStack
from xaitk_saliency.impls.perturb_image.rise import RISEGrid

SIZES = {"bus": (256, 192), "zidane": (192, 320)}  # height and width


@pytest.fixture(scope="module", params=list(SIZES))
def scene(request, model, images):
    """The model, a photograph as it gets it, and what is detected: four people and a bus; two people and a tie."""
    size = SIZES[request.param]
    photograph = cv2.resize(cv2.imread(str(images / f"{request.param}.jpg")), size[::-1], interpolation=cv2.INTER_AREA)
    image = torch.from_numpy(np.ascontiguousarray(photograph[:, :, ::-1].transpose(2, 0, 1))[None]).float() / 255
    found = detected(model, image)
    names = sorted(found.name(number) for number in found.classes.tolist())
    assert names == {"bus": ["bus", *["person"] * 4], "zidane": ["person", "person", "tie"]}[request.param]
    return model, image, found


def detected(model, image, conf=0.25):
    with torch.no_grad(), watching(model) as found:
        return found(model(image), Thresholds(conf))


# --- the same masks -------------------------------------------------------------------------------------------------


def enlarged(grid, down, across, size):
    """The mask of a grid, cut at a shift in pixels, as the documentation of d_rise has it."""
    cells = len(grid)
    high, wide = (-(-side // cells) for side in size)
    large = cv2.resize(grid, ((cells + 1) * wide, (cells + 1) * high), interpolation=cv2.INTER_LINEAR)
    return large[down : down + size[0], across : across + size[1]]


def documented(masks, cells, keep, seed, size):
    """All masks of d_rise, ``[masks, H, W]``."""
    random = np.random.default_rng(seed)
    grids, shifts = (random.random((masks, cells, cells)) < keep).astype(np.float32), random.random((masks, 2))
    steps = [-(-side // cells) for side in size]
    return np.stack([enlarged(grid, *(shift * steps).astype(int), size) for grid, shift in zip(grids, shifts)])


@pytest.mark.parametrize("cells", [5, 8, 16])
@pytest.mark.parametrize("size", SIZES.values())
def test_masks_are_enlarged_as_those_of_xaitk(size, cells):
    """Its grids at its shifts, but for half a cell along the border of the enlarged grid.

    There it goes on with the cells mirrored, d_rise with the outermost ones.
    """
    grids = RISEGrid(20, cells, 0.4, seed=9, threads=0)
    expected = grids.perturb(np.zeros((*size, 3)))
    high, wide = (-(-side // cells) for side in size)
    random = np.random.default_rng(9)
    ours = np.stack(
        [enlarged(grid, int(random.integers(0, high)), int(random.integers(0, wide)), size) for grid in grids.grid]
    )
    assert np.array_equal(grids.grid, np.random.default_rng(9).random((20, cells, cells)) < 0.4)
    half_high, half_wide = (-(-step * (cells + 1) // (2 * cells)) for step in (high, wide))
    within = (slice(None), slice(half_high, -half_high), slice(half_wide, -half_wide))
    assert np.abs(ours - expected)[within].max() < 1e-6 < 0.1 < expected[within].std()


def rows_behind(model, image, masks):
    """The model's own rows for each masked image: centre, size, objectness, classes, ``[masks, N, 5 + C]``."""
    with torch.no_grad():
        return np.stack([model(image * torch.from_numpy(mask))[0][0].double().numpy() for mask in masks])


def vectors(rows, objectness="highest class score", last_pixel=1):
    """What xaitk takes: left, top, right, bottom, objectness, classes.

    Its boxes end with the last pixel within, ours one later.
    """
    lower, upper = rows[..., :2] - rows[..., 2:4] / 2, rows[..., :2] + rows[..., 2:4] / 2
    scores = rows[..., 4:5] * rows[..., 5:]
    third = {"highest class score": scores.max(-1, keepdims=True), "objectness": rows[..., 4:5]}[objectness]
    return np.concatenate([lower, upper - last_pixel, third, scores], -1)


def of_xaitk(scene, masks, **options):
    """Its maps from the rows behind given masks."""
    model, image, found = scene
    whole = np.ones_like(masks[:1])
    target = rows_behind(model, image, whole)[0, found.rows.numpy()]
    return DRISEScoring().generate(
        vectors(target, **options), vectors(rows_behind(model, image, masks), **options), masks
    )


def of_ours(scene, *arguments):
    """Our maps, each over its maximum."""
    maps = d_rise(*scene, *arguments)
    return maps / maps.max((1, 2), keepdims=True)


@pytest.mark.parametrize("arguments", [(60, 8, 0.5, 3), (4, 6, 0.2, 1)], ids=["60 masks", "4 masks"])
def test_the_same_maps_from_the_same_masks(scene, arguments):
    """Both divide by the sum of the masks; xaitk, after that, each map by its maximum.

    Of four masks, parts are never visible. The maps are compared where the masks add up to more than a hundredth:
    masks are exact to 1e-6 only, which is 1e-4 of that.
    """
    masks = documented(*arguments, scene[1].shape[2:])
    visible = masks.sum(0) > 0.01
    assert visible.all() == (len(masks) == 60) and visible.mean() > 0.5
    ours, theirs = of_ours(scene, *arguments)[:, visible], of_xaitk(scene, masks)[:, visible]
    assert theirs.shape == ours.shape and np.ptp(theirs, axis=1).min() > 0.1
    print(f"\napart by {np.abs(ours - theirs).max():.1e} of the maximum")
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("options", [{"last_pixel": 0}, {"objectness": "objectness"}], ids=str)
def test_what_differs_by_convention(scene, options):
    """Boxes that end a pixel later to xaitk than to us, and YOLOv5's objectness as it is: seen, but small."""
    arguments = (60, 8, 0.5, 3)
    ours = of_ours(scene, *arguments)
    theirs = of_xaitk(scene, documented(*arguments, scene[1].shape[2:]), **options)
    apart, alike = np.abs(ours - theirs).max(), min(map(spearman, ours, theirs))
    print(f"\napart by {apart:.1e} of the maximum, Spearman's correlation {alike:.4f} or more")
    assert 1e-3 < apart < 0.03 and alike > 0.99


# --- its own masks --------------------------------------------------------------------------------------------------


class Suppressed(DetectImageObjects):
    """The model as its users give it to xaitk: what is left after suppression, one class with its confidence each."""

    def __init__(self, model):
        self.model = model

    def detect_objects(self, img_iter):
        for pixels in img_iter:
            found = detected(self.model, torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None], conf=0.05)
            yield [
                (AxisAlignedBoundingBox(box[:2], box[2:]), {k: score * (k == number) for k in self.model.names})
                for box, score, number in zip(found.boxes.numpy(), found.scores.tolist(), found.classes.tolist())
            ]

    def get_config(self):
        return {}


def test_maps_from_its_own_masks_are_alike(scene):
    """As alike as two of ours of different seeds, and less like the maps of other detections.

    600 masks of 4 x 4 cells: of more cells, more masks are needed until chance is as small. Of xaitk, all is its own:
    masks, masking, what it makes of detections, scores.
    """
    model, image, found = scene
    ours, again = (d_rise(model, image, found, 600, 4, seed=seed) for seed in (0, 1))
    stack = DRISEStack(600, 4, 0.5, seed=3)
    classes = np.eye(len(model.names))[found.classes.numpy()]
    pixels = image[0].permute(1, 2, 0).numpy()
    theirs = stack(pixels, found.boxes.numpy(), classes, Suppressed(model), found.scores.numpy())
    assert theirs.shape == ours.shape
    alike, of_seeds = (np.array([[spearman(a, b) for b in maps] for a in ours]) for maps in (theirs, again))
    own, others = np.diag(alike), (alike.sum(1) - np.diag(alike)) / (len(found) - 1)
    print()
    for i in range(len(found)):
        words = f"{own[i]:.2f} with xaitk's, {of_seeds[i, i]:.2f} with another seed, {others[i]:.2f} with others"
        print(f"{found.label(i):12} {words}")
    assert own.min() > 0.8 and (own - others).min() > 0.25
    assert own.mean() > np.diag(of_seeds).mean() - 0.1
