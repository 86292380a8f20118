"""Mean of every channel over its positions."""

import torch
from torch import Tensor

from fastcam.ops import numerics
from fastcam.ops._register import Context, call, check_activations, register, shape_text


def channel_mean(activations: Tensor) -> Tensor:
    """mean_p A_c: global average pooling, and the weights of Grad-CAM when applied to the gradients.

    Args:
        activations: (N, C, *S) with at least one position.

    Returns:
        Means (N, C); float32 for half and bfloat16 inputs.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for a shape that does not fit.
    """
    check_activations(activations)
    if 0 in activations.shape[2:]:
        raise ValueError(f"`activations` must have at least one position, got {shape_text(activations)}")
    return call("channel_mean", activations)


def _fake(activations: Tensor) -> Tensor:
    return activations.new_empty(activations.shape[:2], dtype=numerics.accumulation_dtype(activations.dtype))


class _Context(Context):
    shape: torch.Size
    dtype: torch.dtype


def _setup(ctx: _Context, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.shape, ctx.dtype = inputs[0].shape, inputs[0].dtype


def _backward(ctx: _Context, grad: Tensor) -> Tensor:
    spatial = ctx.shape[2:]
    scaled = (grad / spatial.numel()).to(ctx.dtype)
    return scaled.reshape(*grad.shape, *([1] * len(spatial))).expand(ctx.shape)


register("channel_mean", _fake, _setup, _backward)
