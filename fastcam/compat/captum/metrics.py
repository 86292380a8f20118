"""Captum's two measures of an explanation: infidelity and sensitivity (arXiv:1901.09392)."""

import copy
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastcam.compat.captum.attr._baselines import Baseline, Baselines, baselines_of
from fastcam.compat.captum.attr._calls import Call, Target, Tensors, as_tuple
from fastcam.compat.captum.attr._noise import piece_sizes, repeat_arguments
from fastcam.compat.captum.fallback import passed_on_before_captum
from fastcam.model.batching import Block, join_blocks

__all__ = ["infidelity", "infidelity_perturb_func_decorator", "sensitivity_max"]


def infidelity_perturb_func_decorator(multiply_by_inputs: bool = True) -> Callable[..., Any]:
    """Return a decorator that turns a function returning perturbed inputs into one for :func:`infidelity`.

    Args:
        multiply_by_inputs: attributions are shares, as those of methods that multiply by the inputs: perturbations are
            then shares of the input, or of its difference from the baseline.
    """

    def decorated(perturb_func: Callable[..., Tensors]) -> Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
        def perturbed(inputs: Tensors, baselines: Baselines = None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            changed = as_tuple(perturb_func(inputs) if baselines is None else perturb_func(inputs, baselines))
            tensors = as_tuple(inputs)
            shifts = tuple(tensor - other for tensor, other in zip(tensors, changed, strict=True))
            if multiply_by_inputs:
                starts = baselines_of(tensors, baselines)
                spans = (tensor - start for tensor, start in zip(tensors, starts, strict=True))
                shifts = tuple(
                    shift / torch.where(span == 0, 1, span) for shift, span in zip(shifts, spans, strict=True)
                )
            return shifts, changed

        return perturbed

    return decorated


def infidelity(
    forward_func: Callable[..., Tensor],
    perturb_func: Callable[..., tuple[Tensors, Tensors]],
    inputs: Tensors,
    attributions: Tensors,
    baselines: Baselines = None,
    additional_forward_args: object = None,
    target: Target = None,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    normalize: bool = False,
) -> Tensor:
    """Return (N,), the error of the output changes that the attributions predict for perturbations (equation 1).

    This is the mean of (I . phi - (f(x) - f(x - I)))^2 over perturbations I, for attributions phi.

    Args:
        forward_func: a model, or any function of tensors.
        perturb_func: from the inputs, each example repeated n_perturb_samples times, and the baselines where there are
            any, to the perturbations and the perturbed inputs.
        inputs: the explained inputs.
        attributions: shaped as the inputs.
        baselines: for ``perturb_func``.
        additional_forward_args: further arguments of the forward function.
        target: selects the score.
        n_perturb_samples: perturbations of each example.
        max_examples_per_batch: rows that ``perturb_func`` and the forward function get at a time.
        normalize: scale the attributions by the best-fitting factor.

    Raises:
        AssertionError: for attributions whose shapes differ from the inputs'.
    """
    call = Call(forward_func, inputs, target, additional_forward_args)
    values = as_tuple(attributions, "attributions")
    _check_shapes(values, call.inputs)
    starts = None if baselines is None else baselines_of(call.inputs, baselines)
    sums = torch.zeros((), device=call.inputs[0].device)
    with torch.no_grad():
        clean = call.scores(call.inputs).reshape(call.count, 1)
        for count in _pieces(call.count, n_perturb_samples, max_examples_per_batch):
            predicted, actual = _predicted_drops(call, perturb_func, values, starts, count, clean)
            parts = (predicted.square(), predicted * actual, actual.square(), (predicted - actual).square())
            sums = sums + torch.stack([part.sum(1) for part in parts])
    square, product, other, error = sums / n_perturb_samples
    scale = product / torch.where(square == 0, 1, square)
    return scale.square() * square - 2 * scale * product + other if normalize else error


def _check_shapes(attributions: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> None:
    shapes, expected = ([tuple(tensor.shape) for tensor in tensors] for tensors in (attributions, inputs))
    if shapes != expected:
        raise AssertionError(f"attributions must have the shapes of the inputs, {expected}, got {shapes}")


def _predicted_drops(
    call: Call,
    perturb_func: Callable[..., tuple[Tensors, Tensors]],
    attributions: tuple[Tensor, ...],
    baselines: tuple[Baseline, ...] | None,
    count: int,
    clean: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return (N, count) each: the drops of the output that the attributions predict, and the actual ones."""
    rows = torch.arange(call.count).repeat_interleave(count)
    copies = tuple(tensor[rows.to(tensor.device)] for tensor in call.inputs)
    args: tuple[Any, ...] = (copies if len(copies) > 1 else copies[0],)
    if baselines is not None:
        starts = repeat_arguments({"baselines": baselines}, call.inputs, count)["baselines"]
        args = (*args, starts if len(copies) > 1 else starts[0])
    shifts, perturbed = (as_tuple(tensors, "perturbations") for tensors in perturb_func(*args))
    if len(shifts) != len(copies):
        raise AssertionError(f"`perturb_func` must return one perturbation for each of {len(copies)} inputs")
    for shift, tensor in zip(shifts, perturbed, strict=False):
        if shift[0].shape != tensor[0].shape:
            raise AssertionError(
                f"a perturbation must have the shape of its perturbed input, {tuple(tensor.shape)}, "
                f"got {tuple(shift.shape)}"
            )
    actual = clean - _copy_scores(call, perturbed, count)
    predicted = torch.zeros_like(actual)
    for shift, attribution in zip(shifts, attributions, strict=True):
        predicted += (attribution[rows.to(shift.device)] * shift).reshape(call.count, count, -1).sum(2)
    return predicted, actual


def _copy_scores(call: Call, copies: tuple[Tensor, ...], count: int) -> Tensor:
    """Return (N, count), the scores of copies (N * count, ...) each, in batches that suit the device."""
    by_example = [tensor.unflatten(0, (call.count, count)) for tensor in copies]

    def scores(block: Block) -> Tensor:
        flat = call.scores(tuple(tensor[block.place].flatten(0, 1) for tensor in by_example), block.rows)
        return flat.reshape(len(block.images), len(block.variants)).to(copies[0])

    return join_blocks(list(call.batches().each(call.count, count, scores)), call.count, count)


def _pieces(examples: int, samples: int, limit: int | None) -> list[int]:
    """Return the numbers of samples per example that are drawn at a time."""
    if limit is not None and not examples <= limit <= examples * samples:
        warnings.warn(
            f"max_examples_per_batch should lie between the number of examples, {examples}, and that of all samples, "
            f"{examples * samples}; got {limit}",
            stacklevel=3,
        )
    return piece_sizes(samples, None if limit is None else max(limit // examples, 1))


def default_perturb_func(inputs: Tensors, perturb_radius: float = 0.02) -> tuple[Tensor, ...]:
    """Return the inputs with uniform noise of at most ``perturb_radius``, from torch's generator."""
    return tuple(
        tensor + torch.empty(tensor.shape).uniform_(-perturb_radius, perturb_radius).to(tensor.device)
        for tensor in as_tuple(inputs)
    )


def sensitivity_max(
    explanation_func: Callable[..., Any],
    inputs: Tensors,
    perturb_func: Callable[..., Tensors] = default_perturb_func,
    perturb_radius: float = 0.02,
    n_perturb_samples: int = 10,
    norm_ord: float | str = "fro",
    max_examples_per_batch: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """Return (N,), the largest relative change of an explanation under small changes of its input (definition 3).

    This is the maximum of |phi(x + e) - phi(x)| / |phi(x)| over perturbations e, for attributions phi.

    Args:
        explanation_func: from inputs to attributions: the ``attribute`` of a method.
        inputs: a tensor, or a tuple of them.
        perturb_func: from the inputs, each example repeated n_perturb_samples times, and the radius where it takes one,
            to perturbed inputs.
        perturb_radius: the second argument of ``perturb_func``.
        n_perturb_samples: perturbations of each example.
        norm_ord: of :func:`torch.linalg.vector_norm`, or "fro".
        max_examples_per_batch: rows that ``explanation_func`` gets at a time.
        kwargs: of ``explanation_func``; targets, baselines and arguments with one row per example are repeated.
    """
    tensors = as_tuple(inputs)
    count = len(tensors[0])
    order = 2 if norm_ord == "fro" else norm_ord
    radius = (perturb_radius,) if len(inspect.signature(perturb_func).parameters) > 1 else ()
    with torch.no_grad():
        clean = _flat(explanation_func(tensors, **kwargs))
        norm = torch.linalg.vector_norm(clean, order, 1)
        norm[norm == 0] = 1
        largest = clean.new_full((count,), -math.inf)
        for samples in _pieces(count, n_perturb_samples, max_examples_per_batch):
            copies = tuple(tensor.repeat_interleave(samples, 0) for tensor in tensors)
            perturbed = perturb_func(copies if len(copies) > 1 else copies[0], *radius)
            options = repeat_arguments(copy.deepcopy(kwargs), tensors, samples)
            explained = _flat(explanation_func(perturbed, **options)).unflatten(0, (count, samples))
            distance = torch.linalg.vector_norm(explained - clean.unsqueeze(1), order, 2)
            largest = torch.maximum(largest, (distance / norm.unsqueeze(1)).amax(1))
    return largest


def _flat(attributions: Tensors) -> Tensor:
    """Return (M, values), the attributions of all inputs concatenated."""
    return torch.cat([tensor.reshape(len(tensor), -1) for tensor in as_tuple(attributions, "attributions")], 1)


passed_on_before_captum(
    __name__,
    {
        "_core.infidelity": {
            "infidelity": infidelity,
            "infidelity_perturb_func_decorator": infidelity_perturb_func_decorator,
        },
        "_core.sensitivity": {"default_perturb_func": default_perturb_func, "sensitivity_max": sensitivity_max},
    },
)
