"""How far two models are apart, by hand."""

import math

import pytest
import scipy.stats
import torch
from torch import nn

import fastcam
from fastcam.model.inputs import Inputs
from fastcam.preparation.agreement import Difference, Observation, observe, spearman
from tests.support.conv_net import conv_net, images_for


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_is_that_of_scipy(ties):
    a, b = torch.randn(2, 50, dtype=torch.float64)
    if ties:
        a, b = a.round(), b.clamp(min=0)
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_of_equal_and_of_reversed():
    a = torch.arange(5.0)
    assert (spearman(a, a), spearman(torch.ones(3), torch.ones(3))) == (1.0, 1.0)
    assert spearman(a, -a) == pytest.approx(-1.0)


def test_differences_are_shares_of_the_range():
    maps = torch.tensor([[0.0, 1, 2, 4]], dtype=torch.float64)
    first = Observation([torch.tensor([[0.0, 10.0]])], None, maps)
    second = Observation([torch.tensor([[0.0, 9.0]])], None, maps + torch.tensor([[0.0, 0, 3, 0]]))
    found = first.compare(second)
    assert (found.outputs, found.maps) == (0.1, 0.75)
    assert found.rank == pytest.approx(scipy.stats.spearmanr(maps[0], second.maps[0]).statistic)


def test_outputs_of_other_shapes_are_infinitely_far():
    assert (
        Observation([torch.ones(2)], None, None).compare(Observation([torch.ones(3)], None, None)).outputs == math.inf
    )


@pytest.mark.parametrize(
    ("difference", "tolerance", "rounding", "excess"),
    [
        (Difference(9e-5, 9e-5, 0.5), None, "fp32", None),
        (Difference(2e-4, 0.0, 1.0), None, "fp32", "outputs differ by 2.0e-04, more than 1e-04"),
        (Difference(0.0, 2e-4, 1.0), None, "fp32", "maps differ by 2.0e-04, more than 1e-04"),
        (Difference(0.0, 2e-4, 1.0), 1e-3, "fp32", None),
        (Difference(0.05, 0.5, 0.995), None, "half", None),
        (Difference(0.05, 0.5, 0.98), None, "half", "the ranks of the maps differ by 2.0e-02, more than 1e-02"),
        (Difference(0.2, 0.5, 1.0), None, "half", "outputs differ by 2.0e-01, more than 1e-01"),
        (Difference(math.nan), None, "half", "outputs differ by nan, more than 1e-01"),
        (Difference(0.0), None, "fp32", None),
        (Difference(4e-3, 4e-3, 0.9), None, "tf32", None),
        (Difference(0.0, 6e-3, 1.0), None, "tf32", "maps differ by 6.0e-03, more than 5e-03"),
    ],
)
def test_what_is_too_much(difference, tolerance, rounding, excess):
    assert difference.excess(tolerance, rounding) == excess


def test_observed_maps_are_grad_cam_of_the_highest_class():
    model, images = conv_net(), images_for()
    found = observe(model, inputs=Inputs.of(images), layer="features")
    expected = fastcam.explain(model, images, "grad_cam", target_layer="features", relu=False)
    assert torch.equal(found.classes, expected.targets)
    torch.testing.assert_close(found.maps, expected.native.flatten(1).double())
    torch.testing.assert_close(found.outputs[0], expected.output.double())
    other = observe(model, inputs=Inputs.of(images), layer="features", classes=torch.tensor([1, 2]))
    expected = fastcam.explain(model, images, "grad_cam", [1, 2], "features", relu=False)
    torch.testing.assert_close(other.maps, expected.native.flatten(1).double())


def test_without_classes_there_are_no_maps():
    found = observe(nn.Conv2d(3, 4, 1), inputs=Inputs.of(images_for()), layer=None)
    assert found.maps is None
    assert len(found.outputs) == 1
