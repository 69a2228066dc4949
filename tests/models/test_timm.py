"""timm's models by name, in the environment of make test-mmdet."""

import numpy as np
import pytest
import torch
from PIL import Image

import yolov5_featviz as fv
from yolov5_featviz.models.zoo import load_model

timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("resnet18", "layer4", (512, 7, 7)),
        ("vit_tiny_patch16_224", "blocks.3", (192, 14, 14)),  # [1, 197, 192]
        ("swin_tiny_patch4_window7_224", "layers.1", (192, 28, 28)),  # [1, 28, 28, 192]
        ("vit_small_patch14_reg4_dinov2", "blocks.2", (384, 37, 37)),  # four registers more
    ],
)
def test_models(name, layer, shape):
    zoo = load_model(f"timm:{name}")
    image = np.zeros((200, 300, 3), np.uint8)
    image[90:110, 140:160] = 255
    x, region = zoo.prepare(image)
    config = timm.data.resolve_model_data_config(zoo.model)
    expected = timm.data.create_transform(**config, is_training=False)(Image.fromarray(image))
    assert torch.equal(x[0], expected) and zoo.weights == "random ones"
    hooked = []
    handle = dict(zoo.model.named_modules())[layer].register_forward_hook(lambda m, a, out: hooked.append(out))
    with fv.capture(zoo.model, layer) as features, torch.no_grad():
        zoo.model(x)
    handle.remove()
    data = features[layer].data
    assert data.shape == shape
    last = hooked[0][0]
    if last.dim() == 2:  # tokens, of which the grid comes last
        last = last[-shape[1] * shape[2] :].T.reshape(shape)
    elif last.shape != shape:
        last = last.permute(2, 0, 1)
    assert torch.equal(data, last)
    # the square lies where the region says
    left, top, right, bottom = region
    bright = x[0].mean(0)
    rows, columns = ((bright > (bright.max() + bright.min()) / 2).any(d).nonzero() for d in (1, 0))
    middle = [(columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2]
    assert abs(left + 150 * (right - left) / 300 - middle[0]) <= 1
    assert abs(top + 100 * (bottom - top) / 200 - middle[1]) <= 1


def test_mistakes():
    with pytest.raises(fv.FeatvizError, match="has no model 'resnet1': did you mean resnet1"):
        load_model("timm:resnet1")
