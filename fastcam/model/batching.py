"""Splits work on many copies of images into batches that fit in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from fastcam.model.cancellation import raise_if_cancelled
from fastcam.model.out_of_memory import is_out_of_memory, with_spare_memory
from fastcam.model.progress import ProgressReporter

Result = TypeVar("Result")
BatchSize = int | Literal["auto"]

INITIAL_BATCH_SIZE = {"cpu": 16, "cuda": 128}  # for "auto"; larger batches fall out of the CPU caches
MAX_GROWTH = 32  # of the batch size, for small copies


@dataclass(frozen=True)
class Block:
    """A rectangle of the work: a range of images by a range of variants of each."""

    images: range
    variants: range

    def __len__(self) -> int:
        """The number of copies in the block."""
        return len(self.images) * len(self.variants)

    @property
    def place(self) -> tuple[slice, slice]:
        """The index of the block's results in (N, variants, ...)."""
        return slice(self.images.start, self.images.stop), slice(self.variants.start, self.variants.stop)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of images and of variants."""
        return len(self.images), len(self.variants)

    @property
    def rows(self) -> Tensor:
        """(M,) int64: the image of every copy; variants of one image are adjacent."""
        return torch.arange(self.images.start, self.images.stop).repeat_interleave(len(self.variants))

    def split(self, limit: int) -> tuple["Block", "Block"]:
        """Return a block of at most ``limit`` copies, preferring few variants of many images, and the rest."""
        if len(self.images) > limit:
            middle = self.images.start + limit
            return (
                Block(range(self.images.start, middle), self.variants),
                Block(range(middle, self.images.stop), self.variants),
            )
        middle = self.variants.start + max(1, limit // len(self.images))
        return (
            Block(self.images, range(self.variants.start, middle)),
            Block(self.images, range(middle, self.variants.stop)),
        )


class Batches:
    """Splits work into blocks, and into smaller ones when memory runs out.

    Args:
        batch_size: copies at a time; "auto" starts with a size that suits the device and halves it whenever memory runs
            out, without repeating finished blocks.
        device: the device of the work.
        progress: updated after every block.
        start: the initial size for "auto"; None takes one that suits the device.
    """

    def __init__(
        self, batch_size: BatchSize, device: torch.device, progress: ProgressReporter, start: int | None = None
    ) -> None:
        check_batch_size(batch_size)
        self.device = device
        self.adapts = batch_size == "auto"
        self.limit = (start or INITIAL_BATCH_SIZE.get(device.type, 16)) if batch_size == "auto" else batch_size
        self.progress = progress

    def without_progress(self) -> "Batches":
        """Return the same batches for nested work, without progress reports."""
        return Batches("auto" if self.adapts else self.limit, self.device, ProgressReporter())

    def each(
        self, images: int | range, variants: int, work: Callable[[Block], Result], size: float = 1.0
    ) -> Iterator[tuple[Block, Result]]:
        """Run ``work`` once for every variant of every image, the variants of each image in order.

        Args:
            images: the number of images, or a range of them.
            variants: the number of variants per image.
            work: from a block to its result.
            size: of a copy relative to a full image; "auto" takes larger batches of small copies.

        Yields:
            Every block with its result.

        Raises:
            Exception: of the enclosing :func:`fastcam.model.cancellation.cancelled_by`, before any block.
        """
        growth = self._growth(size)
        limit = self.limit * growth
        images = range(images) if isinstance(images, int) else images
        pending = [Block(images, range(variants))]
        # No progress bar for a single copy per image.
        progress = self.progress if variants > 1 else ProgressReporter()
        with progress.over(len(images) * variants) as advance:
            while pending:
                raise_if_cancelled()
                block = pending.pop()
                if len(block) > limit:
                    pending += reversed(block.split(limit))
                    continue
                result = self._attempt(block, work)
                if result is None:
                    limit = (len(block) + 1) // 2
                    self.limit = max(1, limit // growth)
                    pending.append(block)
                    continue
                yield block, result[0]
                advance(len(block))

    def limit_of(self, size: float) -> int:
        """Return how many copies of a size, relative to a full image, a block holds at most."""
        return self.limit * self._growth(size)

    def _growth(self, size: float) -> int:
        return min(MAX_GROWTH, max(1, int(1 / size))) if self.adapts else 1

    def _attempt(self, block: Block, work: Callable[[Block], Result]) -> tuple[Result] | None:
        """Return the result in a tuple, or None when memory ran out and a smaller block can be tried."""
        try:
            return (with_spare_memory(lambda: work(block)),)
        except (RuntimeError, MemoryError) as error:
            if not self.adapts or len(block) <= 1 or not is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def check_batch_size(batch_size: BatchSize) -> None:
    """Raise ValueError unless the size is "auto" or a positive whole number."""
    is_number = isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size >= 1
    if batch_size != "auto" and not is_number:
        raise ValueError(f'`batch_size` must be "auto" or a positive whole number, got {batch_size!r}')


def join_blocks(parts: Sequence[tuple[Block, Tensor]], images: int, variants: int) -> Tensor:
    """Join the results (n, m, ...) of all blocks into one tensor (N, variants, ...)."""
    first = parts[0][1]
    whole = first.new_empty((images, variants, *first.shape[2:]))
    for block, part in parts:
        whole[block.place] = part
    return whole
