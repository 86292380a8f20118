"""From a model's output to one score per image and target."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastcam.capture import part

Target = (
    None
    | int
    | str
    | Tensor
    | Sequence[int]
    | Sequence[Sequence[int]]
    | Callable[[Any], Tensor]
    | Sequence[Callable[[Any], Tensor]]
)


@dataclass(frozen=True)
class Scores:
    """Scores (N,) or (N, K), and the classes they belong to in the same shape (None for callables)."""

    values: Tensor
    classes: Tensor | None


def select_output(output: Any, select: Callable[[Any], Any] | int | str | None) -> Any:
    """The part of a model's output that the target looks at.

    Args:
        output: whatever the model returned.
        select: a function, an index or key, or an attribute's name; None takes the output as it is.

    Raises:
        TypeError: where the output has no such part.
    """
    if select is None:
        return output
    if callable(select):
        return select(output)
    try:
        return part(output, select)
    except (LookupError, TypeError) as error:
        raise TypeError(
            f"`select` is {select!r}, but the model's output, a {type(output).__name__}, has no such part"
        ) from error


def score(output: Any, target: Target, count: int) -> Scores:
    """One score per image, or K per image.

    Args:
        output: the model's output; (N, classes) for class indices.
        target: None (the highest class of every image), a class index for all images, N indices (sequence or
            tensor), N x K indices for K targets an image, "all" for every class, a callable from the output to (N,)
            or (N, K), or N callables, each from one image's output to a number.
        count: N.

    Raises:
        TypeError, ValueError: for a target that does not fit the output.
    """
    if callable(target):
        return Scores(_checked(target(output), count), None)
    if _is_list_of_callables(target):
        return Scores(_score_apart(output, target, count), None)
    logits = _class_scores(output, count)
    classes = _classes(logits, target)
    return Scores(logits.gather(1, classes.reshape(count, -1)).reshape(classes.shape), classes)


def score_if_any(output: Any, target: Target, images: Tensor) -> Scores:
    """For methods that explain no class: the highest class where the output has classes, otherwise a score of 0."""
    has_classes = isinstance(output, Tensor) and output.dim() in (1, 2) and len(output) == len(images)
    if target is None and not has_classes:
        return Scores(torch.zeros(len(images), device=images.device), None)
    return score(output, target, len(images))


def _score_apart(output: Any, functions: Any, count: int) -> Tensor:
    if not isinstance(output, Tensor | list):  # a list: one entry per image, as detectors return it
        raise TypeError(
            f"one callable per image needs an output tensor or list, but the model returned a {type(output).__name__}; "
            "choose its part with select="
        )
    if len(functions) != count:
        raise ValueError(f"`target` must have one callable per image, {count}, got {len(functions)}")
    return torch.stack([_scalar(function(output[i])) for i, function in enumerate(functions)])


def _is_list_of_callables(target: Target) -> bool:
    return (
        isinstance(target, Sequence) and not isinstance(target, str) and len(target) > 0 and all(map(callable, target))
    )


def _scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(f"a target callable must return one number per image, got {_describe(value)}")
    return value.reshape(())


def _checked(values: Any, count: int) -> Tensor:
    if not isinstance(values, Tensor) or values.dim() not in (1, 2) or len(values) != count or values.numel() == 0:
        raise ValueError(
            f"a target callable must return a tensor of shape ({count},) or ({count}, K), got {_describe(values)}"
        )
    return values


def _describe(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _class_scores(output: Any, count: int) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(
            "class indices need an output tensor of shape (N, classes), but the model returned a "
            f"{type(output).__name__}; choose its part with select=..., an index, a key or a function"
        )
    logits = output.unsqueeze(1) if output.dim() == 1 else output
    if logits.dim() != 2 or len(logits) != count:
        raise ValueError(
            f"class indices need an output of shape (N, classes) with N = {count}, got {tuple(output.shape)}; "
            "pass a callable from the output to (N,) scores as target"
        )
    return logits


def _classes(logits: Tensor, target: Any) -> Tensor:
    """(N,) or (N, K) class indices on the device of the logits."""
    count, classes = logits.shape
    if target is None:
        return logits.detach().argmax(1)
    if isinstance(target, str):
        if target != "all":
            raise ValueError(f'`target` must be a class index, a callable, None or "all", got {target!r}')
        return torch.arange(classes, device=logits.device).expand(count, classes)
    try:
        indices = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"`target` must be a class index, {count} of them, {count} equally long lists of them, a callable or None, "
            f"got {target!r}"
        ) from error
    if indices.is_floating_point() or indices.dtype == torch.bool or indices.is_complex():
        raise TypeError(f"`target` must hold whole numbers, got {indices.dtype}")
    if indices.numel() and not set(indices.unique().tolist()) <= set(range(classes)):
        raise ValueError(f"`target` must lie in [0, {classes}), got {indices.tolist()}")
    if indices.dim() == 0:
        indices = indices.expand(count)
    if indices.dim() > 2 or len(indices) != count or indices.numel() == 0:
        raise ValueError(
            f"`target` must be one class index, {count} of them, or {count} lists of K for K targets an image, "
            f"got shape {tuple(indices.shape)}"
        )
    # A copy: the caller's may change, or be one of inference mode, which autograd may not save.
    return indices.to(device=logits.device, dtype=torch.int64, copy=True)
