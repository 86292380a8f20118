"""The networks that are measured: architectures with random weights that behave like trained ones."""

import torch
import torchvision
from torch import nn

from fastcam.bench.contest import randomize_zeros


def network(name: str) -> nn.Module:
    """A torchvision network with seeded random weights, its normalisations with statistics of their own.

    They are those of noise: without them deep activations are the same all over, and a map of them is rounding errors.
    """
    torch.manual_seed(0)
    model = randomize_zeros(getattr(torchvision.models, name)(weights=None)).eval()
    norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.train().momentum = None
    if norms:
        with torch.no_grad():
            model(torch.randn(8, 3, 224, 224))
    return model.eval()
