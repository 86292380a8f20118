"""Execution of a plan, freeing every value after its last use."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam import ops
from fastcam.devices import send
from fastcam.incremental.operations import RESHAPES
from fastcam.incremental.packed_convolution import convolve
from fastcam.incremental.plan import Plan, PlanStep, TraceAnalysis
from fastcam.incremental.regions import Pair, Positions, Region, Sliding
from fastcam.incremental.separable import Separable
from fastcam.incremental.tape import Argument, Operation, Slot, fill_slots
from fastcam.model.out_of_memory import is_out_of_memory
from fastcam.ops.numerics import accumulation_dtype

Result = Tensor | Sequence[Tensor]


class NotIncrementalError(RuntimeError):
    """The model cannot run from patches; the message is the reason."""


class PlanRunner:
    """Runs the steps of a plan and holds the values of the slots, patches or whole maps.

    Args:
        analysis: of a forward pass.
        plan: the steps to run.
        patches: of the images, (M, C, h, w).
        clean: of the N images without windows, the values that patches are put into; see :func:`clean_values`.
        rows: (M,) int64, the image of every patch.
        kept: the slots whose values stay; None for the output alone.
    """

    def __init__(
        self,
        analysis: TraceAnalysis,
        plan: Plan,
        patches: Tensor,
        clean: Mapping[Slot, Tensor],
        rows: Tensor,
        kept: frozenset[Slot] | None = None,
    ) -> None:
        self.analysis, self.plan, self.device = analysis, plan, patches.device
        self.clean, self.rows = clean, rows
        self.count = len(patches)
        self.values = {Slot(0): patches}
        self.kept = frozenset([analysis.tape.output]) if kept is None else kept
        self.index = 0

    def run(self) -> None:
        """Run all steps.

        Raises:
            NotIncrementalError: if an operation does not support several images.
        """
        with torch.no_grad():
            for index, step in enumerate(self.plan.steps):
                try:
                    self(index, step)
                except (RuntimeError, IndexError, KeyError, TypeError) as error:
                    if is_out_of_memory(error):
                        raise
                    name = step.operation.function
                    raise NotIncrementalError(f"{name} does not support several images: {error}") from error

    def __call__(self, index: int, step: PlanStep) -> None:
        """Run a step, then free the values that no later step reads."""
        self.index = index
        result = self._run(step)
        tensors = [result] if isinstance(result, Tensor) else [value for value in result if isinstance(value, Tensor)]
        self.values.update(zip(step.operation.outputs, tensors, strict=False))
        for slot in {*step.operation.inputs, *step.operation.outputs}:
            if self.analysis.last_reads.get(slot, index) <= index and slot not in self.kept:
                self.values.pop(slot, None)

    def whole(self, slot: Slot) -> Tensor:
        """Return a slot's whole maps, for M images."""
        state = self.plan.states[slot]
        if not isinstance(state, Region):
            return self.values[slot]
        return self._gather(slot, np.zeros((self.count, 2), dtype=np.int64), self.analysis.layouts[slot].size)

    def _run(self, step: PlanStep) -> Result:
        locality = step.locality
        if locality is None:
            return self._run_whole(step.operation)
        if isinstance(locality, Sliding | Separable):
            return self._run_neighbourhood(step, locality)
        methods = {
            "pointwise": self._run_pointwise,
            "view": self._run_view,
            "elementwise_join": self._run_join,
            "global_mean": self._run_global_mean,
        }
        return methods[locality](step)

    def _run_whole(self, operation: Operation) -> Result:
        """Run an operation on whole maps, with arguments that depend on the batch size adapted."""
        if operation.name in RESHAPES and len(operation.inputs) == 1:
            return self.whole(operation.inputs[0]).reshape(self._shape(operation.outputs[0], None))
        arguments = list(fill_slots(operation.arguments, self.whole))
        if operation.name == "expand":
            arguments[1] = self._shape(operation.outputs[0], None)
        if operation.name == "native_group_norm":
            arguments[3] = self.count
        if operation.name == "convolution":
            return convolve(arguments[0], arguments, arguments[4])
        return self._apply(operation, arguments, fill_slots(operation.keywords, self.whole))

    def _apply(self, operation: Operation, arguments: Sequence[Argument], keywords: dict[str, Argument]) -> Result:
        """Apply an operation to arguments, in place where nothing else needs the first one."""
        in_place = self.analysis.in_place.get(self.index)
        if in_place is not None and operation.arguments[0] in self.kept:
            in_place = None
        shapes = [argument.shape for argument in arguments if isinstance(argument, Tensor)]
        if in_place is not None and torch.broadcast_shapes(*shapes) == shapes[0]:
            return in_place(*arguments, **keywords)
        return operation.function(*arguments, **keywords)

    def _run_view(self, step: PlanStep) -> Result:
        operation = step.operation
        if operation.name not in RESHAPES:
            return self._run_pointwise(step)
        return self._value(operation.inputs[0]).reshape(self._shape(operation.outputs[0], step.region))

    def _run_pointwise(self, step: PlanStep) -> Result:
        operation = step.operation
        if operation.name == "_adaptive_avg_pool2d":  # pointwise only where it keeps the size: an identity
            return self._value(operation.inputs[0])
        return self._apply(
            operation, fill_slots(operation.arguments, self._value), fill_slots(operation.keywords, self._value)
        )

    def _run_join(self, step: PlanStep) -> Result:
        """Run an elementwise operation, with all inputs cut to the region of the output."""
        region = step.region
        assert region is not None

        def align(slot: Slot) -> Tensor:
            if self._region(slot).has_same_patches(region):
                return self.values[slot]
            return self._gather(slot, region.origin, region.size)

        operation = step.operation
        return self._apply(operation, fill_slots(operation.arguments, align), fill_slots(operation.keywords, align))

    def _run_global_mean(self, step: PlanStep) -> Tensor:
        """Add the patches' change to the clean mean."""
        (slot,) = step.operation.inputs
        clean, patches, region = self.clean[slot], self.values[slot], self._region(slot)
        clean_patches = crop(clean, self.rows, region.origin, region.size)
        patch_sum, clean_sum, clean_patch_sum = (
            maps.sum((2, 3), keepdim=True, dtype=accumulation_dtype(maps.dtype))
            for maps in (patches, clean, clean_patches)
        )
        mean = (clean_sum[self.rows] + (patch_sum - clean_patch_sum)) / (clean.shape[2] * clean.shape[3])
        return mean.to(clean.dtype).reshape(self._shape(step.operation.outputs[0], None))

    def _run_neighbourhood(self, step: PlanStep, locality: Sliding | Separable) -> Tensor:
        """Run a convolution, pooling or separable operation on the input windows that the output's patches read."""
        operation, region = step.operation, step.region
        assert region is not None
        origins, size = locality.input_windows(region)
        (slot,) = set(operation.inputs)
        fill = -torch.inf if operation.name == "max_pool2d_with_indices" else 0.0
        windows = self._gather_maps(slot, origins, size, fill)
        if isinstance(locality, Separable):
            return locality(windows, origins, region)
        if operation.name == "convolution":
            return convolve(windows, operation.arguments, [0, 0])
        if operation.name == "max_pool2d_with_indices":
            return F.max_pool2d(windows, locality.kernel, locality.stride, 0, locality.dilation)
        sums = F.avg_pool2d(windows, locality.kernel, locality.stride, divisor_override=1)
        divisors = _pooling_divisors(operation, self.clean[slot])
        return sums / crop(divisors, torch.zeros_like(self.rows), region.origin, region.size)

    def _value(self, slot: Slot) -> Tensor:
        return self.values[slot]

    def _region(self, slot: Slot) -> Region:
        region = self.plan.states[slot]
        assert isinstance(region, Region)
        return region

    def _shape(self, slot: Slot, region: Region | None) -> list[int]:
        """Return the shape of a slot for M images: of patches, or of whole maps where the region is None."""
        size = region.size if region is not None else None
        return self.analysis.layouts[slot].shape(self.analysis.shape(slot), self.count, size)

    def _gather(self, slot: Slot, origins: Positions, size: Pair) -> Tensor:
        """Return windows of a slot like :meth:`_gather_maps`, in the slot's own layout."""
        layout = self.analysis.layouts[slot]
        maps = self._gather_maps(slot, origins, size)
        return maps if layout.is_maps else layout.from_maps(maps, self.analysis.shape(slot))

    def _gather_maps(self, slot: Slot, origins: Positions, size: Pair, fill: float = 0.0) -> Tensor:
        """Return windows (M, C, *size) of a slot's clean maps with its patches pasted in; ``fill`` outside the maps."""
        region, layout = self._region(slot), self.analysis.layouts[slot]
        patches, clean = self.values[slot], self.clean[slot]
        if not layout.is_maps:
            images = len(self.clean[Slot(0)])
            patches, clean = (
                layout.as_maps(patches, self.count, region.size),
                layout.as_maps(clean, images, layout.size),
            )
        if size == region.size and (origins == region.origin).all():
            return patches
        patch_origins, window_origins = (
            send(torch.from_numpy(positions), self.device) for positions in (region.origin, origins)
        )
        return ops.gather_patches(clean, self.rows, patches.to(clean.dtype), patch_origins, window_origins, size, fill)


