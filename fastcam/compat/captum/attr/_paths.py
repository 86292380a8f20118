"""Gradients gathered on the way from a baseline to the input, or to what the input makes of a layer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastcam.compat.captum.attr._at_layers import formatted, look
from fastcam.compat.captum.attr._baselines import Baselines, baselines_of, check_shapes, filled
from fastcam.compat.captum.attr._bases import GradientAttribution, Layer, LayerAttribution
from fastcam.compat.captum.attr._behind import Behind
from fastcam.compat.captum.attr._calls import Call, Given, Target, like
from fastcam.methods.path import Quadrature, nodes
from fastcam.model.batching import Batches, Block

_QUADRATURES: dict[str, Quadrature] = {
    "gausslegendre": "gauss_legendre",
    "riemann_left": "riemann_left",
    "riemann_right": "riemann_right",
    "riemann_middle": "riemann_middle",
    "riemann_trapezoid": "trapezoid",
}


class IntegratedGradients(GradientAttribution):
    """Integrated Gradients (arXiv:1703.01365).

    Args:
        forward_func: a model, or any function of tensors.
        multiply_by_inputs: False for the mean gradients, without the way from the baseline.
        exact_peer: weigh the trapezoidal rule as Captum does, whose weights sum to 1 - 1 / n_steps.
    """

    def __init__(
        self, forward_func: Callable[..., Tensor], multiply_by_inputs: bool = True, *, exact_peer: bool = False
    ) -> None:
        super().__init__(forward_func)
        self._multiply_by_inputs, self.exact_peer = multiply_by_inputs, exact_peer

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
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """The attributions, shaped as the inputs; with them (N,), what they miss of the output's way, where asked for.

        Args:
            inputs: a tensor, or a tuple of them.
            baselines: where the way begins: a number or a tensor for each input, None for 0.
            target: which output counts.
            additional_forward_args: what else the forward function takes.
            n_steps: gradients on the way.
            method: how the integral is taken: "gausslegendre", "riemann_left", "riemann_right", "riemann_middle" or
                "riemann_trapezoid".
            internal_batch_size: copies at a time; None for as many as suit the device.
            return_convergence_delta: return the second tensor.
        """
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        starts = baselines_of(call.inputs, baselines)
        check_shapes(call.inputs, starts)
        quadrature = weights_of(method, n_steps, self.exact_peer)
        ends, first = tuple(each.detach() for each in call.inputs), filled(call.inputs, starts)
        batches = call.batches("auto" if internal_batch_size is None else internal_batch_size)
        found = gathered(
            ends, first, batches, quadrature, lambda copies, block: call.gradients(copies, block.rows), self
        )
        if not return_convergence_delta:
            return like(inputs, found)
        delta = self.compute_convergence_delta(found, starts, call.inputs, target, additional_forward_args)
        return like(inputs, found), delta


def weights_of(method: str, steps: int, exact_peer: bool) -> tuple[Tensor, Tensor]:
    """Places in [0, 1] and weights (steps,) of a quadrature by its name in Captum.

    Raises:
        AssertionError: for one that is not known, or less than one step.
    """
    if method not in _QUADRATURES:
        raise AssertionError(f"`method` must be one of {', '.join(_QUADRATURES)}; got {method!r}")
    if steps < 1:
        raise AssertionError(f"`n_steps` must be a positive whole number, got {steps!r}")
    places, weights = nodes(_QUADRATURES[method], steps)
    return places, weights * (steps - 1) / steps if exact_peer and method == "riemann_trapezoid" else weights


def gathered(
    ends: tuple[Tensor, ...],
    starts: tuple[Tensor, ...],
    batches: Batches,
    quadrature: tuple[Tensor, Tensor],
    gradients: Callable[[tuple[Tensor, ...], Block], tuple[Tensor, ...]],
    method: GradientAttribution,
) -> tuple[Tensor, ...]:
    """The integral of the gradients from starts to ends, (N, ...) each, times the way where the method multiplies."""
    places, weights = quadrature
    ways = tuple(end - start for end, start in zip(ends, starts, strict=True))
    totals = [torch.zeros_like(way) for way in ways]

    def copies(block: Block) -> tuple[Tensor, ...]:
        which, steps = block.place
        return tuple(
            _on_the_way(start[which], way[which], places[steps]) for start, way in zip(starts, ways, strict=True)
        )

    for block, found in batches.each(len(ends[0]), len(places), lambda block: gradients(copies(block), block)):
        which, steps = block.place
        for total, each in zip(totals, found, strict=True):
            parts = each.unflatten(0, (len(block.images), len(block.variants)))
            total[which] += torch.tensordot(parts.movedim(1, -1), weights[steps].to(parts), 1)
    return tuple(total * way if method.multiplies_by_inputs else total for total, way in zip(totals, ways, strict=True))


def _on_the_way(start: Tensor, way: Tensor, places: Tensor) -> Tensor:
    """(n * m, ...): start + place * way for every place (m,)."""
    alpha = places.to(way).reshape(-1, *[1] * (way.dim() - 1))
    return (start.unsqueeze(1) + alpha * way.unsqueeze(1)).flatten(0, 1)


class LayerIntegratedGradients(LayerAttribution, GradientAttribution):
    """Integrated Gradients on the way from what a layer makes of the baseline to what it makes of the input.

    Args:
        forward_func: a model, or any function that runs one.
        layer: the module, or a list of modules.
        device_ids: kept, and not used.
        multiply_by_inputs: False for the mean gradients.
        exact_peer: as for :class:`IntegratedGradients`.
    """

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
        self.ig = IntegratedGradients(forward_func, multiply_by_inputs, exact_peer=exact_peer)

    @property
    def multiplies_by_inputs(self) -> bool:
        """As it was made."""
        return self.ig.multiplies_by_inputs

    def has_convergence_delta(self) -> bool:
        """Always."""
        return True

    def attribute(
        self,
        inputs: Given,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The attributions, shaped as the layer's tensors; the part in front of one layer runs once.

        Args:
            inputs: a tensor, or a tuple of them.
            baselines: as for :meth:`IntegratedGradients.attribute`.
            target: which output counts.
            additional_forward_args: what else the forward function takes.
            n_steps: gradients on the way.
            method: how the integral is taken.
            internal_batch_size: copies at a time; None for as many as suit the device.
            return_convergence_delta: return (N,), what the attributions miss of the output's way, too.
            attribute_to_layer_input: of what the layer takes.
            grad_kwargs: more arguments of :func:`torch.autograd.grad`.
        """
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        starts = baselines_of(call.inputs, baselines)
        check_shapes(call.inputs, starts)
        quadrature = weights_of(method, n_steps, self.ig.exact_peer)
        end = look(call, self.layer, attribute_to_layer_input)
        start = look(call, self.layer, attribute_to_layer_input, inputs=filled(call.inputs, starts))
        behind = Behind(call, self.layer, attribute_to_layer_input, end)

        def gradients(copies: tuple[Tensor, ...], block: Block) -> tuple[Tensor, ...]:
            return behind.gradients(copies, block, grad_kwargs or {})

        batches = call.batches("auto" if internal_batch_size is None else internal_batch_size)
        found = gathered(end.flat, start.flat, batches, quadrature, gradients, self)
        shaped = formatted(self.layer, end.by_layer(found))
        if not return_convergence_delta:
            return shaped
        return shaped, self.compute_convergence_delta(found, starts, call.inputs, target, additional_forward_args)
