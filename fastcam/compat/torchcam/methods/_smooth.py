"""Smooth Grad-CAM++."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.compat.torchcam.methods._gradcam import _GradCAM
from fastcam.compat.torchcam.methods._score_cam import _InputCAM
from fastcam.compat.torchcam.methods.core import TargetLayer


class SmoothGradCAMpp(_GradCAM, _InputCAM):
    """Smooth Grad-CAM++ (arXiv:1908.01224): Grad-CAM++ with the means of the gradients' powers over noisy images.

    alpha = mean G^2 / (2 mean G^2 + (sum_p A) mean G^3) as in Grad-CAM++ (the paper prints mean G above the bar), and
    w = sum_p alpha ReLU(mean G). With ``exact_peer=True`` the sum over positions is that of A mean G^3, and G in the
    last factor and the A that is weighted are those of the last noisy image.

    Args:
        model: any module.
        target_layer: a module, its name, or a list of either; None for the last one with a map.
        num_samples: noisy images.
        std: of the noise, drawn by torch's default generator.
        input_shape: (C, *S), of the image that the layer is looked for with.
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

    def _get_weights(self, class_idx: Any, scores: Any = None, *, eps: float = 1e-8, **kwargs: Any) -> list[Tensor]:
        """Per layer, the weights of the channels (N, C)."""
        clean, inputs = list(self.hook_a), self._kept.inputs
        sums = [[torch.zeros_like(a) for a in clean] for _ in range(3)]  # of G, G^2, G^3
        try:
            for _ in range(self.num_samples):
                self._differentiate_noisy(inputs, class_idx, **kwargs)
                sums = [
                    [total + gradient**power for total, gradient in zip(each, self.hook_g, strict=True)]
                    for power, each in enumerate(sums, 1)
                ]
        finally:
            noisy, self.hook_a, self._kept.inputs = self.hook_a, [*clean], inputs
        means = [[total / self.num_samples for total in each] for each in sums]
        if not self.exact_peer:
            return [_weights(a, *each) for a, *each in zip(clean, *means, strict=True)]
        self.hook_a = [*noisy]
        return [
            _weights_of_peer(a, last, g2, g3, eps)
            for a, last, _, g2, g3 in zip(clean, self.hook_g, *means, strict=True)
        ]

    def _differentiate_noisy(self, inputs: Any, class_idx: Any, **kwargs: Any) -> None:
        """Sets ``hook_g`` and ``hook_a`` to those of the image with new noise."""
        self._kept.inputs = inputs
        given = self._inputs()
        images = given.images + torch.distributions.Normal(0, self.std).sample(given.images.shape).to(given.images)
        # Without gradients recording begins at the layer, which is all that is needed.
        with torch.inference_mode(False), torch.set_grad_enabled(self.exact_peer):
            output = self._run(given.with_copies(images, torch.arange(len(images))))
        self._backprop(output, class_idx, **kwargs)

    def _extra_repr(self) -> str:
        return f"{super()._extra_repr()}, num_samples={self.num_samples}, std={self.std}"


def _weights(activations: Tensor, g1: Tensor, g2: Tensor, g3: Tensor) -> Tensor:
    total = activations.flatten(2).sum(-1).reshape(*g1.shape[:2], *[1] * (g1.dim() - 2))
    below = 2 * g2 + total * g3
    alpha = torch.where(below == 0, 0, g2 / torch.where(below == 0, 1, below))
    return (alpha * F.relu(g1)).flatten(2).sum(-1)


def _weights_of_peer(activations: Tensor, last: Tensor, g2: Tensor, g3: Tensor, eps: float) -> Tensor:
    total = (g3 * activations).flatten(2).sum(-1).reshape(*g2.shape[:2], *[1] * (g2.dim() - 2))
    return (g2 / (2 * g2 + total + eps) * F.relu(last)).flatten(2).sum(-1)
