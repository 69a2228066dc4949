"""The five articles, redone by scripts/articles.py: real networks, and the numbers in the files checked."""

import importlib.util

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from helpers import ROOT, feature_map, independent_hooks
from PIL import Image
from torchvision.transforms.functional import normalize, to_pil_image, to_tensor

import yolov5_featviz as fv

pytestmark = pytest.mark.slow

spec = importlib.util.spec_from_file_location("articles", ROOT / "scripts" / "articles.py")
articles = importlib.util.module_from_spec(spec)
spec.loader.exec_module(articles)
STEP = 1 / 247  # pictures hold 248 values


@pytest.fixture
def redo(tmp_path, images):
    def run(article, *words):
        articles.main([article, "--image", str(images / "bus.jpg"), "--out", str(tmp_path), *words])
        return sorted(path.name for path in tmp_path.iterdir())

    return run


def values(path):
    """What the palette's indices say, 0 to 1; ink and paper are above."""
    with Image.open(path) as file:
        assert file.mode == "P"
        return np.asarray(file) * STEP


def imagenet(images, size, how):
    """The article's preparation in other words than the script's."""
    with Image.open(images / "bus.jpg") as file:
        x = to_tensor(file.resize((size, size), how))
    return normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])[None]


def scaled(x):
    return (x - x.min()) / (x.max() - x.min())


def test_a_resnet_channels_and_their_sum(redo, tmp_path, images):
    found = redo("a", "--channels", "3")
    names = [f"channel00{k}" for k in range(3)] + ["sum_bilinear-left", "sum_bilinear"]
    assert found == sorted(f"layer1_Sequential_{name}.png" for name in names)
    net = articles.network("resnet50")
    with torch.no_grad():
        x = imagenet(images, 384, Image.BICUBIC)
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x)))))[0].numpy()
    assert x.shape == (256, 96, 96)
    for k in range(3):
        center = cv2.resize(scaled(x[k]), (768, 768), interpolation=cv2.INTER_LINEAR)
        assert np.abs(values(tmp_path / f"layer1_Sequential_channel00{k}.png") - center).max() <= STEP
    total = scaled(np.sum(x.astype(np.float64), axis=0))
    at = np.minimum(np.arange(768) / 8, 95)
    low = np.floor(at).astype(int)
    high, weight = np.minimum(low + 1, 95), at - low
    rows = total[low] * (1 - weight)[:, None] + total[high] * weight[:, None]
    left = rows[:, low] * (1 - weight) + rows[:, high] * weight
    center = cv2.resize(total, (768, 768), interpolation=cv2.INTER_LINEAR)
    for how, expected in (("bilinear-left", left), ("bilinear", center)):
        picture = values(tmp_path / f"layer1_Sequential_sum_{how}.png")[-772:-4, 4:772]
        assert np.abs(picture - expected).max() <= STEP


def test_b_a_detectors_backbone_and_neck(redo, tmp_path, images):
    found = redo("b", "--channels", "1", "--layer", "body.layer2,body.layer4,fpn")
    levels = [f"fpn_FeaturePyramidNetwork_level{level}" for level in ("0", "1", "2", "p6", "p7")]
    stems = ["body.layer2_Sequential", "body.layer4_Sequential", *levels]
    assert found == sorted(f"{stem}_{what}.png" for stem in stems for what in ("heatmap", "channel000"))
    detector = articles.network("fcos_resnet50_fpn")
    with Image.open(images / "bus.jpg") as file:
        image = np.asarray(file)
    seen = []
    handle = detector.backbone.body.layer2.register_forward_hook(lambda m, a, out: seen.append(out[0].mean(0)))
    with torch.no_grad():
        detector([to_tensor(image)])
    handle.remove()
    heat = np.maximum(seen[0].numpy(), 0) / seen[0].max().item()
    # bus.jpg, 810 x 1080, becomes 800 x 1066 in an input of 800 x 1088: 133.25 of 136 rows are image
    assert heat.shape == (136, 100)
    rows = (np.arange(1080) + 0.5) * 133.25 / 1080 - 0.5
    columns = (np.arange(810) + 0.5) * 100 / 810 - 0.5
    heat = cv2.remap(
        heat,
        *np.meshgrid(columns.astype(np.float32), rows.astype(np.float32)),
        cv2.INTER_LINEAR,
        None,
        cv2.BORDER_REPLICATE,
    )
    expected = 0.4 * matplotlib.colormaps["jet"](heat)[..., :3] * 255 + 0.6 * image
    with Image.open(tmp_path / "body.layer2_Sequential_heatmap.png") as file:
        picture = np.asarray(file)[-1084:-4, 4:814].astype(float)
    assert np.abs(picture - expected).max() < 8 and np.abs(picture - expected).mean() < 1


