"""The linear imputation of ROAD (arXiv:2202.00449) in plain PyTorch: the equations of all planes, solved together."""

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_STEPS = 500


def solution_of(values: Tensor, missing: Tensor, tolerance: float) -> Tensor:
    """Return the missing pixels (N, C, H, W) of planes; known pixels are 0 there.

    Args:
        values: (N, C, H, W).
        missing: (N, H, W) bool.
        tolerance: of the residual of a plane, as a share of what is known.
    """
    grid = _Grid(missing.unsqueeze(1).to(values.dtype), values.shape[1])
    known = values.masked_fill(missing.unsqueeze(1), 0)
    return grid.solve(grid.neighbours(known) * grid.missing, tolerance)


class _Grid:
    """The equations of the missing pixels on a grid and, to precondition them, on coarser and coarser ones.

    They are symmetric, and positive where anything is known. What the steps compute is written into tensors that are
    made once: fresh ones take longer to map than to fill.

    Args:
        missing: (N, 1, H, W), 1 for unknowns, else 0.
        channels: of the values.
    """

    def __init__(self, missing: Tensor, channels: int) -> None:
        self.missing = missing
        count, _, height, width = missing.shape
        self._padded = missing.new_zeros(count, channels, height + 2, width + 2)
        self._across = missing.new_empty(count, channels, height + 2, width)
        self._around = missing.new_empty(count, channels, height, width)
        self._total = self.neighbours(torch.ones_like(self._around))[:, :1].clone()  # less than 1 at the border
        self._image, self._left, self._correction = (torch.empty_like(self._around) for _ in range(3))
        self._coarser = self._next(channels) if min(height, width) > 2 else None

    def _next(self, channels: int) -> "_Grid":
        """Return the grid of half as many cells along both axes: unknowns where no pixel of the cell is known."""
        known = F.max_pool2d(1 - self.missing, 2, ceil_mode=True)
        coarser = _Grid(1 - known, channels)
        height, width = known.shape[2:]
        rows = self.missing.shape[2]
        self._columns = self._around.new_empty(*self._around.shape[:2], rows, width)  # half as wide, still as high
        self._cells = self._around.new_empty(*self._around.shape[:2], height, width)
        return coarser

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
        image = torch.mul(values, self._total, out=self._image)
        return image.sub_(self.neighbours(values)).mul_(self.missing)

    def correct(self, residual: Tensor) -> Tensor:
        """Return nearly the solution for a residual, by a symmetric, positive operator; valid until the next call.

        It is one V-cycle with a Jacobi step before and after: with these weights a step of 1 leaves a third of what a
        coarser grid cannot show.
        """
        values = self._correction.copy_(residual)
        if self._coarser is not None:
            _halve(torch.sub(residual, self.apply(values), out=self._left), self._columns, -1)
            _halve(self._columns, self._cells, -2)
            coarse = self._coarser.correct(self._cells.mul_(self._coarser.missing))
            _double(coarse, self._columns, -2)
            _double(self._columns, self._left, -1)
            values.addcmul_(self._left, self.missing)
        return values.add_(torch.sub(residual, self.apply(values), out=self._left))

    def solve(self, right: Tensor, tolerance: float) -> Tensor:
        """Return the solution (N, C, H, W) for right sides that are zero where pixels are known."""
        norm = _dot(right, right)
        is_finite = norm.isfinite()  # else a value is not, or too large to be squared: unknown pixels are NaN
        right, norm = torch.where(is_finite, right, 0), torch.where(is_finite, norm, 0)
        solution, residual, direction = torch.zeros_like(right), right.clone(), torch.zeros_like(right)
        limit = (tolerance * norm.sqrt()).clamp(min=torch.finfo(right.dtype).tiny)
        before = torch.ones_like(limit)
        for _ in range(MAX_STEPS):
            is_open = _dot(residual, residual).sqrt() > limit  # one that is solved stays, whatever its batch needs
            if not bool(is_open.any()):
                break
            corrected = self.correct(residual)
            product = _dot(residual, corrected)
            direction.mul_(_ratio(product, before)).add_(corrected)
            image = self.apply(direction)
            step = _ratio(product, _dot(direction, image)) * is_open
            solution.addcmul_(direction, step)
            residual.addcmul_(image, step, value=-1)
            before = product
        return torch.where(is_finite, solution, torch.nan)


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
