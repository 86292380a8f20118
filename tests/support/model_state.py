"""All that a call could leave changed in a model."""

from typing import Any

import torch
from torch import Tensor, nn


def hooks_of(model: nn.Module) -> dict[str, list[Any]]:
    """Everything hooked to any module of the model."""
    return {
        f"{name}.{attribute}": list(value) if isinstance(value, dict) else value
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if "hook" in attribute and value
    }


def _bits(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    return id(tensor), tensor.dtype, tuple(tensor.shape), tensor.detach().flatten().view(torch.uint8).tolist()


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All the state that a call could leave changed, comparable with ==."""
    return {
        "parameters": {name: (_bits(p), _bits(p.grad), p.requires_grad) for name, p in model.named_parameters()},
        "buffers": {name: (_bits(b), b.requires_grad) for name, b in model.named_buffers()},
        "modules": {name: (id(m), m.training, sorted(vars(m))) for name, m in model.named_modules()},
        "hooks": hooks_of(model),
        "random": torch.get_rng_state().tolist(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
    }
