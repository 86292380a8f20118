"""Builds the CUDA sources for the simulator and loads them as ops on CPU tensors."""

import functools
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def available() -> bool:
    """Whether the simulator can run here: a compiler, make, and a processor its fibers know."""
    compiler = os.environ.get("CXX", "g++").split()[0]
    known = platform.machine() in ("x86_64", "aarch64")
    return known and all(map(shutil.which, ("make", compiler)))


def build(variant: str = "plain", source: Path = ROOT) -> Path:
    """Compiles what has changed and returns the library of ops of this variant: plain, address or thread."""
    command = ["make", "--silent", "-j2", "-C", str(source / "tests/cuda_sim"), f"VARIANT={variant}"]
    torch_folder = f"TORCH={Path(torch.__file__).parent}"
    done = subprocess.run([*command, torch_folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the simulator does not compile:\n{done.stdout}{done.stderr}")
    return source / "build/cuda_sim" / variant / "ops.so"


@functools.cache
def ops() -> Any:
    """``torch.ops.fastcam_sim``: the CUDA kernels as ops on CPU tensors.

    FASTCAM_SIM_LIBRARY names a library that is built already, as the runs under a sanitizer do.
    """
    torch.ops.load_library(os.environ.get("FASTCAM_SIM_LIBRARY") or build())
    return torch.ops.fastcam_sim
