"""The base of the metrics: maps of the explained classes, and the scores of changed images."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn

from fastcam import ops
from fastcam.compat.torchcam.methods._selection import (
    Classes,
    ModelOutput,
    OutputTarget,
    Targets,
    class_scores,
    plain_classes,
    target_scores,
    targets_per_image,
)
from fastcam.compat.torchcam.methods._utils import in_evaluation

LogitsFunction: TypeAlias = Callable[[Any], ModelOutput]  # from the model's output to the scored output


class Extractor(Protocol):
    """The part of an extractor that the metrics use."""

    @property
    def model(self) -> nn.Module:
        """The model."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Return the maps of the last forward pass."""
        ...

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        """Fuse the maps of all layers."""
        ...

    def _hooks_off(self) -> contextlib.AbstractContextManager[None]: ...


class Explained:
    """A batch, its maps, and the explained scores, without images whose maps contain NaN.

    Args:
        extractor: makes the maps.
        logits_fn: from the model's output to the scored output; None for the output itself.
        images: (N, C, *S).
        class_idx: a class, or one per image; None for the highest of each.
        targets: a callable or one per image, instead of classes.

    Attributes:
        given: (N, C, *S), all images.
        images: (n, C, *S), those with a map.
        maps: (n, *S), or None if no image has one.
        scores: (n,), of the unchanged images.
        nan_count: number of images without a map.

    Raises:
        ValueError, TypeError: for arguments that do not fit the model or the images.
    """

    def __init__(
        self,
        extractor: Extractor,
        logits_fn: LogitsFunction | None,
        images: Tensor,
        class_idx: Classes | None,
        targets: Targets | None,
    ) -> None:
        if targets is not None and class_idx is not None:
            raise ValueError("the call may name either `class_idx` or `targets`, got both")
        self.extractor, self.logits_fn = extractor, logits_fn
        self.classes: list[int] = []
        self.targets: list[OutputTarget] = []
        self.by_targets = targets is not None
        with torch.enable_grad():
            output = self.output(images)
            if self.by_targets:
                self.targets = targets_per_image(targets, len(images))
                maps = extractor(scores=output, targets=self.targets)
            else:
                class_idx = plain_classes(class_idx)
                self.classes = _classes(cast(Tensor, output), class_idx)
                maps = extractor(class_idx if isinstance(class_idx, int) else list(self.classes), output)
        fused = extractor.fuse_cams(maps).detach()
        has_map = ~fused.isnan().flatten(1).any(1)
        rows = has_map.nonzero()[:, 0].tolist()
        self.has_map, self.given = has_map, images.detach()
        self.nan_count, self.images = len(images) - len(rows), self.with_map(self.given)
        self.scores = self._scores(output, range(len(images))).detach()[has_map]
        if self.by_targets:
            self.targets = [self.targets[row] for row in rows]
        else:
            self.classes = [self.classes[row] for row in rows]
        self.maps = _at_size(fused[has_map], tuple(images.shape[2:])) if rows else None

    def with_map(self, values: Tensor) -> Tensor:
        """Return the rows (n, ...), of values (N, ...), of the images with a map."""
        return values[self.has_map]

    def output(self, images: Tensor) -> ModelOutput:
        """Return the scored output for images."""
        output = self.extractor.model(images)
        return output if self.logits_fn is None else self.logits_fn(output)

    def _scores(self, output: ModelOutput, rows: Iterable[int]) -> Tensor:
        """Return (M,), the scores in the output of copies, given the index of the image of each."""
        if self.by_targets:
            return target_scores(output, [self.targets[row] for row in rows])
        return class_scores(cast(Tensor, output), [self.classes[row] for row in rows])

    def scores_of_copies(self, copies: Tensor, rows: Iterable[int]) -> Tensor:
        """Return (M,), the scores of changed copies, given the index of the image of each."""
        with self.extractor._hooks_off(), torch.no_grad():
            return self._scores(self.output(copies), rows)


class Metric:
    """A mean over all images of the updates.

    Args:
        cam_extractor: an extractor.
        logits_fn: from the model's output to the scored output, such as a softmax; None for the output itself.

    Attributes:
        total: number of images with a map.
        nan_count: number of images left out because of NaN in their map.
    """

    def __init__(self, cam_extractor: Extractor, logits_fn: LogitsFunction | None = None) -> None:
        self.cam_extractor, self.logits_fn = cam_extractor, logits_fn
        self.reset()

    def reset(self) -> None:
        """Reset to no images."""
        self.total = 0
        self.nan_count = 0

    def update(self, input_tensor: Tensor, class_idx: Classes | None = None, *, targets: Targets | None = None) -> None:
        """Add a batch.

        Args:
            input_tensor: (N, C, *S).
            class_idx: a class, or one per image; None for the highest of each.
            targets: a callable from an image's output to its score, or one per image, instead of classes.

        Raises:
            ValueError, TypeError: for arguments that do not fit the model or the images.
        """
        with in_evaluation(self.cam_extractor.model):
            explained = Explained(self.cam_extractor, self.logits_fn, input_tensor, class_idx, targets)
            if explained.maps is not None:
                self._add(explained, explained.maps)
        self.total += len(explained.images)
        self.nan_count += explained.nan_count

    def _add(self, explained: Explained, maps: Tensor) -> None:
        """Add the values of a batch with maps (n, *S)."""
        raise NotImplementedError(f"{type(self).__name__} must define _add")

    def _mean(self, total: float) -> float:
        """Return the mean over all images so far.

        Raises:
            AssertionError: if there are none.
        """
        if self.total == 0:
            raise AssertionError("there is no image to summarise: call update first")
        return total / self.total


def _classes(output: Tensor, class_idx: Classes | None) -> list[int]:
    """Return a class for every image, by default the highest."""
    count, class_count = output.shape
    if class_idx is None:
        return output.argmax(-1).tolist()
    classes = class_idx if isinstance(class_idx, list) else [class_idx] * count
    if any(not isinstance(index, int) or (isinstance(index, bool) and classes is class_idx) for index in classes):
        raise TypeError(f"`class_idx` must be a whole number, a list of them or None, got {class_idx!r}")
    if len(classes) != count:
        raise ValueError(f"`class_idx` must hold one class for each of the {count} images, got {len(classes)}")
    if any(not 0 <= index < class_count for index in classes):
        raise ValueError(f"`class_idx` must lie in [0, {class_count}), got {class_idx!r}")
    return classes


def _at_size(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    if len(size) not in (1, 2, 3):
        raise ValueError(f"images must have one to three spatial axes, got {len(size)}")
    return ops.upsample_normalize(maps, size, normalize=False)
