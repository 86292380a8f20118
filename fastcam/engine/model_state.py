"""What of a model a recorded graph depends on: its modules, where its tensors lie, and that nothing else acts on it."""

import itertools
import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastcam.model.memory import all_modules

_HOOKS = [
    operator.attrgetter(name)
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
]
_TENSORS = [operator.attrgetter(name) for name in ("_parameters", "_buffers")]
_values = operator.methodcaller("values")
_layout_of = operator.attrgetter("dtype", "shape")


@dataclass(frozen=True)
class ModelState:
    """The modules and tensors of a model, by identity: values of tensors may change in place.

    Attributes:
        modules: their ids.
        tensors: the ids of parameters and buffers.
        addresses: where these lie in memory.
        layouts: the dtype and shape of each.
    """

    modules: list[int]
    tensors: list[int]
    addresses: list[int]
    layouts: list[object]

    @classmethod
    def of(cls, model: nn.Module) -> "ModelState | None":
        """Return the present state; None for a model with tensors that have no address, such as sparse ones."""
        modules = all_modules(model)
        tensors = list(_tensors_of(modules))
        try:
            addresses = [tensor.data_ptr() for tensor in tensors]
        except RuntimeError:
            return None
        return cls(list(map(id, modules)), list(map(id, tensors)), addresses, list(map(_layout_of, tensors)))


def has_hooks(model: nn.Module) -> bool:
    """Whether functions are attached to any module, or to all, which a recorded graph would not call."""
    modules = all_modules(model)
    return any(any(map(hooks, modules)) for hooks in _HOOKS) or bool(nn.modules.module._has_any_global_hook())


def side_effects(model: nn.Module, device: torch.device) -> tuple[object, ...]:
    """Return what changes if a model draws random numbers, or changes its parameters or buffers."""
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])
    return (
        *(state.numpy().tobytes() for state in states),
        *(each._version for each in _tensors_of(all_modules(model))),
    )


def _tensors_of(modules: list[nn.Module]) -> Iterator[Tensor]:
    for tensors in _TENSORS:
        yield from filter(_is_tensor, itertools.chain.from_iterable(map(_values, map(tensors, modules))))


def _is_tensor(value: object) -> bool:
    return value is not None
