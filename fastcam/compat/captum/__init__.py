"""The interface of Captum 0.9 over this engine, for vision models.

>>> from fastcam.compat.captum.attr import IntegratedGradients
>>> attributions, delta = IntegratedGradients(model).attribute(images, target=281, return_convergence_delta=True)
"""

from fastcam.compat.captum import attr, metrics
from fastcam.compat.captum.differences import DIFFERENCES

__all__ = ["DIFFERENCES", "attr", "metrics"]
