"""Attributions to what a layer takes or returns, from one pass."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastcam import ops
from fastcam.compat.captum.attr._at_layers import Values, formatted, look
from fastcam.compat.captum.attr._bases import GradientAttribution, Layer, LayerAttribution
from fastcam.compat.captum.attr._calls import Call, Given, Target, check_scores, like, recording
from fastcam.compat.captum.attr._pixels import GuidedBackprop


class LayerActivation(LayerAttribution):
    """What the layer returns, or takes."""

    def attribute(
        self, inputs: Given, additional_forward_args: Any = None, attribute_to_layer_input: bool = False
    ) -> Any:
        """The tensors, out of the graph: of a list of layers a list, of a layer with several tensors a tuple.

        Args:
            inputs: a tensor, or a tuple of them.
            additional_forward_args: what else the forward function takes.
            attribute_to_layer_input: what the layer takes.
        """
        call = Call(self.forward_func, inputs, None, additional_forward_args)
        return formatted(self.layer, look(call, self.layer, attribute_to_layer_input).values)


class LayerGradientXActivation(LayerAttribution, GradientAttribution):
    """What the layer returns, times its gradient.

    Args:
        forward_func: a model, or any function that runs one.
        layer: the module, or a list of modules.
        device_ids: kept, and not used.
        multiply_by_inputs: False for the gradients alone.
        memory_efficient: kept, and not used: nothing is held longer than needed.
    """

    def __init__(
        self,
        forward_func: Callable[..., Tensor],
        layer: Layer,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._multiply_by_inputs, self.memory_efficient = multiply_by_inputs, memory_efficient

    @property
    def multiplies_by_inputs(self) -> bool:
        """As it was made."""
        return self._multiply_by_inputs

    def attribute(
        self,
        inputs: Given,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The products, shaped as the layer's tensors.

        Args:
            inputs: a tensor, or a tuple of them.
            target: which output counts.
            additional_forward_args: what else the forward function takes.
            attribute_to_layer_input: of what the layer takes.
            grad_kwargs: more arguments of :func:`torch.autograd.grad`.
        """
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        seen = look(call, self.layer, attribute_to_layer_input, with_graph=True)
        found = [
            self.multiply_gradient_acts(gradients, values)
            for gradients, values in zip(seen.gradients(call, grad_kwargs), seen.values, strict=True)
        ]
        return formatted(self.layer, found)

    def multiply_gradient_acts(self, gradients: Values, evals: Values) -> Values:
        """The products, or the gradients alone."""
        if not self.multiplies_by_inputs:
            return gradients
        return tuple(gradient * each for gradient, each in zip(gradients, evals, strict=True))


class LayerGradCam(LayerAttribution, GradientAttribution):
    """Grad-CAM (arXiv:1610.02391), signed."""

    def attribute(
        self,
        inputs: Given,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """(N, 1, *s): the channels (N, C, *s) of the layer, weighted by their mean gradients and summed.

        Args:
            inputs: a tensor, or a tuple of them.
            target: which output counts.
            additional_forward_args: what else the forward function takes.
            attribute_to_layer_input: of what the layer takes.
            relu_attributions: the positive part alone.
            attr_dim_summation: False for the weighted channels, (N, C, *s).
            grad_kwargs: more arguments of :func:`torch.autograd.grad`.
        """
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        seen = look(call, self.layer, attribute_to_layer_input, with_graph=True)
        (gradients,) = seen.gradients(call, grad_kwargs)
        pairs = zip(seen.values[0], gradients, strict=True)
        found = tuple(_weighted(each, slope, attr_dim_summation) for each, slope in pairs)
        return formatted(self.layer, [tuple(each.clamp(min=0) for each in found) if relu_attributions else found])


def _weighted(activations: Tensor, gradients: Tensor, summed: bool) -> Tensor:
    """Channels times their mean gradients, (N, C, *s), or their sum, (N, 1, *s)."""
    spatial = list(range(2, activations.dim()))
    if summed and len(spatial) in (1, 2, 3) and not gradients.requires_grad:
        return ops.grad_cam(activations, gradients, relu=False).unsqueeze(1).to(activations.dtype)
    weighted = (gradients.mean(spatial, keepdim=True) if spatial else gradients) * activations
    return weighted.sum(1, keepdim=True) if summed else weighted


class GuidedGradCam(GradientAttribution):
    """Guided Grad-CAM (arXiv:1610.02391, section 3.2), from one forward pass.

    Args:
        model: the model.
        layer: where Grad-CAM looks.
        device_ids: kept, and not used.
        exact_peer: rectify in ``nn.ReLU`` modules alone, as Captum does.
    """

    def __init__(
        self, model: nn.Module, layer: nn.Module, device_ids: list[int] | None = None, *, exact_peer: bool = False
    ) -> None:
        super().__init__(model)
        self.model = model
        self.grad_cam = LayerGradCam(model, layer, device_ids)
        self.guided_backprop = GuidedBackprop(model, exact_peer=exact_peer)

    def attribute(
        self,
        inputs: Given,
        target: Target = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """Guided backpropagation times Grad-CAM's positive part, shaped as the inputs.

        An input of a size that the map cannot be interpolated to gets an empty tensor, and a warning.

        Args:
            inputs: a tensor, or a tuple of them.
            target: which output counts.
            additional_forward_args: what else the model takes.
            interpolate_mode: of :meth:`LayerAttribution.interpolate`.
            attribute_to_layer_input: of what the layer takes.
        """
        call = Call(self.model, inputs, target, additional_forward_args)
        guided = self.guided_backprop
        with recording(), call.ruled(guided.rule, guided.rectifiers) as following:
            leaves = call.leaves(call.inputs)
            seen = look(
                call, self.grad_cam.layer, attribute_to_layer_input, inputs=leaves, with_graph=True, from_start=True
            )
            scores = call.chosen(seen.output)
            check_scores(scores)
            (gradients,) = seen.gradients(call, {"retain_graph": True})
            with following(scores):
                slopes = torch.autograd.grad(torch.unbind(scores), leaves)
        if len(gradients) != 1:
            raise AssertionError(f"Guided Grad-CAM needs a layer with one tensor, this one has {len(gradients)}")
        cam = _weighted(seen.values[0][0], gradients[0], True).clamp(min=0)
        return like(inputs, tuple(_times(each, cam, interpolate_mode) for each in slopes))


def _times(slopes: Tensor, cam: Tensor, mode: str) -> Tensor:
    """Slopes times the map at their size, or an empty tensor."""
    try:
        return slopes * LayerAttribution.interpolate(cam, tuple(slopes.shape[2:]), mode)
    except (ValueError, NotImplementedError, RuntimeError) as error:
        warnings.warn(
            f"an input of shape {tuple(slopes.shape)} gets an empty tensor, since the map {tuple(cam.shape)} cannot be "
            f"interpolated to its size: {error}",
            stacklevel=3,
        )
        return torch.empty(0)
