"""LayerCAM: ReLU(sum_c ReLU(G_cp) A_cp)."""

import torch

from tests.ops import formulas
from tests.ops.op_tester import ReductionTester, random_pair


class TestLayerCam(ReductionTester):
    op = "layer_cam"
    formula = staticmethod(formulas.layer_cam)

    def test_negative_gradients_add_nothing(self):
        """The inner ReLU stays when the outer one is off, and the outer one cuts what negative activations add."""
        activations, gradients = random_pair((2, 9, 5, 3))
        assert (self.call(activations, -gradients.abs()) == 0).all()
        assert (self.call(-activations, gradients.abs()) < 0).any()
        assert (self.call(-activations, gradients.abs(), relu=True) == 0).all()
        self.check(torch.randn_like(activations), gradients)
