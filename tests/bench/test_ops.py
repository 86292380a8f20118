"""The ops' benchmark: every op takes part, and must agree with eager PyTorch before it is timed."""

from dataclasses import replace

import pytest
import torch

from fastcam import ops
from fastcam.bench import ops as measuring
from fastcam.bench.op_cases import BATCHES, op_cases
from fastcam.bench.timing import Patience

REDUCTIONS = {
    "grad_cam",
    "grad_cam_pp",
    "xgrad_cam",
    "layer_cam",
    "channel_mean",
    "plane_moments",
    "weighted_channel_sum",
}
QUICK = Patience.of(0.001)


def test_every_op_of_the_extension_has_a_case():
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastcam::")]
    registered = {name.removesuffix("_into") for name in names}  # the same kernel, into a tensor that is there
    cases = {case.op for case in op_cases(batches=1)}
    assert cases == set(ops.__all__)
    assert {f"fastcam::{name}" for name in cases} == registered


def test_the_reductions_run_on_every_batch_and_reading_is_their_floor():
    cases = op_cases(only=["grad_cam"])
    assert [case.label for case in cases] == [batch.label for batch in BATCHES["cpu"]]
    assert {case.op for case in op_cases(batches=1) if case.reduces} == REDUCTIONS


def test_what_must_move_is_the_input_and_the_output():
    (case,) = op_cases(batches=1, only=["channel_mean"])
    assert case.bytes == 128 * 2048 * (49 + 1) * 4
    assert case.read[0].numel() * 4 > 32e6  # more than a cache holds


def test_a_row_is_of_the_ops_own_times():
    (case,) = op_cases(batches=1, only=["channel_mean"])
    row = measuring.measure(case, QUICK)
    assert (row["op"], row["case"]) == ("channel_mean", "128x2048x7x7 float32")
    assert row["megabytes"] == pytest.approx(52.4288)
    assert row["difference"] < 1e-5
    assert row["milliseconds"] > 0
    assert row["times_eager"] > 0
    assert row["times_read"] > 0
    assert row["copy_bandwidth_share"] is None


def test_what_writes_more_than_it_reads_has_no_floor():
    (case,) = op_cases(only=["upsample_normalize"])
    assert measuring.measure(case, QUICK)["times_read"] is None


@pytest.mark.parametrize("op", ops.__all__)
def test_what_differs_from_eager_is_not_timed(op):
    right = op_cases(batches=1, only=[op])[0]
    calls = []

    def wrong():
        calls.append(op)
        found = right.eager()
        return found + 128 if found.dtype == torch.uint8 else found + 0.1 * found.abs().max()

    with pytest.raises(measuring.DisagreementError, match=rf"{op} on .* differs from eager PyTorch by \d\.\de"):
        measuring.measure(replace(right, call=wrong), QUICK)
    assert len(calls) == 1
