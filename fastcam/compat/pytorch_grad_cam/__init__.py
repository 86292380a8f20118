"""The interface of pytorch-grad-cam 1.5 over this engine.

>>> from fastcam.compat.pytorch_grad_cam import GradCAM
>>> with GradCAM(model=model, target_layers=[model.layer4[-1]]) as cam:
...     grayscale_cam = cam(input_tensor=input_tensor, targets=[ClassifierOutputTarget(281)])[0]
"""

from fastcam.compat.modules import passed_on
from fastcam.compat.pytorch_grad_cam import (
    ablation_layer,
    activations_and_gradients,
    base_cam,
    feature_factorization,
    finer_cam,
    guided_backprop,
    metrics,
    refine_cam,
    sess,
    shapley_cam,
    sobel_cam,
    utils,
)
from fastcam.compat.pytorch_grad_cam.ablation_layer import AblationLayer, AblationLayerFasterRCNN, AblationLayerVit
from fastcam.compat.pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
from fastcam.compat.pytorch_grad_cam.base_cam import BaseCAM
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
from fastcam.compat.pytorch_grad_cam.differences import DIFFERENCES
from fastcam.compat.pytorch_grad_cam.feature_factorization.deep_feature_factorization import (
    DeepFeatureFactorization,
    run_dff_on_image,
)
from fastcam.compat.pytorch_grad_cam.finer_cam import FinerCAM
from fastcam.compat.pytorch_grad_cam.guided_backprop import GuidedBackpropReLUModel
from fastcam.compat.pytorch_grad_cam.refine_cam import RefineCAM
from fastcam.compat.pytorch_grad_cam.sess import SESS
from fastcam.compat.pytorch_grad_cam.shapley_cam import ShapleyCAM

__all__ = [
    "DIFFERENCES",
    "FEM",
    "KPCA_CAM",
    "SESS",
    "AblationCAM",
    "AblationLayer",
    "AblationLayerFasterRCNN",
    "AblationLayerVit",
    "ActivationsAndGradients",
    "BaseCAM",
    "DeepFeatureFactorization",
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
    "RefineCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "XGradCAM",
    "feature_factorization",
    "metrics",
    "run_dff_on_image",
    "utils",
]

passed_on(
    __name__,
    {
        "ablation_cam": {"AblationCAM": AblationCAM},
        "ablation_cam_multilayer": {"AblationCAM": AblationCAM, "AblationLayer": AblationLayer},
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

# A star import of pytorch-grad-cam gives its modules too.
__all__ += [
    "ablation_cam",
    "ablation_cam_multilayer",
    "ablation_layer",
    "activations_and_gradients",
    "base_cam",
    "eigen_cam",
    "eigen_grad_cam",
    "fem",
    "finer_cam",
    "fullgrad_cam",
    "grad_cam",
    "grad_cam_elementwise",
    "grad_cam_plusplus",
    "guided_backprop",
    "hirescam",
    "kpca_cam",
    "layer_cam",
    "random_cam",
    "refine_cam",
    "score_cam",
    "seg_eigen_cam",
    "sess",
    "shapley_cam",
    "sobel_cam",
    "xgrad_cam",
]
