"""Activations of stages: what plain hooks see, of models with tokens and with several outputs; and the figure."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import fastcam
from tests.support.conv_net import conv_net, images_for

pytestmark = pytest.mark.usefixtures("one_thread")


def test_numbers():
    model, images = conv_net().double(), images_for(count=3).double()
    seen = fastcam.inspect.activations(model, images, ["stem", model.features, "classifier"])
    assert list(seen) == ["stem", "features", "classifier"]
    stem = model.stem(images).detach()
    features = model.features(stem).detach()  # the ReLU behind it works in place
    torch.testing.assert_close(seen["features"].maps, features)
    stage = seen["stem"]
    values = stem.numpy()
    np.testing.assert_allclose(stage.mean, values.mean(1), rtol=1e-5)
    np.testing.assert_allclose(stage.median, np.median(values, 1), rtol=1e-5)
    np.testing.assert_allclose(stage.deviation, values.std(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stage.zero_share, (values == 0).mean(1), rtol=1e-6)
    assert stage.strongest(1, 2) == np.argsort(-values[1].mean((1, 2)))[:2].tolist()
    assert seen["classifier"].maps.shape == (3, 5, 1)
    assert not any(module._forward_hooks for module in model.modules())


def test_an_odd_number_of_channels_has_one_in_the_middle():
    stage = fastcam.inspect.StageActivations("x", torch.tensor([[[[3.0]], [[1.0]], [[2.0]]]]))
    assert stage.median.item() == 2


class TwoMaps(nn.Module):
    """As the neck of a detector, which returns two levels."""

    def forward(self, x):
        return nn.functional.avg_pool2d(x, 2), {"small": nn.functional.avg_pool2d(x, 4)}


def test_a_layer_that_returns_several_maps():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), TwoMaps())
    images = torch.randn(2, 3, 8, 8)
    seen = fastcam.inspect.activations(model, images, "1")
    assert {name: tuple(stage.maps.shape) for name, stage in seen.items()} == {
        "1[0]": (2, 4, 4, 4),
        "1[1]": (2, 4, 2, 2),
    }
    torch.testing.assert_close(seen["1[1]"].maps, nn.functional.avg_pool2d(model[0](images), 4).detach())


@pytest.mark.parametrize(("name", "layer", "shape"), [
    ("vit_b_32", "encoder.layers.encoder_layer_3", (1, 768, 7, 7)),
    ("swin_t", "features.3", (1, 192, 28, 28)),
])  # fmt: skip
def test_tokens_are_maps(name, layer, shape):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    assert fastcam.inspect.activations(model, torch.rand(1, 3, 224, 224), layer)[layer].maps.shape == shape


def test_the_stages_are_found():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    seen = fastcam.inspect.activations(model, torch.rand(1, 3, 64, 64))
    assert [name for name in seen if name.startswith("layer")] == ["layer1", "layer2", "layer3", "layer4"]


def test_the_figure():
    """A row for each stage with its mean, its median and the strongest channel in their places."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False)).eval()
    model[0].weight.data = torch.tensor([[[[1.0]], [[0.0]], [[0.0]]], [[[0.0]], [[1.0]], [[0.0]]]])
    image = torch.zeros(1, 3, 4, 4)
    image[0, 0, 0, 0], image[0, 1, 3, 3] = 1, 2
    seen = fastcam.inspect.activations(model, image, "0")
    picture = np.full((4, 4, 3), (9, 99, 199), np.uint8)
    figure = np.asarray(seen.figure(0, picture, "gray", cell=64))
    left = figure.shape[1] - 9 * (64 + 6)
    cells = [figure[24 : 24 + 64, left + each * 70 : left + each * 70 + 64] for each in range(9)]
    assert (cells[0] == (9, 99, 199)).all()
    assert cells[1][8, 8, 0] == 128  # the mean: half of the highest in the first corner
    assert cells[1][56, 56, 0] == 255
    assert cells[3][56, 56, 0] == 255  # the second channel is the strongest
    assert cells[3][8, 8, 0] == 0
    assert cells[4][8, 8, 0] == 255
    assert (cells[5] == 255).all()  # there are two channels
    assert seen.figure(cell=64).width == figure.shape[1] - 64 - 6


def test_mistakes():
    model, images = conv_net(), images_for()
    with pytest.raises(ValueError, match="no layer named 'layer9'"):
        fastcam.inspect.activations(model, images, "layer9")
    with pytest.raises(ValueError, match="maps of two axes"):
        fastcam.inspect.activations(model, images, "classifier").figure()
    model.unused = nn.Conv2d(3, 3, 1)
    with pytest.raises(RuntimeError, match="'unused' was not reached"):
        fastcam.inspect.activations(model, images, "unused")
    with pytest.raises(ValueError, match=r"layer '1' returns no maps \(N, C, ...\) of the 2 images"):
        fastcam.inspect.activations(nn.Sequential(nn.Identity(), Shape()), images, "1")


class Shape(nn.Module):
    def forward(self, x):
        return x.mean()
