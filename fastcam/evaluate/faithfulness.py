"""Faithfulness: how much the score depends on what the map shows, from scores of changed images."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from fastcam.evaluate.baselines import Baseline, check_baseline
from fastcam.evaluate.case import Case
from fastcam.evaluate.copies import Emptied, Imputed, Weighted
from fastcam.evaluate.registry import Asking, measure
from fastcam.evaluate.removal import clean_scores, only_first, without_first
from fastcam.evaluate.requests import Scores

PERCENTAGES = (10, 20, 30, 40, 50, 60, 70, 80, 90)
SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)


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
    changes = (yield Scores(copies)) - clean_scores(case)
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
    scores, faded = clean_scores(case)[:, 0], (yield Scores([Weighted(check_baseline(baseline))]))[:, 0]
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
    return (faded > clean_scores(case)[:, 0]).to(faded)


@measure(
    "average_gain",
    needs=("scores",),
    formula="max(0, f(m) - f(x)) / (1 - f(x)), for m = baseline + map * (x - baseline)",
    paper="arXiv:2301.07002",
)
def average_gain(case: Case, *, baseline: Baseline = 0.0) -> Asking:
    """Rise of the probability, as a share of what is left to 1; the argument is that of ``average_drop``."""
    scores, faded = clean_scores(case)[:, 0], (yield Scores([Weighted(check_baseline(baseline))]))[:, 0]
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
    drops = clean_scores(case) - (yield Scores([only_first(case, count, baseline) for count in counts]))
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
    drops = clean_scores(case) - (yield Scores([without_first(case, count, baseline) for count in counts]))
    return drops.mean(1), {"drops": drops}


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


def _count_of(case: Case, share: float, name: str) -> int:
    """Return the number of positions that a share of them is, at least one."""
    if not 0 < share <= 1:
        raise ValueError(f"`{name}` must be above 0 and at most all positions, got {share!r} of them")
    return max(1, round(share * case.positions))
