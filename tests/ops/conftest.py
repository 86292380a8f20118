"""Settings of the op tests."""

import pytest
import torch

from fastcam.ops import _register
from tests.cuda_sim import simulator
from tests.ops.op_tester import threads

CPU = ["cpu", *([pytest.param("sim", marks=pytest.mark.sim)] if simulator.available() else [])]
GPU = [pytest.param("cuda", marks=pytest.mark.cuda)] if torch.cuda.is_available() else []


@pytest.fixture(params=CPU)
def kernels(request, monkeypatch):
    """The kernels that work on CPU tensors: those of the CPU, and those of CUDA under the simulator."""
    if request.param == "sim":
        monkeypatch.setattr(_register, "namespace", simulator.ops())


@pytest.fixture(params=[*CPU, *GPU])
def device(request, monkeypatch):
    """Where a test's tensors live: on the CPU, for the simulator too, as in `kernels`; on a GPU where there is one."""
    if request.param != "sim":
        return request.param
    monkeypatch.setattr(_register, "namespace", simulator.ops())
    return "cpu"


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors gain nothing from threads; the tests of determinism set their own numbers."""
    with threads(1):
        yield
