"""Fused Grad-CAM."""

from torch import Tensor

from fastcam.ops._register import MapContext, call, check_pair, fake_maps, pack, register, save_inputs, unpack
from fastcam.ops.weighted_channel_sum import weighted_channel_sum


def grad_cam(activations: Tensor, gradients: Tensor, relu: bool = True) -> Tensor:
    """ReLU(sum_c w_c A_c) with w_c = mean_p G_c, reading each input once (Grad-CAM, arXiv:1610.02391, eq. 1-2).

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
    axes = activations.dim() - 2
    if activations.dim() > 3 and not any(gradients.stride()[-axes:]):  # one value per channel, which is its own mean
        return weighted_channel_sum(activations, gradients.flatten(-axes)[..., 0], relu)
    return call("grad_cam", activations, gradients, relu)


def _backward(ctx: MapContext, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    a, g, grad = unpack(ctx, grad)
    weights = g.mean(-1)  # (..., C)
    grad_weights = (grad.unsqueeze(-2) * a).sum(-1)
    grad_g = (grad_weights / a.shape[-1]).unsqueeze(-1).expand(g.shape)
    return *pack(ctx, weights.unsqueeze(-1) * grad.unsqueeze(-2), grad_g), None


register("grad_cam", fake_maps, save_inputs, _backward)
