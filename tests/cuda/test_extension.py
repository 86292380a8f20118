"""The built CUDA extension on a machine that may have no GPU."""

import re
import subprocess
import sys

import pytest
import torch

import fastcam
from tests.cuda.toolkit import ROOT, nvcc
from tests.ops import calls

pytestmark = [pytest.mark.nvcc, pytest.mark.skipif(nvcc() is None, reason="there is no CUDA compiler")]


def test_the_extension_is_built_and_loaded():
    info = fastcam.build_info()
    assert info["cuda_at_build"] is True
    assert (info["cuda"], info["cuda_reason"]) == (True, None)


@pytest.mark.parametrize("name", calls.THROUGH_WRAPPER)
def test_ops_on_cpu_tensors_still_work(name):
    arguments = calls.inputs()
    calls.check(name, calls.THROUGH_WRAPPER[name](*arguments), arguments)


def test_every_op_has_a_cuda_kernel():
    schemas = (ROOT / "csrc/schemas.h").read_text()
    names = re.findall(r'"([a-z_]+)\(', schemas)
    assert len(names) == 15
    for name in names:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fastcam::{name}", "CUDA"), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said_by_torch_itself():
    with pytest.raises((RuntimeError, AssertionError), match=r"(?i)nvidia|cuda"):
        fastcam.ops.grad_cam(torch.ones(1, 2, 3, 3).cuda(), torch.ones(1, 2, 3, 3).cuda())


def build(**environment):
    """What the build says where it cannot or must not compile for CUDA."""
    program = "import os, runpy, sys; os.environ.update(eval(sys.argv[1])); sys.argv = ['setup.py', '--version']; "
    program += "runpy.run_path('setup.py')"
    command = [sys.executable, "-c", program, repr(environment)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_wrong_choice_is_refused():
    done = build(FASTCAM_CUDA="yes")
    assert done.returncode != 0
    assert "FASTCAM_CUDA must be auto, 0 or 1, got 'yes'" in done.stderr
