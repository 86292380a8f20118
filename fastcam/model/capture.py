"""Activations of chosen layers and the gradients of scores with respect to them, leaving no trace in the model."""

import contextlib
import copy
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Element = int | str | None

_TARGETS_AT_ONCE = 32  # bounds the memory of a batched backward pass

_training_lock = threading.RLock()
_stance_lock = threading.RLock()  # the stance of torch.compile belongs to the process


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


class Divided(nn.Module):
    """A model made from another, that may run in two parts by itself: up to a layer without a graph, and behind it."""

    def divided(self, arguments: tuple[Any, ...], layer: str, with_graph: bool) -> tuple[Tensor, Any] | None:
        """What the layer returned, a leaf of the graph if there is to be one, and the output; None where it cannot."""
        raise NotImplementedError

    def name_of(self, module: nn.Module) -> str | None:
        """The name here of a module of the model that this one was made from; None for others."""
        raise NotImplementedError

    def check_layer(self, name: str) -> None:
        """Refuses a layer that does not return what it does in the model that this one was made from.

        Raises:
            ValueError: with a sentence.
        """
        raise NotImplementedError


def forward(
    model: nn.Module,
    images: Tensor | tuple[Any, ...],
    layers: Sequence[Layer] = (),
    *,
    with_graph: bool = False,
    from_start: bool = False,
    element: Element = None,
) -> Captured:
    """Runs the model once and keeps what the layers return.

    Everything before the first target layer runs without an autograd graph; with ``with_graph`` everything after
    it is recorded, whatever grad mode the caller is in, so that :func:`gradients` can differentiate with respect to
    exactly the tensors the layers returned. The model goes on with a copy of them: a module that follows in place
    cannot change what was captured. Hooks answer to the calling thread only and are removed in any case.

    Args:
        model: any module.
        images: (N, ...) input, or the model's positional arguments, the images first.
        layers: where to capture; of a layer that runs several times, the last run counts.
        with_graph: record what gradients with respect to the layers need.
        from_start: record everything, from the images and parameters on.
        element: which element of a layer's tuple or dict is its activation.

    Raises:
        RuntimeError: where a layer is not reached.
        TypeError: where a layer does not return a floating tensor, or returns a collection and ``element`` is None.
    """
    if isinstance(model, Divided) and len(layers) == 1 and element is None and not from_start:
        divided = model.divided(images if isinstance(images, tuple) else (images,), layers[0].name, with_graph)
        if divided is not None:
            return Captured(divided[1], [divided[0]])
    kept: dict[int, Tensor] = {}
    thread = threading.get_ident()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(from_start))
        stack.enter_context(_untouched(model))
        for index, layer in enumerate(layers):
            hook = _hook(layer, thread, kept, index, with_graph or from_start, element)
            stack.callback(layer.module.register_forward_hook(hook).remove)
        output = _call(model, images)
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
        # A copy to keep, for the layer may have returned its own input; and below a copy to go on with.
        kept[index] = tensor.clone()
        if not with_graph:
            return None
        torch.set_grad_enabled(True)  # until the surrounding mode ends
        return exchange(output, element, kept[index].requires_grad_().clone())

    return keep


def _select(output: Any, element: Element, name: str) -> Tensor:
    if not isinstance(output, Tensor):
        if element is None:
            raise TypeError(
                f"target layer {name!r} returns a {type(output).__name__}, not a tensor; "
                "choose one of its elements with layer_output=..., an index or a key"
            )
        try:
            output = part(output, element)
        except (LookupError, TypeError) as error:
            kind = type(output).__name__
            raise ValueError(f"target layer {name!r} has no element {element!r} in its {kind}") from error
    if not isinstance(output, Tensor) or not output.is_floating_point():
        found = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise TypeError(f"target layer {name!r} must return a floating point tensor, got {found}")
    return output


def part(output: Any, element: Element) -> Any:
    """An element by key or index, or by attribute where the output has names but no keys."""
    if isinstance(element, str) and not isinstance(output, Mapping) and hasattr(output, element):
        return getattr(output, element)
    return output[element]


def exchange(output: Any, element: Any, tensor: Tensor) -> Any:
    """The layer's output with the chosen element exchanged, of the same type."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, Mapping) and isinstance(element, int) and element not in output:
        element = list(output)[element]  # a mapping that also answers to positions
    if dataclasses.is_dataclass(output) and not isinstance(output, type) and isinstance(element, str):
        return dataclasses.replace(output, **{element: tensor})
    if hasattr(output, "_replace"):  # a named tuple
        return output._replace(**{element if isinstance(element, str) else output._fields[element]: tensor})
    if isinstance(output, tuple):
        items = [tensor if i == element % len(output) else item for i, item in enumerate(output)]
        return tuple(items) if type(output) is tuple else type(output)(items)
    changed = copy.copy(output)
    changed[element] = tensor
    return changed


@contextlib.contextmanager
def exchanged(layer: Layer, tensor: Tensor, element: Element = None, run: int = 1) -> Iterator[None]:
    """Within the context, and for the calling thread, the layer's given run returns the tensor whatever it computes."""
    thread, runs = threading.get_ident(), 0

    def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
        nonlocal runs
        if threading.get_ident() != thread:
            return None
        runs += 1
        return exchange(output, element, tensor) if runs == run else None

    handle = layer.module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _call(model: nn.Module, images: Tensor | tuple[Any, ...]) -> Any:
    """The model's output; compiled parts run uncompiled, for their code was made without our hooks."""
    arguments = [_usable(each) for each in (images if isinstance(images, tuple) else (images,))]
    modules = all_modules(model)
    if any(each._compiled_call_impl is not None or "_orig_mod" in each._modules for each in modules):
        with _stance_lock, torch.compiler.set_stance("force_eager"):
            return model(*arguments)
    if torch.is_grad_enabled() and any(isinstance(each, torch.jit.ScriptModule) for each in modules):
        # Otherwise one node of the graph may hide many, rectifiers among them.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return model(*arguments)
    return model(*arguments)


