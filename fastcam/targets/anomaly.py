"""How far an image is from what is normal: scores of features, fitted on normal images."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor, nn

from fastcam.devices import send
from fastcam.model import capture, layers
from fastcam.model.elements import ModelOutput
from fastcam.targets.binding import Bound, Score, describe_value

Shrinkage = float | Literal["oas"]
_BLOCK = 4096  # features that are compared with the bank at a time


class _OfFeatures(Score):
    """A score of the model's output, or of a layer's, (N, D, ...)."""

    def __init__(self, size: int, layer: str | None) -> None:
        self.size, self.layer = size, layer

    def bind(self, output: ModelOutput, count: int) -> Bound:
        """Check that the output is such features."""
        if not isinstance(output, Tensor) or output.dim() < 2 or output.shape[:2] != (count, self.size):
            where = "the model" if self.layer is None else f"layer {self.layer!r}"
            raise ValueError(f"{where} must return features ({count}, {self.size}, ...), got {describe_value(output)}")
        return Bound(lambda out, rows: self.score(out))

    def score(self, features: Tensor) -> Tensor:
        """Return the scores (M,) of features (M, D, ...)."""
        raise NotImplementedError


class Distance(_OfFeatures):
    """Squared Mahalanobis distance of the features from a normal distribution, (f - mean)' precision (f - mean).

    It is minus twice the log density, but for a constant: the anomaly score of CutPaste (arXiv:2104.04015), and of many
    detectors of what a model has not been trained on. Of a map the features are the means over its positions.

    >>> normal = fastcam.targets.Distance.fit(model, batches_of_normal_images, layer="layer4")
    >>> fastcam.explain(model, images, "grad_cam", normal, "layer4")

    Args:
        mean: (D,).
        precision: (D, D), the inverse of the covariance.
        layer: whose output the features are; None for the model's.
    """

    def __init__(self, mean: Tensor, precision: Tensor, layer: str | None = None) -> None:
        if mean.dim() != 1 or precision.shape != (len(mean), len(mean)):
            raise ValueError(
                f"`mean` and `precision` must be (D,) and (D, D), got {tuple(mean.shape)} and {tuple(precision.shape)}"
            )
        super().__init__(len(mean), layer)
        self.mean, self.precision = mean, precision

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        batches: Iterable[Tensor],
        layer: str | None = None,
        shrinkage: Shrinkage = "oas",
        positions: bool = False,
    ) -> Self:
        """Return the distance from the features of normal images, read in one pass, summed in float64 on their device.

        Args:
            model: any module of images, in evaluation mode.
            batches: of normal images (N, C, *S).
            layer: as for the class.
            positions: whether to fit to the features of every position of a map, for :meth:`distances`, rather than to
                their means.
            shrinkage: share of the covariance that is replaced by its mean variance on every axis, which makes it
                invertible; "oas" is the best share for a normal distribution (Chen, Wiesel, Eldar and Hero 2010).

        Raises:
            ValueError: without images, or for a share outside [0, 1].
        """
        if shrinkage != "oas" and not 0 <= shrinkage <= 1:
            raise ValueError(f'`shrinkage` must be "oas" or lie in [0, 1], got {shrinkage!r}')
        seen = _Moments()
        vectors = _rows if positions else _pooled
        _each(model, batches, layer, lambda features: seen.add(vectors(features)))
        return cls(seen.mean, torch.linalg.inv(shrunk(seen.covariance, seen.count, shrinkage)), layer)

    def score(self, features: Tensor) -> Tensor:
        """Return the squared distances (M,)."""
        return self._distances(_pooled(features))

    def distances(self, features: Tensor) -> Tensor:
        """Return the squared distances (M, *s) of every position of features (M, D, *s): the density's own map."""
        return self._distances(_rows(features)).reshape(len(features), *features.shape[2:])

    def _distances(self, vectors: Tensor) -> Tensor:
        difference = vectors - send(self.mean, vectors.device).to(vectors.dtype)
        return ((difference @ send(self.precision, vectors.device).to(vectors.dtype)) * difference).sum(1)


class LogLikelihood(Distance):
    """Logarithm of the density of the features under a normal distribution: high for what is normal.

    -1/2 of the squared distance, of D log(2 pi), and of the logarithm of the covariance's determinant. The arguments
    are those of :class:`Distance`, ``fit`` too.
    """

    def score(self, features: Tensor) -> Tensor:
        """Return the logarithms (M,) of the density."""
        size = len(self.mean) * math.log(2 * math.pi)
        return -(super().score(features) + size - float(torch.logdet(self.precision.double()))) / 2


