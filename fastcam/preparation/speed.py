"""How fast models are, side by side: seconds mean nothing on a shared machine, ratios of turns taken do."""

import statistics
import time
from collections.abc import Iterator

import torch
from torch import nn

from fastcam.model.batching import is_out_of_memory
from fastcam.model.inputs import Inputs

CLEARLY = 1.03  # times faster that is more than the noise of a measurement

_SIZES = (1, 2, 4, 8, 16, 32)  # numbers of images to try
_ROUNDS, _MOST_ROUNDS, _SHORT = 5, 30, 0.5  # more rounds as long as all take less than so many seconds


def gain(before: nn.Module, after: nn.Module, inputs: Inputs) -> float:
    """How many times faster a forward pass of the second model is."""
    return statistics.median(first / second for first, second in _rounds(before, after, inputs))


def fastest_size(model: nn.Module, inputs: Inputs) -> int:
    """The number of images at a time that takes a forward pass the least time an image; the smaller one of equals."""
    best, best_rate = 1, 0.0
    for size in _SIZES:
        copies = inputs.repeated(size)
        try:
            rate = size / min(_seconds(model, copies) for _ in range(3))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        if rate > best_rate * CLEARLY:
            best, best_rate = size, rate
        elif rate < best_rate / CLEARLY:
            break
    return best


def _rounds(before: nn.Module, after: nn.Module, inputs: Inputs) -> Iterator[tuple[float, float]]:
    """Seconds of both, in turns, after an untimed one."""
    for model in (before, after):
        _seconds(model, inputs)
    start, count = time.perf_counter(), 0
    while count < _ROUNDS or (count < _MOST_ROUNDS and time.perf_counter() - start < _SHORT):
        yield _seconds(before, inputs), _seconds(after, inputs)
        count += 1


def _seconds(model: nn.Module, inputs: Inputs) -> float:
    with torch.no_grad():
        start = time.perf_counter()
        model(*inputs.arguments)
        if inputs.images.is_cuda:
            torch.cuda.synchronize(inputs.images.device)
    return time.perf_counter() - start
