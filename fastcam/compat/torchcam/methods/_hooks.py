"""The hooks of an extractor, and the per-thread record of a forward pass that they write."""

import contextlib
import sys
import threading
import weakref
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from fastcam.model import running

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


class WeakHook:
    """A hook that calls a method of an extractor, which it does not keep alive.

    It does nothing once the extractor is gone, and while another method of this package runs the model: that method
    sets the grad mode itself, and the record stays that of the user's pass. An object, so that a model with hooks can
    be copied and pickled.

    Args:
        extractor: with the method; None for a hook that does nothing.
        method: its name.
        keywords: further arguments of the method.
    """

    def __init__(self, extractor: "Hooks | None", method: str, keywords: dict[str, int]) -> None:
        self._extractor = None if extractor is None else weakref.ref(extractor)
        self._method, self._keywords = method, keywords

    def __call__(self, *arguments: object) -> Any:
        """Call the method with the arguments of the hook."""
        extractor = None if self._extractor is None else self._extractor()
        if extractor is None or _is_run_by_explainer():
            return None
        return getattr(extractor, self._method)(*arguments, **self._keywords)

    def __reduce__(self) -> tuple[type["WeakHook"], tuple["Hooks | None", str, dict[str, int]]]:
        """Copy with the extractor, so that the hook of a copied extractor's model refers to the copy."""
        extractor = None if self._extractor is None else self._extractor()
        return WeakHook, (extractor, self._method, self._keywords)


def _is_run_by_explainer() -> bool:
    """Whether :func:`fastcam.model.running.call` runs the model, as in all explanations but those of extractors."""
    frame = sys._getframe()
    while frame.f_back is not None:
        if frame.f_code is running.call.__code__:
            return True
        frame = frame.f_back
    return False


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

    def _weak_hook(self, method: str, **keywords: int) -> WeakHook:
        """Return a hook that calls a method of this extractor; the hooks go away with the extractor."""
        return WeakHook(self, method, keywords)

    def _no_hooks(self) -> list[RemovableHandle]:
        """Return an empty list of handles, which are removed with the extractor."""
        handles: list[RemovableHandle] = []
        weakref.finalize(self, _remove_all, handles).atexit = False
        return handles

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
        """Remove the hooks from the model; it also happens when the extractor is deleted."""
        _remove_all(self.hook_handles)

    def __enter__(self) -> Self:
        """Return the extractor."""
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        """Remove the hooks from the model and discard their record."""
        self.remove_hooks()
        self.reset_hooks()


def _remove_all(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
    handles.clear()
