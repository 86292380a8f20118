"""Faithfulness: how much the score depends on what the map shows, from scores of changed images."""

from collections.abc import Generator, Sequence
from typing import cast

import torch
from torch import Tensor

from fastcam.evaluate.baselines import Baseline, check_baseline
from fastcam.evaluate.case import Case
from fastcam.evaluate.copies import Copy, Emptied, Imputed, RandomRegions, Region, Replaced, Weighted
from fastcam.evaluate.registry import Asking, measure
from fastcam.evaluate.requests import Request, Scores

PERCENTAGES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)


@measure(
    "deletion",
    needs=("scores",),
    formula="area under f(share of the highest positions replaced by the baseline), trapezoids over [0, 1]",
    higher_is_better=False,
    paper="arXiv:1806.07421",
)
def deletion(case: Case, *, steps: int = 20, baseline: Baseline = 0.0, normalize: bool = False) -> Asking:
    """Area under the score while positions are deleted, the highest of the map first.

    Args:
        case: the maps.
        steps: of equal numbers of positions; RISE takes a row of pixels a step, which is as many as the image is high.
        baseline: of deleted positions.
        normalize: scale the curve to 1 for the image and 0 for the baseline; NaN where both score the same.

    Returns:
        The areas, and "curve" (R, steps + 1), the scores from the image to the baseline.
    """
    baseline = check_baseline(baseline)
    counts = _counts(case, steps)
    copies = [_without_first(case, count, baseline) for count in counts[1:]]
    curve = torch.cat([_clean(case), (yield Scores(copies))], 1)
    return _area(curve, counts, curve[:, :1], curve[:, -1:], normalize), {"curve": curve}


@measure(
    "insertion",
    needs=("scores",),
    formula="area under f(share of the highest positions put into the baseline), trapezoids over [0, 1]",
    paper="arXiv:1806.07421",
)
def insertion(case: Case, *, steps: int = 20, baseline: Baseline = "slight_blur", normalize: bool = False) -> Asking:
    """Area under the score while positions are inserted, the highest of the map first.

    Args:
        case: the maps.
        steps: as for ``deletion``.
        baseline: into which positions are inserted; RISE takes a blurred image.
        normalize: as for ``deletion``.

    Returns:
        The areas, and "curve" (R, steps + 1), the scores from the baseline to the image.
    """
    baseline = check_baseline(baseline)
    counts = _counts(case, steps)
    copies = [_only_first(case, count, baseline) for count in counts[:-1]]
    curve = torch.cat([(yield Scores(copies)), _clean(case)], 1)
    return _area(curve, counts, curve[:, -1:], curve[:, :1], normalize), {"curve": curve}


@measure(
    "pixel_flipping",
    needs=("scores",),
    formula="sum over the steps k of (f(k - 1) + f(k)) / 2, the highest positions replaced by the baseline",
    higher_is_better=False,
    paper="doi:10.1371/journal.pone.0130140",
)
def pixel_flipping(case: Case, *, pixels: int | None = None, baseline: Baseline = 0.0) -> Asking:
    """Area under the score while positions are replaced, in units of steps: the curve of ``deletion``.

    Args:
        case: the maps.
        pixels: positions a step; None takes as many as a row of the image has. 1 is the paper's.
        baseline: of replaced positions.

    Returns:
        The areas, and "curve" (R, steps + 1).
    """
    pixels = case.size[-1] if pixels is None else pixels
    _check_count("pixels", pixels, case.positions)
    baseline = check_baseline(baseline)
    counts = [*range(pixels, case.positions, pixels), case.positions]
    scores = yield Scores([_without_first(case, count, baseline) for count in counts])
    curve = torch.cat([_clean(case), scores], 1)
    return torch.trapezoid(curve, dim=1), {"curve": curve}


