"""What channels add to a class: exact behind pooling and a linear layer, gradient times activation elsewhere."""

import pytest
import torch
from torch import nn

import fastcam
from fastcam import inspect
from tests.support.conv_net import conv_net
from tests.support.model_state import snapshot
from tests.support.networks import timm_network

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_pooled_head_is_exact():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).double()  # fmt: skip
    images = torch.randn(5, 3, 9, 8, dtype=torch.float64)
    before = snapshot(model)
    found = inspect.contributions(model, images, "1", [[0, 3]] * 5)
    assert snapshot(model) == before
    pooled = model[1](model[0](images)).mean((2, 3))
    expected = torch.stack([model[4].weight[k] * pooled for k in (0, 3)], 1).detach()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.sum(2) + model[4].bias[[0, 3]], model(images)[:, [0, 3]])
    highest = inspect.contributions(model, images, "1")
    classes = model(images).argmax(1)
    torch.testing.assert_close(highest, (model[4].weight[classes] * pooled).detach(), rtol=1e-12, atol=1e-14)


def test_gradient_times_activation():
    model = conv_net().double()
    images = torch.randn(3, 3, 12, 10, dtype=torch.float64)
    with fastcam.recording(model, "stem", gradients=True) as seen:
        model(images)[:, 2].sum().backward()
    expected = (seen["stem"] * seen.gradients["stem"]).sum((2, 3))
    with torch.inference_mode():
        found = inspect.contributions(model, images, model.stem, 2)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_tokens_and_mistakes():
    vit, images = timm_network("vit_tiny_patch16_224"), torch.randn(2, 3, 224, 224)
    assert inspect.contributions(vit, images, "blocks.10", 7).shape == (2, 192)
    with pytest.raises(ValueError, match="did you mean"):
        inspect.contributions(vit, images, "block.10")
    with pytest.raises(RuntimeError, match=r"does not depend on layer 'blocks\.3'"):
        inspect.contributions(vit, images, "blocks.3", lambda output: output.detach()[:, 0])
