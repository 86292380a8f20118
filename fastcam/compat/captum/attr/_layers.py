"""Attributions to the inputs or outputs of a layer, from one pass."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastcam import ops
from fastcam.compat.captum.attr._at_layers import Values, format_values, run_layers
from fastcam.compat.captum.attr._bases import GradientAttribution, Layer, LayerAttribution
from fastcam.compat.captum.attr._calls import Call, Target, TensorOrTuple, Tensors, format_like, recording
from fastcam.compat.captum.attr._pixels import GuidedBackprop


class LayerActivation(LayerAttribution):
    """The layer's outputs, or inputs."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: activations are values, not slopes."""
        return True

    def attribute(
        self, inputs: Tensors, additional_forward_args: object = None, attribute_to_layer_input: bool = False
    ) -> Any:
        """Return the detached tensors: a list for a list of layers, a tuple for a layer with several tensors.

        Args:
            inputs: a tensor, or a tuple of them.
            additional_forward_args: further arguments of the forward function.
            attribute_to_layer_input: return what the layer takes.
        """
        call = Call(self.forward_func, inputs, None, additional_forward_args)
        return format_values(self.layer, run_layers(call, self.layer, attribute_to_layer_input).values)


class LayerGradientXActivation(LayerAttribution, GradientAttribution):
    """The layer's output times its gradient.

    Args:
        forward_func: a model, or any function that runs one.
        layer: the module, or a list of modules.
        device_ids: kept, and not used.
        multiply_by_inputs: False for the gradients only.
        memory_efficient: kept, and not used: nothing is held longer than needed.
    """

    replaceable_gradients = False

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
        """The constructor's ``multiply_by_inputs``."""
        return self._multiply_by_inputs

    def attribute(
        self,
        inputs: Tensors,
        target: Target = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return the products, shaped as the layer's tensors.

        Args:
            inputs: a tensor, or a tuple of them.
            target: selects the score.
            additional_forward_args: further arguments of the forward function.
            attribute_to_layer_input: attribute to what the layer takes.
            grad_kwargs: options of :func:`torch.autograd.grad`.
        """
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        run = run_layers(call, self.layer, attribute_to_layer_input, with_graph=True)
        gradients = run.gradients(call, grad_kwargs)
        return format_values(self.layer, list(map(self.multiply_gradient_acts, gradients, run.values)))

    def multiply_gradient_acts(self, gradients: Values, evals: Values) -> Values:
        """Return the products, or the gradients only."""
        if not self.multiplies_by_inputs:
            return gradients
        return tuple(gradient * value for gradient, value in zip(gradients, evals, strict=True))


class LayerGradCam(LayerAttribution, GradientAttribution):
    """Grad-CAM (arXiv:1610.02391), signed."""

    replaceable_gradients = False

    def attribute(
        self,
        inputs: Tensors,
        target: Target = None,
        additional_forward_args: object = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return (N, 1, *s), the layer's channels (N, C, *s) weighted by their mean gradients and summed.

        The arguments are those of :meth:`LayerGradientXActivation.attribute`; ``relu_attributions`` keeps the positive
        part only, ``attr_dim_summation=False`` returns the weighted channels, (N, C, *s).
        """
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        run = run_layers(call, self.layer, attribute_to_layer_input, with_graph=True)
        (gradients,) = run.gradients(call, grad_kwargs)
        pairs = zip(run.values[0], gradients, strict=True)
        maps = tuple(_weight_channels(value, gradient, attr_dim_summation) for value, gradient in pairs)
        return format_values(self.layer, [tuple(map(torch.relu, maps)) if relu_attributions else maps])


def _weight_channels(activations: Tensor, gradients: Tensor, summed: bool) -> Tensor:
    """Return the channels times their mean gradients, (N, C, *s), or their sum, (N, 1, *s)."""
    spatial = list(range(2, activations.dim()))
    if summed and len(spatial) in (1, 2, 3) and not gradients.requires_grad:
        return ops.grad_cam(activations, gradients, relu=False).unsqueeze(1).to(activations.dtype)
    weighted = (gradients.mean(spatial, keepdim=True) if spatial else gradients) * activations
    return weighted.sum(1, keepdim=True) if summed else weighted


class GuidedGradCam(GradientAttribution):
    """Guided Grad-CAM (arXiv:1610.02391, section 3.2), from one forward pass.

    Args:
        model: the model.
        layer: Grad-CAM's target layer.
        device_ids: kept, and not used.
        exact_peer: rectify in ``nn.ReLU`` modules only, as Captum does.
    """

    replaceable_gradients = False

    def __init__(
        self, model: nn.Module, layer: nn.Module, device_ids: list[int] | None = None, *, exact_peer: bool = False
    ) -> None:
        super().__init__(model)
        self.model = model
        self.grad_cam = LayerGradCam(model, layer, device_ids)
        self.guided_backprop = GuidedBackprop(model, exact_peer=exact_peer)

    def attribute(
        self,
        inputs: TensorOrTuple,
        target: Target = None,
        additional_forward_args: object = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
    ) -> TensorOrTuple:
        """Return guided backpropagation times Grad-CAM's positive part, shaped as the inputs.

        For an input whose size the map cannot be interpolated to, the result is an empty tensor, with a warning.

        The arguments are those of :meth:`LayerGradCam.attribute` and of :meth:`LayerAttribution.interpolate`.
        """
        call = Call(self.model, inputs, target, additional_forward_args)
        guided = self.guided_backprop
        with recording(), call.relu_rule(guided.rule, guided.rectifiers) as in_backward:
            leaves = call.leaves(call.inputs)
            run = run_layers(
                call, self.grad_cam.layer, attribute_to_layer_input, inputs=leaves, with_graph=True, from_start=True
            )
            (gradients,) = run.gradients(call, {"retain_graph": True})
            scores = call.single_scores(run.output)
            with in_backward(scores):
                guided_gradients = call.leaf_gradients(scores, leaves)
        if len(gradients) != 1:
            raise AssertionError(f"Guided Grad-CAM needs a layer with one tensor, this one has {len(gradients)}")
        cam = _weight_channels(run.values[0][0], gradients[0], True).clamp(min=0)
        return format_like(inputs, tuple(_times_map(gradient, cam, interpolate_mode) for gradient in guided_gradients))


def _times_map(gradients: Tensor, cam: Tensor, mode: str) -> Tensor:
    """Return gradients times the map at their size, or an empty tensor."""
    try:
        return gradients * LayerAttribution.interpolate(cam, tuple(gradients.shape[2:]), mode)
    except (ValueError, NotImplementedError, RuntimeError) as error:
        warnings.warn(
            f"an input of shape {tuple(gradients.shape)} gets an empty tensor, since the map {tuple(cam.shape)} "
            f"cannot be interpolated to its size: {error}",
            stacklevel=3,
        )
        return torch.empty(0)
