"""The modes of fastcam that the benchmark of a GPU enters, tried on the CPU."""

import subprocess
import sys

import pytest
import torch

import fastcam
from benchmarks.device import ROOT
from benchmarks.device_explanations import GRAPH, PREPARED
from fastcam.bench.contest import Case, Setting
from tests.support.conv_net import conv_net, images_for


@pytest.mark.parametrize("mode", [*GRAPH, "fastcam, prepared, no graph"])
def test_modes_make_the_same_maps(mode):
    at = Setting.of("small", conv_net(), images_for(count=2), "features")
    (contestant,) = (GRAPH | PREPARED)[mode](Case("grad_cam"), at)
    expected = fastcam.explain(at.model, at.images, "grad_cam", at.targets, at.layer).maps
    torch.testing.assert_close(contestant.call(), expected, rtol=0, atol=contestant.limit or 1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["device_explanations", "device_dataset"])
def test_without_a_gpu(name):
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "torch finds none here; --device cpu tries it out" in done.stderr
