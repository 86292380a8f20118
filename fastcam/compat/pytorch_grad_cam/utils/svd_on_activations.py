"""Principal components of activations, NumPy in, NumPy out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Array = np.ndarray[Any, Any]


def get_2d_projection(activation_batch: Array) -> Array:
    """Every position of (N, C, *s) on the first principal axis of the channels; the sign is LAPACK's.

    Returns:
        (N, *s), float32.
    """
    samples = np.nan_to_num(activation_batch, nan=0.0, posinf=np.inf, neginf=-np.inf)
    flat = samples.reshape(*samples.shape[:2], -1).swapaxes(1, 2)  # (N, P, C)
    centred = flat - flat.mean(axis=1, keepdims=True)
    # The full matrices are never used, but with them LAPACK takes the path whose sign others know.
    axes = np.stack([np.linalg.svd(each, full_matrices=True)[2][0] for each in centred])
    return np.einsum("npc,nc->np", centred, axes).reshape(len(samples), *samples.shape[2:]).astype(np.float32)


def get_2d_projection_with_sign_correction(activation_batch: Array) -> Array:
    """As :func:`get_2d_projection`, turned so that the value furthest from zero is positive."""
    found = get_2d_projection(activation_batch)
    flat = found.reshape(len(found), -1)
    turned = np.abs(flat.min(1)) > np.abs(flat.max(1))
    return found * np.where(turned, -1, 1).reshape(-1, *[1] * (found.ndim - 1)).astype(np.float32)


def get_2d_projection_kernel(activation_batch: Array, kernel: str = "sigmoid", gamma: float | None = None) -> Array:
    """Every position of (N, C, *s) on the first principal component under a kernel, see :func:`kernel_component`."""
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
    """(N, P): kernel PCA of the positions of (N, C, P).

    Args:
        activations: (N, C, P).
        kernel: "linear", "poly", "rbf", "sigmoid" or "cosine".
        gamma: of the kernel; None for 1 / C.

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
