"""Runs a model without a trace: compiled parts eagerly, buffers and the random state unchanged."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_training_lock = threading.RLock()
_stance_lock = threading.RLock()  # the stance of torch.compile belongs to the process


def call(model: nn.Module, images: Tensor | tuple[Any, ...]) -> Any:
    """Return the model's output; compiled parts run uncompiled, since their code was made without our hooks."""
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
    """Return what ``model.modules()`` yields, in any order: several times faster, for use in every call."""
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
def untouched(model: nn.Module) -> Iterator[None]:
    """Keep buffers and the random state as they are: a module in training mode would change them."""
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
