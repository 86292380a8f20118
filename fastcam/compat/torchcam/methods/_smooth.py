"""Smooth Grad-CAM++."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.compat.torchcam.methods._gradcam import _GradCAM
from fastcam.compat.torchcam.methods._hooks import ModelArguments
from fastcam.compat.torchcam.methods._score_cam import _InputCAM
from fastcam.compat.torchcam.methods._selection import Classes, ModelOutput
from fastcam.compat.torchcam.methods.core import TargetLayer


class SmoothGradCAMpp(_GradCAM, _InputCAM):
    """Smooth Grad-CAM++ (arXiv:1908.01224): Grad-CAM++ with the means of the gradients' powers over noisy images.

    alpha = mean G^2 / (2 mean G^2 + (sum_p A) mean G^3) as in Grad-CAM++ (the paper prints mean G above the bar), and
    w = sum_p alpha ReLU(mean G). With ``exact_peer=True`` the sum over positions is that of A mean G^3, and G in the
    last factor and the weighted A are those of the last noisy image.

    Args:
        model: any module.
        target_layer: a module, its name, or a list of either; None for the last one with a spatial output.
        num_samples: number of noisy images.
        std: standard deviation of the noise, drawn by torch's default generator.
        input_shape: (C, *S) of the image used to find the layer.
        kwargs: as for :class:`_CAM`.
    """

    _score_used = False

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        num_samples: int = 4,
        std: float = 0.3,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.num_samples, self.std = num_samples, std

    def _get_weights(
        self, class_idx: Classes | None, scores: ModelOutput | None = None, *, eps: float = 1e-8, **kwargs: Any
    ) -> list[Tensor]:
        """Return per layer the weights of the channels (N, C)."""
        clean, arguments = list(self.hook_a), self._record.inputs
        sums = [[torch.zeros_like(a) for a in clean] for _ in range(3)]  # of G, G^2, G^3
        try:
            for _ in range(self.num_samples):
                self._differentiate_noisy(arguments, class_idx, **kwargs)
                sums = [
                    [total + gradient**power for total, gradient in zip(totals, self.hook_g, strict=True)]
                    for power, totals in enumerate(sums, 1)
                ]
        finally:
            noisy, self.hook_a, self._record.inputs = self.hook_a, [*clean], arguments
        means = [[total / self.num_samples for total in totals] for totals in sums]
        if not self.exact_peer:
            return [_weights(a, *moments) for a, *moments in zip(clean, *means, strict=True)]
        self.hook_a = [*noisy]
        return [
            _weights_of_peer(a, last, g2, g3, eps)
            for a, last, _, g2, g3 in zip(clean, self.hook_g, *means, strict=True)
        ]

    def _differentiate_noisy(self, arguments: ModelArguments | None, class_idx: Classes | None, **kwargs: Any) -> None:
        """Set ``hook_g`` and ``hook_a`` to those of the image with new noise."""
        self._record.inputs = arguments
        inputs = self._inputs()
        noise = torch.distributions.Normal(0, self.std).sample(inputs.images.shape)
        images = inputs.images + noise.to(inputs.images)
        # With gradients disabled, the graph begins at the target layer, which is sufficient.
        with torch.inference_mode(False), torch.set_grad_enabled(self.exact_peer):
            output = self._run(inputs.with_copies(images, torch.arange(len(images))))
        self._backprop(output, class_idx, **kwargs)

    def _extra_repr(self) -> str:
        return f"{super()._extra_repr()}, num_samples={self.num_samples}, std={self.std}"


def _weights(activations: Tensor, g1: Tensor, g2: Tensor, g3: Tensor) -> Tensor:
    total = activations.flatten(2).sum(-1).reshape(*g1.shape[:2], *[1] * (g1.dim() - 2))
    denominator = 2 * g2 + total * g3
    alpha = torch.where(denominator == 0, 0, g2 / torch.where(denominator == 0, 1, denominator))
    return (alpha * F.relu(g1)).flatten(2).sum(-1)


def _weights_of_peer(activations: Tensor, last: Tensor, g2: Tensor, g3: Tensor, eps: float) -> Tensor:
    total = (g3 * activations).flatten(2).sum(-1).reshape(*g2.shape[:2], *[1] * (g2.dim() - 2))
    return (g2 / (2 * g2 + total + eps) * F.relu(last)).flatten(2).sum(-1)
