"""Baselines: the uninformative images that perturbation and path methods compare with."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.devices import send

Baseline = float | Sequence[float] | Tensor | str

BASELINE_NAMES = ("blur", "noise")


def baseline_images(images: Tensor, baseline: Baseline, seed: int = 0) -> Tensor:
    """Return the baseline of every image.

    Args:
        images: (N, C, *S).
        baseline: a number; a colour (C,); an image (C, *S), or one per image (N, C, *S); "blur" for the image blurred
            by a Gaussian whose standard deviation is a tenth of its longest side; "noise" for normal noise with the
            mean and standard deviation of every image's channels, the same noise for every image.
        seed: seed of the noise.

    Returns:
        (N, C, *S), possibly an expanded view.

    Raises:
        TypeError, ValueError: for any other baseline.
    """
    if isinstance(baseline, str):
        if baseline not in BASELINE_NAMES:
            raise ValueError(f'`baseline` must be a number, a tensor, "blur" or "noise", got {baseline!r}')
        return blur(images) if baseline == "blur" else _noise(images, seed)
    if isinstance(baseline, list | tuple | int | float):
        baseline = torch.as_tensor(baseline, dtype=images.dtype)
    if not isinstance(baseline, Tensor) or baseline.is_complex():
        raise TypeError(f'`baseline` must be a number, a tensor, "blur" or "noise", got {type(baseline).__name__}')
    baseline = send(baseline, images.device).to(images.dtype)
    spatial = [1] * (images.dim() - 2)
    shaped = baseline.reshape(-1, *spatial) if baseline.dim() == 1 else baseline
    fits = baseline.dim() in (0, 1, images.dim() - 1, images.dim())
    sizes = zip(reversed(shaped.shape), reversed(images.shape), strict=False)
    if not fits or any(size not in (1, full) for size, full in sizes):
        raise ValueError(
            f"`baseline` must be a number or have shape (C,), (C, ...) or (N, C, ...) for images "
            f"{tuple(images.shape)}, got {tuple(baseline.shape)}"
        )
    return shaped.expand(images.shape)


def blur(images: Tensor) -> Tensor:
    """Blur images (N, C, *S) along each axis by a Gaussian with a tenth of the longest side as standard deviation."""
    sigma = max(images.shape[2:]) / 10
    radius = math.ceil(3 * sigma)
    distance = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(distance**2) / (2 * sigma**2))
    for axis in range(2, images.dim()):
        lines = images.movedim(axis, -1)
        flat = lines.reshape(-1, 1, lines.shape[-1])
        # Dividing by the kernel's weight inside the image keeps the border from darkening.
        weight = F.conv1d(torch.ones_like(flat[:1]), kernel[None, None], padding=radius)
        smooth = F.conv1d(flat, kernel[None, None], padding=radius) / weight
        images = smooth.reshape(lines.shape).movedim(-1, axis)
    return images


def normal_noise(images: Tensor, seed: int) -> Tensor:
    """Return standard normal noise (C, *S), the same for every image, batch and device."""
    generator = torch.Generator().manual_seed(seed)
    return send(torch.randn(images.shape[1:], generator=generator), images.device).to(images.dtype)


def _noise(images: Tensor, seed: int) -> Tensor:
    spatial = list(range(2, images.dim()))
    mean, deviation = images.mean(spatial, keepdim=True), images.std(spatial, keepdim=True, correction=0)
    return mean + deviation * normal_noise(images, seed)
