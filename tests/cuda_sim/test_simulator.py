"""The simulator itself: a right kernel gives the right sum in every order, and every planted bug is told."""

import os
import re
import subprocess

import pytest

from tests.cuda_sim import simulator

pytestmark = pytest.mark.skipif(not simulator.available(), reason="the simulator needs make, g++ and x86-64 or aarch64")

ORDERS = ["forward", "reverse", "1", "2", "3"]
RIGHT = "19900 19900 19900 "

# The bug, and what is said of it on stderr by the simulator alone.
TOLD = {
    "divergent_barrier": "threads of one block wait at different __syncthreads",
    "wrong_mask": "whose mask leaves it out|a lane that takes no part in it",
    "absent_lane": "a shuffle reads a lane that takes no part in it",
    "different_operations": "lanes of one mask are at different warp operations",
    "deadlock": "deadlock: no thread can go on",
    "too_many_threads": r"CUDA refuses blocks of \(1025, 1, 1\) threads",
    "too_much_shared": "the block asks for 65536 bytes of shared memory, more than the 49152",
    "empty_grid": r"CUDA refuses a grid of \(0, 1, 1\) blocks",
    "large_grid": r"CUDA refuses a grid of \(3, 65536, 1\) blocks",
}
# The bug, the sanitizer that tells of it, and its words.
SANITIZED = {
    "global_overrun": ("address", "heap-buffer-overflow"),
    "shared_overrun": ("address", "heap-buffer-overflow"),
    "misaligned": ("address", "misaligned address"),
    "race": ("thread", "data race"),
    "missing_barrier": ("thread", "data race"),
    "one_output": ("thread", "data race"),
}


def run(name, order="forward", variant="plain"):
    environment = os.environ | {"FASTCAM_SIM_ORDER": order, "ASAN_OPTIONS": "detect_leaks=0"}
    program = simulator.build(variant, "planted")
    return subprocess.run([program, name], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("variant", ["plain", "address", "thread"])
@pytest.mark.parametrize("order", ORDERS)
def test_right_kernel(order, variant):
    done = run("none", order, variant)
    assert (done.returncode, done.stdout, done.stderr) == (0, RIGHT, "")


@pytest.mark.parametrize("bug", TOLD)
def test_told_by_the_simulator(bug):
    done = run(bug)
    assert done.returncode != 0
    assert re.search(TOLD[bug], done.stderr), done.stderr
    assert "in (block_sums<bug>), block (0, 0, 0)" in done.stderr


@pytest.mark.parametrize("bug", SANITIZED)
def test_told_by_a_sanitizer(bug):
    variant, words = SANITIZED[bug]
    done = run(bug, variant=variant)
    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize("bug", ["missing_barrier", "uninitialised", "race", "one_output"])
def test_wrong_in_some_order(bug):
    """Without a sanitizer the numbers tell: shared memory holds NaN until it is written."""
    assert {run(bug, order).stdout for order in ORDERS} - {RIGHT}
