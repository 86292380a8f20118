"""Which channels Ablation-CAM tries; of the tool's layers, what can be called without exchanging them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

Array = np.ndarray[Any, Any]


class AblationLayer(nn.Module):
    """Chooses channels. Here no layer of the model is exchanged, so that there is nothing else for it to do."""

    def objectiveness_mask_from_svd(self, activations: Array, threshold: float = 0.01) -> Array:
        """Where the activations (C, *s) have more of their first principal component than the threshold, (*s) bool."""
        share = np.abs(get_2d_projection(activations[None])[0])
        share = share - share.min()
        return np.asarray(share / share.max() > threshold)

    def activations_to_be_ablated(self, activations: Array, ratio_channels_to_ablate: float = 1.0) -> Array:
        """The channels of activations (C, *s) to try, int32.

        Below 1, that share of the channels from the one end, and from the other, of how much of them lies where the
        first principal component does.
        """
        count = len(activations)
        if ratio_channels_to_ablate == 1.0:
            return np.arange(count, dtype=np.int32)
        mask = self.objectiveness_mask_from_svd(activations)
        strength = np.abs(activations).reshape(count, -1)
        strength = strength - strength.min(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            strength = strength / strength.max(axis=1, keepdims=True)
            order = np.argsort(np.float32((strength * mask.reshape(1, -1)).sum(axis=1) / strength.sum(axis=1)))
        share = int(count * ratio_channels_to_ablate)
        return np.concatenate([order[::-1][:share], order[:share]]).astype(np.int32)


class AblationLayerVit(AblationLayer):
    """As :class:`AblationLayer`: reshape_transform says where the channels are."""


class AblationLayerFasterRCNN(AblationLayer):
    """As :class:`AblationLayer`."""


def chosen_alone(ablated_scores: Tensor, scores: Tensor, activations: Tensor, layer: Any, ratio: float) -> Tensor:
    """Scores (N, C) without each channel, for the channels that a layer chooses; the others' as if nothing changed."""
    found = scores.unsqueeze(1).expand_as(ablated_scores).clone()
    for row, each in enumerate(activations):
        channels = torch.from_numpy(np.unique(layer.activations_to_be_ablated(each.cpu().numpy(), ratio))).long()
        found[row, channels] = ablated_scores[row, channels]
    return found
