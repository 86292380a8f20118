"""Gradients averaged between baselines and inputs, or between the values of a layer for both."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastcam.compat.captum.attr._after_layer import AfterLayer
from fastcam.compat.captum.attr._at_layers import Values, format_values, run_layers
from fastcam.compat.captum.attr._baselines import Baselines, expand_baselines, fitting_baselines
from fastcam.compat.captum.attr._bases import Layer, LayerAttribution, PathAttribution
from fastcam.compat.captum.attr._calls import Call, Target, TensorOrTuple, format_like
from fastcam.methods.path import Quadrature, quadrature_nodes
from fastcam.model.batching import Batches, Block

_QUADRATURES: dict[str, Quadrature] = {
    "gausslegendre": "gauss_legendre",
    "riemann_left": "riemann_left",
    "riemann_right": "riemann_right",
    "riemann_middle": "riemann_middle",
    "riemann_trapezoid": "trapezoid",
}


class IntegratedGradients(PathAttribution):
    """Integrated Gradients (arXiv:1703.01365).

    Args:
        forward_func: a model, or any function of tensors.
        multiply_by_inputs: False for the mean gradients, not multiplied by the difference from the baseline.
        exact_peer: use Captum's weights for the trapezoidal rule, which sum to 1 - 1 / n_steps.
    """

    def __init__(
        self, forward_func: Callable[..., Tensor], multiply_by_inputs: bool = True, *, exact_peer: bool = False
    ) -> None:
        super().__init__(forward_func, multiply_by_inputs)
        self.exact_peer = exact_peer

    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: object = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Return the attributions, shaped as the inputs, and the deltas (N,) where asked for.

        Args:
            inputs: a tensor, or a tuple of them.
            baselines: start of the path: a number or a tensor for each input, None for 0.
            target: selects the score.
            additional_forward_args: further arguments of the forward function.
            n_steps: number of gradients on the path.
            method: quadrature: "gausslegendre", "riemann_left", "riemann_right", "riemann_middle" or
                "riemann_trapezoid".
            internal_batch_size: copies at a time; None for as many as suit the device.
            return_convergence_delta: also return the sum of the attributions less the change of the output.
        """
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        starts = fitting_baselines(call.inputs, baselines)
        quadrature = quadrature_of(method, n_steps, self.exact_peer)
        values = integrate_inputs(self, call, expand_baselines(call.inputs, starts), quadrature, internal_batch_size)
        return self._with_delta(call, starts, values, format_like(inputs, values), return_convergence_delta)


class InputBaselineXGradient(PathAttribution):
    """The gradient at a random point between the baseline and the input, times their difference.

    Args:
        forward_func: a model, or any function of tensors.
        multiply_by_inputs: False for the gradient alone.
    """

    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: object = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Return the attributions, shaped as the inputs; the points come from NumPy's generator.

        The arguments are those of :meth:`IntegratedGradients.attribute`.
        """
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        starts = fitting_baselines(call.inputs, baselines)
        points = torch.from_numpy(np.random.uniform(0.0, 1.0, (call.count, 1)))
        values = integrate_inputs(self, call, expand_baselines(call.inputs, starts), (points, torch.ones(1)))
        return self._with_delta(call, starts, values, format_like(inputs, values), return_convergence_delta)


class LayerIntegratedGradients(LayerAttribution, PathAttribution):
    """Integrated Gradients from a layer's values for the baseline to its values for the input.

    Args:
        forward_func: a model, or any function that runs one.
        layer: the module, or a list of modules.
        device_ids: kept, and not used.
        multiply_by_inputs: False for the mean gradients.
        exact_peer: as for :class:`IntegratedGradients`.
    """

    replaceable_gradients = False

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        layer: Layer,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        *,
        exact_peer: bool = False,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs
        self.ig = IntegratedGradients(forward_func, multiply_by_inputs, exact_peer=exact_peer)
        self.ig.replaceable_gradients = False

    def attribute(
        self,
        inputs: TensorOrTuple,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: object = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return the attributions, shaped as the layer's tensors; the part before a single layer runs once.

        The arguments are those of :meth:`IntegratedGradients.attribute`; ``attribute_to_layer_input`` attributes to
        what the layer takes, ``grad_kwargs`` are options of :func:`torch.autograd.grad`.
        """
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        starts = fitting_baselines(call.inputs, baselines)
        quadrature = quadrature_of(method, n_steps, self.ig.exact_peer)
        end = run_layers(call, self.layer, attribute_to_layer_input)
        first = expand_baselines(call.inputs, starts)
        start = run_layers(call, self.layer, attribute_to_layer_input, inputs=first)
        after = AfterLayer(call, self.layer, attribute_to_layer_input, end)

        def gradients(copies: Values, block: Block) -> Values:
            return after.gradients(copies, block, grad_kwargs or {})

        values = integrate(self, (start.flat, end.flat), quadrature, gradients, call.batches(internal_batch_size))
        formatted = format_values(self.layer, end.by_layer(values))
        return self._with_delta(call, starts, values, formatted, return_convergence_delta)


