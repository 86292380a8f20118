"""The CUDA kernels in other thread orders and under the sanitizers: ``make cuda-sim``."""

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cuda_sim import simulator

pytestmark = [
    pytest.mark.sanitizer,
    pytest.mark.skipif(not simulator.available(), reason="the simulator needs make, g++ and x86-64 or aarch64"),
]


def check_op_tests(order, variant):
    done = simulator.run_op_tests(order, simulator.build(variant), variant)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout


def test_reverse_order():
    check_op_tests("reverse", "plain")


def test_random_order_under_address_sanitizer():
    """Bounds of every buffer, alignment of every access, and a third order."""
    check_op_tests("7", "address")


def test_no_races():
    program = simulator.build("thread", "races")

    def run(dtype):
        return subprocess.run([program, dtype], capture_output=True, text=True, check=False)

    dtypes = ("float32", "float64", "float16", "bfloat16")
    with ThreadPoolExecutor(2) as pool:
        for dtype, done in zip(dtypes, pool.map(run, dtypes), strict=True):
            assert done.returncode == 0, done.stderr[:4000]
            assert done.stdout == f"every kernel ran with {dtype}\n"
