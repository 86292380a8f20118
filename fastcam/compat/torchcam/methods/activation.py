"""Extractors without gradients: the classifier's weights, and scores of masked images."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from fastcam.compat.torchcam.methods._score_cam import ISCAM, SSCAM, ScoreCAM
from fastcam.compat.torchcam.methods._selection import Classes, ModelOutput
from fastcam.compat.torchcam.methods.core import _CAM, TargetLayer

__all__ = ["CAM", "ISCAM", "SSCAM", "ScoreCAM"]

logger = logging.getLogger(__name__)


class CAM(_CAM):
    """CAM (arXiv:1512.04150): the classifier's own weights, of networks that end in mean pooling and a linear layer.

    Args:
        model: such a network.
        target_layer: the layer before the pooling, or its name.
        fc_layer: the linear layer or 1x1 convolution, or its name; None for the model's only one.
        input_shape: (C, *S) of the image used to find the target layer.
        kwargs: as for :class:`_CAM`.

    Raises:
        TypeError, ValueError: for arguments that do not fit the model.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: TargetLayer = None,
        fc_layer: nn.Module | str | None = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        if isinstance(target_layer, list) and len(target_layer) > 1:
            raise ValueError(f"CAM takes one `target_layer`, the one before the pooling, got {len(target_layer)}")
        _check_classifier(fc_layer)
        super().__init__(model, target_layer, input_shape, **kwargs)
        try:
            weights = self.submodule_dict[self._classifier(fc_layer)].weight
        except Exception:
            self.remove_hooks()
            raise
        if not isinstance(weights, Tensor) or weights.flatten(1).shape[1] != weights.shape[1]:
            self.remove_hooks()
            raise ValueError("`fc_layer` must be a linear layer or a 1x1 convolution")
        self._fc_weights = weights.detach().flatten(1)

    def _classifier(self, fc_layer: nn.Module | str | None) -> str:
        """Return the name of the linear layer."""
        if fc_layer is not None:
            return self._resolve_layer_name(fc_layer)
        linear_layers = [name for name, module in self.submodule_dict.items() if isinstance(module, nn.Linear)]
        if len(linear_layers) != 1:
            raise ValueError(f"`fc_layer` must be given for a model with {len(linear_layers)} linear layers")
        logger.warning(f"no `fc_layer` was given: using {linear_layers[0]!r}")
        return linear_layers[0]

    @torch.no_grad()
    def _get_weights(self, class_idx: Classes | None, scores: ModelOutput | None = None, **kwargs: Any) -> list[Tensor]:
        """Return the classifier's rows, (1, C) or (N, C)."""
        return [self._fc_weights[[class_idx] if isinstance(class_idx, int) else class_idx]]


def _check_classifier(fc_layer: object) -> None:
    if fc_layer is not None and not isinstance(fc_layer, str | nn.Module):
        raise TypeError(f"`fc_layer` must be a module, its name or None, got {type(fc_layer).__name__}")
