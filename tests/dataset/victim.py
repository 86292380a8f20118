"""A run in a process of its own, which dies or fails at a chosen place of writing."""

import os
import signal
from pathlib import Path
from typing import Any

import torch

import fastcam.dataset
from fastcam.dataset import device_decoding
from tests.dataset.small import SETTINGS, network

STAGES = ("open", "write", "fsync", "link", "unlink")


def plant(stage: str, number: int, after: bool) -> None:
    """The process kills itself at the so-manyeth call of a function of ``os``, before or after it did its work."""
    original, calls = getattr(os, stage), 0

    def deadly(*arguments, **options):
        nonlocal calls
        if stage == "open" and not str(arguments[0]).endswith(".tmp"):
            return original(*arguments, **options)
        calls += 1
        if calls == number:
            if after:
                original(*arguments, **options)
            elif stage == "write":
                original(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(os, stage, deadly)


def work(source: Path, out: Path, stage: str = "", number: int = 0, after: bool = False, **options: Any) -> None:
    """The run; the CPU counts as a device that decodes."""
    device_decoding._has_nvjpeg = lambda device: True
    torch.set_num_threads(1)
    if stage:
        plant(stage, number, after)
    fastcam.dataset.run(source, network(), out, **SETTINGS, **options)
