"""The interface of image sources, and the helpers that they share."""

import hashlib
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastcam.dataset.decode import Limits

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


@dataclass(frozen=True)
class Item:
    """One image of a dataset.

    Attributes:
        id: unique in the dataset, and the same in every run.
        path: location of the image.
        label: the dataset's own label, if any.
        read: returns the encoded bytes, or the sample of a PyTorch dataset; raises ValueError or OSError with the
            reason.
    """

    id: str
    path: str
    label: str | None
    read: Callable[[Limits], object]


class Source(Protocol):
    """Images in a fixed order, readable from any position."""

    def __len__(self) -> int:
        """Return the number of images."""

    def digest(self) -> str:
        """Return a digest that changes when images are added, removed or reordered."""

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yield the images from position ``start`` to ``stop``."""


def is_remote(source: Source) -> bool:
    """Whether to read an image of a source is to wait for a network."""
    return bool(getattr(source, "is_remote", False))  # sources of users need not know


def relative_names(paths: Sequence[str]) -> dict[str, str]:
    """Map each path to its name relative to the folder that all share."""
    common = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    return {path: posixpath.relpath(path, common or None) for path in paths}


def digest_lines(lines: Sequence[str]) -> str:
    """Return the SHA-256 of a list of lines."""
    return hashlib.sha256("\0".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def check_unique(ids: Sequence[str]) -> None:
    """Refuse duplicate image ids.

    Raises:
        ValueError: for a duplicate.
    """
    seen: set[str] = set()
    for image_id in ids:
        if image_id in seen:
            raise ValueError(f"image id {image_id!r} occurs twice in the source: ids must be unique")
        seen.add(image_id)
