"""One case of the table: a model with random weights, an input, and what of its output is explained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fastcam import targets

SEED = 0


@dataclass
class Built:
    """A model in eval mode, its input, and the target; `needs` are arguments without which it cannot be explained."""

    model: nn.Module
    images: Tensor | Mapping[str, Tensor]
    target: targets.Target = None
    needs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pixels(self) -> Tensor:
        """The explained images."""
        return self.images if isinstance(self.images, Tensor) else self.images["pixel_values"]

    def double(self) -> "Built":
        """Return the same model, changed to float64, with its inputs in float64."""

        def wide(tensor: Tensor) -> Tensor:
            return tensor.double() if tensor.is_floating_point() else tensor

        images = (
            wide(self.images)
            if isinstance(self.images, Tensor)
            else {name: wide(tensor) for name, tensor in self.images.items()}
        )
        return Built(self.model.double(), images, self.target, self.needs)


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        name: library and model, "timm/resnet10t".
        build: from the side of the image, or None for the model's own, to what is explained.
        parameters: where known before it is built.
    """

    name: str
    build: Callable[[int | None], Built]
    parameters: int | None = None

    def seeded(self, size: int | None = None) -> Built:
        """Build it; the same weights and images every time."""
        torch.manual_seed(SEED)
        built = self.build(size)
        without_zeros(built.model.eval())
        return built


def without_zeros(model: nn.Module) -> nn.Module:
    """Replace parameters that are all zero, as many are at the start of training: their maps would be zero too."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() and not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model


def most_frequent_class(logits: Tensor) -> int:
    """Return the class that is highest at most positions, so that the score is of more than nothing."""
    return int(logits.argmax(1).flatten().mode().values)
