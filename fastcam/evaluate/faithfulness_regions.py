"""Faithfulness over random regions: do the sums of a map in them tell what the score loses without them."""

from collections.abc import Generator

import torch
from torch import Tensor

from fastcam.evaluate.baselines import Baseline, check_baseline
from fastcam.evaluate.case import Case
from fastcam.evaluate.copies import RandomRegions, Region
from fastcam.evaluate.registry import Asking, measure
from fastcam.evaluate.removal import check_count
from fastcam.evaluate.requests import Request, Scores


@measure(
    "infidelity",
    needs=("scores",),
    formula="mean over regions z of (b sum(z a) - (f(x) - f(x without z)))^2, for attributions a and the best factor b",
    higher_is_better=False,
    score="explained",
    paper="arXiv:1901.09392",
)
def infidelity(
    case: Case,
    *,
    regions: int = 50,
    share: float = 0.25,
    baseline: Baseline = 0.0,
    normalize: bool = True,
    seed: int = 0,
) -> Asking:
    """Squared error of the drops that a map predicts for random windows replaced by the baseline.

    What a window adds to the score is read off as the sum of the map, or of the attributions, in it.

    Args:
        case: the maps.
        regions: number of windows, the same for every image and method.
        share: of every side of the image that a window has.
        baseline: in the window.
        normalize: scale each map by the factor that fits best, since most maps have no unit; without it, sums of
            attributions must be differences of the score.
        seed: of the windows.

    Returns:
        The means, and "factor" (R,), b; 1 without ``normalize``.
    """
    predicted, actual = yield from _predicted_and_actual(
        case, RandomRegions(share, True, 0, seed), regions, check_baseline(baseline)
    )
    square, product = predicted.square().mean(1), (predicted * actual).mean(1)
    factor = torch.where(square > 0, product / square.where(square > 0, 1), 0) if normalize else torch.ones_like(square)
    return (factor[:, None] * predicted - actual).square().mean(1), {"factor": factor}


@measure(
    "faithfulness_correlation",
    needs=("scores",),
    formula="Pearson's correlation over regions z of sum(z a) and f(x) - f(x without z), for attributions a",
    score="explained",
    paper="arXiv:2005.00631",
)
def faithfulness_correlation(
    case: Case, *, regions: int = 100, share: float = 0.2, grid: int = 9, baseline: Baseline = 0.0, seed: int = 0
) -> Asking:
    """Correlation of the sums of the map over random sets of cells with the drops of the score without them.

    Args:
        case: the maps.
        regions: number of sets, the same for every image and method.
        share: of the cells that a set has.
        grid: cells along every axis; 0 for single positions.
        baseline: in the cells.
        seed: of the sets.
    """
    predicted, actual = yield from _predicted_and_actual(
        case, RandomRegions(share, False, grid, seed), regions, check_baseline(baseline)
    )
    predicted, actual = (values - values.mean(1, keepdim=True) for values in (predicted, actual))
    scale = (predicted.square().sum(1) * actual.square().sum(1)).sqrt()
    return (predicted * actual).sum(1) / scale.masked_fill(scale == 0, torch.nan)


def _predicted_and_actual(
    case: Case, source: RandomRegions, count: int, baseline: Baseline
) -> Generator[Request, Tensor, tuple[Tensor, Tensor]]:
    """Ask for the scores without regions; return the sums of the map in them, and the drops, (R, count) each."""
    check_count("regions", count)
    if not 0 < source.share <= 1:
        raise ValueError(f"`share` must lie in (0, 1], got {source.share!r}")
    values = case.explained_values if case.attributions is None else case.explained_values.sum(1)
    masks = torch.stack([source.mask(index, case.size) for index in range(count)])
    predicted = values.flatten(1) @ masks.flatten(1).to(values).T
    actual = case.batch.scores["explained"][:, None] - (
        yield Scores([Region(source, index, baseline) for index in range(count)])
    )
    return predicted, actual
