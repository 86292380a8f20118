"""Missing pixels from their neighbours: the linear imputation of ROAD (arXiv:2202.00449), solved on the device.

Each missing pixel is the mean of its 8 neighbours in the image, the direct ones with weight 1/6 and the diagonal ones
with 1/12; other missing pixels are unknowns. The equations of all images are solved together by conjugate gradients. A
hole of many pixels would need as many steps as it is wide; corrections on coarser and coarser grids make that a few.
"""

import itertools

import torch
from torch import Tensor

from fastcam.ops.numerics import accumulation_dtype

MAX_STEPS = 500
TOLERANCE = 3e-4  # of the residual, as a share of what is known: errors far below the noise that ROAD adds
# Cells that lie in a hole in part can be corrected in part: of powers 2 to 16 of the share this takes the fewest steps.
COVERAGE_POWER = 4


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
    dtype = accumulation_dtype(images.dtype)
    system = _System(missing.unsqueeze(1), images.shape[1], dtype)
    known = images.to(dtype).masked_fill(missing.unsqueeze(1), 0)
    filled = system.solve(system.neighbours(known) * system.missing)
    return torch.where(missing.unsqueeze(1), filled.to(images.dtype), images)


class _System:
    """The equations of the missing pixels (N, 1, H, W): symmetric, and positive where anything is known.

    What the steps compute is written into tensors that are made once: fresh ones take longer to map than to fill.
    """

    def __init__(self, missing: Tensor, channels: int, dtype: torch.dtype) -> None:
        self.missing = missing.to(dtype)
        count, _, height, width = missing.shape
        self._padded = self.missing.new_zeros(count, channels, height + 2, width + 2)
        self._across = self.missing.new_empty(count, channels, height + 2, width)
        self._around = self.missing.new_empty(count, channels, height, width)
        self.total = self.neighbours(torch.ones_like(self._around))[:, :1].clone()  # less than 1 at the border
        self._image = torch.empty_like(self._around)
        self._grids = _grids(self.missing, channels)

    def neighbours(self, values: Tensor) -> Tensor:
        """Return the weighted sums (N, C, H, W) of the neighbours, valid until the next call."""
        # The weights are (1, 2, 1) x (1, 2, 1) / 12 without the middle: sums of slices, faster than a convolution.
        padded, across, around = self._padded, self._across, self._around
        padded[..., 1:-1, 1:-1] = values
        torch.add(padded[..., :-2], padded[..., 2:], out=across).add_(padded[..., 1:-1], alpha=2)
        torch.add(across[..., :-2, :], across[..., 2:, :], out=around).add_(across[..., 1:-1, :], alpha=2)
        return around.mul_(1 / 12).sub_(values, alpha=1 / 3)

    def apply(self, values: Tensor) -> Tensor:
        """Return the left sides for values that are zero where pixels are known; valid until the next call."""
        image = torch.mul(values, self.total, out=self._image)
        return image.sub_(self.neighbours(values)).mul_(self.missing)

    def precondition(self, residual: Tensor) -> Tensor:
        """Return corrections on all grids together (Bramble, Pasciak and Xu 1990): a symmetric, positive operator."""
        values = residual
        for grid in self._grids:
            values = grid.restrict(values)
        for grid in reversed(self._grids):
            values = grid.correct()
        return residual if not self._grids else values.add_(residual).mul_(self.missing)

    def solve(self, right: Tensor) -> Tensor:
        """Return the solution (N, C, H, W) for right sides, zero where pixels are known."""
        solution, residual, direction = torch.zeros_like(right), right.clone(), torch.zeros_like(right)
        limit = (TOLERANCE * _dot(right, right).sqrt()).clamp(min=torch.finfo(right.dtype).tiny)
        before = torch.ones_like(limit)
        for _ in range(MAX_STEPS):
            is_open = _dot(residual, residual).sqrt() > limit  # one that is solved stays, whatever its batch needs
            if not bool(is_open.any()):
                break
            corrected = self.precondition(residual)
            product = _dot(residual, corrected)
            direction.mul_(_ratio(product, before)).add_(corrected)
            image = self.apply(direction)
            step = _ratio(product, _dot(direction, image)) * is_open
            solution.addcmul_(direction, step)
            residual.addcmul_(image, step, value=-1)
            before = product
        return solution


