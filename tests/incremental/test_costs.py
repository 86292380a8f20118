"""What operations cost on a device, and what follows: patches or whole passes, few large groups or many small ones."""

import math

import pytest
import torch

from fastcam.incremental import measured_costs, scores, sweep
from fastcam.incremental.costs import PROCESSOR, Costs
from fastcam.incremental.sweep import Sweep
from tests.incremental.sweeps import windows
from tests.support.networks import photographs, torchvision_network

GPU = Costs(call=5e8, step=3.6e9, constant=5.0, element=5.0)  # as of an H200: 15 and 100 us, 3.6e13 a second


@pytest.fixture
def on_a_gpu(monkeypatch):
    monkeypatch.setattr(sweep, "costs_of", lambda image: GPU)


def sweep_of(name):
    return Sweep(torchvision_network(name), photographs()[:1], torch.zeros(1, 3, 224, 224))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_measured_costs_are_those_of_this_device(dtype):
    """What they are hangs on the load of a processor: only that they are numbers is certain."""
    state = torch.get_rng_state()
    found = measured_costs.measure(torch.device("cpu"), dtype)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(math.isfinite(value) and value > 0 for value in vars(found).values())
    assert measured_costs.costs_of(torch.zeros(1)) is PROCESSOR


def test_costs_are_measured_once(monkeypatch):
    measured = []

    def measure(device, dtype):
        measured.append((device.type, dtype))
        return GPU

    monkeypatch.setattr(measured_costs, "measure", measure)
    measured_costs._measured.cache_clear()
    for dtype in (torch.float32, torch.float32, torch.bfloat16):
        assert measured_costs.costs_of(torch.zeros(1, dtype=dtype, device="meta")) is GPU
    measured_costs._measured.cache_clear()
    assert measured == [("meta", torch.float32), ("meta", torch.bfloat16)]


def test_the_gain_counts_calls_and_batches():
    """Against a sum over groups, and over batches of whole passes."""
    some = windows(13, 32, 16)
    found = sweep_of("resnet18")
    analysis = found.analysis
    assert analysis.pass_work == analysis.group_work > PROCESSOR.call * len(analysis.operations)
    groups = found.buckets(some)
    patches = sum(found.plan(some[group]).cost(analysis.work) + analysis.group_work for group in groups)
    whole = 169 * sum(analysis.work) + math.ceil(169 / sweep.WHOLE_COPIES) * analysis.pass_work
    assert found.gain(some, "work") == pytest.approx(whole / patches)


def test_where_calls_are_dear_there_are_fewer_groups(on_a_gpu, monkeypatch):
    some = windows(13, 32, 16)
    dear = len(sweep_of("resnet18").buckets(some))
    monkeypatch.setattr(sweep, "costs_of", lambda image: PROCESSOR)
    assert dear < len(sweep_of("resnet18").buckets(some))


def test_which_way_pays_on_a_gpu(on_a_gpu):
    """As measured there: whole passes for ResNet-18, whose convolutions are small; patches for VGG-16."""
    some = windows(13, 32, 16)
    assert sweep_of("resnet18").gain(some, "work") < scores.MIN_GAIN
    assert sweep_of("vgg16").gain(some, "work") > scores.MIN_GAIN
