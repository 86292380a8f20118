"""Activations of chosen layers in one forward pass, without lasting changes to the model."""

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from fastcam.model import elements, quantised, running
from fastcam.model.elements import Element, ModelOutput
from fastcam.model.split_model import SplitModel
from fastcam.model.token_maps import TokenMap

ForwardHook: TypeAlias = Callable[[nn.Module, tuple[object, ...], ModelOutput], ModelOutput | None]


@dataclass(frozen=True)
class Layer:
    """A target layer.

    Attributes:
        name: in the model.
        module: the layer.
        token_map: from its output to (N, C, *S), where the output is not that itself.
        run: which of its runs in one forward pass is explained, from 0; None for the last.
    """

    name: str
    module: nn.Module
    token_map: TokenMap | None = None
    run: int | None = None


@dataclass(frozen=True)
class Captured:
    """The model's output in one forward pass, the activations of every layer, and how often each ran."""

    output: ModelOutput
    activations: list[Tensor]
    runs: list[int]


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
    modules cannot change the captured tensors; so do the model's own hooks, by which those of transformers collect what
    their heads read. Hooks act in the calling thread only and are always removed.

    Args:
        model: any module.
        images: (N, ...) input, or the model's positional arguments, the images first.
        layers: the layers to capture.
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
            return Captured(split[1], [split[0]], [1])
    recordings = [_Recording(layer, with_graph or from_start, element) for layer in layers]
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(from_start))
        stack.enter_context(running.preserve_state(model))
        for recording in recordings:
            stack.enter_context(around_hooks(recording.layer.module, recording.begin, recording.end))
        output = running.call(model, images)
    torch.clear_autocast_cache()  # torch 2.10 would give weights cast without a graph to the caller's next pass
    activations = [recording.result() for recording in recordings]
    return Captured(output, activations, [recording.runs for recording in recordings])


@contextlib.contextmanager
def around_hooks(module: nn.Module, first: ForwardHook, last: ForwardHook) -> Iterator[None]:
    """Within the context, call one function before all forward hooks that a module has, and one after them."""
    with contextlib.ExitStack() as stack:
        stack.callback(module.register_forward_hook(first, prepend=True).remove)
        stack.callback(module.register_forward_hook(last).remove)
        yield


def shown_to_hooks(module: nn.Module, tensor: Tensor) -> Tensor:
    """Return what the hooks between those of :func:`around_hooks` see of a tensor: a copy, theirs to change."""
    return tensor.clone() if len(module._forward_hooks) > 2 else tensor


class _Recording:
    """Hooks that keep the output of a layer, in the thread that made it.

    It is kept before other hooks see it, which get the copy that the model continues with; where one of them returns
    something else, that is what the layer returned.
    """

    def __init__(self, layer: Layer, with_graph: bool, element: Element) -> None:
        self.layer, self.with_graph, self.element = layer, with_graph, element
        self.thread, self.runs = threading.get_ident(), 0
        self.activation: Tensor | None = None
        self._passed_on: Tensor | None = None  # in the present run, if it is the one

    def begin(self, module: nn.Module, arguments: tuple[object, ...], output: ModelOutput) -> ModelOutput | None:
        """Keep the output."""
        if threading.get_ident() != self.thread:  # another thread runs the same model
            return None
        run, self.runs = self.runs, self.runs + 1
        self._passed_on = None
        return self._keep(output) if self.layer.run in (None, run) else None

    def end(self, module: nn.Module, arguments: tuple[object, ...], output: ModelOutput) -> ModelOutput | None:
        """Keep the output in place of that before, if another hook changed it."""
        if threading.get_ident() != self.thread or self._passed_on is None:
            return None
        is_same = elements.activation_of(output, self.element, self.layer.name) is self._passed_on
        return None if is_same else self._keep(output)

    def _keep(self, output: ModelOutput) -> ModelOutput | None:
        tensor = elements.activation_of(output, self.element, self.layer.name)
        # Kept as a copy, since the layer may return its own input; the model continues with another copy.
        self.activation = tensor.clone()
        if not self.with_graph:
            self._passed_on = tensor
            return None
        torch.set_grad_enabled(True)  # until the surrounding mode ends
        self._passed_on = self.activation.requires_grad_().clone()
        return elements.exchange(output, self.element, self._passed_on)

    def result(self) -> Tensor:
        """Return the activation."""
        if self.activation is not None:
            return self.activation
        if self.runs:
            raise RuntimeError(
                f"`layer_run` is {self.layer.run}, but target layer {self.layer.name!r} ran {self.runs} times in the "
                f"forward pass: its runs are 0 to {self.runs - 1}"
            )
        raise RuntimeError(f"target layer {self.layer.name!r} was not reached in the forward pass")


@contextlib.contextmanager
def replace_activation(layer: Layer, tensor: Tensor, element: Element = None, run: int = 0) -> Iterator[None]:
    """Make the layer return the tensor in one of its runs, from 0, in the context and the calling thread only.

    The layer's other hooks see the tensor too, and cannot change it.
    """
    thread, runs = threading.get_ident(), -1

    def first(module: nn.Module, arguments: tuple[object, ...], output: ModelOutput) -> ModelOutput | None:
        nonlocal runs
        if threading.get_ident() != thread:
            return None
        runs += 1
        return elements.exchange(output, element, shown_to_hooks(module, tensor)) if runs == run else None

    def last(module: nn.Module, arguments: tuple[object, ...], output: ModelOutput) -> ModelOutput | None:
        is_run = threading.get_ident() == thread and runs == run
        return elements.exchange(output, element, tensor) if is_run else None

    with around_hooks(layer.module, first, last):
        yield


class Output(NamedTuple):
    """The output of one module in one run (its values, if it is quantised), and the node of the graph that made it."""

    name: str
    module: nn.Module
    tensor: Tensor
    run: int
    node: Node | None


@dataclass(frozen=True)
class Observed:
    """The outputs of all modules in one forward pass, in the order they finish, and the model's."""

    outputs: list[Output]
    output: ModelOutput


def observe(
    model: nn.Module,
    images: Tensor | tuple[object, ...],
    *,
    with_graph: bool = False,
    only: Sequence[Layer] | None = None,
) -> Observed:
    """Run the model once and record the outputs of the modules that return a tensor.

    Args:
        model: any module.
        images: (N, ...) input, or the model's positional arguments.
        with_graph: record the graph, from the images on.
        only: the layers to record; None for all modules.
    """
    outputs: list[Output] = []
    runs: dict[str, int] = defaultdict(lambda: -1)
    thread = threading.get_ident()

    def recording_hook(name: str) -> ForwardHook:
        def hook(module: nn.Module, arguments: tuple[object, ...], output: ModelOutput) -> None:
            if threading.get_ident() == thread and isinstance(output, Tensor):
                run = runs[name] = runs[name] + 1
                outputs.append(Output(name, module, quantised.values_of(output), run, output.grad_fn))

        return hook

    modules = dict(model.named_modules()) if only is None else {layer.name: layer.module for layer in only}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(with_graph))
        stack.enter_context(running.preserve_state(model))
        for name, module in modules.items():
            if not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_hook(recording_hook(name)).remove)
        output = running.call(model, images)
    return Observed(outputs, output)
