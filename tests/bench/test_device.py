"""What the benchmark of a GPU calls a shortfall, and what it says without one."""

import subprocess
import sys

import pytest
import torch

from benchmarks.device import GOALS, ROOT, shortfalls
from fastcam import ops
from fastcam.bench.op_cases import BATCHES


def row(op="grad_cam", case="512x2048x7x7 float32", share=0.95, milliseconds=0.1, times_eager=3.0):
    return {
        "op": op,
        "case": case,
        "copy_bandwidth_share": share,
        "milliseconds": milliseconds,
        "times_eager": times_eager,
    }


@pytest.mark.parametrize(
    ("figures", "lines"),
    [
        (row(), []),
        (row(share=0.89), ["grad_cam, 512x2048x7x7 float32: 0.89 of the copy's bandwidth, wanted 0.90"]),
        (row("grad_cam_pp", share=0.86), []),
        (row("xgrad_cam", "64x256x56x56 bfloat16 channels_last", 0.74), ["wanted 0.75"]),
        (row(times_eager=0.9), ["grad_cam, 512x2048x7x7 float32: 0.90 times as fast as eager PyTorch"]),
        (row(case="16x2048x7x7 float32", share=0.2, milliseconds=0.014), []),
        (row(case="16x2048x7x7 float32", share=0.2, milliseconds=0.016), ["16.0 us, wanted 15"]),
        (row("occlude", "32x3x224x224, 169 windows", 0.5, times_eager=0.5), ["wanted 0.80", "as fast as eager"]),
    ],
)
def test_shortfalls(figures, lines):
    found = shortfalls([row(), figures])
    assert len(found) == len(lines)
    assert all(wanted in line for wanted, line in zip(lines, found, strict=True))


def test_every_op_has_a_goal():
    assert set(GOALS) == set(ops.__all__)
    assert {batch.plane for batch in BATCHES["cuda"]} == {(2048, 7, 7), (1024, 14, 14), (256, 56, 56)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.device"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "benchmarks.device measures a GPU, and torch finds none here\n"
