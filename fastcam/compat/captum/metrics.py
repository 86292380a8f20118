"""Captum's two measures of an explanation: infidelity and sensitivity (arXiv:1901.09392)."""

import copy
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastcam.compat.captum.attr._baselines import Baselines, baselines_of
from fastcam.compat.captum.attr._calls import Call, Given, Target, as_tuple
from fastcam.compat.captum.attr._noise import repeated
from fastcam.compat.modules import passed_on

__all__ = ["infidelity", "infidelity_perturb_func_decorator", "sensitivity_max"]


def infidelity_perturb_func_decorator(multiply_by_inputs: bool = True) -> Callable[..., Any]:
    """Makes a function for :func:`infidelity` of one that returns perturbed inputs alone.

    Args:
        multiply_by_inputs: whether attributions are shares, as those of methods that multiply by the inputs are: then
            the perturbation is told as a share of the input, or of its way from the baseline.
    """

    def decorated(perturb_func: Callable[..., Given]) -> Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
        def perturbed(inputs: Given, baselines: Baselines = None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            found = as_tuple(perturb_func(inputs) if baselines is None else perturb_func(inputs, baselines))
            given = as_tuple(inputs)
            moved = tuple(each - other for each, other in zip(given, found, strict=True))
            if multiply_by_inputs:
                starts = baselines_of(given, baselines)
                ways = (each - start for each, start in zip(given, starts, strict=True))
                moved = tuple(each / torch.where(way == 0, 1, way) for each, way in zip(moved, ways, strict=True))
            return moved, found

        return perturbed

    return decorated


def infidelity(
    forward_func: Callable[..., Tensor],
    perturb_func: Callable[..., tuple[Given, Given]],
    inputs: Given,
    attributions: Given,
    baselines: Baselines = None,
    additional_forward_args: Any = None,
    target: Target = None,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    normalize: bool = False,
) -> Tensor:
    """(N,): how badly the attributions foretell what perturbations do to the output (equation 1).

    The mean of (I . phi - (f(x) - f(x - I)))^2 over perturbations I, for attributions phi.

    Args:
        forward_func: a model, or any function of tensors.
        perturb_func: from the inputs, each example n_perturb_samples times, side by side, and from the baselines where
            there are any, to the perturbations and the perturbed inputs.
        inputs: what was explained.
        attributions: shaped as the inputs.
        baselines: for ``perturb_func``.
        additional_forward_args: what else the forward function takes.
        target: which output counts.
        n_perturb_samples: perturbations of each example.
        max_examples_per_batch: rows that ``perturb_func`` and the forward function get at a time.
        normalize: with the attributions scaled as fits best.

    Raises:
        AssertionError: for attributions that do not belong to the inputs.
    """
    call = Call(forward_func, inputs, target, additional_forward_args)
    found = as_tuple(attributions, "attributions")
    shapes, expected = ([tuple(each.shape) for each in kind] for kind in (found, call.inputs))
    if shapes != expected:
        raise AssertionError(f"attributions must have the shapes of the inputs, {expected}, got {shapes}")
    starts = None if baselines is None else baselines_of(call.inputs, baselines)
    sums: Any = 0
    with torch.no_grad():
        clean = call.scores(call.inputs).reshape(call.count, 1)
        for count in _pieces(call.count, n_perturb_samples, max_examples_per_batch):
            foretold, real = _foretold(call, perturb_func, found, starts, count, clean)
            parts = (foretold.square(), foretold * real, real.square(), (foretold - real).square())
            sums = sums + torch.stack([each.sum(1) for each in parts])
    square, product, other, error = sums / n_perturb_samples
    if not normalize:
        return error
    scale = product / torch.where(square == 0, 1, square)
    return scale.square() * square - 2 * scale * product + other


def _foretold(
    call: Call,
    perturb_func: Callable[..., tuple[Given, Given]],
    attributions: tuple[Tensor, ...],
    baselines: tuple[Any, ...] | None,
    count: int,
    clean: Tensor,
) -> tuple[Tensor, Tensor]:
    """(N, count) each: what the attributions foretell of the output's fall, and the fall."""
    rows = torch.arange(call.count).repeat_interleave(count)
    copies = tuple(each[rows.to(each.device)] for each in call.inputs)
    given: tuple[Any, ...] = (copies if len(copies) > 1 else copies[0],)
    if baselines is not None:
        starts = repeated({"baselines": baselines}, call.inputs, count)["baselines"]
        given = (*given, starts if len(copies) > 1 else starts[0])
    moved, perturbed = (as_tuple(each, "perturbations") for each in perturb_func(*given))
    if len(moved) != len(copies):
        raise AssertionError(f"`perturb_func` must return one perturbation for each of {len(copies)} inputs")
    for each, other in zip(moved, perturbed, strict=False):
        if each[0].shape != other[0].shape:
            raise AssertionError(
                f"a perturbation must have the shape of its perturbed input, {tuple(other.shape)}, "
                f"got {tuple(each.shape)}"
            )
    real = clean - in_pieces(call, perturbed).reshape(call.count, count)
    foretold = torch.zeros_like(real)
    for each, attribution in zip(moved, attributions, strict=True):
        foretold += (attribution[rows.to(each.device)] * each).reshape(call.count, count, -1).sum(2)
    return foretold, real


def in_pieces(call: Call, inputs: tuple[Tensor, ...]) -> Tensor:
    """(M,): scores of M copies, those of one example side by side, as many at a time as suit the device."""
    each_has = len(inputs[0]) // call.count
    shaped = [each.unflatten(0, (call.count, each_has)) for each in inputs]
    found = inputs[0].new_empty(call.count, each_has)
    pieces = call.batches().each(
        call.count,
        each_has,
        lambda block: call.scores(tuple(each[block.place].flatten(0, 1) for each in shaped), block.rows),
    )
    for block, scores in pieces:
        found[block.place] = scores.reshape(len(block.images), len(block.variants)).to(found)
    return found.flatten()


def _pieces(examples: int, samples: int, limit: int | None) -> list[int]:
    """How many samples of each example are made at a time."""
    if limit is not None and not examples <= limit <= examples * samples:
        warnings.warn(
            f"max_examples_per_batch should lie between the number of examples, {examples}, and that of all samples, "
            f"{examples * samples}; got {limit}",
            stacklevel=3,
        )
    at_once = samples if limit is None else min(max(limit // examples, 1), samples)
    whole, rest = divmod(samples, at_once)
    return [at_once] * whole + [rest] * (rest > 0)


def default_perturb_func(inputs: Given, perturb_radius: float = 0.02) -> tuple[Tensor, ...]:
    """The inputs with noise, uniform between -``perturb_radius`` and ``perturb_radius``, from torch's generator."""
    return tuple(
        each + torch.empty(each.shape).uniform_(-perturb_radius, perturb_radius).to(each.device)
        for each in as_tuple(inputs)
    )


def sensitivity_max(
    explanation_func: Callable[..., Any],
    inputs: Given,
    perturb_func: Callable[..., Given] = default_perturb_func,
    perturb_radius: float = 0.02,
    n_perturb_samples: int = 10,
    norm_ord: Any = "fro",
    max_examples_per_batch: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """(N,): how much an explanation changes at most when its input changes a little (definition 3).

    The greatest |phi(x + e) - phi(x)| / |phi(x)| over perturbations e, for attributions phi.

    Args:
        explanation_func: from inputs to attributions: ``attribute`` of a method.
        inputs: a tensor, or a tuple of them.
        perturb_func: from the inputs, each example n_perturb_samples times, side by side, and the radius where it takes
            one, to perturbed inputs.
        perturb_radius: how far the inputs are moved.
        n_perturb_samples: perturbations of each example.
        norm_ord: of :func:`torch.linalg.vector_norm`, or "fro".
        max_examples_per_batch: rows that ``explanation_func`` gets at a time.
        kwargs: of ``explanation_func``; targets, baselines and arguments with a row an example are repeated.
    """
    given = as_tuple(inputs)
    count = len(given[0])
    order = 2 if norm_ord == "fro" else norm_ord
    with torch.no_grad():
        clean = _flat(explanation_func(given, **kwargs))
        length = torch.linalg.vector_norm(clean, order, 1)
        length = torch.where(length == 0, 1, length)
        found = clean.new_full((count,), -math.inf)
        for samples in _pieces(count, n_perturb_samples, max_examples_per_batch):
            copies = tuple(each.repeat_interleave(samples, 0) for each in given)
            first = copies if len(copies) > 1 else copies[0]
            takes_radius = len(inspect.signature(perturb_func).parameters) > 1
            moved = perturb_func(first, perturb_radius) if takes_radius else perturb_func(first)
            options = repeated(copy.deepcopy(kwargs), given, samples)
            explained = _flat(explanation_func(moved, **options)).unflatten(0, (count, samples))
            distance = torch.linalg.vector_norm(explained - clean.unsqueeze(1), order, 2)
            found = torch.maximum(found, (distance / length.unsqueeze(1)).amax(1))
    return found


def _flat(attributions: Any) -> Tensor:
    """(M, values): those of all inputs, side by side."""
    return torch.cat([each.reshape(len(each), -1) for each in as_tuple(attributions, "attributions")], 1)


passed_on(
    __name__,
    {
        "_core.infidelity": {
            "infidelity": infidelity,
            "infidelity_perturb_func_decorator": infidelity_perturb_func_decorator,
        },
        "_core.sensitivity": {"default_perturb_func": default_perturb_func, "sensitivity_max": sensitivity_max},
    },
)
