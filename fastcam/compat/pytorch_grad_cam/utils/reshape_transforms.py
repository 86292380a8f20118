"""From what layers of transformers and detectors return to (N, C, H, W)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def vit_reshape_transform(tensor: Tensor, height: int = 14, width: int = 14) -> Tensor:
    """Tokens (N, 1 + H W, C), the class token first."""
    return tensor[:, 1:].unflatten(1, (height, width)).movedim(-1, 1)


def swinT_reshape_transform(tensor: Tensor, height: int = 7, width: int = 7) -> Tensor:  # noqa: N802 - the tool's name
    """Tokens (N, H W, C)."""
    return tensor.unflatten(1, (height, width)).movedim(-1, 1)


def fasterrcnn_reshape_transform(x: Mapping[str, Tensor]) -> Tensor:
    """A feature pyramid, all levels at the size of "pool" and one behind the other."""
    size = x["pool"].shape[-2:]
    return torch.cat([F.interpolate(each.abs(), size, mode="bilinear") for each in x.values()], 1)