@measure(
    "road",
    needs=("scores",),
    formula="mean over p of (f(without the lowest p %) - f(without the highest p %)) / 2, imputed from neighbours",
    paper="arXiv:2202.00449",
)
def road(case: Case, *, percentages: Sequence[float] = PERCENTAGES, noise: float = 0.01, seed: int = 0) -> Asking:
    """ROAD: scores without the highest and without the lowest positions, which are guessed from their neighbours.

    Guessed pixels do not show the shape of what was removed, which a network could read. The paper counts how often the
    prediction stays the same; as in pytorch-grad-cam, the score is taken here.

    Args:
        case: the maps.
        percentages: of the positions that are removed.
        noise: standard deviation of the noise on guessed pixels, in units of the input.
        seed: of the noise, the same for every image.

    Returns:
        The differences, and the changes of the score (R, percentages): "most_relevant_first", "least_relevant_first".
    """
    counts = [_count_of(case, percentage / 100, "percentages") for percentage in percentages]
    copies = [Imputed(0, count, noise, seed) for count in counts]
    copies += [Imputed(case.positions - count, case.positions, noise, seed) for count in counts]
    changes = (yield Scores(copies)) - _clean(case)
    most, least = changes.tensor_split(2, 1)
    return (least - most).mean(1) / 2, {"most_relevant_first": most, "least_relevant_first": least}


@measure(
    "average_drop",
    needs=("scores",),
    formula="max(0, f(x) - f(m)) / f(x), for m = baseline + map * (x - baseline)",
    higher_is_better=False,
    paper="arXiv:1710.11063",
)
def average_drop(case: Case, *, baseline: Baseline = 0.0) -> Asking:
    """Drop of the score, as a share of it, of the image multiplied by the map; 0 for a rise.

    Args:
        case: the maps.
        baseline: where the map is 0. The papers multiply pixels, so that this is black: with normalised images pass
            what black is there; 0 is the mean colour.
    """
    scores, faded = _clean(case)[:, 0], (yield Scores([Weighted(check_baseline(baseline))]))[:, 0]
    return (scores - faded).clamp(min=0) / scores.masked_fill(scores <= 0, torch.nan)


@measure(
    "increase_in_confidence",
    needs=("scores",),
    formula="1 if f(m) > f(x), else 0, for m = baseline + map * (x - baseline)",
    paper="arXiv:1710.11063",
)
def increase_in_confidence(case: Case, *, baseline: Baseline = 0.0) -> Asking:
    """Whether the image multiplied by the map has a higher score; the argument is that of ``average_drop``."""
    faded = (yield Scores([Weighted(check_baseline(baseline))]))[:, 0]
    return (faded > _clean(case)[:, 0]).to(faded)


@measure(
    "average_gain",
    needs=("scores",),
    formula="max(0, f(m) - f(x)) / (1 - f(x)), for m = baseline + map * (x - baseline)",
    paper="arXiv:2301.07002",
)
def average_gain(case: Case, *, baseline: Baseline = 0.0) -> Asking:
    """Rise of the probability, as a share of what is left to 1; the argument is that of ``average_drop``."""
    scores, faded = _clean(case)[:, 0], (yield Scores([Weighted(check_baseline(baseline))]))[:, 0]
    left = 1 - scores
    return (faded - scores).clamp(min=0) / left.masked_fill(left <= 0, torch.nan)


@measure(
    "sufficiency",
    needs=("scores",),
    formula="mean over q of f(x) - f(the highest share q of the positions alone)",
    higher_is_better=False,
    paper="arXiv:1911.03429",
)
def sufficiency(case: Case, *, shares: Sequence[float] = SHARES, baseline: Baseline = 0.0) -> Asking:
    """Drop of the score where only the highest positions are kept.

    Args:
        case: the maps.
        shares: of the positions.
        baseline: of the others.

    Returns:
        The means, and "drops" (R, shares).
    """
    counts, baseline = [_count_of(case, share, "shares") for share in shares], check_baseline(baseline)
    drops = _clean(case) - (yield Scores([_only_first(case, count, baseline) for count in counts]))
    return drops.mean(1), {"drops": drops}


