"""The head of a quantised model, which no graph records: recognised by the values that go in and come out."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from fastcam.graph.pooled_head import Head
from fastcam.model import capture, quantised
from fastcam.model.elements import ModelOutput
from fastcam.model.inputs import Inputs

_ROUNDING = 1e-5  # of the largest value, between two ways to pool floats


def find(model: nn.Module, inputs: Inputs, output: ModelOutput, activations: Tensor) -> Head | None:
    """Return the pooling and linear layer between ``activations`` (N, C, *S) and ``output``, if that is quantised.

    The last quantised linear layer is the head if what it returns is the output and what it is given is the pooled
    activations, within one step of its input's scale.

    Args:
        model: the model.
        inputs: N images and the model's other arguments.
        output: the scored part of the model's output.
        activations: of the target layer for the images.
    """
    if not isinstance(output, Tensor) or output.dim() != 2 or activations.dim() < 3:
        return None
    seen = _last_linear(model, inputs)
    if seen is None or not torch.equal(quantised.values_of(seen.output).flatten(1), output):
        return None
    weight = quantised.values_of(cast("Callable[[], Tensor]", seen.module.weight)())
    features, positions = quantised.values_of(seen.input).flatten(1), activations.detach().flatten(2)
    if weight.shape != (output.shape[1], activations.shape[1]) or features.shape != positions.shape[:2]:
        return None
    step = seen.input.q_scale() if seen.input.is_quantized else _ROUNDING * float(features.abs().max())
    if bool(((positions.mean(-1) - features).abs() <= step).all()):
        return Head("mean", weight)
    return Head("max", weight) if bool(((positions.amax(-1) - features).abs() <= step).all()) else None


@dataclass
class _Seen:
    """The last run of a linear layer in one forward pass."""

    module: nn.Module
    input: Tensor
    output: Tensor


@dataclass
class _Recorder:
    """A hook of quantised linear layers that keeps the last run, in the thread that made it."""

    seen: _Seen | None = None
    thread: int = field(default_factory=threading.get_ident)

    def __call__(self, module: nn.Module, arguments: tuple[object, ...], output: ModelOutput) -> None:
        given = arguments[0] if arguments else None
        if threading.get_ident() == self.thread and isinstance(given, Tensor) and isinstance(output, Tensor):
            self.seen = _Seen(module, given, output)


def _last_linear(model: nn.Module, inputs: Inputs) -> _Seen | None:
    recorder = _Recorder()
    linear = [module for module in model.modules() if quantised.float_class(module) is nn.Linear]
    handles = [module.register_forward_hook(recorder) for module in linear]
    try:
        if linear:
            capture.forward(model, inputs.arguments)
    finally:
        for handle in handles:
            handle.remove()
    return recorder.seen
