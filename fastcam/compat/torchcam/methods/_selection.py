"""The selected classes or callables, and their score per image."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

OutputTarget = Callable[[Any], Tensor]
"""From the model's output of one image to its score, a tensor of one element."""

Targets = OutputTarget | list[OutputTarget]
Classes = int | list[int]
ModelOutput: TypeAlias = Tensor | list[Any]  # one entry per image; classes need a tensor (N, K, ...)


def plain_classes(class_idx: object) -> Any:
    """Convert tensors, tuples and NumPy numbers to a number or a list of numbers; return anything else unchanged."""
    if isinstance(class_idx, Tensor):
        return class_idx.tolist()
    if isinstance(class_idx, tuple):
        return list(class_idx)
    if hasattr(class_idx, "tolist") and hasattr(class_idx, "__index__"):
        return class_idx.tolist()
    return class_idx


def are_classes(class_idx: object) -> bool:
    """Whether it is a class, or a list of classes."""
    indices = class_idx if isinstance(class_idx, list) else [class_idx]
    return all(isinstance(index, int) and index >= 0 for index in indices)


def targets_per_image(targets: object, count: int) -> list[OutputTarget]:
    """Return a callable for every image.

    Raises:
        TypeError: for anything but a callable or a list of callables.
        ValueError: for a list of another length.
    """
    if callable(targets):
        return [cast(OutputTarget, targets)] * count
    if not isinstance(targets, list) or not all(callable(target) for target in targets):
        raise TypeError(f"`targets` must be a callable or a list of callables, got {_type_name(targets)}")
    if len(targets) != count:
        raise ValueError(f"`targets` must hold one callable for each of the {count} images, got {len(targets)}")
    return targets


def target_scores(output: object, targets: object) -> Tensor:
    """Return (N,), the callables' scores of the output's rows.

    Args:
        output: a tensor (N, ...), or a list of length N.
        targets: a callable, or a list of N.

    Raises:
        TypeError: for another output, or a callable that does not return a tensor.
        ValueError: for a callable that returns more than one number.
    """
    if not isinstance(output, Tensor | list):
        raise TypeError(
            f"the model's output must be a tensor or a list with one entry per image, got {_type_name(output)}"
        )
    if isinstance(output, Tensor) and output.dim() == 0:
        raise ValueError("the model's output must have an axis of images, got a tensor without axes")
    rows = list(output)
    values = [target(row) for target, row in zip(targets_per_image(targets, len(rows)), rows, strict=True)]
    for value in values:
        if not isinstance(value, Tensor):
            raise TypeError(f"each target must return a tensor, got {_type_name(value)}")
        if value.numel() != 1:
            raise ValueError(f"each target must return one number, got a tensor of shape {tuple(value.shape)}")
    return torch.stack([value.reshape(()) for value in values])


def class_scores(output: Tensor, class_idx: Classes, rows: Sequence[int] | None = None) -> Tensor:
    """Return (N, ...), the scores of one class, or of one class per image.

    Args:
        output: (N, K, ...).
        class_idx: a class, or one per image.
        rows: the image of each row, if the output is that of copies.

    Raises:
        IndexError: for a class that the model does not have.
    """
    known = output.shape[1]
    highest = max(class_idx, default=0) if isinstance(class_idx, list) else class_idx
    if highest >= known:
        raise IndexError(
            f"`class_idx` must lie in [0, {known}) for scores of shape {tuple(output.shape)}, got {highest}"
        )
    if isinstance(class_idx, int):
        return output[:, class_idx]
    classes = class_idx if rows is None else [class_idx[row] for row in rows]
    indices = torch.tensor([operator.index(index) for index in classes], device=output.device)
    return output[torch.arange(len(output), device=output.device), indices]


def _type_name(value: object) -> str:
    return type(value).__name__
