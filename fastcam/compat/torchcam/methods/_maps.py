"""Maps from weights and activations, their scaling and their fusion over layers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam import ops


class Maps:
    """The arithmetic of all extractors."""

    _relu = False  # whether the definition ends in a ReLU
    exact_peer = False

    def _weighted(self, weights: Tensor, activations: Tensor) -> Tensor:
        """Return the weighted sum of the channels, rectified if the definition says so."""
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
        """Scale to minimum 0 and a maximum just below 1: ``eps`` is added to the range."""
        axes = tuple(range(-(cams.dim() - 1 if spatial_dims is None else spatial_dims), 0))
        shifted = cams - cams.amin(axes, keepdim=True)
        return shifted / (shifted.amax(axes, keepdim=True) + eps)

    @classmethod
    def fuse_cams(cls, cams: list[Tensor], target_shape: tuple[int, ...] | None = None) -> Tensor:
        """Return the maximum over the layers' maps, resampled linearly to one size.

        Args:
            cams: per layer, (N, *s), for the same images.
            target_shape: the size; None for the largest among them, axis by axis.

        Returns:
            (N, *S); the map of a single layer unchanged.

        Raises:
            TypeError: for anything but a list of tensors.
            ValueError: for an empty list.
        """
        check_maps(cams)
        if len(cams) == 1:
            return cams[0]
        size = common_size(cams, target_shape)
        resampled = [ops.upsample_normalize(cam, size, normalize=False) for cam in cls._scale_cams(cams)]
        return torch.stack(resampled).max(0).values

    @staticmethod
    def _scale_cams(cams: list[Tensor]) -> list[Tensor]:
        return cams


def min_max(maps: Tensor) -> Tensor:
    """Scale each of the maps (N, *s) to [0, 1]; a constant map becomes zeros, one with a NaN is NaN."""
    return ops.upsample_normalize(maps, maps.shape[1:])  # the same size: nothing is resampled


def check_maps(cams: object) -> None:
    """Raise an error for anything but a list of maps."""
    if not isinstance(cams, list) or any(not isinstance(cam, Tensor) for cam in cams):
        raise TypeError(f"`cams` must be a list of tensors, got {type(cams).__name__}")
    if not cams:
        raise ValueError("`cams` must hold at least one map, got an empty list")


def common_size(cams: list[Tensor], size: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Return the given size, or the largest of the maps, axis by axis."""
    return tuple(size) if size is not None else tuple(map(max, zip(*(cam.shape[1:] for cam in cams), strict=True)))