def _usable(argument: Any) -> Any:
    """A copy: a model may change its input in place, and autograd may not record tensors of inference mode."""
    return argument.clone() if isinstance(argument, Tensor) else argument


def all_modules(model: nn.Module) -> list[nn.Module]:
    """What ``model.modules()`` yields, in no certain order: several times faster, for what every call asks for."""
    found: dict[int, nn.Module] = {}
    pending = [model]
    while pending:
        module = pending.pop()
        if id(module) not in found:
            found[id(module)] = module
            pending += [each for each in module._modules.values() if each is not None]
    return list(found.values())


def is_training(model: nn.Module) -> bool:
    """Whether any part of the model is in training mode."""
    return any(module.training for module in all_modules(model))


@contextlib.contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Keeps buffers and the random state as they are: a module in training mode would change them."""
    if not is_training(model):
        yield
        return
    devices = {buffer.device.index for buffer in model.buffers() if buffer.is_cuda}
    with _training_lock, torch.random.fork_rng(devices=[index for index in devices if index is not None]):
        # The pass changes copies: the buffers themselves keep their values, and what autograd saved stays valid.
        owned = [(module, dict(module._buffers)) for module in model.modules()]
        copies: dict[Tensor | None, Tensor | None] = {None: None} | {each: each.clone() for each in model.buffers()}
        try:
            for module, buffers in owned:
                _set_buffers(module, {name: copies[buffer] for name, buffer in buffers.items()})
            yield
        finally:
            for module, buffers in owned:
                _set_buffers(module, buffers)


def _set_buffers(module: nn.Module, buffers: dict[str, Tensor | None]) -> None:
    for name, buffer in buffers.items():  # one by one: all that a scripted module allows
        module._buffers[name] = buffer


def observe(model: nn.Module, images: Tensor | tuple[Any, ...]) -> list[tuple[str, nn.Module, Tensor]]:
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
        _call(model, images)
    return seen


def gradients(
    scores: Tensor,
    activations: Sequence[Tensor],
    names: Sequence[str],
    *,
    keep_graph: bool = False,
    differentiable: bool = False,
) -> list[Tensor]:
    """Gradients of every image's score with respect to its activations, of all targets in one backward pass.

    Args:
        scores: (N,) or (N, K), one per image or K per image; images must not depend on each other.
        activations: tensors of shape (N, ...) from :func:`forward`.
        names: what the activations are, for messages.
        keep_graph: whether another backward pass is to follow.
        differentiable: record the backward pass, so that the gradients have gradients.

    Returns:
        For each activation its gradient, (N, ...) or (N, K, ...).

    Raises:
        RuntimeError: where a score does not depend on a layer.
    """
    if not scores.requires_grad:
        raise RuntimeError(
            f"the score does not depend on {names[0]}: nothing to differentiate (a model that runs a layer under "
            "its own torch.no_grad() hides the dependence)"
        )
    if scores.dim() == 1 or scores.shape[1] == 1:
        keep = keep_graph or differentiable
        found = torch.autograd.grad(
            scores.sum(), activations, allow_unused=True, retain_graph=keep, create_graph=differentiable
        )
        _check_used(found, names)
        return [g.unsqueeze(1) if scores.dim() == 2 else g for g in found]
    chunks = [scores[:, first : first + _TARGETS_AT_ONCE] for first in _starts(scores)]
    rows = [_rows(chunk, activations, names, differentiable) for chunk in chunks]
    return [torch.cat(parts).movedim(0, 1) for parts in zip(*rows, strict=True)]


def _starts(scores: Tensor) -> range:
    return range(0, scores.shape[1], _TARGETS_AT_ONCE)


def _rows(scores: Tensor, activations: Sequence[Tensor], names: Sequence[str], differentiable: bool) -> list[Tensor]:
    """Gradients (K, N, ...) of a few targets, all in one batched backward pass."""
    count, targets = scores.shape
    basis = torch.eye(targets, dtype=scores.dtype, device=scores.device)
    basis = basis.unsqueeze(1).expand(targets, count, targets)
    options: dict[str, Any] = {"retain_graph": True, "allow_unused": True, "create_graph": differentiable}
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
            raise RuntimeError(f"the score does not depend on {name}: it gets no gradient")
