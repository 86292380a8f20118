"""Binds a target to the model's output: a function that returns one score per image, or K."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard, cast

import torch
from torch import Tensor

from fastcam.devices import all_rows
from fastcam.model.elements import ModelOutput, Select, pick
from fastcam.targets.class_indices import Classes, ClassIndices, class_indices, class_scores


@dataclass(frozen=True)
class Scores:
    """Scores (N,) or (N, K), and the classes they belong to in the same shape (None for callables)."""

    values: Tensor
    classes: Tensor | None


@dataclass(frozen=True)
class Bound:
    """A target bound to the model's output for the unchanged images; scores the output of any copies of them.

    Attributes:
        function: from an output of M rows, and (M,) int64 on the CPU with the image of each row, to (M,) or (M, K)
            scores.
        indices: the classes of the scores, or None.
        is_logit: whether the scores are entries of the output, at ``classes``.
        is_empty: (N,) bool, where there is nothing to score, such as no pixel of a class; None if there always is.
        remarks: what was done to make the target fit the output.
        shown: the classes (N, [K]) to report of scores that are no entries of the output, -1 for none; None otherwise.
        is_found: (N, [K]) bool, where there is such a target: an image can have fewer detections than another; None if
            there always is.
        details: what is known of the targets, tensors with N rows by name.
        score: what the classes are scored by, where ``indices`` are all that the function takes of the images.
    """

    function: Callable[[ModelOutput, Tensor], Tensor]
    indices: ClassIndices | None = None
    is_logit: bool = False
    is_empty: Tensor | None = None
    remarks: tuple[str, ...] = ()
    shown: Tensor | None = None
    is_found: Tensor | None = None
    details: Mapping[str, Tensor] = field(default_factory=dict)
    score: "Logit | None" = None

    @property
    def classes(self) -> Tensor | None:
        """Class indices (N,) or (N, K) that the output has, or None."""
        return None if self.indices is None else self.indices.values

    @property
    def targets(self) -> Tensor | None:
        """Class indices (N,) or (N, K), -1 for what is no class, or None."""
        return self.shown if self.indices is None else self.indices.shown

    @property
    def is_unknown(self) -> Tensor | None:
        """Where a target is no class, in the shape of the scores; None where all are known to be."""
        return None if self.indices is None else self.indices.is_unknown

    def check_classes(self) -> None:
        """Raise for targets that are no class; on a GPU the host waits for them."""
        if self.indices is not None and self.indices.is_unknown is not None and bool(self.indices.is_unknown.any()):
            shown = self.indices.shown.tolist()
            raise ValueError(f"`target` holds indices that are no class of the model's output, -1 in {shown}")

    def __call__(self, output: ModelOutput, rows: Tensor) -> Tensor:
        """Return the scores of copies; ``rows`` holds the image of each copy."""
        return self.function(output, rows)

    def for_copies(self, rows: Tensor) -> "Bound":
        """Return the target bound to copies in place of the images; ``rows`` (M,) holds the image of each."""
        if self.score is not None and self.indices is not None:
            return self.score.bind_to(self.indices.take(rows))
        return Bound(lambda output, copies: self.function(output, rows[copies]))


class Score:
    """A score to explain: bound once to the output for the unchanged images, then computed for any copies.

    Attributes:
        layer: name of the layer whose output is scored, or None for the model's output.
        reads_whole_output: whether the score reads several parts of the model's output; otherwise it gets the part
            with the logits.
        reads_input: whether the score gets :class:`.WithInput`, the output and the images that it belongs to.
    """

    layer: str | None = None
    reads_whole_output: bool = False
    reads_input: bool = False

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Fix everything that depends on the unchanged images, such as the highest class; ``count`` is N."""
        raise NotImplementedError


Target = (
    Classes | Score | Callable[[ModelOutput], Tensor] | Sequence[Callable[[ModelOutput], Tensor]] | None
)  # see :func:`bind`