class NearestNeighbours(_OfFeatures):
    """Distance of the features from the nearest ones of normal images, as in PatchCore (arXiv:2106.08265).

    Of a map every position has features of its own; the score is that of the position farthest from all of them.
    :meth:`distances` has those of all positions: PatchCore's map.

    Args:
        bank: (M, D), features of normal images.
        k: the mean of the distances to so many nearest ones.
        layer: whose output the features are; None for the model's.
    """

    def __init__(self, bank: Tensor, k: int = 1, layer: str | None = None) -> None:
        if bank.dim() != 2:
            raise ValueError(f"`bank` must be (M, D), got {tuple(bank.shape)}")
        if not 1 <= k <= len(bank):
            raise ValueError(f"`k` must lie in [1, {len(bank)}], the size of the bank, got {k!r}")
        super().__init__(bank.shape[1], layer)
        self.bank, self.k = bank, k

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        batches: Iterable[Tensor],
        layer: str | None = None,
        k: int = 1,
        share: float = 0.1,
        seed: int = 0,
    ) -> Self:
        """Return the distance from the features of normal images, of which a representative share is kept.

        It is chosen greedily: the next one is that which is farthest from all that are kept already.

        Args:
            model: any module of images, in evaluation mode.
            batches: of normal images (N, C, *S).
            layer: as for the class.
            k: as for the class.
            share: of the features that are kept.
            seed: of the first one.

        Raises:
            ValueError: without images, or for a share outside (0, 1].
        """
        if not 0 < share <= 1:
            raise ValueError(f"`share` must lie in (0, 1], got {share!r}")
        kept: list[Tensor] = []
        _each(model, batches, layer, lambda features: kept.append(_rows(features)))
        features = torch.cat(kept)
        return cls(features[representatives(features, max(k, round(share * len(features))), seed)], k, layer)

    def distances(self, features: Tensor) -> Tensor:
        """Return the distances (M, *s) of features (M, D, *s)."""
        rows = _rows(features)
        bank = send(self.bank, rows.device).to(rows.dtype)
        nearest = [
            torch.cdist(part, bank).topk(self.k, dim=1, largest=False).values.mean(1) for part in rows.split(_BLOCK)
        ]
        return torch.cat(nearest).reshape(len(features), *features.shape[2:])

    def score(self, features: Tensor) -> Tensor:
        """Return the largest distances (M,)."""
        return self.distances(features).flatten(1).amax(1) if features.dim() > 2 else self.distances(features)


@dataclass
class _Moments:
    """Number, mean (D,) and covariance (D, D) of features, in float64, batch by batch."""

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    products: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))

    def add(self, features: Tensor) -> None:
        """Add features (N, D) (Chan, Golub and LeVeque 1979)."""
        values = features.double()
        mean, count = values.mean(0), len(values)
        products = (values - mean).T @ (values - mean)
        if not self.count:
            self.count, self.mean, self.products = count, mean, products
            return
        total, difference = self.count + count, mean - self.mean
        self.products = self.products + products + torch.outer(difference, difference) * (self.count * count / total)
        self.mean, self.count = self.mean + difference * (count / total), total

    @property
    def covariance(self) -> Tensor:
        """(D, D), divided by the number of features."""
        return self.products / self.count


def shrunk(covariance: Tensor, count: int, shrinkage: Shrinkage) -> Tensor:
    """Return a covariance (D, D) of so many vectors, moved towards its mean variance."""
    size = len(covariance)
    variance = covariance.trace() / size
    if shrinkage == "oas":
        squares, product = covariance.square().sum(), (variance * size) ** 2
        wanted = (1 - 2 / size) * squares + product
        spread = (count + 1 - 2 / size) * (squares - product / size)
        share = 1.0 if float(spread) <= 0 else min(1.0, float(wanted / spread))
    else:
        share = float(shrinkage)
    return (1 - share) * covariance + share * variance * torch.eye(size).to(covariance)


def representatives(features: Tensor, count: int, seed: int = 0) -> Tensor:
    """Return the places (count,) of features (M, D), each the farthest from all before it, the first one at random."""
    count = min(count, len(features))
    first = int(torch.randint(len(features), (1,), generator=torch.Generator().manual_seed(seed)))
    chosen = [first]
    nearest = (features - features[first]).norm(dim=1)
    for _ in range(count - 1):
        place = int(nearest.argmax())
        chosen.append(place)
        nearest = torch.minimum(nearest, (features - features[place]).norm(dim=1))
    return torch.tensor(chosen, device=features.device)


def _pooled(features: Tensor) -> Tensor:
    """Return features (M, D, *s) as (M, D)."""
    return features.flatten(2).mean(2) if features.dim() > 2 else features


def _rows(features: Tensor) -> Tensor:
    """Return features (M, D, *s) of all positions, (R, D)."""
    return features.flatten(2).transpose(1, 2).flatten(0, 1) if features.dim() > 2 else features


@torch.no_grad()
def _each(model: nn.Module, batches: Iterable[Tensor], layer: str | None, add: Callable[[Tensor], None]) -> None:
    """Hand the features of every batch on.

    Raises:
        ValueError: without any.
    """
    chosen = [] if layer is None else [layers.get_layer(model, layer)]
    is_empty = True
    for images in batches:
        seen = capture.forward(model, images[0] if isinstance(images, tuple | list) else images, chosen)
        features = seen.activations[0] if chosen else seen.output
        if not isinstance(features, Tensor) or features.dim() < 2:
            raise ValueError(f"features must be a tensor (N, D, ...), got {describe_value(features)}")
        add(features.detach())
        is_empty = False
    if is_empty:
        raise ValueError("there are no normal images to fit to")
