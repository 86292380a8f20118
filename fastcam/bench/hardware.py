"""The machine that figures were measured on."""

import platform
from pathlib import Path
from typing import TypeAlias

import torch

import fastcam

Hardware: TypeAlias = dict[str, str | int | None]


def hardware() -> Hardware:
    """Return processor, threads, instruction set, GPU and versions."""
    info = fastcam.build_info()
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "instruction_set": info.get("cpu_capability"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "fastcam": fastcam.__version__,
    }


def describe(machine: Hardware) -> str:
    """Return one line about the machine."""
    threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return (
        f"Measured on {threads} of an {machine['processor']} ({machine['instruction_set']}), "
        f"PyTorch {machine['torch']}; {'no GPU' if machine['gpu'] is None else machine['gpu']}."
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
