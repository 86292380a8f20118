"""What the channels of a layer do over many images: streaming, and mergeable."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastcam.inspect import sketch
from fastcam.inspect.moments import PlaneMoments

SAMPLED = 16  # positions of every plane that quantiles are made of; other positions for the next image


@dataclass
class ChannelStatistics:
    """The statistics of C channels over all positions of all images seen.

    Attributes:
        images: that were seen.
        count: values of each channel that were seen.
        mean: (C,) float64.
        squares: (C,) float64, sums of squared deviations from the mean.
        zeros: (C,) int64, numbers of zeros.
        maximum: (C,) float64.
        bins: (C, B) int32, counts of sampled values, see :mod:`fastcam.inspect.sketch`.
    """

    images: int = 0
    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    squares: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    zeros: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    maximum: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    bins: Tensor = field(default_factory=lambda: torch.zeros(0, sketch.BINS, dtype=torch.int32))

    @classmethod
    def of(cls, activations: Tensor, moments: PlaneMoments, first: int) -> "ChannelStatistics":
        """Return the statistics of one batch.

        Args:
            activations: (N, C, *S).
            moments: of its planes.
            first: number of its first image, which the sampled positions depend on.
        """
        images, count = len(activations), moments.count
        means, squares = moments.mean.double(), moments.squares.double()
        mean = means.mean(0)
        return cls(
            images,
            images * count,
            mean,
            squares.sum(0) + count * (means - mean).square().sum(0),
            moments.zeros.sum(0),
            moments.maximum.double().amax(0),
            sketch.count(_sampled(activations.flatten(2), first)),
        )

    def __add__(self, other: "ChannelStatistics") -> "ChannelStatistics":
        """Return the statistics of both parts together (Chan, Golub and LeVeque 1979).

        Raises:
            ValueError: for other numbers of channels.
        """
        if not self.images or not other.images:
            return self if self.images else other
        if len(self) != len(other):
            raise ValueError(f"statistics of {len(self)} and of {len(other)} channels are of different layers")
        count = self.count + other.count
        difference = other.mean - self.mean
        return ChannelStatistics(
            self.images + other.images,
            count,
            self.mean + difference * (other.count / count),
            self.squares + other.squares + difference.square() * (self.count * other.count / count),
            self.zeros + other.zeros,
            torch.maximum(self.maximum, other.maximum),
            self.bins + other.bins,
        )

    def __len__(self) -> int:
        """The number of channels C."""
        return len(self.mean)

    @property
    def deviation(self) -> Tensor:
        """(C,) standard deviations, of all values."""
        return (self.squares / self.count).sqrt()

    @property
    def zero_share(self) -> Tensor:
        """(C,) shares of zeros."""
        return self.zeros.double() / self.count

    @property
    def is_dead(self) -> Tensor:
        """(C,) bool, where every value of every image was zero: of ``images`` images, no proof for others."""
        return self.zeros == self.count

    def is_nearly_dead(self, share: float = 0.999) -> Tensor:
        """Return (C,) bool, where at least this share of the values was zero, but not all."""
        return (self.zero_share >= share) & ~self.is_dead

    def quantile(self, share: float) -> Tensor:
        """Return (C,) quantiles of sampled values, to 3.2 % of their size."""
        return sketch.quantile(self.bins, share)

    def over_channels(self) -> dict[str, float]:
        """Return mean, median, deviation and share of zeros of all channels together, and how many are dead."""
        mean = self.mean.mean()
        variance = (self.squares / self.count + (self.mean - mean).square()).mean()
        return {
            "mean": mean.item(),
            "median": sketch.quantile(self.bins.sum(0, keepdim=True), 0.5).item(),
            "deviation": variance.sqrt().item(),
            "zero_share": self.zero_share.mean().item(),
            "dead": int(self.is_dead.sum()),
            "nearly_dead": int(self.is_nearly_dead().sum()),
        }


def _sampled(planes: Tensor, first: int) -> Tensor:
    """Return some values (C, V) of planes (N, C, P), for every image at the next positions of one random order."""
    images, channels, positions = planes.shape
    if positions <= SAMPLED:
        return planes.transpose(0, 1).flatten(1)
    order = torch.randperm(positions, generator=torch.Generator().manual_seed(positions))
    steps = (torch.arange(first, first + images)[:, None] * SAMPLED + torch.arange(SAMPLED)) % positions
    places = order[steps].to(planes.device)[:, None].expand(-1, channels, -1)
    return planes.gather(2, places).transpose(0, 1).flatten(1)
