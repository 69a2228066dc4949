"""Which device a model runs on."""

import pytest
import torch
from helpers import WEIGHTS

import yolov5_featviz as fv
from yolov5_featviz.models.device import choose_device


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("device", "expected"),
    [(None, "cuda:0"), ("cpu", "cpu"), ("CPU ", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), (1, "cuda:1")],
)
def test_where_there_are_gpus(device, expected, two_gpus):
    assert choose_device(device) == torch.device(expected)


def test_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device() == choose_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(fv.FeatvizError, match="no device 'cuda': torch finds no GPU here; take cpu"):
        choose_device("cuda")


@pytest.mark.parametrize("device", ["cuda:2", "7", "tpu", "", "cuda:", "cuda1", "-1", "meta", "0,1"])
def test_what_is_no_device(device, two_gpus):
    with pytest.raises(fv.FeatvizError, match=f"no device '{device}': (there are GPUs 0 to 1|take cpu, cuda)"):
        choose_device(device)


def test_a_predictor_keeps_to_the_cpu_if_asked(images):
    see = fv.Predictor(WEIGHTS, device="cpu")
    seen = see(images / "bus.jpg", layers=17, imgsz=64)
    assert see.device == seen[17].data.device == torch.device("cpu")
    with pytest.raises(fv.FeatvizError, match="no device 'tpu'"):
        fv.Predictor(WEIGHTS, device="tpu")
