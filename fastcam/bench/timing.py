"""Interleaved timing: only ratios within one run count, so every contestant runs in every round."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Calls = Mapping[str, Callable[[], Any]]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Timing:
    """Median and interquartile range of one contestant, in seconds."""

    median: float
    spread: float


@dataclass(frozen=True)
class Patience:
    """How many samples a contestant gets, by how long one takes.

    Attributes:
        seconds: for all samples of one contestant.
        rounds: at most so many samples, at least 2.
        fewest: at least so many samples, at least 2; for the slow ones they take longer than ``seconds``.
        once: seconds of a call from which the one that was checked is the only sample.
    """

    seconds: float
    rounds: int
    fewest: int = 3
    once: float = math.inf

    @classmethod
    def of(cls, seconds: float) -> "Patience":
        """As many samples as fit into the seconds, 50 at most; what takes longer than that is timed once."""
        return cls(seconds, 50, 2, seconds)

    def turns(self, took: float) -> int:
        """The samples of a contestant whose call took so many seconds."""
        if took > self.once:
            return 1
        return min(self.rounds, max(self.fewest, int(self.seconds / took)))


def interleave(
    calls: Calls,
    rounds: int | Mapping[str, int],
    at_least: float = 0.0,
    finish: Callable[[], Any] = lambda: None,
    *,
    warm: bool = False,
) -> dict[str, Timing]:
    """Times every contestant once a round, after one untimed round.

    Args:
        calls: what to call, by name.
        rounds: how many samples each gets, at least 2; where that differs, those of the slow ones are spread evenly
            over the rounds.
        at_least: seconds; a sample repeats its call until it lasts about so long, and counts the mean.
        finish: waits for what the calls of a sample have started, on a device that does not wait by itself.
        warm: whether all were called just before; then there is no untimed round.
    """
    repeats = {name: 1 if warm else _repeats(call, at_least, finish) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    wanted = dict.fromkeys(calls, rounds) if isinstance(rounds, int) else rounds
    total = max(wanted.values(), default=0)
    for turn in range(total):
        for name, call in calls.items():
            if turn * wanted[name] // total == (turn + 1) * wanted[name] // total:
                continue
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            finish()
            samples[name].append((time.perf_counter() - start) / repeats[name])
    return {name: _summary(values) for name, values in samples.items()}


def timed(call: Callable[[], Result], finish: Callable[[], Any] = lambda: None) -> tuple[float, Result]:
    """The seconds of one call, and what it returned."""
    start = time.perf_counter()
    found = call()
    finish()
    return time.perf_counter() - start, found


def waiting(device: torch.device) -> Callable[[], Any]:
    """What waits until the device has done all that was asked of it."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None


def _repeats(call: Callable[[], Any], at_least: float, finish: Callable[[], Any]) -> int:
    call()
    finish()
    return max(1, round(at_least / timed(call, finish)[0])) if at_least else 1


def _summary(samples: list[float]) -> Timing:
    low, _, high = statistics.quantiles(samples, n=4)
    return Timing(statistics.median(samples), high - low)
