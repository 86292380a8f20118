"""Copies without, or of, the highest positions of a map, and the scores that they are compared with."""

from torch import Tensor

from fastcam.evaluate.baselines import Baseline
from fastcam.evaluate.case import Case
from fastcam.evaluate.copies import Copy, Emptied, Replaced


def clean_scores(case: Case) -> Tensor:
    """Return the scores (R, 1) of the images."""
    return case.batch.scores["probability"][:, None]


def check_count(name: str, count: object, most: int | None = None) -> None:
    """Raise for what is no number of things, of which there are at most so many.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(count, int) or count < 1 or (most is not None and count > most):
        limit = "" if most is None else f" of at most {most}"
        raise ValueError(f"`{name}` must be a positive whole number{limit}, got {count!r}")


def without_first(case: Case, count: int, baseline: Baseline) -> Copy:
    """Return the image whose highest positions are the baseline."""
    return Emptied(baseline) if count == case.positions else Replaced(0, count, baseline)


def only_first(case: Case, count: int, baseline: Baseline) -> Copy:
    """Return the baseline with the highest positions of the image."""
    return Emptied(baseline) if count == 0 else Replaced(count, case.positions, baseline)
