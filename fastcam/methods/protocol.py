"""What a rule that tries the model may ask of it."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from torch import Tensor

Result = TypeVar("Result")


class Block(Protocol):
    """Some variants of some images: what is computed at once."""

    images: range
    variants: range

    @property
    def place(self) -> tuple[slice, slice]:
        """Where the block's results belong in (N, variants, ...)."""


class BiasGradient(Protocol):
    """The bias (C,) of one layer, and the gradient (N, C, *S) of one score with respect to the layer's output."""

    layer: str
    bias: Tensor
    gradient: Tensor


FullGradients = Callable[[Callable[[int, Any], None]], Tensor]
"""Runs one backward pass per target and shows (number of the target, :class:`BiasGradient`) of every bias on the way.

It returns the gradients with respect to the images, (N, [K,] C, *S).
"""


class Scorer(Protocol):
    """Scores and gradients of any copies of the images, for the targets found on the images as they are."""

    scores: Tensor  # (N, [K])

    @property
    def images(self) -> Tensor:
        """(N, C, *S)."""

    def each(
        self, variants: int, work: Callable[[Any], Result], images: range | None = None
    ) -> Iterator[tuple[Block, Result]]:
        """Does the work for that many variants of every image, or of some, in blocks that fit in memory."""

    def score(self, copies: Tensor, block: Any) -> Tensor:
        """(n, m, [K]): scores of a block's copies (n, m, C, *S)."""

    def scores_of(self, variants: int, make: Callable[[Any], Tensor]) -> Tensor:
        """(N, [K,] variants): scores of all the copies that ``make`` gives for blocks."""

    def predictions(self, copies: Tensor, block: Any) -> dict[str, Tensor]:
        """Scores (n, m, [K]) of a block's copies and, of a classifier, top classes (n, m) and probabilities."""

    def occluded_predictions(
        self, windows: Tensor, start: Tensor, engine: Any, images: range
    ) -> list[tuple[Any, dict[str, Tensor]]] | None:
        """Predictions for the images behind every window (M, 2, axes); None where copies are to be made."""

    def gradients(self, copies: Tensor, block: Any, *kinds: str) -> tuple[Tensor, dict[str, Tensor]]:
        """Scores (n, m, [K]) and gradients (n, m, [K,] C, *S), by kind, of a block's copies."""

    def for_copies(self, copies: Tensor, block: Any, scores: Tensor) -> "Scorer":
        """The same targets for a block's copies in the place of the images."""
