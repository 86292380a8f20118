"""The part of a feature map that a window changes: geometry alone, for many windows at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Region:
    """The parts that M windows change on maps of one size, and the patches that contain them.

    Attributes:
        low: (M, 2), first changed row and column.
        high: (M, 2), one past the last changed row and column.
        origin: (M, 2), top left corners of the patches; these contain all changes and lie inside the map.
        size: (height, width) of the patches.
    """

    low: Positions
    high: Positions
    origin: Positions
    size: Pair

    @classmethod
    def of(cls, low: Positions, high: Positions, shape: Sequence[int]) -> "Region":
        """Return the smallest patches of one common size, on maps of shape (height, width)."""
        limit = np.asarray(shape, dtype=np.int64)
        low = np.minimum(np.maximum(low, 0), limit)  # a window may lie outside the map
        high = np.maximum(np.minimum(high, limit), low)
        height, width = np.maximum((high - low).max(0), 1)
        size = (int(height), int(width))
        return cls(low, high, np.minimum(low, limit - size), size)

    def __len__(self) -> int:
        """The number of windows M."""
        return len(self.low)

    def has_same_patches(self, other: "Region") -> bool:
        """Whether the patches of both regions have the same origins and size."""
        return self.size == other.size and bool((self.origin == other.origin).all())


@dataclass(frozen=True)
class Sliding:
    """The geometry of a convolution or pooling, each attribute as (rows, columns)."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    def output_region(self, region: Region, shape: Sequence[int]) -> Region:
        """Return the region that changes in the output map of shape (height, width)."""
        kernel, stride, padding, dilation = (
            np.asarray(pair) for pair in (self.kernel, self.stride, self.padding, self.dilation)
        )
        low = -((dilation * (kernel - 1) - padding - region.low) // stride)
        high = (region.high - 1 + padding) // stride + 1
        return Region.of(low, high, shape)

    def input_windows(self, output: Region) -> tuple[Positions, Pair]:
        """Return the origins (M, 2) and size of the input windows that the output's patches read.

        Windows may extend past the border of the input, into the padding.
        """
        height, width = (
            (length - 1) * stride + dilation * (kernel - 1) + 1
            for length, stride, dilation, kernel in zip(
                output.size, self.stride, self.dilation, self.kernel, strict=True
            )
        )
        return output.origin * np.asarray(self.stride) - np.asarray(self.padding), (height, width)


def union(regions: Sequence[Region], shape: Sequence[int]) -> Region:
    """Return the smallest region that covers the changes of all regions, window by window."""
    low = np.stack([region.low for region in regions]).min(0)
    high = np.stack([region.high for region in regions]).max(0)
    return Region.of(low, high, shape)
