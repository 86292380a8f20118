"""Targets: callables from the model's output for one image to a score."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.compat.pytorch_grad_cam._types import Array, Target, Targets
from fastcam.targets.binding import Score
from fastcam.targets.binding import Target as EngineTarget


class ClassifierOutputTarget:
    """The score of a class."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return a number for (classes,), or (N,) for (N, classes)."""
        return model_output[..., self.category]


class ClassifierOutputSoftmaxTarget:
    """The probability of a class."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return a number for (classes,), or (N,) for (N, classes)."""
        return model_output.softmax(-1)[..., self.category]


class ClassifierOutputReST:
    """The score of a class and the logarithm of its probability (arXiv:2501.06261)."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return a number for (classes,), or (N,) for (N, classes)."""
        return (model_output + F.log_softmax(model_output, -1))[..., self.category]


class BinaryClassifierOutputTarget:
    """The one output of a two-class model, or its negative for a category other than 1."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return a tensor of the output's shape."""
        return model_output if self.category == 1 else -model_output


class SoftmaxOutputTarget:
    """All probabilities."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return a tensor of the output's shape."""
        return model_output.softmax(-1)


class RawScoresOutputTarget:
    """The output itself."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return a tensor of the output's shape."""
        return model_output


class SemanticSegmentationTarget:
    """The sum of a category's scores over a mask.

    Args:
        category: the class.
        mask: (H, W), weights of the positions.
    """

    def __init__(self, category: int, mask: Array) -> None:
        self.category = category
        self.mask = torch.from_numpy(mask)

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return a number for (classes, H, W)."""
        return (model_output[self.category] * self.mask.to(model_output.device)).sum()


class FasterRCNNBoxScoreTarget:
    """The agreement of detections with given boxes: per box, overlap plus score of the detection that overlaps it most.

    Args:
        labels: the labels of the boxes.
        bounding_boxes: (x1, y1, x2, y2) each, as arrays.
        iou_threshold: minimum overlap; boxes below it, or with another label, count 0.
    """

    def __init__(
        self, labels: Sequence[int | Tensor], bounding_boxes: Sequence[Array | Tensor], iou_threshold: float = 0.5
    ) -> None:
        self.labels, self.bounding_boxes, self.iou_threshold = labels, bounding_boxes, iou_threshold

    def __call__(self, model_outputs: Mapping[str, Tensor]) -> Tensor:
        """Return (1,), for one image's ``boxes``, ``labels`` and ``scores``."""
        from torchvision.ops import box_iou

        boxes = model_outputs["boxes"]
        total = boxes.new_zeros(1)
        if len(boxes) == 0:
            return total
        for box, label in zip(self.bounding_boxes, self.labels, strict=False):
            overlaps = box_iou(torch.as_tensor(box).to(boxes)[None], boxes)[0]
            best = overlaps.argmax()
            if overlaps[best] > self.iou_threshold and model_outputs["labels"][best] == label:
                total = total + overlaps[best] + model_outputs["scores"][best]
        return total


class FinerWeightedTarget:
    """The margin of a class over others, weighted by their probabilities (arXiv:2501.11309).

    Args:
        main_category: the class.
        comparison_categories: the others.
        alpha: weight of the others.
    """

    def __init__(self, main_category: int, comparison_categories: Sequence[int], alpha: float) -> None:
        self.main_category, self.comparison_categories, self.alpha = main_category, comparison_categories, alpha

    def __call__(self, model_output: Tensor) -> Tensor:
        """Return a number for (classes,), or (N,) for (N, classes)."""
        others = list(self.comparison_categories)
        weights = model_output.softmax(-1)[..., others]
        margins = model_output[..., self.main_category, None] - self.alpha * model_output[..., others]
        return (weights * margins).sum(-1) / (weights.sum(-1) + 1e-9)


def engine_target(targets: Targets | Score | None) -> EngineTarget:
    """Return the engine's target: class indices if all targets are class scores, since these have a closed form."""
    if not isinstance(targets, Sequence) or not targets:
        return targets
    # Compared by name, to include pytorch-grad-cam's own class.
    if all(type(target).__name__ == "ClassifierOutputTarget" for target in targets):
        return [int(cast(ClassifierOutputTarget, target).category) for target in targets]
    return [_Summed(target) if callable(target) else target for target in targets]


def folded_target(targets: Targets | Score | None, count: int) -> EngineTarget:
    """Return the engine's target, also for a model that folds all images into fewer rows, each with its own target."""
    if not isinstance(targets, Sequence) or not 0 < len(targets) < count or not all(map(callable, targets)):
        return engine_target(targets)

    def total(output: Tensor) -> Tensor:
        if len(output) != len(targets):
            raise ValueError(
                f"`targets` must have one callable for each of the {len(output)} rows of the output, got {len(targets)}"
            )
        scores = torch.stack([target(row).sum() for target, row in zip(targets, output, strict=True)])
        return torch.cat([scores.sum()[None], scores.new_zeros(count - 1)])  # only the gradient of the sum counts

    return total


class _Summed:
    """The sum of a target's values."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def __call__(self, output: object) -> Tensor:
        return self.target(output).sum()