def clean_values(analysis: TraceAnalysis, images: Tensor) -> dict[Slot, Tensor]:
    """Return the values of whole images (N, C, H, W) that patches are put into, and the output.

    Raises:
        NotIncrementalError: if an operation does not support several images.
    """
    steps = [PlanStep(operation, None, None, 1.0) for operation in analysis.operations]
    nowhere = np.zeros((len(images), 2), dtype=np.int64)
    plan = Plan(Region.of(nowhere, nowhere, images.shape[2:]), steps, dict.fromkeys(analysis.layouts, "whole"))
    rows = torch.arange(len(images), device=images.device)
    runner = PlanRunner(analysis, plan, images, {}, rows, kept=analysis.read_slots)
    runner.run()
    return runner.values


def crop(maps: Tensor, rows: Tensor, origins: Positions, size: Pair) -> Tensor:
    """Return windows (M, C, *size) of maps (N, C, H, W); ``rows`` (M,) int64 holds the map of each, on their device."""
    outside = torch.tensor(maps.shape[2:], device=maps.device).expand(len(rows), 2)
    nothing = maps[:1, :, :1, :1].expand(len(rows), -1, -1, -1)
    return ops.gather_patches(maps, rows, nothing, outside, send(torch.from_numpy(origins), maps.device), size)


def _pooling_divisors(operation: Operation, clean: Tensor) -> Tensor:
    """Return the divisors (1, 1, H, W) of an average pooling at every output position."""
    ones = torch.ones_like(clean[:1, :1])
    _, kernel, *rest = operation.arguments
    options = dict(zip(("stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"), rest, strict=False))
    means = F.avg_pool2d(ones, kernel, **options)
    sums = F.avg_pool2d(ones, kernel, **options | {"divisor_override": 1})
    return sums / means
