"""Fused XGrad-CAM."""

from torch import Tensor

from fastcam.ops._register import MapContext, call, check_pair, fake_maps, pack, register, save_inputs, unpack


def xgrad_cam(activations: Tensor, gradients: Tensor, eps: float = 1e-7, relu: bool = True) -> Tensor:
    """ReLU(sum_c w_c A_c) with w_c = sum_p G_c A_c / (sum_p A_c + eps) (XGrad-CAM, arXiv:2008.02312, eq. 8).

    Args:
        activations: (N, C, *S).
        gradients: dy/dA, of the same shape, or (N, K, C, *S) for K targets per image.
        eps: added to the sum of the activations.
        relu: apply the final ReLU; False gives the signed map.

    Returns:
        Maps (N, *S) or (N, K, *S); float32 for half and bfloat16 inputs.

    Raises:
        TypeError: for a dtype that is not floating, or two different ones.
        ValueError: for shapes or devices that do not fit.
    """
    check_pair(activations, gradients)
    return call("xgrad_cam", activations, gradients, eps, relu)


def _backward(ctx: MapContext, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    a, g, grad = unpack(ctx, grad)
    total = a.sum(-1) + ctx.options[0]
    weights = (g * a).sum(-1) / total
    scaled = (grad.unsqueeze(-2) * a).sum(-1) / total  # d loss / d (sum G A)
    grad_a = weights.unsqueeze(-1) * grad.unsqueeze(-2) + scaled.unsqueeze(-1) * (g - weights.unsqueeze(-1))
    return *pack(ctx, grad_a, scaled.unsqueeze(-1) * a), None, None


register("xgrad_cam", fake_maps, save_inputs, _backward)
