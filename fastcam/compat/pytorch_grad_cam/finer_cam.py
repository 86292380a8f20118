"""Finer-CAM: maps of the difference between a class and the most similar ones."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam._types import Array, ReshapeTransform, Targets
from fastcam.compat.pytorch_grad_cam.base_cam import BaseCAM
from fastcam.compat.pytorch_grad_cam.cams import GradCAM
from fastcam.compat.pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
from fastcam.targets.binding import Bound, Score

DEFAULT_COMPARISON_CATEGORIES = (1, 2, 3)  # ranks of the compared classes by similarity


class FinerCAM:
    """Finer-CAM (arXiv:2501.11309).

    Args:
        model: any module.
        target_layers: modules.
        reshape_transform: from the output of a layer to (N, C, *s).
        base_method: the class that makes the maps.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: ReshapeTransform | None = None,
        base_method: Callable[..., BaseCAM] = GradCAM,
    ) -> None:
        self.base_cam = base_method(model, target_layers, reshape_transform)
        self.compute_input_gradient = self.base_cam.compute_input_gradient
        self.uses_gradients = self.base_cam.uses_gradients

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Call :meth:`forward`."""
        return self.forward(*args, **kwargs)

    def forward(
        self,
        input_tensor: Tensor,
        targets: Targets | None = None,
        eigen_smooth: bool = False,
        alpha: float = 1,
        comparison_categories: Sequence[int] | None = None,
        target_idx: int | None = None,
    ) -> Array:
        """Return the maps of a batch.

        Args:
            input_tensor: (N, C, *S).
            targets: N callables; None compares a class with those of the nearest scores.
            eigen_smooth: passed to ``base_method``.
            alpha: weight of the other classes.
            comparison_categories: ranks of the compared classes by similarity; None for 1, 2 and 3.
            target_idx: the class; None for the highest.

        Returns:
            (N, *S), float32, in [0, 1].
        """
        target = _NearestClasses(alpha, comparison_categories, target_idx) if targets is None else targets
        return self.base_cam.forward(input_tensor, target, eigen_smooth)

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Do nothing."""


class _NearestClasses(Score):
    """The margin of a class over those of the nearest scores, selected in the explained forward pass."""

    def __init__(self, alpha: float, ranks: Sequence[int] | None, category: int | None) -> None:
        self.alpha, self.ranks, self.category = alpha, ranks, category

    def bind(self, output: Any, count: int) -> Bound:
        """Select the classes of every image."""
        scores = output.detach().float().cpu().numpy()
        class_count = scores.shape[-1]
        ranks = DEFAULT_COMPARISON_CATEGORIES if self.ranks is None else self.ranks
        reference = scores.max(-1) if self.category is None else scores[:, self.category]
        order = np.argsort(np.abs(scores - reference[:, None]), axis=-1)
        targets = [
            FinerWeightedTarget(
                int(classes[0]), [int(classes[rank]) for rank in ranks if rank < class_count], self.alpha
            )
            for classes in order
        ]

        def scores_of_rows(out: Any, rows: Tensor) -> Tensor:
            return torch.stack([targets[row](out[index]) for index, row in enumerate(rows.tolist())])

        return Bound(scores_of_rows)
