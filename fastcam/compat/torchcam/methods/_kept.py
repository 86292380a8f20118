"""What an extractor keeps of a forward pass, for every thread its own, and the hooks that keep it."""

import contextlib
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, cast

from torch import Tensor
from torch.utils.hooks import RemovableHandle


class Kept(threading.local):
    """What the calling thread's last forward pass left.

    Args:
        layers: how many target layers there are.

    Attributes:
        activations: per layer, (N, C, *s), detached; None before the first pass.
        gradients: per layer, those of the last call.
        outputs: per layer, what it returned, in the graph.
        result: the model's output as the caller got it, and as it is with its graph, where these are two.
        inputs: the model's arguments, for the methods that run it again.
        calls: by layer, what went into it, for the methods that run it again.
        modes: grad modes to go back to when the model has run.
        began: whether recording began at a layer, in the pass that runs.
        silent: more than 0 while the extractor runs the model itself.
    """

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.modes: list[bool] = []
        self.began = False
        self.silent = 0
        self.clear()

    def clear(self) -> None:
        """Forgets the pass."""
        self.activations: list[Tensor | None] = [None] * self.layers
        self.gradients: list[Tensor | None] = [None] * self.layers
        self.outputs: list[Tensor | None] = [None] * self.layers
        self.result: tuple[Any, Any] | None = None
        self.calls: dict[int, tuple[list[Any], dict[str, Any]]] = {}
        self.inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def __reduce__(self) -> tuple[type["Kept"], tuple[int]]:
        """A copy begins empty: a model may be copied or saved while it is watched."""
        return Kept, (self.layers,)


class Hooks:
    """The hooks of an extractor, and what they kept."""

    _kept: Kept
    _hooks_enabled: bool
    hook_handles: list[RemovableHandle]

    @property
    def hook_a(self) -> list[Tensor]:
        """Per layer, the activations (N, C, *s) of the calling thread's last pass; None before it."""
        return cast(list[Tensor], self._kept.activations)

    @hook_a.setter
    def hook_a(self, activations: list[Tensor | None]) -> None:
        self._kept.activations = activations

    @property
    def hook_g(self) -> list[Tensor]:
        """Per layer, the gradients of the calling thread's last call; None before it."""
        return cast(list[Tensor], self._kept.gradients)

    @hook_g.setter
    def hook_g(self, gradients: list[Tensor | None]) -> None:
        self._kept.gradients = gradients

    def enable_hooks(self) -> None:
        """Keeps forward passes from now on."""
        self._hooks_enabled = True

    def disable_hooks(self) -> None:
        """Keeps no forward passes from now on."""
        self._hooks_enabled = False

    @contextlib.contextmanager
    def _hooks_off(self) -> Iterator[None]:
        """Keeps none of the calling thread's forward passes in between."""
        self._kept.silent += 1
        try:
            yield
        finally:
            self._kept.silent -= 1

    @property
    def _listens(self) -> bool:
        return self._hooks_enabled and not self._kept.silent

    def reset_hooks(self) -> None:
        """Forgets the calling thread's last forward pass."""
        self._kept.clear()

    def remove_hooks(self) -> None:
        """Takes the hooks out of the model."""
        for handle in self.hook_handles:
            handle.remove()
        self.hook_handles.clear()

    def __enter__(self) -> Self:
        """The object itself."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Takes the hooks out of the model and forgets what they kept."""
        self.remove_hooks()
        self.reset_hooks()