class _Grid:
    """A grid of half as many cells along both axes.

    Args:
        weight: (N, 1, h, w), of its cells: 1 where all pixels under it are missing.
        channels: of the values.
        finer: size of the finer grid.
    """

    def __init__(self, weight: Tensor, channels: int, finer: tuple[int, int]) -> None:
        count, _, height, width = weight.shape
        self.weight = weight
        self._columns = weight.new_empty(count, channels, finer[0], width)  # half as wide, still as high
        self.values = weight.new_empty(count, channels, height, width)
        self._rows = weight.new_empty(count, channels, finer[0], width)
        self._fine = weight.new_empty(count, channels, *finer)
        self.coarser: _Grid | None = None

    def restrict(self, values: Tensor) -> Tensor:
        """Return sums (N, C, h, w) over the cells, from values of the finer grid: the transpose of ``correct``."""
        _halve(values, self._columns, -1)
        _halve(self._columns, self.values, -2)
        return self.values

    def correct(self) -> Tensor:
        """Return the weighted sums, and the corrections of coarser grids, on the finer grid by interpolation."""
        values = self.values.mul_(self.weight)
        if self.coarser is not None:
            values.add_(self.coarser._fine)
        _double(values, self._rows, -2)
        _double(self._rows, self._fine, -1)
        return self._fine


def _grids(missing: Tensor, channels: int) -> list[_Grid]:
    """Return the grids from fine to coarse, down to two cells along an axis."""
    shares, grids = missing, list[_Grid]()
    while min(shares.shape[2:]) > 2:
        finer = int(shares.shape[2]), int(shares.shape[3])
        size = [(length + 1) // 2 for length in finer]
        grid = _Grid(shares.new_empty(len(shares), 1, *size), 1, finer)
        shares = grid.restrict(shares).div_(4)
        grids.append(_Grid(shares**COVERAGE_POWER, channels, finer))
    for finer_grid, coarser in itertools.pairwise(grids):
        finer_grid.coarser = coarser
    return grids


def _halve(fine: Tensor, coarse: Tensor, axis: int) -> None:
    """Write into ``coarse`` along an axis (1, 3, 3, 1) / 4 of each two values and their neighbours."""
    fine, coarse = fine.movedim(axis, -1), coarse.movedim(axis, -1)
    even, odd = fine[..., ::2], fine[..., 1::2]
    torch.mul(even, 0.75, out=coarse)
    coarse[..., : odd.shape[-1]].add_(odd, alpha=0.75)
    coarse[..., :-1].add_(even[..., 1:], alpha=0.25)
    coarse[..., 1:].add_(odd[..., : coarse.shape[-1] - 1], alpha=0.25)


def _double(coarse: Tensor, fine: Tensor, axis: int) -> None:
    """Write into ``fine`` the linear interpolation of ``coarse`` along an axis: the transpose of :func:`_halve`."""
    fine, coarse = fine.movedim(axis, -1), coarse.movedim(axis, -1)
    even, odd = fine[..., ::2], fine[..., 1::2]
    torch.mul(coarse, 0.75, out=even)
    torch.mul(coarse[..., : odd.shape[-1]], 0.75, out=odd)
    even[..., 1:].add_(coarse[..., :-1], alpha=0.25)
    odd[..., : coarse.shape[-1] - 1].add_(coarse[..., 1:], alpha=0.25)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((2, 3), keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, and 0 where an image is solved and both are."""
    return torch.where(b == 0, 0, a / torch.where(b == 0, 1, b))
