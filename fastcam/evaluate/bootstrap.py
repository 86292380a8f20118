"""Confidence intervals of means over images."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

MAX_DRAWS = 2**24  # at a time


def interval(values: Tensor, level: float = 0.95, samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean (Efron 1979): images are drawn with replacement.

    Args:
        values: (N,) or (N, K); the targets of an image are drawn together. NaN is left out.
        level: share of the drawn means inside.
        samples: number of draws.
        seed: of the draws.

    Returns:
        The lower and the upper end; NaN if no value is a number.
    """
    table = values.detach().double().cpu().numpy().reshape(len(values), -1)
    defined = ~np.isnan(table)
    sums, counts = np.where(defined, table, 0).sum(1), defined.sum(1)
    sums, counts = sums[counts > 0], counts[counts > 0]
    if not len(sums):
        return np.nan, np.nan
    generator, means = np.random.default_rng(seed), []
    step = max(1, MAX_DRAWS // len(sums))
    for start in range(0, samples, step):
        drawn = generator.integers(len(sums), size=(min(step, samples - start), len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def pooled_interval(
    pool: Callable[[dict[str, Tensor]], Tensor],
    details: dict[str, Tensor],
    target_axes: int,
    level: float,
    samples: int,
    seed: int,
) -> tuple[float, float]:
    """Return the same for a number that is pooled from the details (N, [K,] ...) of all images with a value.

    Args:
        pool: from details (R, ...) with a row for every image and target.
        details: by name.
        target_axes: 1 with an axis K, else 0.
        level: as for :func:`interval`.
        samples: as for :func:`interval`.
        seed: as for :func:`interval`.
    """
    images = len(next(iter(details.values())))
    if not images:
        return np.nan, np.nan
    generator, numbers = np.random.default_rng(seed), []
    for _ in range(samples):
        drawn = torch.from_numpy(generator.integers(images, size=images))
        numbers.append(
            pool({name: each[drawn.to(each.device)].flatten(0, target_axes) for name, each in details.items()}).item()
        )
    low, high = np.quantile(numbers, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
