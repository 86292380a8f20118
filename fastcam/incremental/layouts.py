"""Which axes of a tensor are the images, the rows and the columns, through views and permutations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fastcam.incremental.regions import Pair

_MIXED = "*"  # in the label of an axis that mixes places with channels: a patch has no such axis


@dataclass(frozen=True)
class Layout:
    """What the axes of a tensor stand for.

    Attributes:
        labels: of every axis: "n" for images, "h" and "w" for places, several of these where axes were merged, "c" for
            anything else, "*" where these are mixed.
        size: (height, width) of the map that the places belong to.
    """

    labels: tuple[str, ...]
    size: Pair

    @property
    def has_places(self) -> bool:
        """Whether a patch of the map is a patch of the tensor."""
        return sorted("".join(self.labels).replace("c", "")) == ["h", "n", "w"]

    @property
    def is_maps(self) -> bool:
        """Whether the tensor is (N, C, H, W)."""
        return self.labels == ("n", "c", "h", "w")

    def permuted(self, order: Sequence[int]) -> "Layout":
        """Behind a permutation of the axes."""
        return Layout(tuple(self.labels[each] for each in order), self.size)

    def viewed(self, shape: Sequence[int], after: Sequence[int]) -> "Layout":
        """Behind a view of a tensor of one image and some shape as another shape."""
        labels: list[str] = []
        for source, target in _groups(shape, after):
            merged = "".join(self.labels[each] for each in source)
            labels += self._split(merged, [after[each] for each in target])
        return Layout(tuple(labels), self.size)

    def without_places(self, axes: int) -> "Layout":
        """Of a tensor whose elements depend on several places; the images stay on the first axis."""
        first = "n" + _MIXED if "n" in self.labels[0] and self.labels[0] != "n" else "n"
        return Layout((first, *[_MIXED] * (axes - 1)), self.size)

    def shape(self, clean: Sequence[int], count: int, size: Pair | None) -> list[int]:
        """Of patches of a size for so many images, of whole maps for None; ``clean`` is the shape for one image."""
        lengths = {"n": count, "h": size[0], "w": size[1]} if size is not None else {}
        return [
            math.prod(lengths[each] for each in label)
            if lengths and set(label) <= set("nhw")
            else length * (count if "n" in label else 1)
            for label, length in zip(self.labels, clean, strict=True)
        ]

    def as_maps(self, tensor: Tensor, count: int, size: Pair) -> Tensor:
        """A tensor of patches or whole maps of a size as (count, C, *size)."""
        parts = self._parts(tensor.shape, count, size)
        order = self._order
        return tensor.reshape(parts).permute(order).reshape(count, -1, *size)

    def from_maps(self, maps: Tensor, clean: Sequence[int]) -> Tensor:
        """The tensor that :meth:`as_maps` makes (count, C, *size) from; ``clean`` is its shape for one image."""
        count, size = maps.shape[0], (maps.shape[2], maps.shape[3])
        shape = self.shape(clean, count, size)
        parts, order = self._parts(shape, count, size), self._order
        back = sorted(range(len(order)), key=order.__getitem__)
        return maps.reshape([parts[each] for each in order]).permute(back).reshape(shape)

    @property
    def _order(self) -> list[int]:
        """Where the images, everything else, the rows and the columns are, once merged axes are taken apart."""
        letters = "".join(self.labels)
        others = [index for index, each in enumerate(letters) if each == "c"]
        return [letters.index("n"), *others, letters.index("h"), letters.index("w")]

    def _parts(self, shape: Sequence[int], count: int, size: Pair) -> list[int]:
        lengths = {"n": count, "h": size[0], "w": size[1]}
        return [lengths.get(each, length) for label, length in zip(self.labels, shape, strict=True) for each in label]

    def _split(self, merged: str, lengths: list[int]) -> list[str]:
        """The labels of the axes that axes with these labels become together."""
        if set(merged) <= {"c"}:
            return ["c"] * len(lengths)
        if set(merged) <= set("nhw"):
            found = self._dealt(merged, lengths)
            if found is not None:
                return found
        rest = [_MIXED] * (len(lengths) - 1)
        return [("n" if "n" in merged else "") + _MIXED, *rest] if lengths else []

    def _dealt(self, merged: str, lengths: list[int]) -> list[str] | None:
        sizes = {"n": 1, "h": self.size[0], "w": self.size[1]}
        found, left = [], list(merged)
        for length in lengths:
            label, product = "", 1
            while left and (not label or product < length):
                product *= sizes[left[0]]
                label += left.pop(0)
            if product != length:
                return None
            found.append(label or "c")
        return found if not left else None


def _groups(shape: Sequence[int], after: Sequence[int]) -> list[tuple[range, range]]:
    """Axes of both shapes that hold the same elements, each as few as can be."""
    found = []
    first = second = 0
    while first < len(shape) or second < len(after):
        stops = [min(first + 1, len(shape)), min(second + 1, len(after))]
        while (left := math.prod(shape[first : stops[0]])) != (right := math.prod(after[second : stops[1]])):
            stops[0 if left < right else 1] += 1
        found.append((range(first, stops[0]), range(second, stops[1])))
        first, second = stops
    return found
