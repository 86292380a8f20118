"""Tensors of integers with a scale, as the layers of quantised models return them: read and written as numbers."""

from typing import cast

import torch
from torch import Tensor, nn

from fastcam.model import memory

_PER_TENSOR = (torch.per_tensor_affine, torch.per_tensor_symmetric)


def holds_quantised(model: nn.Module) -> bool:
    """Whether a model has quantised layers, which have no derivative."""
    return memory.derived(model, "holds quantised layers", _include_quantised)


def _include_quantised(modules: list[nn.Module]) -> bool:
    return any("quantized" in cls.__module__ for module in modules for cls in type(module).__mro__)


def float_class(module: nn.Module) -> type[nn.Module] | None:
    """Return the class that a quantised module was made from, without a fused ReLU; None for any other module."""
    for cls in reversed(type(module).__mro__):
        if "quantized" in cls.__module__ and "_FLOAT_MODULE" in vars(cls):
            made_from = vars(cls)["_FLOAT_MODULE"]
            return cast("type[nn.Module]", made_from[0] if isinstance(made_from, tuple) else made_from)
    return None


def values_of(tensor: Tensor) -> Tensor:
    """Return the numbers that a quantised tensor stands for; any other tensor unchanged."""
    return tensor.dequantize() if tensor.is_quantized else tensor


def in_type_of(original: Tensor, values: Tensor) -> Tensor:
    """Return values as the type of a tensor that they replace: with its scale and zero point if it is quantised.

    Values that came from the tensor come back exactly, and so does zero, which every scale holds.

    Raises:
        TypeError: for a tensor with a scale per channel, which belongs to the channels in their order.
    """
    if not original.is_quantized or values.is_quantized:
        return values
    if original.qscheme() not in _PER_TENSOR:
        raise TypeError(
            "an activation can be replaced in a quantised model if its layer has one scale; this one has "
            f"{original.qscheme()}: use a method that replaces no activations, such as eigen_cam or occlusion"
        )
    plain = values.detach().float()  # there is no derivative
    return torch.quantize_per_tensor(plain, original.q_scale(), original.q_zero_point(), original.dtype)
