"""The interface of a model that can run in two parts: up to a layer, and after it."""

from torch import Tensor, nn

from fastcam.model.elements import ModelOutput


class SplitModel(nn.Module):
    """A model derived from another, which can run in two parts: up to a layer without a graph, then the rest."""

    def run_split(
        self, arguments: tuple[object, ...], layer: str, with_graph: bool
    ) -> tuple[Tensor, ModelOutput] | None:
        """Return the layer's output, a leaf of the graph if there is one, and the model's; None if it cannot split."""
        raise NotImplementedError

    def name_of(self, module: nn.Module) -> str | None:
        """Return the name in this model of a module of the original model; None for others."""
        raise NotImplementedError

    def check_layer(self, name: str) -> None:
        """Check that a layer returns the same as in the original model.

        Raises:
            ValueError: if it does not.
        """
        raise NotImplementedError

    def check_biases(self) -> None:
        """Check that the biases of the original model are still there, for gradients of all biases.

        Raises:
            ValueError: if some are gone; the message names the layers.
        """
        raise NotImplementedError
