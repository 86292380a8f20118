"""Networks and images on which whole methods are compared with the peers.

All in float64: in float32 the rounding of another memory layout may flip a rectifier next to zero, and with it a
pixel's gradient.
"""

from collections import OrderedDict
from functools import cache

import timm
import torch
import torchvision
from torch import Tensor, nn

import fastcam
from tests.support.networks import in_double, photographs, torchvision_network

AGREEMENT = 1e-4  # of a map's range
CLASSES = [7, 42]


def images(size: int = 64) -> Tensor:
    """(2, 3, size, size): the middle of the photographs."""
    start = (224 - size) // 2
    return photographs()[:, :, start : start + size, start : start + size].double()


def lively(model: nn.Module) -> nn.Module:
    """Weights and biases of ordinary size."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 1.4 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.3)
    return model.double().eval()


@cache
def vgg11() -> nn.Module:
    """A quarter of its width."""
    plan = [each if each == "M" else each // 4 for each in torchvision.models.vgg.cfgs["A"]]
    tail = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(512, 99), nn.ReLU(True), nn.Dropout(), nn.Linear(99, 50)]
    features = torchvision.models.vgg.make_layers(plan)
    return lively(nn.Sequential(OrderedDict(features=features, classifier=nn.Sequential(*tail))))


@cache
def resnet18() -> nn.Module:
    return in_double(torchvision_network("resnet18"))


@cache
def densenet121() -> nn.Module:
    """With a module as its last rectifier, for peers that see no function."""
    model = in_double(torchvision_network("densenet121"))
    tail = {"relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential(OrderedDict(features=model.features, **tail, classifier=model.classifier)).eval()


@cache
def mobilenet_v2(rectifier: type[nn.Module] = nn.ReLU) -> nn.Module:
    """With ReLU in the place of ReLU6, for the same reason."""
    model = in_double(torchvision_network("mobilenet_v2"))
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, rectifier(inplace=True))
    return model.eval()


@cache
def vit() -> nn.Module:
    return lively(timm.models.VisionTransformer(64, 16, embed_dim=24, depth=3, num_heads=3, num_classes=50))


@cache
def swin() -> nn.Module:
    sizes = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    return lively(timm.models.SwinTransformer(64, 4, num_classes=50, **sizes))


RECTIFIED = {"vgg11": vgg11, "resnet18": resnet18, "densenet121": densenet121, "mobilenet_v2": mobilenet_v2}
NETWORKS = RECTIFIED | {"vit": vit, "swin": swin}
LAYERS = {"vgg11": "features", "resnet18": "layer4", "densenet121": "features", "mobilenet_v2": "features"}


def error(found: Tensor, peer: Tensor) -> float:
    """Largest difference as a share of the range of the peer's map, over the images."""
    assert found.shape == peer.shape
    found, peer = found.detach().flatten(1), peer.detach().flatten(1)
    span = peer.amax(1) - peer.amin(1)
    assert (span > 0).all(), "maps without a range test nothing"
    return ((found - peer).abs().amax(1) / span).max().item()


def attributions(name: str, method: str, **options) -> Tensor:
    return fastcam.explain(NETWORKS[name](), images(), method, CLASSES, LAYERS.get(name), **options).attributions
