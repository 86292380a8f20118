"""The profile of one explanation: every operator in its part, and Python is the time in which none ran."""

import time

import pytest
import torch
from torch import nn

from benchmarks import profile
from fastcam import ops
from tests.cli.command_line import SMALL
from tests.cli.conftest import work  # noqa: F401 - a fixture

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("spans", "length"),
    [([], 0), ([(1, 3)], 2), ([(4, 5), (1, 3)], 3), ([(1, 4), (2, 3)], 3), ([(1, 3), (2, 5), (5, 6)], 5)],
)
def test_what_intervals_cover_together(spans, length):
    assert profile.covered(spans) == length


def test_every_operator_is_in_its_part(monkeypatch):
    monkeypatch.setattr(profile, "COSTLIEST", 1000)
    model = profile.Marked(nn.Conv2d(3, 4, 3))
    images = torch.rand(1, 3, 16, 16)

    def call():
        activations = model(images)
        (gradients,) = torch.autograd.grad(activations.square().sum(), activations)
        ops.grad_cam(activations.detach(), gradients)
        images.clone()
        images.sigmoid()
        time.sleep(0.02)

    found = profile.profiled(call, CPU, 3)
    parts = {name: part for name, part, _, _ in found.operators}
    assert parts["aten::convolution"] == profile.MODEL
    assert parts["fastcam::grad_cam"] == profile.KERNELS
    assert parts["aten::sigmoid"] == profile.OTHER
    assert {part for name, part in parts.items() if name == "aten::clone"} == {profile.COPIES}
    assert {name: calls for name, _, calls, _ in found.operators}["aten::sigmoid"] == 1
    assert found.parts[profile.PYTHON] >= 20  # asleep
    assert all(found.parts[part] > 0 for part in (profile.MODEL, profile.KERNELS, profile.COPIES, profile.OTHER))
    assert found.parts[profile.WAITING] == 0
    assert not any(found.on_device.values())
    # Medians part by part do not add up exactly.
    assert sum(found.parts.values()) == pytest.approx(found.wall, rel=0.2)
    assert found.without >= 20


def test_the_backward_pass_counts_as_the_models(monkeypatch):
    monkeypatch.setattr(profile, "COSTLIEST", 1000)
    model = profile.Marked(nn.Conv2d(3, 4, 3))
    images = torch.rand(1, 3, 16, 16, requires_grad=True)
    found = profile.profiled(lambda: torch.autograd.grad(model(images).sum(), images), CPU, 2)
    parts = {name: part for name, part, _, _ in found.operators}
    assert parts["aten::convolution_backward"] == profile.MODEL


@pytest.mark.parametrize(("modules", "known", "length"), [(52, True, 52), (52, False, 52), (5, True, 5), (5, False, 7)])
def test_tiny_networks_have_as_many_modules(modules, known, length):
    assert len(profile.tiny(modules, known)) == length


def test_a_method_adds_time_or_does_not_suit():
    assert profile.added("cam", profile.tiny(7, known=True), CPU, rounds=5) > 0
    assert profile.added("cam", profile.tiny(7, known=False), CPU, rounds=5) is None
    assert profile.added("layer_cam", profile.tiny(7, known=False), CPU, rounds=5) > 0


def test_the_command_prints_parts_and_operators_and_refuses_what_is_slow(work, monkeypatch, capsys):  # noqa: F811
    arguments = ["profile", "grad_cam", "cam", *SMALL, "--repeats", "2"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as done:
        profile.main()
    assert done.value.code == 0
    printed = capsys.readouterr().out
    for words in ("model", "fastcam's kernels", "Python", "aten::", "100.0%", "Added to the forward pass of 4 tiny"):
        assert words in printed
    assert printed.count("whose gradient is known") == 2
    assert printed.count("that takes a backward pass") == 1  # CAM has no backward pass
    monkeypatch.setattr("sys.argv", [*arguments, "--at-most", "0"])
    with pytest.raises(SystemExit, match=r"grad_cam on cpu: adds \d+\.\d+ ms, more than 0\ncam on cpu: adds "):
        profile.main()
