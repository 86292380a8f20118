"""ShapleyCAM: weights from gradients and curvature, derived from Shapley values."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastcam.compat.pytorch_grad_cam._types import ReshapeTransform
from fastcam.compat.pytorch_grad_cam.base_cam import BaseCAM
from fastcam.compat.pytorch_grad_cam.rules import principal_component
from fastcam.model import capture, layers
from fastcam.model.gradients import gradients
from fastcam.model.inputs import Inputs
from fastcam.targets.binding import Target as EngineTarget
from fastcam.targets.binding import bind


class ShapleyCAM(BaseCAM):
    """ShapleyCAM (arXiv:2501.06261): weights mean(G - H A / 2), H the Hessian of the score at the activations A.

    Args:
        model: any module.
        target_layers: modules.
        reshape_transform: from the output of a layer to (N, C, *s).
        exact_peer: see ``DIFFERENCES``.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: ReshapeTransform | None = None,
        *,
        exact_peer: bool = False,
    ) -> None:
        super().__init__(
            model, target_layers, reshape_transform, compute_input_gradient=True, detach=False, exact_peer=exact_peer
        )

    def native(self, images: Tensor, target: EngineTarget, eigen_smooth: bool) -> tuple[Any, list[Tensor]]:
        """Return the model's output, and per layer the signed map (N, *s)."""
        resolved = layers.resolve(self.model, self.target_layers or None, Inputs.of(images))
        with sdpa_kernel(SDPBackend.MATH):  # other backends have no second derivative
            captured = capture.forward(self.model, images, resolved, with_graph=True)
        with torch.inference_mode(False), torch.enable_grad():
            scores = bind(captured.output, target, len(images))(captured.output, torch.arange(len(images)))
            names = [f"target layer {layer.name!r}" for layer in resolved]
            at_layers = gradients(scores, captured.activations, names, differentiable=True)
            terms = [
                gradient - _curvature(gradient, activations) / 2
                for gradient, activations in zip(at_layers, captured.activations, strict=True)
            ]
        pairs = zip(captured.activations, terms, strict=True)
        return captured.output.detach(), [self._map(activations, term, eigen_smooth) for activations, term in pairs]

    def _map(self, activations: Tensor, term: Tensor, eigen_smooth: bool) -> Tensor:
        reshape = self.reshape_transform or (lambda tensor: tensor)
        maps, term = reshape(activations.detach()), reshape(term.detach())
        flat = maps.flatten(2)
        weighted = term.flatten(2).mean(-1, keepdim=True) * flat
        cam = principal_component(weighted, flat, self.exact_peer) if eigen_smooth else weighted.sum(1)
        return cam.unflatten(-1, maps.shape[2:])


def _curvature(gradient: Tensor, activations: Tensor) -> Tensor:
    """Return H A; zeros if the gradient does not depend on the activations."""
    if not gradient.requires_grad:
        return torch.zeros_like(gradient)
    (product,) = torch.autograd.grad(
        gradient, activations, grad_outputs=activations, retain_graph=True, allow_unused=True
    )
    return torch.zeros_like(gradient) if product is None else product
