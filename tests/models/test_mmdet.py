"""mmdetection's own detectors, from their own configurations, in their own environment: make test-mmdet."""

import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import yolov5_featviz as fv

mmdet = pytest.importorskip("mmdet")
warnings.filterwarnings("ignore")

CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
ATSS, RETINANET, RTMDET = (
    "atss/atss_r50_fpn_1x_coco.py",
    "retinanet/retinanet_r18_fpn_1x_coco.py",
    "rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
)


def config(name):
    """As it is, but for weights that would be downloaded, and smaller images."""
    from mmengine.config import Config

    cfg = Config.fromfile(str(CONFIGS / name))
    cfg.model.backbone.init_cfg = None
    for step in [*cfg.test_pipeline, *cfg.train_pipeline]:
        if step.type == "Resize":
            step.scale = (160, 96)
        elif step.type == "Pad":
            step.size = (160, 160)
    cfg.test_dataloader.dataset.pipeline = cfg.test_pipeline
    cfg.train_dataloader.dataset.pipeline = cfg.train_pipeline
    return cfg


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """Grey, with a white rectangle from 40, 20 to 90, 50."""
    image = np.full((90, 137, 3), 60, np.uint8)
    image[20:50, 40:90] = 255
    path = tmp_path_factory.mktemp("photos") / "odd one.png"
    cv2.imwrite(str(path), image)
    return path


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        (ATSS, {"backbone": [256, 512, 1024, 2048], "neck": [256] * 5}),
        (RETINANET, {"backbone": [64, 128, 256, 512], "neck": [256] * 5}),
        (RTMDET, {"backbone": [96, 192, 384], "neck": [96] * 3}),
    ],
)
def test_backbone_and_neck_of_an_unedited_detector(name, levels, photo):
    from mmdet.apis import inference_detector, init_detector

    detector = init_detector(config(name), None, device="cpu", palette="random")
    hooked, given = {}, []
    for part in levels:
        getattr(detector, part).register_forward_hook(lambda m, a, out, part=part: hooked.__setitem__(part, out))
    detector.backbone.register_forward_pre_hook(lambda m, args: given.append(args[0]))

    with fv.capture(detector, "backbone,neck") as features:
        inference_detector(detector, str(photo))
    maps = features.of_image(0)

    assert [len(fm.data) for fm in maps] == levels["backbone"] + levels["neck"]
    for part in levels:
        for i, tensor in enumerate(hooked[part]):
            fm = features.get(part, level=i)
            assert torch.equal(fm.data, tensor[0]) and fm.level == str(i) and fm.image == "odd one"
    assert [fm.stride[1] for fm in maps[:3]] == ([8, 16, 32] if name == RTMDET else [4, 8, 16])
    # the rectangle in what the network was given, and where the region says it is
    x = given[-1][0].mean(0)
    rows, columns = ((x > (x.max() + x[5, 5]) / 2).any(d).nonzero() for d in (1, 0))
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert tuple(given[-1].shape[2:]) == maps[0].input_size
    for fm in maps:
        left, top, right, bottom = fm.region
        scale = np.array([(right - left) / 137, (bottom - top) / 90] * 2)
        expected = np.array([40, 20, 90, 50]) * scale + np.array([left, top] * 2)
        assert np.abs(np.array(found, float) - expected).max() <= 1.5
    assert maps[0].heatmap().over(str(photo), plain=True).pixels.shape == (90, 137, 3)


@pytest.mark.parametrize(
    ("meta", "region"),
    [
        ({"ori_shape": (90, 137), "scale_factor": (2.0, 2.0)}, (0, 0, 274, 180)),
        ({"ori_shape": (100, 50), "scale_factor": (0.5, 0.5), "pad_param": np.array([7.0, 8, 3, 4])}, (3, 7, 28, 57)),
        ({"ori_shape": (100, 50), "scale_factor": (0.5, 0.5), "flip": True}, None),
        ({"ori_shape": (100, 50)}, None),
    ],
)
def test_where_the_image_lies(meta, region):
    from yolov5_featviz.models.openmmlab import region_of

    assert region_of(meta) == region


