"""Gradients down to the inputs, plain or with other rules for rectifiers."""

from typing import Any, Literal

from torch import nn

from fastcam.compat.captum.attr._bases import GradientAttribution
from fastcam.compat.captum.attr._calls import Call, Given, Target, like
from fastcam.graph.relu_rules import ReluRule


class Saliency(GradientAttribution):
    """The gradient of the output with respect to every input value (arXiv:1312.6034)."""

    def attribute(
        self, inputs: Given, target: Target = None, abs: bool = True, additional_forward_args: Any = None
    ) -> Any:
        """The gradients, shaped as the inputs.

        Args:
            inputs: a tensor, or a tuple of them.
            target: which output counts.
            abs: their absolute values.
            additional_forward_args: what else the forward function takes.
        """
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        found = call.gradients(call.inputs)
        return like(inputs, tuple(each.abs() for each in found) if abs else found)


class InputXGradient(GradientAttribution):
    """Every input value times its gradient (arXiv:1605.01713)."""

    @property
    def multiplies_by_inputs(self) -> bool:
        """Always."""
        return True

    def attribute(self, inputs: Given, target: Target = None, additional_forward_args: Any = None) -> Any:
        """The products, shaped as the inputs; the arguments are those of :meth:`Saliency.attribute`."""
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        pairs = zip(call.inputs, call.gradients(call.inputs), strict=True)
        return like(inputs, tuple(each.detach() * gradient for each, gradient in pairs))


class ModifiedReluGradientAttribution(GradientAttribution):
    """Gradients with another rule for the rectifiers, in modules and functions, in place or not.

    Args:
        model: the model; it is not changed.
        exact_peer: apply the rule to ``nn.ReLU`` modules alone, as Captum does.
    """

    rule: ReluRule

    def __init__(self, model: nn.Module, *, exact_peer: bool = False) -> None:
        super().__init__(model)
        self.model = model
        self.rectifiers: Literal["any", "modules"] = "modules" if exact_peer else "any"

    def attribute(self, inputs: Given, target: Target = None, additional_forward_args: Any = None) -> Any:
        """The gradients, shaped as the inputs; the arguments are those of :meth:`Saliency.attribute`."""
        call = Call(self.forward_func, inputs, target, additional_forward_args)
        return like(inputs, call.gradients(call.inputs, rule=self.rule, rectifiers=self.rectifiers))


class GuidedBackprop(ModifiedReluGradientAttribution):
    """Guided backpropagation: rectifies what comes back, too (arXiv:1412.6806)."""

    rule = "guided"


class Deconvolution(ModifiedReluGradientAttribution):
    """The deconvolutional network: rectifies what comes back, and only that (arXiv:1311.2901)."""

    rule = "deconvnet"
