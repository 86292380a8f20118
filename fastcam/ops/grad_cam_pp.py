"""Fused Grad-CAM++."""

import torch
from torch import Tensor

from fastcam.ops import reference
from fastcam.ops._register import MapContext, call, check_pair, fake_maps, pack, register, save_inputs, unpack


def grad_cam_pp(activations: Tensor, gradients: Tensor, relu: bool = True) -> Tensor:
    """ReLU(sum_c w_c A_c) with w_c = sum_p alpha ReLU(G_c) (Grad-CAM++, arXiv:1710.11063, eq. 19).

    alpha = G^2 / (2 G^2 + (sum_p A_c) G^3), 0 where G or the denominator is 0.

    Args:
        activations: (N, C, *S).
        gradients: dy/dA, of the same shape, or (N, K, C, *S) for K targets per image.
        relu: apply the final ReLU; False gives the signed map.

    Returns:
        Maps (N, *S) or (N, K, *S); float32 for half and bfloat16 inputs.

    Raises:
        TypeError: for a dtype that is not floating, or two different ones.
        ValueError: for shapes or devices that do not fit.
    """
    check_pair(activations, gradients)
    return call("grad_cam_pp", activations, gradients, relu)


def _backward(ctx: MapContext, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    a, g, grad = unpack(ctx, grad)
    activation_sum = a.sum(-1, keepdim=True)
    terms = reference.grad_cam_pp_terms(g, activation_sum)  # t = G / (2 + S G): dt/dG = 2 / (2 + S G)^2, dt/dS = -t^2
    weights = terms.sum(-1)
    grad_weights = (grad.unsqueeze(-2) * a).sum(-1)
    slope = torch.where(terms != 0, 2 / (2 + activation_sum * g).square(), 0)
    grad_sum = -grad_weights * terms.square().sum(-1)
    grad_a = weights.unsqueeze(-1) * grad.unsqueeze(-2) + grad_sum.unsqueeze(-1)
    return *pack(ctx, grad_a, grad_weights.unsqueeze(-1) * slope), None


register("grad_cam_pp", fake_maps, save_inputs, _backward)
