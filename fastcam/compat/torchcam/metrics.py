"""Metrics of how much a class's score depends on the regions that a map highlights."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.compat.torchcam._explained import Explained, Extractor, LogitsFunction, Metric

__all__ = ["ClassificationMetric", "DeletionInsertionMetric"]


class ClassificationMetric(Metric):
    """Average drop and increase in confidence of images multiplied by their maps (Grad-CAM++, arXiv:1710.11063).

    Args:
        cam_extractor: an extractor.
        logits_fn: from the model's output to the scored output, such as a softmax; None for the output itself.

    Attributes:
        drop: the sum of all drops, each as a share of the score.
        increase: number of scores that rose.
        total: number of images with a map.
        nan_count: number of images left out because of NaN in their map.
    """

    def reset(self) -> None:
        """Reset to no images."""
        super().reset()
        self.drop = 0.0
        self.increase = 0.0

    def _add(self, explained: Explained, maps: Tensor) -> None:
        scores, images = explained.scores, explained.images
        masked = explained.scores_of_copies(maps.unsqueeze(1) * images, range(len(images)))
        self.drop += (F.relu(scores - masked) / (scores + 1e-7)).sum().item()
        self.increase += (scores < masked).sum().item()

    def summary(self) -> dict[str, float]:
        """Return the means over all images: ``avg_drop`` and ``conf_increase``.

        Raises:
            AssertionError: if there are no images.
        """
        return {"avg_drop": self._mean(self.drop), "conf_increase": self._mean(self.increase)}


class DeletionInsertionMetric(Metric):
    """Areas under the score while positions are deleted or inserted, the highest first (RISE, arXiv:1806.07421).

    Args:
        cam_extractor: an extractor.
        logits_fn: from the model's output to the scored output, such as a softmax; None for the output itself.
        steps: maximum number of steps.
        baseline: the values of deleted positions: a tensor that broadcasts to the images, a function of them, or None
            for zeros.
        batch_size: number of changed images per model call.

    Attributes:
        deletion: the sum of the deletion areas.
        insertion: the sum of the insertion areas.
        total: number of images with a map.
        nan_count: number of images left out because of NaN in their map.

    Raises:
        TypeError, ValueError: for settings of another type or range.
    """

    def __init__(
        self,
        cam_extractor: Extractor,
        logits_fn: LogitsFunction | None = None,
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
        """Reset to no images."""
        super().reset()
        self.deletion = 0.0
        self.insertion = 0.0

    def _add(self, explained: Explained, maps: Tensor) -> None:
        with torch.no_grad():
            deletion, insertion = self._areas(explained, maps)
        self.deletion += deletion.sum().item()
        self.insertion += insertion.sum().item()

    def _areas(self, explained: Explained, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the areas (n,) under the deletion and the insertion curve."""
        order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
        ranks = order.argsort(1).reshape(maps.shape).unsqueeze(1)  # (n, 1, *S)
        baseline = explained.with_map(self._baseline(explained.given))
        positions = order.shape[1]
        step = -(-positions // self.steps)
        counts = [*range(step, positions, step), positions]

        def scores(visible: Callable[[Tensor, Tensor], Tensor], limits: list[int]) -> Tensor:
            """Return the scores (n, len(limits)) of images whose visible positions satisfy ``visible(rank, limit)``."""
            rows = torch.arange(len(ranks), device=ranks.device).repeat_interleave(len(limits))
            limit_of_row = torch.tensor(limits, device=ranks.device).repeat(len(ranks))
            parts = []
            for row, limit in zip(rows.split(self.batch_size), limit_of_row.split(self.batch_size), strict=True):
                mask = visible(ranks[row], limit.reshape(-1, *[1] * (ranks.dim() - 1)))
                parts.append(
                    explained.scores_of_copies(torch.where(mask, explained.images[row], baseline[row]), row.tolist())
                )
            return torch.cat(parts).reshape(len(ranks), len(limits))

        whole, deleted = explained.scores[:, None], scores(torch.ge, counts)
        inserted = scores(torch.lt, counts[:-1]) if counts[1:] else deleted[:, :0]
        share = torch.tensor([0, *counts], dtype=torch.float32, device=whole.device) / positions
        curves = torch.cat([whole, deleted], 1), torch.cat([deleted[:, -1:], inserted, whole], 1)
        return torch.trapezoid(curves[0], share), torch.trapezoid(curves[1], share)

    def _baseline(self, images: Tensor) -> Tensor:
        """Return the values of deleted positions, of the shape of the images."""
        if self.baseline is None:
            return torch.zeros_like(images)
        baseline = self.baseline if isinstance(self.baseline, Tensor) else self.baseline(images)
        if not isinstance(baseline, Tensor):
            raise TypeError(f"`baseline` must return a tensor, got {type(baseline).__name__}")
        try:
            return baseline.to(images).expand(images.shape)
        except RuntimeError as error:
            shapes = f"{tuple(images.shape)}, got {tuple(baseline.shape)}"
            raise ValueError(f"`baseline` must broadcast to the shape of the images, {shapes}") from error

    def summary(self) -> dict[str, float]:
        """Return the means over all images: ``deletion_auc`` and ``insertion_auc``.

        Raises:
            AssertionError: if there are no images.
        """
        return {"deletion_auc": self._mean(self.deletion), "insertion_auc": self._mean(self.insertion)}
