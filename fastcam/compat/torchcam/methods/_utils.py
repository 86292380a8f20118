"""The search for the target layer, and a context with the model in evaluation mode."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastcam.model.capture import observe

__all__ = ["locate_candidate_layer", "locate_linear_layer"]


def locate_candidate_layer(mod: nn.Module, input_shape: tuple[int, ...] = (3, 224, 224)) -> str | None:
    """Return the name of the last module whose output has more than one position.

    Args:
        mod: the model.
        input_shape: (C, *S) of the zero image that the model runs on.

    Returns:
        The name; None if there is no such module.
    """
    with in_evaluation(mod):
        outputs = observe(mod, _zeros(mod, input_shape)).outputs
    for output in reversed(outputs):
        shape = output.tensor.shape
        if len(shape) == len(input_shape) + 1 and any(length != 1 for length in shape[2:]):
            return output.name
    return None


def locate_linear_layer(mod: nn.Module) -> str | None:
    """Return the name of the first linear layer; None for a model without one."""
    return next((name for name, module in mod.named_modules() if isinstance(module, nn.Linear)), None)


def _zeros(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return a zero image on the model's device, in its dtype."""
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), torch.empty(0))
    return like.detach().new_zeros((1, *shape))


@contextlib.contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode within the context; a model already in it is not touched."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
