"""Grad-CAM: ReLU(sum_c w_c A_c) with w_c = 1/Z sum_p G_cp."""

import torch

from fastcam import ops
from tests.ops import formulas
from tests.ops.op_tester import ReductionTester


class TestGradCam(ReductionTester):
    op = "grad_cam"
    formula = staticmethod(formulas.grad_cam)


def test_by_hand():
    """Two channels with mean gradients 2 and -1."""
    activations = torch.tensor([[[[1.0, 2.0], [0.0, 4.0]], [[3.0, 0.0], [1.0, 4.0]]]])
    gradients = torch.tensor([[[[2.0, 4.0], [0.0, 2.0]], [[-4.0, 0.0], [1.0, -1.0]]]])
    assert ops.grad_cam(activations, gradients, relu=False).tolist() == [[[-1, 4], [-1, 4]]]
    assert ops.grad_cam(activations, gradients).tolist() == [[[0, 4], [0, 4]]]
