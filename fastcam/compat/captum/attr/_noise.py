"""Attributions averaged over noisy copies of the inputs."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastcam.compat.captum.attr._baselines import Baseline, baselines_of, fitting_baselines
from fastcam.compat.captum.attr._bases import Attribution, PathAttribution
from fastcam.compat.captum.attr._calls import (
    Target,
    TensorOrTuple,
    Tensors,
    arguments,
    as_tuple,
    format_like,
    take_rows,
    take_targets,
)
from fastcam.compat.captum.attr._paths import InputBaselineXGradient

KINDS = ("smoothgrad", "smoothgrad_sq", "vargrad")


class NoiseTunnel(Attribution):
    """Another method's attributions, averaged over noisy copies of the inputs (SmoothGrad, arXiv:1706.03825).

    Args:
        attribution_method: the method.
    """

    def __init__(self, attribution_method: Attribution) -> None:
        super().__init__(attribution_method.forward_func)
        self.attribution_method = attribution_method
        self.is_delta_supported = attribution_method.has_convergence_delta()

    @property
    def multiplies_by_inputs(self) -> bool:
        """The method's ``multiplies_by_inputs``."""
        return self.attribution_method.multiplies_by_inputs

    def has_convergence_delta(self) -> bool:
        """Return the method's ``has_convergence_delta()``."""
        return self.is_delta_supported

    def attribute(
        self,
        inputs: TensorOrTuple,
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: float | tuple[float, ...] = 1.0,
        draw_baseline_from_distrib: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the averages, shaped as the method's attributions, and its deltas (N * nt_samples,) where asked for.

        Noise comes from torch's generator, drawn baselines from NumPy's.

        Args:
            inputs: a tensor, or a tuple of them.
            nt_type: "smoothgrad" for the mean, "smoothgrad_sq" for the mean of the squares (arXiv:1806.10758),
                "vargrad" for the variance (arXiv:1810.03292).
            nt_samples: noisy copies per example.
            nt_samples_batch_size: copies per example at a time; None for all.
            stdevs: standard deviation of the noise, or one for each input.
            draw_baseline_from_distrib: give every copy a row of ``baselines``, drawn at random.
            kwargs: of the method; targets, baselines, masks and arguments with one row per example are repeated.
        """
        examples = as_tuple(inputs)
        if nt_type not in KINDS:
            raise AssertionError(f"`nt_type` must be one of {', '.join(KINDS)}; got {nt_type!r}")
        if "baselines" in kwargs:
            check = _drawable_baselines if draw_baseline_from_distrib else fitting_baselines
            kwargs["baselines"] = check(examples, kwargs["baselines"])
        with_delta = self.is_delta_supported and kwargs.get("return_convergence_delta", False)
        if nt_samples < 1:
            raise ValueError(f"`nt_samples` must be at least 1, got {nt_samples}")
        moments, deltas = _Moments(nt_samples), list[Tensor]()
        for count in piece_sizes(nt_samples, nt_samples_batch_size):
            noisy = _with_noise(examples, stdevs, count)
            options = repeat_arguments(kwargs, examples, count, draw_baseline_from_distrib)
            result = self.attribution_method.attribute(noisy if isinstance(inputs, tuple) else noisy[0], **options)
            attributions, *delta = result if with_delta else (result,)
            moments.add(as_tuple(attributions, "attributions"), count)
            deltas += delta
        averages = format_like(attributions, moments.averages(nt_type))
        return (averages, torch.cat(deltas)) if with_delta else averages


class _Moments:
    """Sums of attributions and of their squares over that many samples."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.sums: list[Tensor] = []
        self.squares: list[Tensor] = []

    def add(self, attributions: tuple[Tensor, ...], count: int) -> None:
        """Add attributions (N * count, ...) each."""
        parts = [tensor.unflatten(0, (-1, count)) for tensor in attributions]
        self.sums = _add(self.sums, [part.sum(1) for part in parts])
        self.squares = _add(self.squares, [part.square().sum(1) for part in parts])

    def averages(self, kind: str) -> tuple[Tensor, ...]:
        """Return the averages of the kind, (N, ...) each."""
        means, squares = (tuple(total / self.samples for total in sums) for sums in (self.sums, self.squares))
        if kind == "vargrad":
            return tuple(square - mean * mean for square, mean in zip(squares, means, strict=True))
        return means if kind == "smoothgrad" else squares


def _add(sums: list[Tensor], parts: list[Tensor]) -> list[Tensor]:
    return [total + part for total, part in zip(sums, parts, strict=True)] if sums else parts


def piece_sizes(samples: int, at_once: int | None) -> list[int]:
    """Split a number of samples into pieces of at most ``at_once``; None for one piece."""
    size = samples if at_once is None else min(samples, at_once)
    whole, rest = divmod(samples, size)
    return [size] * whole + [rest] * (rest > 0)


def _drawable_baselines(inputs: tuple[Tensor, ...], baselines: Any) -> tuple[Baseline, ...]:
    values = baselines_of(inputs, baselines)
    for tensor, baseline in zip(inputs, values, strict=True):
        if isinstance(baseline, Tensor) and baseline.shape[1:] != tensor.shape[1:]:
            raise AssertionError(
                f"baselines to draw from must have rows of shape {tuple(tensor.shape[1:])}, got {tuple(baseline.shape)}"
            )
    return values


def _with_noise(inputs: tuple[Tensor, ...], stdevs: float | tuple[float, ...], count: int) -> tuple[Tensor, ...]:
    """Return (N * count, ...) each: noisy copies, those of one example side by side."""
    if not isinstance(stdevs, float | tuple):
        raise AssertionError(f"`stdevs` must be a float, or a tuple of one for each input, got {stdevs!r}")
    deviations = stdevs if isinstance(stdevs, tuple) else (stdevs,) * len(inputs)
    if len(deviations) != len(inputs):
        raise AssertionError(f"there must be one of `stdevs` for each of the {len(inputs)} inputs, got {deviations!r}")
    noisy = []
    for tensor, deviation in zip(inputs, deviations, strict=True):
        copies = tensor.detach().repeat_interleave(count, 0)
        noisy.append(copies + torch.normal(0.0, torch.full(copies.shape, deviation, device=tensor.device)))
    return tuple(noisy)


def repeat_arguments(
    kwargs: dict[str, Any], inputs: tuple[Tensor, ...], count: int, drawn: bool = False
) -> dict[str, Any]:
    """Return a method's arguments for ``count`` copies of every example, side by side; baselines may be drawn."""
    examples = len(inputs[0])
    rows = torch.arange(examples).repeat_interleave(count)
    options = dict(kwargs)

    def repeat_baseline(tensor: Tensor, baseline: Baseline) -> Baseline:
        if drawn and isinstance(baseline, Tensor):
            return baseline[np.random.choice(len(baseline), count * examples).tolist()]
        has_rows = isinstance(baseline, Tensor) and baseline.dim() == tensor.dim() and examples > 1
        return take_rows(baseline, rows, examples) if has_rows else baseline

    if kwargs.get("baselines") is not None:
        options["baselines"] = tuple(map(repeat_baseline, inputs, baselines_of(inputs, kwargs["baselines"])))
    if "target" in kwargs:
        options["target"] = take_targets(kwargs["target"], rows, examples)
    if kwargs.get("additional_forward_args") is not None:
        additional = arguments(kwargs["additional_forward_args"])
        options["additional_forward_args"] = tuple(take_rows(value, rows, examples) for value in additional)
    mask = kwargs.get("feature_mask")
    if mask is not None:
        masks = as_tuple(mask, "feature_mask")
        repeated = tuple(take_rows(tensor, rows, examples) for tensor in masks) if examples > 1 else masks
        options["feature_mask"] = format_like(mask, repeated)
    return options


class GradientShap(PathAttribution):
    """Expected gradients over a distribution of baselines (GradientSHAP, arXiv:1705.07874).

    Args:
        forward_func: a model, or any function of tensors.
        multiply_by_inputs: False for the mean gradients.
    """

    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Tensors | Callable[..., Tensors],
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Target = None,
        additional_forward_args: object = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Return the attributions, shaped as the inputs, and the deltas (N * n_samples,) where asked for.

        Args:
            inputs: a tensor, or a tuple of them.
            baselines: tensors whose rows are drawn from, or a function that returns them, with or without the inputs
                as argument.
            n_samples: draws per example.
            stdevs: standard deviation of noise on the inputs, or one for each.
            target: selects the score.
            additional_forward_args: further arguments of the forward function.
            return_convergence_delta: also return the deltas.
        """
        distribution = _distribution(baselines, inputs)
        if not isinstance(distribution[0], Tensor):
            raise AssertionError(f"`baselines` must be tensors to draw rows from, got {type(distribution[0]).__name__}")
        method = InputBaselineXGradient(self.forward_func, self.multiplies_by_inputs)
        method.gradient_func = self.gradient_func
        return NoiseTunnel(method).attribute(
            inputs,
            nt_samples=n_samples,
            stdevs=stdevs,
            draw_baseline_from_distrib=True,
            baselines=distribution,
            target=target,
            additional_forward_args=additional_forward_args,
            return_convergence_delta=return_convergence_delta,
        )


def _distribution(baselines: Tensors | Callable[..., Tensors], inputs: Tensors) -> tuple[Tensor, ...]:
    """Return the baselines as a tuple, from the function where one was passed."""
    if callable(baselines) and not isinstance(baselines, Tensor):
        baselines = baselines(inputs) if inspect.signature(baselines).parameters else baselines()
    return baselines if isinstance(baselines, tuple) else (baselines,)
