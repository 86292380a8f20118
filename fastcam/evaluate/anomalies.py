"""How well anomaly scores and maps tell the broken from the sound, over a whole dataset on one scale.

Maps must be raw: scaled one by one, every map has the same highest value, and nothing can be told apart.
"""

import numpy as np
import numpy.typing as npt
from torch import Tensor


def auroc(scores: Tensor, is_anomaly: Tensor) -> float:
    """Return the area under the receiver operating characteristic.

    It is the share of pairs of one broken and one sound that the score puts in order; equal scores count a half.

    Args:
        scores: (M,) of images, or (N, *S) raw maps, higher for what is broken.
        is_anomaly: bool in the same shape.

    Raises:
        ValueError: for shapes that differ, scores that are not finite, or where one of both kinds is missing.
    """
    values, truth = _checked(scores, is_anomaly)
    from scipy.stats import rankdata

    ranks, broken = rankdata(values), int(truth.sum())
    return float((ranks[truth].sum() - broken * (broken + 1) / 2) / (broken * (len(truth) - broken)))


def per_region_overlap(maps: Tensor, masks: Tensor, limit: float = 0.3) -> float:
    """Return the area under the per-region overlap (PRO) up to a rate of false positives, divided by that rate.

    At every threshold, PRO is the mean over the connected regions (8 neighbours) of all masks of the share of the
    region that is above it, so that a small defect counts as much as a large one; it is drawn over the share of the
    sound pixels that are above it too (Bergmann et al., CVPR 2019, who take 0.3).

    Args:
        maps: (N, H, W), raw, higher for what is broken.
        masks: (N, H, W) bool, the defects.
        limit: of the rate of false positives, in (0, 1].

    Raises:
        ValueError: as for :func:`auroc`, or for a limit outside (0, 1].
    """
    if not 0 < limit <= 1:
        raise ValueError(f"`limit` must lie in (0, 1], got {limit!r}")
    values, truth = _checked(maps, masks)
    order = np.argsort(-values, kind="stable")
    last = np.append(np.diff(values[order]) != 0, True)  # of every run of equal values
    overlap = np.cumsum(_region_shares(masks)[order])[last]
    rate = np.cumsum(~truth[order])[last] / (~truth).sum()
    rate, overlap = np.append(0.0, rate), np.append(0.0, overlap)
    inside = rate <= limit
    at_limit = np.interp(limit, rate, overlap)
    rate, overlap = np.append(rate[inside], limit), np.append(overlap[inside], at_limit)
    return float(np.trapezoid(overlap, rate) / limit)


def _checked(scores: Tensor, is_anomaly: Tensor) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return scores and truth, flat."""
    if scores.shape != is_anomaly.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and what is an anomaly {tuple(is_anomaly.shape)} must agree")
    values, truth = scores.detach().double().cpu().numpy().ravel(), is_anomaly.bool().cpu().numpy().ravel()
    if not np.isfinite(values).all():
        raise ValueError("scores and maps must be finite")
    if truth.all() or not truth.any():
        raise ValueError(f"there must be both anomalies and what is none, got {int(truth.sum())} of {len(truth)}")
    return values, truth


def _region_shares(masks: Tensor) -> npt.NDArray[np.float64]:
    """Return for every pixel what it adds to the mean overlap: 1 / (pixels of its region x regions); flat."""
    from scipy.ndimage import label

    counts: list[npt.NDArray[np.float64]] = []
    regions = 0
    for mask in masks.bool().cpu().numpy():
        labels, found = label(mask, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=found + 1).astype(np.float64)
        sizes[0] = np.inf
        counts.append((1 / sizes)[labels].ravel())
        regions += found
    return np.concatenate(counts) / regions
