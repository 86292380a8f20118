"""The model's output for one image occluded by each of many windows, computed from the parts that a window changes."""

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
from fastcam.incremental.regions import Region
from fastcam.incremental.runner import PlanRunner
from fastcam.incremental.tape import record
from fastcam.model.batching import is_out_of_memory

WHOLE_COPIES = 64  # whole images at a time, where whole passes are run


class NotIncrementalError(RuntimeError):
    """The model cannot run from patches; the message is the reason."""


class Sweep:
    """The model's output for one image behind windows, from the parts that each window changes.

    Args:
        run: the model's output for images (N, C, H, W).
        image: (1, C, H, W).
        start: the content of the windows, (1, C, H, W).
        caller: returns the name of the running module, for the operations' ``module``.
        like: of another image of the size, whose plans hold for this one too if the model does the same with it.

    Raises:
        NotIncrementalError: if the forward pass cannot be run again from its operations.
    """

    def __init__(
        self,
        run: Callable[[Tensor], object],
        image: Tensor,
        start: Tensor,
        caller: Callable[[], str] = lambda: "",
        like: "Sweep | None" = None,
    ) -> None:
        try:
            self.analysis = TraceAnalysis.of(record(run, image, caller), costs_of(image))
        except Exception as error:  # the model's own errors occur again in whole forward passes
            if is_out_of_memory(error):
                raise
            raise NotIncrementalError(str(error)) from error
        self.run, self.image, self.start = run, image, start
        is_alike = like is not None and self.analysis.has_geometry_of(like.analysis)
        self._plans: dict[bytes, Plan] = like._plans if like is not None and is_alike else {}

    def region(self, windows: Tensor) -> Region:
        """Return the region of windows (M, 2, 2), start and size along both axes, on the image."""
        positions = windows.cpu().numpy()
        return Region.of(positions[:, 0], positions[:, 0] + positions[:, 1], self.image.shape[2:])

    def plan(self, windows: Tensor) -> Plan:
        """Plan the windows (M, 2, 2) as one group."""
        key = windows.cpu().numpy().tobytes()
        if key not in self._plans:
            self._plans[key] = make_plan(self.analysis, self.region(windows))
        return self._plans[key].of_operations(self.analysis.operations)

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

    def buckets(self, windows: Tensor) -> list[Tensor]:
        """Return the indices of the windows, in groups whose patches have similar sizes."""
        return [torch.from_numpy(indices) for indices in find_buckets(self.analysis, self.region(windows))]

    def __call__(self, windows: Tensor) -> Tensor:
        """Return the output (M, ...) for the image behind each of the windows (M, 2, 2).

        Raises:
            NotIncrementalError: if an operation does not support several images.
        """
        plan = self.plan(windows)
        runner = PlanRunner(self.analysis, plan, self._patches(windows, plan.start))
        with torch.no_grad():
            for index, step in enumerate(plan.steps):
                try:
                    runner(index, step)
                except (RuntimeError, IndexError, KeyError, TypeError) as error:
                    if is_out_of_memory(error):
                        raise
                    name = step.operation.function
                    raise NotIncrementalError(f"{name} does not support several images: {error}") from error
            return runner.whole(self.analysis.tape.output)

    def hidden_images(self, windows: Tensor) -> Tensor:
        """Return the whole image behind each of the windows, (M, C, H, W)."""
        return ops.occlude(self.image, send(windows, self.image.device), self.start.contiguous())[0]

    def _patches(self, windows: Tensor, region: Region) -> Tensor:
        """Return the windows' patches (M, C, h, w), with the image where a patch is larger than its window."""
        patches = []
        for origin, low, high in zip(region.origin, region.low, region.high, strict=True):
            rows, columns = (slice(first, first + length) for first, length in zip(origin, region.size, strict=True))
            patch = self.image[0][:, rows, columns].clone()
            (top, left), (bottom, right) = low - origin, high - origin
            patch[:, top:bottom, left:right] = self.start[0][:, low[0] : high[0], low[1] : high[1]]
            patches.append(patch)
        return torch.stack(patches)
