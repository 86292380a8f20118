"""Calls of an explainer that one recorded graph serves, and what they have in common."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastcam import targets
from fastcam.model.elements import ModelOutput
from fastcam.model.inputs import Inputs
from fastcam.targets.class_indices import Classes, ClassIndices, class_indices

_SCORES = (targets.Logit, targets.Probability, targets.LogProbability)  # which their classes define


@dataclass(frozen=True)
class CallKey:
    """Of what a graph depends, besides the model: calls of one key differ in the values of tensors alone."""

    shape: tuple[int, ...]
    target: str
    others: tuple[Hashable, ...]


@dataclass(frozen=True)
class Call:
    """One call of an explainer.

    Attributes:
        key: which other calls one graph serves.
        tensors: the images, and the tensors among the model's other arguments.
        score: the target without its classes.
        classes: the target's class indices; None where it has none.
    """

    key: CallKey
    inputs: Inputs
    target: targets.Target
    tensors: list[Tensor]
    score: targets.Logit
    classes: Classes | None

    @classmethod
    def of(cls, inputs: Inputs, target: targets.Target) -> "Call | None":
        """Return the call; None for a target that is a function of its own, or arguments of unknown kind."""
        score = target if isinstance(target, targets.Logit) and type(target) in _SCORES else targets.Logit()
        classes = score.classes if score is target else target
        if isinstance(classes, targets.Score) or not _are_classes(classes):
            return None
        name = _form(classes)
        leaves, structure = tree_flatten((inputs.images, inputs.others))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        plain = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        if name is None or not all(isinstance(leaf, str | int | float | None) for leaf in plain):
            return None
        layouts = [(leaf.shape, leaf.stride(), leaf.dtype, leaf.device) for leaf in tensors]
        places = (inputs.position, inputs.shared, inputs.channel_axis, str(structure), *plain)
        others = (*layouts, *places, type(score), _numerics(inputs.images.device))
        key = CallKey(tuple(inputs.images.shape), name, others)
        return cls(key, inputs, target, tensors, score, classes if "indices" in name else None)

    def indices(self, output: ModelOutput) -> ClassIndices | None:
        """Return the class indices for an output (N, classes); None for a target without any."""
        return None if self.classes is None else class_indices(output, self.classes, len(self.inputs))

    def with_tensors(self, tensors: list[Tensor]) -> Inputs:
        """Return the inputs with other tensors in the places of the call's."""
        leaves, structure = tree_flatten((self.inputs.images, self.inputs.others))
        given = iter(tensors)
        images, others = tree_unflatten(
            [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure
        )
        return replace(self.inputs, images=images, others=others)


def _are_classes(target: targets.Target) -> TypeGuard[Classes | None]:
    return not callable(target) and not (isinstance(target, list | tuple) and any(map(callable, target)))


def _form(classes: Classes | None) -> str | None:
    """Return the form of class indices, one for all images as one for each; None for what is none."""
    if classes is None or isinstance(classes, str):
        return classes or "highest"
    try:
        shape = tuple(classes.shape) if isinstance(classes, Tensor) else np.shape(classes)
    except ValueError:  # lists of several lengths
        return None
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
