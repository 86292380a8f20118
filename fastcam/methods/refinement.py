"""Predictions on a grid, measured on a coarse grid first, then where the scores change most."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastcam.devices import send

COARSE_STEP = 2  # between places of the coarse grid, which includes the last place

Predictions = dict[str, Tensor]


def refine_grid(grid: Sequence[int], share: float, clean: Tensor, run: Callable[[Tensor], Predictions]) -> Predictions:
    """Return predictions at every place of a grid, measured at some and interpolated linearly at the others.

    Args:
        grid: the places along every axis.
        share: share of the remaining places that is measured, from 0 to 1: those where the interpolated scores differ
            most from the clean ones.
        clean: ([K,]), the scores of the original image.
        run: maps indices of places (m,) to predictions (m, ...) by name, including "scores" (m, [K]).

    Returns:
        Predictions (M, ...) for all places by name, and ``measured`` (M,), whether a place was measured.
    """
    axes = [_coarse_places(length) for length in grid]
    numbers = torch.arange(int(torch.Size(grid).numel())).reshape(tuple(grid))
    first = numbers[torch.meshgrid(*axes, indexing="ij")].flatten()
    measured = torch.zeros(numbers.numel(), dtype=torch.bool)
    measured[first] = True
    predictions = run(first)
    whole = {name: _interpolate(values, axes, grid) for name, values in predictions.items()}
    change = (whole["scores"] - clean).abs().reshape(len(measured), -1).amax(1).cpu()
    change[measured] = -torch.inf
    second = change.topk(round(share * int((~measured).sum()))).indices.sort().values
    measured[second] = True
    for places, parts in ((first, predictions), (second, run(second) if len(second) else {})):
        for name, values in parts.items():
            whole[name][send(places, values.device)] = values
    return whole | {"measured": send(measured, change.device)}


def _coarse_places(length: int) -> Tensor:
    """Return every ``COARSE_STEP``-th place, and the last."""
    return torch.unique(torch.cat([torch.arange(0, length, COARSE_STEP), torch.tensor([length - 1])]))


def _interpolate(values: Tensor, axes: Sequence[Tensor], grid: Sequence[int]) -> Tensor:
    """Interpolate (m, ...) at the places of the coarse grid to (M, ...): linear, or nearest for integers."""
    interpolated = values.reshape(*[len(places) for places in axes], *values.shape[1:])
    for axis, (coarse, length) in enumerate(zip(axes, grid, strict=True)):
        weights = send(_interpolation_weights(coarse, length), values.device)
        if values.is_floating_point():
            interpolated = torch.tensordot(weights.to(values.dtype), interpolated, dims=([1], [axis])).movedim(0, axis)
        else:
            interpolated = interpolated.index_select(axis, weights.argmax(1))
    return interpolated.reshape(-1, *values.shape[1:]).contiguous()


def _interpolation_weights(coarse: Tensor, length: int) -> Tensor:
    """Return (length, m) float64: the weights of the coarse places for every place."""
    if len(coarse) == 1:
        return torch.ones(length, 1, dtype=torch.float64)
    places = torch.arange(length)
    after = torch.searchsorted(coarse, places).clamp(1)
    gap = (coarse[after] - coarse[after - 1]).double()
    share = (places - coarse[after - 1]) / gap
    weights = torch.zeros(length, len(coarse), dtype=torch.float64)
    weights[places, after] = share
    weights[places, after - 1] += 1 - share
    return weights
