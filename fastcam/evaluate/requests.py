"""What a measure asks for: scores, or explanations, of copies of the images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from torch import Tensor

if TYPE_CHECKING:
    from fastcam.evaluate.copies import Copy
    from fastcam.explanation import Explanation


ScoreKind: TypeAlias = Literal["probability", "explained", "predicted"]


@dataclass(frozen=True)
class Scores:
    """The scores (R, V) of V copies for each of the R maps.

    Attributes:
        copies: V of them.
        kind: of the scores; None takes that of the measure.
    """

    copies: "Sequence[Copy]"
    kind: ScoreKind | None = None


class Explained(NamedTuple):
    """The explanations of copies: maps (M, *S) that are not scaled, and attributions (M, C, *S) if there are any."""

    raw: Tensor
    attributions: Tensor | None

    @classmethod
    def of(cls, explanation: "Explanation") -> "Explained":
        """Return what measures read of an explanation."""
        attributions = explanation.attributions
        return cls(explanation.raw.detach(), None if attributions is None else attributions.detach())

    @property
    def values(self) -> Tensor:
        """The attributions where the method has them, else the maps."""
        return self.raw if self.attributions is None else self.attributions


@dataclass(frozen=True)
class Explanations:
    """The explanations of V copies for each of the R maps, of the same class, each reduced to a number: (R, V).

    Attributes:
        copies: V of them.
        reduce: from the explanations of a copy of some rows (n, ...) and the place of these among all rows, to (n,).
    """

    copies: "Sequence[Copy]"
    reduce: Callable[[Explained, slice], Tensor]


Request: TypeAlias = Scores | Explanations
