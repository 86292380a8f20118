"""Gradients with respect to the input."""

from torch import Tensor

from fastcam import ops
from fastcam.methods.registry import method


@method(
    "saliency",
    needs=("input_gradients",),
    returns="attributions",
    relu=False,
    reduce="max_abs",
    cost="2",
    paper="arXiv:1312.6034",
)
def saliency(input_gradients: Tensor) -> Tensor:
    """Saliency: gradient of the score with respect to the input."""
    return input_gradients


@method(
    "input_x_gradient",
    needs=("images", "input_gradients"),
    returns="attributions",
    relu=False,
    cost="2",
    paper="arXiv:1605.01713",
)
def input_x_gradient(images: Tensor, input_gradients: Tensor) -> Tensor:
    """Input x Gradient: element-wise product of the input and the gradient of the score."""
    return images * input_gradients


@method(
    "deconvnet",
    needs=("deconvnet_gradients",),
    returns="attributions",
    relu=False,
    reduce="max_abs",
    cost="2",
    paper="arXiv:1311.2901",
)
def deconvnet(deconvnet_gradients: Tensor) -> Tensor:
    """Deconvnet: backpropagation that applies ReLU to the gradient instead of the derivative of ReLU."""
    return deconvnet_gradients


@method(
    "guided_backprop",
    needs=("guided_gradients",),
    returns="attributions",
    relu=False,
    reduce="max_abs",
    cost="2",
    paper="arXiv:1412.6806",
)
def guided_backprop(guided_gradients: Tensor) -> Tensor:
    """Guided backpropagation: backpropagation that keeps only positive gradients at positive activations of ReLU."""
    return guided_gradients


@method(
    "guided_grad_cam",
    needs=("activations", "gradients", "guided_gradients"),
    returns="attributions",
    relu=False,
    reduce="max_abs",
    cost="2",
    paper="arXiv:1610.02391",
)
def guided_grad_cam(activations: Tensor, gradients: Tensor, guided_gradients: Tensor) -> Tensor:
    """Guided Grad-CAM: product of guided backpropagation and the upsampled Grad-CAM map."""
    size = guided_gradients.shape[gradients.dim() - activations.dim() + 2 :]
    cam = ops.upsample_normalize(ops.grad_cam(activations, gradients), size, normalize=False)
    return cam.unsqueeze(-len(size) - 1) * guided_gradients
