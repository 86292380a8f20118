"""Does the steps of a plan, with as little memory as their values need."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam import ops
from fastcam.incremental.convolving import convolved
from fastcam.incremental.operations import VIEWS
from fastcam.incremental.plan import Known, Plan, Step
from fastcam.incremental.regions import Places, Region, Sliding
from fastcam.incremental.separable import Separable
from fastcam.incremental.tape import Operation, Slot, filled
from fastcam.ops.reference import accumulation_dtype

_SIZED = VIEWS - {"permute", "transpose", "t"}


class Runner:
    """The values of the slots, patches or whole maps, as the steps make them.

    Args:
        known: of the clean pass.
        made: what is to be done.
        patches: the start's, (M, C, h, w).
    """

    def __init__(self, known: Known, made: Plan, patches: Tensor) -> None:
        self.known, self.made, self.device = known, made, patches.device
        self.count = len(made.start)
        self.values = {Slot(0): patches}
        self.place = 0
        self.images = torch.zeros(self.count, dtype=torch.int64, device=self.device)

    def __call__(self, place: int, step: Step) -> None:
        """Does a step, and forgets what nothing reads any more."""
        self.place = place
        found = self._done(step)
        tensors = [found] if isinstance(found, Tensor) else [each for each in found if isinstance(each, Tensor)]
        self.values.update(zip(step.operation.returned, tensors, strict=False))
        for slot in {*step.operation.read, *step.operation.returned}:
            if self.known.last.get(slot, place) <= place and slot != self.known.tape.output:
                self.values.pop(slot, None)

    def whole(self, slot: Slot) -> Tensor:
        """A slot's whole maps, for M images."""
        state = self.made.states[slot]
        if not isinstance(state, Region):
            return self.values[slot]
        layout = self.known.layouts[slot]
        maps = self._gathered(slot, np.zeros((self.count, 2), dtype=np.int64), layout.size)
        return maps if layout.is_maps else layout.from_maps(maps, self.known.shape(slot))

    def _done(self, step: Step) -> Any:
        nature = step.nature
        if nature is None:
            return self._whole(step.operation)
        if isinstance(nature, Sliding | Separable):
            return self._moved(step, nature)
        kinds = {"pointwise": self._pointwise, "viewed": self._viewed, "merged": self._merged, "pooled": self._pooled}
        return kinds[nature](step)

    def _whole(self, operation: Operation) -> Any:
        if operation.name in _SIZED and len(operation.read) == 1:
            return self.whole(operation.read[0]).reshape(self._shape(operation.returned[0], None))
        arguments = list(filled(operation.arguments, self.whole))
        if operation.name == "expand":
            arguments[1] = self._shape(operation.returned[0], None)
        if operation.name == "native_group_norm":
            arguments[3] = self.count
        if operation.name == "convolution":
            return convolved(arguments[0], arguments, arguments[4])
        return self._applied(operation, arguments, filled(operation.keywords, self.whole))

    def _applied(self, operation: Operation, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """The operation's result, in the place of its first argument where nothing else needs that."""
        written = self.known.in_place.get(self.place)
        shapes = [each.shape for each in arguments if isinstance(each, Tensor)]
        if written is not None and torch.broadcast_shapes(*shapes) == shapes[0]:
            return written(*arguments, **keywords)
        return operation.function(*arguments, **keywords)

    def _viewed(self, step: Step) -> Any:
        operation = step.operation
        if operation.name not in _SIZED:
            return self._pointwise(step)
        return self._value(operation.read[0]).reshape(self._shape(operation.returned[0], step.region))

    def _pointwise(self, step: Step) -> Any:
        operation = step.operation
        if operation.name == "_adaptive_avg_pool2d":  # to the size it has
            return self._value(operation.read[0])
        return self._applied(
            operation, filled(operation.arguments, self._value), filled(operation.keywords, self._value)
        )

    def _merged(self, step: Step) -> Any:
        region = step.region
        assert region is not None

        def aligned(slot: Slot) -> Tensor:
            layout = self.known.layouts[slot]
            if self._region(slot).is_at(region):
                return self.values[slot]
            maps = self._gathered(slot, region.origin, region.size)
            return maps if layout.is_maps else layout.from_maps(maps, self.known.shape(slot))

        operation = step.operation
        return self._applied(operation, filled(operation.arguments, aligned), filled(operation.keywords, aligned))

    def _pooled(self, step: Step) -> Tensor:
        """The clean mean and the patches' change."""
        (slot,) = step.operation.read
        clean, region = self.known.tape.values[slot.number], self._region(slot)
        sums = [
            each.sum((2, 3), keepdim=True, dtype=accumulation_dtype(each.dtype))
            for each in (self.values[slot], clean, self._clean_patches(slot, region))
        ]
        mean = (sums[1] + (sums[0] - sums[2])) / (clean.shape[2] * clean.shape[3])
        return mean.to(clean.dtype).reshape(self._shape(step.operation.returned[0], None))

    def _moved(self, step: Step, nature: Sliding | Separable) -> Any:
        operation, region = step.operation, step.region
        assert region is not None
        begins, size = nature.read(region)
        (slot,) = set(operation.read)
        fill = -torch.inf if operation.name == "max_pool2d_with_indices" else 0.0
        read = self._gathered(slot, begins, size, fill)
        if isinstance(nature, Separable):
            return nature(read, begins, region)
        given = operation.arguments
        if operation.name == "convolution":
            return convolved(read, given, [0, 0])
        if operation.name == "max_pool2d_with_indices":
            return F.max_pool2d(read, nature.kernel, nature.stride, 0, nature.dilation)
        total = F.avg_pool2d(read, nature.kernel, nature.stride, divisor_override=1)
        return total / self._cut(_divisors(operation, self.known.tape.values[slot.number]), region)

    def _value(self, slot: Slot) -> Tensor:
        return self.values[slot]

    def _region(self, slot: Slot) -> Region:
        region = self.made.states[slot]
        assert isinstance(region, Region)
        return region

    def _shape(self, slot: Slot, region: Region | None) -> list[int]:
        size = region.size if region is not None else None
        return self.known.layouts[slot].shape(self.known.shape(slot), self.count, size)

    def _gathered(self, slot: Slot, begins: Places, size: tuple[int, int], fill: float = 0.0) -> Tensor:
        """(M, C, *size): windows of a slot's maps with its patches in them."""
        region, layout = self._region(slot), self.known.layouts[slot]
        patches, clean = self.values[slot], self.known.tape.values[slot.number]
        if not layout.is_maps:
            patches, clean = layout.as_maps(patches, self.count, region.size), layout.as_maps(clean, 1, layout.size)
        if size == region.size and (begins == region.origin).all():
            return patches
        origins, windows = (torch.from_numpy(each).to(self.device) for each in (region.origin, begins))
        return ops.gather_patches(clean, self.images, patches.to(clean.dtype), origins, windows, size, fill)

    def _clean_patches(self, slot: Slot, region: Region) -> Tensor:
        return self._cut(self.known.tape.values[slot.number], region)

    def _cut(self, maps: Tensor, region: Region) -> Tensor:
        """(M, C, h, w): what maps (1, C, H, W) hold where the patches are."""
        outside = torch.tensor(maps.shape[2:], device=self.device).expand(self.count, 2)
        nothing = maps[:, :, :1, :1].expand(self.count, -1, -1, -1)
        windows = torch.from_numpy(region.origin).to(self.device)
        return ops.gather_patches(maps, self.images, nothing, outside, windows, region.size)


def _divisors(operation: Operation, clean: Tensor) -> Tensor:
    """(1, 1, H, W): what an average pooling divides its sums by, place by place."""
    ones = torch.ones_like(clean[:, :1])
    _, kernel, *rest = operation.arguments
    options = dict(zip(("stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"), rest, strict=False))
    means = F.avg_pool2d(ones, kernel, **options)
    sums = F.avg_pool2d(ones, kernel, **options | {"divisor_override": 1})
    return sums / means
