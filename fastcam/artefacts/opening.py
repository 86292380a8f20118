"""From what torch compiled to modules that can be hooked."""

import logging
from typing import Any

import torch
from torch.export import ExportedProgram

from fastcam.artefacts import programs
from fastcam.artefacts.torchscript import Script, UnreadableError

_log = logging.getLogger("fastcam")


def opened(model: Any) -> Any:
    """The model with its modules and values as modules, if it is TorchScript or a program of torch.export.

    Weights are shared. Anything else comes back as it is, and so does TorchScript in training mode or with something in
    it that cannot be read: without a target layer it can be explained all the same.
    """
    if isinstance(model, ExportedProgram):
        return programs.read(model)
    if not isinstance(model, torch.jit.ScriptModule):
        return model
    if any(getattr(each, "training", False) for each in model.modules()):
        return model
    try:
        return Script(model)
    except UnreadableError as error:
        _log.info("the TorchScript module is not opened: %s", error)
        return model
