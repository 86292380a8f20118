"""The model's output for images occluded by each of many windows, computed from the parts that a window changes."""

import copy
import functools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from fastcam import ops
from fastcam.devices import send
from fastcam.incremental.buckets import find_buckets
from fastcam.incremental.measured_costs import costs_of
from fastcam.incremental.plan import Plan, TraceAnalysis, make_plan
from fastcam.incremental.regions import Positions, Region
from fastcam.incremental.runner import NotIncrementalError, PlanRunner, clean_values, crop
from fastcam.incremental.tape import Slot, record
from fastcam.model.out_of_memory import is_out_of_memory

WHOLE_COPIES = 64  # whole images at a time, where whole passes are run


class Sweep:
    """The model's output for images behind windows, from the parts that each window changes.

    The forward pass of the first image is recorded; its operations are run again for all.

    Args:
        run: the model's output for images (N, C, H, W).
        images: (N, C, H, W).
        start: the content of the windows, (N, C, H, W).
        caller: returns the name of the running module, for the operations' ``module``.

    Raises:
        NotIncrementalError: if the forward pass cannot be run again from its operations.
    """

    def __init__(
        self,
        run: Callable[[Tensor], object],
        images: Tensor,
        start: Tensor,
        caller: Callable[[], str] = lambda: "",
    ) -> None:
        try:
            tape = record(run, images[:1], caller)
            self.analysis = TraceAnalysis.of(tape, costs_of(images))
        except Exception as error:  # the model's own errors occur again in whole forward passes
            if is_out_of_memory(error):
                raise
            raise NotIncrementalError(str(error)) from error
        self.run, self.images, self.start = run, images, start
        self._plans: dict[bytes, Plan] = {}
        if len(images) == 1:
            self.clean = {slot: tape.values[slot.number] for slot in self.analysis.read_slots}

    def of(self, images: Tensor, start: Tensor) -> "Sweep":
        """Return the sweep of other images of the size, with the operations and plans of this one."""
        other = copy.copy(self)
        other.images, other.start = images, start
        other.__dict__.pop("clean", None)
        return other

    @functools.cached_property
    def clean(self) -> dict[Slot, Tensor]:
        """What patches are put into, for the images without windows.

        Raises:
            NotIncrementalError: if an operation does not support several images.
        """
        return clean_values(self.analysis, self.images)

    @property
    def clean_output(self) -> Tensor:
        """The output (N, ...) for the images without windows."""
        return self.clean[self.analysis.tape.output]

    def region(self, windows: Tensor) -> Region:
        """Return the region of windows (M, 2, 2), start and size along both axes, on the image."""
        positions = windows.cpu().numpy()
        return Region.of(positions[:, 0], positions[:, 0] + positions[:, 1], self.images.shape[2:])

    def plan(self, windows: Tensor) -> Plan:
        """Plan the windows (M, 2, 2) as one group."""
        key = windows.cpu().numpy().tobytes()
        if key not in self._plans:
            self._plans[key] = make_plan(self.analysis, self.region(windows))
        return self._plans[key]

    def gain(self, windows: Tensor, of: Literal["multiplications", "work"] = "multiplications") -> float:
        """Return the cost of a forward pass per window (M, 2, 2), relative to that of patches: the maximum speed-up.

        With the work, also that of every group of windows, and of every batch of whole passes.
        """
        is_work, count = of == "work", len(windows)
        whole_costs = self.analysis.work if is_work else self.analysis.multiplications
        group_work, pass_work = (self.analysis.group_work, self.analysis.pass_work) if is_work else (0.0, 0.0)
        cost = sum(self.plan(windows[bucket]).cost(whole_costs) + group_work for bucket in self.buckets(windows))
        whole = count * sum(whole_costs) + math.ceil(count / WHOLE_COPIES) * pass_work
        return whole / max(cost, 1.0) if sum(whole_costs) else 1.0

    def buckets(self, windows: Tensor, images: int = 1) -> list[Tensor]:
        """Return the indices of the windows, in groups whose patches have similar sizes.

        Args:
            windows: (M, 2, 2).
            images: how many are swept together.
        """
        return [torch.from_numpy(indices) for indices in find_buckets(self.analysis, self.region(windows), images)]

    def __call__(self, windows: Tensor, images: range | None = None) -> Tensor:
        """Return the output (n * M, ...) for images behind each of the windows (M, 2, 2), image by image; None for all.

        Raises:
            NotIncrementalError: if an operation does not support several images.
        """
        chosen = range(len(self.images)) if images is None else images
        plan = self.plan(windows.repeat(len(chosen), 1, 1))
        rows = send(torch.arange(chosen.start, chosen.stop).repeat_interleave(len(windows)), self.images.device)
        runner = PlanRunner(self.analysis, plan, self._patches(rows, plan.start), self.clean, rows)
        runner.run()
        return runner.whole(self.analysis.tape.output)

    def hidden_images(self, windows: Tensor) -> Tensor:
        """Return the first image behind each of the windows, (M, C, H, W)."""
        return ops.occlude(self.images[:1], send(windows, self.images.device), self.start[:1].contiguous())[0]

    def _patches(self, rows: Tensor, region: Region) -> Tensor:
        """Return the windows' patches (M, C, h, w), with the image where a patch is larger than its window."""

        def is_inside(axis: int, low: Positions, high: Positions) -> Tensor:
            place = send(torch.from_numpy(region.origin[:, axis]), rows.device)[:, None]
            places = place + torch.arange(region.size[axis], device=rows.device)
            bounds = (send(torch.from_numpy(each[:, axis]), rows.device)[:, None] for each in (low, high))
            return (places >= next(bounds)) & (places < next(bounds))

        down, across = (is_inside(axis, region.low, region.high) for axis in (0, 1))
        is_window = (down[:, :, None] & across[:, None, :])[:, None]
        clean, covered = (crop(maps, rows, region.origin, region.size) for maps in (self.images, self.start))
        patches = torch.where(is_window, covered, clean, out=clean)
        return patches.contiguous()  # a first convolution of few channels is faster on planes
