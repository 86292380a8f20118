"""What is explained of one image: callables from its output to a score."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class ClassifierOutputTarget:
    """The score of a class."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """A number for (classes,), or (N,) for (N, classes)."""
        return model_output[..., self.category]


class ClassifierOutputSoftmaxTarget:
    """The probability of a class."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """A number for (classes,), or (N,) for (N, classes)."""
        return model_output.softmax(-1)[..., self.category]


class ClassifierOutputReST:
    """The score of a class and the logarithm of its probability (arXiv:2501.06261)."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """A number for (classes,), or (N,) for (N, classes)."""
        return (model_output + F.log_softmax(model_output, -1))[..., self.category]


class BinaryClassifierOutputTarget:
    """The one output of a two-class model, or its negative for a category other than 1."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        """In the shape of the output."""
        return model_output if self.category == 1 else -model_output


class SoftmaxOutputTarget:
    """All probabilities."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """In the shape of the output."""
        return model_output.softmax(-1)


class RawScoresOutputTarget:
    """The output as it is."""

    def __call__(self, model_output: Tensor) -> Tensor:
        """In the shape of the output."""
        return model_output


class SemanticSegmentationTarget:
    """The sum of a category's scores over a mask.

    Args:
        category: the class.
        mask: (H, W), numbers.
    """

    def __init__(self, category: int, mask: np.ndarray[Any, Any]) -> None:
        self.category = category
        self.mask = torch.from_numpy(mask)

    def __call__(self, model_output: Tensor) -> Tensor:
        """A number for (classes, H, W)."""
        return (model_output[self.category] * self.mask.to(model_output.device)).sum()


class FasterRCNNBoxScoreTarget:
    """How well boxes are found again: for each, overlap and score of the detection that overlaps it most.

    Args:
        labels: of the boxes.
        bounding_boxes: (x1, y1, x2, y2) each, as arrays.
        iou_threshold: overlap below which, or with another label, a box counts nothing.
    """

    def __init__(self, labels: Sequence[Any], bounding_boxes: Any, iou_threshold: float = 0.5) -> None:
        self.labels, self.bounding_boxes, self.iou_threshold = labels, bounding_boxes, iou_threshold

    def __call__(self, model_outputs: Mapping[str, Tensor]) -> Tensor:
        """(1,), for one image's ``boxes``, ``labels`` and ``scores``."""
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
    """How far a class is above others, each weighted by its probability (arXiv:2501.11309).

    Args:
        main_category: the class.
        comparison_categories: the others.
        alpha: how much of the others is taken away.
    """

    def __init__(self, main_category: int, comparison_categories: Sequence[int], alpha: float) -> None:
        self.main_category, self.comparison_categories, self.alpha = main_category, comparison_categories, alpha

    def __call__(self, model_output: Tensor) -> Tensor:
        """A number for (classes,), or (N,) for (N, classes)."""
        others = list(self.comparison_categories)
        weights = model_output.softmax(-1)[..., others]
        apart = model_output[..., self.main_category, None] - self.alpha * model_output[..., others]
        return (weights * apart).sum(-1) / (weights.sum(-1) + 1e-9)


def classes_of(targets: Any) -> Any:
    """Targets as the engine takes them: class indices where all are scores of classes, for those have a closed form."""
    if not isinstance(targets, Sequence) or not targets:
        return targets
    # By name: the tool's own targets mean the same.
    if all(type(each).__name__ == "ClassifierOutputTarget" for each in targets):
        return [int(each.category) for each in targets]
    return [_Summed(each) if callable(each) else each for each in targets]


class _Summed:
    """A target whose numbers count together."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def __call__(self, output: Any) -> Tensor:
        found: Tensor = self.target(output).sum()
        return found
