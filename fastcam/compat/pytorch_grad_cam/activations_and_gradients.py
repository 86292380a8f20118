"""Hooks that record outputs of layers and their gradients, for custom loops."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fastcam.compat.pytorch_grad_cam._types import ReshapeTransform


class ActivationsAndGradients:
    """A recorder of layers' outputs when the model runs, and of their gradients in a backward pass.

    The classes of the package do not use it: nothing is attached to a model between their calls.

    Args:
        model: any module.
        target_layers: the recorded modules, until :meth:`release`.
        reshape_transform: from the output of a layer to (N, C, *s).
        detach: record detached tensors on the CPU; False records the layers' tensors themselves.

    Attributes:
        activations: in the order in which the layers ran.
        gradients: in the same order.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: ReshapeTransform | None,
        detach: bool = True,
    ) -> None:
        self.model, self.reshape_transform, self.detach = model, reshape_transform, detach
        self.activations: list[Tensor] = []
        self.gradients: list[Tensor] = []
        self.handles: list[RemovableHandle] = []
        for layer in target_layers:
            self.handles += [layer.register_forward_hook(hook) for hook in (self.save_activation, self.save_gradient)]

    def save_activation(self, module: nn.Module, input: object, output: Tensor) -> None:
        """Record a layer's output."""
        self.activations.append(self._recorded(output))

    def save_gradient(self, module: nn.Module, input: object, output: Tensor) -> None:
        """Record the gradient of a layer's output, once it is computed."""
        if getattr(output, "requires_grad", False):
            output.register_hook(lambda gradient: self.gradients.insert(0, self._recorded(gradient)))

    def _recorded(self, tensor: Tensor) -> Tensor:
        if not self.detach:
            return tensor
        return (tensor if self.reshape_transform is None else self.reshape_transform(tensor)).cpu().detach()

    def __call__(self, x: Any) -> Any:
        """Discard earlier records and return the model's output."""
        self.activations, self.gradients = [], []
        return self.model(x)

    def clear(self) -> None:
        """Discard the records."""
        self.activations.clear()
        self.gradients.clear()

    def release(self) -> None:
        """Discard the records and remove the hooks."""
        self.clear()
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
