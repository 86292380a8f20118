"""Baselines in Captum's forms: a number or a tensor for each input."""

from typing import TypeAlias

import torch
from torch import Tensor

Baseline: TypeAlias = Tensor | int | float
Baselines: TypeAlias = Baseline | tuple[Baseline, ...] | None


def baselines_of(inputs: tuple[Tensor, ...], baselines: Baselines) -> tuple[Baseline, ...]:
    """Return one baseline for each input, zero for None.

    Raises:
        AssertionError: for a wrong number or type.
    """
    values = tuple(0 for _ in inputs) if baselines is None else baselines
    values = values if isinstance(values, tuple) else (values,)
    if len(values) != len(inputs):
        raise AssertionError(f"there must be one baseline for each of the {len(inputs)} inputs, got {len(values)}")
    for baseline in values:
        if not isinstance(baseline, Tensor | int | float):
            raise AssertionError(f"a baseline must be a tensor or a number, got {type(baseline).__name__}")
    return values


def fitting_baselines(inputs: tuple[Tensor, ...], baselines: Baselines) -> tuple[Baseline, ...]:
    """Return one baseline for each input: a number, or a tensor of the input's shape or with one row.

    Raises:
        AssertionError: for others.
    """
    values = baselines_of(inputs, baselines)
    for tensor, baseline in zip(inputs, values, strict=True):
        if isinstance(baseline, Tensor) and baseline.shape != tensor.shape and baseline.shape[:1] != (1,):
            raise AssertionError(
                f"a baseline must be a number, or have the shape of its input, {tuple(tensor.shape)}, or one row of "
                f"it; got {tuple(baseline.shape)}"
            )
    return values


def broadcast_baselines(inputs: tuple[Tensor, ...], baselines: Baselines) -> tuple[Tensor, ...]:
    """Return one baseline for each input, of its shape, from numbers or tensors that broadcast to it.

    They have the inputs' dtypes; a fraction that replaces integers keeps its own.

    Raises:
        AssertionError: for others.
    """
    return tuple(map(_broadcast, inputs, baselines_of(inputs, baselines)))


def _broadcast(inputs: Tensor, baseline: Baseline) -> Tensor:
    start = torch.as_tensor(baseline, device=inputs.device)
    sizes = zip(reversed(start.shape), reversed(inputs.shape), strict=False)
    if start.dim() > inputs.dim() or any(size not in (1, full) for size, full in sizes):
        raise AssertionError(
            f"a baseline must be a number, or have a shape that broadcasts to its input's, {tuple(inputs.shape)}; "
            f"got {tuple(start.shape)}"
        )
    keeps_fraction = start.is_floating_point() and not inputs.is_floating_point()
    return (start if keeps_fraction else start.to(inputs.dtype)).expand_as(inputs)


def expand_baselines(inputs: tuple[Tensor, ...], baselines: tuple[Baseline, ...]) -> tuple[Tensor, ...]:
    """Return the baselines as tensors of the inputs' shapes and dtypes; they may be expanded views."""
    return tuple(
        torch.as_tensor(baseline, dtype=tensor.dtype, device=tensor.device).expand_as(tensor)
        for tensor, baseline in zip(inputs, baselines, strict=True)
    )
