"""Networks whose batch norms are frozen: modules of constants, no subclasses of torch's batch norms."""

from collections.abc import Callable

import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

STATISTICS = ("weight", "bias", "running_mean", "running_var")


class OwnFrozenBatchNorm2d(nn.Module):
    """Keeps what it adds to the variance to itself, as those of transformers do."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in STATISTICS:
            self.register_buffer(name, torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 3e-4).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def frozen(model: nn.Module, kind: Callable[[int], nn.Module]) -> nn.Module:
    """The model with frozen norms in place of its batch norms."""
    for name, norm in list(model.named_modules()):
        if type(norm) is nn.BatchNorm2d:
            other = kind(norm.num_features).to(norm.weight.dtype)
            for each in STATISTICS:
                getattr(other, each).copy_(getattr(norm, each).detach())
            model.set_submodule(name, other)
    return model.eval()


FREEZE = {
    "torchvision": lambda model: frozen(model, FrozenBatchNorm2d),
    "own": lambda model: frozen(model, OwnFrozenBatchNorm2d),
    "timm": lambda model: freeze_batch_norm_2d(model).eval(),
}
