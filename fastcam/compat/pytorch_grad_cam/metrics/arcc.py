"""ARCC: how simple, how coherent and how telling maps are, in one number (arXiv:2605.14641)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam.metrics.perturbation_confidence import Targets
from fastcam.compat.pytorch_grad_cam.metrics.road import ROADCombined

Array = np.ndarray[Any, Any]

_EPS = 1e-8


def batch_pearson_coherency(A: Array, B: Array) -> Array:  # noqa: N803 - the tool's names
    """(N,): the correlation of each of the arrays (N, ...) with its partner."""
    a, b = (each.reshape(len(each), -1) for each in (A, B))
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (a, b))
    freedom = a.shape[1] - 1
    deviations = [np.sqrt((each**2).sum(axis=1) / freedom) for each in (a, b)]
    return np.asarray((a * b).sum(axis=1) / freedom / (deviations[0] * deviations[1] + _EPS))


class Complexity:
    """How much of a map is lit: its mean (arXiv:2104.10252)."""

    def __call__(self, grayscale_cams: Array) -> Array:
        """(N,) of maps (N, H, W)."""
        return np.asarray(np.abs(grayscale_cams.reshape(len(grayscale_cams), -1)).mean(axis=1))


class Coherency:
    """How much a map stays itself where the image shows only what the map lights (arXiv:2104.10252)."""

    def __call__(
        self,
        input_tensor: Tensor,
        grayscale_cams: Array,
        targets: Targets,
        model: nn.Module,
        base_method: Callable[..., Array],
    ) -> Array:
        """(N,) in [0, 1]: 1 for the same map again.

        Args:
            input_tensor: (N, C, H, W).
            grayscale_cams: maps (N, H, W).
            targets: N callables.
            model: taken for the sake of the signature.
            base_method: makes the maps.
        """
        maps = torch.from_numpy(grayscale_cams).unsqueeze(1).to(input_tensor.device)
        again = base_method(input_tensor=input_tensor * maps, targets=targets)
        return (batch_pearson_coherency(again, grayscale_cams) + 1) / 2


class ARCC:
    """The harmonic mean of coherency, what complexity leaves of 1, and ROAD.

    Args:
        base_method: makes the maps.
        road_percentiles: of ROAD.
    """

    def __init__(self, base_method: Callable[..., Array], road_percentiles: Sequence[float] = (20, 40, 60, 80)) -> None:
        self.complexity, self.coherency = Complexity(), Coherency()
        self.road = ROADCombined(percentiles=road_percentiles)
        self.base_method = base_method

    def __call__(self, input_tensor: Tensor, grayscale_cams: Array, targets: Targets, model: nn.Module) -> Array:
        """(N,) in [0, 1]; the arguments are those of :meth:`Coherency.__call__`."""
        shares = (
            self.coherency(input_tensor, grayscale_cams, targets, model, self.base_method),
            1 - self.complexity(grayscale_cams),
            (2 * self.road(input_tensor, grayscale_cams, targets, model)).clip(0, 1),
        )
        return np.asarray(3 / sum(1 / (each + _EPS) for each in shares))
