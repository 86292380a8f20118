"""What is special about devices: data are sent without waiting, GPUs round products, and some cannot be used."""

import functools

import numpy as np
import torch
from torch import Tensor


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; from the CPU to a GPU it is copied from pinned memory, in the stream's order."""
    if values.device == device or device.type != "cuda":
        return values.to(device)
    # A tracer's tensors have no memory that could be pinned.
    pinned = values.pin_memory() if torch.cuda.is_available() and type(values) is Tensor else values
    return pinned.to(device, non_blocking=True)


def all_rows(count: int) -> Tensor:
    """Return (N,) int64 on the CPU, the rows of N images: always the same tensor, by which it is recognised.

    Where N is a symbol, in a program that is exported for any number of images, the rows are new.
    """
    return _all_rows(count) if isinstance(count, int) else torch.arange(count)


@functools.lru_cache(64)
def _all_rows(count: int) -> Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(np.arange(count))  # a tensor with values, even where a tracer makes those without


def take_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Return ``values[rows]`` for rows (M,) on the CPU; the values themselves for ``all_rows`` of them."""
    return values if rows is all_rows(values.shape[0]) else values[send(rows, values.device)]


def uses_tf32(device: torch.device) -> bool:
    """Whether factors of products in float32 are rounded to the 11 bits of TF32, as GPUs do for convolutions."""
    is_allowed = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return device.type == "cuda" and is_allowed and torch.cuda.get_device_capability(device)[0] >= 8


def unusable(name: str, error: Exception) -> str:
    """Return why a device cannot be used, from PyTorch's error."""
    reason = str(error).strip().split("\n", maxsplit=1)[0]
    if reason.startswith("Expected one of"):  # a list of all that PyTorch was ever built for
        reason = "there is no such kind; cpu, cuda, cuda:1 and mps are some"
    elif "no NVIDIA driver" in reason:
        reason = "there is no NVIDIA driver"
    return f"device {name!r} cannot be used: {reason}"
