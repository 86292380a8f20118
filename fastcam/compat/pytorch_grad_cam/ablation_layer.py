"""The selection of channels for Ablation-CAM, without replacing layers of the model."""

import numpy as np
import torch
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam._types import Array
from fastcam.compat.pytorch_grad_cam.utils.svd_on_activations import get_2d_projection


class AblationLayer(nn.Module):
    """The selection of channels; unlike in pytorch-grad-cam, no layer of the model is replaced."""

    def objectiveness_mask_from_svd(self, activations: Array, threshold: float = 0.01) -> Array:
        """Return (*s) bool: the first principal component of the activations (C, *s) exceeds the threshold."""
        share = np.abs(get_2d_projection(activations[None])[0])
        share = share - share.min()
        return np.asarray(share / share.max() > threshold)

    def activations_to_be_ablated(self, activations: Array, ratio_channels_to_ablate: float = 1.0) -> Array:
        """Return the channels of activations (C, *s) to ablate, int32.

        For a ratio below 1, channels are ordered by their share inside the mask of the first principal component, and
        that ratio is taken from either end.
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
    """The same as :class:`AblationLayer`: ``reshape_transform`` defines the channel axis."""


class AblationLayerFasterRCNN(AblationLayer):
    """The same for a target layer that returns a mapping of levels; an ablated channel becomes -1000."""


def scores_of_selected(
    ablated_scores: Tensor, scores: Tensor, activations: Tensor, layer: AblationLayer, ratio: float
) -> Tensor:
    """Return (N, C): the ablated scores for the channels that a layer selects, the original scores for the others."""
    selected = scores.unsqueeze(1).expand_as(ablated_scores).clone()
    for row, values in enumerate(activations):
        channels = torch.from_numpy(np.unique(layer.activations_to_be_ablated(values.cpu().numpy(), ratio))).long()
        selected[row, channels] = ablated_scores[row, channels]
    return selected
