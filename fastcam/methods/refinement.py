"""A grid of scores from some of its places: a coarse grid first, then where it matters."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

STEP = 2  # between places of the coarse grid, which has the last ones too

Found = dict[str, Tensor]


def refined(grid: Sequence[int], share: float, clean: Tensor, run: Callable[[Tensor], Found]) -> Found:
    """What is found at every place of a grid, measured at some and interpolated linearly at the others.

    Args:
        grid: the places along every axis.
        share: of the places between those of the coarse grid that are measured, from 0 to 1: where the coarse grid says
            that the scores differ most from the clean ones.
        clean: ([K,]), the scores of the image as it is.
        run: from the numbers of some places (m,) to what is found there, (m, ...) by name; scores (m, [K]) among them.

    Returns:
        By name, (M, ...) for all places; and ``measured`` (M,), whether a place was.
    """
    axes = [_coarse(length) for length in grid]
    numbers = torch.arange(int(torch.Size(grid).numel())).reshape(tuple(grid))
    first = numbers[torch.meshgrid(*axes, indexing="ij")].flatten()
    measured = torch.zeros(numbers.numel(), dtype=torch.bool)
    measured[first] = True
    found = run(first)
    whole = {name: _spread(each, axes, grid) for name, each in found.items()}
    change = (whole["scores"] - clean).abs().reshape(len(measured), -1).amax(1).cpu()
    change[measured] = -torch.inf
    second = change.topk(round(share * int((~measured).sum()))).indices.sort().values
    measured[second] = True
    for places, parts in ((first, found), (second, run(second) if len(second) else {})):
        for name, each in parts.items():
            whole[name][places.to(each.device)] = each
    return whole | {"measured": measured.to(change.device)}


def _coarse(length: int) -> Tensor:
    """Every few places, and the last."""
    return torch.unique(torch.cat([torch.arange(0, length, STEP), torch.tensor([length - 1])]))


def _spread(values: Tensor, axes: Sequence[Tensor], grid: Sequence[int]) -> Tensor:
    """(M, ...) from (m, ...): linear between the places of the coarse grid; whole numbers as at the nearest."""
    spread = values.reshape(*[len(each) for each in axes], *values.shape[1:])
    for axis, (coarse, length) in enumerate(zip(axes, grid, strict=True)):
        weights = _weights(coarse, length).to(values.device)
        if values.is_floating_point():
            spread = torch.tensordot(weights.to(values.dtype), spread, dims=([1], [axis])).movedim(0, axis)
        else:
            spread = spread.index_select(axis, weights.argmax(1))
    return spread.reshape(-1, *values.shape[1:]).contiguous()


def _weights(coarse: Tensor, length: int) -> Tensor:
    """(length, m) float64: of the places of the coarse grid for every place."""
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
