"""Interleaved timing: only ratios within one run count, so every contestant runs in every round."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import fastcam

RESULTS = Path(__file__).parent / "results"
Contestants = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Timing:
    """Median and interquartile range of one contestant, in seconds."""

    median: float
    spread: float


def interleave(
    contestants: Contestants,
    rounds: int | Mapping[str, int],
    at_least: float = 0.0,
    finish: Callable[[], Any] = lambda: None,
    *,
    warm: bool = False,
) -> dict[str, Timing]:
    """Times every contestant once a round, after one untimed round.

    Args:
        contestants: what to call, by name.
        rounds: how many samples each gets, at least 2; where that differs, those of the slow ones are spread evenly
            over the rounds.
        at_least: seconds; a sample repeats its call until it lasts about so long, and counts the mean.
        finish: waits for what the calls of a sample have started, on a device that does not wait by itself.
        warm: whether all were called just before; then there is no untimed round.
    """
    repeats = {name: 1 if warm else _repeats(call, at_least, finish) for name, call in contestants.items()}
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    wanted = dict.fromkeys(contestants, rounds) if isinstance(rounds, int) else rounds
    total = max(wanted.values())
    for turn in range(total):
        for name, call in contestants.items():
            if turn * wanted[name] // total == (turn + 1) * wanted[name] // total:
                continue
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            finish()
            samples[name].append((time.perf_counter() - start) / repeats[name])
    return {name: _summary(values) for name, values in samples.items()}


def _repeats(call: Callable[[], Any], at_least: float, finish: Callable[[], Any]) -> int:
    call()
    finish()
    if not at_least:
        return 1
    start = time.perf_counter()
    call()
    finish()
    return max(1, round(at_least / (time.perf_counter() - start)))


def _summary(samples: list[float]) -> Timing:
    low, _, high = statistics.quantiles(samples, n=4)
    return Timing(statistics.median(samples), high - low)


def hardware() -> dict[str, Any]:
    """What the figures were measured on."""
    info = fastcam.build_info()
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "instruction_set": info.get("cpu_capability"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "fastcam": fastcam.__version__,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def write(name: str, rows: list[dict[str, Any]], **more: Any) -> Path:
    """Keeps the rows, the hardware and what else there is as results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"hardware": hardware(), "rows": rows} | more, indent=1) + "\n")
    return path
