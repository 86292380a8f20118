"""The identity of a run: two runs with the same identity make the same rows."""

import hashlib
from dataclasses import asdict

import torch
from torch import nn

import fastcam
from fastcam.dataset.loading import Loader
from fastcam.dataset.records import JsonObject
from fastcam.dataset.sources import Source

FORMAT = 2


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the names, types, shapes and values of a model's state, and of its stored graph if any."""
    digest = hashlib.sha256(type(model).__qualname__.encode())
    if isinstance(model, torch.jit.ScriptModule):
        digest.update(str(model.inlined_graph).encode())
    for module in model.modules():
        graph = vars(module).get("graph") or vars(module).get("_graph")
        if isinstance(graph, torch.fx.Graph):  # a program of torch.export
            digest.update(str(graph).encode())
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(f"{name} {value!r}".encode())
    return digest.hexdigest()


def identity(model: nn.Module, source: Source, loader: Loader, **settings: object) -> JsonObject:
    """Return everything that determines the rows, as a JSON object."""
    return {
        "format": FORMAT,
        "fastcam": fastcam.__version__,
        "weights": weights_digest(model),
        "source": source.digest(),
        "images": len(source),
        "preprocessing": _to_json(asdict(loader.preprocessing)),
        "limits": _to_json(asdict(loader.limits)),
        "decoder": loader.decoder,
        **{name: _to_json(value) for name, value in settings.items()},
    }


def _to_json(value: object) -> object:
    """Return a value as it is after a round trip through JSON; objects become their names."""
    if isinstance(value, dict):
        return {str(name): _to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", None) or repr(value)
