"""What a measure sees: the maps of one method for a batch of images, and all that is known about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from fastcam.devices import take_rows
from fastcam.evaluate.baselines import Baseline, baseline_images

TIE_SEED = 0


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of images, shared by the cases of all methods; R rows, one for every image and target.

    Attributes:
        images: (N, C, *S), the input of the model.
        rows: (R,) int64 on the CPU, the image of every row.
        scores: (R,) of the images, by what is scored: "probability", "explained".
        masks: (R, *S) bool, the objects; None without annotations.
        ignored: (R, *S) bool, positions that are neither object nor background; None if there are none.
        boxes: for every row (M, 4) of left, top, right, bottom, in pixels of the images, the end exclusive.
    """

    images: Tensor
    rows: Tensor
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Tensor | None = None
    ignored: Tensor | None = None
    boxes: Sequence[Tensor] | None = None
    _baselines: dict[Baseline, Tensor] = field(default_factory=dict)

    def images_of(self, rows: slice) -> Tensor:
        """Return the images (n, C, *S) of some rows."""
        return take_rows(self.images, self.rows[rows])

    def baseline_of(self, baseline: Baseline, rows: slice) -> Tensor:
        """Return the baseline images (n, C, *S) of some rows, made once for all measures and methods."""
        if baseline not in self._baselines:
            self._baselines[baseline] = baseline_images(self.images, baseline)
        return take_rows(self._baselines[baseline], self.rows[rows])


@dataclass(frozen=True, eq=False)
class Case:
    """The maps of one method.

    Attributes:
        batch: the images.
        maps: (R, *S), scaled to [0, 1], zeros where constant or not finite.
        raw: (R, *S), not scaled, zeros where not finite.
        is_valid: (R,) bool, where the map is finite. The values of others are NaN, whatever a rule returns.
        attributions: (R, C, *S) signed, for methods that say something of every input value; else None.
    """

    batch: Batch
    maps: Tensor
    raw: Tensor
    is_valid: Tensor
    attributions: Tensor | None = None

    @property
    def size(self) -> tuple[int, ...]:
        """The spatial size S."""
        return tuple(self.maps.shape[1:])

    @property
    def positions(self) -> int:
        """The number of positions, P."""
        return self.maps[0].numel()

    @property
    def is_constant(self) -> Tensor:
        """(R,) bool, where the map shows nothing."""
        return (self.maps == 0).flatten(1).all(1)

    @cached_property
    def ranks(self) -> Tensor:
        """(R, *S) int64: 0 for the highest position of the map, P - 1 for the lowest.

        Equal values follow each other in a random order, the same for every map, so that ties do not favour a corner.
        """
        generator = torch.Generator().manual_seed(TIE_SEED)
        shuffled = torch.randperm(self.positions, generator=generator).to(self.maps.device)
        order = shuffled[self.maps.flatten(1)[:, shuffled].argsort(dim=1, descending=True, stable=True)]
        ranks = torch.empty_like(order)
        ranks.scatter_(1, order, torch.arange(self.positions, device=order.device).expand_as(order))
        return ranks.reshape(self.maps.shape)

    @property
    def explained_values(self) -> Tensor:
        """The attributions (R, C, *S) where the method has them, else the maps (R, *S), not scaled."""
        return self.raw if self.attributions is None else self.attributions

    @cached_property
    def objects(self) -> Tensor:
        """(R, *S) bool, the positions of the objects that are not ignored."""
        masks = cast("Tensor", self.batch.masks)  # a measure that needs them is not called without
        return masks if self.batch.ignored is None else masks & ~self.batch.ignored

    @property
    def is_counted(self) -> Tensor:
        """(R, *S) bool, the positions that are not ignored."""
        return torch.ones_like(self.maps, dtype=torch.bool) if self.batch.ignored is None else ~self.batch.ignored

    @property
    def has_object(self) -> Tensor:
        """(R,) bool, where there is any position of an object."""
        return self.objects.flatten(1).any(1)
