"""The interface through which rules run the model."""

from collections.abc import Callable, Iterator
from typing import Literal, Protocol, TypeVar

from torch import Tensor

Result = TypeVar("Result")


class Block(Protocol):
    """A block of work computed at once: some variants of some images."""

    images: range
    variants: range

    @property
    def place(self) -> tuple[slice, slice]:
        """The slices of the block's results in (N, variants, ...)."""


class BiasGradient(Protocol):
    """The bias (C,) of one layer, and the gradient (N, C, *S) of one score with respect to the layer's output."""

    layer: str
    bias: Tensor
    gradient: Tensor


FullGradients = Callable[[Callable[[int, BiasGradient], None]], Tensor]
"""Runs one backward pass per target and calls the visitor with the target's number and every :class:`BiasGradient`.

Returns the gradients with respect to the images, (N, [K,] C, *S).
"""


class Scorer(Protocol):
    """Scores and gradients of modified copies of the images, for the targets bound on the original images."""

    scores: Tensor  # (N, [K])

    @property
    def images(self) -> Tensor:
        """The images (N, C, *S)."""

    def each(
        self, variants: int, work: Callable[[Block], Result], images: range | None = None
    ) -> Iterator[tuple[Block, Result]]:
        """Call ``work`` for that many variants of every image, or of a range, in blocks that fit in memory."""

    def score(self, copies: Tensor, block: Block) -> Tensor:
        """Return the scores (n, m, [K]) of a block's copies (n, m, C, *S)."""

    def masked(self, maps: Tensor, block: Block) -> Tensor:
        """Return a block's images (n, m, C, *S) under its maps (n, m, *s) of a layer, resized and scaled to [0, 1]."""

    def scores_of(self, variants: int, make: Callable[[Block], Tensor]) -> Tensor:
        """Return the scores (N, [K,] variants) of the copies that ``make`` returns for every block."""

    def predictions(self, copies: Tensor, block: Block) -> dict[str, Tensor]:
        """Return scores (n, m, [K]) of a block's copies and, for classifiers, top classes (n, m) and probabilities."""

    def occluded_predictions(
        self, windows: Tensor, start: Tensor, engine: Literal["auto", "incremental", "dense"], images: range | None
    ) -> list[tuple[Block, dict[str, Tensor]]] | None:
        """Return predictions for the images occluded by each window (M, 2, axes); None if copies must be made."""

    def gradients(self, copies: Tensor, block: Block, *kinds: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Return scores (n, m, [K]) and gradients (n, m, [K,] C, *S), by kind, of a block's copies."""

    def for_copies(self, copies: Tensor, block: Block, scores: Tensor) -> "Scorer":
        """Return a scorer for a block's copies in place of the images, with the same targets."""
