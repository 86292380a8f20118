"""Where a window changes a map: geometry alone, for many windows at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Region:
    """What M windows change of maps of one size, and the patches that hold it.

    Attributes:
        low: (M, 2), first row and column that change.
        high: (M, 2), behind the last ones.
        origin: (M, 2), where the patches begin; they hold all that changes and lie inside the map.
        size: (height, width) of the patches.
    """

    low: Places
    high: Places
    origin: Places
    size: Pair

    @classmethod
    def of(cls, low: Places, high: Places, shape: Sequence[int]) -> "Region":
        """The smallest patches of one size, on maps of a shape (height, width)."""
        limit = np.asarray(shape, dtype=np.int64)
        low = np.minimum(np.maximum(low, 0), limit)  # a window may lie outside
        high = np.maximum(np.minimum(high, limit), low)
        height, width = np.maximum((high - low).max(0), 1)
        size = (int(height), int(width))
        return cls(low, high, np.minimum(low, limit - size), size)

    def __len__(self) -> int:
        """M."""
        return len(self.low)

    def is_at(self, other: "Region") -> bool:
        """Whether the patches lie where the others do."""
        return self.size == other.size and bool((self.origin == other.origin).all())


@dataclass(frozen=True)
class Sliding:
    """A convolution or pooling, as far as positions go: (rows, columns) each."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    def after(self, region: Region, shape: Sequence[int]) -> Region:
        """What changes behind it, on a map of a shape (height, width)."""
        kernel, stride, padding, dilation = (
            np.asarray(each) for each in (self.kernel, self.stride, self.padding, self.dilation)
        )
        low = -((dilation * (kernel - 1) - padding - region.low) // stride)
        high = (region.high - 1 + padding) // stride + 1
        return Region.of(low, high, shape)

    def read(self, after: Region) -> tuple[Places, Pair]:
        """Where the windows (M, 2) begin that patches behind it are computed from, and their size; some reach out."""
        height, width = (
            (length - 1) * step + spread * (side - 1) + 1
            for length, step, spread, side in zip(after.size, self.stride, self.dilation, self.kernel, strict=True)
        )
        return after.origin * np.asarray(self.stride) - np.asarray(self.padding), (height, width)


def union(regions: Sequence[Region], shape: Sequence[int]) -> Region:
    """What changes where any of the regions does."""
    low = np.stack([each.low for each in regions]).min(0)
    high = np.stack([each.high for each in regions]).max(0)
    return Region.of(low, high, shape)
