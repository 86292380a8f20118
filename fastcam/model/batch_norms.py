"""Batch norms with constant statistics: torch's own, and the frozen ones of detectors, which are no subclasses."""

import copy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# Submodules of the batch norms of some libraries, in the order in which they run: dropout, then the activation.
_EXTRA_MODULES = ("drop", "act")
_STATISTICS = {"weight", "bias", "running_mean", "running_var"}


@dataclass(frozen=True)
class ChannelAffine:
    """What a batch norm does to each channel.

    Attributes:
        scale: (C,), of the input.
        shift: (C,), added to it.
    """

    scale: Tensor
    shift: Tensor


def is_frozen_class(kind: type[nn.Module]) -> bool:
    """Whether a class is one of batch norms of constants: of torchvision, timm and transformers, for example."""
    return "FrozenBatchNorm" in kind.__name__


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm, perhaps with an activation."""
    is_frozen = is_frozen_class(type(module)) and module._buffers.keys() >= _STATISTICS
    return is_frozen or isinstance(module, _BatchNorm)


def extra_modules(norm: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return what a batch norm runs after the normalization, in order, by name."""
    return [(name, module) for name in _EXTRA_MODULES if (module := norm._modules.get(name)) is not None]


def affine_of(norm: nn.Module) -> ChannelAffine | None:
    """Return what a batch norm does; None for one whose statistics are those of each batch."""
    if not isinstance(norm, _BatchNorm) and not hasattr(norm, "eps"):
        return _measured(norm)
    mean, variance = cast("Tensor | None", norm.running_mean), cast("Tensor | None", norm.running_var)
    if mean is None or variance is None or (isinstance(norm, _BatchNorm) and norm.training):
        return None
    weight, bias = cast("Tensor | None", norm.weight), cast("Tensor | None", norm.bias)
    scale = torch.rsqrt(variance + cast("float", norm.eps))
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    return ChannelAffine(scale, shift if bias is None else shift + bias)


def _measured(norm: nn.Module) -> ChannelAffine:
    """Return what a frozen batch norm does that keeps a constant of its formula to itself."""
    mean = cast("Tensor", norm.running_mean)
    probes = torch.stack([torch.zeros_like(mean), torch.ones_like(mean)])[..., None, None]
    shift, sum_of_both = norm.forward(probes)[..., 0, 0]
    return ChannelAffine(sum_of_both - shift, shift)


def in_float64(norm: nn.Module) -> nn.Module:
    """Return a copy of a batch norm in float64, so that folding it rounds once."""
    return copy.deepcopy(norm).double()
