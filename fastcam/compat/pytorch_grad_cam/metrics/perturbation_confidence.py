"""Scores of images that were changed as a map says."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Array = np.ndarray[Any, Any]
Perturbation = Callable[[Tensor, Tensor], Tensor]
Targets = Sequence[Callable[[Tensor], Tensor]]
Percentile = float | str


class PerturbationConfidenceMetric:
    """How much the score changes.

    Args:
        perturbation: from an image (C, H, W) and its map (H, W) to the changed image.
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
        """Scores of the changed images.

        Args:
            input_tensor: (N, C, H, W).
            cams: (N, H, W).
            targets: N callables from an image's output to its score.
            model: from images to outputs.
            return_visualization: whether the changed images are returned too.
            return_diff: less the scores of the images as they are.

        Returns:
            (N,) float32; with the images (N, C, H, W) behind it where they are asked for.
        """
        images = input_tensor.detach()
        changed = [
            self.perturbation(image.cpu(), torch.from_numpy(cam)) for image, cam in zip(images, cams, strict=True)
        ]
        perturbed = torch.stack(changed).to(images)
        scores = _scores(model, perturbed, targets)
        if return_diff:
            scores = scores - _scores(model, images, targets)
        return (scores, perturbed) if return_visualization else scores


def _scores(model: nn.Module, images: Tensor, targets: Targets) -> Array:
    with torch.no_grad():
        outputs = model(images)
        found = [target(output).cpu().numpy() for target, output in zip(targets, outputs, strict=True)]
    return np.asarray(found, np.float32)


class RemoveMostRelevantFirst:
    """Takes away what a map shows most.

    Args:
        percentile: of the map, above which pixels go; "auto" takes Otsu's threshold.
        imputer: from an image and the pixels that stay (1) to the image without the others.
    """

    def __init__(self, percentile: Percentile, imputer: Perturbation) -> None:
        self.percentile, self.imputer = percentile, imputer

    def __call__(self, input_tensor: Tensor, mask: Tensor) -> Tensor:
        """The changed image (C, H, W), for a map (H, W)."""
        if self.percentile == "auto":
            stays = _above_otsu(mask.numpy())
        else:
            stays = mask.numpy() < np.percentile(mask.numpy(), float(self.percentile))
        return self.imputer(input_tensor, torch.from_numpy(stays.astype(np.float32)))


def _above_otsu(values: Array) -> Array:
    import cv2

    return np.asarray(cv2.threshold(np.uint8(values * 255), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1])  # type: ignore[call-overload]


class RemoveLeastRelevantFirst(RemoveMostRelevantFirst):
    """Takes away what a map shows least."""

    def __call__(self, input_tensor: Tensor, mask: Tensor) -> Tensor:
        """The changed image (C, H, W), for a map (H, W)."""
        return super().__call__(input_tensor, 1 - mask)


class AveragerAcrossThresholds:
    """A metric averaged over percentiles.

    Args:
        imputer: makes the metric for a percentile.
        percentiles: of the maps.
    """

    def __init__(
        self, imputer: Callable[[float], PerturbationConfidenceMetric], percentiles: Sequence[float] = range(10, 91, 10)
    ) -> None:
        self.imputer, self.percentiles = imputer, percentiles

    def __call__(self, input_tensor: Tensor, cams: Array, targets: Targets, model: nn.Module) -> Array:
        """(N,) float32."""
        scores = [self.imputer(each)(input_tensor, cams, targets, model) for each in self.percentiles]
        return np.asarray(np.mean(np.stack(scores), axis=0), np.float32)
