"""Class activation maps whose weights come from the gradients at the target layer."""

import torch
from torch import Tensor

from fastcam import ops
from fastcam.methods.registry import method
from fastcam.ops import numerics, reference


@method("grad_cam", needs=("activations", "gradients"), fused=ops.grad_cam, paper="arXiv:1610.02391")
def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM: channels weighted by the spatial mean of their gradients."""
    return gradients.mean(-1)


@method("grad_cam_pp", needs=("activations", "gradients"), fused=ops.grad_cam_pp, paper="arXiv:1710.11063")
def grad_cam_pp(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++: channels weighted by a weighted sum of their positive gradients, for several objects of a class."""
    return reference.grad_cam_pp_terms(gradients, activations.sum(-1, keepdim=True)).sum(-1)


@method("xgrad_cam", needs=("activations", "gradients"), fused=ops.xgrad_cam, paper="arXiv:2008.02312")
def xgrad_cam(activations: Tensor, gradients: Tensor, *, eps: float = 1e-7) -> Tensor:
    """XGrad-CAM: channels weighted by the mean of their gradients, itself weighted by the activations."""
    return (gradients * activations).sum(-1) / (activations.sum(-1) + eps)


@method("hires_cam", needs=("activations", "gradients"), fused=ops.weighted_channel_sum, paper="arXiv:2011.08891")
def hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """HiRes-CAM: element-wise product of activations and gradients, summed over the channels."""
    return gradients


@method("layer_cam", needs=("activations", "gradients"), fused=ops.layer_cam, paper="doi:10.1109/TIP.2021.3089943")
def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """LayerCAM: activations weighted element-wise by their positive gradients; suitable for shallow layers."""
    return numerics.rectify(gradients)


@method("grad_cam_elementwise", needs=("activations", "gradients"), paper="arXiv:2011.08891")
def grad_cam_elementwise(activations: Tensor, gradients: Tensor) -> Tensor:
    """Element-wise Grad-CAM: positive element-wise products of activations and gradients, summed over the channels."""
    return torch.where(gradients * activations < 0, gradients * 0, gradients)  # an infinite gradient becomes NaN, not 0
