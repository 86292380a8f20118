"""A small seeded network, images for it, and its gradients by plain autograd."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fastcam

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
DROPOUTS = {1: nn.Dropout1d, 2: nn.Dropout2d, 3: nn.Dropout3d}
SIZES = {1: (16,), 2: (12, 10), 3: (6, 8, 7)}


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Any:
        return self.function(*arguments)


class ConvNet(nn.Module):
    """stem -> features -> relu -> probe -> global pooling -> classifier; the ReLUs work in place unless told."""

    def __init__(self, axes: int = 2, inplace: bool = True, pooling: str = "mean", dropout: float = 0.0) -> None:
        super().__init__()
        conv, norm = CONVOLUTIONS[axes], NORMS[axes]
        self.stem = nn.Sequential(conv(3, 6, 3, padding=1), norm(6), nn.ReLU(inplace), DROPOUTS[axes](dropout))
        self.features = nn.Sequential(conv(6, 8, 3, stride=2, padding=1), norm(8))
        self.relu = nn.ReLU(inplace)
        self.probe = nn.Identity()  # where tests put a module of their own
        self.pooling = pooling
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.probe(self.relu(self.features(self.stem(x))))
        spatial = tuple(range(2, x.dim()))
        return self.classifier(x.mean(spatial) if self.pooling == "mean" else x.amax(spatial))


def conv_net(*probe: nn.Module, **options: Any) -> ConvNet:
    """A seeded ConvNet in evaluation mode, with batch norm statistics that are not trivial; ``probe`` in its place."""
    torch.manual_seed(1)
    model = ConvNet(**options)
    if probe:
        model.probe = nn.Sequential(*probe)
    model.eval()
    for module in model.modules():
        if isinstance(module, tuple(NORMS.values())):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model


def images_for(axes: int = 2, count: int = 2, seed: int = 2) -> Tensor:
    """(count, 3, *S), seeded."""
    return torch.randn(count, 3, *SIZES[axes], generator=torch.Generator().manual_seed(seed))


def suited(method: str) -> tuple[ConvNet, str]:
    """A network and a target layer that the method can explain, the layer followed by an in-place ReLU if possible."""
    needs = fastcam.get_method(method).needs
    model = conv_net(pooling="max" if "max_pool_classifier" in needs else "mean")
    return model, "relu" if any("classifier" in need for need in needs) else "features"


def autograd_gradients(tail: Callable[[Tensor], Tensor], activations: Tensor) -> Tensor:
    """d tail / d activations by plain autograd; ``tail`` gives one score per image."""
    with torch.enable_grad():
        leaf = activations.detach().clone().requires_grad_()
        return torch.autograd.grad(tail(leaf).sum(), leaf)[0]
