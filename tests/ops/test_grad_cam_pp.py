"""Grad-CAM++: w_c = sum_p alpha ReLU(G), alpha = G^2 / (2 G^2 + (sum_p A) G^3)."""

import pytest
import torch

from tests.ops import formulas
from tests.ops.op_tester import DTYPES, ReductionTester, channels_last, contiguous, named, random_pair


class TestGradCamPP(ReductionTester):
    op = "grad_cam_pp"
    formula = staticmethod(formulas.grad_cam_pp)

    @staticmethod
    def away_from_kinks(shape, targets):
        """Also away from the pole 2 + S G = 0: small activations."""
        activations, gradients = ReductionTester.away_from_kinks(shape, targets)
        return activations.detach().mul(0.1).requires_grad_(), gradients

    @pytest.mark.usefixtures("kernels")
    @pytest.mark.parametrize("layout", named([contiguous, channels_last]))
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_negative_sums(self, dtype, layout):
        """Channels whose activations sum to less than 0, where the denominator 2 + S G has either sign."""
        activations, gradients = random_pair((2, 9, 5, 3), None, dtype)
        activations = -activations
        activations[:, ::3] *= 0.01
        self.check(layout(activations, 1), layout(gradients, 1))

    @pytest.mark.usefixtures("kernels")
    @pytest.mark.parametrize("layout", named([contiguous, channels_last]))
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    def test_tiny_gradients(self, dtype, layout):
        """Gradients whose squares and cubes underflow in float32; the paper's form holds in float64."""
        activations, gradients = random_pair((2, 9, 5, 3), None, dtype)
        self.check(layout(activations, 1), layout(gradients * 1e-25, 1))

    @pytest.mark.usefixtures("kernels")
    @pytest.mark.parametrize("layout", named([contiguous, channels_last]))
    def test_zero_denominator(self, layout):
        """2 G^2 + S G^3 = 0 for G = -2 / S, exactly: alpha is 0 there. And with G = 0 everywhere the map is 0."""
        activations = torch.full((1, 5, 2, 2), 0.25)
        activations[:, 3] = -0.25
        gradients = torch.full((1, 5, 2, 2), 2.0)
        gradients[:, 4] = -2.0
        self.check(layout(activations, 1), layout(gradients, 1))
        assert self.call(layout(activations, 1), layout(gradients, 1)).isfinite().all()
        assert (self.call(activations, torch.zeros_like(gradients)) == 0).all()
