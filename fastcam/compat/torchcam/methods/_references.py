"""Which classes Finer-CAM compares a class with."""

from typing import Any

from torch import Tensor


def checked_scores(scores: Any) -> Tensor:
    """Scores (N, K) of at least two classes.

    Raises:
        TypeError: for what is not a tensor.
        ValueError: for None and for other shapes.
    """
    if scores is None:
        raise ValueError("FinerCAM needs the model's output as `scores`")
    if not isinstance(scores, Tensor):
        raise TypeError(f"`scores` must be a tensor (N, K), got {type(scores).__name__}")
    if scores.dim() != 2 or len(scores) < 1 or scores.shape[1] < 2:
        raise ValueError(f"`scores` must have shape (N, K) with at least two classes, got {tuple(scores.shape)}")
    return scores


def classes_of(class_idx: Any, images: int, known: int) -> list[int]:
    """A class for every image.

    Raises:
        TypeError: for what is neither a whole number nor a list of them.
        ValueError: for a list of another length, or a class that the model does not have.
    """
    chosen = class_idx if isinstance(class_idx, list) else [class_idx] * images
    if len(chosen) != images:
        raise ValueError(f"`class_idx` must hold one class for each of the {images} images, got {len(chosen)}")
    _check_classes("class_idx", chosen, known)
    return chosen


def nearest(scores: Tensor, own: Tensor, count: int) -> Tensor:
    """(N, T): the classes whose scores are nearest to that of ``own`` (N, 1), at most ``count``."""
    known = scores.detach()
    distance = (known - known.gather(1, own)).abs().scatter(1, own, float("inf"))
    return distance.topk(min(count, scores.shape[1] - 1), 1, largest=False).indices


def rows_of(comparison_idx: Any, classes: list[int], known: int) -> list[list[int]]:
    """The named classes of every image, none twice and none its own.

    Raises:
        TypeError: for what is neither a whole number, a list of them, nor a list of such lists.
        ValueError: for lists that are empty or do not fit, and classes that do not.
    """
    given = comparison_idx if isinstance(comparison_idx, list) else [comparison_idx]
    nested = bool(given) and all(isinstance(row, list) for row in given)
    rows = given if nested else [given] * len(classes)
    if len(rows) != len(classes) or len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError(
            "`comparison_idx` must hold at least one class, and where it holds a list for each of the "
            f"{len(classes)} images, equally many, got {comparison_idx!r}"
        )
    for row, own in zip(rows, classes, strict=True):
        _check_classes("comparison_idx", row, known)
        if own in row or len(set(row)) != len(row):
            raise ValueError(f"`comparison_idx` must not name a class twice, nor the explained {own}, got {row}")
    return rows


def _check_classes(name: str, classes: list[Any], known: int) -> None:
    if any(isinstance(each, bool) or not isinstance(each, int) for each in classes):
        raise TypeError(f"`{name}` must hold whole numbers, got {classes!r}")
    if any(not 0 <= each < known for each in classes):
        raise ValueError(f"`{name}` must lie in [0, {known}), got {classes!r}")
