"""Samples of PyTorch datasets."""

import functools
from collections.abc import Iterator
from typing import Protocol

from fastcam.dataset.decode import Limits
from fastcam.dataset.sources.base import Item, digest_lines


class SizedDataset(Protocol):
    """A map-style PyTorch dataset with a length."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int, /) -> object:
        """Return one sample."""


class TorchDatasetSource:
    """A PyTorch dataset; each sample is an image or starts with (image, label)."""

    def __init__(self, dataset: SizedDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.dataset)

    def digest(self) -> str:
        """Return a digest of the dataset's type and length: its samples are not loaded for it."""
        return digest_lines([type(self.dataset).__name__, str(len(self))])

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yield the samples from position ``start`` to ``stop``."""
        for index in range(start, stop):
            yield Item(str(index), str(index), None, functools.partial(self._read_sample, index))

    def _read_sample(self, index: int, limits: Limits) -> object:
        return self.dataset[index]
