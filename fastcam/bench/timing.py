"""Interleaved timing: only ratios within one run are reliable, so every contestant runs in every round."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch

Call: TypeAlias = Callable[[], object]
Synchronize: TypeAlias = Callable[[], None]  # waits until the device has finished all work
Result = TypeVar("Result")


@dataclass(frozen=True)
class Timing:
    """Median and interquartile range of one contestant, in seconds."""

    median: float
    spread: float


@dataclass(frozen=True)
class Patience:
    """The number of samples of a contestant, by the duration of a call.

    Attributes:
        seconds: for all samples of one contestant.
        rounds: the most samples, at least 2.
        fewest: the fewest samples, at least 2; slow contestants then take longer than ``seconds``.
        once: contestants whose call takes longer than this many seconds are timed once.
    """

    seconds: float
    rounds: int
    fewest: int = 3
    once: float = math.inf

    @classmethod
    def of(cls, seconds: float) -> "Patience":
        """Return 2 to 50 samples within the seconds; contestants whose call takes longer are timed once."""
        return cls(seconds, 50, 2, seconds)

    def turns(self, seconds: float) -> int:
        """Return the number of samples of a contestant whose call took this many seconds."""
        if seconds > self.once:
            return 1
        return min(self.rounds, max(self.fewest, int(self.seconds / seconds)))


def interleave(
    calls: Mapping[str, Call],
    rounds: int | Mapping[str, int],
    min_sample_seconds: float = 0.0,
    finish: Synchronize = lambda: None,
    *,
    warm: bool = False,
) -> dict[str, Timing]:
    """Time every contestant once per round, after one untimed round.

    Args:
        calls: the contestants by name.
        rounds: the number of samples, at least 2, of all contestants or of each; fewer samples are spread evenly over
            the rounds.
        min_sample_seconds: a sample repeats its call to last about this long, and is the mean.
        finish: waits for an asynchronous device to finish the calls of a sample.
        warm: whether all contestants were called just before; then there is no untimed round.
    """
    repeats = {name: 1 if warm else _repeats(call, min_sample_seconds, finish) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    counts = dict.fromkeys(calls, rounds) if isinstance(rounds, int) else rounds
    total = max(counts.values(), default=0)
    for turn in range(total):
        for name, call in calls.items():
            if turn * counts[name] // total == (turn + 1) * counts[name] // total:
                continue
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            finish()
            samples[name].append((time.perf_counter() - start) / repeats[name])
    return {name: _summary(values) for name, values in samples.items()}


def time_call(call: Callable[[], Result], finish: Synchronize = lambda: None) -> tuple[float, Result]:
    """Return the seconds of one call, and its result."""
    start = time.perf_counter()
    result = call()
    finish()
    return time.perf_counter() - start, result


def synchronizer(device: torch.device) -> Synchronize:
    """Return the function that waits until the device has finished all work."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None


def _repeats(call: Call, min_sample_seconds: float, finish: Synchronize) -> int:
    call()
    finish()
    return max(1, round(min_sample_seconds / time_call(call, finish)[0])) if min_sample_seconds else 1


def _summary(samples: list[float]) -> Timing:
    low, _, high = statistics.quantiles(samples, n=4)
    return Timing(statistics.median(samples), high - low)
