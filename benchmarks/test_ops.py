"""pytest-benchmark of every op case, for comparing two states of the code: ``pytest benchmarks --benchmark-enable``."""

import pytest

from fastcam.bench.op_cases import op_cases


@pytest.mark.parametrize("case", op_cases(), ids=lambda case: f"{case.op}-{case.label}")
@pytest.mark.parametrize("way", ["op", "eager"])
def test_op(benchmark, case, way):
    benchmark.group = f"{case.op}: {case.label}"
    benchmark.pedantic(case.call if way == "op" else case.eager, rounds=15, iterations=3, warmup_rounds=2)
