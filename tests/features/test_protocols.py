"""Feature maps and heat maps in numpy and in notebooks."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from helpers import feature_map
from PIL import Image

from yolov5_featviz.models.layers import Layer

RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32, torch.bool])
def test_a_feature_map_is_an_array_of_its_own_type(dtype):
    tensor = torch.from_numpy(DATA).to(dtype)
    fm = feature_map(tensor)
    found = np.asarray(fm)
    assert found.dtype == tensor.numpy().dtype and np.array_equal(found, tensor.numpy())
    assert np.shares_memory(found, tensor.numpy()) and not np.shares_memory(np.array(fm), tensor.numpy())
    assert np.asarray(fm, np.float64).dtype == np.float64


def test_bfloat16_which_numpy_has_not_becomes_float32():
    tensor = torch.from_numpy(DATA).to(torch.bfloat16)
    found = np.asarray(feature_map(tensor))
    assert found.dtype == np.float32 and np.array_equal(found, tensor.float().numpy())


def test_a_heat_map_is_an_array():
    heat = feature_map(DATA).heatmap()
    assert np.array_equal(np.asarray(heat), heat.values) and np.asarray(heat).shape == (4, 5)
    assert np.asarray(heat, dtype=np.float16).dtype == np.float16
    assert np.max(heat) == 1 and np.mean([heat, heat], axis=0).shape == (4, 5)


def test_repr_is_one_line():
    fm = feature_map(DATA, image="a\nb")
    assert repr(fm) == "<FeatureMap a\ufffdb, layer 17 (C3): [3, 4, 5] torch.float32>"
    assert repr(fm.heatmap()) == "<HeatMap a\ufffdb · Layer 17 · C3 · mean of 3 channels · H×W 4×5: [4, 5]>"


@pytest.mark.parametrize("make", [lambda fm: fm, lambda fm: fm.heatmap()])
def test_html_shows_the_picture_and_says_what_it_is(make):
    layer = Layer("model.17", torch.nn.Identity(), "<b>", index=17, name="17")
    shown = make(type(feature_map(DATA))(torch.from_numpy(DATA), layer))
    text = shown._repr_html_()
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(data) == shown._repr_png_()
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert f'width="{image.width * 96 // 300}"' in text  # an inch of 300 dots in a browser's 96
    assert "&lt;b&gt;" in text and "<b>" not in text
