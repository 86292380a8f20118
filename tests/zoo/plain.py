"""Grad-CAM by its definition, with one hook and plain autograd, and where the positions of a layer's map lie."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastcam.model.capture import Layer
from fastcam.model.inputs import Inputs


def plain_grad_cam(model: nn.Module, inputs: Inputs, layer: Layer, score: Callable[[Any], Tensor]) -> Tensor:
    """Return sum_c mean_p(dy/dA_cp) A_cp for the map A of a layer, without ReLU."""
    with torch.enable_grad():
        images = inputs.images.detach().requires_grad_()  # for models whose parameters are frozen
        activation, output = _run(model, inputs.replace_images(images), layer)
        gradient = torch.autograd.grad(score(output).sum(), activation)[0]
    a, g = (layer.token_map(each) if layer.token_map else each for each in (activation.detach(), gradient))
    weights = g.flatten(2).mean(2)  # (N, C)
    return torch.einsum("nc,nc...->n...", weights, a)


def follows_image(model: nn.Module, inputs: Inputs, layer: Layer) -> float:
    """Return how much more the positions in a changed half of the image change than the others, at least.

    Above 1 the positions of tokens lie as the image does, along every axis; where they are transposed, mirrored or in
    another order the ratio is about 1 or less along one. With random weights the last maps of convolutional networks,
    whose positions see the whole image, have ratios around 1 too.
    """
    first = inputs.first()
    clean = _map(model, first, layer)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(first.images.shape, generator=generator).to(first.images)
    ratios = []
    for axis in range(2, first.images.dim()):
        middle = clean.shape[axis] // 2
        for at_end in (False, True) if middle else ():
            changed = _with_half(first.images, noise, axis, at_end)
            change = (_map(model, first.replace_images(changed), layer) - clean).norm(dim=1, keepdim=True)
            start, end = change.narrow(axis, 0, middle).mean(), change.narrow(axis, -middle, middle).mean()
            ratios.append((end / start if at_end else start / end).item())
    return min(ratios, default=float("nan"))


def _with_half(images: Tensor, noise: Tensor, axis: int, at_end: bool) -> Tensor:
    middle = images.shape[axis] // 2
    is_end = (torch.arange(images.shape[axis]) >= middle).reshape(-1, *[1] * (images.dim() - axis - 1))
    return torch.where(is_end == at_end, noise, images)


def _map(model: nn.Module, inputs: Inputs, layer: Layer) -> Tensor:
    with torch.no_grad():
        activation = _run(model, inputs, layer)[0]
    return layer.token_map(activation) if layer.token_map else activation


def _run(model: nn.Module, inputs: Inputs, layer: Layer) -> tuple[Tensor, Any]:
    """Return the output of the layer in its run, and the model's."""
    activations: list[Tensor] = []

    def hook(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        activations.append(output)
        return output.clone()  # an in-place module behind it changes the copy

    handle = layer.module.register_forward_hook(hook)
    try:
        output = model(*inputs.arguments)
    finally:
        handle.remove()
    return activations[-1 if layer.run is None else layer.run], output
