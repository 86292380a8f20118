"""From what the caller asks for, classes or callables, to one score per image."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

OutputTarget = Callable[[Any], Tensor]
"""From the model's output of one image to its score, a tensor of one element."""

Targets = OutputTarget | list[OutputTarget]
Classes = int | list[int]


def plain(class_idx: Any) -> Any:
    """Tensors, tuples and NumPy's numbers as a number or a list of numbers; everything else as it is."""
    if isinstance(class_idx, Tensor):
        return class_idx.tolist()
    if isinstance(class_idx, tuple):
        return list(class_idx)
    if hasattr(class_idx, "tolist") and hasattr(class_idx, "__index__"):
        return class_idx.tolist()
    return class_idx


def are_classes(class_idx: Any) -> bool:
    """Whether it is a class, or a list of classes."""
    each = class_idx if isinstance(class_idx, list) else [class_idx]
    return all(isinstance(index, int) and index >= 0 for index in each)


def one_each(targets: Any, count: int) -> list[OutputTarget]:
    """A callable for every image.

    Raises:
        TypeError: where it is neither a callable nor a list of callables.
        ValueError: where the list has another length.
    """
    if callable(targets):
        return [cast(OutputTarget, targets)] * count
    if not isinstance(targets, list) or not all(callable(each) for each in targets):
        raise TypeError(f"`targets` must be a callable or a list of callables, got {_kind(targets)}")
    if len(targets) != count:
        raise ValueError(f"`targets` must hold one callable for each of the {count} images, got {len(targets)}")
    return targets


def target_scores(output: Any, targets: Any) -> Tensor:
    """(N,): what the callables say of the output's rows.

    Args:
        output: a tensor (N, ...), or a list of N anything.
        targets: a callable, or a list of N.

    Raises:
        TypeError: where the output is neither, or a callable does not return a tensor.
        ValueError: where a callable returns more than one number.
    """
    if not isinstance(output, Tensor | list):
        raise TypeError(f"the model's output must be a tensor or a list with one entry an image, got {_kind(output)}")
    if isinstance(output, Tensor) and output.dim() == 0:
        raise ValueError("the model's output must have an axis of images, got a tensor without axes")
    rows = list(output)
    values = [target(row) for target, row in zip(one_each(targets, len(rows)), rows, strict=True)]
    for value in values:
        if not isinstance(value, Tensor):
            raise TypeError(f"each target must return a tensor, got {_kind(value)}")
        if value.numel() != 1:
            raise ValueError(f"each target must return one number, got a tensor of shape {tuple(value.shape)}")
    return torch.stack([value.reshape(()) for value in values])


def class_scores(output: Tensor, class_idx: Classes, rows: Sequence[int] | None = None) -> Tensor:
    """(N, ...): the scores of one class, or of every image's own.

    Args:
        output: (N, K, ...).
        class_idx: a class, or one per image.
        rows: where the output is of copies, the image of each of them.

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
    chosen = class_idx if rows is None else [class_idx[row] for row in rows]
    indices = torch.tensor([operator.index(each) for each in chosen], device=output.device)
    return output[torch.arange(len(output), device=output.device), indices]


def _kind(value: Any) -> str:
    return type(value).__name__
