"""The gradients of a network's biases, layer by layer: what FullGrad adds to the gradient of the input."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastcam.model.gradients import gradients

Visit = Callable[["BiasGradient"], None]

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


class Watch:
    """Listens to one forward pass, and shows the gradient of every bias in backward passes that are asked for it.

    Args:
        differentiable: whether biases and gradients have gradients themselves.
    """

    def __init__(self, differentiable: bool = False) -> None:
        self.differentiable = differentiable
        self._visit: Visit | None = None

    @contextlib.contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        """Within the context, what the model computes is listened to."""
        thread = threading.get_ident()
        with contextlib.ExitStack() as stack:
            for name, module in model.named_modules():
                if isinstance(module, (*_AFFINE, nn.modules.batchnorm._BatchNorm)):
                    stack.callback(module.register_forward_hook(self._hook(name, thread)).remove)
            yield

    def _hook(self, name: str, thread: int) -> Callable[[nn.Module, Any, Any], None]:
        def listen(module: nn.Module, arguments: Any, output: Any) -> None:
            bias = bias_of(module)
            bias = bias if bias is None or self.differentiable else bias.detach()
            if threading.get_ident() != thread or bias is None or not output.requires_grad:
                return
            is_linear = isinstance(module, nn.Linear)

            def show(gradient: Tensor) -> None:
                if self._visit is not None:
                    self._visit(BiasGradient(name, bias, gradient.movedim(-1, 1) if is_linear else gradient))

            output.register_hook(show)  # before anything works on the output in place

        return listen

    def backward(self, scores: Tensor, images: Tensor, visit: Callable[[int, BiasGradient], None]) -> Tensor:
        """Gradients (N, [K,] C, *S) with respect to the images; ``visit`` sees every bias's gradient on the way.

        Args:
            scores: (N,) or (N, K), in the graph of the forward pass that was listened to.
            images: where the graph begins.
            visit: called with the number of the target, 0 to K - 1, while its backward pass runs, once per bias.
        """
        with torch.enable_grad():
            columns = [scores] if scores.dim() == 1 else list(scores.unbind(1))
            found = [self._one(visit, index, column, images, len(columns)) for index, column in enumerate(columns)]
        return found[0] if scores.dim() == 1 else torch.stack(found, 1)

    def _one(
        self, visit: Callable[[int, BiasGradient], None], index: int, column: Tensor, images: Tensor, count: int
    ) -> Tensor:
        self._visit = functools.partial(visit, index)
        try:
            keep = {"keep_graph": index < count - 1, "differentiable": self.differentiable}
            return gradients(column, [images], ["the images"], **keep)[0]
        finally:
            self._visit = None


def bias_of(module: nn.Module) -> Tensor | None:
    """The constant (C,) that a layer adds: its bias, and for batch norm in evaluation what its statistics add too."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _implicit_bias(module)
    bias = module.bias
    return bias if isinstance(bias, Tensor) else None


def _implicit_bias(norm: Any) -> Tensor | None:
    bias: Tensor | None = norm.bias
    if norm.training or norm.running_mean is None:
        return bias  # the statistics are those of the batch, and no constants
    shift = norm.running_mean * torch.rsqrt(norm.running_var + norm.eps)
    shift = shift if norm.weight is None else shift * norm.weight
    return -shift if bias is None else bias - shift
