"""ARCC: complexity, coherency and ROAD of maps, in one number (arXiv:2605.14641)."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam._types import Array, Targets
from fastcam.compat.pytorch_grad_cam.metrics.road import ROADCombined

_EPS = 1e-8


def batch_pearson_coherency(A: Array, B: Array) -> Array:  # noqa: N803 - pytorch-grad-cam's names
    """Return (N,), the Pearson correlations between the entries of two arrays (N, ...)."""
    a, b = (values.reshape(len(values), -1) for values in (A, B))
    a, b = (values - values.mean(axis=1, keepdims=True) for values in (a, b))
    freedom = a.shape[1] - 1
    deviations = [np.sqrt((values**2).sum(axis=1) / freedom) for values in (a, b)]
    return np.asarray((a * b).sum(axis=1) / freedom / (deviations[0] * deviations[1] + _EPS))


class Complexity:
    """The mean absolute value of a map (arXiv:2104.10252)."""

    def __call__(self, grayscale_cams: Array) -> Array:
        """Return (N,) for maps (N, H, W)."""
        return np.asarray(np.abs(grayscale_cams.reshape(len(grayscale_cams), -1)).mean(axis=1))


class Coherency:
    """The correlation of a map with that of the image multiplied by the map (arXiv:2104.10252)."""

    def __call__(
        self,
        input_tensor: Tensor,
        grayscale_cams: Array,
        targets: Targets,
        model: nn.Module,
        base_method: Callable[..., Array],
    ) -> Array:
        """Return (N,) in [0, 1]; 1 for the same map.

        Args:
            input_tensor: (N, C, H, W).
            grayscale_cams: maps (N, H, W).
            targets: N callables.
            model: not used.
            base_method: the CAM object.
        """
        maps = torch.from_numpy(grayscale_cams).unsqueeze(1).to(input_tensor.device)
        masked_maps = base_method(input_tensor=input_tensor * maps, targets=targets)
        return (batch_pearson_coherency(masked_maps, grayscale_cams) + 1) / 2


class ARCC:
    """The harmonic mean of coherency, 1 - complexity, and ROAD.

    Args:
        base_method: the CAM object.
        road_percentiles: percentiles of ROAD.
    """

    def __init__(self, base_method: Callable[..., Array], road_percentiles: Sequence[float] = (20, 40, 60, 80)) -> None:
        self.complexity, self.coherency = Complexity(), Coherency()
        self.road = ROADCombined(percentiles=road_percentiles)
        self.base_method = base_method

    def __call__(self, input_tensor: Tensor, grayscale_cams: Array, targets: Targets, model: nn.Module) -> Array:
        """Return (N,) in [0, 1]; the arguments are those of :meth:`Coherency.__call__`."""
        shares = (
            self.coherency(input_tensor, grayscale_cams, targets, model, self.base_method),
            1 - self.complexity(grayscale_cams),
            (2 * self.road(input_tensor, grayscale_cams, targets, model)).clip(0, 1),
        )
        return np.asarray(3 / sum(1 / (share + _EPS) for share in shares))