@pytest.fixture
def dataset(tmp_path):
    """Three photographs with a rectangle each, as COCO has them."""
    coco = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    for i, (height, width) in enumerate(((90, 137), (120, 80), (64, 64)), 1):
        pixels = np.full((height, width, 3), 60, np.uint8)
        pixels[10:40, 20:60] = (0, 0, 255)  # red, as OpenCV writes it
        cv2.imwrite(str(tmp_path / f"p{i}.png"), pixels)
        coco["images"].append({"id": i, "file_name": f"p{i}.png", "height": height, "width": width})
        box = {"bbox": [20, 10, 40, 30], "area": 1200, "iscrowd": 0, "category_id": 1}
        coco["annotations"].append({"id": i, "image_id": i, **box})
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    return tmp_path


def runner(name, dataset, hook):
    from mmengine.config import Config
    from mmengine.runner import Runner

    cfg = config(name)
    cfg.custom_imports = {"imports": ["yolov5_featviz.mmdet"]}
    cfg.custom_hooks = [{"type": "FeatureMapHook", **hook}]
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        loader.dataset.update(data_root=str(dataset), ann_file="coco.json", data_prefix={"img": ""})
        loader.dataset.metainfo = {"classes": ("person",)}
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = str(dataset / "coco.json")
    cfg.model.bbox_head.num_classes = 1
    cfg.work_dir = str(dataset / "work")
    cfg.launcher, cfg.log_level = "none", "ERROR"
    cfg.train_cfg = {"type": "EpochBasedTrainLoop", "max_epochs": 1, "val_interval": 5}
    cfg.dump(str(dataset / "config.py"))  # as the user's file says it
    return Runner.from_cfg(Config.fromfile(str(dataset / "config.py")))


def names_below(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.*") if path.is_file())


def test_hook_while_testing(dataset):
    it = runner(RETINANET, dataset, {"limit": 2, "modes": ["heatmap"], "formats": ["png", "npy"], "boxes": True})
    found = []
    it.model.neck.register_forward_hook(lambda m, a, out: found.append([t.numpy().copy() for t in out]))
    it.test()
    home = Path(it.log_dir) / "feature_maps"
    parts = [f"backbone_ResNet_level{i}" for i in range(4)] + [f"neck_FPN_level{i}" for i in range(5)]
    ends = ("features.npy", "heatmap.png")
    assert names_below(home) == sorted(f"p{n}/{part}_{end}" for n in (1, 2) for part in parts for end in ends)
    for n in (0, 1):
        for i in range(5):
            assert np.array_equal(np.load(home / f"p{n + 1}" / f"neck_FPN_level{i}_features.npy"), found[0][i][n])
    assert not any(m._forward_pre_hooks for m in it.model.modules())


def test_hook_while_training(dataset):
    """The picture is the image as the pipeline made it, in its colours, with the heat on its part of the input."""
    it = runner(ATSS, dataset, {"layers": "neck", "interval": 1, "modes": ["heatmap"], "alpha": 0, "plain": True})
    given = []
    prepare = it.model.data_preprocessor
    prepare.register_forward_pre_hook(lambda m, args: given.append(args[0]["inputs"][0].clone()))
    it.train()
    home = Path(it.log_dir) / "feature_maps"
    made = names_below(home)
    assert [name.split("/")[0] for name in made[::5]] == ["iter_0", "iter_1", *["val_iter_2"] * 3]
    picture = cv2.imread(str(home / made[0]))
    assert np.array_equal(picture, given[0].numpy().transpose(1, 2, 0))  # both are blue, green, red


def test_hook_tells_mistakes(dataset):
    with pytest.raises(fv.FeatvizError, match="no mode 'pie'"):
        runner(RETINANET, dataset, {"modes": ["pie"]})
    it = runner(RETINANET, dataset, {"layers": "nek"})
    with pytest.raises(fv.FeatvizError, match=r"no layer 'nek': did you mean neck\?"):
        it.test()
