"""Builds the CUDA sources for the simulator and loads them as ops on CPU tensors."""

import functools
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

HERE = Path(__file__).parent
BOUNDS = (
    "(test_formula or test_channel_weights or test_layouts or test_layout_of or test_expanded or test_large_tensors or "
    "test_convolution) and not TestXGradCam and not TestElementWeights"
)
ROOT = HERE.parents[1]


def available() -> bool:
    """Whether the simulator can run here: a compiler, make, and a processor its fibers know."""
    compiler = os.environ.get("CXX", "g++").split()[0]
    known = platform.machine() in ("x86_64", "aarch64")
    return known and all(map(shutil.which, ("make", compiler)))


def build(variant: str = "plain", target: str = "ops", root: Path = ROOT) -> Path:
    """Compiles what has changed.

    Args:
        variant: plain, address (AddressSanitizer and UndefinedBehaviorSanitizer) or thread (ThreadSanitizer).
        target: ops, a library of ops on CPU tensors, or races, a program that runs every kernel once.
        root: the sources: the project, or a changed copy of it.

    Returns:
        The library or the program.
    """
    command = ["make", "--silent", "-j2", "-C", str(root / "tests/cuda_sim"), target, f"VARIANT={variant}"]
    torch_folder = f"TORCH={Path(torch.__file__).parent}"
    with FileLock(root / "tests/cuda_sim/.lock"):  # several processes of tests may ask for it at once
        done = subprocess.run([*command, torch_folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the simulator does not compile:\n{done.stdout}{done.stderr}")
    return root / "build/cuda_sim" / variant / ("ops.so" if target == "ops" else target)


def run_op_tests(order: str, library: Path, variant: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Bounds, alignment and order in a process of its own: op tests of every shape, element size and layout.

    One reduction of each branch of the template stands for the others, and numbers that are not finite, gradients and
    refusals are left to the tests of every day.

    Args:
        order: of threads and blocks: forward, reverse, or a number that seeds a random one.
        library: the ops, as `build` made them in this variant.
        variant: plain or address.
        options: for pytest.
    """
    environment = os.environ | {"FASTCAM_SIM_LIBRARY": str(library), "FASTCAM_SIM_ORDER": order}
    cases = BOUNDS
    if variant == "address":
        cases += " and not bfloat16"  # float16 has the same bounds
        environment |= {"LD_PRELOAD": _sanitizer_libraries(), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "sim and not slow",
        "-k",
        cases,
        "-n",
        "2",
        "-p",
        "no:cacheprovider",
        "tests/ops",
    ]
    return subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def _sanitizer_libraries() -> str:
    """What a process must load first so that a library built with AddressSanitizer can be loaded later."""
    compiler = os.environ.get("CXX", "g++").split()[0]
    names = ("libasan.so", "libubsan.so")
    return ":".join(
        subprocess.check_output([compiler, f"-print-file-name={name}"], text=True).strip() for name in names
    )


@functools.cache
def ops() -> Any:
    """``torch.ops.fastcam_sim``: the CUDA kernels as ops on CPU tensors.

    FASTCAM_SIM_LIBRARY names a library that is built already, as the runs under a sanitizer do.
    """
    torch.ops.load_library(os.environ.get("FASTCAM_SIM_LIBRARY") or build())
    return torch.ops.fastcam_sim
