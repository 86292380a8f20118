"""What goes into a model: the images to explain, and what else it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


def _recordable(argument: Tensor) -> Tensor:
    """A copy of what autograd may not record: tensors made in inference mode."""
    if not argument.is_inference():
        return argument
    with torch.inference_mode(False):
        return argument.clone()


Result = TypeVar("Result")
Images = Tensor | tuple[Any, ...]  # the images, or the positional arguments of the model, the images first


@dataclass(frozen=True)
class Inputs:
    """The positional arguments of a model.

    Attributes:
        images: (N, C, *S) floating point, the argument that is explained.
        others: the remaining arguments, held as they are; tensors with N rows, also inside tuples, lists and dicts,
            belong to the images row by row.
    """

    images: Tensor
    others: tuple[Any, ...] = ()

    @classmethod
    def of(cls, given: Any) -> "Inputs":
        """From what a user gives: a tensor, or a tuple of the model's arguments with the images first.

        Raises:
            TypeError, ValueError: where the images are not a floating point tensor (N, C, ...).
        """
        if isinstance(given, tuple) and not given:
            raise ValueError("`images` must be a tensor or a tuple that begins with one, got an empty tuple")
        images, *others = tree_map_only(Tensor, _recordable, given if isinstance(given, tuple) else (given,))
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"`images` must be a floating point tensor (N, C, ...), got {kind}")
        if images.dim() < 3 or len(images) == 0:
            raise ValueError(f"`images` must have shape (N, C, ...) with at least one image, got {tuple(images.shape)}")
        return cls(images, tuple(others))

    def __len__(self) -> int:
        """N, the number of images."""
        return len(self.images)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The model's positional arguments."""
        return (self.images, *self.others)

    def in_fast_layout(self) -> "Inputs":
        """The same with the channels of pictures side by side in memory: convolutions on a processor like it better."""
        images = self.images
        if images.dim() != 4 or images.device.type != "cpu":
            return self
        return Inputs(images.contiguous(memory_format=torch.channels_last), self.others)

    def with_copies(self, copies: Tensor, rows: Tensor) -> "Inputs":
        """The same arguments for copies (M, C, *S) of the images, each of the image that ``rows`` (M,) names.

        The copies get the images' memory layout.
        """
        if _is_channels_last(self.images) and copies.dim() == 4:
            copies = copies.contiguous(memory_format=torch.channels_last)
        return Inputs(copies, tree_map_only(Tensor, lambda other: self._row_by_row(other, rows), self.others))

    def first(self) -> "Inputs":
        """The first image alone."""
        return self.repeated(1)

    def repeated(self, count: int) -> "Inputs":
        """So many images: the first ones, again and again where there are fewer."""
        rows = torch.arange(count) % len(self.images)
        return self.with_copies(self.images[rows.to(self.images.device)], rows)

    def _row_by_row(self, other: Tensor, rows: Tensor) -> Tensor:
        is_per_image = other.dim() > 0 and len(other) == len(self.images)
        return other[rows.to(other.device)] if is_per_image else other


def _is_channels_last(images: Tensor) -> bool:
    return images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


def in_fast_layout(run: Callable[[Inputs], Result], inputs: Inputs) -> Result:
    """What ``run`` returns for the inputs in the fast layout; as they are, where the model takes views of them."""
    fast = inputs.in_fast_layout()
    try:
        return run(fast)
    except RuntimeError as error:
        if fast is inputs or "view size is not compatible" not in str(error):
            raise
    return run(inputs)
