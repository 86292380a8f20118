"""Occlusion from a coarse grid and where it matters: numbers by hand, and the full sweep beside it."""

import pytest
import torch

import fastcam
from fastcam.methods.refinement import refine_grid
from fastcam.preparation.agreement import spearman
from tests.support.networks import efficientnet_lite0, photographs, small_images, small_network


def by_hand(grid, values, share, clean=0.0):
    """A grid of scores whose values are known, and the places that were asked for."""
    asked = []

    def run(places):
        asked.append(places.tolist())
        return {"scores": values[places], "top_class": places // 2}

    return refine_grid(grid, share, torch.tensor(clean), run), asked


def test_a_line_by_hand():
    values = torch.tensor([0.0, 9.0, 2.0, 9.0, 6.0, 9.0, 8.0, 1.0])
    found, asked = by_hand([8], values, 0.0)
    assert asked == [[0, 2, 4, 6, 7]]
    torch.testing.assert_close(found["scores"], torch.tensor([0.0, 1.0, 2.0, 4.0, 6.0, 7.0, 8.0, 1.0]))
    assert found["measured"].tolist() == [True, False, True, False, True, False, True, True]
    assert found["top_class"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    found, asked = by_hand([8], values, 0.34)
    assert asked == [[0, 2, 4, 6, 7], [5]]  # 7, interpolated, is farthest from 0
    torch.testing.assert_close(found["scores"], torch.tensor([0.0, 1.0, 2.0, 4.0, 6.0, 9.0, 8.0, 1.0]))
    _, asked = by_hand([8], values, 0.67, clean=7.0)
    assert asked[1] == [1, 3]


def test_a_plane_is_met_exactly():
    """What is linear along both axes is what lies between the places that were tried."""
    rows, columns = torch.meshgrid(torch.arange(7.0), torch.arange(9.0), indexing="ij")
    plane = (2 * rows - columns + 0.5 * rows * columns).double()
    found, asked = by_hand([7, 9], plane.flatten(), 0.0)
    torch.testing.assert_close(found["scores"], plane.flatten())
    assert len(asked[0]) == 4 * 5


@pytest.mark.parametrize("engine", ["dense", "incremental"])
def test_all_windows_are_the_full_sweep(engine):
    model, images = small_network("mlp").double(), small_images().double()
    options = {"window": 3, "stride": 1, "engine": engine}
    full = fastcam.explain(model, images, "occlusion", [[0, 1], [2, 3]], **options)
    found = fastcam.explain(model, images, "occlusion", [[0, 1], [2, 3]], refine=1.0, **options)
    for name, each in full.details.items():
        torch.testing.assert_close(found.details[name], each, rtol=0, atol=1e-12)
    assert found.details["measured"].all()
    some = fastcam.explain(model, images, "occlusion", [[0, 1], [2, 3]], refine=0.3, **options)
    measured = some.details["measured"][:, None].expand_as(full.details["grid"])
    torch.testing.assert_close(some.details["grid"][measured], full.details["grid"][measured], rtol=0, atol=1e-12)
    assert 0.3 < measured.double().mean() < 0.6


def test_windows_of_any_shape():
    mask = torch.tensor([[True, False], [True, True]])
    found = fastcam.explain(small_network("gap"), small_images(), "occlusion", 1, window=mask, stride=1, refine=0.2)
    full = fastcam.explain(small_network("gap"), small_images(), "occlusion", 1, window=mask, stride=1)
    measured = found.details["measured"]
    torch.testing.assert_close(found.details["grid"][measured], full.details["grid"][measured])


def test_real_photographs():
    """Less than half of the windows, nearly the same order of the pixels."""
    options = {"window": 48, "stride": 16}
    images = photographs()[:1]
    full = fastcam.explain(efficientnet_lite0(), images, "occlusion", 281, **options)
    found = fastcam.explain(efficientnet_lite0(), images, "occlusion", 281, refine=0.2, **options)
    assert found.details["measured"].double().mean() < 0.5
    assert spearman(found.native, full.native) > 0.9


@pytest.mark.parametrize("share", [-0.1, 1.5, True, "half"])
def test_shares_that_are_none(share):
    with pytest.raises(ValueError, match="`refine` must be a share from 0 to 1, or None for every window; got"):
        fastcam.explain(small_network("gap"), small_images(), "occlusion", 1, window=3, refine=share)
