"""The two engines of occlusion and the fastest setting of Captum's: ``python -m benchmarks.occlusion``.

All contestants of a network go in turns in one process, and must agree with a sweep in float64 before they are timed:
the engine as well as whole forward passes in float32 do, Captum's map to 1e-4 of the range; in bfloat16 each in rank.
"limit" is how many times fewer multiplications the patches need, each window with the smallest regions that hold all it
changes; where time goes into memory rather than multiplications, more than that is saved. The peak of the memory is
that of a process of its own that sweeps once, less what it held before.
"""

import argparse
import copy
import ctypes
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fastcam
from benchmarks.networks import network
from benchmarks.results_io import RESULTS, write
from fastcam.bench.timing import interleave
from fastcam.cli import demo
from fastcam.incremental import Sweep
from fastcam.preparation.agreement import spearman

NETWORKS = ("vgg16", "resnet18", "googlenet", "resnet50", "mobilenet_v2")
WINDOWS = ((32, 16), (16, 8))
EXACT, CAPTUM, RANK = 1e-5, 1e-4, 0.75  # the rank with random weights, whose scores hardly differ
PER_EVALUATION = (4, 16, 64)  # Captum's settings, of which the fastest counts
Calls = dict[str, Callable[[], Tensor]]


def photographs() -> Tensor:
    """(N, 3, 224, 224)."""
    return torch.stack([demo.PREPROCESSING(each) for each in demo.photographs().values()])


def seeing(name: str) -> nn.Module:
    """A network whose normalisations know photographs: otherwise a window hardly moves its scores."""
    model, images = network(name), photographs()
    norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.train().momentum = None
    with torch.no_grad():
        model(torch.cat([images, images.flip(-1)]))
    return model.eval()


def sweep(model: nn.Module, image: Tensor, target: int, at: tuple[int, int], engine: Any) -> Callable[[], Tensor]:
    """The grid of scores, by one of fastcam's engines."""
    window, stride = at

    def call() -> Tensor:
        options = {"window": window, "stride": stride, "engine": engine}
        return fastcam.explain(model, image, "occlusion", target, **options).native

    return call


def captum(
    model: nn.Module, image: Tensor, target: int, at: tuple[int, int], per_evaluation: int
) -> Callable[[], Tensor]:
    """Captum's map."""
    from captum.attr import Occlusion

    window, stride = at
    options = {"sliding_window_shapes": (3, window, window), "strides": (3, stride, stride)}

    def call() -> Tensor:
        with torch.no_grad():
            found = Occlusion(model).attribute(image, target=target, perturbations_per_eval=per_evaluation, **options)
        return found[:, 0]

    return call


def fastest_captum(
    model: nn.Module, image: Tensor, target: int, at: tuple[int, int]
) -> tuple[int, Callable[[], Tensor]]:
    """Captum at the setting that is fastest with few windows."""
    times = {}
    for each in PER_EVALUATION:
        call = captum(model, image, target, (64, 54), each)
        call()
        start = time.perf_counter()
        call()
        times[each] = time.perf_counter() - start
    best = min(times, key=times.__getitem__)
    return best, captum(model, image, target, at, best)


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """As a share of the range."""
    return float((found - expected).abs().amax() / (expected.amax() - expected.amin()))


def check(calls: Calls, exact: Tensor) -> dict[str, float]:
    """The largest difference of every contestant in float32 from a sweep in float64; half precision agrees in rank.

    The scores of random weights hardly differ from window to window, so that whole forward passes in float32 are not
    exact to 1e-5 of their range either: patches may be as far from float64 as twice that.
    """
    found = {}
    for name, call in calls.items():
        if name.endswith("bf16"):
            rank = spearman(call(), exact.float())
            if not rank >= RANK:
                raise AssertionError(f"{name}: ranks correlate by {rank:.3f}, less than {RANK}")
            continue
        found[name] = largest_difference(call().double(), exact)
        limit = CAPTUM if name.startswith("captum") else max(EXACT, 2 * found["dense"])
        if not found[name] <= limit:
            raise AssertionError(f"{name} differs by {found[name]:.1e}, more than {limit:.0e}")
    return found


