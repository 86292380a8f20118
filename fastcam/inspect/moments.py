"""Moments, zeros and maximum of every plane (n, c) of activations."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastcam import ops


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
    mean, squares, zeros, maximum, place = ops.plane_moments(activations).unbind()
    # A plane with NaN is none of the highest, whatever its other values are.
    maximum = maximum.masked_fill(mean.isnan(), -torch.inf)
    return PlaneMoments(activations.shape[2:].numel(), mean, squares, zeros.long(), maximum, place.long())
