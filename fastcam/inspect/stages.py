"""The stages of a network: its last layers of every resolution."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastcam.model import capture, gradient_search, module_kinds, token_maps
from fastcam.model import layers as model_layers
from fastcam.model.capture import Layer, Output
from fastcam.model.inputs import Inputs

MAX_TRIES = 4  # layers of one resolution, of which the last with a map is taken


@dataclass(frozen=True)
class _Seen:
    """The output of a module for one image, of its last run.

    Attributes:
        module: it.
        tensor: (1, ...).
        halvings: of the image, that make its resolution.
    """

    module: nn.Module
    tensor: Tensor
    halvings: int


def find_stages(model: nn.Module, images: Tensor) -> list[str]:
    """Return the names of the last layers of every resolution, the stages of a network.

    Resolutions are halvings of the image: padding makes no new one. What only passes on another layer's output is left
    out, and what does not depend on the image, such as tables of positions; the first layers of a block that lowers the
    resolution belong to the block. Maps of tokens are verified on the model.

    Raises:
        ValueError: for a model without maps (N, C, h, w).
    """
    seen = _see(model, images[:1])
    inside: dict[str, set[int]] = {}  # of every module, the resolutions of those that it consists of
    for name, each in seen.items():
        for outer in _around(name):
            inside.setdefault(outer, set()).add(each.halvings)
    groups: dict[int, list[str]] = {}
    for name, each in seen.items():
        groups.setdefault(each.halvings, []).append(name)
    found = [_last(model, seen, group, inside, images[:1]) for group in groups.values()]
    stages = {name for name in found if name is not None}
    if not stages:
        raise ValueError("the model has no maps (N, C, h, w): name its layers")
    return [name for name in seen if name in stages]


def _see(model: nn.Module, image: Tensor) -> Mapping[str, _Seen]:
    """Return the outputs that may be maps of the image, in the order in which they are computed."""
    seen: dict[str, _Seen] = {}
    for output in capture.observe(model, torch.cat([image, token_maps.noise_like(image)])).outputs:
        seen.pop(output.name, None)
        grid = _grid(output, image) if output.name else None
        if grid is not None:
            halvings = round(math.log2(math.prod(image.shape[2:]) / math.prod(grid)) / len(grid))
            seen[output.name] = _Seen(output.module, output.tensor[:1].detach(), halvings)
    return seen


def _grid(output: Output, image: Tensor) -> tuple[int, ...] | None:
    """Return the likeliest grid of an output for the image and another one; None if it is no map."""
    tensor = output.tensor
    if isinstance(output.module, nn.Softmax) or module_kinds.is_passive(output.module):
        return None
    if tensor.dim() < 3 or not tensor.is_floating_point() or len(tensor) != 2 or torch.equal(tensor[0], tensor[1]):
        return None
    shape, size = tensor.shape, image.shape[2:]
    if tensor.dim() == image.dim() and math.prod(shape[2:]) == 1:
        return None
    if gradient_search.is_map(output.module, shape, image):
        return None if shape[1] == image.shape[1] else tuple(shape[2:])
    found = token_maps.candidates(shape, size)
    return found[0].grid if found else None


def _around(name: str) -> list[str]:
    """Return the names of the modules around one, without the network itself."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _last(
    model: nn.Module, seen: Mapping[str, _Seen], group: list[str], inside: Mapping[str, set[int]], image: Tensor
) -> str | None:
    """Return the last layer of a resolution; None if no output of it is a map."""

    def lowers(outer: str, halvings: int) -> bool:
        """Whether a module is a block between two resolutions, of which this is the first."""
        return outer in seen and seen[outer].halvings != halvings and len(inside[outer]) <= 2

    own = [name for name in group if not any(lowers(outer, seen[name].halvings) for outer in _around(name))]
    for name in reversed((own or group)[-MAX_TRIES:]):
        each = seen[name]
        if gradient_search.is_map(each.module, each.tensor.shape, image):
            return name
        layer = model_layers.with_token_map(model, Layer(name, each.module), each.tensor, Inputs(image))
        if layer.token_map is not None and layer.token_map.is_verified:
            return name
    return None
