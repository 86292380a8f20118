"""Every op beside eager PyTorch and beside reading its input once, which is the floor of a reduction.

The read is the time torch needs to sum the tensors that the op must read. On a GPU the floor is the bytes that must
move, at the speed of a copy.
"""

from typing import Any

import torch

from fastcam.bench.op_cases import OpCase
from fastcam.bench.timing import Patience, interleave, timed, waiting

_SAMPLE = 0.02  # seconds, or one call: what one sample lasts


class DisagreementError(Exception):
    """Two contestants do not return the same, so that their times mean nothing."""


def measure(case: OpCase, patience: Patience) -> dict[str, Any]:
    """Agreement first, then op, eager and read in turn; a row to print and to keep.

    Raises:
        DisagreementError: where op and eager PyTorch differ by more than rounding.
    """
    calls = {"op": case.call, "eager": case.eager, "read": lambda: [t.sum() for t in case.read]}
    wait = waiting(case.device)
    difference = _difference(case)
    turns = {name: max(2, patience.turns(max(_SAMPLE, timed(call, wait)[0]))) for name, call in calls.items()}
    if case.device.type == "cuda":
        source = torch.empty(2**28, device=case.device)
        target = torch.empty_like(source)
        calls["copy"], turns["copy"] = lambda: target.copy_(source), turns["op"]
    timings = interleave(calls, turns, _SAMPLE, wait)
    op, eager, read, *copy = (timings[name].median for name in calls)
    return {
        "op": case.op,
        "case": case.label,
        "megabytes": case.bytes / 1e6,
        "milliseconds": op * 1e3,
        "spread": timings["op"].spread * 1e3,
        "times_eager": eager / op,
        "times_read": op / read if case.reduces else None,
        "difference": difference,
        "copy_bandwidth_share": (case.bytes / op) / (2 * source.nbytes / copy[0]) if copy else None,
    }


def _difference(case: OpCase) -> float:
    """The largest between op and eager, as a share of the largest value."""
    ours, theirs = case.call().double(), case.eager().double()
    difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    # Eager bf16 rounds every intermediate; the op rounds none. A byte may be the next one.
    tolerance = 1e-4 if case.read[0].dtype == torch.float32 else 5e-2
    if not difference <= tolerance:
        raise DisagreementError(
            f"{case.op} on {case.label} differs from eager PyTorch by {difference:.1e} of the range, "
            f"more than {tolerance:.0e}"
        )
    return difference
