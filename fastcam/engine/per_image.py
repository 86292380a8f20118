"""Which of the model's other arguments have one row per image: assumed from their length, and checked on the model."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves

from fastcam.engine.notes import Notes
from fastcam.model import capture, memory
from fastcam.model.elements import ModelOutput, Select
from fastcam.model.inputs import Inputs
from fastcam.model.running import is_training
from fastcam.targets.binding import select_output
from fastcam.targets.output_part import implied

ROUNDING = 1e-3  # relative: batches of other sizes are computed in another order


def checked(model: nn.Module, inputs: Inputs, select: Select, notes: Notes) -> Inputs:
    """Return the inputs with every argument that turns out to be the same for all images marked as shared.

    As many texts as images look like one text per image. The first image alone, with its rows of the other arguments,
    must give the first row of the output for all; if it does not, it is tried with the arguments whole.

    Args:
        model: the module to explain.
        inputs: N images and the other arguments.
        select: the part of the output that is scored; of several without it, the one with the logits is compared.
        notes: told what was found.
    """
    candidates = inputs.per_image()
    if not candidates or len(inputs) == 1 or is_training(model):
        return inputs
    known, key = memory.of(model), ("shared", *_shapes(inputs))
    if key not in known:
        known[key] = _find_shared(model, inputs, candidates, select)
    shared = known[key]
    if shared is None:
        places = [inputs.place_of(index) for index in sorted(candidates)]
        notes.guess(
            f"arguments {places} have as many rows as there are images and are taken for one row per image, but the "
            "output for one image alone is not its row of the output for all; pass shared= if they are the same for "
            "all images"
        )
        return inputs
    assert isinstance(shared, frozenset)
    if shared - inputs.shared:
        places = [inputs.place_of(index) for index in sorted(shared)]
        notes.say(f"arguments {places} of the model are the same for all images, as its output for one image shows")
    return replace(inputs, shared=shared)


def _shapes(inputs: Inputs) -> Iterator[object]:
    for argument in inputs.arguments:
        for leaf in tree_leaves(argument):
            yield tuple(leaf.shape) if isinstance(leaf, Tensor) else None
    yield inputs.shared


def _find_shared(model: nn.Module, inputs: Inputs, candidates: frozenset[int], select: Select) -> frozenset[int] | None:
    """Return the shared arguments with which one image alone gives its row of the output; None if there are none."""

    def scored_part(trial: Inputs) -> ModelOutput:
        output = capture.forward(model, trial.arguments).output
        return select_output(output, implied(output, select, None))

    whole = scored_part(inputs)
    attempts = [frozenset[int](), candidates, *(frozenset({index}) for index in sorted(candidates))]
    for attempt in dict.fromkeys(attempts):
        trial = replace(inputs, shared=inputs.shared | attempt)
        try:
            alone = scored_part(trial.first())
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            continue  # shapes that do not fit each other
        if _is_first_row(alone, whole, len(inputs)):
            return trial.shared
    return None


def _is_first_row(alone: ModelOutput, whole: ModelOutput, count: int) -> bool:
    """Whether every tensor of an output for one image is the first row of that of the output for all."""
    (ones, structure), (many, other) = tree_flatten(alone), tree_flatten(whole)
    if structure != other:
        return False
    pairs = [(one, all_) for one, all_ in zip(ones, many, strict=True) if isinstance(all_, Tensor) and all_.dim() > 0]
    rows = [(one, all_) for one, all_ in pairs if len(all_) == count]
    return bool(rows) and all(_is_row(one, all_) for one, all_ in rows)


def _is_row(one: object, all_: Tensor) -> bool:
    if not isinstance(one, Tensor) or one.shape[1:] != all_.shape[1:] or len(one) != 1:
        return False
    scale = float(all_.double().abs().max()) if all_.numel() else 0.0
    return torch.allclose(one[0].double(), all_[0].double(), rtol=0, atol=ROUNDING * scale, equal_nan=True)
