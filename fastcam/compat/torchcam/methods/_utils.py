"""Which layer to look at, found by running the model once; and the model in evaluation mode for a while."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastcam.model.capture import observe

__all__ = ["locate_candidate_layer", "locate_linear_layer"]


def locate_candidate_layer(mod: nn.Module, input_shape: tuple[int, ...] = (3, 224, 224)) -> str | None:
    """The name of the last module that returns a map of more than one position.

    Args:
        mod: the model.
        input_shape: (C, *S), of the image of zeros that it is run with.

    Returns:
        The name; None where no module returns such a map.
    """
    with in_evaluation(mod):
        seen = observe(mod, _zeros(mod, input_shape))
    for name, _, output in reversed(seen):
        if output.dim() == len(input_shape) + 1 and any(length != 1 for length in output.shape[2:]):
            return name
    return None


def locate_linear_layer(mod: nn.Module) -> str | None:
    """The name of the first linear layer; None for a model without one."""
    return next((name for name, module in mod.named_modules() if isinstance(module, nn.Linear)), None)


def _zeros(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """An image of zeros where the model is, of its dtype."""
    like = next((each for each in model.parameters() if each.is_floating_point()), torch.empty(0))
    return like.detach().new_zeros((1, *shape))


@contextlib.contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and afterwards as it was; one that is in it is not touched."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
