"""Models that are files or were compiled: TorchScript and torch.export programs, loaded and read."""

from fastcam.artefacts.loading import SUFFIXES, load
from fastcam.artefacts.opening import opened
from fastcam.artefacts.torchscript import Script
from fastcam.artefacts.values import Value

__all__ = ["SUFFIXES", "Script", "Value", "load", "opened"]
