"""Moments, zeros and maximum of every plane (n, c) of activations."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastcam.ops.numerics import accumulation_dtype


@dataclass(frozen=True)
class PlaneMoments:
    """What every plane of activations holds, (N, C) each.

    Attributes:
        count: positions of a plane, P.
        mean: of the values.
        squares: sum of the squared deviations from the mean.
        zeros: number of zeros.
        maximum: of the values.
        place: of the first maximum, in the flattened plane.
    """

    count: int
    mean: Tensor
    squares: Tensor
    zeros: Tensor
    maximum: Tensor
    place: Tensor


def plane_moments(activations: Tensor) -> PlaneMoments:
    """Return the moments of activations (N, C, *S)."""
    planes = activations.flatten(2)
    planes = planes.to(accumulation_dtype(planes.dtype))
    mean, (maximum, place) = planes.mean(2), planes.max(2)
    squares = (planes - mean[..., None]).square_().sum(2)
    # Written into numbers: sums of truth values are ten times slower.
    zeros = torch.eq(planes, 0, out=torch.empty_like(planes)).sum(2).long()
    return PlaneMoments(planes.shape[2], mean, squares, zeros, maximum, place)
