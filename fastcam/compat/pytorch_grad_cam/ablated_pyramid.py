"""Ablation-CAM of a feature pyramid: a layer that returns a mapping of levels (N, C, H, W)."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastcam.compat.pytorch_grad_cam.ablation_layer import AblationLayer
from fastcam.model import capture
from fastcam.targets.binding import Bound

_ABLATED = -1000.0  # pytorch-grad-cam's value of an ablated channel


def captured_levels(model: nn.Module, images: Tensor, layer: nn.Module) -> tuple[Any, Mapping[str, Tensor]]:
    """Return the model's output and the levels that the layer returns in the same pass.

    Raises:
        TypeError: if the layer returns no mapping.
    """
    found: list[Any] = []
    output = _run(model, images, layer, found.append)
    if not found or not isinstance(found[0], Mapping):
        kind = type(found[0]).__name__ if found else "nothing"
        raise TypeError(f"AblationLayerFasterRCNN needs a target layer that returns a mapping of levels, got {kind}")
    return output, OrderedDict((name, level.detach().clone()) for name, level in found[0].items())


def ablated_weights(
    model: nn.Module,
    images: Tensor,
    layer: nn.Module,
    levels: Mapping[str, Tensor],
    bound: Bound,
    scores: Tensor,
    channels: list[Tensor],
    batch_size: int,
) -> Tensor:
    """Return (N, C), the relative drop of every image's score without each of its channels; 0 for unlisted channels.

    Args:
        model: any module.
        images: (N, C, H, W).
        layer: the one that returns the levels.
        levels: (N, C_l, H, W) each, in the order of the channels.
        bound: from an output to scores.
        scores: (N,), of the unchanged images.
        channels: per image, the channels to ablate, counted over all levels.
        batch_size: copies at a time.
    """
    weights = scores.new_zeros(len(images), sum(level.shape[1] for level in levels.values()))
    for row, chosen in enumerate(channels):
        for block in chosen.split(batch_size):
            copies = _without_channels(levels, row, block.tolist())
            repeated = images[row : row + 1].repeat_interleave(len(block), 0)
            output = _run(model, repeated, layer, lambda _, copies=copies: copies)
            ablated = bound(output, torch.full((len(block),), row))
            weights[row, block] = (scores[row] - ablated) / scores[row]
    return weights


def _without_channels(levels: Mapping[str, Tensor], row: int, channels: list[int]) -> Mapping[str, Tensor]:
    """Return one image's levels, a copy per channel, each without that channel."""
    copies = OrderedDict(
        (name, level[row : row + 1].repeat_interleave(len(channels), 0)) for name, level in levels.items()
    )
    places = [(name, index) for name, level in levels.items() for index in range(level.shape[1])]
    for copy, channel in enumerate(channels):
        name, index = places[channel]
        copies[name][copy, index] = _ABLATED
    return copies


def _run(model: nn.Module, images: Tensor, layer: nn.Module, at_layer: Any) -> Any:
    """Run the model with a function of the layer's output, whose result replaces it."""
    thread = threading.get_ident()

    def hook(module: nn.Module, inputs: object, output: object) -> Any:
        return at_layer(output) if threading.get_ident() == thread else None

    handle = layer.register_forward_hook(hook)
    try:
        return capture.forward(model, images).output
    finally:
        handle.remove()


def selected_channels(layer: AblationLayer, activations: Tensor, ratio: float) -> list[Tensor]:
    """Return per image the channels that an ablation layer selects."""
    return [
        torch.from_numpy(np.unique(layer.activations_to_be_ablated(values.cpu().numpy(), ratio))).long()
        for values in activations
    ]
