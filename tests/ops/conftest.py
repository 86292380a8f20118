"""Settings of the op tests."""

import pytest
import torch

from fastcam.ops import _register
from tests.cuda_sim import simulator
from tests.ops.op_tester import threads


def devices():
    """Where the ops are tested: the CPU, the CUDA kernels under the simulator, and a GPU where there is one."""
    simulated = [pytest.param("sim", marks=pytest.mark.sim)] if simulator.available() else []
    gpu = [pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else []
    return ["cpu", *simulated, *gpu]


@pytest.fixture(params=devices())
def device(request, monkeypatch):
    """Where a test's tensors live; under the simulator that is the CPU, and its ops stand in for the package's."""
    if request.param != "sim":
        return request.param
    monkeypatch.setattr(_register, "namespace", simulator.ops())
    return "cpu"


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors gain nothing from threads; the tests of determinism set their own numbers."""
    with threads(1):
        yield
