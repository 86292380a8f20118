"""The hooks of an extractor, and the per-thread record of a forward pass that they write."""

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

from torch import Tensor
from torch.utils.hooks import RemovableHandle

ModelArguments: TypeAlias = tuple[tuple[object, ...], dict[str, object]]  # positional and keyword arguments


class PassRecord(threading.local):
    """The record of the calling thread's last forward pass.

    Args:
        layers: number of target layers.

    Attributes:
        activations: per layer, (N, C, *s), detached; None before the first pass.
        gradients: per layer, those of the last call.
        outputs: per layer, its output, in the graph.
        result: the model's output as returned to the caller, and the same with its graph, where these differ.
        inputs: the model's arguments, for the methods that rerun it.
        calls: by layer, its arguments, for the methods that rerun it.
        grad_modes: grad modes to restore after the model has run.
        enabled_grad: whether a layer enabled gradients in the running pass.
        silent: more than 0 while the extractor runs the model itself.
    """

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.grad_modes: list[bool] = []
        self.enabled_grad = False
        self.silent = 0
        self.clear()

    def clear(self) -> None:
        """Discard the record."""
        self.activations: list[Tensor | None] = [None] * self.layers
        self.gradients: list[Tensor | None] = [None] * self.layers
        self.outputs: list[Tensor | None] = [None] * self.layers
        self.result: tuple[object, Any] | None = None
        self.calls: dict[int, tuple[list[object], dict[str, object]]] = {}
        self.inputs: ModelArguments | None = None

    def __reduce__(self) -> tuple[type["PassRecord"], tuple[int]]:
        """Copy as an empty record, so that a model with hooks can be copied and pickled."""
        return PassRecord, (self.layers,)


class Hooks:
    """The hooks of an extractor, and their record."""

    _record: PassRecord
    _hooks_enabled: bool
    hook_handles: list[RemovableHandle]

    @property
    def hook_a(self) -> list[Tensor]:
        """Per layer, the activations (N, C, *s) of the calling thread's last pass; None before it."""
        return cast(list[Tensor], self._record.activations)

    @hook_a.setter
    def hook_a(self, activations: list[Tensor | None]) -> None:
        self._record.activations = activations

    @property
    def hook_g(self) -> list[Tensor]:
        """Per layer, the gradients of the calling thread's last call; None before it."""
        return cast(list[Tensor], self._record.gradients)

    @hook_g.setter
    def hook_g(self, gradients: list[Tensor | None]) -> None:
        self._record.gradients = gradients

    def enable_hooks(self) -> None:
        """Start recording forward passes."""
        self._hooks_enabled = True

    def disable_hooks(self) -> None:
        """Stop recording forward passes."""
        self._hooks_enabled = False

    @contextlib.contextmanager
    def _hooks_off(self) -> Iterator[None]:
        """Suspend recording in the calling thread."""
        self._record.silent += 1
        try:
            yield
        finally:
            self._record.silent -= 1

    @property
    def _is_recording(self) -> bool:
        return self._hooks_enabled and not self._record.silent

    def reset_hooks(self) -> None:
        """Discard the record of the calling thread's last forward pass."""
        self._record.clear()

    def remove_hooks(self) -> None:
        """Remove the hooks from the model."""
        for handle in self.hook_handles:
            handle.remove()
        self.hook_handles.clear()

    def __enter__(self) -> Self:
        """Return the extractor."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Remove the hooks from the model and discard their record."""
        self.remove_hooks()
        self.reset_hooks()
