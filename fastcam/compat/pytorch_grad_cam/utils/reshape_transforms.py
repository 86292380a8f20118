"""Transforms from outputs of transformers and detectors to (N, C, H, W)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def vit_reshape_transform(tensor: Tensor, height: int = 14, width: int = 14) -> Tensor:
    """Reshape tokens (N, 1 + H W, C), the class token first."""
    return tensor[:, 1:].unflatten(1, (height, width)).movedim(-1, 1)


def swinT_reshape_transform(tensor: Tensor, height: int = 7, width: int = 7) -> Tensor:  # noqa: N802 - pytorch-grad-cam's name
    """Reshape tokens (N, H W, C)."""
    return tensor.unflatten(1, (height, width)).movedim(-1, 1)


def fasterrcnn_reshape_transform(x: Mapping[str, Tensor]) -> Tensor:
    """Resize all levels of a feature pyramid to the size of "pool" and concatenate them."""
    size = x["pool"].shape[-2:]
    return torch.cat([F.interpolate(level.abs(), size, mode="bilinear") for level in x.values()], 1)
