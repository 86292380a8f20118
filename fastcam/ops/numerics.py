"""Numerics shared by ops, references and rules: dtypes, shapes, a NaN-preserving ReLU, constant maps."""

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float64 for float64, float32 for narrower types."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def flatten_pair(activations: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Flatten the positions of activations (N, C, *S) and gradients (N, [K,] C, *S), in the accumulation dtype.

    Returns:
        Activations (N, C, P) and gradients (N, C, P), or (N, 1, C, P) and (N, K, C, P) for K targets.
    """
    dtype = accumulation_dtype(activations.dtype)
    flat = activations.to(dtype).flatten(2)
    if gradients.dim() > activations.dim():
        return flat.unsqueeze(1), gradients.to(dtype).flatten(3)
    return flat, gradients.to(dtype).flatten(2)


def map_shape(activations: Tensor, gradients: Tensor) -> list[int]:
    """Return the shape (N, [K,] *S) of the maps for these activations and gradients (or element weights)."""
    targets = [gradients.shape[1]] if gradients.dim() > activations.dim() else []
    return [activations.shape[0], *targets, *activations.shape[2:]]


def rectify(x: Tensor) -> Tensor:
    """Apply a ReLU that keeps NaN and turns -inf into NaN instead of 0."""
    return torch.where(x < 0, x * 0 + 0, x)


def are_element_weights(activations: Tensor, weights: Tensor) -> bool:
    """Whether ``weights`` are (N, C, *S) or (N, K, C, *S), one per element, and not (N, C) or (N, K, C)."""
    if weights.dim() == activations.dim():
        return weights.dim() > 3 or weights.shape == activations.shape
    return weights.dim() > activations.dim()


def is_constant(low: Tensor, high: Tensor) -> Tensor:
    """Whether maps from ``low`` to ``high`` vary by no more than rounding."""
    return high - low <= 8 * torch.finfo(low.dtype).eps * torch.maximum(low.abs(), high.abs())


def is_channels_last(images: Tensor) -> bool:
    """Whether a dense (N, C, *S) tensor has the channels_last memory layout."""
    return not images.is_contiguous() and images.movedim(1, -1).is_contiguous()
