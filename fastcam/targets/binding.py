"""From what the user asks to explain to a function of the model's output: one score per image, or K."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard, cast

import numpy as np
import torch
from torch import Tensor

from fastcam.model.elements import Select, pick


@dataclass(frozen=True)
class Scores:
    """Scores (N,) or (N, K), and the classes they belong to in the same shape (None for callables)."""

    values: Tensor
    classes: Tensor | None


@dataclass(frozen=True)
class Bound:
    """A target fixed on what the model says of the images as they are, ready for the output of any copies of them.

    Attributes:
        function: from an output of M rows and (M,) int64, the image each row is a copy of, to (M,) or (M, K) scores.
        classes: class indices (N,) or (N, K) that the scores belong to, or None.
        is_logit: whether the scores are the output's own entries at ``classes``.
    """

    function: Callable[[Any, Tensor], Tensor]
    classes: Tensor | None = None
    is_logit: bool = False

    def __call__(self, output: Any, rows: Tensor) -> Tensor:
        """Scores of copies; rows says which image each is a copy of."""
        return self.function(output, rows)


class Score:
    """What can be explained: bound to a clean output once, then asked for the score of any copy.

    Attributes:
        layer: name of the layer whose output is scored, or None for the model's output.
    """

    layer: str | None = None

    def bind(self, output: Any, count: int) -> Bound:
        """Fixes what depends on the clean output, the highest class for one; ``count`` is N."""
        raise NotImplementedError


Indices = int | np.integer[Any] | Sequence[int] | Sequence[Sequence[int]] | Tensor | np.ndarray[Any, Any]
Classes = Indices | Literal["all"]
Target = Classes | Score | Callable[[Any], Tensor] | Sequence[Callable[[Any], Tensor]] | None  # see :func:`bind`


def select_output(output: Any, select: Select) -> Any:
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
        return pick(output, select)
    except (LookupError, TypeError) as error:
        raise TypeError(
            f"`select` is {select!r}, but the model's output, a {type(output).__name__}, has no such part"
        ) from error


def bind(output: Any, target: Target, count: int) -> Bound:
    """Fixes a target on the output for the images as they are.

    Args:
        output: the model's output; (N, classes) for class indices.
        target: None (the highest class of every image), a class index for all images, N indices (sequence or
            tensor), N x K indices for K targets an image, "all" for every class, a :class:`Score`, a callable from
            the output to (N,) or (N, K), or N callables, each from one image's output to a number.
        count: N.

    Raises:
        TypeError, ValueError: for a target that does not fit the output.
    """
    if isinstance(target, Score):
        return target.bind(output, count)
    if callable(target):
        return Bound(lambda out, rows: _checked(target(out), len(rows)))
    if _is_list_of_callables(target):
        if len(target) != count:
            raise ValueError(f"`target` must have one callable per image, {count}, got {len(target)}")
        return Bound(lambda out, rows: _score_apart(out, target, rows))
    return Logit(cast("Classes | None", target)).bind(output, count)


def score(output: Any, target: Target, count: int) -> Scores:
    """One score per image, or K per image; the arguments are those of :func:`bind`."""
    bound = bind(output, target, count)
    return Scores(bound(output, torch.arange(count)), bound.classes)


def bind_if_any(output: Any, target: Target, images: Tensor) -> Bound:
    """For methods that explain no class: the highest class where the output has classes, otherwise a score of 0."""
    has_classes = isinstance(output, Tensor) and output.dim() in (1, 2) and len(output) == len(images)
    if target is None and not has_classes:
        return Bound(lambda out, rows: torch.zeros(len(rows), device=images.device))
    return bind(output, target, len(images))


class Logit(Score):
    """The output's entry for a class, as it is: what class indices given as target mean.

    Args:
        classes: None for the highest, an index, N indices, N x K indices, or "all".
    """

    def __init__(self, classes: Classes | None = None) -> None:
        self.classes = classes

    def bind(self, output: Any, count: int) -> Bound:
        """Finds the classes of every image."""
        classes = class_indices(output, self.classes, count)
        return Bound(
            lambda out, rows: self.pick(self.scale(class_scores(out, len(rows))), classes, rows), classes, True
        )

    def scale(self, logits: Tensor) -> Tensor:
        """What the entries (M, classes) are turned into before one is picked."""
        return logits

    @staticmethod
    def pick(values: Tensor, classes: Tensor, rows: Tensor) -> Tensor:
        """The entries (M,) or (M, K) of (M, all) values at the classes of every row's image."""
        wanted = classes[rows.to(classes.device)]
        return values.gather(1, wanted.reshape(len(wanted), -1)).reshape(wanted.shape)


def class_scores(output: Any, count: int) -> Tensor:
    """The output as (M, classes).

    Raises:
        TypeError, ValueError: where it is anything else.
    """
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


def class_indices(output: Any, classes: Classes | None, count: int) -> Tensor:
    """(N,) or (N, K) class indices for an output (N, classes), on its device; None takes the highest.

    Raises:
        TypeError, ValueError: for indices that do not fit.
    """
    logits = class_scores(output, count)
    total = logits.shape[1]
    if classes is None:
        return logits.detach().argmax(1)
    if isinstance(classes, str):
        if classes != "all":
            raise ValueError(f'`target` must be a class index, a callable, None or "all", got {classes!r}')
        return torch.arange(total, device=logits.device).expand(count, total)
    return _whole_numbers(classes, total, count).to(device=logits.device)


def _whole_numbers(classes: Any, total: int, count: int) -> Tensor:
    try:
        indices = torch.as_tensor(classes)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"`target` must be a class index, {count} of them, {count} equally long lists of them, a callable or None, "
            f"got {classes!r}"
        ) from error
    if indices.is_floating_point() or indices.dtype == torch.bool or indices.is_complex():
        raise TypeError(f"`target` must hold whole numbers, got {indices.dtype}")
    if indices.numel() and not set(indices.unique().tolist()) <= set(range(total)):
        raise ValueError(f"`target` must lie in [0, {total}), got {indices.tolist()}")
    if indices.dim() == 0:
        indices = indices.expand(count)
    if indices.dim() > 2 or len(indices) != count or indices.numel() == 0:
        raise ValueError(
            f"`target` must be one class index, {count} of them, or {count} lists of K for K targets an image, "
            f"got shape {tuple(indices.shape)}"
        )
    # A copy: the caller's may change, or be one of inference mode, which autograd may not save.
    return indices.to(dtype=torch.int64, copy=True)


def _score_apart(output: Any, functions: Sequence[Callable[[Any], Tensor]], rows: Tensor) -> Tensor:
    if not isinstance(output, Tensor | list):  # a list: one entry per image, as detectors return it
        raise TypeError(
            f"one callable per image needs an output tensor or list, but the model returned a {type(output).__name__}; "
            "choose its part with select="
        )
    return torch.stack([_scalar(functions[row](output[i])) for i, row in enumerate(rows.tolist())])


def _is_list_of_callables(target: Target) -> TypeGuard[Sequence[Callable[[Any], Tensor]]]:
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
