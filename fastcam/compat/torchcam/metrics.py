"""How much of a class's score depends on what a map shows."""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.compat.torchcam._scores import Explained, Extractor, Metric
from fastcam.compat.torchcam.methods._selection import Classes, Targets

__all__ = ["ClassificationMetric", "DeletionInsertionMetric"]


class ClassificationMetric(Metric):
    """Average drop and increase in confidence of images multiplied by their maps (Grad-CAM++, arXiv:1710.11063).

    Args:
        cam_extractor: an extractor.
        logits_fn: from the model's output to what is scored, as a softmax; None for the output.

    Attributes:
        drop: the sum of all drops, each as a share of the score.
        increase: how many scores rose.
        total: how many images there were.
        nan_count: how many were left out, for a NaN in their map.
    """

    def reset(self) -> None:
        """Begins anew."""
        super().reset()
        self.drop = 0.0
        self.increase = 0.0

    def update(self, input_tensor: Tensor, class_idx: Classes | None = None, *, targets: Targets | None = None) -> None:
        """Adds a batch.

        Args:
            input_tensor: (N, C, *S).
            class_idx: a class, or one per image; None for the highest of each.
            targets: a callable from an image's output to its score, or one per image, in the place of classes.

        Raises:
            ValueError, TypeError: with a sentence that says what was expected and what came.
        """
        with self._explained(input_tensor, class_idx, targets) as found:
            if found.maps is None:
                return
            masked = found.again(found.maps.unsqueeze(1) * found.images, range(len(found.images)))
        self.drop += (F.relu(found.scores - masked) / (found.scores + 1e-7)).sum().item()
        self.increase += (found.scores < masked).sum().item()

    def summary(self) -> dict[str, float]:
        """The means over all images: ``avg_drop`` and ``conf_increase``.

        Raises:
            AssertionError: where there are no images.
        """
        return {"avg_drop": self._mean(self.drop), "conf_increase": self._mean(self.increase)}


class DeletionInsertionMetric(Metric):
    """Areas under the score while positions are deleted or inserted, the highest first (RISE, arXiv:1806.07421).

    Args:
        cam_extractor: an extractor.
        logits_fn: from the model's output to what is scored, as a softmax; None for the output.
        steps: into how many parts the positions are divided, at most.
        baseline: what deleted positions hold: a tensor that broadcasts to the images, a function of them, or None
            for zeros.
        batch_size: how many changed images the model gets at a time.

    Attributes:
        deletion: the sum of the areas.
        insertion: the sum of the areas.
        total: how many images there were.
        nan_count: how many were left out, for a NaN in their map.

    Raises:
        TypeError, ValueError: with a sentence that says what was expected and what came.
    """

    def __init__(
        self,
        cam_extractor: Extractor,
        logits_fn: Callable[[Any], Any] | None = None,
        *,
        steps: int = 20,
        baseline: Tensor | Callable[[Tensor], Tensor] | None = None,
        batch_size: int = 32,
    ) -> None:
        for name, value in (("steps", steps), ("batch_size", batch_size)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"`{name}` must be a whole number, got {type(value).__name__}")
            if value <= 0:
                raise ValueError(f"`{name}` must be positive, got {value}")
        if baseline is not None and not isinstance(baseline, Tensor) and not callable(baseline):
            raise TypeError(f"`baseline` must be a tensor, a function or None, got {type(baseline).__name__}")
        self.steps, self.baseline, self.batch_size = steps, baseline, batch_size
        super().__init__(cam_extractor, logits_fn)

    def reset(self) -> None:
        """Begins anew."""
        super().reset()
        self.deletion = 0.0
        self.insertion = 0.0

    def update(self, input_tensor: Tensor, class_idx: Classes | None = None, *, targets: Targets | None = None) -> None:
        """Adds a batch.

        Args:
            input_tensor: (N, C, *S).
            class_idx: a class, or one per image; None for the highest of each.
            targets: a callable from an image's output to its score, or one per image, in the place of classes.

        Raises:
            ValueError, TypeError: with a sentence that says what was expected and what came.
        """
        with self._explained(input_tensor, class_idx, targets) as found, torch.no_grad():
            if found.maps is None:
                return
            deletion, insertion = self._areas(found)
        self.deletion += deletion.sum().item()
        self.insertion += insertion.sum().item()

    def _areas(self, found: Explained) -> tuple[Tensor, Tensor]:
        """(n,) under the curves of deletion and of insertion."""
        maps = cast(Tensor, found.maps)
        order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
        ranks = order.argsort(1).reshape(maps.shape).unsqueeze(1)  # (n, 1, *S)
        baseline = self._baseline(found.images)
        positions = order.shape[1]
        step = -(-positions // self.steps)
        counts = [*range(step, positions, step), positions]

        def scores(kept: Callable[[Tensor, Tensor], Tensor], tried: list[int]) -> Tensor:
            """(n, len(tried)): of images of which only such positions are kept."""
            rows = torch.arange(len(ranks), device=ranks.device).repeat_interleave(len(tried))
            limits = torch.tensor(tried, device=ranks.device).repeat(len(ranks))
            parts = []
            for row, limit in zip(rows.split(self.batch_size), limits.split(self.batch_size), strict=True):
                chosen = kept(ranks[row], limit.reshape(-1, *[1] * (ranks.dim() - 1)))
                parts.append(found.again(torch.where(chosen, found.images[row], baseline[row]), row.tolist()))
            return torch.cat(parts).reshape(len(ranks), len(tried)) if parts else found.scores.new_empty(len(ranks), 0)

        whole, deleted = found.scores[:, None], scores(torch.ge, counts)
        inserted = scores(torch.lt, counts[:-1])
        share = torch.tensor([0, *counts], dtype=torch.float32, device=whole.device) / positions
        curves = torch.cat([whole, deleted], 1), torch.cat([deleted[:, -1:], inserted, whole], 1)
        return torch.trapezoid(curves[0], share), torch.trapezoid(curves[1], share)

    def _baseline(self, images: Tensor) -> Tensor:
        """(n, C, *S)."""
        if self.baseline is None:
            return torch.zeros_like(images)
        given = self.baseline if isinstance(self.baseline, Tensor) else self.baseline(images)
        if not isinstance(given, Tensor):
            raise TypeError(f"`baseline` must return a tensor, got {type(given).__name__}")
        try:
            return given.to(images).expand(images.shape)
        except RuntimeError as error:
            shapes = f"{tuple(images.shape)}, got {tuple(given.shape)}"
            raise ValueError(f"`baseline` must broadcast to the shape of the images, {shapes}") from error

    def summary(self) -> dict[str, float]:
        """The means over all images: ``deletion_auc`` and ``insertion_auc``.

        Raises:
            AssertionError: where there are no images.
        """
        return {"deletion_auc": self._mean(self.deletion), "insertion_auc": self._mean(self.insertion)}
