"""Grad-CAM: ReLU(sum_c w_c A_c) with w_c = 1/Z sum_p G_cp."""

import pytest
import torch

from fastcam import ops
from tests.ops import formulas
from tests.ops.op_tester import DTYPES, ReductionTester, close, random_pair, result_dtype


class TestGradCam(ReductionTester):
    op = "grad_cam"
    formula = staticmethod(formulas.grad_cam)


def test_by_hand():
    """Two channels with mean gradients 2 and -1."""
    activations = torch.tensor([[[[1.0, 2.0], [0.0, 4.0]], [[3.0, 0.0], [1.0, 4.0]]]])
    gradients = torch.tensor([[[[2.0, 4.0], [0.0, 2.0]], [[-4.0, 0.0], [1.0, -1.0]]]])
    assert ops.grad_cam(activations, gradients, relu=False).tolist() == [[[-1, 4], [-1, 4]]]
    assert ops.grad_cam(activations, gradients).tolist() == [[[0, 4], [0, 4]]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positions", [1101, 1102, 1103])
def test_layouts_with_room_between_planes(positions, dtype, device):
    """Planes that begin at multiples of 16 bytes, though they have no whole number of them."""
    a, g = (each[..., :positions] for each in random_pair((2, 5, 1104), None, dtype, device))
    expected = formulas.grad_cam(*(each.double().unsqueeze(1) for each in (a, g)))[:, 0].relu()
    close(ops.grad_cam(a, g), expected, result_dtype(dtype))
