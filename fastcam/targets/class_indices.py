"""Class indices as users pass them: one for all images, one per image, K per image, or all classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from fastcam.devices import send, take_rows
from fastcam.model.elements import ModelOutput

Indices = int | np.integer[Any] | Sequence[int] | Sequence[Sequence[int]] | Tensor | np.ndarray[Any, Any]
Classes = Indices | Literal["all"]
Array = TypeVar("Array", Tensor, np.ndarray[Any, Any])


@dataclass(frozen=True)
class ClassIndices:
    """Class indices of every image, on the device of the output.

    Attributes:
        values: (N,) or (N, K) int64, all of them classes of the output.
        is_unknown: where an index that was passed is no class, and ``values`` holds another; None where indices were
            checked on the host. Those of a tensor on a GPU are not: the host would wait for them.
    """

    values: Tensor
    is_unknown: Tensor | None = None

    @property
    def shown(self) -> Tensor:
        """The indices (N,) or (N, K), -1 for those that are no class."""
        return self.values if self.is_unknown is None else self.values.masked_fill(self.is_unknown, -1)

    def static(self) -> "ClassIndices":
        """Return copies in tensors of their own, which can be written."""
        is_unknown = torch.zeros_like(self.values, dtype=torch.bool) if self.is_unknown is None else self.is_unknown
        return ClassIndices(self.values.clone(), is_unknown.clone())

    def write(self, other: "ClassIndices") -> None:
        """Copy the indices of another into the tensors of these."""
        self.values.copy_(other.values, non_blocking=True)
        if self.is_unknown is not None:
            self.is_unknown.zero_() if other.is_unknown is None else self.is_unknown.copy_(other.is_unknown)

    def take(self, rows: Tensor) -> "ClassIndices":
        """Return the indices of copies; ``rows`` (M,) int64 on the CPU holds the image of each."""
        is_unknown = None if self.is_unknown is None else take_rows(self.is_unknown, rows)
        return ClassIndices(take_rows(self.values, rows), is_unknown)

    def expand(self, count: int) -> "ClassIndices":
        """Return the indices of one image for that many."""

        def rows(values: Tensor) -> Tensor:
            return values.expand(count, *values.shape[1:])

        return ClassIndices(rows(self.values), None if self.is_unknown is None else rows(self.is_unknown))


def class_scores(output: ModelOutput, count: int) -> Tensor:
    """Return the output as (M, classes).

    Raises:
        TypeError, ValueError: if it has no such form.
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            "class indices need an output tensor of shape (N, classes), but the model returned a "
            f"{type(output).__name__}; choose its part with select=..., an index, a key or a function"
        )
    logits = output.unsqueeze(1) if output.dim() == 1 else output
    if logits.dim() != 2 or logits.shape[0] != count:
        raise ValueError(
            f"class indices need an output of shape (N, classes) with N = {count}, got {tuple(output.shape)}; "
            "pass a callable from the output to (N,) scores as target"
        )
    return logits


def class_indices(output: ModelOutput, classes: Classes | None, count: int) -> ClassIndices:
    """Return the class indices of N images for an output (N, classes); None takes the highest.

    Raises:
        TypeError, ValueError: for indices that do not fit.
    """
    logits = class_scores(output, count)
    total = logits.shape[1]
    if classes is None:
        return ClassIndices(logits.detach().argmax(1))
    if isinstance(classes, str):
        if classes != "all":
            raise ValueError(f'`target` must be a class index, a callable, None or "all", got {classes!r}')
        return ClassIndices(torch.arange(total, device=logits.device).expand(count, total))
    if isinstance(classes, Tensor) and classes.device == logits.device and classes.device.type != "cpu":
        return unread(_shaped(classes, count), total)
    given = _on_host(classes, count)
    indices = _shaped(given, count)
    if int(indices.min()) < 0 or int(indices.max()) >= total:
        raise ValueError(f"`target` must lie in [0, {total}), got {given.tolist()}")
    if _looks_one_hot(indices, total):
        raise ValueError(
            f"`target` looks like one-hot labels {indices.shape}: class indices are expected; pass target.argmax(1)"
        )
    if isinstance(classes, int):  # written on the device, without a copy
        return ClassIndices(torch.full((count,), classes, device=logits.device))
    # Copied, since the caller may change the array.
    return ClassIndices(send(torch.from_numpy(indices.astype(np.int64)), logits.device))


def unread(indices: Tensor, total: int) -> ClassIndices:
    """Return indices (N,) or (N, K) on a device, of that many classes, without reading them."""
    indices = indices.to(dtype=torch.int64, copy=True)  # it may be of inference mode, which autograd cannot save
    is_unknown = (indices < 0) | (indices >= total)
    if indices.ndim == 2:
        is_unknown = is_unknown | _looks_one_hot(indices, total)
    return ClassIndices(indices.clamp(0, total - 1), is_unknown)


def _on_host(classes: Indices, count: int) -> np.ndarray[Any, Any]:
    """Return indices as an array; of NumPy, whose calls take a tenth of PyTorch's time."""
    reason: Exception | None = None
    try:
        array = classes.detach().cpu().numpy() if isinstance(classes, Tensor) else np.asarray(classes)
        if array.dtype.kind in "biufc":
            return array
    except (TypeError, ValueError, RuntimeError) as error:
        reason = error
    raise TypeError(
        f"`target` must be a class index, {count} of them, {count} equally long lists of them, a callable or None, "
        f"got {classes!r}"
    ) from reason


def _shaped(indices: Array, count: int) -> Array:
    """Return whole numbers as (N,) or (N, K)."""
    dtype = str(indices.dtype).removeprefix("torch.")
    if not dtype.startswith(("int", "uint")):
        raise TypeError(f"`target` must hold whole numbers, got {dtype}")
    shape = tuple(indices.shape)
    if shape == ():
        return indices.reshape(1).repeat(count)
    if len(shape) > 2 or shape[0] != count or 0 in shape:
        raise ValueError(
            f"`target` must be one class index, {count} of them, or {count} lists of K for K targets per image, "
            f"got shape {shape}"
        )
    return indices


def _looks_one_hot(indices: Array, total: int) -> Any:
    """Whether these are labels (N, classes) of zeros and a one, which would be read as class numbers; a scalar."""
    if indices.ndim != 2 or indices.shape[1] != total or total < 3:
        return False
    return (indices.max() == 1) & (indices.sum(1) == 1).all()
