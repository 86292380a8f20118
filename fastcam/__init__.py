"""Saliency maps for PyTorch vision models, fast and right.

>>> import fastcam
>>> explanation = fastcam.explain(model, images, method="grad_cam")
>>> explanation.maps
"""

from fastcam import ops, targets
from fastcam._extension import build_info
from fastcam.artefacts import load
from fastcam.explainer import Explainer, explain
from fastcam.explanation import Explanation
from fastcam.occlusion_plan import OcclusionPlan, occlusion_plan
from fastcam.prepare import prepare
from fastcam.prepared import Prepared
from fastcam.registry import Method, get_method, list_methods, method
from fastcam.reshape import swin_reshape, vit_reshape

__version__ = "0.1.0"

__all__ = [
    "Explainer",
    "Explanation",
    "Method",
    "OcclusionPlan",
    "Prepared",
    "build_info",
    "explain",
    "get_method",
    "list_methods",
    "load",
    "method",
    "occlusion_plan",
    "ops",
    "prepare",
    "swin_reshape",
    "targets",
    "vit_reshape",
]
