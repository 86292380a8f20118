"""Activations of chosen layers in one forward pass, without lasting changes to the model."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fastcam.model import elements, running
from fastcam.model.elements import Element, ModelOutput
from fastcam.model.split_model import SplitModel

ForwardHook: TypeAlias = Callable[[nn.Module, tuple[object, ...], ModelOutput], ModelOutput | None]


@dataclass(frozen=True)
class Layer:
    """A target layer and its name in the model."""

    name: str
    module: nn.Module


@dataclass(frozen=True)
class Captured:
    """The model's output in one forward pass, and the activations of every layer."""

    output: ModelOutput
    activations: list[Tensor]


def forward(
    model: nn.Module,
    images: Tensor | tuple[object, ...],
    layers: Sequence[Layer] = (),
    *,
    with_graph: bool = False,
    from_start: bool = False,
    element: Element = None,
) -> Captured:
    """Run the model once and capture the outputs of the layers.

    Everything before the first target layer runs without an autograd graph; with ``with_graph`` everything after it is
    recorded, in any grad mode of the caller, so that gradients can be taken with respect to exactly the tensors that
    the layers returned (:mod:`fastcam.model.gradients`). The model continues with a copy of them, so that in-place
    modules cannot change the captured tensors. Hooks act in the calling thread only and are always removed.

    Args:
        model: any module.
        images: (N, ...) input, or the model's positional arguments, the images first.
        layers: the layers to capture; the last run counts if a layer runs several times.
        with_graph: record the graph that gradients with respect to the layers need.
        from_start: record the whole graph, from the images and parameters on.
        element: the element of a layer's tuple or dict that is its activation.

    Raises:
        RuntimeError: if a layer is not reached.
        TypeError: if a layer does not return a floating tensor, or returns a collection and ``element`` is None.
    """
    if isinstance(model, SplitModel) and len(layers) == 1 and element is None and not from_start:
        split = model.run_split(images if isinstance(images, tuple) else (images,), layers[0].name, with_graph)
        if split is not None:
            return Captured(split[1], [split[0]])
    activations: dict[int, Tensor] = {}
    thread = threading.get_ident()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(from_start))
        stack.enter_context(running.preserve_state(model))
        for index, layer in enumerate(layers):
            hook = _capture_hook(layer, thread, activations, index, with_graph or from_start, element)
            stack.callback(layer.module.register_forward_hook(hook).remove)
        output = running.call(model, images)
    torch.clear_autocast_cache()  # torch 2.10 would give weights cast without a graph to the caller's next pass
    for index, layer in enumerate(layers):
        if index not in activations:
            raise RuntimeError(f"target layer {layer.name!r} was not reached in the forward pass")
    return Captured(output, [activations[index] for index in range(len(layers))])


def _capture_hook(
    layer: Layer, thread: int, activations: dict[int, Tensor], index: int, with_graph: bool, element: Element
) -> ForwardHook:
    def keep(module: nn.Module, arguments: tuple[object, ...], output: ModelOutput) -> ModelOutput | None:
        if threading.get_ident() != thread:  # another thread runs the same model
            return None
        tensor = elements.activation_of(output, element, layer.name)
        # Kept as a copy, since the layer may return its own input; the model continues with another copy.
        activations[index] = tensor.clone()
        if not with_graph:
            return None
        torch.set_grad_enabled(True)  # until the surrounding mode ends
        return elements.exchange(output, element, activations[index].requires_grad_().clone())

    return keep


@contextlib.contextmanager
def replace_activation(layer: Layer, tensor: Tensor, element: Element = None, run: int = 1) -> Iterator[None]:
    """Make the layer return the tensor in its ``run``-th run within the context, in the calling thread only."""
    thread, runs = threading.get_ident(), 0

    def hook(module: nn.Module, arguments: tuple[object, ...], output: ModelOutput) -> ModelOutput | None:
        nonlocal runs
        if threading.get_ident() != thread:
            return None
        runs += 1
        return elements.exchange(output, element, tensor) if runs == run else None

    handle = layer.module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def observe(model: nn.Module, images: Tensor | tuple[object, ...]) -> list[tuple[str, nn.Module, Tensor]]:
    """Run the model once; list (name, module, output) of modules that return a tensor, in the order they finish."""
    outputs: list[tuple[str, nn.Module, Tensor]] = []
    thread = threading.get_ident()

    def recording_hook(name: str) -> ForwardHook:
        def hook(module: nn.Module, arguments: tuple[object, ...], output: ModelOutput) -> None:
            if threading.get_ident() == thread and isinstance(output, Tensor):
                outputs.append((name, module, output))

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(running.preserve_state(model))
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_hook(recording_hook(name)).remove)
        running.call(model, images)
    return outputs
