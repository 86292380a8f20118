"""Models that are files or compiled: TorchScript and torch.export programs, loaded and opened for hooks."""

from fastcam.artefacts.as_module import as_module
from fastcam.artefacts.loading import SUFFIXES, load
from fastcam.artefacts.sending import Packed, on_cpu, packed
from fastcam.artefacts.torchscript.module import Script
from fastcam.artefacts.values import Value

__all__ = ["SUFFIXES", "Packed", "Script", "Value", "as_module", "load", "on_cpu", "packed"]
