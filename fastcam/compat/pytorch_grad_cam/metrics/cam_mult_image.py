"""Changes of the score for images multiplied by their maps."""

from typing import Any

import numpy as np
from torch import Tensor

from fastcam.compat.pytorch_grad_cam._types import Array
from fastcam.compat.pytorch_grad_cam.metrics.perturbation_confidence import PerturbationConfidenceMetric


def multiply_tensor_with_cam(input_tensor: Tensor, cam: Tensor) -> Tensor:
    """Return an image (C, H, W) times its map (H, W)."""
    return input_tensor * cam


class CamMultImageConfidenceChange(PerturbationConfidenceMetric):
    """The change of the score for the image multiplied by its map."""

    def __init__(self) -> None:
        super().__init__(multiply_tensor_with_cam)


class DropInConfidence(CamMultImageConfidenceChange):
    """The drop of the score; 0 for an increase (Grad-CAM++, arXiv:1710.11063)."""

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Return (N,) float32."""
        return np.maximum(-super().__call__(*args, **kwargs), 0)


class IncreaseInConfidence(CamMultImageConfidenceChange):
    """1 for an increase of the score, else 0 (Grad-CAM++, arXiv:1710.11063)."""

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Return (N,) float32."""
        return np.asarray(super().__call__(*args, **kwargs) > 0, np.float32)
