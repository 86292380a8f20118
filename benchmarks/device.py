"""What the CUDA kernels reach on the GPU that is here, in one command of some minutes: ``python -m benchmarks.device``.

Compiles the kernels for this GPU alone, runs the op tests on it, and measures every op beside eager PyTorch and beside
a copy of as many bytes. Kernels are timed as replayed CUDA graphs, calls by themselves. The table ends with what falls
short of the goals; everything is kept as results/device_<name>.json. Whole explanations follow, beside the peers
(`benchmarks.device_explanations`), and a folder of photographs (`benchmarks.device_dataset`).
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.results_io import gpu_name, write
from fastcam import ops
from fastcam.bench.op_cases import OpCase, op_cases
from fastcam.bench.ops import measure
from fastcam.bench.rows import OpRow
from fastcam.bench.tables import op_table
from fastcam.bench.timing import Patience

ROOT = Path(__file__).parents[1]
PATIENCE = Patience(0.5, 15)
NOT_CAPTURED = {"occlude", "gather_patches", "impute_neighbours"}  # their eager formulas wait for the device

# Shares of the copy's bandwidth in float32 and in half precision. Two sums of a plane, one after the other, cost more.
GOALS = {
    **dict.fromkeys(["grad_cam", "layer_cam", "channel_mean", "weighted_channel_sum"], (0.90, 0.85)),
    "plane_moments": (0.77, 0.77),
    **dict.fromkeys(["grad_cam_pp", "xgrad_cam"], (0.85, 0.75)),
    **dict.fromkeys(["upsample_normalize", "overlay", "mask_images", "occlude", "gather_patches"], (0.80, 0.80)),
    "resize_crop": (0.0, 0.0),  # its bytes are few beside their sums
    "impute_neighbours": (0.0, 0.0),  # its equations are solved in many passes
}
SMALL_BATCH, SMALL_BATCH_MICROSECONDS = "16x2048x7x7", 15


def shortfalls(rows: Sequence[OpRow]) -> list[str]:
    """Return a line for every row that misses its goal."""
    lines = []
    for row in rows:
        name, share, goal = f"{row['op']}, {row['case']}", row["copy_bandwidth_share"], GOALS[row["op"]]
        wanted = goal["bfloat16" in row["case"]]
        microseconds = 1e3 * row["milliseconds"]
        if row["case"].startswith(SMALL_BATCH):
            if microseconds > SMALL_BATCH_MICROSECONDS:
                lines.append(f"{name}: {microseconds:.1f} us, wanted {SMALL_BATCH_MICROSECONDS}")
        elif share is not None and share < wanted:
            lines.append(f"{name}: {share:.2f} of the copy's bandwidth, wanted {wanted:.2f}")
        if row["times_eager"] < 1:
            lines.append(f"{name}: {row['times_eager']:.2f} times as fast as eager PyTorch")
    return lines


def main() -> None:
    """Build, test, measure, print and keep."""
    if not torch.cuda.is_available():
        sys.exit("benchmarks.device measures a GPU, and torch finds none here")
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    _run(
        "compiling", [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], TORCH_CUDA_ARCH_LIST=capability
    )
    tests = _run(
        "op tests",
        [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-n", "8", "tests/ops", "tests/engine"],
        check=False,
    )
    # Another process, which loads what was compiled.
    subprocess.run([sys.executable, "-m", "benchmarks.device", "measure", tests], cwd=ROOT, check=True)
    for more in ("device_explanations", "device_dataset"):
        subprocess.run([sys.executable, "-m", f"benchmarks.{more}"], cwd=ROOT, check=True)


def measure_all(tests: str) -> None:
    """Measure every op; `tests` is what the tests said."""
    rows = [measure(_graphed(case), PATIENCE) for case in op_cases("cuda")]
    console, missed = Console(width=150), shortfalls(rows)
    console.print(op_table(rows))
    calls = call_microseconds()
    console.print("a call on the host, us: " + ", ".join(f"{name} {value:.1f}" for name, value in calls.items()))
    console.print(f"tests: {tests}")
    console.print("\n".join(missed) if missed else "every goal is reached")
    console.print(f"written: {write(f'device_{gpu_name()}', rows, calls=calls, tests=tests, missed=missed)}")


def call_microseconds(calls: int = 2000) -> dict[str, float]:
    """Return what one call costs the host, on tensors too small to keep the device busy."""
    a, g = torch.rand(2, 1, 8, 7, 7, device="cuda")
    weights, maps = torch.rand(1, 8, device="cuda"), torch.rand(1, 7, 7, device="cuda")
    contestants: dict[str, Callable[[], object]] = {
        "torch.add": lambda: torch.add(a, g),
        "grad_cam": lambda: ops.grad_cam(a, g),
        "weighted_channel_sum": lambda: ops.weighted_channel_sum(a, weights),
        "upsample_normalize": lambda: ops.upsample_normalize(maps, (14, 14)),
    }
    return {name: _host_microseconds(call, calls) for name, call in contestants.items()}


def _host_microseconds(call: Callable[[], object], calls: int) -> float:
    for _ in range(100):
        call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    seconds = time.perf_counter() - start
    torch.cuda.synchronize()
    return 1e6 * seconds / calls


def _graphed(case: OpCase) -> OpCase:
    """Return the case with calls that replay a CUDA graph."""
    eager = case.eager if case.op in NOT_CAPTURED else _captured(case.eager)
    return replace(case, call=_captured(case.call), eager=eager)


def _captured(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def _run(what: str, command: list[str], check: bool = True, **environment: str) -> str:
    """Run a step; return the last line of what it says."""
    print(f"{what} ...", flush=True)
    settings = os.environ | {"FASTCAM_CUDA": "1"} | environment
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        sys.exit(f"{what} failed:\n{done.stdout}{done.stderr}")
    last = (done.stdout.strip().splitlines() or [""])[-1]
    print(last, flush=True)
    return last


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure_all(" ".join(sys.argv[2:]))
    else:
        main()
