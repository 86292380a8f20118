"""ShapleyCAM: gradients and their change, from the point of view of a cooperative game."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastcam.compat.pytorch_grad_cam.base_cam import BaseCAM
from fastcam.compat.pytorch_grad_cam.rules import component
from fastcam.model import capture, layers
from fastcam.model.gradients import gradients
from fastcam.model.inputs import Inputs
from fastcam.targets.binding import bind


class ShapleyCAM(BaseCAM):
    """ShapleyCAM (arXiv:2501.06261): weights mean(G - H A / 2), H the Hessian of the score at the activations A.

    Args:
        model: any module.
        target_layers: modules.
        reshape_transform: from what a layer returns to (N, C, *s).
        exact_peer: see ``DIFFERENCES``.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        *,
        exact_peer: bool = False,
    ) -> None:
        super().__init__(
            model, target_layers, reshape_transform, compute_input_gradient=True, detach=False, exact_peer=exact_peer
        )

    def native(self, images: Tensor, target: Any, eigen_smooth: bool) -> tuple[Any, list[Tensor]]:
        """The model's output, and the signed map (N, *s) of every layer."""
        chosen = layers.resolve(self.model, self.target_layers or None, Inputs.of(images))
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            found = capture.forward(self.model, images, chosen, with_graph=True)
        with torch.inference_mode(False), torch.enable_grad():
            scores = bind(found.output, target, len(images))(found.output, torch.arange(len(images)))
            names = [f"target layer {each.name!r}" for each in chosen]
            at_layers = gradients(scores, found.activations, names, differentiable=True)
            terms = [
                gradient - _curvature(gradient, each) / 2
                for gradient, each in zip(at_layers, found.activations, strict=True)
            ]
        pairs = zip(found.activations, terms, strict=True)
        return found.output.detach(), [self._map(each, term, eigen_smooth) for each, term in pairs]

    def _map(self, activations: Tensor, term: Tensor, eigen_smooth: bool) -> Tensor:
        shape = self.reshape_transform or (lambda tensor: tensor)
        maps, term = shape(activations.detach()), shape(term.detach())
        flat = maps.flatten(2)
        weighted = term.flatten(2).mean(-1, keepdim=True) * flat
        found = component(weighted, flat, self.exact_peer) if eigen_smooth else weighted.sum(1)
        return found.unflatten(-1, maps.shape[2:])


def _curvature(gradient: Tensor, activations: Tensor) -> Tensor:
    """H A; zeros where the gradient does not depend on the activations."""
    if not gradient.requires_grad:
        return torch.zeros_like(gradient)
    (found,) = torch.autograd.grad(
        gradient, activations, grad_outputs=activations, retain_graph=True, allow_unused=True
    )
    return torch.zeros_like(gradient) if found is None else found
