"""The precision and memory layout of a prepared model."""

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fastcam.devices import uses_tf32
from fastcam.model.inputs import as_channels_last
from fastcam.preparation.agreement import Rounding
from fastcam.preparation.compiled_parts import Arguments


@dataclass(frozen=True)
class ComputeSettings:
    """The precision and memory layout in which a prepared model computes.

    Attributes:
        fold: whether batch norms are folded into convolutions.
        dtype: of weights and images; None keeps theirs.
        autocast: the dtype of matrix products and convolutions while weights and images keep theirs.
        channels_last: whether tensors use the channels_last memory format.
    """

    fold: bool = False
    dtype: torch.dtype | None = None
    autocast: torch.dtype | None = None
    channels_last: bool = False

    def rounding(self, device: torch.device) -> Rounding:
        """Return how products are rounded on a device."""
        if self.dtype is not None or self.autocast is not None:
            return "half"
        return "tf32" if uses_tf32(device) else "fp32"

    def to_layout(self, tensor: Tensor) -> Tensor:
        """Return the tensor in the memory layout of these settings."""
        if not self.channels_last or tensor.dim() not in (4, 5):
            return tensor
        if tensor.dim() == 4:
            return as_channels_last(tensor)
        return tensor.contiguous(memory_format=torch.channels_last_3d)

    def convert(self, arguments: Arguments) -> Arguments:
        """Return the arguments in the precision and layout of these settings."""
        return tree_map_only(Tensor, self._convert_tensor, arguments)

    def _convert_tensor(self, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        converted = self.to_layout(tensor if self.dtype is None else tensor.to(self.dtype))
        needs_copy = converted.is_inference() and not torch.is_inference_mode_enabled()
        return converted.clone() if needs_copy else converted

    def autocast_context(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """Return the context in which a model with these settings runs."""
        return contextlib.nullcontext() if self.autocast is None else torch.autocast(device.type, self.autocast)
