"""The meaning of every tensor axis (images, rows, columns), followed through views and permutations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fastcam.incremental.regions import Pair

_MIXED = "*"  # label of an axis that mixes positions with channels: a patch has no such axis


@dataclass(frozen=True)
class Layout:
    """The meaning of a tensor's axes.

    Attributes:
        labels: one per axis: "n" for images, "h" and "w" for rows and columns, several of these where axes were merged,
            "c" for anything else, "*" where these are mixed.
        size: (height, width) of the map that the positions belong to.
    """

    labels: tuple[str, ...]
    size: Pair

    @property
    def has_positions(self) -> bool:
        """Whether a patch of the map is a patch of the tensor."""
        return sorted("".join(self.labels).replace("c", "")) == ["h", "n", "w"]

    @property
    def is_maps(self) -> bool:
        """Whether the tensor is (N, C, H, W)."""
        return self.labels == ("n", "c", "h", "w")

    def permute(self, order: Sequence[int]) -> "Layout":
        """Return the layout after a permutation of the axes."""
        return Layout(tuple(self.labels[axis] for axis in order), self.size)

    def view(self, shape: Sequence[int], new_shape: Sequence[int]) -> "Layout":
        """Return the layout after a view that changes the shape for one image to ``new_shape``."""
        labels: list[str] = []
        for source, target in _matching_axes(shape, new_shape):
            merged = "".join(self.labels[axis] for axis in source)
            labels += self._split_labels(merged, [new_shape[axis] for axis in target])
        return Layout(tuple(labels), self.size)

    def without_positions(self, axes: int) -> "Layout":
        """Return the layout of a result whose elements depend on several positions; images stay on the first axis."""
        first = "n" + _MIXED if "n" in self.labels[0] and self.labels[0] != "n" else "n"
        return Layout((first, *[_MIXED] * (axes - 1)), self.size)

    def shape(self, single_shape: Sequence[int], count: int, size: Pair | None) -> list[int]:
        """Return the shape for ``count`` images.

        Args:
            single_shape: the shape for whole maps of one image.
            count: of images.
            size: of their patches; None for whole maps.
        """
        lengths = {"n": count, "h": size[0], "w": size[1]} if size is not None else {}
        return [
            math.prod(lengths[letter] for letter in label)
            if lengths and set(label) <= set("nhw")
            else length * (count if "n" in label else 1)
            for label, length in zip(self.labels, single_shape, strict=True)
        ]

    def as_maps(self, tensor: Tensor, count: int, size: Pair) -> Tensor:
        """Rearrange a tensor of patches or whole maps of a size to (count, C, *size)."""
        parts = self._separate_axes(tensor.shape, count, size)
        order = self._order
        return tensor.reshape(parts).permute(order).reshape(count, -1, *size)

    def from_maps(self, maps: Tensor, single_shape: Sequence[int]) -> Tensor:
        """Invert :meth:`as_maps` for maps (count, C, *size); ``single_shape`` is the tensor's shape for one image."""
        count, size = maps.shape[0], (maps.shape[2], maps.shape[3])
        shape = self.shape(single_shape, count, size)
        parts, order = self._separate_axes(shape, count, size), self._order
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return maps.reshape([parts[axis] for axis in order]).permute(inverse).reshape(shape)

    @property
    def _order(self) -> list[int]:
        """The axes of images, everything else, rows and columns, after merged axes are separated."""
        letters = "".join(self.labels)
        others = [index for index, letter in enumerate(letters) if letter == "c"]
        return [letters.index("n"), *others, letters.index("h"), letters.index("w")]

    def _separate_axes(self, shape: Sequence[int], count: int, size: Pair) -> list[int]:
        """Return the shape with one axis per letter of the labels."""
        lengths = {"n": count, "h": size[0], "w": size[1]}
        return [
            lengths.get(letter, length) for label, length in zip(self.labels, shape, strict=True) for letter in label
        ]

    def _split_labels(self, merged: str, lengths: list[int]) -> list[str]:
        """Return the labels of new axes with these lengths, made of axes with the labels ``merged``."""
        if set(merged) <= {"c"}:
            return ["c"] * len(lengths)
        if set(merged) <= set("nhw"):
            labels = self._assign_labels(merged, lengths)
            if labels is not None:
                return labels
        rest = [_MIXED] * (len(lengths) - 1)
        return [("n" if "n" in merged else "") + _MIXED, *rest] if lengths else []

    def _assign_labels(self, merged: str, lengths: list[int]) -> list[str] | None:
        """Distribute letters over axes so that the lengths agree; None where they cannot."""
        sizes = {"n": 1, "h": self.size[0], "w": self.size[1]}
        labels, remaining = [], list(merged)
        for length in lengths:
            label, product = "", 1
            while remaining and (not label or product < length):
                product *= sizes[remaining[0]]
                label += remaining.pop(0)
            if product != length:
                return None
            labels.append(label or "c")
        return labels if not remaining else None


def _matching_axes(shape: Sequence[int], new_shape: Sequence[int]) -> list[tuple[range, range]]:
    """Split the axes of both shapes into the shortest runs that hold the same elements."""
    runs = []
    first = second = 0
    while first < len(shape) or second < len(new_shape):
        stops = [min(first + 1, len(shape)), min(second + 1, len(new_shape))]
        while (left := math.prod(shape[first : stops[0]])) != (right := math.prod(new_shape[second : stops[1]])):
            stops[0 if left < right else 1] += 1
        runs.append((range(first, stops[0]), range(second, stops[1])))
        first, second = stops
    return runs
