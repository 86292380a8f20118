"""Operations that are a product with a matrix along the rows and one along the columns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastcam.incremental.regions import Pair, Places, Region

Reach = NDArray[np.bool_]

_AT_ONCE = 32  # bars, so that their maps stay small


@dataclass(frozen=True)
class Separable:
    """Interpolation, padding, cutting, adaptive average pooling: linear, the same for all channels.

    Attributes:
        rows: (H after, H), float64.
        columns: (W after, W), float64.
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, run: Callable[[Tensor], Tensor], size: Pair) -> "Separable":
        """Of an operation on maps (1, C, *size) of this form, one of its matrices with a row of sum 1 at least."""
        height, width = size
        whole = run(torch.ones(1, 1, height, width, dtype=torch.float64))[0, 0]
        row, column = divmod(int(whole.argmax()), whole.shape[1])
        down = [run(each)[0, :, :, column] for each in _bars(height, (-1, 1), size)]
        across = [run(each)[0, :, row] for each in _bars(width, (1, -1), size)]
        return cls(torch.cat(down).T.contiguous(), torch.cat(across).T.contiguous())

    def after(self, region: Region) -> Region:
        """What changes behind it."""
        axes = [_touched(reach, region.low[:, axis], region.high[:, axis]) for axis, reach in enumerate(self._reaches)]
        low, high = (np.stack([each[side] for each in axes], 1) for side in (0, 1))
        return Region.of(low, high, (self.rows.shape[0], self.columns.shape[0]))

    def read(self, after: Region) -> tuple[Places, Pair]:
        """Where the windows (M, 2) begin that patches behind it are computed from, and their size."""
        begins, sizes = [], []
        for axis, reach in enumerate(self._reaches):
            first, last = _touched(reach.T, after.origin[:, axis], after.origin[:, axis] + after.size[axis])
            length = int(np.maximum(last - first, 1).max())
            begins.append(np.minimum(first, reach.shape[1] - length))
            sizes.append(length)
        return np.stack(begins, 1), (sizes[0], sizes[1])

    def __call__(self, maps: Tensor, begins: Places, after: Region) -> Tensor:
        """(M, C, *after.size) from the windows (M, C, h, w) that it reads."""
        rows, columns = (
            _cut(matrix.to(maps), after.origin[:, axis], after.size[axis], begins[:, axis], maps.shape[2 + axis])
            for axis, matrix in enumerate((self.rows, self.columns))
        )
        return torch.einsum("mij,mcjk,mlk->mcil", rows, maps, columns)

    @cached_property
    def _reaches(self) -> tuple[Reach, Reach]:
        return (self.rows != 0).numpy(), (self.columns != 0).numpy()


def _bars(length: int, shape: Pair, size: Pair) -> Iterator[Tensor]:
    """(1, few, *size): maps that are 1 in one row or column, 0 elsewhere."""
    for some in torch.eye(length, dtype=torch.float64).split(_AT_ONCE):
        yield some.reshape(1, len(some), *shape).expand(1, -1, *size)


def _touched(reach: Reach, low: Places, high: Places) -> tuple[Places, Places]:
    """The first row of a matrix (A, B) that reaches any of the columns from ``low`` to ``high`` (M,), and the last."""
    sums = np.pad(reach.cumsum(1), ((0, 0), (1, 0)))
    touched = sums[:, high] > sums[:, low]
    found = touched.any(0)
    last = len(reach) - touched[::-1].argmax(0)
    return np.where(found, touched.argmax(0), 0), np.where(found, last, 0)


def _cut(matrix: Tensor, rows: Places, height: int, columns: Places, width: int) -> Tensor:
    """(M, height, width): blocks of a matrix."""
    down = torch.from_numpy(rows[:, None] + np.arange(height)).to(matrix.device)
    across = torch.from_numpy(columns[:, None] + np.arange(width)).to(matrix.device)
    return matrix[down[:, :, None], across[:, None, :]]