def limit(model: nn.Module, image: Tensor, at: tuple[int, int]) -> float:
    """How many times fewer multiplications are needed at most."""
    start = torch.arange(0, image.shape[2] - at[0] + 1, at[1])
    starts = torch.cartesian_prod(start, start)
    windows = torch.stack([starts, torch.full_like(starts, at[0])], 1)
    sweep = Sweep(model, image, torch.zeros_like(image))
    whole = sweep.analysis.multiplications
    return len(windows) * sum(whole) / sum(sweep.plan(window[None]).cost(whole) for window in windows)


def measure(name: str, at: tuple[int, int], rounds: int) -> dict[str, Any]:
    """One network and one kind of windows."""
    model, image = seeing(name), photographs()[:1]
    target = int(model(image).argmax())
    calls = {engine: sweep(model, image, target, at, engine) for engine in ("dense", "incremental")}
    setting = None
    if at == WINDOWS[0]:
        setting, calls["captum"] = fastest_captum(model, image, target, at)
        narrow = fastcam.prepare(model, image, precision="bf16", tolerance=2.0)
        calls |= {f"{engine} bf16": sweep(narrow, image, target, at, engine) for engine in ("dense", "incremental")}
    exact = sweep(copy.deepcopy(model).double(), image.double(), target, at, "incremental")()
    differences = check(calls, exact)
    times = {each: timing.median for each, timing in interleave(calls, rounds, warm=True).items()}
    return {
        "model": name,
        "window": at[0],
        "stride": at[1],
        "seconds": times,
        "limit": limit(model, image, at),
        "differences": differences,
        "perturbations_per_eval": setting,
        "peak_megabytes": {engine: peak(name, at, engine) for engine in ("dense", "incremental")},
    }


def peak(name: str, at: tuple[int, int], engine: str) -> float:
    """Megabytes that a sweep adds to the peak of a process; the median of three."""
    command = [sys.executable, "-m", "benchmarks.occlusion", "--peak", name, str(at[0]), str(2 * at[1]), engine]
    found = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(3)]
    return statistics.median(float(each) for each in found)


def print_peak(name: str, window: int, stride: int, engine: str) -> None:
    """For :func:`peak`, in a process of its own."""
    model, image = seeing(name), photographs()[:1]
    with torch.no_grad():
        model(image)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = held("VmRSS")
    sweep(model, image, 0, (window, stride), engine)()
    print(held("VmHWM") - before)


def held(field: str) -> float:
    """Megabytes of this process, now or at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def shown(rows: list[dict[str, Any]]) -> Table:
    """Every sweep beside the dense one and the peer."""
    header = ["network", "window/stride", "dense", "times dense", "limit", "times captum", "bf16 times dense bf16"]
    table = Table(*header, "bf16 times captum", "memory")
    for row in rows:
        times, memory = row["seconds"], row["peak_megabytes"]
        table.add_row(
            row["model"],
            f"{row['window']}/{row['stride']}",
            f"{times['dense']:.1f} s",
            f"{times['dense'] / times['incremental']:.2f}",
            f"{row['limit']:.2f}",
            ratio(times, "captum", "incremental"),
            ratio(times, "dense bf16", "incremental bf16"),
            ratio(times, "captum", "incremental bf16"),
            f"{memory['incremental'] / memory['dense']:.2f}",
        )
    return table


def ratio(times: dict[str, float], slow: str, fast: str) -> str:
    """How many times faster, where both were timed."""
    return f"{times[slow] / times[fast]:.2f}" if slow in times and fast in times else ""


def renewed(row: dict[str, Any]) -> list[dict[str, Any]]:
    """What is kept already, this row in the place of its like."""
    path = RESULTS / "occlusion.json"
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    key = ("model", "window", "stride")
    return [each for each in kept if any(each[name] != row[name] for name in key)] + [row]


def main() -> None:
    """Prints the table and keeps it as results/occlusion.json."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=NETWORKS, help="networks: their rows alone are renewed")
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.peak:
        name, window, stride, engine = arguments.peak
        print_peak(name, int(window), int(stride), engine)
        return
    console = Console(width=140)
    for at in WINDOWS:
        for name in arguments.only:
            rows = renewed(measure(name, at, arguments.rounds if at == WINDOWS[0] else 2))
            write("occlusion", rows)
            console.print(shown(rows[-1:]))


if __name__ == "__main__":
    main()
