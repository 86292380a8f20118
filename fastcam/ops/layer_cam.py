"""Fused LayerCAM."""

from torch import Tensor

from fastcam.ops import numerics
from fastcam.ops._register import MapContext, call, check_pair, fake_maps, pack, register, save_inputs, unpack


def layer_cam(activations: Tensor, gradients: Tensor, relu: bool = True) -> Tensor:
    """ReLU(sum_c ReLU(G_c) * A_c), element by element (LayerCAM, doi:10.1109/TIP.2021.3089943, eq. 4-5).

    HiRes-CAM, the same without the inner ReLU, is ``weighted_channel_sum(activations, gradients, relu=True)``.

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
    return call("layer_cam", activations, gradients, relu)


def _backward(ctx: MapContext, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    a, g, grad = unpack(ctx, grad)
    grad = grad.unsqueeze(-2)
    return *pack(ctx, numerics.rectify(g) * grad, a * grad * (g > 0)), None


register("layer_cam", fake_maps, save_inputs, _backward)
