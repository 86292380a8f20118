"""What the metrics share: maps of the explained classes, and their scores of other images."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fastcam import ops
from fastcam.compat.torchcam.methods._selection import class_scores, one_each, plain, target_scores
from fastcam.compat.torchcam.methods._utils import in_evaluation


class Extractor(Protocol):
    """What the metrics ask of an extractor."""

    @property
    def model(self) -> nn.Module:
        """The model."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """The maps of the last forward pass."""
        ...

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        """One map from those of all layers."""
        ...

    def _hooks_off(self) -> contextlib.AbstractContextManager[None]: ...


class Explained:
    """A batch, its maps, and the scores that they explain; images whose maps hold a NaN are left out.

    Args:
        extractor: makes the maps.
        logits_fn: from the model's output to what is scored; None for the output.
        images: (N, C, *S).
        class_idx: a class, or one per image; None for the highest of each.
        targets: a callable or one per image, in the place of classes.

    Attributes:
        images: (n, C, *S), those with a map.
        maps: (n, *S), or None where there is none.
        scores: (n,), of the images as they are.
        left_out: how many images have no map.

    Raises:
        ValueError, TypeError: with a sentence that says what was expected and what came.
    """

    def __init__(
        self, extractor: Extractor, logits_fn: Callable[[Any], Any] | None, images: Tensor, class_idx: Any, targets: Any
    ) -> None:
        if targets is not None and class_idx is not None:
            raise ValueError("the call may name either `class_idx` or `targets`, got both")
        self.extractor, self.logits_fn = extractor, logits_fn
        with torch.enable_grad():
            output = self.output(images)
            if targets is not None:
                self.chosen: list[Any] = one_each(targets, len(images))
                maps = extractor(scores=output, targets=self.chosen)
            else:
                self.chosen = _classes(output, plain(class_idx))
                maps = extractor(list(self.chosen), output)
        self.by_targets = targets is not None
        fused = extractor.fuse_cams(maps).detach()
        known = ~fused.isnan().flatten(1).any(1)
        rows = known.nonzero()[:, 0].tolist()
        self.left_out, self.images = len(images) - len(rows), images.detach()[known]
        self.scores = self.of(output, range(len(images))).detach()[known]
        self.chosen = [self.chosen[row] for row in rows]
        self.maps = _at_size(fused[known], tuple(images.shape[2:])) if rows else None

    def output(self, images: Tensor) -> Any:
        """What is scored, of other images."""
        output = self.extractor.model(images)
        return output if self.logits_fn is None else self.logits_fn(output)

    def of(self, output: Any, rows: Any) -> Tensor:
        """(M,): the scores of an output of copies, given the image of each."""
        chosen = [self.chosen[row] for row in rows]
        return target_scores(output, chosen) if self.by_targets else class_scores(output, chosen)

    def again(self, copies: Tensor, rows: Any) -> Tensor:
        """(M,): the scores of changed copies, given the image of each."""
        with self.extractor._hooks_off(), torch.no_grad():
            return self.of(self.output(copies), rows)


class Metric:
    """A mean over all images that were shown.

    Args:
        cam_extractor: an extractor.
        logits_fn: from the model's output to what is scored, as a softmax; None for the output.

    Attributes:
        total: how many images there were.
        nan_count: how many were left out, for a NaN in their map.
    """

    def __init__(self, cam_extractor: Extractor, logits_fn: Callable[[Any], Any] | None = None) -> None:
        self.cam_extractor, self.logits_fn = cam_extractor, logits_fn
        self.reset()

    def reset(self) -> None:
        """Begins anew."""
        self.total = 0
        self.nan_count = 0

    @contextlib.contextmanager
    def _explained(self, images: Tensor, class_idx: Any, targets: Any) -> Iterator[Explained]:
        """The batch, the model being in evaluation mode; counted if nothing is raised."""
        with in_evaluation(self.cam_extractor.model):
            found = Explained(self.cam_extractor, self.logits_fn, images, class_idx, targets)
            yield found
        self.total += len(found.images)
        self.nan_count += found.left_out

    def _mean(self, total: float) -> float:
        """Of all images so far.

        Raises:
            AssertionError: where there are none.
        """
        if self.total == 0:
            raise AssertionError("there is no image to summarise: call update first")
        return total / self.total


def _classes(output: Any, class_idx: Any) -> list[int]:
    """A class for every image, the highest where none is given."""
    count, known = output.shape
    if class_idx is None:
        return output.argmax(-1).tolist()
    chosen = class_idx if isinstance(class_idx, list) else [class_idx] * count
    if any(not isinstance(each, int) or (isinstance(each, bool) and chosen is class_idx) for each in chosen):
        raise TypeError(f"`class_idx` must be a whole number, a list of them or None, got {class_idx!r}")
    if len(chosen) != count:
        raise ValueError(f"`class_idx` must hold one class for each of the {count} images, got {len(chosen)}")
    if any(not 0 <= each < known for each in chosen):
        raise ValueError(f"`class_idx` must lie in [0, {known}), got {class_idx!r}")
    return chosen


def _at_size(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    if len(size) not in (1, 2, 3):
        raise ValueError(f"images must have one to three spatial axes, got {len(size)}")
    return ops.upsample_normalize(maps, size, normalize=False)
