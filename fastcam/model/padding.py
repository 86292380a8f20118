"""The share of a detector's maps that the images take, where it pads them itself."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fastcam.model import memory

_TRANSFORM = "torchvision.models.detection.transform.GeneralizedRCNNTransform"


@dataclass
class Padding:
    """What was seen of a model's own padding in one pass.

    Attributes:
        covers: for each image, the shares of every axis of the padded image that it takes, from the origin on.
    """

    covers: list[tuple[float, ...]] = field(default_factory=list)

    @property
    def cover(self) -> tuple[float, ...] | None:
        """The shares of all images, which have one size; None without padding."""
        return next((cover for cover in self.covers if min(cover) < 1), None)


@contextlib.contextmanager
def record_padding(model: nn.Module) -> Iterator[Padding]:
    """Record what torchvision's detectors add to the images behind their last rows and columns, in this thread."""
    found, thread = Padding(), threading.get_ident()

    def note(module: nn.Module, given: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        if threading.get_ident() == thread:
            padded: Sequence[int] = output[0].tensors.shape[2:]
            found.covers = [
                tuple(size / whole for size, whole in zip(sizes, padded, strict=True))
                for sizes in output[0].image_sizes
            ]

    with contextlib.ExitStack() as stack:
        for module in memory.named_alike(model, _TRANSFORM):
            stack.callback(module.register_forward_hook(note).remove)
        yield found
