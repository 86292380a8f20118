"""Groups of windows that run together: small groups of similar patches waste least, large groups run fastest."""

import numpy as np
from numpy.typing import NDArray

from fastcam.incremental.plan import MAX_PATCH_SHARE, TraceAnalysis, make_plan
from fastcam.incremental.regions import Region

Floats = NDArray[np.floating]
Counts = NDArray[np.int64]


def find_buckets(analysis: TraceAnalysis, start: Region, images: int = 1) -> list[NDArray[np.intp]]:
    """Return the indices of the M windows, in groups whose patches have similar sizes.

    Within a group all patches are as large as the largest; every group runs every operation once, for a number of
    images together. Starting from groups with equal patches, pairs of groups are merged as long as this lowers the
    estimated cost.
    """
    shares, costs = _patch_shares(analysis, start)
    groups, inverse = np.unique(shares.reshape(len(shares), -1), axis=0, return_inverse=True)
    groups, counts = groups.reshape(len(groups), *shares.shape[1:]), np.bincount(inverse.reshape(-1))
    labels = _merge_groups(groups, counts, costs, analysis.group_work / images)[inverse.reshape(-1)]
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _patch_shares(analysis: TraceAnalysis, start: Region) -> tuple[Floats, Floats]:
    """Return the share of every map that each window changes (M, L, 2), by axis, and the cost of whole maps (L,)."""
    layer_shares, layer_costs = [], []
    steps = make_plan(analysis, start, max_share=np.inf).steps
    for step, work in zip(steps, analysis.work, strict=True):
        if step.region is not None and work:
            size = analysis.layouts[step.operation.outputs[0]].size
            layer_shares.append((step.region.high - step.region.low) / np.asarray(size))
            layer_costs.append(work)
    if not layer_shares:
        return np.ones((len(start), 1, 2), np.float32), np.ones(1, np.float32)
    # Layers with equal shares are merged into one.
    shares, inverse = np.unique(np.stack(layer_shares), axis=0, return_inverse=True)
    costs = np.bincount(inverse.reshape(-1), layer_costs)
    return shares.swapaxes(0, 1).astype(np.float32), costs.astype(np.float32)


def _merge_groups(shares: Floats, counts: Counts, costs: Floats, group_cost: float) -> Counts:
    """Greedily merge pairs of groups that each save most with the other, until none saves.

    Args:
        shares: (G, L, 2), the largest share of every map along both axes.
        counts: (G,), of windows.
        costs: (L,), of whole maps.
        group_cost: of one group, independent of its windows.

    Returns:
        (G,), the new group of each group.
    """
    labels = np.arange(len(counts))
    while True:
        window_costs = _window_costs(shares, counts, costs)
        savings = np.stack(
            [
                window_costs
                + window_costs[group]
                + group_cost
                - _window_costs(np.maximum(shares, shares[group]), counts + counts[group], costs)
                for group in range(len(counts))
            ]
        )
        np.fill_diagonal(savings, 0.0)
        best = savings.argmax(1)
        groups = np.arange(len(counts))
        is_merged = (best[best] == groups) & (savings[groups, best] > 0)
        if not is_merged.any():
            return labels
        targets = np.where(is_merged, np.minimum(groups, best), groups)
        new_labels = np.unique(targets, return_inverse=True)[1].reshape(-1)
        merged_shares = np.zeros((new_labels.max() + 1, *shares.shape[1:]), np.float32)
        np.maximum.at(merged_shares, new_labels, shares)
        shares = merged_shares
        counts, labels = np.bincount(new_labels, counts).astype(np.int64), new_labels[labels]


def _window_costs(shares: Floats, counts: Counts, costs: Floats) -> Floats:
    """Return the cost (G,) of the windows of each group."""
    areas = shares.prod(-1)
    return counts * (np.where(areas < MAX_PATCH_SHARE, areas, 1.0) @ costs)
