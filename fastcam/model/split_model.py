"""The interface of a model that can run in two parts: up to a layer, and from there on."""

from typing import Any

from torch import Tensor, nn


class SplitModel(nn.Module):
    """A model made from another that may run by itself in two parts: up to a layer without a graph, then the rest."""

    def run_split(self, arguments: tuple[Any, ...], layer: str, with_graph: bool) -> tuple[Tensor, Any] | None:
        """Return what the layer returned, a leaf of the graph if there is one, and the output; None where it cannot."""
        raise NotImplementedError

    def name_of(self, module: nn.Module) -> str | None:
        """Return the name here of a module of the model that this one was made from; None for others."""
        raise NotImplementedError

    def check_layer(self, name: str) -> None:
        """Refuse a layer that does not return what it does in the model that this one was made from.

        Raises:
            ValueError: naming the layer.
        """
        raise NotImplementedError

    def check_biases(self) -> None:
        """Refuse to be asked for the gradient of every bias where biases of the original model are gone.

        Raises:
            ValueError: naming the layers.
        """
        raise NotImplementedError
