"""Attributions averaged over noisy copies of the inputs."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastcam.compat.captum.attr._baselines import Baselines, baselines_of, check_shapes
from fastcam.compat.captum.attr._bases import Attribution, GradientAttribution
from fastcam.compat.captum.attr._calls import Call, Given, Target, arguments, as_tuple, like

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
        """As the method does."""
        return self.attribution_method.multiplies_by_inputs

    def has_convergence_delta(self) -> bool:
        """As the method has one."""
        return self.is_delta_supported

    def attribute(
        self,
        inputs: Given,
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: float | tuple[float, ...] = 1.0,
        draw_baseline_from_distrib: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The averages, shaped as the method's attributions; its deltas (N * nt_samples,) with them where asked for.

        Noise comes from torch's generator, drawn baselines from NumPy's.

        Args:
            inputs: a tensor, or a tuple of them.
            nt_type: "smoothgrad" for the mean, "smoothgrad_sq" for the mean of the squares (arXiv:1806.10758),
                "vargrad" for the variance (arXiv:1810.03292).
            nt_samples: noisy copies of each example.
            nt_samples_batch_size: copies of each example that are made at a time; None for all of them.
            stdevs: standard deviation of the noise, or one for each input.
            draw_baseline_from_distrib: give every copy a row of ``baselines``, drawn at random.
            kwargs: of the method; targets, baselines, masks and arguments with a row an example are repeated.
        """
        examples = as_tuple(inputs)
        if nt_type not in KINDS:
            raise AssertionError(f"`nt_type` must be one of {', '.join(KINDS)}; got {nt_type!r}")
        if "baselines" in kwargs:
            kwargs["baselines"] = baselines_of(examples, kwargs["baselines"])
            (_check_drawn if draw_baseline_from_distrib else check_shapes)(examples, kwargs["baselines"])
        with_delta = self.is_delta_supported and kwargs.get("return_convergence_delta", False)
        at_once = nt_samples if nt_samples_batch_size is None else min(nt_samples, nt_samples_batch_size)
        sums: list[Tensor] = []
        squares: list[Tensor] = []
        deltas: list[Tensor] = []
        found: Any = None
        for first in range(0, nt_samples, at_once):
            count = min(at_once, nt_samples - first)
            noisy = _with_noise(examples, stdevs, count)
            options = repeated(kwargs, examples, count, draw_baseline_from_distrib)
            found = self.attribution_method.attribute(like(inputs, noisy), **options)
            if with_delta:
                found, delta = found
                deltas.append(delta)
            parts = [each.unflatten(0, (-1, count)) for each in as_tuple(found, "attributions")]
            sums = _added(sums, [each.sum(1) for each in parts])
            squares = _added(squares, [each.square().sum(1) for each in parts])
        means, second = ([each / nt_samples for each in kind] for kind in (sums, squares))
        if nt_type == "smoothgrad":
            result = means
        elif nt_type == "smoothgrad_sq":
            result = second
        else:
            result = [square - mean * mean for square, mean in zip(second, means, strict=True)]
        shaped = like(found, tuple(result))
        return (shaped, torch.cat(deltas)) if with_delta else shaped


def _check_drawn(inputs: tuple[Tensor, ...], baselines: tuple[Any, ...]) -> None:
    for each, baseline in zip(inputs, baselines, strict=True):
        if isinstance(baseline, Tensor) and baseline.shape[1:] != each.shape[1:]:
            raise AssertionError(
                f"baselines to draw from must have rows of shape {tuple(each.shape[1:])}, got {tuple(baseline.shape)}"
            )


def _with_noise(inputs: tuple[Tensor, ...], stdevs: float | tuple[float, ...], count: int) -> tuple[Tensor, ...]:
    """(N * count, ...) each: copies side by side, with noise."""
    if not isinstance(stdevs, float | tuple):
        raise AssertionError(f"`stdevs` must be a float, or a tuple of one for each input, got {stdevs!r}")
    deviations = stdevs if isinstance(stdevs, tuple) else (stdevs,) * len(inputs)
    if len(deviations) != len(inputs):
        raise AssertionError(f"there must be one of `stdevs` for each of the {len(inputs)} inputs, got {deviations!r}")
    found = []
    for each, deviation in zip(inputs, deviations, strict=True):
        copies = each.detach().repeat_interleave(count, 0)
        found.append(copies + torch.normal(0.0, torch.full(copies.shape, deviation, device=each.device)))
    return tuple(found)


