"""Repeated convolutions with one weight: the weight is converted to oneDNN's internal layout once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastcam.incremental.tape import Argument, Operation, Slot

_PACKABLE_DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class PackedWeight:
    """A weight in oneDNN's layout, and its shape as an ordinary tensor."""

    weight: Tensor
    shape: torch.Size


def pack_weight(operation: Operation, maps: Tensor) -> Operation:
    """Return the convolution with its weight packed, or unchanged where oneDNN would not run it.

    Args:
        operation: ``aten::convolution``.
        maps: (1, C, H, W), an example of its input.
    """
    images, weight, bias, stride, padding, dilation, transposed, output_padding, groups = operation.arguments
    if not isinstance(weight, Tensor) or not isinstance(images, Slot) or transposed or not _is_packable(maps, weight):
        return operation
    layout = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, groups, list(maps.shape))
    packed = PackedWeight(layout, weight.shape)
    arguments = (images, packed, bias, stride, padding, dilation, transposed, output_padding, groups)
    return replace(operation, arguments=arguments)


def convolve(maps: Tensor, arguments: Sequence[Argument], padding: Sequence[int]) -> Tensor:
    """Convolve maps (M, C, h, w).

    Args:
        maps: the input.
        arguments: of ``aten::convolution``, the weight packed or not; the first, the input, is ignored.
        padding: replaces that of the arguments.
    """
    _, weight, bias, stride, _, dilation, transposed, output_padding, groups = arguments
    if not isinstance(weight, PackedWeight):
        return torch.convolution(maps, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
    return torch.ops.mkldnn._convolution_pointwise(
        maps, weight.weight, bias, padding, stride, dilation, groups, "none", [], ""
    )


def _is_packable(maps: Tensor, weight: Tensor) -> bool:
    """Whether torch would run the convolution with oneDNN."""
    if maps.device.type != "cpu" or maps.dtype not in _PACKABLE_DTYPES or maps.dim() != 4 or maps.dtype != weight.dtype:
        return False
    is_enabled = torch.backends.mkldnn.is_available() and torch._C._get_mkldnn_enabled()
    has_operator = is_enabled and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    is_fast = maps.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return has_operator and is_fast and maps.is_contiguous(memory_format=torch.channels_last)
