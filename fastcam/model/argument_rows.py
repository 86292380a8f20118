"""Which of the model's other arguments have rows for each image: assumed from their length, checked on the model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves

from fastcam.model import capture, memory
from fastcam.model.elements import ModelOutput
from fastcam.model.inputs import Inputs
from fastcam.model.running import is_training

ROUNDING = 1e-3  # relative: batches of other sizes are computed in another order


@dataclass(frozen=True)
class ArgumentRows:
    """Which of the other arguments are the same for all images, and which have several rows for each.

    Attributes:
        shared: their indices.
        several: their indices.
    """

    shared: frozenset[int]
    several: frozenset[int]

    def of(self, inputs: Inputs) -> Inputs:
        """Return inputs with the arguments marked."""
        return replace(inputs, shared=self.shared, several=self.several)


def unclear(model: nn.Module, inputs: Inputs) -> tuple[frozenset[int], frozenset[int]]:
    """Return the indices of arguments of which it is not clear whether they are the same for all images.

    Those that may have one row per image instead, and those that may have several; none for a model in training mode,
    on which nothing can be found out.
    """
    if is_training(model):
        return frozenset(), frozenset()
    return inputs.per_image() if len(inputs) > 1 else frozenset(), inputs.multiples()


def find(model: nn.Module, inputs: Inputs, scored: Callable[[ModelOutput], ModelOutput]) -> ArgumentRows | None:
    """Return what is right of the other arguments; None if nothing is.

    As many texts as images look like one text per image, and more of them may be texts for all images or some for each.
    The first image alone, with its rows of the other arguments, must give the first row of the output for all (a single
    image, both rows of that for two of it); if it does not, it is tried with the arguments taken otherwise.

    Args:
        model: the module to explain.
        inputs: N images and the other arguments.
        scored: from the model's output to the part that is compared.
    """
    candidates, multiples = unclear(model, inputs)
    if not (candidates or multiples):
        return ArgumentRows(inputs.shared, inputs.several)
    known, key = memory.of(model), ("rows of arguments", *_shapes(inputs))
    if key not in known:
        known[key] = _find(model, inputs, candidates, multiples, scored)
    found = known[key]
    assert found is None or isinstance(found, ArgumentRows)
    return found


def _shapes(inputs: Inputs) -> Iterator[object]:
    for argument in inputs.arguments:
        for leaf in tree_leaves(argument):
            yield tuple(leaf.shape) if isinstance(leaf, Tensor) else None
    yield inputs.shared


def _find(
    model: nn.Module,
    inputs: Inputs,
    candidates: frozenset[int],
    multiples: frozenset[int],
    scored: Callable[[ModelOutput], ModelOutput],
) -> ArgumentRows | None:
    def scored_part(trial: Inputs) -> ModelOutput:
        return scored(capture.forward(model, trial.arguments).output)

    given, none = inputs.shared, frozenset[int]()
    shared = dict.fromkeys([none, candidates, *(frozenset({index}) for index in sorted(candidates))])
    several = dict.fromkeys([multiples, *(frozenset({index}) for index in sorted(multiples))])
    attempts = [ArgumentRows(given | each, none) for each in shared]
    attempts += [ArgumentRows(given, each) for each in several if each]
    whole = scored_part(inputs)
    is_compared = len(inputs) > 1
    for attempt in attempts:
        trial = attempt.of(inputs)
        try:
            if len(inputs) > 1:
                is_right = _is_row_of(scored_part(trial.first()), whole, len(inputs), [0])
            else:
                is_right = _is_row_of(whole, scored_part(trial.repeat_to(2)), 2, [0, 1])
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            continue  # shapes that do not fit each other
        if is_right:
            return attempt
        is_compared = True
    return None if is_compared else attempts[0]  # of a model that takes one image at a time


def _is_row_of(alone: ModelOutput, whole: ModelOutput, count: int, rows: Sequence[int]) -> bool:
    """Whether every tensor of an output for one image is the same as some rows of that of the output for all."""
    (ones, structure), (many, other) = tree_flatten(alone), tree_flatten(whole)
    if structure != other:
        return False
    pairs = [(one, all_) for one, all_ in zip(ones, many, strict=True) if isinstance(all_, Tensor) and all_.dim() > 0]
    with_rows = [(one, all_) for one, all_ in pairs if len(all_) == count]
    return bool(with_rows) and all(_is_row(one, all_, row) for one, all_ in with_rows for row in rows)


def _is_row(one: object, all_: Tensor, row: int) -> bool:
    if not isinstance(one, Tensor) or one.shape[1:] != all_.shape[1:] or len(one) != 1:
        return False
    finite = all_[all_.isfinite()]
    scale = float(finite.double().abs().max()) if finite.numel() else 0.0
    return torch.allclose(one[0].double(), all_[row].double(), rtol=0, atol=ROUNDING * scale, equal_nan=True)
