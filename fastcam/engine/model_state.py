"""What of a model a recorded graph depends on: its modules, where its tensors lie, and that nothing else acts on it."""

import itertools
import operator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fastcam.model.memory import all_modules

# The loops below run in every call: those in C take a tenth of the time.
_hooks_of = operator.attrgetter("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_tensors_in = operator.attrgetter("_parameters", "_buffers")
_dtype_of = operator.attrgetter("dtype")
_joined = itertools.chain.from_iterable
_OWN_HOOKS = "transformers.utils.output_capturing"


@dataclass(frozen=True)
class ModelState:
    """The modules, their attributes and the tensors of a model, by identity: values of tensors may change in place.

    Attributes:
        modules: their ids.
        tensors: the ids of parameters and buffers.
        addresses: where these lie in memory.
        dtypes: of each.
        attributes: of the modules: what else their code may read, such as a factor or a flag.
    """

    modules: list[int]
    tensors: list[int]
    addresses: list[int]
    dtypes: list[torch.dtype]
    attributes: list[dict[str, object]]

    def is_like(self, other: "ModelState") -> bool:
        """Whether the model is as it was."""
        try:
            return self == other
        except (RuntimeError, ValueError, TypeError):  # arrays, which are not equal or unequal
            return False

    @classmethod
    def of(cls, model: nn.Module) -> "ModelState | None":
        """Return the present state; None for a model with tensors that have no address, such as sparse ones."""
        modules = all_modules(model)
        tensors = _tensors_of(modules)
        try:
            addresses = list(map(Tensor.data_ptr, tensors))
        except RuntimeError:
            return None
        dtypes, attributes = list(map(_dtype_of, tensors)), list(map(vars, modules))
        return cls(list(map(id, modules)), list(map(id, tensors)), addresses, dtypes, attributes)

    def kept(self) -> "ModelState":
        """Return the state as it is now, for later: the attributes are those of the modules themselves."""
        return replace(self, attributes=list(map(dict, self.attributes)))


def has_hooks(model: nn.Module) -> bool:
    """Whether functions are attached to any module, or to all, which a recorded graph would not call.

    Those by which the models of transformers collect what they read themselves are part of their forward pass.
    """
    attached = list(filter(None, _joined(map(_hooks_of, all_modules(model)))))
    are_own = all(getattr(hook, "__module__", "") == _OWN_HOOKS for hooks in attached for hook in hooks.values())
    return not are_own or bool(nn.modules.module._has_any_global_hook())


def side_effects(model: nn.Module, device: torch.device) -> tuple[object, ...]:
    """Return what changes if a model draws random numbers, or changes its parameters or buffers."""
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])
    return (
        *(state.numpy().tobytes() for state in states),
        *(each._version for each in _tensors_of(all_modules(model))),
    )


def _tensors_of(modules: list[nn.Module]) -> list[Tensor]:
    mappings = _joined(map(_tensors_in, modules))
    return [tensor for mapping in mappings for tensor in mapping.values() if tensor is not None]
