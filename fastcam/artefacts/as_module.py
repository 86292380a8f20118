"""Turn compiled models into modules that can be hooked."""

import logging

import torch
from torch import nn
from torch.export import ExportedProgram

from fastcam.artefacts import exported_programs
from fastcam.artefacts.torchscript.internals import UnreadableError
from fastcam.artefacts.torchscript.module import Script

_log = logging.getLogger("fastcam")


def as_module(model: nn.Module | ExportedProgram) -> nn.Module:
    """Return TorchScript or an exported program with its submodules and intermediate values as modules.

    Weights are shared. Any other model is returned unchanged, and so is TorchScript that is in training mode or that
    cannot be read: it can still be explained by methods that need no target layer.
    """
    if isinstance(model, ExportedProgram):
        return exported_programs.read(model)
    if not isinstance(model, torch.jit.ScriptModule):
        return model
    if any(getattr(module, "training", False) for module in model.modules()):
        return model
    try:
        return Script(model)
    except UnreadableError as error:
        _log.info("the TorchScript module is not opened: %s", error)
        return model
