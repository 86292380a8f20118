"""Time the ops, compared with eager PyTorch and with reading the input once, the lower bound of a reduction.

Reading is timed as the sum of the tensors that the op must read. On a GPU the lower bound is the time to copy as many
bytes as must be moved.
"""

import torch

from fastcam.bench.op_cases import OpCase
from fastcam.bench.rows import OpRow
from fastcam.bench.timing import Call, Patience, interleave, synchronizer, time_call

_MIN_SAMPLE_SECONDS = 0.02


class DisagreementError(Exception):
    """An op and eager PyTorch return different results, so that their times cannot be compared."""


def measure(case: OpCase, patience: Patience) -> OpRow:
    """Check the agreement with eager PyTorch, then time op, eager formula and read alternately.

    Raises:
        DisagreementError: if they differ by more than rounding.
    """
    calls: dict[str, Call] = {
        "op": case.call,
        "eager": case.eager,
        "read": lambda: [tensor.sum() for tensor in case.read],
    }
    synchronize = synchronizer(case.device)
    difference = _difference(case)
    turns = {
        name: max(2, patience.turns(max(_MIN_SAMPLE_SECONDS, time_call(call, synchronize)[0])))
        for name, call in calls.items()
    }
    if case.device.type == "cuda":
        source = torch.empty(2**28, device=case.device)
        target = torch.empty_like(source)
        calls["copy"], turns["copy"] = lambda: target.copy_(source), turns["op"]
    timings = interleave(calls, turns, _MIN_SAMPLE_SECONDS, synchronize)
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
    """Return the largest difference between op and eager PyTorch, as a share of the largest value."""
    ours, theirs = case.call().double(), case.eager().double()
    difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    # Eager bf16 rounds every intermediate, the op none. Bytes may differ by one.
    tolerance = 1e-4 if case.read[0].dtype == torch.float32 else 5e-2
    if not difference <= tolerance:
        raise DisagreementError(
            f"{case.op} on {case.label} differs from eager PyTorch by {difference:.1e} of the range, "
            f"more than {tolerance:.0e}"
        )
    return difference
