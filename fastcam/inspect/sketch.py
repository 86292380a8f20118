"""Counts of values in bins of nearly constant relative width, from which quantiles follow; mergeable."""

import torch
from torch import Tensor

OCTAVES = 12  # on both sides of 1; smaller values count as the smallest, larger as the largest
_MANTISSA_BITS = 4  # bins of an octave: 2^4, of equal width
_PER_OCTAVE = 2**_MANTISSA_BITS
_SHIFT = 23 - _MANTISSA_BITS  # of the bits of a float32: what is left counts the bins from the smallest magnitude on
_SIDE = 2 * OCTAVES * _PER_OCTAVE
_LOWEST = (127 - OCTAVES) * _PER_OCTAVE
BINS = 2 * _SIDE + 1  # negative ones from the largest magnitude on, zero in the middle
RELATIVE_ERROR = 0.5 / _PER_OCTAVE  # of a quantile at most: half a bin


def count(values: Tensor) -> Tensor:
    """Return how many values (C, V) of every channel lie in each bin, (C, BINS) int32; NaN is not counted."""
    values = values.float()
    step = ((values.abs().view(torch.int32) >> _SHIFT) - _LOWEST).clamp_(0, _SIDE - 1).add_(1)
    sign = (values > 0).int() - (values < 0).int()
    keys = torch.where(values.isnan(), BINS, _SIDE + step * sign).long()
    counts = torch.zeros(len(values), BINS + 1, dtype=torch.int32, device=values.device)
    return counts.scatter_add_(1, keys, torch.ones_like(keys, dtype=torch.int32))[:, :BINS]


def quantile(counts: Tensor, share: float) -> Tensor:
    """Return the values (C,) below which a share of the counted values lies, by the nearest rank, from (C, BINS).

    They are right to ``RELATIVE_ERROR`` of the value; NaN where nothing was counted.
    """
    total = counts.sum(1, keepdim=True)
    rank = (share * (total - 1)).round().clamp(min=0)
    index = (counts.cumsum(1) <= rank).sum(1).clamp(max=BINS - 1)
    return _centres(counts.device)[index].masked_fill(total[:, 0] == 0, torch.nan)


def _centres(device: torch.device) -> Tensor:
    """Return the centre of every bin."""
    steps = torch.arange(_SIDE, dtype=torch.float64, device=device)
    side = 2.0 ** (steps.div(_PER_OCTAVE, rounding_mode="floor") - OCTAVES)
    side = side * (1 + (steps % _PER_OCTAVE + 0.5) / _PER_OCTAVE)
    return torch.cat([-side.flip(0), side.new_zeros(1), side])
