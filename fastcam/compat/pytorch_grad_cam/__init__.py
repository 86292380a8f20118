"""The interface of pytorch-grad-cam 1.5 over this engine.

>>> from fastcam.compat.pytorch_grad_cam import GradCAM
>>> with GradCAM(model=model, target_layers=[model.layer4[-1]]) as cam:
...     grayscale_cam = cam(input_tensor=input_tensor, targets=[ClassifierOutputTarget(281)])[0]
"""

from fastcam.compat.modules import passed_on
from fastcam.compat.pytorch_grad_cam import metrics, utils
from fastcam.compat.pytorch_grad_cam.base_cam import DIFFERENCES, ActivationsAndGradients, BaseCAM
from fastcam.compat.pytorch_grad_cam.cams import (
    FEM,
    KPCA_CAM,
    AblationCAM,
    EigenCAM,
    EigenGradCAM,
    FullGrad,
    GradCAM,
    GradCAMElementWise,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    RandomCAM,
    ScoreCAM,
    SegEigenCAM,
    XGradCAM,
)
from fastcam.compat.pytorch_grad_cam.finer_cam import FinerCAM
from fastcam.compat.pytorch_grad_cam.guided_backprop import GuidedBackpropReLUModel
from fastcam.compat.pytorch_grad_cam.shapley_cam import ShapleyCAM

__all__ = [
    "DIFFERENCES",
    "FEM",
    "KPCA_CAM",
    "AblationCAM",
    "ActivationsAndGradients",
    "BaseCAM",
    "EigenCAM",
    "EigenGradCAM",
    "FinerCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "GuidedBackpropReLUModel",
    "HiResCAM",
    "LayerCAM",
    "RandomCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "XGradCAM",
    "metrics",
    "utils",
]

passed_on(
    __name__,
    {
        "ablation_cam": {"AblationCAM": AblationCAM},
        "activations_and_gradients": {"ActivationsAndGradients": ActivationsAndGradients},
        "eigen_cam": {"EigenCAM": EigenCAM},
        "eigen_grad_cam": {"EigenGradCAM": EigenGradCAM},
        "fem": {"FEM": FEM},
        "fullgrad_cam": {"FullGrad": FullGrad},
        "grad_cam": {"GradCAM": GradCAM},
        "grad_cam_elementwise": {"GradCAMElementWise": GradCAMElementWise},
        "grad_cam_plusplus": {"GradCAMPlusPlus": GradCAMPlusPlus},
        "hirescam": {"HiResCAM": HiResCAM},
        "kpca_cam": {"KPCA_CAM": KPCA_CAM},
        "layer_cam": {"LayerCAM": LayerCAM},
        "random_cam": {"RandomCAM": RandomCAM},
        "score_cam": {"ScoreCAM": ScoreCAM},
        "seg_eigen_cam": {"SegEigenCAM": SegEigenCAM},
        "xgrad_cam": {"XGradCAM": XGradCAM},
    },
)
