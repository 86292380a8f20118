"""Activations of chosen layers and the gradients of scores with respect to them, leaving no trace in the model."""

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Element = int | str | None

_TARGETS_AT_ONCE = 32  # bounds the memory of a batched backward pass

_training_lock = threading.Lock()


@dataclass(frozen=True)
class Layer:
    """A target layer and the name it has in the model."""

    name: str
    module: nn.Module


@dataclass(frozen=True)
class Captured:
    """What one forward pass left: the model's output and, layer by layer, what each layer returned."""

    output: Any
    activations: list[Tensor]


def forward(
    model: nn.Module, images: Tensor, layers: Sequence[Layer], *, with_graph: bool, element: Element = None
) -> Captured:
    """Runs the model once and keeps what the layers return.

    Everything before the first target layer runs without an autograd graph; with ``with_graph`` everything after
    it is recorded, whatever grad mode the caller is in, so that :func:`gradients` can differentiate with respect to
    exactly the tensors the layers returned. The model goes on with a copy of them: a module that follows in place
    cannot change what was captured. Hooks answer to the calling thread only and are removed in any case.

    Args:
        model: any module.
        images: (N, ...) input.
        layers: where to capture; of a layer that runs several times, the last run counts.
        with_graph: record what gradients need.
        element: which element of a layer's tuple or dict is its activation.

    Raises:
        RuntimeError: where a layer is not reached.
        TypeError: where a layer does not return a floating tensor, or returns a collection and ``element`` is None.
    """
    kept: dict[int, Tensor] = {}
    thread = threading.get_ident()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_untouched(model))
        for index, layer in enumerate(layers):
            hook = _hook(layer, thread, kept, index, with_graph, element)
            stack.callback(layer.module.register_forward_hook(hook).remove)
        output = model(images.clone() if images.is_inference() else images)
    for index, layer in enumerate(layers):
        if index not in kept:
            raise RuntimeError(f"target layer {layer.name!r} was not reached in the forward pass")
    return Captured(output, [kept[index] for index in range(len(layers))])


def _hook(
    layer: Layer, thread: int, kept: dict[int, Tensor], index: int, with_graph: bool, element: Element
) -> Callable[[nn.Module, Any, Any], Any]:
    def keep(module: nn.Module, arguments: Any, output: Any) -> Any:
        if threading.get_ident() != thread:  # another thread runs the same model
            return None
        tensor = _select(output, element, layer.name)
        if not with_graph:
            kept[index] = tensor.clone()
            return None
        torch.set_grad_enabled(True)  # until the surrounding no_grad() ends
        if not tensor.requires_grad:
            tensor = tensor.detach().requires_grad_()
        kept[index] = tensor
        return _replace(output, element, tensor.clone())

    return keep


def _select(output: Any, element: Element, name: str) -> Tensor:
    if not isinstance(output, Tensor):
        if element is None:
            raise TypeError(
                f"target layer {name!r} returns a {type(output).__name__}, not a tensor; "
                "choose one of its elements with layer_output=..., an index or a key"
            )
        try:
            output = output[element]
        except (LookupError, TypeError) as error:
            raise ValueError(
                f"target layer {name!r} has no element {element!r} in its {type(output).__name__}"
            ) from error
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(f"target layer {name!r} must return a floating point tensor, got {kind}")
    return output


def _replace(output: Any, element: Element, tensor: Tensor) -> Any:
    """The layer's output with the chosen element exchanged, of the same type."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, tuple):
        items = [tensor if i == element % len(output) else item for i, item in enumerate(output)]  # type: ignore[operator]
        return type(output)(*items) if hasattr(output, "_fields") else tuple(items)
    changed = output.copy()
    changed[element] = tensor
    return changed


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Keeps buffers and the random state as they are: a module in training mode would change them."""
    if not any(module.training for module in model.modules()):
        yield
        return
    warnings.warn(
        "the model is in training mode: batch norm mixes the images of a batch and dropout is active; "
        "call model.eval() for maps of single images",
        UserWarning,
        stacklevel=5,
    )
    devices = {buffer.device.index for buffer in model.buffers() if buffer.is_cuda}
    with _training_lock, torch.random.fork_rng(devices=[index for index in devices if index is not None]):
        saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in saved:
                    buffer.copy_(value)


def observe(model: nn.Module, images: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """Runs the model once and lists (name, module, output) of every module that returned a tensor, as they finished."""
    seen: list[tuple[str, nn.Module, Tensor]] = []
    thread = threading.get_ident()

    def note(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if threading.get_ident() == thread and isinstance(output, Tensor):
                seen.append((name, module, output))

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_untouched(model))
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_hook(note(name)).remove)
        model(images.clone() if images.is_inference() else images)
    return seen


def gradients(scores: Tensor, activations: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
    """Gradients of every image's score with respect to its activations, of all targets in one backward pass.

    Args:
        scores: (N,) or (N, K), one per image or K per image; images must not depend on each other.
        activations: tensors of shape (N, ...) from :func:`forward`.
        names: the layers' names, for messages.

    Returns:
        For each activation its gradient, (N, ...) or (N, K, ...). The graph is freed.

    Raises:
        RuntimeError: where a score does not depend on a layer.
    """
    if not scores.requires_grad:
        raise RuntimeError(f"the score does not depend on target layer {names[0]!r}: nothing to differentiate")
    if scores.dim() == 1 or scores.shape[1] == 1:
        found = torch.autograd.grad(scores.sum(), activations, allow_unused=True)
        _check_used(found, names)
        return [g.unsqueeze(1) if scores.dim() == 2 else g for g in found]
    rows = [_rows(scores[:, first : first + _TARGETS_AT_ONCE], activations, names) for first in _starts(scores)]
    return [torch.cat(parts).movedim(0, 1) for parts in zip(*rows, strict=True)]


def _starts(scores: Tensor) -> range:
    return range(0, scores.shape[1], _TARGETS_AT_ONCE)


def _rows(scores: Tensor, activations: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
    """Gradients (K, N, ...) of a few targets, all in one batched backward pass."""
    count, targets = scores.shape
    basis = torch.eye(targets, dtype=scores.dtype, device=scores.device)
    basis = basis.unsqueeze(1).expand(targets, count, targets)
    options: dict[str, Any] = {"retain_graph": True, "allow_unused": True}
    try:
        found = torch.autograd.grad(scores, activations, basis, is_grads_batched=True, **options)
    except RuntimeError:  # an operation without a batching rule: one backward pass per target
        apart = [torch.autograd.grad(scores, activations, row, **options) for row in basis]
        _check_used(apart[0], names)
        found = tuple(map(torch.stack, zip(*apart, strict=True)))
    _check_used(found, names)
    return list(found)


def _check_used(found: Sequence[Tensor | None], names: Sequence[str]) -> None:
    for gradient, name in zip(found, names, strict=True):
        if gradient is None:
            raise RuntimeError(f"the score does not depend on target layer {name!r}: it gets no gradient")
