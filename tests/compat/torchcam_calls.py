"""What the tests of the package in torch-cam's place call: small smooth models in float64, their images, extractors."""

import functools

import torch
import torchvision
from torch import nn

from fastcam.compat import torchcam as package

GRADIENTS = ("GradCAM", "GradCAMpp", "SmoothGradCAMpp", "XGradCAM", "LayerCAM")
CAMS = ("CAM", *GRADIENTS, "ScoreCAM", "SSCAM", "ISCAM")
FEW = {"SSCAM": {"num_samples": 2}, "ISCAM": {"num_samples": 3}, "SmoothGradCAMpp": {"num_samples": 3}}
# Twice the size of the maps, so that resized maps are exact and metrics rank equal values alike.
SIZES = {1: (2, 3, 16), 2: (2, 3, 12, 8), 3: (2, 3, 6, 4, 8)}


class Net(nn.Module):
    """A smooth block, means over positions, and scores that lie far apart."""

    def __init__(self, axes: int = 2) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        self.features = nn.Sequential(convolution(3, 6, 3, stride=2, padding=1), nn.SiLU())
        self.fc = nn.Linear(6, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 20 * self.fc(self.features(images).flatten(2).mean(2))


@functools.cache
def net(axes=2, seed=0):
    torch.manual_seed(seed)
    return Net(axes).double().eval()


@functools.cache
def images(axes=2):
    return torch.randn(SIZES[axes], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@functools.cache
def transformer():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 4, 24, 48, num_classes=5).double().eval()
    nn.init.normal_(model.heads[0].weight)
    return model


def made(module, name, model, layers="features", **options):
    """An extractor of either package, with ``exact_peer=True`` where it is ours."""
    exact = {"exact_peer": True} if module is package else {}
    given = {**FEW.get(name, {}), **exact, **options}
    return getattr(module.methods, name)(model, layers, **({"fc_layer": "fc"} if name == "CAM" else {}), **given)