@measure(
    "comprehensiveness",
    needs=("scores",),
    formula="mean over q of f(x) - f(without the highest share q of the positions)",
    paper="arXiv:1911.03429",
)
def comprehensiveness(case: Case, *, shares: Sequence[float] = SHARES, baseline: Baseline = 0.0) -> Asking:
    """Drop of the score without the highest positions; the arguments are those of ``sufficiency``."""
    counts, baseline = [_count_of(case, share, "shares") for share in shares], check_baseline(baseline)
    drops = _clean(case) - (yield Scores([_without_first(case, count, baseline) for count in counts]))
    return drops.mean(1), {"drops": drops}


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


@measure(
    "completeness_gap",
    needs=("scores", "attributions"),
    formula="|sum(a) - (f(x) - f(baseline))|, for attributions a",
    higher_is_better=False,
    score="explained",
    paper="arXiv:1703.01365",
)
def completeness_gap(case: Case, *, baseline: Baseline = 0.0) -> Asking:
    """Distance of the attributions' sum from the change of the score between the baseline and the image.

    Args:
        case: the attributions.
        baseline: that they are relative to.
    """
    emptied = (yield Scores([Emptied(check_baseline(baseline))]))[:, 0]
    total = cast("Tensor", case.attributions).flatten(1).sum(1)
    return (total - (case.batch.scores["explained"] - emptied)).abs()


def _predicted_and_actual(
    case: Case, source: RandomRegions, count: int, baseline: Baseline
) -> Generator[Request, Tensor, tuple[Tensor, Tensor]]:
    """Ask for the scores without regions; return the sums of the map in them, and the drops, (R, count) each."""
    _check_count("regions", count)
    if not 0 < source.share <= 1:
        raise ValueError(f"`share` must lie in (0, 1], got {source.share!r}")
    values = case.explained_values if case.attributions is None else case.explained_values.sum(1)
    masks = torch.stack([source.mask(index, case.size) for index in range(count)])
    predicted = values.flatten(1) @ masks.flatten(1).to(values).T
    actual = case.batch.scores["explained"][:, None] - (
        yield Scores([Region(source, index, baseline) for index in range(count)])
    )
    return predicted, actual


def _clean(case: Case) -> Tensor:
    """Return the scores (R, 1) of the images."""
    return case.batch.scores["probability"][:, None]


def _counts(case: Case, steps: int) -> list[int]:
    """Return the numbers of positions after 0 to ``steps`` equal steps, rounded down."""
    _check_count("steps", steps, case.positions)
    return [step * case.positions // steps for step in range(steps + 1)]


def _count_of(case: Case, share: float, name: str) -> int:
    """Return the number of positions that a share of them is, at least one."""
    if not 0 < share <= 1:
        raise ValueError(f"`{name}` must be above 0 and at most all positions, got {share!r} of them")
    return max(1, round(share * case.positions))


def _check_count(name: str, count: object, most: int | None = None) -> None:
    if not isinstance(count, int) or count < 1 or (most is not None and count > most):
        limit = "" if most is None else f" of at most {most}"
        raise ValueError(f"`{name}` must be a positive whole number{limit}, got {count!r}")


def _without_first(case: Case, count: int, baseline: Baseline) -> Copy:
    return Emptied(baseline) if count == case.positions else Replaced(0, count, baseline)


def _only_first(case: Case, count: int, baseline: Baseline) -> Copy:
    return Emptied(baseline) if count == 0 else Replaced(count, case.positions, baseline)


def _area(curve: Tensor, counts: Sequence[int], whole: Tensor, empty: Tensor, normalize: bool) -> Tensor:
    """Return the areas (R,) under curves (R, steps + 1) over the shares of positions."""
    if normalize:
        span = whole - empty
        curve = (curve - empty) / span.masked_fill(span == 0, torch.nan)
    shares = torch.tensor(counts, dtype=curve.dtype, device=curve.device) / counts[-1]
    return torch.trapezoid(curve, shares)
