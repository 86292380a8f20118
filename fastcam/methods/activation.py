"""Class activation maps from the activations and, for CAM, the linear classifier after a global pooling."""

import torch
from torch import Tensor

from fastcam.methods.registry import method
from fastcam.ops.numerics import accumulation_dtype


@method("cam", needs=("mean_pool_classifier",), relu=False, paper="arXiv:1512.04150")
def cam(classifier: Tensor) -> Tensor:
    """CAM: channels weighted by the linear classifier that follows global average pooling."""
    return classifier


@method("gmp_cam", needs=("max_pool_classifier",), relu=False, paper="doi:10.1109/CVPR.2015.7298668")
def gmp_cam(classifier: Tensor) -> Tensor:
    """GMP-CAM: channels weighted by the linear classifier that follows global max pooling (Oquab et al. 2015)."""
    return classifier


@method("eigen_cam", needs=("activations",), returns="map", paper="arXiv:2008.00299")
def eigen_cam(activations: Tensor) -> Tensor:
    """Eigen-CAM: positive part of the first principal component of the activations; independent of the class.

    The paper defines neither the sign of the component nor what becomes of negative values; see
    :func:`first_principal_component`. ``relu=False`` gives the signed map.
    """
    return first_principal_component(activations, activations)


@method("eigen_grad_cam", needs=("activations", "gradients"), returns="map", paper="arXiv:2008.00299")
def eigen_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """EigenGrad-CAM: positive part of the first principal component of the product of activations and gradients.

    No paper defines it; sign and positive part are those of :func:`eigen_cam`.
    """
    return first_principal_component(activations * gradients, activations)


def first_principal_component(samples: Tensor, activations: Tensor) -> Tensor:
    """Project (..., C, P), with positions as samples, on its first principal axis.

    The sign, which the decomposition does not determine, is chosen to correlate positively with the energy of the
    activations A, sum_c (A_c - mean_p A_c)^2: the positions that differ most from the mean, as objects do, are
    positive. Computed in float64 from the smaller Gram matrix, (P, P) or (C, C).

    Returns:
        (..., P), float32 for half precision; zeros for constant samples, NaN for non-finite ones.
    """
    centred = samples.double() - samples.double().mean(-1, keepdim=True)
    finite = centred.isfinite().all(-1).all(-1)[..., None]
    centred = torch.where(finite[..., None], centred, 0)
    if centred.shape[-1] <= centred.shape[-2]:
        values, vectors = torch.linalg.eigh(centred.mT @ centred)
        projection = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
    else:
        axis = torch.linalg.eigh(centred @ centred.mT).eigenvectors[..., -1]  # (..., C)
        projection = (axis.unsqueeze(-2) @ centred).squeeze(-2)
    own = activations.double()
    energy = (own - own.mean(-1, keepdim=True)).square().sum(-2)
    correlation = (projection * (energy - energy.mean(-1, keepdim=True))).sum(-1, keepdim=True)
    signed = torch.where(correlation < 0, -projection, projection)
    return torch.where(finite, signed, torch.nan).to(accumulation_dtype(samples.dtype))
