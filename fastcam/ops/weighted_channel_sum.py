"""Weighted sum of the channels: the final reduction of every class activation map."""

from torch import Tensor

from fastcam.ops import numerics
from fastcam.ops._register import (
    Context,
    call,
    check_activations,
    check_pair,
    check_same,
    check_tensor,
    register,
    shape_text,
)


def weighted_channel_sum(activations: Tensor, weights: Tensor, relu: bool = False) -> Tensor:
    """sum_c w_c A_c, with an optional ReLU.

    Args:
        activations: (N, C, *S).
        weights: one per channel, (N, C), or (N, K, C) for K maps per image; or one per element, (N, C, *S) or
            (N, K, C, *S). For activations (N, C, L), weights of exactly that shape are one per element.
            Channel weights for half and bfloat16 activations may be float32.
        relu: apply ReLU to the sum.

    Returns:
        Maps (N, *S) or (N, K, *S); float32 for half and bfloat16 activations.

    Raises:
        TypeError: for a dtype that is not floating, or does not fit that of the activations.
        ValueError: for shapes or devices that do not fit.
    """
    check_activations(activations)
    check_tensor("weights", weights)
    if numerics.are_element_weights(activations, weights):
        check_pair(activations, weights, "weights")
    else:
        _check_channel_weights(activations, weights)
    return call("weighted_channel_sum", activations, weights, relu)


def _check_channel_weights(activations: Tensor, weights: Tensor) -> None:
    count, channels = activations.shape[:2]
    if weights.dim() not in (2, 3) or weights.shape[0] != count or weights.shape[-1] != channels:
        raise ValueError(
            f"`weights` must have shape (N, C) = {(count, channels)}, (N, K, C), that of `activations` "
            f"{shape_text(activations)}, or that with an axis K after N, got {shape_text(weights)}"
        )
    check_same("weights", weights, activations, "activations", [numerics.accumulation_dtype(activations.dtype)])


def _fake(activations: Tensor, weights: Tensor, relu: bool = False) -> Tensor:
    if numerics.are_element_weights(activations, weights):
        shape = numerics.map_shape(activations, weights)
    else:
        shape = [*weights.shape[:-1], *activations.shape[2:]]
    return activations.new_empty(shape, dtype=numerics.accumulation_dtype(activations.dtype))


class _Context(Context):
    relu: bool


def _setup(ctx: _Context, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
    activations, weights, ctx.relu = inputs
    ctx.save_for_backward(activations, weights, output)


def _backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    activations, weights, output = ctx.saved_tensors
    if ctx.relu:
        grad = grad * (output > 0)
    flat = activations.to(grad.dtype).flatten(2)  # (N, C, P)
    if numerics.are_element_weights(activations, weights):
        a, w = numerics.flatten_pair(activations, weights)
        grad = grad.reshape(*w.shape[:-2], 1, w.shape[-1])
        grad_a, grad_w = w * grad, a * grad
        if w.dim() == 4:
            grad_a = grad_a.sum(1)
    else:  # as K = 1 or K maps: grad (N, K, P), weights (N, K, C)
        grad = grad.reshape(len(flat), -1, flat.shape[-1])
        w = weights.to(grad.dtype).reshape(len(flat), -1, flat.shape[1])
        grad_a, grad_w = w.mT @ grad, grad @ flat.mT
    return (
        grad_a.reshape(activations.shape).to(activations.dtype),
        grad_w.reshape(weights.shape).to(weights.dtype),
        None,
    )


register("weighted_channel_sum", _fake, _setup, _backward)
