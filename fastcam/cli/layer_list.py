"""The layers of a model, with what their outputs can be."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fastcam import artefacts
from fastcam.model import capture, layers, module_kinds, token_maps
from fastcam.model.inputs import Inputs


@dataclass(frozen=True)
class ListedLayer:
    """A layer.

    Attributes:
        name: in the model.
        kind: name of its class.
        shape: of its output for one image, that of the last run; empty if it did not run, or returned no tensor.
        target: "map 7 x 7" or "tokens 14 x 14" where it can be a target layer; otherwise empty.
        is_default: whether it is the target layer where none is named.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    target: str
    is_default: bool


def of(model: nn.Module, shape: tuple[int, int, int]) -> tuple[list[ListedLayer], str]:
    """Return the layers, and the reason why none of them is the default, or "".

    Args:
        model: in evaluation mode.
        shape: of an input image, (C, H, W).
    """
    model = artefacts.as_module(model)
    inputs = Inputs(token_maps.noise_like(torch.zeros(1, *shape)))
    shapes = {seen.name: tuple(seen.tensor.shape) for seen in capture.observe(model, inputs.arguments).outputs}
    default, reason = "", ""
    try:
        default = layers.resolve(model, None, inputs)[0].name
    except ValueError as error:
        reason = str(error)
    listed = [
        ListedLayer(
            name,
            module_kinds.kind_of(module).__name__,
            shapes.get(name, ()),
            _target(module, shapes.get(name, ()), shape[1:]),
            name == default,
        )
        for name, module in model.named_modules()
        if name
    ]
    return listed, reason


def _target(module: nn.Module, shape: Sequence[int], size: tuple[int, int]) -> str:
    """Return what map an output of a shape can be, by the rules with which the engine looks for it."""
    if len(shape) < 3 or shape[0] != 1:
        return ""
    has_channels_last = module_kinds.kind_of(module) in (nn.LayerNorm, nn.Linear)
    found = [
        each
        for each in token_maps.candidates(shape, size)
        if math.prod(each.grid) > 1 and not (has_channels_last and each.channel_axis == 1)
    ]
    if not found:
        return ""
    is_map = len(shape) == 4 and found[0].channel_axis == 1
    return f"{'map' if is_map else 'tokens'} {' x '.join(map(str, found[0].grid))}"
