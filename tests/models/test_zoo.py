"""Models by name, their weights, and where they put an image."""

import sys

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import yolov5_featviz as fv
from yolov5_featviz.models.outputs import crop_region
from yolov5_featviz.models.zoo import load_model, stretch_to_square


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("the network was touched"))


def marked(height, width, box):
    """Black, with a white rectangle ``box``: left, top, right, bottom."""
    image = np.zeros((height, width, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image


def found(x):
    """The white rectangle in what a network was given."""
    bright = x[0].mean(0)
    rows, columns = ((bright > bright.min() + (bright.max() - bright.min()) / 2).any(d).nonzero() for d in (1, 0))
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (233, 232), (640, 427)])
@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:fcn_resnet50", "own"])
def test_an_image_lies_where_the_region_says(name, size, monkeypatch):
    if name == "own":
        prepare = stretch_to_square(96)
    else:
        if not hasattr(torchvision.models, "get_model_weights"):
            pytest.skip("this torchvision says not how its models want their images")
        monkeypatch.setattr(nn.init, "kaiming_normal_", lambda *args, **kwargs: None)
        prepare = load_model(name).prepare
    box = [size[1] // 3, size[0] // 3, size[1] // 2, size[0] // 2]
    x, region = prepare(marked(*size, box))
    left, top, right, bottom = region or (0, 0, x.shape[3], x.shape[2])
    scale = np.array([(right - left) / size[1], (bottom - top) / size[0]] * 2)
    expected = np.array(box) * scale + np.array([left, top] * 2)
    assert np.abs(found(x) - expected).max() <= 1
    assert name != "torchvision:resnet18" or x.shape[2:] == (224, 224)


@pytest.mark.parametrize(
    ("image", "resized", "network"),
    [((200, 300), 232, (224, 224)), ((301, 203), 256, (224, 224)), ((50, 50), 64, (96, 96))],
)
def test_crop_region(image, resized, network):
    """As torchvision's own transforms move a single row and column of light."""
    for y, x in ((image[0] // 2, image[1] // 2), (image[0] // 3, image[1] // 2)):
        light = torch.zeros(1, *image)
        light[:, y, x] = 1
        resize = torchvision.transforms.Resize(resized, antialias=True) if "antialias" in RESIZE else None
        resize = resize or torchvision.transforms.Resize(resized)
        there = torchvision.transforms.CenterCrop(network)(resize(light))[0]
        row, column = divmod(int(there.argmax()), network[1])
        left, top, right, bottom = crop_region(image, resized, network)
        assert abs(left + (x + 0.5) * (right - left) / image[1] - (column + 0.5)) <= 1
        assert abs(top + (y + 0.5) * (bottom - top) / image[0] - (row + 0.5)) <= 1


RESIZE = torchvision.transforms.Resize.__init__.__code__.co_varnames


def test_detectors_are_given_a_list_and_say_where_the_image_lies():
    zoo = load_model("torchvision:retinanet_resnet50_fpn(min_size=64, max_size=96)")
    x, region = zoo.prepare(marked(50, 90, (0, 0, 10, 10)))
    with fv.capture(zoo.model, "backbone") as features, torch.no_grad():
        zoo.model(x)
    assert x[0].shape == (3, 50, 90) and region == (0, 0, 96, 53)
    assert features["backbone"].input_size == (64, 96)
    with pytest.raises(fv.FeatvizError, match=r"resizes images itself: .*min_size=64"):
        load_model("torchvision:retinanet_resnet50_fpn", imgsz=64)


def test_imgsz_and_imagenet_statistics():
    x, region = load_model("torchvision:resnet18", imgsz=48).prepare(np.full((20, 30, 3), 255, np.uint8))
    assert x.shape == (1, 3, 48, 48) and region is None
    assert torch.allclose(
        x[0, :, 0, 0], (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    )


def test_weights(tmp_path):
    trained = torchvision.models.resnet18(num_classes=7)
    path = str(tmp_path / "w.pt")
    for kept in (
        trained.state_dict(),
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in trained.state_dict().items()}},
        {"model": trained.state_dict()},
    ):
        torch.save(kept, path)
        zoo = load_model("torchvision:resnet18(num_classes=7)", path)
        assert all(torch.equal(v, trained.state_dict()[k]) for k, v in zoo.model.state_dict().items())
        assert zoo.weights == path and not zoo.model.training
    assert load_model("torchvision:resnet18(num_classes=7)").weights == "random ones"


def test_weights_that_were_downloaded_before_are_taken(tmp_path):
    if not hasattr(torchvision.models, "get_model_weights"):
        pytest.skip("this torchvision does not say what its weights are called")
    url = torchvision.models.get_model_weights("resnet18").DEFAULT.url
    trained = torchvision.models.resnet18()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    state = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    torch.save(trained.state_dict(), state)
    zoo = load_model("torchvision:resnet18")
    assert url in zoo.weights and torch.equal(zoo.model.fc.weight, trained.fc.weight)
    assert load_model("torchvision:resnet18(num_classes=1000)").weights == "random ones"


def test_your_own(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n\ndef tiny(width=4):\n    return nn.Sequential(nn.Conv2d(3, width, 3))\n\nnumber = 5\n"
    )
    (tmp_path / "halfnets.py").write_text("def tiny(:\n")
    (tmp_path / "needy.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert load_model("mynets:tiny").model[0].out_channels == 4
    assert load_model(f"{tmp_path}/mynets.py:tiny(width=6)").model[0].out_channels == 6
    assert sys.path == before
    x, region = load_model("mynets:tiny").prepare(marked(20, 30, (0, 0, 5, 5)))
    assert x.shape == (1, 3, 384, 384) and region is None
    for name, says in (
        ("mynets:tin", "no function 'tin': did you mean tiny"),
        ("mynets:number", "is of type int, not a function"),
        ("mynets:nn(4)", "not understood: give key=value"),
        ("nonets:tiny", "no module nonets"),
        ("nonets.py:tiny", "there is no such file"),
        ("halfnets.py:tiny", "halfnets.py cannot be imported: SyntaxError"),
        ("halfnets:tiny", "halfnets cannot be imported: SyntaxError"),
        ("needy.py:tiny", "no module nowhere_to_be_found"),
        ("mynets:tiny(depth=3)", "could not be built: .*'depth'"),
        ("builtins:dict", "returned a dict, not a torch.nn.Module"),
    ):
        with pytest.raises(fv.FeatvizError, match=says) as error:
            load_model(name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "weights", "says"),
    [
        ("resnet50", None, "no model 'resnet50': give torchvision:resnet50"),
        ("torchvision:resnet5", None, "has no model 'resnet5': did you mean resnet50"),
        ("torchvision:get_model", None, "has no model 'get_model'"),
        ("torchvision:resnet18(classes=7)", None, "could not be built: .*'classes'"),
        ("torchvision:resnet18(num_classes=open)", None, "not understood"),
        (
            "torchvision:resnet18",
            {"fc.weight": torch.zeros(3)},
            r"does not fit torchvision:resnet18: it lacks bn1\.bias, .* more",
        ),
        ("torchvision:resnet18", "resnet34", r"it also has layer1\.2\.bn1\.bias, .* more"),
        ("torchvision:resnet18", "other", r"fc\.weight is \[7, 512\], in the model \[1000, 512\].*num_classes=N"),
        ("torchvision:resnet18", {"epoch": 3}, "holds epoch, and no state dict"),
        ("torchvision:resnet18", [1, 2], "holds a list, and no state dict"),
        ("timm:resnet50", None, "pip install timm"),
    ],
)
def test_what_cannot_be_is_told(name, weights, says, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    if isinstance(weights, str):
        models = {
            "resnet34": lambda: torchvision.models.resnet34(),
            "other": lambda: torchvision.models.resnet18(num_classes=7),
        }
        weights = models[weights]().state_dict()
    with pytest.raises(fv.FeatvizError, match=says) as error:
        load_model(name, weights and "w.pt", read=lambda path: weights)
    assert "\n" not in str(error.value)
