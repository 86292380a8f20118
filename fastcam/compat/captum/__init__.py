"""The interface of Captum 0.9 over this engine, for vision models.

>>> from fastcam.compat.captum.attr import IntegratedGradients
>>> attributions, delta = IntegratedGradients(model).attribute(images, target=281, return_convergence_delta=True)
"""

from fastcam.compat.captum import attr, metrics
from fastcam.compat.captum.differences import DIFFERENCES
from fastcam.compat.captum.fallback import find_captums_modules, passed_on_before_captum

__all__ = ["DIFFERENCES", "__version__", "attr", "metrics"]

__version__ = "0.9.0"  # the Captum release with this interface

passed_on_before_captum(__name__, {})
find_captums_modules()
