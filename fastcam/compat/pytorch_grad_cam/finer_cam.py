"""Finer-CAM: what tells a class from those most like it."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam.base_cam import Array, BaseCAM
from fastcam.compat.pytorch_grad_cam.cams import GradCAM
from fastcam.compat.pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
from fastcam.targets.binding import Bound, Score

_COMPARED = (1, 2, 3)  # the places of the compared classes, in the order of likeness


class FinerCAM:
    """Finer-CAM (arXiv:2501.11309).

    Args:
        model: any module.
        target_layers: modules.
        reshape_transform: from what a layer returns to (N, C, *s).
        base_method: the class that makes the maps.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        base_method: Callable[..., BaseCAM] = GradCAM,
    ) -> None:
        self.base_cam = base_method(model, target_layers, reshape_transform)
        self.compute_input_gradient = self.base_cam.compute_input_gradient
        self.uses_gradients = self.base_cam.uses_gradients

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """As :meth:`forward`."""
        return self.forward(*args, **kwargs)

    def forward(
        self,
        input_tensor: Tensor,
        targets: Any = None,
        eigen_smooth: bool = False,
        alpha: float = 1,
        comparison_categories: Sequence[int] | None = None,
        target_idx: int | None = None,
    ) -> Array:
        """Maps of a batch.

        Args:
            input_tensor: (N, C, *S).
            targets: N callables; None compares a class with those of the nearest scores.
            eigen_smooth: as for the class that makes the maps.
            alpha: how much of the other classes is taken away.
            comparison_categories: places of the compared classes in the order of likeness; None takes 1, 2 and 3.
            target_idx: the class; None for the highest.

        Returns:
            (N, *S), float32, in [0, 1].
        """
        asked = _Nearest(alpha, comparison_categories, target_idx) if targets is None else targets
        return self.base_cam.forward(input_tensor, asked, eigen_smooth)

    def __enter__(self) -> Self:
        """The object itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Nothing to undo."""


class _Nearest(Score):
    """A class of every image compared with those of the nearest scores, found in the pass that explains."""

    def __init__(self, alpha: float, places: Sequence[int] | None, category: int | None) -> None:
        self.alpha, self.places, self.category = alpha, places, category

    def bind(self, output: Any, count: int) -> Bound:
        """Finds the classes of every image."""
        scores = output.detach().float().cpu().numpy()
        known = scores.shape[-1]
        places = _COMPARED if self.places is None else self.places
        reference = scores.max(-1) if self.category is None else scores[:, self.category]
        order = np.argsort(np.abs(scores - reference[:, None]), axis=-1)
        targets = [
            FinerWeightedTarget(int(each[0]), [int(each[place]) for place in places if place < known], self.alpha)
            for each in order
        ]

        def compared(out: Any, rows: Tensor) -> Tensor:
            return torch.stack([targets[row](out[index]) for index, row in enumerate(rows.tolist())])

        return Bound(compared)
