"""What a run's maps are of: two runs of one identity make the same maps."""

import hashlib
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

import fastcam
from fastcam.dataset.loading import Loader
from fastcam.dataset.sources import Source
from fastcam.dataset.table import Maps

FORMAT = 2


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and values of a model's state, and its code where that is part of it."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    if isinstance(model, torch.jit.ScriptModule):
        digest.update(str(model.inlined_graph).encode())
    for module in model.modules():
        graph = vars(module).get("graph") or vars(module).get("_graph")
        if isinstance(graph, torch.fx.Graph):  # of a program of torch.export
            digest.update(str(graph).encode())
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(f"{name} {value!r}".encode())
    return digest.hexdigest()


def identity(model: nn.Module, source: Source, loader: Loader, maps: Maps, **settings: Any) -> dict[str, Any]:
    """Everything that decides what the maps are, as JSON has it."""
    return {
        "format": FORMAT,
        "fastcam": fastcam.__version__,
        "weights": weights_digest(model),
        "source": source.digest(),
        "images": len(source),
        "preprocessing": _plain(asdict(loader.preprocessing)),
        "limits": _plain(asdict(loader.limits)),
        "decoder": loader.decoder,
        "maps": asdict(maps),
        **{name: _plain(value) for name, value in settings.items()},
    }


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", None) or repr(value)
