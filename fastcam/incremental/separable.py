"""Operations that multiply every map by one matrix along its rows and one along its columns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastcam.devices import send
from fastcam.incremental.regions import Pair, Positions, Region

Support = NDArray[np.bool_]

_PROBE_BATCH_SIZE = 32


@dataclass(frozen=True)
class Separable:
    """Interpolation, padding, slicing or adaptive average pooling: linear, and the same for all channels.

    Attributes:
        rows: (output height, H), float64.
        columns: (output width, W), float64.
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, run: Callable[[Tensor], Tensor], size: Pair) -> "Separable":
        """Find the matrices of a separable operation by running it on test maps (1, C, *size).

        The largest row sum of both matrices must be 1.
        """
        height, width = size
        ones = run(torch.ones(1, 1, height, width, dtype=torch.float64))[0, 0]
        row, column = divmod(int(ones.argmax()), ones.shape[1])
        down = [run(probes)[0, :, :, column] for probes in _probe_maps(height, (-1, 1), size)]
        across = [run(probes)[0, :, row] for probes in _probe_maps(width, (1, -1), size)]
        return cls(torch.cat(down).T.contiguous(), torch.cat(across).T.contiguous())

    def output_region(self, region: Region) -> Region:
        """Return the region that changes in the output map."""
        axes = [
            _affected_range(support, region.low[:, axis], region.high[:, axis])
            for axis, support in enumerate(self._supports)
        ]
        low, high = (np.stack([bounds[side] for bounds in axes], 1) for side in (0, 1))
        return Region.of(low, high, (self.rows.shape[0], self.columns.shape[0]))

    def input_windows(self, output: Region) -> tuple[Positions, Pair]:
        """Return the origins (M, 2) and size of the input windows that the output's patches read."""
        origins, sizes = [], []
        for axis, support in enumerate(self._supports):
            low, high = output.origin[:, axis], output.origin[:, axis] + output.size[axis]
            first, stop = _affected_range(support.T, low, high)
            length = int(np.maximum(stop - first, 1).max())
            origins.append(np.minimum(first, support.shape[1] - length))
            sizes.append(length)
        return np.stack(origins, 1), (sizes[0], sizes[1])

    def __call__(self, windows: Tensor, origins: Positions, output: Region) -> Tensor:
        """Return the output's patches (M, C, *output.size) from its input windows (M, C, h, w)."""

        def on_device(matrix: Tensor) -> Tensor:
            return send(matrix.to(windows.dtype), windows.device)

        rows, columns = (
            _blocks(on_device(matrix), output.origin[:, axis], output.size[axis], origins[:, axis], length)
            for axis, (matrix, length) in enumerate(zip((self.rows, self.columns), windows.shape[2:], strict=True))
        )
        return torch.einsum("mij,mcjk,mlk->mcil", rows, windows, columns)

    @cached_property
    def _supports(self) -> tuple[Support, Support]:
        """Nonzero elements of both matrices."""
        return (self.rows != 0).numpy(), (self.columns != 0).numpy()


def _probe_maps(length: int, shape: Pair, size: Pair) -> Iterator[Tensor]:
    """Yield batches of maps (1, few, *size) that are 1 in one row or column and 0 elsewhere."""
    for vectors in torch.eye(length, dtype=torch.float64).split(_PROBE_BATCH_SIZE):
        yield vectors.reshape(1, len(vectors), *shape).expand(1, -1, *size)


def _affected_range(support: Support, low: Positions, high: Positions) -> tuple[Positions, Positions]:
    """Return the range (start, stop) of rows with a nonzero in the columns ``low`` to ``high`` (M,) of an (A, B)."""
    sums = np.pad(support.cumsum(1), ((0, 0), (1, 0)))
    is_affected = sums[:, high] > sums[:, low]
    is_any = is_affected.any(0)
    stop = len(support) - is_affected[::-1].argmax(0)
    return np.where(is_any, is_affected.argmax(0), 0), np.where(is_any, stop, 0)


def _blocks(matrix: Tensor, rows: Positions, height: int, columns: Positions, width: int) -> Tensor:
    """Return blocks (M, height, width) of a matrix."""
    down = send(torch.from_numpy(rows[:, None] + np.arange(height)), matrix.device)
    across = send(torch.from_numpy(columns[:, None] + np.arange(width)), matrix.device)
    return matrix[down[:, :, None], across[:, None, :]]
