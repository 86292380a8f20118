"""Baselines as people give them: a number or a tensor for each input."""

import torch
from torch import Tensor

Baselines = Tensor | int | float | tuple[Tensor | int | float, ...] | None


def baselines_of(inputs: tuple[Tensor, ...], baselines: Baselines) -> tuple[Tensor | int | float, ...]:
    """One baseline for each input: a number, or a tensor of its shape or with one row; zeros where none is given.

    Raises:
        AssertionError: for others.
    """
    found = tuple(0 for _ in inputs) if baselines is None else baselines
    found = found if isinstance(found, tuple) else (found,)
    if len(found) != len(inputs):
        raise AssertionError(f"there must be one baseline for each of the {len(inputs)} inputs, got {len(found)}")
    for baseline in found:
        if not isinstance(baseline, Tensor | int | float):
            raise AssertionError(f"a baseline must be a tensor or a number, got {type(baseline).__name__}")
    return found


def check_shapes(inputs: tuple[Tensor, ...], baselines: tuple[Tensor | int | float, ...]) -> None:
    """Refuses baselines that are neither of their input's shape nor of one row.

    Raises:
        AssertionError: with a sentence.
    """
    for each, baseline in zip(inputs, baselines, strict=True):
        if isinstance(baseline, Tensor) and baseline.shape != each.shape and baseline.shape[:1] != (1,):
            raise AssertionError(
                f"a baseline must be a number, or have the shape of its input, {tuple(each.shape)}, or one row of it; "
                f"got {tuple(baseline.shape)}"
            )


def filled(inputs: tuple[Tensor, ...], baselines: tuple[Tensor | int | float, ...]) -> tuple[Tensor, ...]:
    """Baselines as tensors of the inputs' shapes, perhaps expanded."""
    return tuple(
        torch.as_tensor(baseline, dtype=each.dtype, device=each.device).expand_as(each)
        for each, baseline in zip(inputs, baselines, strict=True)
    )
