"""A classifier with random weights, and an input of it."""

import pytest
import torch
import torchvision


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(3)
    return torchvision.models.resnet18(num_classes=5).eval()


@pytest.fixture(scope="module")
def x():
    return torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
