"""Class activation maps whose weights come from the gradients at the target layer."""

import torch
from torch import Tensor

from fastcam import ops
from fastcam.methods.registry import method
from fastcam.ops import numerics, reference


@method("grad_cam", needs=("activations", "gradients"), fused=ops.grad_cam, paper="arXiv:1610.02391")
def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM: gradients averaged over the positions."""
    return gradients.mean(-1)


@method("grad_cam_pp", needs=("activations", "gradients"), fused=ops.grad_cam_pp, paper="arXiv:1710.11063")
def grad_cam_pp(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++: positive gradients weighted by alpha, for several objects of one class."""
    return reference.grad_cam_pp_terms(gradients, activations.sum(-1, keepdim=True)).sum(-1)


@method("xgrad_cam", needs=("activations", "gradients"), fused=ops.xgrad_cam, paper="arXiv:2008.02312")
def xgrad_cam(activations: Tensor, gradients: Tensor, *, eps: float = 1e-7) -> Tensor:
    """XGrad-CAM: gradients averaged under the activations as a measure."""
    return (gradients * activations).sum(-1) / (activations.sum(-1) + eps)


@method("hires_cam", needs=("activations", "gradients"), fused=ops.weighted_channel_sum, paper="arXiv:2011.08891")
def hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """HiRes-CAM: every element weighted by its own gradient."""
    return gradients


@method("layer_cam", needs=("activations", "gradients"), fused=ops.layer_cam, paper="doi:10.1109/TIP.2021.3089943")
def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """LayerCAM: every element weighted by its own positive gradient; good on shallow layers."""
    return numerics.rectify(gradients)


@method("grad_cam_elementwise", needs=("activations", "gradients"), paper="arXiv:2011.08891")
def grad_cam_elementwise(activations: Tensor, gradients: Tensor) -> Tensor:
    """Element-wise Grad-CAM: only the positive products of activation and gradient count."""
    return torch.where(gradients * activations < 0, gradients * 0, gradients)  # an infinite one becomes NaN, not 0
