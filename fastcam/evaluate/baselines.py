"""What stands in the place of pixels that are taken away."""

import functools
from collections.abc import Hashable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.methods import baselines
from fastcam.methods.baselines import BASELINE_NAMES

Baseline: TypeAlias = float | str | tuple[float, ...] | Tensor

RISE_SIGMA, RISE_WIDTH = 5.0, 11  # of the Gaussian in RISE's insertion, arXiv:1806.07421


def check_baseline(baseline: object) -> Baseline:
    """Return a baseline that can be compared and hashed.

    Args:
        baseline: a number or a colour (C,) in the units of the model's input (0 is the mean colour of normalised
            images); a tensor (C, *S) or (N, C, *S); "blur" for a strong blur, "noise" for normal noise with the mean
            and deviation of each channel, both as for the methods; or "slight_blur" for the 11 x 11 Gaussian of RISE.

    Raises:
        TypeError, ValueError: for anything else.
    """
    if isinstance(baseline, str):
        names = (*BASELINE_NAMES, "slight_blur")
        if baseline not in names:
            raise ValueError(f"`baseline` must be a number, a tensor or one of {', '.join(names)}, got {baseline!r}")
        return baseline
    if isinstance(baseline, Sequence) and all(isinstance(each, int | float) for each in baseline):
        return tuple(map(float, baseline))
    if isinstance(baseline, Tensor) or (isinstance(baseline, int | float) and not isinstance(baseline, bool)):
        return baseline
    raise TypeError(f"`baseline` must be a number, a colour, a tensor or a name, got {type(baseline).__name__}")


def baseline_images(images: Tensor, baseline: Baseline) -> Tensor:
    """Return the baseline (N, C, *S) of images (N, C, *S); see :func:`check_baseline`."""
    if isinstance(baseline, str) and baseline == "slight_blur":
        return slight_blur(images)
    return baselines.baseline_images(images, baseline)


def slight_blur(images: Tensor) -> Tensor:
    """Blur images (N, C, *S) as RISE does for insertion: by 11 positions along each axis, zeros outside the image."""
    kernel = _rise_kernel().to(images)
    for axis in range(2, images.dim()):
        lines = images.movedim(axis, -1)
        smooth = F.conv1d(lines.reshape(-1, 1, lines.shape[-1]), kernel[None, None], padding=RISE_WIDTH // 2)
        images = smooth.reshape(lines.shape).movedim(-1, axis)
    return images


@functools.cache
def _rise_kernel() -> Tensor:
    """Return the (11,) kernel of RISE's code, a Gaussian whose tails are folded back into the 11 positions."""
    reach = round(4 * RISE_SIGMA)
    offsets = torch.arange(-reach, reach + 1)
    gaussian = torch.exp(-(offsets.double() ** 2) / (2 * RISE_SIGMA**2))
    folded = (torch.arange(RISE_WIDTH)[:, None] + offsets) % (2 * RISE_WIDTH)
    folded = torch.minimum(folded, 2 * RISE_WIDTH - 1 - folded)
    kernel = (gaussian * (folded == RISE_WIDTH // 2)).sum(1)
    return kernel / kernel.sum()


def describe_baseline(baseline: Hashable) -> str:
    """Return what a baseline is, in words."""
    if isinstance(baseline, Tensor):
        return f"a tensor {tuple(baseline.shape)} in units of the input"
    if isinstance(baseline, str):
        return {"slight_blur": "the image under RISE's 11 x 11 Gaussian"}.get(baseline, baseline)
    return f"{baseline} in units of the input"
