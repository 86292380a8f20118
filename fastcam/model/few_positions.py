"""Convolutions whose backward pass runs over the rectangle alone that a score depends on.

A detection is one of thousands of positions, or a region: behind the layer that is explained its gradient is zero at
nearly all positions, and grows by a kernel's width from convolution to convolution.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d
from torch.nn.grad import conv2d_input

from fastcam.model import memory

MAX_SHARE = 0.5  # of the positions; beyond, all of them take no longer


class _OfFewPositions(torch.autograd.Function):
    """Passes a convolution's output on; its backward pass runs over the positions whose gradients are not zero."""

    @staticmethod
    def forward(ctx: Any, convolution: nn.Conv2d, read: Tensor, output: Tensor) -> Tensor:
        ctx.convolution, ctx.shape, ctx.dtype = convolution, read.shape, read.dtype
        ctx.mark_dirty(output)  # the same tensor, which an activation behind it may overwrite
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        found = gradient.new_zeros(ctx.shape)
        for image, of_image in zip(found, gradient, strict=True):
            _add_input_gradient(image, of_image, ctx.convolution)
        return None, found.to(ctx.dtype), None


def _add_input_gradient(found: Tensor, gradient: Tensor, convolution: Any) -> None:
    """Write the gradient (C, H, W) with respect to a convolution's input, zero so far, from that of its output."""
    weight = convolution.weight.detach().to(gradient.dtype)
    stride, padding, dilation = convolution.stride, convolution.padding, convolution.dilation
    seen = gradient.ne(0).any(0)  # NaN is not 0
    spans = [_span(seen.any(1)), _span(seen.any(0))]
    area = (spans[0][1] - spans[0][0]) * (spans[1][1] - spans[1][0])
    if area == 0:
        return
    if area > MAX_SHARE * seen.numel():
        size = (1, *found.shape)
        found += conv2d_input(size, weight, gradient[None], stride, padding, dilation, convolution.groups)[0]
        return
    part = gradient[None, :, spans[0][0] : spans[0][1], spans[1][0] : spans[1][1]]
    whole = conv_transpose2d(part, weight, None, stride, 0, 0, convolution.groups, dilation)[0]
    for axis, (first, _) in enumerate(spans):  # without what falls upon the padding
        place = first * stride[axis] - padding[axis]
        before, after = max(0, -place), min(whole.shape[axis + 1], found.shape[axis + 1] - place)
        if after <= before:
            return
        whole = whole.narrow(axis + 1, before, after - before)
        found = found.narrow(axis + 1, place + before, after - before)
    found += whole


def _span(seen: Tensor) -> tuple[int, int]:
    """Return the first and the last place that is true, and one more; (0, 0) for none."""
    places = seen.nonzero()[:, 0]
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


@contextlib.contextmanager
def few_positions(model: nn.Module) -> Iterator[None]:
    """Let convolutions run backwards over few positions, in the context and the calling thread only.

    On a processor: to ask a GPU where a gradient is zero takes longer than to go through all of it.
    """
    thread = threading.get_ident()

    def exchange(module: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if threading.get_ident() != thread or not torch.is_grad_enabled() or len(given) != 1:
            return None
        read = given[0]
        if not read.requires_grad or read.dim() != 4 or read.device.type != "cpu":
            return None
        result: Tensor = _OfFewPositions.apply(module, read, output.detach())
        return result

    with contextlib.ExitStack() as stack:
        for module in memory.all_modules(model):
            if type(module) is nn.Conv2d and _is_plain(module):
                stack.callback(module.register_forward_hook(exchange).remove)
        yield


def _is_plain(module: nn.Conv2d) -> bool:
    """Whether a convolution computes what its weights say, and nothing that a user put in its place."""
    changes = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    is_as_written = "forward" not in vars(module) and not any(changes)
    return is_as_written and module.padding_mode == "zeros" and not isinstance(module.padding, str)
