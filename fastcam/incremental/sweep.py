"""The model's output for an image behind each of many windows, from what each window changes."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from fastcam import ops
from fastcam.incremental.buckets import buckets
from fastcam.incremental.plan import Known, Plan, plan
from fastcam.incremental.regions import Region
from fastcam.incremental.runner import Runner
from fastcam.incremental.tape import record
from fastcam.model.batching import is_out_of_memory


class NotIncrementalError(RuntimeError):
    """The model cannot be run from patches, and why."""


class Sweep:
    """The model's output for one image behind windows, from what each window changes.

    Args:
        run: the model's output for images (N, C, H, W).
        image: (1, C, H, W).
        start: what the windows hold, (1, C, H, W).
        caller: which module of the model is running, for those who want to know.

    Raises:
        NotIncrementalError: where the forward pass cannot be run again from its operations.
    """

    def __init__(
        self, run: Callable[[Tensor], Any], image: Tensor, start: Tensor, caller: Callable[[], str] = lambda: ""
    ) -> None:
        try:
            self.known = Known.of(record(run, image, caller))
        except Exception as error:  # an error of the model's own comes again from whole forward passes
            if is_out_of_memory(error):
                raise
            raise NotIncrementalError(str(error)) from error
        self.run, self.image, self.start = run, image, start

    def region(self, windows: Tensor) -> Region:
        """Where windows (M, 2, 2), start and size along both axes, are on the image."""
        places = windows.cpu().numpy()
        return Region.of(places[:, 0], places[:, 0] + places[:, 1], self.image.shape[2:])

    def plan(self, windows: Tensor) -> Plan:
        """How the windows (M, 2, 2) are to be done."""
        return plan(self.known, self.region(windows))

    def gain(self, windows: Tensor, of: Literal["multiplications", "work"] = "multiplications") -> float:
        """How many times less the windows (M, 2, 2) take than as many forward passes: what can be gained at most."""
        whole = self.known.multiplications if of == "multiplications" else self.known.work
        least = sum(self.plan(windows[some]).cost(whole) for some in self.buckets(windows))
        return len(windows) * sum(whole) / max(least, 1.0) if sum(whole) else 1.0

    def buckets(self, windows: Tensor) -> list[Tensor]:
        """The windows' numbers, those with patches of nearly the same sizes together."""
        return [torch.from_numpy(each) for each in buckets(self.known, self.region(windows))]

    def __call__(self, windows: Tensor) -> Tensor:
        """The output (M, ...) for the image behind each of the windows (M, 2, 2).

        Raises:
            NotIncrementalError: where an operation does not take several images.
        """
        made = self.plan(windows)
        runner = Runner(self.known, made, self._hidden(windows, made.start))
        with torch.no_grad():
            for place, step in enumerate(made.steps):
                try:
                    runner(place, step)
                except (RuntimeError, IndexError, KeyError, TypeError) as error:
                    if is_out_of_memory(error):
                        raise
                    name = step.operation.function
                    raise NotIncrementalError(f"{name} cannot be done for several images: {error}") from error
            return runner.whole(self.known.tape.output)

    def hidden_images(self, windows: Tensor) -> Tensor:
        """(M, C, H, W): the image behind each of the windows, whole."""
        return ops.occlude(self.image, windows.to(self.image.device), self.start.contiguous())[0]

    def _hidden(self, windows: Tensor, region: Region) -> Tensor:
        """(M, C, h, w): the windows' patches of the image; where a patch is larger than its window, the image."""
        pieces = []
        for begin, (low, high) in zip(region.origin, zip(region.low, region.high, strict=True), strict=True):
            there = [slice(at, at + length) for at, length in zip(begin, region.size, strict=True)]
            inner = [slice(a - at, b - at) for a, b, at in zip(low, high, begin, strict=True)]
            piece = self.image[0][:, there[0], there[1]].clone()
            piece[:, inner[0], inner[1]] = self.start[0][:, low[0] : high[0], low[1] : high[1]]
            pieces.append(piece)
        return torch.stack(pieces)
