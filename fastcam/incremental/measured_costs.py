"""Costs measured on the device at hand."""

import functools
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam.devices import uses_tf32
from fastcam.incremental.costs import PROCESSOR, Costs
from fastcam.incremental.plan import TraceAnalysis, make_plan
from fastcam.incremental.regions import Region
from fastcam.incremental.runner import PlanRunner, clean_values
from fastcam.incremental.tape import record

ROUNDS = 5  # of each measurement, of which the median counts
CALLS = 16  # small operations, one behind the other
SIDE, CHANNELS = 16, 8  # of small maps


def costs_of(image: Tensor) -> Costs:
    """Return the costs on an image's device, for its dtype: measured once in a process, but for processors."""
    if image.device.type == "cpu":
        return PROCESSOR
    return _measured(image.device, image.dtype, uses_tf32(image.device))


@functools.cache
def _measured(device: torch.device, dtype: torch.dtype, tf32: bool) -> Costs:
    return measure(device, dtype)


@torch.no_grad()
def measure(device: torch.device, dtype: torch.dtype) -> Costs:
    """Measure the costs, in some milliseconds; no random numbers are drawn."""
    ones = functools.partial(torch.ones, device=device, dtype=dtype)
    large, weights = ones(32, 128, 28, 28), ones(128, 128, 3, 3)
    small, small_weights = ones(1, CHANNELS, SIDE, SIDE), ones(CHANNELS, CHANNELS, 3, 3)

    def convolutions(images: Tensor) -> Tensor:
        for _ in range(CALLS):
            images = F.conv2d(images, small_weights, padding=1)
        return images

    call = _seconds(lambda: convolutions(small), device) / CALLS
    step = _seconds(_small_sweep(convolutions, small), device) / CALLS
    convolution = _seconds(lambda: F.conv2d(large, weights, padding=1), device)
    writing = _seconds(lambda: torch.neg(large), device)
    multiplication = max(convolution - call, convolution / 2) / (large.numel() * weights[0].numel())
    element = max(writing - call, writing / 10) / large.numel() / multiplication
    return Costs(call / multiplication, step / multiplication, element, element)


def _small_sweep(run: Callable[[Tensor], Tensor], image: Tensor) -> Callable[[], Tensor]:
    """Return a function that runs operations on the patches of two windows of one position."""
    analysis = TraceAnalysis.of(record(run, image), PROCESSOR)
    low = np.array([[0, 0], [SIDE - 1, SIDE - 1]])
    plan = make_plan(analysis, Region.of(low, low + 1, (SIDE, SIDE)), max_share=np.inf)

    clean, rows = clean_values(analysis, image), torch.zeros(len(low), dtype=torch.int64, device=image.device)

    def sweep() -> Tensor:
        runner = PlanRunner(analysis, plan, image.new_zeros((len(low), CHANNELS, *plan.start.size)), clean, rows)
        runner.run()
        return runner.whole(analysis.tape.output)

    return sweep


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the median time of some work on a device, from the call to the end of it there."""
    times = []
    for _ in range(1 + ROUNDS):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
