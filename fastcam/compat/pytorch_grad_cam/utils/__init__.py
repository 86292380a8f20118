"""Pictures, targets and shapes."""

from fastcam.compat.pytorch_grad_cam.utils import image, model_targets, reshape_transforms, svd_on_activations
from fastcam.compat.pytorch_grad_cam.utils.image import deprocess_image
from fastcam.compat.pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

__all__ = [
    "deprocess_image",
    "get_2d_projection",
    "image",
    "model_targets",
    "reshape_transforms",
    "svd_on_activations",
]
