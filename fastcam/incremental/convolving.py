"""Convolutions with the same weight again and again: the library's own layout of it is made once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fastcam.incremental.tape import Operation, Slot

_PACKABLE = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Packed:
    """A weight in oneDNN's layout, and its shape as a tensor of torch."""

    weight: Tensor
    shape: torch.Size


def packed(operation: Operation, clean: Tensor) -> Operation:
    """The same convolution of maps like the clean ones (1, C, H, W), its weight packed where oneDNN takes it."""
    given = operation.arguments
    if not isinstance(given[1], Tensor) or not isinstance(given[0], Slot) or given[6] or not _takes(clean, given[1]):
        return operation
    _, weight, _, stride, padding, dilation, _, _, groups = given
    shape = list(clean.shape)
    found = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, groups, shape)
    return replace(operation, arguments=(given[0], Packed(found, weight.shape), *given[2:]))


def convolved(maps: Tensor, given: Sequence[Any], padding: Sequence[int]) -> Tensor:
    """The convolution of maps (M, C, h, w).

    Args:
        maps: what it reads.
        given: the arguments of ``aten::convolution``, the weight packed or not.
        padding: in place of theirs.
    """
    _, weight, bias, stride, _, dilation, transposed, extra, groups = given
    if not isinstance(weight, Packed):
        return torch.convolution(maps, weight, bias, stride, padding, dilation, transposed, extra, groups)
    return torch.ops.mkldnn._convolution_pointwise(
        maps, weight.weight, bias, padding, stride, dilation, groups, "none", [], ""
    )


def _takes(maps: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's convolution is the one that torch would take."""
    if maps.device.type != "cpu" or maps.dtype not in _PACKABLE or maps.dim() != 4 or maps.dtype != weight.dtype:
        return False
    is_on = torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()
    is_known = is_on and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    is_fast = maps.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return is_known and is_fast and maps.is_contiguous(memory_format=torch.channels_last)
