"""Principal components of activations, as NumPy arrays."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.compat.pytorch_grad_cam._types import Array


def get_2d_projection(activation_batch: Array) -> Array:
    """Project every position of (N, C, *s) on the first principal axis of the channels, with LAPACK's sign.

    Returns:
        (N, *s), float32.
    """
    samples = np.nan_to_num(activation_batch, nan=0.0, posinf=np.inf, neginf=-np.inf)
    flat = samples.reshape(*samples.shape[:2], -1).swapaxes(1, 2)  # (N, P, C)
    centred = flat - flat.mean(axis=1, keepdims=True)
    # The full matrices are not used, but LAPACK's signs depend on full_matrices, and pytorch-grad-cam sets it.
    axes = np.stack([np.linalg.svd(positions, full_matrices=True)[2][0] for positions in centred])
    return np.einsum("npc,nc->np", centred, axes).reshape(len(samples), *samples.shape[2:]).astype(np.float32)


def get_2d_projection_with_sign_correction(activation_batch: Array) -> Array:
    """Project as :func:`get_2d_projection`, with the sign that makes the largest absolute value positive."""
    projection = get_2d_projection(activation_batch)
    flat = projection.reshape(len(projection), -1)
    is_negative = np.abs(flat.min(1)) > np.abs(flat.max(1))
    return projection * np.where(is_negative, -1, 1).reshape(-1, *[1] * (projection.ndim - 1)).astype(np.float32)


def get_2d_projection_kernel(activation_batch: Array, kernel: str = "sigmoid", gamma: float | None = None) -> Array:
    """Project every position of (N, C, *s) on the first kernel principal component, see :func:`kernel_component`."""
    samples = torch.from_numpy(np.nan_to_num(activation_batch, nan=0.0))
    return (
        kernel_component(samples.flatten(2), kernel, gamma).unflatten(-1, samples.shape[2:]).numpy().astype(np.float32)
    )


_KERNELS: dict[str, Callable[[Tensor, float], Tensor]] = {  # of positions (N, P, C)
    "linear": lambda x, gamma: x @ x.mT,
    "poly": lambda x, gamma: (gamma * x @ x.mT + 1) ** 3,
    "rbf": lambda x, gamma: torch.exp(-gamma * torch.cdist(x, x).square()),
    "sigmoid": lambda x, gamma: torch.tanh(gamma * x @ x.mT + 1),
    "cosine": lambda x, gamma: F.normalize(x, dim=-1) @ F.normalize(x, dim=-1).mT,
}


def kernel_component(activations: Tensor, kernel: str = "sigmoid", gamma: float | None = None) -> Tensor:
    """Return (N, P), the first kernel principal component of the positions of (N, C, P).

    Args:
        activations: (N, C, P).
        kernel: "linear", "poly", "rbf", "sigmoid" or "cosine".
        gamma: coefficient of the kernel; None for 1 / C.

    Returns:
        (N, P), with the sign that makes the eigenvector's largest entry positive.

    Raises:
        ValueError: for another kernel.
    """
    if kernel not in _KERNELS:
        raise ValueError(f"`kernel` must be one of {', '.join(_KERNELS)}, got {kernel!r}")
    centred = (activations - activations.mean(-1, keepdim=True)).double().mT
    products = _KERNELS[kernel](centred, 1 / activations.shape[1] if gamma is None else gamma)
    means = products.mean(-1, keepdim=True)
    values, vectors = torch.linalg.eigh(products - means - means.mT + means.mean(-2, keepdim=True))
    vector = vectors[..., -1]
    peak = vector.gather(-1, vector.abs().argmax(-1, keepdim=True))
    return (vector * peak.sign() * values[..., -1:].clamp(min=0).sqrt()).to(activations.dtype)
