"""Missing pixels from their neighbours: the linear imputation of ROAD (arXiv:2202.00449), solved on the device.

Each missing pixel is the mean of its 8 neighbours in the image, the direct ones with weight 1/6 and the diagonal ones
with 1/12; other missing pixels are unknowns. The equations of all images are solved together by conjugate gradients. A
hole of many pixels would need as many steps as it is wide; corrections on coarser and coarser grids make that a few.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.ops.numerics import accumulation_dtype

MAX_STEPS = 500
TOLERANCE = 1e-4  # of the residual, as a share of the known values that it starts with
# Cells that lie in a hole in part can be corrected in part: of powers 2 to 16 of the share this takes the fewest steps.
COVERAGE_POWER = 4

_HAT = (1 / 4, 3 / 4, 3 / 4, 1 / 4)  # from a grid to one with half as many cells, and transposed


def impute(images: Tensor, missing: Tensor) -> Tensor:
    """Return the images with their missing pixels filled in.

    Args:
        images: (N, C, H, W).
        missing: (N, H, W) bool. An image of which nothing is known becomes zero.

    Raises:
        ValueError: for images without two axes.
    """
    if images.dim() != 4:
        raise ValueError(f"the imputation of ROAD is for images (N, C, H, W), got {tuple(images.shape)}")
    system = _System(missing.unsqueeze(1), accumulation_dtype(images.dtype))
    known = images.to(system.dtype).masked_fill(missing.unsqueeze(1), 0)
    filled = system.solve(system.neighbours(known) * system.missing)
    return torch.where(missing.unsqueeze(1), filled.to(images.dtype), images)


class _System:
    """The equations of the missing pixels (N, 1, H, W): symmetric, and positive where anything is known."""

    def __init__(self, missing: Tensor, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.missing = missing.to(dtype)
        self.total = self.neighbours(torch.ones_like(self.missing))  # less than 1 at the border
        self.coverage = self._coverage()

    def neighbours(self, values: Tensor) -> Tensor:
        """Return the weighted sums (N, C, H, W) of the neighbours."""
        # The weights are (1, 2, 1) x (1, 2, 1) / 12 without the middle: sums of slices, faster than a convolution.
        padded = F.pad(values, (1, 1, 1, 1))
        across = torch.add(padded[..., :-2] + padded[..., 2:], padded[..., 1:-1], alpha=2)
        around = torch.add(across[..., :-2, :] + across[..., 2:, :], across[..., 1:-1, :], alpha=2)
        return torch.sub(around / 12, values, alpha=1 / 3)

    def apply(self, values: Tensor) -> Tensor:
        """Return the left sides for values that are zero where pixels are known."""
        return (self.total * values - self.neighbours(values)) * self.missing

    def _coverage(self) -> list[Tensor]:
        """Return for every coarser grid (N, 1, h, w) a weight of its cells, 1 where all pixels under it are missing."""
        shares, weights = self.missing, []
        while min(shares.shape[2:]) > 2:
            size = torch.Size([(length + 1) // 2 for length in shares.shape[2:]])
            shares = _restrict(shares, size) / 4
            weights.append(shares**COVERAGE_POWER)
        return weights

    def precondition(self, residual: Tensor) -> Tensor:
        """Return corrections on all grids together (Bramble, Pasciak and Xu 1990): a symmetric, positive operator."""
        levels = [residual]
        for weight in self.coverage:
            levels.append(_restrict(levels[-1], weight.shape[2:]))
        weighted = [residual, *(level * weight for level, weight in zip(levels[1:], self.coverage, strict=True))]
        correction = weighted.pop()
        for finer in reversed(weighted):
            correction = finer + _prolong(correction, finer.shape[2:])
        return correction * self.missing

    def solve(self, right: Tensor) -> Tensor:
        """Return the solution (N, C, H, W) for right sides, zero where pixels are known."""
        solution, residual = torch.zeros_like(right), right
        limit = (TOLERANCE * _norm(right)).clamp(min=torch.finfo(self.dtype).tiny)
        direction, before = torch.zeros_like(right), torch.ones_like(limit)
        for _ in range(MAX_STEPS):
            is_open = _norm(residual) > limit  # a channel that is solved stays as it is, whatever its batch needs
            if not bool(is_open.any()):
                break
            corrected = self.precondition(residual)
            product = _dot(residual, corrected)
            direction = corrected + direction * _ratio(product, before)
            image = self.apply(direction)
            step = _ratio(product, _dot(direction, image)) * is_open
            solution = solution + step * direction
            residual = residual - step * image
            before = product
        return solution


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((2, 3), keepdim=True)


def _norm(a: Tensor) -> Tensor:
    return _dot(a, a).sqrt()


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, and 0 where an image is solved and both are."""
    return torch.where(b == 0, 0, a / torch.where(b == 0, 1, b))


def _hat(values: Tensor) -> Tensor:
    row = torch.tensor(_HAT, dtype=values.dtype, device=values.device)
    return (row[:, None] * row)[None, None]


def _restrict(values: Tensor, size: torch.Size) -> Tensor:
    """Return sums (N, C, *size) over the cells of a grid half as fine: the transpose of :func:`_prolong`."""
    flat = values.reshape(-1, 1, *values.shape[2:])
    padded = F.pad(flat, (1, 2, 1, 2))
    return F.conv2d(padded, _hat(values), stride=2)[..., : size[0], : size[1]].reshape(*values.shape[:2], *size)


def _prolong(values: Tensor, size: torch.Size) -> Tensor:
    """Interpolate (N, C, h, w) linearly to a grid twice as fine."""
    flat = values.reshape(-1, 1, *values.shape[2:])
    wide = F.conv_transpose2d(flat, _hat(values), stride=2)
    return wide[..., 1 : size[0] + 1, 1 : size[1] + 1].reshape(*values.shape[:2], *size)
