"""What calls that share a recorded graph have in common: the form of their tensors and targets."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastcam import targets
from fastcam.model.inputs import Inputs

SCORES = (targets.Logit, targets.Probability, targets.LogProbability)  # which their classes define
TOLERANCE = 1e-2  # of maps in [0, 1], and relative for scores: libraries may choose other algorithms for a graph


@dataclass(frozen=True)
class CallKey:
    """Of what a graph depends, besides the model: calls of one key differ in the values of tensors alone."""

    work: str
    shape: tuple[int, ...]
    target: str
    others: tuple[Hashable, ...]


def is_close(one: Tensor, other: Tensor) -> bool:
    """Whether numbers of about one are the same, up to another choice of algorithms."""
    return torch.allclose(one, other, TOLERANCE, TOLERANCE, equal_nan=True)


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """Return the images, and the tensors among the other arguments."""
    return [leaf for leaf in tree_flatten((inputs.images, inputs.others))[0] if isinstance(leaf, Tensor)]


def with_tensors(inputs: Inputs, tensors: Sequence[Tensor]) -> Inputs:
    """Return the inputs with other tensors in the places of :func:`tensors_of`."""
    leaves, structure = tree_flatten((inputs.images, inputs.others))
    given = iter(tensors)
    images, others = tree_unflatten([next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)
    return replace(inputs, images=images, others=others)


def layouts_of(inputs: Inputs) -> tuple[Hashable, ...] | None:
    """Return what calls with tensors of the same form have in common; None for arguments of unknown kind."""
    leaves, structure = tree_flatten((inputs.images, inputs.others))
    plain = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
    if not all(isinstance(leaf, str | int | float | None) for leaf in plain):
        return None
    layouts = [(leaf.shape, leaf.stride(), leaf.dtype, leaf.device) for leaf in leaves if isinstance(leaf, Tensor)]
    places = (inputs.position, inputs.shared, inputs.several, inputs.channel_axis, str(structure), *plain)
    return (*layouts, *places, _numerics(inputs.images.device))


def form_of_indices(shape: tuple[int, ...]) -> str:
    """Return the form of class indices of a shape, as reports name it."""
    return f"indices (N, {shape[1]})" if len(shape) > 1 else "indices (N,)"


def _numerics(device: torch.device) -> tuple[Hashable, ...]:
    """Return the modes that decide which kernels PyTorch calls."""
    return (
        torch.is_autocast_enabled(device.type),
        torch.get_autocast_dtype(device.type),
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
    )
