"""Regions that a window changes, checked by hand and by brute force."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fastcam.incremental.layouts import Layout
from fastcam.incremental.regions import Region, Sliding, union
from fastcam.incremental.separable import Separable

MAPS = ("n", "c", "h", "w")


def region_of(low, high, shape):
    return Region.of(np.array([low]), np.array([high]), shape)


def test_regions_by_hand():
    """Kernel 3, stride 2, padding 1: output i reads 2i - 1 to 2i + 1."""
    step = Sliding((3, 3), (2, 2), (1, 1), (1, 1))
    after = step.output_region(region_of((4, 0), (8, 1), (16, 16)), (8, 8))
    assert (after.low.tolist(), after.high.tolist(), after.size) == ([[2, 0]], [[5, 1]], (3, 1))
    origins, size = step.input_windows(after)
    assert (origins.tolist(), size) == ([[3, -1]], (7, 3))
    both = union([region_of((1, 2), (3, 4), (8, 8)), region_of((2, 0), (6, 3), (8, 8))], (8, 8))
    assert (both.low.tolist(), both.high.tolist()) == ([[1, 0]], [[6, 4]])
    assert region_of((20, 3), (25, 9), (16, 16)).size == (1, 6)  # outside the map: an empty change


def test_patches_of_one_size_lie_inside():
    region = Region.of(np.array([[0, 0], [14, 5]]), np.array([[4, 2], [16, 16]]), (16, 16))
    assert region.size == (4, 11)
    assert region.origin.tolist() == [[0, 0], [12, 5]]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_sliding_output_region_contains_all_changes_and_no_more(data):
    """Compare with a convolution of ones, whose output is nonzero wherever it reads a change."""
    draw = data.draw
    kernel, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    padding = draw(st.integers(0, dilation * (kernel - 1)))
    length = draw(st.integers(dilation * (kernel - 1) + 1, 20))
    low = draw(st.integers(0, length - 1))
    high = draw(st.integers(low + 1, length))
    changed = torch.zeros(1, 1, length, length, dtype=torch.float64)
    changed[..., low:high, low:high] = 1
    weight = torch.ones(1, 1, kernel, kernel, dtype=torch.float64)
    positions = F.conv2d(changed, weight, None, stride, padding, dilation)[0, 0].sum(1).nonzero().flatten()
    step = Sliding((kernel,) * 2, (stride,) * 2, (padding,) * 2, (dilation,) * 2)
    size = F.conv2d(changed, weight, None, stride, padding, dilation).shape[2:]
    after = step.output_region(region_of((low, low), (high, high), (length, length)), size)
    region = range(int(after.low[0, 0]), int(after.high[0, 0]))
    assert set(positions.tolist()) <= set(region)
    if len(positions) and dilation == 1 and stride <= kernel:
        assert positions.min() == region.start
        assert positions.max() == region.stop - 1


RESAMPLINGS = {
    "bilinear": lambda x: F.interpolate(x, (11, 17), mode="bilinear"),
    "reflected": lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
    "zeros": lambda x: F.pad(x, (5, 2, 3, 0)),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (5, 4)),
    "cut": lambda x: x[:, :, 2:7],
}


@pytest.mark.parametrize("name", RESAMPLINGS)
def test_separable_operations_are_two_matrices(name):
    run, maps = RESAMPLINGS[name], torch.randn(3, 4, 9, 12, dtype=torch.float64)
    separable = Separable.of(run, (9, 12))
    torch.testing.assert_close(torch.einsum("ij,ncjk,lk->ncil", separable.rows, maps, separable.columns), run(maps))
    region = Region.of(np.array([[2, 3], [0, 9], [4, 1]]), np.array([[4, 6], [2, 12], [6, 3]]), (9, 12))
    after = separable.output_region(region)
    origins, size = separable.input_windows(after)
    windows = torch.stack(
        [image[:, y : y + size[0], x : x + size[1]] for image, (y, x) in zip(maps, origins, strict=True)]
    )
    expected = torch.stack(
        [
            image[:, y : y + after.size[0], x : x + after.size[1]]
            for image, (y, x) in zip(run(maps), after.origin, strict=True)
        ]
    )
    torch.testing.assert_close(separable(windows, origins, after), expected)
    other = maps.clone()
    for image, low, high in zip(other, region.low, region.high, strict=True):
        image[:, low[0] : high[0], low[1] : high[1]] += 1
    for change, low, high in zip((run(other) - run(maps)).abs().sum(1), after.low, after.high, strict=True):
        outside = change.clone()
        outside[low[0] : high[0], low[1] : high[1]] = 0
        assert not outside.any()  # all changes lie in the region


def test_layouts_after_views():
    maps = Layout(MAPS, (5, 7))
    shuffled = maps.view((1, 6, 5, 7), (1, 2, 3, 5, 7))
    assert shuffled.labels == ("n", "c", "c", "h", "w")
    assert shuffled.permute([0, 2, 1, 3, 4]).view((1, 3, 2, 5, 7), (1, 6, 5, 7)) == maps
    last = maps.permute([0, 2, 3, 1])
    rows = last.view((1, 5, 7, 6), (35, 6))
    assert rows.labels == ("nhw", "c")
    assert rows.view((35, 6), (1, 5, 7, 6)) == last
    assert rows.shape((35, 6), 4, (2, 3)) == [24, 6]
    tokens = maps.view((1, 6, 5, 7), (1, 6, 35)).permute([0, 2, 1])
    assert tokens.labels == ("n", "hw", "c")
    assert tokens.has_positions
    flat = maps.view((1, 6, 5, 7), (1, 210))
    assert not flat.has_positions
    assert flat.shape((1, 210), 4, None) == [4, 210]


@pytest.mark.parametrize(
    "labels", [MAPS, ("n", "h", "w", "c"), ("n", "hw", "c"), ("nhw", "c"), ("n", "c", "c", "h", "w")]
)
def test_layouts_as_maps_and_back(labels):
    layout, count, size = Layout(labels, (5, 7)), 3, (2, 4)
    clean = {"n": 1, "c": 6, "h": 5, "w": 7}
    shape = [int(np.prod([clean[letter] for letter in label])) for label in labels]
    tensor = torch.arange(float(np.prod(layout.shape(shape, count, size)))).reshape(layout.shape(shape, count, size))
    maps = layout.as_maps(tensor, count, size)
    assert maps.shape == (count, 36 if labels.count("c") == 2 else 6, *size)
    assert torch.equal(layout.from_maps(maps, shape), tensor)
    if labels == ("n", "h", "w", "c"):
        assert torch.equal(maps, tensor.permute(0, 3, 1, 2))
