"""What figures were measured on."""

import platform
from pathlib import Path
from typing import Any

import torch

import fastcam


def hardware() -> dict[str, Any]:
    """Processor, threads, instruction set, GPU and versions."""
    info = fastcam.build_info()
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "instruction_set": info.get("cpu_capability"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "fastcam": fastcam.__version__,
    }


def described(found: dict[str, Any]) -> str:
    """One line about the machine."""
    return (
        f"Measured on {found['threads']} threads of an {found['processor']} ({found['instruction_set']}), "
        f"PyTorch {found['torch']}; {'no GPU' if found['gpu'] is None else found['gpu']}."
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
