"""Rules of pytorch-grad-cam that are not in the registry, and its smoothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.compat.pytorch_grad_cam._types import Array
from fastcam.compat.pytorch_grad_cam.utils.svd_on_activations import get_2d_projection, kernel_component
from fastcam.methods.activation import first_principal_component
from fastcam.methods.protocol import Block, Scorer
from fastcam.methods.registry import Method, Need, get_method

_EPS = 1e-8  # added to the range of the masks of Score-CAM
_PP_EPS = 1e-6  # in the denominator of Grad-CAM++


def map_method(name: str, rule: Callable[..., Tensor], *needs: Need, paper: str = "") -> Method:
    """Return a method whose rule returns the map itself."""
    return Method(name, rule, needs, "map", relu=False, fused=None, paper=paper, cost="1", reduce="sum")


def weights_method(name: str, rule: Callable[..., Tensor], *needs: Need, paper: str = "", cost: str = "1") -> Method:
    """Return a method whose rule returns weights, of channels or elements."""
    return Method(name, rule, needs, "weights", relu=True, fused=None, paper=paper, cost=cost, reduce="sum")


def array_function(name: str) -> Callable[..., Array]:
    """Return a registered rule as the function ``get_cam_weights`` that a subclass may call."""

    def get_cam_weights(
        self: object, input_tensor: object, target_layer: object, targets: object, activations: Array, grads: Array
    ) -> Array:
        """Return the weight of every channel, (N, C), from NumPy arrays (N, C, *s)."""
        inputs = (torch.from_numpy(np.ascontiguousarray(array)).flatten(2) for array in (activations, grads))
        return get_method(name).value(*inputs).numpy()

    return get_cam_weights


def principal_component(samples: Tensor, activations: Tensor, exact_peer: bool) -> Tensor:
    """Return the first principal component of (N, C, P), with the sign of the activations' energy, or LAPACK's."""
    if exact_peer:
        projection = get_2d_projection(samples.double().cpu().numpy())
        return torch.from_numpy(projection).to(samples)
    return first_principal_component(samples, activations)


def principal_component_method(function: Callable[[Tensor, Tensor], Tensor], exact_peer: bool) -> Method:
    """Return the method for the principal component of a function of activations and gradients (arXiv:2008.00299)."""

    def rule(activations: Tensor, gradients: Tensor) -> Tensor:
        return principal_component(function(activations, gradients), activations, exact_peer)

    return map_method("eigen", rule, "activations", "gradients")


def smoothed_method(method: str | Method, exact_peer: bool) -> Method:
    """Return a method for the first principal component of the weighted activations, instead of their sum."""
    base = get_method(method)
    needs = base.needs if "activations" in base.needs else (*base.needs, "activations")
    position = needs.index("activations")

    def rule(*inputs: Any, **options: object) -> Tensor:
        weights, activations = base.value(*inputs[: len(base.needs)], **options), inputs[position].flatten(2)
        weights = weights.unsqueeze(-1) if weights.dim() == 2 else weights.flatten(2)
        smooth = principal_component(weights * activations, activations, exact_peer)
        return smooth.unflatten(-1, inputs[position].shape[2:])

    return map_method(f"{base.name}, smoothed", rule, *needs, paper=base.paper)


def fem(activations: Tensor, *, k: float = 2) -> Tensor:
    """FEM: every channel weighted by the share of positions more than k standard deviations above its mean.

    Args:
        activations: (N, C, P).
        k: threshold, in standard deviations above the mean.
    """
    means, deviations = activations.mean(-1, keepdim=True), activations.std(-1, correction=0, keepdim=True)
    share = (activations > means + k * deviations).to(activations.dtype).mean(-1, keepdim=True)
    return (share * activations).sum(1)


def kernel_pca(activations: Tensor, *, kernel: str = "sigmoid", gamma: float | None = None) -> Tensor:
    """KPCA-CAM: the first principal component of the positions under a kernel."""
    return kernel_component(activations, kernel, gamma)


def random_weights(activations: Tensor) -> Tensor:
    """Return weights (N, C) from NumPy's global generator, in [-1, 1]."""
    return torch.from_numpy(np.random.uniform(-1, 1, size=tuple(activations.shape[:2]))).to(activations)


def grad_cam_pp_with_eps(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++ (arXiv:1710.11063, eq. 19) with a constant in the denominator: small gradients weigh less."""
    square = gradients.square()
    alpha = square / (2 * square + activations.sum(-1, keepdim=True) * square * gradients + _PP_EPS)
    return (gradients.relu() * torch.where(gradients != 0, alpha, 0)).sum(-1)


def absolute_gradients(activations: Tensor, gradients: Tensor) -> Tensor:
    """Seg-Eigen-CAM: the first component of the activations times |gradients|, with a positive peak."""
    projection = first_principal_component(activations * gradients.abs(), activations)
    low, high = projection.aminmax(dim=-1, keepdim=True)
    return torch.where(low.abs() > high.abs(), -projection, projection)


def score_cam(activations: Tensor, scorer: Scorer) -> Tensor:
    """Score-CAM (arXiv:1910.01279) with masks upsampled with aligned corners."""
    images = scorer.images
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[images.dim() - 2]
    axes = tuple(range(2, images.dim()))

    def masked(block: Block) -> Tensor:
        maps = F.interpolate(activations[block.place].to(images), images.shape[2:], mode=mode, align_corners=True)
        low, high = maps.amin(axes, keepdim=True), maps.amax(axes, keepdim=True)
        return images[block.place[0]].unsqueeze(1) * ((maps - low) / (high - low + _EPS)).unsqueeze(2)

    return scorer.scores_of(activations.shape[1], masked).softmax(-1)


SCORE_CAM = weights_method(
    "score_cam, corners aligned", score_cam, "activations", "scorer", paper="arXiv:1910.01279", cost="channels + 1"
)
GRAD_CAM_PP_EPS = weights_method(
    "grad_cam_pp, eps", grad_cam_pp_with_eps, "activations", "gradients", paper="arXiv:1710.11063"
)
