"""Activations of chosen layers in one forward pass, leaving no trace in the model."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastcam.model import elements, running
from fastcam.model.elements import Element
from fastcam.model.split_model import SplitModel


@dataclass(frozen=True)
class Layer:
    """A target layer and the name it has in the model."""

    name: str
    module: nn.Module


@dataclass(frozen=True)
class Captured:
    """What one forward pass left: the model's output and, layer by layer, what each layer returned."""

    output: Any
    activations: list[Tensor]


def forward(
    model: nn.Module,
    images: Tensor | tuple[Any, ...],
    layers: Sequence[Layer] = (),
    *,
    with_graph: bool = False,
    from_start: bool = False,
    element: Element = None,
) -> Captured:
    """Runs the model once and keeps what the layers return.

    Everything before the first target layer runs without an autograd graph; with ``with_graph`` everything after it is
    recorded, whatever grad mode the caller is in, so that gradients can be taken with respect to exactly the tensors
    the layers returned (:mod:`fastcam.model.gradients`). The model goes on with a copy of them: a module that follows
    in place cannot change what was captured. Hooks act for the calling thread only and are removed in any case.

    Args:
        model: any module.
        images: (N, ...) input, or the model's positional arguments, the images first.
        layers: where to capture; of a layer that runs several times, the last run counts.
        with_graph: record what gradients with respect to the layers need.
        from_start: record everything, from the images and parameters on.
        element: which element of a layer's tuple or dict is its activation.

    Raises:
        RuntimeError: where a layer is not reached.
        TypeError: where a layer does not return a floating tensor, or returns a collection and ``element`` is None.
    """
    if isinstance(model, SplitModel) and len(layers) == 1 and element is None and not from_start:
        split = model.run_split(images if isinstance(images, tuple) else (images,), layers[0].name, with_graph)
        if split is not None:
            return Captured(split[1], [split[0]])
    kept: dict[int, Tensor] = {}
    thread = threading.get_ident()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(from_start))
        stack.enter_context(running.untouched(model))
        for index, layer in enumerate(layers):
            hook = _hook(layer, thread, kept, index, with_graph or from_start, element)
            stack.callback(layer.module.register_forward_hook(hook).remove)
        output = running.call(model, images)
    for index, layer in enumerate(layers):
        if index not in kept:
            raise RuntimeError(f"target layer {layer.name!r} was not reached in the forward pass")
    return Captured(output, [kept[index] for index in range(len(layers))])


def _hook(
    layer: Layer, thread: int, kept: dict[int, Tensor], index: int, with_graph: bool, element: Element
) -> Callable[[nn.Module, Any, Any], Any]:
    def keep(module: nn.Module, arguments: Any, output: Any) -> Any:
        if threading.get_ident() != thread:  # another thread runs the same model
            return None
        tensor = elements.activation_of(output, element, layer.name)
        # A copy to keep, for the layer may have returned its own input; and below a copy to go on with.
        kept[index] = tensor.clone()
        if not with_graph:
            return None
        torch.set_grad_enabled(True)  # until the surrounding mode ends
        return elements.exchange(output, element, kept[index].requires_grad_().clone())

    return keep


@contextlib.contextmanager
def exchanged(layer: Layer, tensor: Tensor, element: Element = None, run: int = 1) -> Iterator[None]:
    """Within the context, and for the calling thread, the layer's given run returns the tensor whatever it computes."""
    thread, runs = threading.get_ident(), 0

    def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
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


def observe(model: nn.Module, images: Tensor | tuple[Any, ...]) -> list[tuple[str, nn.Module, Tensor]]:
    """Runs the model once and lists (name, module, output) of every module that returned a tensor, as they finished."""
    seen: list[tuple[str, nn.Module, Tensor]] = []
    thread = threading.get_ident()

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if threading.get_ident() == thread and isinstance(output, Tensor):
                seen.append((name, module, output))

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(running.untouched(model))
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_hook(note(name)).remove)
        running.call(model, images)
    return seen
