"""The inputs of a model: the images to explain, and its other arguments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


def _recordable(argument: Tensor) -> Tensor:
    """Return the tensor, copied if it was made in inference mode, which autograd cannot record."""
    if not argument.is_inference():
        return argument
    with torch.inference_mode(False):
        return argument.clone()


Result = TypeVar("Result")
Images = Tensor | tuple[object, ...]  # the images, or the positional arguments of the model, the images first


@dataclass(frozen=True)
class Inputs:
    """The positional arguments of a model.

    Attributes:
        images: (N, C, *S) floating point, the explained argument.
        others: the remaining arguments; tensors with N rows, also inside tuples, lists and dicts, have one row per
            image.
    """

    images: Tensor
    others: tuple[object, ...] = ()

    @classmethod
    def of(cls, arguments: Images) -> "Inputs":
        """Return the inputs for a tensor, or for a tuple of the model's arguments with the images first.

        Raises:
            TypeError, ValueError: if the images are not a floating point tensor (N, C, ...).
        """
        if isinstance(arguments, tuple) and not arguments:
            raise ValueError("`images` must be a tensor or a tuple that begins with one, got an empty tuple")
        images, *others = tree_map_only(
            Tensor, _recordable, arguments if isinstance(arguments, tuple) else (arguments,)
        )
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
        """Return the inputs with images in channels_last on the CPU, whose convolutions are faster on it."""
        images = self.images
        if images.dim() != 4 or images.device.type != "cpu":
            return self
        return Inputs(images.contiguous(memory_format=torch.channels_last), self.others)

    def with_copies(self, copies: Tensor, rows: Tensor) -> "Inputs":
        """Return the arguments for copies (M, C, *S) of the images; ``rows`` (M,) holds the image of each copy.

        The copies get the images' memory layout.
        """
        if _is_channels_last(self.images) and copies.dim() == 4:
            copies = copies.contiguous(memory_format=torch.channels_last)
        return Inputs(copies, tree_map_only(Tensor, lambda other: self._index_rows(other, rows), self.others))

    def first(self) -> "Inputs":
        """Return the inputs for the first image alone."""
        return self.repeat_to(1)

    def repeat_to(self, count: int) -> "Inputs":
        """Return the inputs for ``count`` images: the first ones, repeated if there are fewer."""
        rows = torch.arange(count) % len(self.images)
        return self.with_copies(self.images[rows.to(self.images.device)], rows)

    def _index_rows(self, other: Tensor, rows: Tensor) -> Tensor:
        is_per_image = other.dim() > 0 and len(other) == len(self.images)
        return other[rows.to(other.device)] if is_per_image else other


def _is_channels_last(images: Tensor) -> bool:
    return images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


def in_fast_layout(run: Callable[[Inputs], Result], inputs: Inputs) -> Result:
    """Return the result of ``run`` in the fast layout; in the original one if the model's views need that."""
    fast = inputs.in_fast_layout()
    try:
        return run(fast)
    except RuntimeError as error:
        if fast is inputs or "view size is not compatible" not in str(error):
            raise
    return run(inputs)
