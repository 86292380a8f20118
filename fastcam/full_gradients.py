"""The gradients of a network's biases, layer by layer: what FullGrad adds to the gradient of the input."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastcam import capture

_AFFINE = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class BiasGradient:
    """The bias of one layer, and the gradient of one score per image with respect to the layer's output.

    Attributes:
        layer: the layer's name.
        bias: (C,).
        gradient: (N, C, *S); (N, ..., C) moved to that for linear layers.
    """

    layer: str
    bias: Tensor
    gradient: Tensor


@contextlib.contextmanager
def watched(model: nn.Module, visit: Callable[[BiasGradient], None]) -> Iterator[None]:
    """Within the context, what the model computes shows the gradient of every bias to ``visit`` during backward."""
    thread = threading.get_ident()

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def watch(module: nn.Module, arguments: Any, output: Any) -> None:
            bias = bias_of(module)
            if threading.get_ident() != thread or bias is None or not output.requires_grad:
                return
            is_linear = isinstance(module, nn.Linear)

            def show(gradient: Tensor) -> None:
                visit(BiasGradient(name, bias, gradient.movedim(-1, 1) if is_linear else gradient))

            output.register_hook(show)  # before anything works on the output in place

        return watch

    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, (*_AFFINE, nn.modules.batchnorm._BatchNorm)):
                stack.callback(module.register_forward_hook(hook(name)).remove)
        yield


def bias_of(module: nn.Module) -> Tensor | None:
    """The constant (C,) that a layer adds: its bias, and for batch norm in evaluation what its statistics add too."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _implicit_bias(module)
    bias = module.bias
    return bias.detach() if isinstance(bias, Tensor) else None


def _implicit_bias(norm: Any) -> Tensor | None:
    bias = None if norm.bias is None else norm.bias.detach()
    if norm.training or norm.running_mean is None:
        return bias  # the statistics are those of the batch, and no constants
    shift = norm.running_mean * torch.rsqrt(norm.running_var + norm.eps)
    shift = shift if norm.weight is None else shift * norm.weight.detach()
    return -shift if bias is None else bias - shift


def backward(scores: Tensor, images: Tensor, begin: Callable[[int], None]) -> Tensor:
    """Gradients (N, [K,] C, *S) with respect to the images, target by target so that hooks see one at a time.

    ``begin`` is told which target comes next.
    """
    columns = scores.unsqueeze(1) if scores.dim() == 1 else scores
    found = []
    for index in range(columns.shape[1]):
        begin(index)
        last = index == columns.shape[1] - 1
        found += capture.gradients(columns[:, index], [images], ["the images"], keep_graph=not last)
    return found[0] if scores.dim() == 1 else torch.stack(found, 1)
