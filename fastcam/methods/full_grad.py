"""FullGrad: the gradients of the input and of every bias."""

from typing import Literal

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
    """FullGrad: decomposition of the score into contributions of the input and of every bias.

    Args:
        scores: (N,) or (N, K).
        images: (N, C, *S), or (N, 1, C, *S) for K targets.
        full_gradients: runs the backward passes and reports the gradient of every bias.
        rescale: scaling of the absolute contributions of a layer to [0, 1]: "sample" for all channels together, as in
            the paper, or "channel" for each channel.
        eps: added to the range that the contributions are divided by.

    Returns:
        The map (N, [K,] *S) and the details ``input_term`` (N, [K]), ``bias_terms`` by layer (N, [K]) and
        ``completeness_gap`` (N, [K]), the sum of these terms minus the score. The gap is zero for
        networks of convolutions, linear layers, batch norm, poolings and ReLU.
    """
    if rescale not in ("sample", "channel"):
        raise ValueError(f'`rescale` must be "sample" or "channel", got {rescale!r}')
    pixels = images if scores.dim() == 2 else images.unsqueeze(1)  # (N, 1, C, *S)
    count, columns, size = images.shape[0], 1 if scores.dim() == 1 else scores.shape[1], pixels.shape[3:]
    maps = images.new_zeros((count, columns, *size), dtype=accumulation_dtype(images.dtype))
    terms: dict[str, Tensor] = {}

    def visit(index: int, bias_gradient: BiasGradient) -> None:
        gradient, bias = bias_gradient.gradient, bias_gradient.bias
        if gradient.shape[0] % count:  # not one row per image: the term is missing, and the gap shows it
            return
        sums = gradient.flatten(2).sum(-1) if gradient.dim() > 2 else gradient
        term = terms.setdefault(bias_gradient.layer, maps.new_zeros((count, columns)))
        term[:, index] += (sums * bias).sum(1).unflatten(0, (count, -1)).sum(1)  # several rows per image
        if gradient.dim() == pixels.dim() - 1 and gradient.shape[0] == count:
            contribution = rescale_contributions(gradient, bias, rescale, eps)
            maps[:, index] += ops.upsample_normalize(contribution, size, normalize=False)

    gradients = full_gradients(visit)
    products = pixels * (gradients if scores.dim() == 2 else gradients.unsqueeze(1))  # (N, K, C, *S)
    for index in range(columns):
        maps[:, index] += rescale_contributions(products[:, index], images.new_ones(pixels.shape[2]), rescale, eps)
    input_term = products.flatten(2).sum(-1)
    gap = input_term + torch.stack([*terms.values(), torch.zeros_like(input_term)]).sum(0) - scores.reshape(-1, columns)
    return _select_targets(maps, scores), {
        "input_term": _select_targets(input_term, scores),
        "bias_terms": {layer: _select_targets(term, scores) for layer, term in terms.items()},
        "completeness_gap": _select_targets(gap, scores),
    }


def rescale_contributions(gradient: Tensor, bias: Tensor, rescale: Rescale, eps: float = 0.0) -> Tensor:
    """Return (N, *s): the sum over channels of |bias * gradient|, scaled to [0, 1] before the linear upsampling.

    Args:
        gradient: (N, C, *s).
        bias: (C,).
        rescale: see :func:`full_grad`.
        eps: see :func:`full_grad`.
    """
    magnitude = gradient.abs()
    wide = accumulation_dtype(gradient.dtype)
    flat = magnitude.flatten(2)
    low, high = flat.amin(-1), flat.amax(-1)  # (N, C); aminmax has no derivative in torch 2.10
    weight = bias.abs().to(wide)
    low, high = low * weight, high * weight
    if rescale == "sample":
        low, high = low.amin(1, keepdim=True), high.amax(1, keepdim=True)
    constant = is_constant(low, high)
    span = torch.where(constant, 1, high - low + eps)  # avoids NaN gradients from the unused branch
    scale = torch.where(constant, 0, 1 / span)
    summed = ops.weighted_channel_sum(magnitude, (weight * scale).to(magnitude.dtype))
    lowest = (low * scale).expand(magnitude.shape[:2]).sum(1)
    return summed - lowest.reshape(-1, *[1] * (magnitude.dim() - 2))


def _select_targets(values: Tensor, scores: Tensor) -> Tensor:
    return values if scores.dim() == 2 else values[:, 0]