def quadrature_of(method: str, steps: int, exact_peer: bool) -> tuple[Tensor, Tensor]:
    """Return points (1, steps) in [0, 1] and weights (steps,) of a quadrature by its name in Captum.

    Raises:
        AssertionError: for an unknown name, or less than one step.
    """
    if method not in _QUADRATURES:
        raise AssertionError(f"`method` must be one of {', '.join(_QUADRATURES)}; got {method!r}")
    if steps < 1:
        raise AssertionError(f"`n_steps` must be a positive whole number, got {steps!r}")
    points, weights = quadrature_nodes(_QUADRATURES[method], steps)
    return points[None], weights * (steps - 1) / steps if exact_peer and method == "riemann_trapezoid" else weights


def integrate_inputs(
    method: PathAttribution,
    call: Call,
    starts: Values,
    quadrature: tuple[Tensor, Tensor],
    batch_size: int | None = None,
) -> Values:
    """Integrate the gradients from starts to the call's inputs."""
    path = starts, tuple(tensor.detach() for tensor in call.inputs)
    batches = call.batches(batch_size)

    def gradients(copies: Values, block: Block) -> Values:
        return method.gradients_at(call, copies, block.rows)

    return integrate(method, path, quadrature, gradients, batches)


def integrate(
    method: PathAttribution,
    path: tuple[Values, Values],
    quadrature: tuple[Tensor, Tensor],
    gradients: Callable[[Values, Block], Values],
    batches: Batches,
) -> Values:
    """Integrate gradients along straight paths, times the differences where the method multiplies by them.

    Args:
        method: the method.
        path: starts and ends, (N, ...) each.
        quadrature: points (N or 1, steps) and weights (steps,).
        gradients: from a block's copies (M, ...) to gradients.
        batches: splits the work.
    """
    starts, ends = path
    count = len(ends[0])
    points, weights = quadrature[0].expand(count, -1), quadrature[1]
    spans = tuple(end - start for end, start in zip(ends, starts, strict=True))
    totals = [torch.zeros_like(span) for span in spans]

    def copies(block: Block) -> Values:
        rows = block.place[0]
        pairs = zip(starts, spans, strict=True)
        return tuple(_points_on_path(start[rows], span[rows], points[block.place]) for start, span in pairs)

    for block, parts in batches.each(count, points.shape[1], lambda block: gradients(copies(block), block)):
        rows, steps = block.place
        for total, part in zip(totals, parts, strict=True):
            by_step = part.unflatten(0, (len(block.images), len(block.variants))).movedim(1, -1)
            total[rows] += torch.tensordot(by_step, weights[steps].to(by_step), 1)
    if not method.multiplies_by_inputs:
        return tuple(totals)
    return tuple(total * span for total, span in zip(totals, spans, strict=True))


def _points_on_path(start: Tensor, span: Tensor, points: Tensor) -> Tensor:
    """Return (n * m, ...), start + point * span for every point (n, m)."""
    alpha = points.to(span).reshape(*points.shape, *[1] * (span.dim() - 1))
    return (start.unsqueeze(1) + alpha * span.unsqueeze(1)).flatten(0, 1)
