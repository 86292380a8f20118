"""Which windows are done together: patches of one size waste least, and many at a time are fast."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastcam.incremental.plan import MOST, Known, plan
from fastcam.incremental.regions import Region

Floats = NDArray[np.floating[Any]]
Counts = NDArray[np.int64]

# Multiplications that take as long as what comes with every operation whatever its size, and as reading a weight.
_OF_A_CALL, _OF_A_WEIGHT = 2e7, 40.0


def buckets(known: Known, start: Region) -> list[NDArray[np.intp]]:
    """The numbers of the M windows, in groups whose patches have nearly the same sizes.

    Beginning with windows whose patches are alike everywhere, the two groups are joined that save most, as long as any
    do: in one group all patches are as large as the largest, in two every operation is called twice.
    """
    sizes, weights = _sizes(known, start)
    kinds, inverse = np.unique(sizes.reshape(len(sizes), -1), axis=0, return_inverse=True)
    kinds, counts = kinds.reshape(len(kinds), *sizes.shape[1:]), np.bincount(inverse.reshape(-1))
    label = _joined(kinds, counts, weights, _of_calls(known))[inverse.reshape(-1)]
    return [np.flatnonzero(label == each) for each in np.unique(label)]


def _of_calls(known: Known) -> float:
    """What a group costs besides its windows."""
    return _OF_A_CALL * len(known.operations) + _OF_A_WEIGHT * known.weights


def _sizes(known: Known, start: Region) -> tuple[Floats, Floats]:
    """The share of every map that each window changes (M, L, 2), by axis, and what whole maps cost (L,)."""
    shares, weights = [], []
    steps = plan(known, start, most=np.inf).steps
    for step, work in zip(steps, known.work, strict=True):
        if step.region is not None and work:
            size = known.layouts[step.operation.returned[0]].size
            shares.append((step.region.high - step.region.low) / np.asarray(size))
            weights.append(work)
    if not shares:
        return np.ones((len(start), 1, 2), np.float32), np.ones(1, np.float32)
    alike, inverse = np.unique(np.stack(shares), axis=0, return_inverse=True)  # layers with the same patches count once
    merged = np.bincount(inverse.reshape(-1), weights)
    return alike.swapaxes(0, 1).astype(np.float32), merged.astype(np.float32)


def _joined(sizes: Floats, counts: Counts, weights: Floats, call: float) -> Counts:
    """The group that each of G groups becomes part of: those are joined that save most by each other, again and again.

    Args:
        sizes: (G, L, 2), the largest share of every map along both axes.
        counts: (G,), of windows.
        weights: (L,), what whole maps cost.
        call: what a group costs besides.
    """
    label = np.arange(len(counts))
    while True:
        costs = _cost(sizes, counts, weights)
        saved = np.stack(
            [
                costs + costs[each] + call - _cost(np.maximum(sizes, sizes[each]), counts + counts[each], weights)
                for each in range(len(counts))
            ]
        )
        np.fill_diagonal(saved, 0.0)
        best = saved.argmax(1)
        own = np.arange(len(counts))
        joins = (best[best] == own) & (saved[own, best] > 0)
        if not joins.any():
            return label
        to = np.unique(np.where(joins, np.minimum(own, best), own), return_inverse=True)[1].reshape(-1)
        together = np.zeros((to.max() + 1, *sizes.shape[1:]), np.float32)
        np.maximum.at(together, to, sizes)
        sizes, counts, label = together, np.bincount(to, counts).astype(np.int64), to[label]


def _cost(sizes: Floats, counts: Counts, weights: Floats) -> Floats:
    """(G,): of groups without the calls."""
    shares = sizes.prod(-1)
    return counts * (np.where(shares < MOST, shares, 1.0) @ weights)
