"""Faithfulness as an area: the score while positions are deleted or inserted, the highest of the map first."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastcam.evaluate.baselines import Baseline, check_baseline
from fastcam.evaluate.case import Case
from fastcam.evaluate.registry import Asking, measure
from fastcam.evaluate.removal import check_count, clean_scores, only_first, without_first
from fastcam.evaluate.requests import Scores


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
    copies = [without_first(case, count, baseline) for count in counts[1:]]
    curve = torch.cat([clean_scores(case), (yield Scores(copies))], 1)
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
    copies = [only_first(case, count, baseline) for count in counts[:-1]]
    curve = torch.cat([(yield Scores(copies)), clean_scores(case)], 1)
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
    check_count("pixels", pixels, case.positions)
    baseline = check_baseline(baseline)
    counts = [*range(pixels, case.positions, pixels), case.positions]
    scores = yield Scores([without_first(case, count, baseline) for count in counts])
    curve = torch.cat([clean_scores(case), scores], 1)
    return torch.trapezoid(curve, dim=1), {"curve": curve}


def _counts(case: Case, steps: int) -> list[int]:
    """Return the numbers of positions after 0 to ``steps`` equal steps, rounded down."""
    check_count("steps", steps, case.positions)
    return [step * case.positions // steps for step in range(steps + 1)]


def _area(curve: Tensor, counts: Sequence[int], whole: Tensor, empty: Tensor, normalize: bool) -> Tensor:
    """Return the areas (R,) under curves (R, steps + 1) over the shares of positions."""
    if normalize:
        span = whole - empty
        curve = (curve - empty) / span.masked_fill(span == 0, torch.nan)
    shares = torch.tensor(counts, dtype=curve.dtype, device=curve.device) / counts[-1]
    return torch.trapezoid(curve, shares)
