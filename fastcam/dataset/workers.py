"""How images are loaded on a machine: on how many threads, and whether these decode or have processes that do."""

import os
from dataclasses import dataclass

import torch

from fastcam.dataset.decoding_processes import DecodeIn

MAX_THREADS, MAX_PROCESSES = 8, 32  # by default
FEW_CORES = 2  # on which threads decode as fast as processes


@dataclass(frozen=True)
class Workers:
    """How images are loaded.

    Attributes:
        count: threads that read and decode; 0 reads images without threads, one at a time.
        decode_in: where they decode: themselves, or each in a process of its own.
    """

    count: int
    decode_in: DecodeIn = "threads"

    @classmethod
    def usual(cls, device: torch.device, cores: int) -> "Workers":
        """Return how the images of a model on a device are loaded by default.

        A model on the CPU takes longer for an image than threads on the other cores.
        """
        if device.type == "cpu" or cores <= FEW_CORES:
            return cls(min(MAX_THREADS, cores))
        return cls(min(MAX_PROCESSES, cores), "processes")


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))