def select_output(output: ModelOutput, select: Select) -> ModelOutput:
    """Return the part of a model's output that is scored.

    Args:
        output: the model's output.
        select: a function, an index or key, or an attribute's name; None takes the whole output.

    Raises:
        TypeError: if the output has no such part.
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


def bind(output: ModelOutput, target: Target, count: int) -> Bound:
    """Bind a target to the output for the unchanged images.

    Args:
        output: the model's output; (N, classes) for class indices.
        target: None (the highest class of every image), a class index for all images, N indices (sequence or
            tensor), N x K indices for K targets per image, "all" for every class, a :class:`Score`, a callable from
            the output to (N,) or (N, K), or N callables, each from one image's output to a number.
        count: N.

    Raises:
        TypeError, ValueError: for a target that does not fit the output.
    """
    if isinstance(target, Score):
        return target.bind(output, count)
    if callable(target):
        return Bound(lambda out, rows: _call_with_copies(target, out, len(rows), count))
    if _is_list_of_callables(target):
        if len(target) != count:
            raise ValueError(f"`target` must have one callable per image, {count}, got {len(target)}")
        return Bound(lambda out, rows: _score_each_image(out, target, rows))
    return Logit(cast("Classes | None", target)).bind(output, count)


def score(output: ModelOutput, target: Target, count: int) -> Scores:
    """Return one score per image, or K per image; the arguments are those of :func:`bind`."""
    bound = bind(output, target, count)
    return Scores(bound(output, all_rows(count)), bound.targets)


def bind_optional(output: ModelOutput, target: Target, images: Tensor) -> Bound:
    """Bind a target for methods that need none: without a target or classes in the output, the score is 0."""
    has_classes = isinstance(output, Tensor) and output.dim() in (1, 2) and output.shape[0] == images.shape[0]
    if target is None and not has_classes:
        return Bound(lambda out, rows: torch.zeros(rows.shape[0], device=images.device))
    return bind(output, target, images.shape[0])


class Logit(Score):
    """The output's entry for a class: the meaning of class indices as target.

    Args:
        classes: None for the highest, an index, N indices, N x K indices, or "all".
    """

    def __init__(self, classes: Classes | None = None) -> None:
        self.classes = classes

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Find the classes of every image."""
        return self.bind_to(class_indices(output, self.classes, count))

    def bind_to(self, indices: ClassIndices) -> Bound:
        """Return the score of these classes."""
        return Bound(
            lambda out, rows: self.pick(self.scale(class_scores(out, rows.shape[0])), indices, rows),
            indices,
            is_logit=True,
            score=self,
        )

    def scale(self, logits: Tensor) -> Tensor:
        """Transform the entries (M, classes) before one is picked."""
        return logits

    @staticmethod
    def pick(values: Tensor, indices: ClassIndices, rows: Tensor) -> Tensor:
        """Return the entries (M,) or (M, K) of (M, all) values at the classes of every row's image; NaN for none."""
        of_rows = indices.take(rows)
        classes = of_rows.values
        picked = values.gather(1, classes.reshape(classes.shape[0], -1)).reshape(classes.shape)
        return picked if of_rows.is_unknown is None else picked.masked_fill(of_rows.is_unknown, torch.nan)


def _score_each_image(
    output: ModelOutput, functions: Sequence[Callable[[ModelOutput], Tensor]], rows: Tensor
) -> Tensor:
    if not isinstance(output, Tensor | list):  # a list: one entry per image, as detectors return it
        raise TypeError(
            f"one callable per image needs an output tensor or list, but the model returned a {type(output).__name__}; "
            "choose its part with select="
        )
    return torch.stack([_scalar(functions[row](output[i])) for i, row in enumerate(rows.tolist())])


def _is_list_of_callables(target: Target) -> TypeGuard[Sequence[Callable[[ModelOutput], Tensor]]]:
    return (
        isinstance(target, Sequence) and not isinstance(target, str) and len(target) > 0 and all(map(callable, target))
    )


def _scalar(value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(f"a target callable must return one number per image, got {describe_value(value)}")
    return value.reshape(())


def _call_with_copies(target: Callable[[ModelOutput], Tensor], output: ModelOutput, rows: int, count: int) -> Tensor:
    """Return the scores of a callable for the output of any number of copies."""
    try:
        return _check_scores(target(output), rows)
    except (RuntimeError, ValueError, IndexError) as error:
        if rows != count:
            error.add_note(
                f"The target was called with the output for {rows} copies of the {count} images. A callable that holds "
                "data of the images must pick those of each copy: fastcam.targets.PerRow passes it the rows."
            )
        raise


class PerRow(Score):
    """Scores from a function of the output and the images' rows, for scores that use data of the images.

    Args:
        function: from the output for M copies and the image of each, (M,) int64 on the CPU, to (M,) or (M, K) scores;
            for example ``lambda output, rows: (output - images[rows]).square().flatten(1).sum(1)``.
    """

    reads_whole_output = True

    def __init__(self, function: Callable[[ModelOutput, Tensor], Tensor]) -> None:
        self.function = function

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Return the function, whose results are checked."""
        return Bound(lambda out, rows: _check_scores(self.function(out, rows), len(rows)))


def _check_scores(values: object, count: int) -> Tensor:
    if not isinstance(values, Tensor) or values.dim() not in (1, 2) or len(values) != count or values.numel() == 0:
        raise ValueError(
            f"a target callable must return a tensor of shape ({count},) or ({count}, K), got {describe_value(values)}"
        )
    return values


def describe_value(value: object) -> str:
    """Return the shape of a tensor, or the type of anything else, for error messages."""
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
