"""The function that a method takes its gradients from, replaced and called."""

import pytest
import torch

from fastcam.compat.captum import attr as ours
from tests.compat.captum_calls import compare, product

pytestmark = pytest.mark.usefixtures("one_thread")


def doubled_cube(forward_fn, inputs, target_ind=None, additional_forward_args=None):
    """Gradients that no model has, from all four arguments."""
    with torch.enable_grad():
        leaves = tuple(tensor.detach().requires_grad_() for tensor in inputs)
        scores = forward_fn(*leaves, *(additional_forward_args or ()))[:, target_ind]
        return tuple(2 * each**3 for each in torch.autograd.grad(scores.sum(), leaves))


REPLACED = {
    "Saliency": {},
    "InputXGradient": {},
    "IntegratedGradients": {"n_steps": 4},
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_gradient_function_is_called(small, images, name):
    factor = torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)

    def run(module):
        method = getattr(module, name)(small)
        method.gradient_func = doubled_cube
        return method.attribute(images.clone(), target=1, additional_forward_args=(None, factor), **REPLACED[name])

    compare(run)
    assert not torch.allclose(run(ours), getattr(ours, name)(small).attribute(images, target=1, **REPLACED[name]))


def test_gradient_shap_hands_its_gradient_function_on(rows):
    def gradients(forward_fn, inputs, target_ind, additional_forward_args):
        return tuple(torch.full_like(tensor, 3) for tensor in inputs)

    def run(module):
        method = module.GradientShap(product)
        method.gradient_func = gradients
        return method.attribute(rows.clone(), baselines=torch.ones(1, 5, dtype=torch.float64), n_samples=2)

    compare(run)
    torch.testing.assert_close(run(ours), 3 * (rows - 1))


def test_a_gradient_function_reaches_through_noise(rows):
    def run(module):
        method = module.IntegratedGradients(product)
        method.gradient_func = lambda forward_fn, inputs, target_ind, additional_forward_args: tuple(
            tensor.exp() for tensor in inputs
        )
        return module.NoiseTunnel(method).attribute(rows.clone(), nt_samples=3, stdevs=0.1, n_steps=3)

    compare(run)


def test_a_wrapped_gradient_function(small, images):
    def run(module):
        method = module.IntegratedGradients(small)
        original = method.gradient_func
        method.gradient_func = lambda *given, **named: tuple(7 * each for each in original(*given, **named))
        return method.attribute(images.clone(), target=2, n_steps=3)

    compare(run)


@pytest.mark.parametrize("pair", [False, True])
def test_a_subclass_calls_the_gradient_function(small, images, pair):
    def run(module):
        class Squared(module.GradientAttribution):
            def attribute(self, inputs, target=None, additional_forward_args=None):
                found = self.gradient_func(self.forward_func, inputs, target, additional_forward_args)
                return tuple(each.square() for each in found)

        inputs = tuple(tensor.clone().requires_grad_() for tensor in (images, images.flip(0)))
        given = (inputs, [1, 2, 0], (None,)) if pair else (inputs[0], [1, 2, 0], (None, 0.5))
        return Squared(small).attribute(*given)

    compare(run)


@pytest.mark.parametrize(
    "name",
    ["LayerGradCam", "LayerGradientXActivation", "LayerIntegratedGradients", "GuidedGradCam"],
)
def test_gradients_at_a_layer_cannot_be_replaced(small, name):
    method = getattr(ours, name)(small, small.second)
    with pytest.raises(AttributeError, match=rf"{name}\.gradient_func must stay as it is, got .*doubled_cube"):
        method.gradient_func = doubled_cube
    if name == "LayerIntegratedGradients":
        with pytest.raises(AttributeError, match="would not call the function"):
            method.ig.gradient_func = doubled_cube


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
def test_gradients_with_another_rule_cannot_be_replaced(small, name):
    method = getattr(ours, name)(small)
    with pytest.raises(AttributeError, match="its own backward rules"):
        method.gradient_func = doubled_cube
