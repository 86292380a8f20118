"""Explainers as files that run without this package's Python: TorchScript, torch.export programs, AOTInductor packages.

::

    model, method, example -> Explainer -> program (operators, from images and classes to scores and maps) -> file

``tracing`` records the engine itself, so that a file computes what the explainer computes; ``torchscript`` and
``formats`` write it; ``api`` compares what was written with the explainer.
"""

from fastcam.exporting.api import ExportReport, export

__all__ = ["ExportReport", "export"]
