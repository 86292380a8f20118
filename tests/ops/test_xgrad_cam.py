"""XGrad-CAM: w_c = sum_p A_cp G_cp / (sum_p A_cp + eps)."""

import pytest
import torch

from tests.ops import formulas
from tests.ops.op_tester import ReductionTester, channels_last, contiguous, named, random_pair


class TestXGradCam(ReductionTester):
    op = "xgrad_cam"
    formula = staticmethod(formulas.xgrad_cam)

    @staticmethod
    def away_from_kinks(shape, targets):
        """Also away from a sum of 0: positive activations; with gradients that make maps of both signs."""
        activations, gradients = (each.detach().abs() for each in ReductionTester.away_from_kinks(shape, targets))
        gradients[1:] *= -1
        return activations.add(0.1).requires_grad_(), gradients.requires_grad_()

    @pytest.mark.usefixtures("kernels")
    @pytest.mark.parametrize("layout", named([contiguous, channels_last]))
    @pytest.mark.parametrize("eps", [0.0, 1e-7, 0.5, 30.0])
    def test_eps(self, eps, layout):
        for dtype in (torch.float32, torch.float64):
            activations, gradients = random_pair((2, 9, 5, 3), 2, dtype)
            self.check(layout(activations, 1), layout(gradients, 2), eps=eps)

    @pytest.mark.usefixtures("kernels")
    @pytest.mark.parametrize("layout", named([contiguous, channels_last]))
    def test_dead_channels(self, layout):
        """A channel that is 0 everywhere adds nothing: 0 / eps."""
        activations, gradients = random_pair((2, 9, 5, 3))
        activations[:, 1::3] = 0
        self.check(layout(activations, 1), layout(gradients, 1))
        activations[:] = 0
        assert (self.call(layout(activations, 1), gradients) == 0).all()

    @pytest.mark.usefixtures("kernels")
    def test_negative_activations(self):
        """Sums of either sign, none near 0."""
        activations, gradients = random_pair((2, 9, 5, 3))
        self.check((activations + 0.3) * torch.tensor([1.0, -1.0, 2.0]).repeat(3)[:, None, None], gradients)
