"""The stages that are found: the ends of a network's resolutions, not what lies inside of its blocks."""

import pytest
import torch
from torch import nn

from fastcam import inspect
from tests.support.conv_net import Call
from tests.support.networks import timm_network, torchvision_network
from tests.zoo import transformers_cases

STAGES = {
    "resnet50": ["relu", "layer1", "layer2", "layer3", "layer4"],
    "densenet121": ["features.relu0", *(f"features.denseblock{n}" for n in (1, 2, 3)), "features"],
    "mobilenet_v2": ["features.1", "features.3", "features.6", "features.13", "features"],
    "efficientnet_b0": ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "bn2"],
    "convnext_atto": ["stages.0", "stages.1", "stages.2", "stages"],
    "swin_tiny_patch4_window7_224": ["layers.0", "layers.1", "layers.2", "norm"],
    "vit_tiny_patch16_224": ["norm"],
}


@pytest.mark.parametrize("name", STAGES)
def test_stages(name):
    network = torchvision_network if name in ("resnet50", "densenet121", "mobilenet_v2") else timm_network
    assert inspect.find_stages(network(name), torch.randn(1, 3, 224, 224)) == STAGES[name]


SIDES = {
    "Swin": [28, 14, 7],
    "ConvNext": [28, 14, 7, 3],
    "PVTv2": [28, 14, 7, 4],
    "ViT": [8],
    "MobileViT": [64, 32, 16, 8, 4],
}


@pytest.mark.parametrize(("name", "sides"), SIDES.items())
def test_networks_of_transformers(name, sides):
    """Tables of positions, attention and windows are no stages; the maps in tokens are."""
    built = transformers_cases.build(name, None)
    images = torch.randn(3, *built.images["pixel_values"].shape[1:])
    found = inspect.survey(built.model, images)
    seen = inspect.activations(built.model, images)
    assert list(found) == list(seen)
    assert [tuple(stage.mean.shape) for stage in seen.values()] == [(3, side, side) for side in sides]
    for name, stage in seen.items():
        torch.testing.assert_close(
            found[name].statistics.mean.float(), stage.maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5, msg=name
        )


def test_what_does_not_depend_on_the_image_is_no_stage():
    class Table(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 5, *x.shape[2:]) * torch.arange(x.shape[-1])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.conv = Table(), nn.Conv2d(3, 5, 3, padding=1)

        def forward(self, x):
            return (self.conv(x) + self.table(x)).mean((2, 3))

    assert inspect.find_stages(Net().eval(), torch.randn(1, 3, 16, 16)) == ["conv"]


def test_a_module_that_runs_again_belongs_to_its_last_run():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 5, 3, padding=1), nn.ReLU()
            self.down = nn.Conv2d(5, 6, 2, 2)

        def forward(self, x):
            return self.act(self.down(self.act(self.conv(x)))).mean((2, 3))

    assert inspect.find_stages(Net().eval(), torch.randn(1, 3, 16, 16)) == ["conv", "act"]


def test_no_stage():
    with pytest.raises(ValueError, match="the model has no maps"):
        inspect.find_stages(
            nn.Sequential(Call(lambda x: x.mean((2, 3))), nn.Linear(3, 5)).eval(), torch.randn(1, 3, 8, 8)
        )
