"""Scores of what the map leaves of an image."""

from typing import Any

import numpy as np
from torch import Tensor

from fastcam.compat.pytorch_grad_cam.metrics.perturbation_confidence import PerturbationConfidenceMetric


def multiply_tensor_with_cam(input_tensor: Tensor, cam: Tensor) -> Tensor:
    """An image (C, H, W) times its map (H, W)."""
    return input_tensor * cam


class CamMultImageConfidenceChange(PerturbationConfidenceMetric):
    """How much the score changes where the image is multiplied by its map."""

    def __init__(self) -> None:
        super().__init__(multiply_tensor_with_cam)


class DropInConfidence(CamMultImageConfidenceChange):
    """How much it falls; 0 where it rises (Grad-CAM++, arXiv:1710.11063)."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """(N,) float32."""
        return np.maximum(-super().__call__(*args, **kwargs), 0)


class IncreaseInConfidence(CamMultImageConfidenceChange):
    """Whether it rises: 1 or 0 (Grad-CAM++, arXiv:1710.11063)."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """(N,) float32."""
        return np.float32(super().__call__(*args, **kwargs) > 0)