def test_c_yolov5_grids(redo, tmp_path, model, bus):
    found = redo("c")
    stems = ["stage9_SPPF", "stage17_C3", "stage20_C3", "stage23_C3"]
    assert found == sorted(f"{stem}_features{norm}.png" for stem in stems for norm in ("", "_byte"))
    with fv.capture(model, "17") as features, torch.no_grad():
        model(bus)
    cells = features[17].grid("64").cells
    with Image.open(articles.BUS) as file:
        x = to_tensor(articles.T.resize(file.convert("RGB"), [640, 480], antialias=True))[None]
    activation = independent_hooks(model, [17], x)[17][0]
    for norm in ("", "_byte"):
        picture = values(tmp_path / f"stage17_C3_features{norm}.png")
        assert sorted(cells) == list(range(64))
        for k, (x0, y0, w, h) in cells.items():
            cell = picture[y0 : y0 + h, x0 : x0 + w][:: h // 80, :: w // 60]
            wrapped = np.asarray(to_pil_image(torch.from_numpy(activation[k]))) / 255
            expected = wrapped if norm else scaled(activation[k])
            # a sum that differs in its last bit may fall on the other side of a whole number
            assert (np.abs(cell - expected) > STEP).mean() < 0.001


def test_d_first_and_last_channels_and_pca(redo, tmp_path, images):
    found = redo("d", "--channels", "5", "--layer", "layer1")
    names = ["channel000", "first5", "first5_pca", "last5", "last5_pca"]
    assert found == [f"layer1_Sequential_{name}.png" for name in names]
    net = articles.network("resnet50")
    with Image.open(images / "bus.jpg") as file:
        x = normalize(to_tensor(file.resize((384, 384), Image.BILINEAR)), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x[None])))))[0]
    for which, chosen in (("first5", range(5)), ("last5", range(251, 256))):
        picture = values(tmp_path / f"layer1_Sequential_{which}.png")
        grid = feature_map(x).grid(list(chosen))
        cells, below = grid.cells, len(picture) - len(grid.pixels)  # the head may have more lines
        assert list(cells) == list(chosen)
        for k, (x0, y0, w, h) in cells.items():
            cell = picture[y0 + below : y0 + below + h, x0 : x0 + w][:: h // 96, :: w // 96]
            assert np.abs(cell - scaled(x[k].numpy())).max() <= STEP, k


def test_e_vgg_filter_through_a_sigmoid(redo, tmp_path, images, capsys):
    assert redo("e", "--layer", "5") == ["stage5_Conv2d_channel000.png"]
    table = capsys.readouterr().out
    assert table.count("Conv2d") == 13 and table.count("MaxPool2d") == 5
    net = articles.network("vgg16").features
    with torch.no_grad():
        x = net[:6](imagenet(images, 224, Image.BILINEAR))[0, 0]
    found = values(tmp_path / "stage5_Conv2d_channel000.png")
    assert found.shape == (448, 448)
    assert np.abs(found[::4, ::4] - torch.sigmoid(x).numpy()).max() <= STEP


def test_a_users_mistake_is_one_line(redo, capsys):
    with pytest.raises(SystemExit) as stop:
        redo("a", "--layer", "layer9")
    assert stop.value.code == 2
    assert "no layer 'layer9'" in capsys.readouterr().err.splitlines()[-1]
