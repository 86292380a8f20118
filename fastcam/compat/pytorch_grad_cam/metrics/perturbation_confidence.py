"""Scores of images perturbed according to a map."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam._types import Array, Targets
from fastcam.model.batching import INITIAL_BATCH_SIZE

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
        perturbed = self.perturbed(input_tensor.detach(), cams)
        scores = scores_of(model, perturbed, targets)
        if return_diff:
            scores = scores - scores_of(model, input_tensor, targets)
        return (scores, perturbed) if return_visualization else scores

    def perturbed(self, images: Tensor, cams: Array) -> Tensor:
        """Return the perturbed images (N, C, H, W); the perturbation sees them one by one, on the CPU."""
        each = [self.perturbation(image.cpu(), torch.from_numpy(cam)) for image, cam in zip(images, cams, strict=True)]
        return torch.stack(each).to(images)


def scores_of(model: nn.Module, images: Tensor, targets: Targets) -> Array:
    """Return the scores (N,) float32 of images (N, C, H, W)."""
    with torch.no_grad():
        outputs = model(images)
        scores = [target(output).cpu().numpy() for target, output in zip(targets, outputs, strict=True)]
    return np.asarray(scores, np.float32)


def changes_of(
    metrics: Sequence[PerturbationConfidenceMetric], images: Tensor, cams: Array, targets: Targets, model: nn.Module
) -> Array:
    """Return the changes of the score (metrics, N) float32.

    The images are scored once for all of them, and copies of several metrics together.
    """
    if any(type(each).__call__ is not PerturbationConfidenceMetric.__call__ for each in metrics):  # with their own rule
        return np.asarray([each(images, cams, targets, model) for each in metrics], np.float32)
    at_once = max(1, INITIAL_BATCH_SIZE.get(images.device.type, 16) // len(images))
    clean, changes = scores_of(model, images, targets), list[Array]()
    for start in range(0, len(metrics), at_once):
        copies = [each.perturbed(images.detach(), cams) for each in metrics[start : start + at_once]]
        scores = scores_of(model, torch.cat(copies), list(targets) * len(copies))
        changes += list(scores.reshape(len(copies), -1) - clean)
    return np.stack(changes)


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
        return self.imputer(input_tensor, torch.from_numpy(self.remaining(mask.numpy())))

    def remaining(self, cam: Array) -> Array:
        """Return 1 for the pixels of a map (H, W) that remain, else 0, in float32."""
        if self.percentile == "auto":
            return _above_otsu(cam).astype(np.float32)
        return (cam < np.percentile(cam, float(self.percentile))).astype(np.float32)


def _above_otsu(values: Array) -> Array:
    import cv2

    return np.asarray(cv2.threshold(np.uint8(values * 255), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1])  # type: ignore[call-overload]


class RemoveLeastRelevantFirst(RemoveMostRelevantFirst):
    """The removal of the pixels with the lowest values of a map."""

    def remaining(self, cam: Array) -> Array:
        """Return 1 for the pixels of a map (H, W) that remain, else 0, in float32."""
        return super().remaining(1 - cam)


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
        return np.asarray(np.mean(changes_of(self.metrics(), input_tensor, cams, targets, model), axis=0), np.float32)

    def metrics(self) -> list[PerturbationConfidenceMetric]:
        """Return the metric of each percentile."""
        return [self.imputer(percentile) for percentile in self.percentiles]
