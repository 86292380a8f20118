"""Extractors with gradients, in the module where torch-cam has them."""

from fastcam.compat.torchcam.methods._finer import FinerCAM
from fastcam.compat.torchcam.methods._gradcam import GradCAM, GradCAMpp, LayerCAM, XGradCAM, _GradCAM
from fastcam.compat.torchcam.methods._legrad import LeGrad
from fastcam.compat.torchcam.methods._refine import RefineCAM, _CAMWrapper
from fastcam.compat.torchcam.methods._smooth import SmoothGradCAMpp

__all__ = [
    "FinerCAM",
    "GradCAM",
    "GradCAMpp",
    "LayerCAM",
    "LeGrad",
    "RefineCAM",
    "SmoothGradCAMpp",
    "XGradCAM",
    "_CAMWrapper",
    "_GradCAM",
]
