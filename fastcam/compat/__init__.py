"""The interfaces of other tools over this engine: only the import changes.

>>> from fastcam.compat.pytorch_grad_cam import GradCAM  # was: from pytorch_grad_cam import GradCAM

For scripts that cannot be edited, ``fastcam.compat.activate("pytorch_grad_cam")`` makes the unchanged import find it.
"""

from fastcam.compat.imports import NAMES, activate, deactivate

__all__ = ["NAMES", "activate", "deactivate"]
