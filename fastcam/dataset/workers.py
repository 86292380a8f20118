"""How images are loaded on a machine: on how many threads, and whether these decode or have processes that do."""

import os
from dataclasses import dataclass

import torch

from fastcam.dataset.decode import Decoder
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


def usual_place(device: torch.device, decoder: Decoder, cores: int) -> DecodeIn:
    """Return where images are decoded by default, for a model on a device.

    A model on the CPU takes longer for an image than threads on the other cores, and a GPU that decodes leaves little.
    """
    has_time = device.type == "cpu" or decoder == "gpu" or cores <= FEW_CORES
    return "threads" if has_time else "processes"


def usual_count(decode_in: DecodeIn, cores: int) -> int:
    """Return the default number of threads."""
    return min(MAX_THREADS if decode_in == "threads" else MAX_PROCESSES, cores)


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))
