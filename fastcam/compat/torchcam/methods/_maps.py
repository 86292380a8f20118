"""What becomes of weights and activations: maps, their scale, and one map of several layers."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam import ops


class Maps:
    """The arithmetic that extractors share."""

    _relu = False  # whether the definition ends in a ReLU
    exact_peer = False

    def _weighted(self, weights: Tensor, activations: Tensor) -> Tensor:
        """The weighted sum of the channels, rectified where the definition is."""
        if self.exact_peer:
            weights = weights.reshape(*weights.shape, *[1] * (activations.dim() - weights.dim()))
            maps = torch.nansum(weights * activations, 1)  # which hides NaN
            return F.relu(maps) if self._relu else maps
        shape = activations.shape if weights.dim() == activations.dim() else activations.shape[:2]
        return ops.weighted_channel_sum(activations, weights.expand(shape).contiguous(), self._relu)

    @torch.no_grad()
    def _scaled(self, maps: Tensor) -> Tensor:
        return self._normalize(maps) if self.exact_peer else min_max(maps)

    @staticmethod
    @torch.no_grad()
    def _normalize(cams: Tensor, spatial_dims: int | None = None, eps: float = 1e-8) -> Tensor:
        """Minimum 0 and maximum close to 1: ``eps`` is added to the range."""
        axes = tuple(range(-(cams.dim() - 1 if spatial_dims is None else spatial_dims), 0))
        shifted = cams - cams.amin(axes, keepdim=True)
        return shifted / (shifted.amax(axes, keepdim=True) + eps)

    @classmethod
    def fuse_cams(cls, cams: list[Tensor], target_shape: tuple[int, ...] | None = None) -> Tensor:
        """The largest value of all layers' maps, resampled linearly to one size.

        Args:
            cams: of every layer, (N, *s) of the same images.
            target_shape: the size; None for the largest among them, axis by axis.

        Returns:
            (N, *S); of a single layer its map as it is.

        Raises:
            TypeError: where it is not a list of tensors.
            ValueError: where it is empty.
        """
        check_maps(cams)
        if len(cams) == 1:
            return cams[0]
        size = common_size(cams, target_shape)
        resampled = [ops.upsample_normalize(each, size, normalize=False) for each in cls._scale_cams(cams)]
        return torch.stack(resampled).max(0).values

    @staticmethod
    def _scale_cams(cams: list[Tensor]) -> list[Tensor]:
        return cams


def min_max(maps: Tensor) -> Tensor:
    """Maps (N, *s) from 0 to 1 each; a constant one becomes zeros, one with a NaN is NaN."""
    return ops.upsample_normalize(maps, maps.shape[1:])  # the same size: nothing is resampled


def check_maps(cams: Any) -> None:
    """Refuses what is not a list of maps."""
    if not isinstance(cams, list) or any(not isinstance(each, Tensor) for each in cams):
        raise TypeError(f"`cams` must be a list of tensors, got {type(cams).__name__}")
    if not cams:
        raise ValueError("`cams` must hold at least one map, got an empty list")


def common_size(cams: list[Tensor], asked: Any = None) -> tuple[int, ...]:
    """The asked size, or the largest of the maps, axis by axis."""
    return tuple(asked) if asked is not None else tuple(map(max, zip(*(each.shape[1:] for each in cams), strict=True)))
