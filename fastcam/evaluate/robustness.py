"""Robustness: how much an explanation changes where the image hardly does. Copies of the images are explained."""

from collections.abc import Generator
from typing import cast

import torch
from torch import Tensor

from fastcam.evaluate.baselines import Baseline, check_baseline
from fastcam.evaluate.case import Case
from fastcam.evaluate.copies import Noisy, Weighted
from fastcam.evaluate.faithfulness import average_drop
from fastcam.evaluate.registry import Asking, measure
from fastcam.evaluate.requests import Explained, Explanations, Request


@measure(
    "max_sensitivity",
    needs=("explainer",),
    formula="max over uniform noise d in [-radius, radius] of |a(x + d) - a(x)| / |a(x)|, attributions or raw maps a",
    higher_is_better=False,
    paper="arXiv:1901.09392",
)
def max_sensitivity(case: Case, *, radius: float = 0.02, samples: int = 10, seed: int = 0) -> Asking:
    """Largest relative change of the explanation under small noise.

    Args:
        case: the explanations.
        radius: of the noise, in units of the model's input.
        samples: of the noise, the same for every image and method.
        seed: of the noise.

    Returns:
        The largest changes, and "mean" (R,), their means.
    """
    changes = yield from _changes(case, radius, samples, seed)
    size = _norm(case.explained_values)[:, None]
    changes = changes / size.masked_fill(size == 0, torch.nan)
    return changes.amax(1), {"mean": changes.mean(1)}


@measure(
    "local_lipschitz",
    needs=("explainer",),
    formula="max over uniform noise d in [-radius, radius] of |a(x + d) - a(x)| / |d|, attributions or raw maps a",
    higher_is_better=False,
    paper="arXiv:1806.08049",
)
def local_lipschitz(case: Case, *, radius: float = 0.1, samples: int = 10, seed: int = 0) -> Asking:
    """Largest change of the explanation for the change of the image; the arguments are those of ``max_sensitivity``."""
    images = case.batch.images_of(slice(None))
    copies = [Noisy(radius, index, seed) for index in range(samples)]
    distances = torch.stack([_norm(copy.make(case, slice(None)) - images) for copy in copies], 1)
    return ((yield from _changes(case, radius, samples, seed)) / distances).amax(1)


@measure(
    "coherency",
    needs=("explainer",),
    formula="(1 + Pearson's correlation of map(m) and map(x)) / 2, for m = baseline + map * (x - baseline)",
    paper="arXiv:2104.10252",
)
def coherency(case: Case, *, baseline: Baseline = 0.0) -> Asking:
    """Correlation of the map with that of the image multiplied by the map.

    Args:
        case: the explanations.
        baseline: as for ``average_drop``.
    """

    def correlation(explained: Explained, rows: slice) -> Tensor:
        flat = [values.flatten(1).double() for values in (explained.raw, case.raw[rows])]
        first, second = (values - values.mean(1, keepdim=True) for values in flat)
        scale = (first.square().sum(1) * second.square().sum(1)).sqrt()
        return (first * second).sum(1) / scale.masked_fill(scale == 0, torch.nan)

    answer = yield Explanations([Weighted(check_baseline(baseline))], correlation)
    return (1 + answer[:, 0]) / 2


@measure(
    "adcc",
    needs=("scores", "explainer"),
    formula="3 / (1 / coherency + 1 / (1 - mean_intensity) + 1 / (1 - average_drop))",
    paper="arXiv:2104.10252",
)
def adcc(case: Case, *, baseline: Baseline = 0.0) -> Asking:
    """Harmonic mean of coherency, 1 - mean intensity and 1 - average drop; the argument is that of ``coherency``."""
    coherent = yield from coherency(case, baseline=baseline)
    drop = yield from average_drop(case, baseline=baseline)
    shares = torch.stack(
        [cast("Tensor", coherent), 1 - case.maps.flatten(1).double().mean(1), 1 - cast("Tensor", drop)]
    )
    return 3 / shares.reciprocal().sum(0)


def _changes(case: Case, radius: float, samples: int, seed: int) -> Generator[Request, Tensor, Tensor]:
    """Ask for (R, samples), the norms of the changes of the explanation under noise."""
    if not radius > 0 or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"`radius` and `samples` must be positive, got {radius!r} and {samples!r}")

    def change(explained: Explained, rows: slice) -> Tensor:
        return _norm(explained.values - case.explained_values[rows])

    return (yield Explanations([Noisy(radius, index, seed) for index in range(samples)], change))


def _norm(values: Tensor) -> Tensor:
    return values.flatten(1).double().norm(dim=1)
