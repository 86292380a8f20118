"""Scores of images perturbed according to a map."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam._types import Array, Targets

Perturbation = Callable[[Tensor, Tensor], Tensor]
Percentile = float | str


class PerturbationConfidenceMetric:
    """The change of the score for perturbed images.

    Args:
        perturbation: from an image (C, H, W) and its map (H, W) to the perturbed image.
    """

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation

    def __call__(
        self,
        input_tensor: Tensor,
        cams: Array,
        targets: Targets,
        model: nn.Module,
        return_visualization: bool = False,
        return_diff: bool = True,
    ) -> Any:
        """Return the scores of the perturbed images.

        Args:
            input_tensor: (N, C, H, W).
            cams: (N, H, W).
            targets: N callables from an image's output to its score.
            model: from images to outputs.
            return_visualization: also return the perturbed images.
            return_diff: subtract the scores of the original images.

        Returns:
            (N,) float32, or a pair of these and the perturbed images (N, C, H, W).
        """
        images = input_tensor.detach()
        perturbed_images = [
            self.perturbation(image.cpu(), torch.from_numpy(cam)) for image, cam in zip(images, cams, strict=True)
        ]
        perturbed = torch.stack(perturbed_images).to(images)
        scores = _scores(model, perturbed, targets)
        if return_diff:
            scores = scores - _scores(model, images, targets)
        return (scores, perturbed) if return_visualization else scores


def _scores(model: nn.Module, images: Tensor, targets: Targets) -> Array:
    with torch.no_grad():
        outputs = model(images)
        scores = [target(output).cpu().numpy() for target, output in zip(targets, outputs, strict=True)]
    return np.asarray(scores, np.float32)


class RemoveMostRelevantFirst:
    """The removal of the pixels with the highest values of a map.

    Args:
        percentile: of the map, above which pixels are removed; "auto" for Otsu's threshold.
        imputer: from an image and a mask (1 for remaining pixels) to the image without the others.
    """

    def __init__(self, percentile: Percentile, imputer: Perturbation) -> None:
        self.percentile, self.imputer = percentile, imputer

    def __call__(self, input_tensor: Tensor, mask: Tensor) -> Tensor:
        """Return the perturbed image (C, H, W), for a map (H, W)."""
        if self.percentile == "auto":
            remaining = _above_otsu(mask.numpy())
        else:
            remaining = mask.numpy() < np.percentile(mask.numpy(), float(self.percentile))
        return self.imputer(input_tensor, torch.from_numpy(remaining.astype(np.float32)))


def _above_otsu(values: Array) -> Array:
    import cv2

    return np.asarray(cv2.threshold(np.uint8(values * 255), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1])  # type: ignore[call-overload]


class RemoveLeastRelevantFirst(RemoveMostRelevantFirst):
    """The removal of the pixels with the lowest values of a map."""

    def __call__(self, input_tensor: Tensor, mask: Tensor) -> Tensor:
        """Return the perturbed image (C, H, W), for a map (H, W)."""
        return super().__call__(input_tensor, 1 - mask)


class AveragerAcrossThresholds:
    """A metric averaged over percentiles.

    Args:
        imputer: from a percentile to the metric.
        percentiles: of the maps.
    """

    def __init__(
        self, imputer: Callable[[float], PerturbationConfidenceMetric], percentiles: Sequence[float] = range(10, 91, 10)
    ) -> None:
        self.imputer, self.percentiles = imputer, percentiles

    def __call__(self, input_tensor: Tensor, cams: Array, targets: Targets, model: nn.Module) -> Array:
        """Return (N,) float32."""
        scores = [self.imputer(percentile)(input_tensor, cams, targets, model) for percentile in self.percentiles]
        return np.asarray(np.mean(np.stack(scores), axis=0), np.float32)
