"""ROAD: removed pixels are imputed from their neighbours, to hide the shape of the mask (arXiv:2202.00449)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastcam import ops
from fastcam.compat.pytorch_grad_cam._types import Array, Targets
from fastcam.compat.pytorch_grad_cam.metrics.perturbation_confidence import (
    AveragerAcrossThresholds,
    Percentile,
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
    changes_of,
)

TOLERANCE = 1e-6  # of the equations, which the peer solves by elimination: errors below 1e-4 of the values
Offset = tuple[tuple[int, int], float]

neighbors_weights: list[Offset] = [
    ((row, column), 1 / 6 if 0 in (row, column) else 1 / 12)
    for row in (-1, 0, 1)
    for column in (-1, 0, 1)
    if (row, column) != (0, 0)
]


class NoisyLinearImputer:
    """An imputer of missing pixels by weighted means of their neighbours, including missing ones, plus noise.

    Args:
        noise: standard deviation of the noise.
        weighting: offsets (rows, columns) and weights of the neighbours.
    """

    def __init__(self, noise: float = 0.01, weighting: Sequence[Offset] = tuple(neighbors_weights)) -> None:
        self.noise, self.weighting = noise, list(weighting)

    def __call__(self, img: Tensor, mask: Tensor) -> Tensor:
        """Return the filled image.

        Args:
            img: (C, H, W), on the CPU.
            mask: (H, W), 0 for missing pixels.
        """
        return self.fill(img.unsqueeze(0), mask.unsqueeze(0) == 0)[0]

    def fill(self, images: Tensor, missing: Tensor) -> Tensor:
        """Return the filled images (N, C, H, W), for their missing pixels (N, H, W) bool, on the images' device."""
        if self.weighting == neighbors_weights:
            filled = ops.impute_neighbours(images, missing, TOLERANCE)
        else:
            filled = torch.stack([self._solved(*each) for each in zip(images.cpu(), missing.cpu(), strict=True)])
            filled = filled.to(images)
        for image, hole in zip(filled, missing, strict=True):
            noise = torch.randn(len(image), int(hole.sum()))  # on the CPU: the same numbers for a seed on every device
            image[:, hole] += self.noise * noise.to(image)
        return filled

    def _solved(self, image: Tensor, missing: Tensor) -> Tensor:
        """Return the filled image (C, H, W), for neighbours and weights of the caller's."""
        from scipy.sparse.linalg import spsolve

        filled = image.clone()
        if missing.any():
            matrix, known = self.system(missing.numpy(), image.numpy())
            values = torch.from_numpy(np.asarray(spsolve(matrix, known)).reshape(known.shape))  # (missing, C)
            filled[:, missing] = values.t().to(filled)
        return filled

    def system(self, missing: Array, img: Array) -> tuple[Any, Array]:
        """Return the linear equations of the missing pixels: each is the weighted mean of its neighbours in the image.

        Args:
            missing: (H, W), bool.
            img: (C, H, W).

        Returns:
            The sparse matrix (M, M) and the right-hand side (M, C), for M missing pixels in row-major order.
        """
        from scipy.sparse import coo_matrix, diags

        positions = np.argwhere(missing)
        numbers = np.full(missing.shape, -1)
        numbers[missing] = np.arange(len(positions))
        known, total = np.zeros((len(positions), len(img))), np.zeros(len(positions))
        rows, columns, values = [], [], []
        for offset, weight in self.weighting:
            neighbours = positions + offset
            inside = ((neighbours >= 0) & (neighbours < missing.shape)).all(1)
            row, column = neighbours[inside].T
            equations, unknowns = np.flatnonzero(inside), numbers[row, column]
            total[equations] += weight
            is_known = unknowns < 0
            known[equations[is_known]] += weight * img[:, row[is_known], column[is_known]].T
            rows.append(equations[~is_known])
            columns.append(unknowns[~is_known])
            values.append(np.full(len(rows[-1]), -weight))
        indices = (np.concatenate(rows), np.concatenate(columns))
        couplings = coo_matrix((np.concatenate(values), indices), shape=(len(positions),) * 2)
        return (couplings + diags(total)).tocsc(), known


class _FilledTogether(PerturbationConfidenceMetric):
    """A metric whose perturbation is an imputer's, which fills the pixels of all images at once."""

    def perturbed(self, images: Tensor, cams: Array) -> Tensor:
        """Return the perturbed images (N, C, H, W)."""
        removal = self.perturbation
        if not isinstance(removal, RemoveMostRelevantFirst) or type(removal.imputer) is not NoisyLinearImputer:
            return super().perturbed(images, cams)
        remaining = np.stack([removal.remaining(cam) for cam in cams])
        return removal.imputer.fill(images, torch.from_numpy(remaining == 0).to(images.device))


class ROADMostRelevantFirst(_FilledTogether):
    """The change of the score without the most relevant pixels.

    Args:
        percentile: of the map, above which pixels are removed.
    """

    def __init__(self, percentile: Percentile = 80) -> None:
        super().__init__(RemoveMostRelevantFirst(percentile, NoisyLinearImputer()))


class ROADLeastRelevantFirst(_FilledTogether):
    """The change of the score without the least relevant pixels.

    Args:
        percentile: of the inverted map, above which pixels are removed.
    """

    def __init__(self, percentile: Percentile = 20) -> None:
        super().__init__(RemoveLeastRelevantFirst(percentile, NoisyLinearImputer()))


class ROADMostRelevantFirstAverage(AveragerAcrossThresholds):
    """:class:`ROADMostRelevantFirst`, averaged over percentiles."""

    def __init__(self, percentiles: Sequence[float] = range(10, 91, 10)) -> None:
        super().__init__(ROADMostRelevantFirst, percentiles)


class ROADLeastRelevantFirstAverage(AveragerAcrossThresholds):
    """:class:`ROADLeastRelevantFirst`, averaged over percentiles."""

    def __init__(self, percentiles: Sequence[float] = range(10, 91, 10)) -> None:
        super().__init__(ROADLeastRelevantFirst, percentiles)


class ROADCombined:
    """Half the score change of the least relevant pixels minus that of the most relevant: higher is better.

    Args:
        percentiles: of the maps.
    """

    def __init__(self, percentiles: Sequence[float] = range(10, 91, 10)) -> None:
        self.percentiles = percentiles
        self.morf_averager = ROADMostRelevantFirstAverage(percentiles)
        self.lerf_averager = ROADLeastRelevantFirstAverage(percentiles)

    def __call__(self, input_tensor: Tensor, cams: Array, targets: Targets, model: nn.Module) -> Array:
        """Return (N,) float32."""
        least, most = self.lerf_averager.metrics(), self.morf_averager.metrics()
        changes = changes_of([*least, *most], input_tensor, cams, targets, model)
        return np.asarray((changes[: len(least)].mean(0) - changes[len(least) :].mean(0)) / 2, np.float32)
