"""The images that excite each channel most: streaming, and mergeable."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastcam.inspect.moments import PlaneMoments


@dataclass
class TopActivations:
    """The k images with the highest values of each of C channels, the highest first.

    Equal values are in the order of their places, then of the images. An image whose value and place are those of
    another one is taken for its copy, and left out.

    Attributes:
        k: images of a channel, at most.
        values: (C, k) float64, -inf where there are fewer images.
        images: (C, k) int64, numbers of the images; -1 where there are fewer.
        places: (C, k) int64, positions of the maxima in the flattened map.
        size: *S, of the map.
    """

    k: int
    values: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    images: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))
    places: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))
    size: tuple[int, ...] = ()

    @classmethod
    def of(cls, k: int, moments: PlaneMoments, size: tuple[int, ...], first: int) -> "TopActivations":
        """Return those of one batch.

        Args:
            k: images of a channel.
            moments: of its planes.
            size: of these.
            first: number of its first image.
        """
        images, channels = moments.maximum.shape
        if k == 0:
            return cls(0)
        numbers = torch.arange(first, first + images, device=moments.place.device).expand(channels, -1)
        return _highest(k, moments.maximum.double().T, numbers, moments.place.T, size)

    def __add__(self, other: "TopActivations") -> "TopActivations":
        """Return those of both parts together.

        Raises:
            ValueError: for another number of channels, or maps of another size.
        """
        if not self.size or not other.size:
            return self if self.size else other
        if self.size != other.size or len(self) != len(other):
            raise ValueError(
                f"the highest values of {len(self)} maps of {self.size} and {len(other)} of {other.size} do not compare"
            )
        values, images, places = (
            torch.cat([getattr(self, name), getattr(other, name)], 1) for name in ("values", "images", "places")
        )
        return _highest(self.k, values, images, places, self.size)

    def __len__(self) -> int:
        """The number of channels C."""
        return len(self.values)

    def position(self, channel: int, rank: int) -> tuple[int, ...]:
        """Return the position of a maximum, along every axis of the map."""
        place, position = int(self.places[channel, rank]), []
        for length in reversed(self.size):
            place, index = divmod(place, length)
            position.append(index)
        return tuple(reversed(position))


def _highest(k: int, values: Tensor, images: Tensor, places: Tensor, size: tuple[int, ...]) -> TopActivations:
    """Return the highest of values (C, V) without copies."""
    values = values.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    values, images, places = _sorted(values, images, places)
    is_copy = (values[:, 1:] == values[:, :-1]) & (places[:, 1:] == places[:, :-1])
    is_left = torch.nn.functional.pad(is_copy, (1, 0)) | (values == -torch.inf)
    values, images = values.masked_fill(is_left, -torch.inf), images.masked_fill(is_left, -1)
    values, order = values.sort(dim=1, descending=True, stable=True)
    kept = order[:, :k]
    return TopActivations(k, values[:, :k], images.gather(1, kept), places.gather(1, kept), size)


def _sorted(values: Tensor, images: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return all sorted by value, the highest first, equal ones by place and then by image."""
    order = images.argsort(dim=1, stable=True)
    order = order.gather(1, places.gather(1, order).argsort(dim=1, stable=True))
    order = order.gather(1, values.gather(1, order).argsort(dim=1, descending=True, stable=True))
    return values.gather(1, order), images.gather(1, order), places.gather(1, order)
