"""Gradients with respect to the inputs, plain or with other backward rules for rectifiers."""

import torch
from torch import nn

from fastcam.compat.captum.attr._bases import GradientAttribution
from fastcam.compat.captum.attr._calls import Call, Rectifiers, Target, TensorOrTuple, format_like
from fastcam.graph.relu_rules import ReluRule


class Saliency(GradientAttribution):
    """The gradient of the output with respect to every input value (arXiv:1312.6034)."""

    def attribute(
        self, inputs: TensorOrTuple, target: Target = None, abs: bool = True, additional_forward_args: object = None
    ) -> TensorOrTuple:
        """Return the gradients, shaped as the inputs.

        Args:
            inputs: a tensor, or a tuple of them.
            target: selects the score.
            abs: return absolute values.
            additional_forward_args: further arguments of the forward function.
        """
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        gradients = self.gradients_at(call, call.inputs)
        return format_like(inputs, tuple(map(torch.abs, gradients)) if abs else gradients)


class InputXGradient(GradientAttribution):
    """Every input value times its gradient (arXiv:1605.01713)."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """True."""
        return True

    def attribute(
        self, inputs: TensorOrTuple, target: Target = None, additional_forward_args: object = None
    ) -> TensorOrTuple:
        """Return the products, shaped as the inputs; the arguments are those of :meth:`Saliency.attribute`."""
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        pairs = zip(call.inputs, self.gradients_at(call, call.inputs), strict=True)
        return format_like(inputs, tuple(tensor.detach() * gradient for tensor, gradient in pairs))


class ModifiedReluGradientAttribution(GradientAttribution):
    """Gradients with another backward rule for rectifiers, in modules and functions, in place or not.

    Args:
        model: the model; it is not changed.
        exact_peer: apply the rule to ``nn.ReLU`` modules only, as Captum does.
    """

    replaceable_gradients = False
    rule: ReluRule

    def __init__(self, model: nn.Module, *, exact_peer: bool = False) -> None:
        super().__init__(model)
        self.model = model
        self.rectifiers: Rectifiers = "modules" if exact_peer else "any"

    def attribute(
        self, inputs: TensorOrTuple, target: Target = None, additional_forward_args: object = None
    ) -> TensorOrTuple:
        """Return the gradients, shaped as the inputs; the arguments are those of :meth:`Saliency.attribute`."""
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        gradients = call.gradients(call.inputs, rule=self.rule, rectifiers=self.rectifiers)
        return format_like(inputs, gradients)


class GuidedBackprop(ModifiedReluGradientAttribution):
    """Guided backpropagation: rectifies the gradient, too (arXiv:1412.6806)."""

    rule = "guided"


class Deconvolution(ModifiedReluGradientAttribution):
    """The deconvolutional network: rectifies the gradient only (arXiv:1311.2901)."""

    rule = "deconvnet"
