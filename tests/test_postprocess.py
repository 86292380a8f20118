"""Resizing, fusing and judging maps."""

import pytest
import torch
import torch.nn.functional as F

from fastcam import postprocess

pytestmark = pytest.mark.usefixtures("one_thread")

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
SIZES = {1: ((5,), (13,)), 2: ((4, 5), (9, 17)), 3: ((3, 4, 2), (5, 9, 6))}


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("lead", [(2,), (2, 3)], ids=["N", "N x K"])
@pytest.mark.parametrize("factor", ["up", "down", "same"])
def test_resize(factor, lead, axes):
    small, large = SIZES[axes]
    source, size = {"up": (small, large), "down": (large, small), "same": (small, small)}[factor]
    maps = torch.randn(*lead, *source)
    flat = maps.reshape(-1, 1, *source)
    expected = F.interpolate(flat, size=size, mode=MODES[axes], align_corners=False).reshape(*lead, *size)
    torch.testing.assert_close(postprocess.resize(maps, size, False), expected, rtol=1e-5, atol=1e-6)
    positions = tuple(range(-axes, 0))
    low, high = expected.amin(positions, keepdim=True), expected.amax(positions, keepdim=True)
    scaled = postprocess.resize(maps, size, True)
    torch.testing.assert_close(scaled, (expected - low) / (high - low), rtol=0, atol=1e-5)
    torch.testing.assert_close(scaled.amin(positions), torch.zeros(lead), rtol=0, atol=1e-6)
    torch.testing.assert_close(scaled.amax(positions), torch.ones(lead), rtol=0, atol=1e-6)


def test_resize_does_not_change_its_input():
    maps = torch.randn(2, 3, 3)
    before = maps.clone()
    for normalize in (True, False):
        postprocess.resize(maps, (3, 3), normalize).add_(1)
    assert torch.equal(maps, before)


def test_fuse_by_hand():
    first = torch.tensor([[[0.0, 2.0], [4.0, 8.0]]])
    second = torch.tensor([[[5.0, 3.0], [1.0, 1.0]]])
    scaled = [[[0.0, 0.25], [0.5, 1.0]], [[1.0, 0.5], [0.0, 0.0]]]
    assert postprocess.fuse([first, second], (2, 2), "mean").tolist() == [[[0.5, 0.375], [0.25, 0.5]]]
    assert postprocess.fuse([first, second], (2, 2), "max").tolist() == [[[1.0, 0.5], [0.5, 1.0]]]
    assert postprocess.fuse([first], (2, 2), "mean").tolist() == [scaled[0]]


def test_finest():
    assert postprocess.largest_size([torch.zeros(2, 4, 9), torch.zeros(2, 6, 7), torch.zeros(2, 1, 1)], 2) == (6, 7)
    assert postprocess.largest_size([torch.zeros(2, 50, 4), torch.zeros(2, 50, 6)], 1) == (6,)
    assert postprocess.largest_size([torch.zeros(2, 9, 1, 2, 3), torch.zeros(2, 9, 2, 2, 2)], 3) == (2, 2, 2)


NAN, INF = float("nan"), float("inf")


def status_of(maps, scores):
    return postprocess.statuses(postprocess.causes(maps, scores))


@pytest.mark.parametrize(
    ("values", "score", "status"),
    [
        ([1.0, 2.0], 0.0, "ok"),
        ([2.0, 2.0], 0.0, "constant map"),
        ([0.0, -0.0], 0.0, "constant map"),
        ([1.0, NAN], 0.0, "non-finite"),
        ([INF, INF], 0.0, "non-finite"),
        ([NAN, NAN], 0.0, "non-finite"),
        ([1.0, -INF], 0.0, "non-finite"),
        ([1.0, 2.0], NAN, "non-finite"),
        ([2.0, 2.0], INF, "non-finite"),
    ],
)
def test_status(values, score, status):
    maps, scores = torch.tensor([[1.0, 2.0], values]), torch.tensor([0.0, score])
    assert status_of(maps, scores) == ["ok", status]
    stacked = torch.stack([maps, maps.flip(0)])[..., None]
    assert status_of(stacked, torch.stack([scores, scores.flip(0)])) == [["ok", status], [status, "ok"]]


def test_one_position_is_constant():
    assert status_of(torch.tensor([[[3.0]]]), torch.zeros(1)) == ["constant map"]
    assert postprocess.resize(torch.tensor([[[3.0]]]), (4, 4), True).eq(0).all()
