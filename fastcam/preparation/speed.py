"""Compare the speed of models by interleaved timing; absolute times are unreliable on shared machines."""

import statistics
import time
from collections.abc import Iterator

import torch
from torch import nn

from fastcam.model.inputs import Inputs
from fastcam.model.out_of_memory import is_out_of_memory

NOISE_MARGIN = 1.03  # a speedup below this may be measurement noise

_BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_GPU_BATCH_SIZES = (*_BATCH_SIZES, 64, 128, 256, 512)
_MIN_ROUNDS, _MAX_ROUNDS = 5, 30
_MIN_SECONDS = 0.5  # beyond the minimum of rounds, until this time has passed


def gain(before: nn.Module, after: nn.Module, inputs: Inputs) -> float:
    """Return the median speedup of a forward pass of the second model over the first."""
    return statistics.median(
        seconds_before / seconds_after for seconds_before, seconds_after in _rounds(before, after, inputs)
    )


def fastest_batch_size(model: nn.Module, inputs: Inputs) -> int:
    """Return the batch size with the least time per image.

    Of equally fast ones the smallest on a processor, whose caches it suits, and the largest on a GPU, so that no batch
    is cut into parts that gain nothing.
    """
    best, best_rate = 1, 0.0
    is_gpu = inputs.images.is_cuda
    needed = 1 / NOISE_MARGIN if is_gpu else NOISE_MARGIN
    for size in _GPU_BATCH_SIZES if is_gpu else _BATCH_SIZES:
        copies = inputs.repeat_to(size)
        try:
            rate = size / min(_seconds(model, copies) for _ in range(3))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        if rate > best_rate * needed:
            best, best_rate = size, max(rate, best_rate)
        elif rate < best_rate / NOISE_MARGIN:
            break
    return best


def _rounds(before: nn.Module, after: nn.Module, inputs: Inputs) -> Iterator[tuple[float, float]]:
    """Yield the seconds of both models, called alternately, after an untimed call of each."""
    for model in (before, after):
        _seconds(model, inputs)
    start, count = time.perf_counter(), 0
    while count < _MIN_ROUNDS or (count < _MAX_ROUNDS and time.perf_counter() - start < _MIN_SECONDS):
        yield _seconds(before, inputs), _seconds(after, inputs)
        count += 1


def _seconds(model: nn.Module, inputs: Inputs) -> float:
    with torch.no_grad():
        start = time.perf_counter()
        model(*inputs.arguments)
        if inputs.images.is_cuda:
            torch.cuda.synchronize(inputs.images.device)
    return time.perf_counter() - start
