"""What layers take or return in one run of a forward function, all tensors of it, and other values in their place."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from fastcam.compat.captum.attr._bases import Layer
from fastcam.compat.captum.attr._calls import Call, check_scores, recording

Values = tuple[Tensor, ...]
Exchange = Callable[[int, Values], Sequence[Tensor] | None]


@dataclass(frozen=True)
class Seen:
    """What one run left.

    Attributes:
        values: of each layer, the tensors it took or returned, out of the graph.
        output: what the function returned.
        places: the same tensors in the graph, where one was recorded.
    """

    values: list[Values]
    output: Any
    places: list[Values]

    @property
    def flat(self) -> Values:
        """The tensors of all layers."""
        return tuple(each for values in self.values for each in values)

    def by_layer(self, found: Values) -> list[Values]:
        """Tensors for :attr:`flat`, layer by layer."""
        pending = iter(found)
        return [tuple(next(pending) for _ in values) for values in self.values]

    def gradients(self, call: Call, options: dict[str, Any] | None = None) -> list[Values]:
        """Gradients of the call's scores with respect to every value, layer by layer.

        Args:
            call: what counts of the output.
            options: of :func:`torch.autograd.grad`.
        """
        places = tuple(each for values in self.places for each in values)
        with recording():
            scores = call.chosen(self.output)
            check_scores(scores)
            return self.by_layer(torch.autograd.grad(torch.unbind(scores), places, **(options or {})))


def formatted(layer: Layer, found: list[Values]) -> Any:
    """As Captum returns it: of a list of layers a list; of a layer with several tensors a tuple."""
    each = [values if len(values) > 1 else values[0] for values in found]
    return each if isinstance(layer, list) else each[0]


def as_list(layer: Layer) -> list[nn.Module]:
    """The layers as a list."""
    return layer if isinstance(layer, list) else [layer]


def look(
    call: Call,
    layer: Layer,
    at_input: bool,
    *,
    inputs: tuple[Tensor, ...] | None = None,
    with_graph: bool = False,
    from_start: bool = False,
) -> Seen:
    """Runs the function once and keeps what the layers take or return; of a layer that runs several times, the last.

    Of what layers return nothing in front of the first is recorded, unless ``from_start``. What a layer takes may have
    been used before, by a skip connection around it say: gradients there count every use, and all is recorded. What
    follows in place does not change what was kept.

    Args:
        call: the function, its inputs and arguments.
        layer: a module or several.
        at_input: look at what they take.
        inputs: in the place of the call's.
        with_graph: record what follows, so that :meth:`Seen.gradients` can differentiate.
        from_start: record everything, from the inputs on.

    Raises:
        AssertionError: where a layer is not reached.
    """
    kept: dict[int, Values] = {}
    places: dict[int, Values] = {}

    def keep(index: int, values: Values) -> Sequence[Tensor] | None:
        kept[index] = tuple(each.detach().clone() for each in values)
        if not with_graph:
            return None
        torch.set_grad_enabled(True)  # until the surrounding mode ends
        places[index] = tuple(each if at_input else each.clone() for each in values)
        for each in places[index]:
            if each.is_floating_point():
                each.requires_grad_()
        return [each.clone() for each in places[index]]

    layers = as_list(layer)
    given = call.inputs if inputs is None else inputs
    if with_graph and at_input and not from_start:
        given = tuple(call.leaves((each,))[0] if each.is_floating_point() else each for each in given)
    with at_layers(layers, at_input, keep):
        output = call.output(given, with_graph=from_start or (with_graph and at_input))
    for index, each in enumerate(layers):
        if index not in kept:
            raise AssertionError(f"the layer {type(each).__name__} was not reached in the forward pass")
    order = range(len(layers))
    return Seen([kept[index] for index in order], output, [places[index] for index in order] if with_graph else [])


@contextlib.contextmanager
def at_layers(layers: Sequence[nn.Module], at_input: bool, exchange: Exchange) -> Iterator[None]:
    """Within the context, and for the calling thread, layers take or return what ``exchange`` gives, if anything.

    Args:
        layers: the modules.
        at_input: exchange what they take.
        exchange: from a layer's index and its tensors to others, or None.
    """
    thread = threading.get_ident()

    def changed(index: int, given: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        leaves, spec = tree_flatten(given)
        places = [place for place, each in enumerate(leaves) if isinstance(each, Tensor)]
        new = exchange(index, tuple(leaves[place] for place in places))
        if new is None:
            return None
        for place, each in zip(places, new, strict=True):
            leaves[place] = each
        return tree_unflatten(leaves, spec)

    def hooked(index: int, layer: nn.Module) -> Any:
        if at_input:
            return layer.register_forward_pre_hook(lambda module, given: changed(index, given))
        return layer.register_forward_hook(lambda module, given, output: changed(index, output))

    with contextlib.ExitStack() as stack:
        for index, layer in enumerate(layers):
            stack.callback(hooked(index, layer).remove)
        yield
