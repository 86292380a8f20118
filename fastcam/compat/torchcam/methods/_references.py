"""The classes that Finer-CAM compares a class with."""

from typing import Any

from torch import Tensor


def checked_scores(scores: object) -> Tensor:
    """Return scores (N, K) of at least two classes.

    Raises:
        TypeError: for anything but a tensor.
        ValueError: for None and for other shapes.
    """
    if scores is None:
        raise ValueError("FinerCAM needs the model's output as `scores`")
    if not isinstance(scores, Tensor):
        raise TypeError(f"`scores` must be a tensor (N, K), got {type(scores).__name__}")
    if scores.dim() != 2 or len(scores) < 1 or scores.shape[1] < 2:
        raise ValueError(f"`scores` must have shape (N, K) with at least two classes, got {tuple(scores.shape)}")
    return scores


def classes_per_image(class_idx: int | list[int], images: int, class_count: int) -> list[int]:
    """Return a class for every image.

    Raises:
        TypeError: for anything but a whole number or a list of them.
        ValueError: for a list of another length, or a class that the model does not have.
    """
    classes = class_idx if isinstance(class_idx, list) else [class_idx] * images
    if len(classes) != images:
        raise ValueError(f"`class_idx` must hold one class for each of the {images} images, got {len(classes)}")
    _check_classes("class_idx", classes, class_count)
    return classes


def nearest_classes(scores: Tensor, own: Tensor, count: int) -> Tensor:
    """Return (N, T), the classes whose scores are nearest to that of ``own`` (N, 1), at most ``count``."""
    values = scores.detach()
    distance = (values - values.gather(1, own)).abs().scatter(1, own, float("inf"))
    return distance.topk(min(count, scores.shape[1] - 1), 1, largest=False).indices


def comparisons_per_image(
    comparison_idx: int | list[int] | list[list[int]], classes: list[int], class_count: int
) -> list[list[int]]:
    """Return the named classes of every image, without duplicates and without its own class.

    Raises:
        TypeError: for anything but a whole number, a list of them, or a list of such lists.
        ValueError: for empty lists, and lists or classes that do not fit.
    """
    values: list[Any] = comparison_idx if isinstance(comparison_idx, list) else [comparison_idx]
    is_nested = bool(values) and all(isinstance(row, list) for row in values)
    rows: list[list[int]] = values if is_nested else [values] * len(classes)
    if len(rows) != len(classes) or len({len(row) for row in rows}) != 1 or not rows[0]:
        raise ValueError(
            "`comparison_idx` must hold at least one class, or lists of equal length for each of the "
            f"{len(classes)} images, got {comparison_idx!r}"
        )
    for row, own in zip(rows, classes, strict=True):
        _check_classes("comparison_idx", row, class_count)
        if own in row or len(set(row)) != len(row):
            raise ValueError(f"`comparison_idx` must not name a class twice, nor the explained {own}, got {row}")
    return rows


def _check_classes(name: str, classes: list[int], class_count: int) -> None:
    if any(isinstance(index, bool) or not isinstance(index, int) for index in classes):
        raise TypeError(f"`{name}` must hold whole numbers, got {classes!r}")
    if any(not 0 <= index < class_count for index in classes):
        raise ValueError(f"`{name}` must lie in [0, {class_count}), got {classes!r}")
