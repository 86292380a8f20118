"""Copies of the images, as values: equal copies are made and scored once, whatever measures ask for them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastcam import ops
from fastcam.devices import send
from fastcam.evaluate.baselines import Baseline
from fastcam.evaluate.case import Case
from fastcam.methods.baselines import normal_noise


@dataclass(frozen=True)
class Copy:
    """A changed copy of every image.

    Attributes:
        depends_on_map: False for one that is the same for the maps of all methods.
    """

    depends_on_map: ClassVar[bool] = True

    def make(self, case: Case, rows: slice) -> Tensor:
        """Return the copies (n, C, *S) of some rows."""
        raise NotImplementedError


@dataclass(frozen=True)
class Emptied(Copy):
    """The baseline alone."""

    depends_on_map: ClassVar[bool] = False
    baseline: Baseline

    def make(self, case: Case, rows: slice) -> Tensor:
        """Return the baseline images."""
        return case.batch.baseline_of(self.baseline, rows)


@dataclass(frozen=True)
class Replaced(Copy):
    """The images with the baseline at the positions whose ranks, the highest first, are in [start, stop)."""

    start: int
    stop: int
    baseline: Baseline

    def make(self, case: Case, rows: slice) -> Tensor:
        """Return the images with some positions replaced."""
        replaced = _in_range(case.ranks[rows], self.start, self.stop).unsqueeze(1)
        return torch.where(replaced, case.batch.baseline_of(self.baseline, rows), case.batch.images_of(rows))


@dataclass(frozen=True)
class Imputed(Copy):
    """The images with the positions of ranks [start, stop) guessed from their neighbours, plus normal noise."""

    start: int
    stop: int
    noise: float
    seed: int

    def make(self, case: Case, rows: slice) -> Tensor:
        """Return the images with some positions guessed."""
        images = case.batch.images_of(rows)
        missing = _in_range(case.ranks[rows], self.start, self.stop)
        if images.dim() != 4:
            raise ValueError(f"ROAD guesses the pixels of images (N, C, H, W), got {tuple(images.shape)}")
        guessed = ops.impute_neighbours(images, missing)
        return torch.where(missing.unsqueeze(1), guessed + self.noise * normal_noise(images, self.seed), images)


@dataclass(frozen=True)
class Weighted(Copy):
    """The images faded to the baseline where the map is low: baseline + map * (image - baseline)."""

    baseline: Baseline

    def make(self, case: Case, rows: slice) -> Tensor:
        """Return the faded images."""
        images, baseline = case.batch.images_of(rows), case.batch.baseline_of(self.baseline, rows)
        return baseline + case.maps[rows].unsqueeze(1).to(images.dtype) * (images - baseline)


@dataclass(frozen=True)
class Region(Copy):
    """The images with the baseline in a random region, the same for every image.

    Attributes:
        regions: where the regions come from.
        index: of the region.
        baseline: in it.
    """

    depends_on_map: ClassVar[bool] = False
    regions: "RandomRegions"
    index: int
    baseline: Baseline

    def make(self, case: Case, rows: slice) -> Tensor:
        """Return the images without the region."""
        region = send(self.regions.mask(self.index, case.size), case.maps.device)
        return torch.where(region, case.batch.baseline_of(self.baseline, rows), case.batch.images_of(rows))


@dataclass(frozen=True)
class RandomRegions:
    """Random regions of any images, drawn anew for every index and nothing else.

    Attributes:
        share: of the positions that a region has; for a window, of every side.
        is_window: one window of random place, else cells of a grid.
        grid: cells along every axis; 0 for single positions.
        seed: of all regions.
    """

    share: float
    is_window: bool
    grid: int
    seed: int

    def mask(self, index: int, size: tuple[int, ...]) -> Tensor:
        """Return a region (*S) bool, on the CPU."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        if self.is_window:
            return self._window(size, generator)
        cells = size if self.grid == 0 else tuple(min(self.grid, length) for length in size)
        count = max(1, round(self.share * torch.Size(cells).numel()))
        chosen = torch.zeros(torch.Size(cells).numel(), dtype=torch.bool)
        chosen[torch.randperm(chosen.numel(), generator=generator)[:count]] = True
        mask = chosen.reshape(cells)
        for axis, (length, count) in enumerate(zip(size, cells, strict=True)):
            mask = mask.index_select(axis, torch.arange(length) * count // length)
        return mask

    def _window(self, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
        mask = torch.zeros(size, dtype=torch.bool)
        place = []
        for length in size:
            side = max(1, round(self.share * length))
            start = int(torch.randint(length - side + 1, (), generator=generator))
            place.append(slice(start, start + side))
        mask[tuple(place)] = True
        return mask


@dataclass(frozen=True)
class Noisy(Copy):
    """The images plus uniform noise in [-radius, radius], in units of the input, the same for every image."""

    depends_on_map: ClassVar[bool] = False
    radius: float
    index: int
    seed: int

    def make(self, case: Case, rows: slice) -> Tensor:
        """Return the noisy images."""
        images = case.batch.images_of(rows)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.index)
        noise = torch.rand(images.shape[1:], generator=generator) * 2 - 1
        return images + self.radius * send(noise, images.device).to(images.dtype)


def _in_range(ranks: Tensor, start: int, stop: int) -> Tensor:
    return (ranks >= start) & (ranks < stop)
