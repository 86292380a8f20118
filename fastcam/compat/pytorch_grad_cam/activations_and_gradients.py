"""What layers return, and the gradients there, kept by hooks: for loops of one's own."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class ActivationsAndGradients:
    """Keeps what layers return when the model runs, and the gradients there when something is differentiated.

    The classes of the package do without: nothing is attached to a model between their calls.

    Args:
        model: any module.
        target_layers: its modules to watch, until :meth:`release`.
        reshape_transform: from what a layer returns to (N, C, *s).
        detach: keep copies on the host; False keeps the tensors themselves, as they are.

    Attributes:
        activations: in the order in which the layers ran.
        gradients: in the same order.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None,
        detach: bool = True,
    ) -> None:
        self.model, self.reshape_transform, self.detach = model, reshape_transform, detach
        self.activations: list[Any] = []
        self.gradients: list[Any] = []
        self.handles: list[RemovableHandle] = []
        for layer in target_layers:
            self.handles += [layer.register_forward_hook(each) for each in (self.save_activation, self.save_gradient)]

    def save_activation(self, module: nn.Module, input: Any, output: Any) -> None:
        """Keeps what a layer returned."""
        self.activations.append(self._kept(output))

    def save_gradient(self, module: nn.Module, input: Any, output: Any) -> None:
        """Keeps the gradient there, once there is one."""
        if getattr(output, "requires_grad", False):
            output.register_hook(lambda gradient: self.gradients.insert(0, self._kept(gradient)))

    def _kept(self, tensor: Any) -> Any:
        if not self.detach:
            return tensor
        return (tensor if self.reshape_transform is None else self.reshape_transform(tensor)).cpu().detach()

    def __call__(self, x: Any) -> Any:
        """What the model returns; what was kept before is forgotten."""
        self.activations, self.gradients = [], []
        return self.model(x)

    def clear(self) -> None:
        """Forgets what was kept."""
        self.activations.clear()
        self.gradients.clear()

    def release(self) -> None:
        """Forgets, and watches no more."""
        self.clear()
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
