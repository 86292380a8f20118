"""The gradients of a network's biases, layer by layer, which FullGrad adds to the gradient of the input."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fastcam.model.batch_norms import affine_of, extra_modules, is_batch_norm
from fastcam.model.gradients import gradients

Visit = Callable[["BiasGradient"], None]

_AFFINE = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class BiasGradient:
    """The bias of one layer, and the gradient of one score per image with respect to the layer's output.

    Attributes:
        layer: the layer's name.
        bias: (C,).
        gradient: (N, C, *S); the gradient (N, ..., C) of linear layers is permuted to it.
    """

    layer: str
    bias: Tensor
    gradient: Tensor


class BiasGradientRecorder:
    """Records one forward pass, and computes the gradient of every bias in backward passes over it.

    Args:
        differentiable: whether biases and gradients are differentiable themselves.
    """

    def __init__(self, differentiable: bool = False) -> None:
        self.differentiable = differentiable
        self._visit: Visit | None = None

    @contextlib.contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """Record the model's forward pass within the context."""
        thread = threading.get_ident()
        with contextlib.ExitStack() as stack:
            for name, module in model.named_modules():
                if isinstance(module, _AFFINE) or is_batch_norm(module):
                    stack.callback(self._attach(name, module, thread).remove)
            yield

    def _attach(self, name: str, module: nn.Module, thread: int) -> RemovableHandle:
        """Have a layer's output recorded in front of the activation that it may hold itself."""

        def record(output: Tensor) -> None:
            bias = bias_of(module)
            bias = bias if bias is None or self.differentiable else bias.detach()
            if threading.get_ident() != thread or bias is None or not output.requires_grad:
                return
            is_linear = isinstance(module, nn.Linear)

            def visit_bias(gradient: Tensor | None) -> None:
                if self._visit is not None and gradient is not None:  # None behind a quantised layer
                    self._visit(BiasGradient(name, bias, gradient.movedim(-1, 1) if is_linear else gradient))

            output.register_hook(visit_bias)  # before the output can be modified in place

        for _, first in extra_modules(module) if is_batch_norm(module) else ():
            return first.register_forward_pre_hook(lambda module, arguments: record(arguments[0]))
        return module.register_forward_hook(lambda module, arguments, output: record(output))

    def backward(self, scores: Tensor, images: Tensor, visit: Callable[[int, BiasGradient], None]) -> Tensor:
        """Return the gradients (N, [K,] C, *S) with respect to the images, and call ``visit`` with that of every bias.

        Args:
            scores: (N,) or (N, K), in the graph of the recorded forward pass.
            images: leaf of the graph.
            visit: called with the index of the target, 0 to K - 1, during its backward pass, once per bias.
        """
        with torch.enable_grad():
            columns = [scores] if scores.dim() == 1 else list(scores.unbind(1))
            by_target = [
                self._backward_target(visit, index, column, images, len(columns))
                for index, column in enumerate(columns)
            ]
        return by_target[0] if scores.dim() == 1 else torch.stack(by_target, 1)

    def _backward_target(
        self, visit: Callable[[int, BiasGradient], None], index: int, column: Tensor, images: Tensor, count: int
    ) -> Tensor:
        self._visit = functools.partial(visit, index)
        try:
            options = {"keep_graph": index < count - 1, "differentiable": self.differentiable}
            return gradients(column, [images], ["the images"], **options)[0]
        finally:
            self._visit = None


def bias_of(module: nn.Module) -> Tensor | None:
    """Return the constant (C,) that a layer adds: its bias; for batch norm in evaluation including its statistics."""
    affine = affine_of(module) if is_batch_norm(module) else None
    bias = module.bias if affine is None else affine.shift
    return bias if isinstance(bias, Tensor) else None
