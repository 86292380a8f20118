"""Work that multiplies images, done in pieces that fit in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from fastcam.model.progress import Progress

Result = TypeVar("Result")
BatchSize = int | Literal["auto"]

_START = {"cpu": 16, "cuda": 128}  # what "auto" tries first; more does not fit a processor's caches
# How torch's allocator, the C++ library and oneDNN say that the host's memory ran out.
_SIGNS = (
    "can't allocate memory",
    "bad_alloc",
    "could not create a memory object",
    "could not create a primitive",
    "could not execute a primitive",
)

_MOST = 32  # times as many of small copies


@dataclass(frozen=True)
class Block:
    """A rectangle of the work: some images, some variants of each."""

    images: range
    variants: range

    def __len__(self) -> int:
        """How many copies the block stands for."""
        return len(self.images) * len(self.variants)

    @property
    def place(self) -> tuple[slice, slice]:
        """Where the block's results belong in (N, variants, ...)."""
        return slice(self.images.start, self.images.stop), slice(self.variants.start, self.variants.stop)

    @property
    def rows(self) -> Tensor:
        """(M,) int64: the image of every copy, the variants of one image side by side."""
        return torch.arange(self.images.start, self.images.stop).repeat_interleave(len(self.variants))

    def split(self, limit: int) -> tuple["Block", "Block"]:
        """A block of at most ``limit`` copies from the front, and the rest: few variants of many images."""
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
    """Cuts work into blocks, and into smaller ones where memory runs out.

    Args:
        batch_size: copies at a time; "auto" begins with a size that suits the device and halves it whenever memory runs
            out, going on where it stopped.
        device: where the work is done.
        progress: told of every block.
        start: what "auto" begins with; None takes what suits the device.
    """

    def __init__(
        self, batch_size: BatchSize, device: torch.device, progress: Progress, start: int | None = None
    ) -> None:
        check_batch_size(batch_size)
        self.device = device
        self.adapts = batch_size == "auto"
        self.limit = (start or _START.get(device.type, 16)) if batch_size == "auto" else batch_size
        self.progress = progress

    def quietly(self) -> "Batches":
        """The same for work inside the work, which is not told to ``progress``."""
        return Batches("auto" if self.adapts else self.limit, self.device, Progress())

    def each(
        self, images: int | range, variants: int, work: Callable[[Block], Result], size: float = 1.0
    ) -> Iterator[tuple[Block, Result]]:
        """Does ``work`` for every variant of every image, nothing twice, the variants of an image in order.

        ``images`` is how many, or which. ``size`` is that of a copy beside an image: "auto" takes more of small ones.
        """
        more = min(_MOST, max(1, int(1 / size))) if self.adapts else 1
        limit = self.limit * more
        images = range(images) if isinstance(images, int) else images
        pending = [Block(images, range(variants))]
        progress = self.progress if variants > 1 else Progress()  # one copy an image is no work to tell of
        with progress.over(len(images) * variants) as advance:
            while pending:
                block = pending.pop()
                if len(block) > limit:
                    pending += reversed(block.split(limit))
                    continue
                result = self._attempt(block, work)
                if result is None:
                    limit = (len(block) + 1) // 2
                    self.limit = max(1, limit // more)
                    pending.append(block)
                    continue
                yield block, result[0]
                advance(len(block))

    def _attempt(self, block: Block, work: Callable[[Block], Result]) -> tuple[Result] | None:
        """The work's result, or None where memory ran out and less may be tried."""
        try:
            return (work(block),)
        except (RuntimeError, MemoryError) as error:
            if not self.adapts or len(block) <= 1 or not is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def check_batch_size(batch_size: BatchSize) -> None:
    """Refuses what is neither "auto" nor a positive whole number."""
    is_number = isinstance(batch_size, int) and not isinstance(batch_size, bool) and batch_size >= 1
    if batch_size != "auto" and not is_number:
        raise ValueError(f'`batch_size` must be "auto" or a positive whole number, got {batch_size!r}')


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return any(sign in text for sign in _SIGNS)


def join_blocks(parts: Sequence[tuple[Block, Tensor]], images: int, variants: int) -> Tensor:
    """Join the results (n, m, ...) of all blocks into one tensor (N, variants, ...)."""
    first = parts[0][1]
    whole = first.new_empty((images, variants, *first.shape[2:]))
    for block, part in parts:
        whole[block.place] = part
    return whole
