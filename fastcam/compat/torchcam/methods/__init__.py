"""The extractors."""

from fastcam.compat.torchcam.methods import _utils, activation, core, gradient
from fastcam.compat.torchcam.methods.activation import CAM, ISCAM, SSCAM, ScoreCAM
from fastcam.compat.torchcam.methods.core import OutputTarget
from fastcam.compat.torchcam.methods.gradient import (
    FinerCAM,
    GradCAM,
    GradCAMpp,
    LayerCAM,
    LeGrad,
    RefineCAM,
    SmoothGradCAMpp,
    XGradCAM,
)

__all__ = [
    "CAM",
    "ISCAM",
    "SSCAM",
    "FinerCAM",
    "GradCAM",
    "GradCAMpp",
    "LayerCAM",
    "LeGrad",
    "OutputTarget",
    "RefineCAM",
    "ScoreCAM",
    "SmoothGradCAMpp",
    "XGradCAM",
    "_utils",
    "activation",
    "core",
    "gradient",
]
