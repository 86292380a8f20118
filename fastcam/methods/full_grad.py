"""FullGrad: the gradients of the input and of every bias."""

from typing import Any, Literal

import torch
from torch import Tensor

from fastcam import ops
from fastcam.methods.protocol import BiasGradient, FullGradients
from fastcam.methods.registry import Outcome, method
from fastcam.ops.numerics import accumulation_dtype, is_constant

Rescale = Literal["sample", "channel"]


@method(
    "full_grad",
    needs=("scores", "images", "full_gradients"),
    returns="map",
    relu=False,
    cost="2",
    paper="arXiv:1905.00780",
)
def full_grad(
    scores: Tensor, images: Tensor, full_gradients: FullGradients, *, rescale: Rescale = "sample", eps: float = 0.0
) -> Outcome:
    """FullGrad: the score taken apart into the input's share and every bias's share.

    Args:
        scores: (N,) or (N, K).
        images: (N, C, *S), or (N, 1, C, *S) for K targets.
        full_gradients: the backward passes that show the gradient of every bias.
        rescale: whether the absolute shares of a layer are scaled to [0, 1] together, "sample", as in the paper, or
            channel by channel, "channel".
        eps: added to the range that the shares are divided by.

    Returns:
        The map (N, [K,] *S), and as details ``input_term`` (N, [K]) and ``bias_terms`` by layer (N, [K]), the sums that
        together make the score, and ``completeness_gap`` (N, [K]): their sum less the score. The gap is zero for
        networks of convolutions, linear layers, batch norm, poolings and ReLU.
    """
    if rescale not in ("sample", "channel"):
        raise ValueError(f'`rescale` must be "sample" or "channel", got {rescale!r}')
    pixels = images if scores.dim() == 2 else images.unsqueeze(1)  # (N, 1, C, *S)
    columns, size = scores[0].numel(), pixels.shape[3:]
    maps = images.new_zeros((len(images), columns, *size), dtype=accumulation_dtype(images.dtype))
    terms: dict[str, Tensor] = {}

    def visit(index: int, found: BiasGradient) -> None:
        if len(found.gradient) % len(images):  # no rows of images: the gap tells
            return
        sums = found.gradient.flatten(2).sum(-1) if found.gradient.dim() > 2 else found.gradient
        term = terms.setdefault(found.layer, maps.new_zeros((len(images), columns)))
        term[:, index] += (sums * found.bias).sum(1).unflatten(0, (len(images), -1)).sum(1)  # windows of an image
        if found.gradient.dim() == pixels.dim() - 1 and len(found.gradient) == len(images):
            share = rescaled(found.gradient, found.bias, rescale, eps)
            maps[:, index] += ops.upsample_normalize(share, size, normalize=False)

    gradients = full_gradients(visit)
    products = pixels * (gradients if scores.dim() == 2 else gradients.unsqueeze(1))  # (N, K, C, *S)
    for index in range(columns):
        maps[:, index] += rescaled(products[:, index], images.new_ones(pixels.shape[2]), rescale, eps)
    input_term = products.flatten(2).sum(-1)
    gap = input_term + torch.stack([*terms.values(), torch.zeros_like(input_term)]).sum(0) - scores.reshape(-1, columns)
    return _of_targets(maps, scores), {
        "input_term": _of_targets(input_term, scores),
        "bias_terms": {layer: _of_targets(term, scores) for layer, term in terms.items()},
        "completeness_gap": _of_targets(gap, scores),
    }


def rescaled(gradient: Tensor, bias: Tensor, rescale: Rescale, eps: float = 0.0) -> Tensor:
    """(N, *s): the sum over channels of |bias gradient|, scaled to [0, 1]; upsampling is linear and may come after.

    Args:
        gradient: (N, C, *s).
        bias: (C,).
        rescale: see :func:`full_grad`.
        eps: likewise.
    """
    size = gradient.abs()
    wide = accumulation_dtype(gradient.dtype)
    low, high = size.flatten(2).aminmax(dim=-1)  # (N, C)
    weight = bias.abs().to(wide)
    low, high = low * weight, high * weight
    if rescale == "sample":
        low, high = low.amin(1, keepdim=True), high.amax(1, keepdim=True)
    constant = is_constant(low, high)
    span = torch.where(constant, 1, high - low + eps)  # an infinity that is not taken has no gradient either
    scale = torch.where(constant, 0, 1 / span)
    summed = ops.weighted_channel_sum(size, (weight * scale).to(size.dtype))
    lowest = (low * scale).expand(len(size), size.shape[1]).sum(1)
    return summed - lowest.reshape(-1, *[1] * (size.dim() - 2))


def _of_targets(values: Tensor, scores: Tensor) -> Any:
    return values if scores.dim() == 2 else values[:, 0]
