"""`yolov5-featviz image`: any model, from the command line."""

import io

import numpy as np
import pytest
import torch
import torchvision
from helpers import files_below, run
from PIL import Image

import yolov5_featviz as fv
from yolov5_featviz.cli import main

NETS = """
import torch
from torch import nn

def spot(bias=0.0):
    "Puts out the brightness of the image, in cells of 8 pixels."
    net = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU())
    nn.init.constant_(net[0].weight, 1 / 192)
    nn.init.constant_(net[0].bias, bias)
    return net
"""


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "nets.py").write_text(NETS)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, size in (("a.png", (64, 48)), ("b.jpg", (40, 80))):
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        pixels[size[1] // 2 :, : size[0] // 2] = 255
        Image.fromarray(pixels).save(folder / name)
    return tmp_path


def image(*words):
    return main(["image", *map(str, words)])


def test_pictures_of_a_folder(there, capsys):
    assert image("--model", "nets:spot", "--layers", "all", "--source", "photos", "--imgsz", 64) == 0
    expected = [f"{name}/stage{i}_{type}_features.png" for name in "ab" for i, type in enumerate(("Conv2d", "ReLU"))]
    assert files_below(there / "runs" / "featviz" / "exp") == [*expected, "index.html"]
    assert "weights: those it was made with" in (told := capsys.readouterr().err)
    assert "4 feature maps in runs/featviz/exp: a/, b/" in told
    assert told.splitlines()[-1] == "yolov5-featviz: open runs/featviz/exp/index.html"
    words = ["--visualize-format", "npy", "--visualize-report", "off", "--visualize-quiet"]
    assert image("--model", "nets.py:spot", "--layers", "1", "--source", "photos/*.png", *words) == 0
    assert files_below(there / "runs" / "featviz" / "exp2") == ["a/stage1_ReLU_features.npy"]
    assert files_below(there / "runs" / "featviz" / "exp") == [*expected, "index.html"]
    assert capsys.readouterr().err == ""


def test_channels_by_ablation_of_a_model_that_detects_nothing(there, capsys):
    """They are ranked by std instead, and log, picture and report say why."""
    words = ("--imgsz", 64, "--channels", "top:2:ablation")
    assert image("--model", "nets:spot", "--layers", "1", "--source", "photos/a.png", *words) == 0
    says = "by std instead of ablation: Sequential is no detector of a known family"
    assert says in capsys.readouterr().err
    folder = there / "runs" / "featviz" / "exp" / "a"
    assert says in Image.open(folder / "stage1_ReLU_features.png").info["Title"]
    assert (folder / "stage1_ReLU_ranking.csv").read_text().splitlines()[0] == "rank,channel,std,mean,max"


def test_values_and_preprocessing(there):
    """What is dumped is what torchvision's own transforms and model give."""
    model = torchvision.models.resnet18().eval()
    torch.save({"state_dict": model.state_dict()}, "w.pt")
    words = ["--model", "torchvision:resnet18", "--weights", "w.pt", "--layers", "layer1,layer?.0.conv2"]
    assert image(*words, "--source", "photos/b.jpg", "--visualize-format", "npy", "--visualize-dir", "out") == 0
    photo = Image.open("photos/b.jpg").convert("RGB")
    if hasattr(torchvision.models, "get_model_weights"):
        x = torchvision.models.get_model_weights("resnet18").DEFAULT.transforms()(photo)[None]
    else:
        x = torch.from_numpy(np.array(photo.resize((384, 384), Image.BICUBIC))).permute(2, 0, 1)[None] / 255
        x = torchvision.transforms.functional.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    found = []
    model.layer1.register_forward_hook(lambda m, a, out: found.append(out[0].numpy()))
    with torch.no_grad():
        model(x)
    assert np.array_equal(np.load("out/b/layer1_Sequential_features.npy"), found[0])
    assert len(files_below("out")) == 6


@pytest.mark.parametrize("size", [(90, 60), (60, 90)])
def test_overlays_fall_where_the_image_is(there, size, monkeypatch):
    """Also where the model crops: heat over the bright part of the image, none on what it did not see."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[size[1] // 2 - 8 : size[1] // 2 + 8, size[0] // 2 - 8 : size[0] // 2 + 8] = 200
    Image.fromarray(pixels).save("spot.png")

    def cropping(*args):
        from yolov5_featviz.models.zoo import ZooModel, transformed

        steps = torchvision.transforms
        steps = steps.Compose([steps.Resize(64), steps.CenterCrop(64), steps.ToTensor()])
        import nets

        return ZooModel(nets.spot().eval(), "", transformed(steps, 64))

    monkeypatch.syspath_prepend(str(there))
    monkeypatch.setattr("yolov5_featviz.models.zoo.load_model", cropping)
    look = ["--visualize-mode", "heatmap", "--visualize-cmap", "gray", "--visualize-alpha", "1", "--visualize-plain"]
    assert image("--model", "nets:spot", "--layers", "1", "--source", "spot.png", *look, "--visualize-dir", "o") == 0
    with Image.open("o/spot/stage1_ReLU_heatmap.png") as file:
        heat = np.asarray(file.convert("L")).astype(float)
    assert heat.shape == (size[1], size[0])
    rows, columns = np.mgrid[: size[1], : size[0]] + 0.5
    centre = np.array([(heat * rows).sum(), (heat * columns).sum()]) / heat.sum()
    assert np.abs(centre - np.array(size[::-1]) / 2).max() < 0.5
    seen = heat[:, 15:75] if size[0] > size[1] else heat[15:75]  # the rest is cropped, and black in the image
    assert seen.sum() == heat.sum()


def test_a_crop_leaves_the_rest_of_the_image_alone():
    photo = np.full((40, 80, 3), 100, np.uint8)
    fm = fv.FeatureMap(torch.ones(1, 4, 4), fv.select_layers(torch.nn.Sequential(torch.nn.ReLU()), 0)[0], (32, 32))
    fm = fv.FeatureMap(fm.data, fm.layer, fm.input_size, region=(-16, 0, 48, 32))
    drawn = fm.heatmap().over(photo, plain=True).to_rgb()
    assert (drawn[:, :20] == 100).all() and (drawn[:, 60:] == 100).all()
    assert (drawn[:, 20:60] != 100).any(axis=2).all()


def test_a_bad_image_among_good_ones(there, capsys):
    (there / "photos" / "a.png").write_bytes(b"no picture")
    assert image("--model", "nets:spot", "--layers", "1", "--source", "photos") == 1
    assert "cannot read the image photos/a.png" in (told := capsys.readouterr().err) and "skipped" in told
    assert files_below(there / "runs" / "featviz" / "exp") == ["b/stage1_ReLU_features.png", "index.html"]
    assert image("--model", "nets:spot", "--layers", "1", "--source", "photos/a.png") == 2
    assert not (there / "runs" / "featviz" / "exp2").exists()


def test_odd_files_and_names(there, capsys):
    folder = there / "photos"
    (folder / "folder.jpg").mkdir()
    (folder / "broken.jpg").symlink_to("nowhere")
    for name in ("b.png", "b2.jpg", "line\nend.png"):
        Image.new("RGB", (40, 30), "red").save(folder / name)
    assert image("--model", "nets:spot", "--layers", "1", "--source", "photos", "--visualize-report", "off") == 1
    told = capsys.readouterr().err
    assert "no image photos/broken.jpg: the link leads nowhere; skipped" in told
    assert "cannot read the image photos/folder.jpg" in told
    folders = sorted(path.name for path in (there / "runs/featviz/exp").iterdir())
    assert folders == ["a", "b.jpg", "b.png", "b2", "line_end"]
    assert len(files_below(there / "runs/featviz/exp")) == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--source", "nowhere.jpg"], "no image nowhere.jpg: give a file, or a folder"),
        (["--source", "empty"], "empty is a folder without images"),
        (["--layers", "7"], "no layer 7: this model has layers 0 to 1"),
        (["--model", "torchvision:resnet"], "has no model 'resnet'"),
        (["--model", "torchvision:resnet18", "--layers", "fc"], "layer fc (Linear) yields a tensor of shape [1, 1000]"),
        (["--imgsz", "0"], "--imgsz 0: take 1 or more"),
        (["--imgsz", "4"], "the model cannot be run on an input of shape [1, 3, 4, 4]"),
        (["--visualize-mode", "pie"], "no mode 'pie'"),
        (["--visualize-channels", "few"], "channels 'few' are not understood"),
        (["--visualize-channels", ""], "channels '' are not understood"),
        (["--visualize-channels", "2-9"], "no channel 9: this layer has channels 0 to 3"),
        (["--model", "nets:torch"], "nets:torch is of type module, not a function that returns a model"),
        (["--weights", "nets.py"], "nets.py"),
        (["--weights", "default"], "offers no default weights"),
        (["--visualize-dir", "nets.py"], "cannot write into nets.py"),
        (["--sauce", "x"], "--sauce"),
    ],
)
def test_mistakes_are_told_in_one_line_and_nothing_is_written(there, capsys, words, says):
    (there / "empty").mkdir()
    before = files_below(there)
    given = {"--model": "nets:spot", "--layers": "1", "--source": "photos", **dict(zip(words[::2], words[1::2]))}
    assert image(*[word for pair in given.items() for word in pair]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in last and last.startswith("yolov5-featviz: error: ")
    assert [name for name in files_below(there) if "__pycache__" not in name] == before
    assert not (there / "runs").exists()


def test_weights_are_read_without_being_run(there, capsys):
    class Evil:
        def __reduce__(self):
            return (open, (str(there / "ran"), "w"))

    stream = io.BytesIO()
    torch.save({"state_dict": {"0.weight": torch.zeros(1)}, "more": Evil()}, stream)
    (there / "w.pt").write_bytes(stream.getvalue())
    assert image("--model", "nets:spot", "--weights", "w.pt", "--layers", "1", "--source", "photos") == 2
    assert "refused" in capsys.readouterr().err and not (there / "ran").exists()


def test_table_of_layers(there, capsys):
    assert main(["layers", "--model", "nets:spot", "--imgsz", "64"]) == 0
    assert "1x4x8x8" in capsys.readouterr().out
    assert main(["layers", "--model", "torchvision:vgg11"]) == 0
    table = capsys.readouterr().out
    assert "features.20" in table and "1x512x7x7" in table  # 224 x 224, as VGG wants it
    assert main(["layers"]) == 2 and "--model, such as torchvision:resnet50" in capsys.readouterr().err
    assert main(["layers", "--model", "nets:spot", "--depth", "0"]) == 2


def test_as_a_user_would(there):
    words = ["image", "--model", "nets:spot", "--layers", "1", "--source", "photos", "--visualize-mode", "heatmap,grid"]
    done = run("-m", "yolov5_featviz", *words, cwd=there, script=None)
    assert "2 feature maps in runs/featviz/exp" in done.stderr
    assert len(files_below(there / "runs")) == 5


def test_no_detections_to_draw(there, capsys):
    words = ("--model", "nets:spot", "--layers", "1", "--source", "photos", "--visualize-boxes")
    assert image(*words) == 2
    assert "`image` has no detections to draw" in capsys.readouterr().err and not (there / "runs").exists()
