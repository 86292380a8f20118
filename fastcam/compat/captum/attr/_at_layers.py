"""All tensors that layers take or return in one run of a forward function, and their replacement."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.hooks import RemovableHandle

from fastcam.compat.captum.attr._bases import Layer
from fastcam.compat.captum.attr._calls import Call, recording

Values: TypeAlias = tuple[Tensor, ...]
Exchange: TypeAlias = Callable[[int, Values], Sequence[Tensor] | None]


@dataclass(frozen=True)
class LayerRun:
    """The result of one run.

    Attributes:
        values: per layer, the tensors it took or returned, detached.
        output: of the function.
        nodes: per layer, the same tensors in the graph, where one was recorded.
    """

    values: list[Values]
    output: Any
    nodes: list[Values]

    @property
    def flat(self) -> Values:
        """The tensors of all layers."""
        return tuple(tensor for values in self.values for tensor in values)

    def by_layer(self, tensors: Values) -> list[Values]:
        """Group tensors in the order of :attr:`flat` by layer."""
        pending = iter(tensors)
        return [tuple(next(pending) for _ in values) for values in self.values]

    def gradients(self, call: Call, grad_kwargs: dict[str, Any] | None = None) -> list[Values]:
        """Return the gradients of the call's scores with respect to every value, by layer.

        Args:
            call: selects the scores.
            grad_kwargs: options of :func:`torch.autograd.grad`.
        """
        nodes = tuple(tensor for values in self.nodes for tensor in values)
        with recording():
            scores = torch.unbind(call.single_scores(self.output))
            return self.by_layer(torch.autograd.grad(scores, nodes, **(grad_kwargs or {})))


def format_values(layer: Layer, values: list[Values]) -> Any:
    """Return values in Captum's form: a list for a list of layers, a tuple for a layer with several tensors."""
    formatted = [tensors if len(tensors) > 1 else tensors[0] for tensors in values]
    return formatted if isinstance(layer, list) else formatted[0]


def as_list(layer: Layer) -> list[nn.Module]:
    """Return the layers as a list."""
    return layer if isinstance(layer, list) else [layer]


def run_layers(
    call: Call,
    layer: Layer,
    at_input: bool,
    *,
    inputs: Values | None = None,
    with_graph: bool = False,
    from_start: bool = False,
) -> LayerRun:
    """Run the function once and keep what the layers take or return; of a layer that runs several times, the last.

    For outputs nothing before the first layer is recorded, unless ``from_start``. For inputs everything is: they may
    have been used before, by a skip connection around the layer, and their gradients include every use. Later in-place
    operations do not change the kept values.

    Args:
        call: the function, its inputs and arguments.
        layer: a module or several.
        at_input: keep what the layers take.
        inputs: used instead of the call's.
        with_graph: record the operations after the layers, for :meth:`LayerRun.gradients`.
        from_start: record all operations.

    Raises:
        AssertionError: where a layer is not reached.
    """
    values, nodes = dict[int, Values](), dict[int, Values]()

    def keep(index: int, tensors: Values) -> Sequence[Tensor] | None:
        values[index] = tuple(tensor.detach().clone() for tensor in tensors)
        if not with_graph:
            return None
        nodes[index] = _as_nodes(tensors, at_input)
        return [tensor.clone() for tensor in nodes[index]]

    layers = as_list(layer)
    tensors = call.inputs if inputs is None else inputs
    if with_graph and at_input and not from_start:
        tensors = tuple(call.leaves((tensor,))[0] if tensor.is_floating_point() else tensor for tensor in tensors)
    with at_layers(layers, at_input, keep):
        output = call.output(tensors, with_graph=from_start or (with_graph and at_input))
    return LayerRun(_in_order(values, layers), output, _in_order(nodes, layers) if with_graph else [])


def _in_order(values: dict[int, Values], layers: list[nn.Module]) -> list[Values]:
    for index, module in enumerate(layers):
        if index not in values:
            raise AssertionError(f"the layer {type(module).__name__} was not reached in the forward pass")
    return [values[index] for index in range(len(layers))]


def _as_nodes(tensors: Values, at_input: bool) -> Values:
    """Return the tensors that gradients are taken with respect to, and record from here on."""
    torch.set_grad_enabled(True)  # until the surrounding mode ends
    nodes = tuple(tensor if at_input else tensor.clone() for tensor in tensors)
    for node in nodes:
        if node.is_floating_point():
            node.requires_grad_()
    return nodes


@contextlib.contextmanager
def at_layers(layers: Sequence[nn.Module], at_input: bool, exchange: Exchange) -> Iterator[None]:
    """Within the context, for the calling thread, exchange tensors that layers take or return.

    Args:
        layers: the modules.
        at_input: exchange what they take.
        exchange: from a layer's index and its tensors to others, or None to leave them.
    """
    thread = threading.get_ident()

    def exchange_tensors(index: int, structure: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        leaves, spec = tree_flatten(structure)
        positions = [position for position, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        tensors = exchange(index, tuple(leaves[position] for position in positions))
        if tensors is None:
            return None
        for position, tensor in zip(positions, tensors, strict=True):
            leaves[position] = tensor
        return tree_unflatten(leaves, spec)

    def add_hook(index: int, layer: nn.Module) -> RemovableHandle:
        if at_input:
            return layer.register_forward_pre_hook(lambda module, args: exchange_tensors(index, args))
        return layer.register_forward_hook(lambda module, args, output: exchange_tensors(index, output))

    with contextlib.ExitStack() as stack:
        for index, layer in enumerate(layers):
            stack.callback(add_hook(index, layer).remove)
        yield