def repeated(kwargs: dict[str, Any], inputs: tuple[Tensor, ...], count: int, drawn: bool = False) -> dict[str, Any]:
    """A method's arguments for so many copies of every example, side by side; baselines drawn, where asked for."""
    examples = len(inputs[0])
    rows = torch.arange(examples).repeat_interleave(count)
    found = dict(kwargs)
    if kwargs.get("baselines") is not None:
        found["baselines"] = tuple(
            (baseline[np.random.choice(len(baseline), count * examples).tolist()] if drawn else _rows(baseline, rows))
            if isinstance(baseline, Tensor)
            else baseline
            for baseline in baselines_of(inputs, kwargs["baselines"])
        )
    if isinstance(kwargs.get("target"), list | Tensor):
        found["target"] = _rows(kwargs["target"], rows)
    if kwargs.get("additional_forward_args") is not None:
        found["additional_forward_args"] = tuple(
            _rows(each, rows) for each in arguments(kwargs["additional_forward_args"])
        )
    mask = kwargs.get("feature_mask")
    if mask is not None:
        found["feature_mask"] = like(mask, tuple(_rows(each, rows) for each in as_tuple(mask, "feature_mask")))
    return found


def _rows(given: Any, rows: Tensor) -> Any:
    """Repeated, where it has a row for each of several examples."""
    examples = int(rows[-1]) + 1
    if isinstance(given, Tensor) and given.dim() > 0 and len(given) == examples > 1:
        return given[rows.to(given.device)]
    return [given[row] for row in rows.tolist()] if isinstance(given, list) and len(given) == examples else given


def _added(sums: list[Tensor], found: list[Tensor]) -> list[Tensor]:
    return [total + each for total, each in zip(sums, found, strict=True)] if sums else found


class InputBaselineXGradient(GradientAttribution):
    """The gradient at a random place between the baseline and the input, times the way.

    Args:
        forward_func: a model, or any function of tensors.
        multiply_by_inputs: False for the gradient alone.
    """

    def __init__(self, forward_func: Callable[..., Tensor], multiply_by_inputs: bool = True) -> None:
        super().__init__(forward_func)
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """As it was made."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """Always."""
        return True

    def attribute(
        self,
        inputs: Given,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """The attributions, shaped as the inputs; the places come from NumPy's generator.

        The arguments are those of :meth:`IntegratedGradients.attribute`.
        """
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        starts = baselines_of(call.inputs, baselines)
        check_shapes(call.inputs, starts)
        places = torch.from_numpy(np.random.uniform(0.0, 1.0, call.count))
        ways = tuple(each.detach() - start for each, start in zip(call.inputs, starts, strict=True))
        between = tuple(
            start + places.to(way).reshape(-1, *[1] * (way.dim() - 1)) * way
            for start, way in zip(starts, ways, strict=True)
        )
        found = gradients_in_pieces(call, between)
        if self.multiplies_by_inputs:
            found = tuple(way * each for way, each in zip(ways, found, strict=True))
        if not return_convergence_delta:
            return like(inputs, found)
        return like(inputs, found), self.compute_convergence_delta(
            found, starts, call.inputs, target, additional_forward_args
        )


def gradients_in_pieces(call: Call, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gradients for as many rows at a time as suit the device."""
    found: list[list[Tensor]] = [[] for _ in inputs]
    pieces = call.batches().each(
        call.count, 1, lambda block: call.gradients(tuple(each[block.place[0]] for each in inputs), block.rows)
    )
    for _, gradients in pieces:
        for kept, each in zip(found, gradients, strict=True):
            kept.append(each)
    return tuple(torch.cat(each) for each in found)


class GradientShap(GradientAttribution):
    """Expected gradients over a distribution of baselines (GradientSHAP, arXiv:1705.07874).

    Args:
        forward_func: a model, or any function of tensors.
        multiply_by_inputs: False for the mean gradients.
    """

    def __init__(self, forward_func: Callable[..., Tensor], multiply_by_inputs: bool = True) -> None:
        super().__init__(forward_func)
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """As it was made."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """Always."""
        return True

    def attribute(
        self,
        inputs: Given,
        baselines: Given | Callable[..., Given],
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """The attributions, shaped as the inputs; with them the deltas (N * n_samples,) where asked for.

        Args:
            inputs: a tensor, or a tuple of them.
            baselines: tensors whose rows are drawn from, or a function that returns them: of the inputs, or of nothing.
            n_samples: draws for each example.
            stdevs: standard deviation of noise on the inputs, or one for each.
            target: which output counts.
            additional_forward_args: what else the forward function takes.
            return_convergence_delta: return the second tensor.
        """
        given = _called(baselines, inputs)
        if not isinstance(given[0], Tensor):
            raise AssertionError(f"`baselines` must be tensors to draw rows from, got {type(given[0]).__name__}")
        return NoiseTunnel(InputBaselineXGradient(self.forward_func, self.multiplies_by_inputs)).attribute(
            inputs,
            nt_samples=n_samples,
            stdevs=stdevs,
            draw_baseline_from_distrib=True,
            baselines=given,
            target=target,
            additional_forward_args=additional_forward_args,
            return_convergence_delta=return_convergence_delta,
        )


def _called(baselines: Any, inputs: Given) -> tuple[Any, ...]:
    """Baselines as a tuple; a function is called, with the inputs where it takes them."""
    if callable(baselines) and not isinstance(baselines, Tensor):
        baselines = baselines(inputs) if inspect.signature(baselines).parameters else baselines()
    return baselines if isinstance(baselines, tuple) else (baselines,)
