"""Runs a model without lasting changes: compiled parts eagerly, buffers and the random state preserved."""

import contextlib
import operator
import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fastcam.model import quantised
from fastcam.model.elements import ModelOutput
from fastcam.model.memory import all_modules, derived

_training_of = operator.attrgetter("training")
_compiled_call_of = operator.attrgetter("_compiled_call_impl")

_training_lock = threading.RLock()
_stance_lock = threading.RLock()  # the stance of torch.compile is per process


def call(model: nn.Module, images: Tensor | tuple[object, ...]) -> ModelOutput:
    """Return the model's output, quantised tensors as their values.

    Compiled parts run uncompiled, since compiled code ignores the hooks.
    """
    output = _call(model, images)
    if quantised.holds_quantised(model):
        return tree_map_only(Tensor, quantised.values_of, output)
    return output


class WithInput(NamedTuple):
    """A model's output, and the images (M, C, *S) that it belongs to, in the graph."""

    output: ModelOutput
    images: Tensor


@contextlib.contextmanager
def with_input(model: nn.Module, position: int) -> Iterator[None]:
    """Let the model return :class:`WithInput`, in the context and the calling thread only.

    Args:
        model: any module.
        position: of the images among its arguments.
    """
    thread = threading.get_ident()
    kept: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[object, ...]) -> None:
        if threading.get_ident() == thread:
            images = arguments[position]
            assert isinstance(images, Tensor)
            kept.append(images.clone())  # the model may change it in place

    def add(module: nn.Module, arguments: tuple[object, ...], output: ModelOutput) -> ModelOutput:
        return WithInput(output, kept.pop()) if threading.get_ident() == thread else None

    with contextlib.ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(keep).remove)
        stack.callback(model.register_forward_hook(add).remove)
        yield


def _call(model: nn.Module, images: Tensor | tuple[object, ...]) -> ModelOutput:
    arguments = [_copy_tensor(argument) for argument in (images if isinstance(images, tuple) else (images,))]
    if includes_compiled(model):
        with _stance_lock, torch.compiler.set_stance("force_eager"):
            return model(*arguments)
    if torch.is_grad_enabled() and derived(model, "has scripts", _include_scripts):
        # Otherwise TorchScript may fuse several nodes of the graph, including ReLUs, into one.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return model(*arguments)
    return model(*arguments)


def includes_compiled(model: nn.Module) -> bool:
    """Whether a part of the model is compiled by torch."""
    is_compiled = any(map(_compiled_call_of, all_modules(model)))
    return is_compiled or derived(model, "wraps for torch.compile", _wrap_for_compilation)


def _wrap_for_compilation(modules: list[nn.Module]) -> bool:
    return any("_orig_mod" in module._modules for module in modules)


def _include_scripts(modules: list[nn.Module]) -> bool:
    return any(isinstance(module, torch.jit.ScriptModule) for module in modules)


def _copy_tensor(argument: object) -> object:
    """Copy a tensor: the model may change it in place, and autograd cannot record tensors of inference mode."""
    return argument.clone() if isinstance(argument, Tensor) else argument


def is_training(model: nn.Module) -> bool:
    """Whether any part of the model is in training mode."""
    return any(map(_training_of, all_modules(model)))


@contextlib.contextmanager
def preserve_state(model: nn.Module) -> Iterator[None]:
    """Preserve buffers and the random state, which a module in training mode would change."""
    if not is_training(model):
        yield
        return
    devices = {buffer.device.index for buffer in model.buffers() if buffer.is_cuda}
    with _training_lock, torch.random.fork_rng(devices=[index for index in devices if index is not None]):
        # The pass changes copies: the buffers keep their values, and tensors saved by autograd stay valid.
        owned = [(module, dict(module._buffers)) for module in model.modules()]
        copies: dict[Tensor | None, Tensor | None] = {None: None} | {b: b.clone() for b in model.buffers()}
        try:
            for module, buffers in owned:
                _set_buffers(module, {name: copies[buffer] for name, buffer in buffers.items()})
            yield
        finally:
            for module, buffers in owned:
                _set_buffers(module, buffers)


def _set_buffers(module: nn.Module, buffers: dict[str, Tensor | None]) -> None:
    for name, buffer in buffers.items():  # one by one, since a scripted module allows nothing else
        module._buffers[name] = buffer
