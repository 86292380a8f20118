"""Forms of the arguments, and attributes of the methods, on which the package in Captum's place must agree with it."""

import subprocess
import sys

import captum.attr as peer
import pytest
import torch
from captum import metrics as peer_metrics
from torch import nn

from fastcam.compat.captum import attr as ours
from fastcam.compat.captum import metrics
from tests.compat.captum_calls import Small, quiet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return Small().eval().double()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 14, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def rows():
    return torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def product(*values):
    """A score of each row in which no two values play the same part."""
    flat = torch.cat([value.reshape(len(value), -1) for value in values], 1).double()
    weights = torch.linspace(-1, 2, flat.shape[1], dtype=torch.float64)
    return (flat * weights).sum(1).sin() * flat[:, 0] + (flat**2 * weights).sum(1)


def compare(run):
    """The same numbers from both modules, at least one of them not 0."""
    torch.manual_seed(3)
    with quiet():
        expected = run(peer)
    torch.manual_seed(3)
    found = run(ours)
    assert type(found) is type(expected)
    for mine, theirs in zip(*(each if isinstance(each, tuple) else (each,) for each in (found, expected)), strict=True):
        assert mine.shape == theirs.shape
        assert theirs.abs().max() > 0
        # Captum's ablations and quadratures round to float32.
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=1e-4, atol=1e-5)


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


class Joined(nn.Module):
    """Reads the additional argument row by row, and remembers the numbers of rows."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def forward(self, values, factor):
        self.seen.add((len(values), len(factor)))
        joined = torch.cat([values.reshape(len(values), -1), factor.reshape(len(factor), -1)], 1)
        return product(joined)


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("Saliency", {}),
        ("InputXGradient", {}),
        ("IntegratedGradients", {"n_steps": 5}),
        ("FeatureAblation", {}),
        ("FeatureAblation", {"perturbations_per_eval": 3}),
        ("Occlusion", {"sliding_window_shapes": (2,)}),
        ("Occlusion", {"sliding_window_shapes": (2,), "perturbations_per_eval": 2}),
    ],
)
def test_one_row_of_arguments_for_one_example(rows, name, given, shape):
    argument = torch.full(shape, 0.7, dtype=torch.float64)
    model = Joined()

    def plain(module):
        return getattr(module, name)(model).attribute(rows[:1].clone(), additional_forward_args=argument, **given)

    def noisy(module):
        tunnel = module.NoiseTunnel(getattr(module, name)(model))
        return tunnel.attribute(rows[:1].clone(), nt_samples=4, stdevs=0.1, additional_forward_args=argument, **given)

    compare(plain)
    compare(noisy)
    assert all(values == factors for values, factors in model.seen)


def test_one_value_for_all_copies_of_one_example(small, images):
    """An argument of one value may also be a setting of the model, which Captum's single perturbations leave alone."""
    temperature = torch.tensor([2.0], dtype=torch.float64)

    def run(module):
        method = module.FeatureAblation(lambda given, divisor: small(given) / divisor)
        mask = torch.arange(7).repeat_interleave(2).reshape(1, 1, 14, 1)
        return method.attribute(images[:1], target=1, additional_forward_args=temperature, feature_mask=mask)

    compare(run)


def test_one_target_for_one_example(small, images):
    """A tensor of one class selects it for all copies, in outputs of any rank."""

    def run(module):
        tunnel = module.NoiseTunnel(module.IntegratedGradients(lambda given: small(given)[:, :, None]))
        return tunnel.attribute(images[:1].clone(), nt_samples=2, n_steps=3, stdevs=0.1, target=torch.tensor([1]))

    compare(run)


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_sensitivity_repeats_one_row(rows, shape):
    model, argument = Joined(), torch.full(shape, 0.7, dtype=torch.float64)

    def run(module):
        measure = (peer_metrics if module is peer else metrics).sensitivity_max
        explain = module.Saliency(model).attribute
        return measure(explain, rows[:1].clone(), n_perturb_samples=4, additional_forward_args=argument)

    compare(run)
    assert model.seen == {(1, 1), (4, 4)}


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_infidelity_repeats_one_row(rows, shape):
    model, argument = Joined(), torch.full(shape, 0.7, dtype=torch.float64)

    def perturb(inputs):
        noise = 0.1 * torch.randn_like(inputs)
        return noise, inputs - noise

    def run(module):
        measure = (peer_metrics if module is peer else metrics).infidelity
        attributions = torch.ones(1, 5, dtype=torch.float64)
        return measure(
            model, perturb, rows[:1].clone(), attributions, n_perturb_samples=4, additional_forward_args=argument
        )

    compare(run)
    assert all(values == factors for values, factors in model.seen)


def test_layers_repeat_one_row(small, images):
    factor = torch.tensor([0.7], dtype=torch.float64)

    def forward(given, factor):
        return torch.cat([small(given), factor[:, None]], 1) ** 2 * factor[:, None]

    def run(module):
        method = module.LayerIntegratedGradients(forward, small.second)
        return method.attribute(
            images[:1].clone(), target=1, n_steps=4, additional_forward_args=factor, attribute_to_layer_input=True
        )

    compare(run)


BASELINES = [(3, 1, 1), (3, 3, 1, 1), (1, 3, 1, 1), (5,), (4, 5), (1, 1), (3, 1, 4, 5), (1,)]


@pytest.mark.parametrize("shape", BASELINES)
@pytest.mark.parametrize(
    ("name", "given"), [("Occlusion", {"sliding_window_shapes": (2, 2, 3)}), ("FeatureAblation", {})]
)
@pytest.mark.parametrize("at_once", [1, 2])
def test_baselines_that_broadcast(images, name, given, shape, at_once):
    baselines = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def run(module):
        method = getattr(module, name)(product)
        return method.attribute(images[:, :, :4, :5], baselines=baselines, perturbations_per_eval=at_once, **given)

    compare(run)


@pytest.mark.parametrize("shape", [(3, 1), (5,), (1,), (1, 5), ()])
@pytest.mark.parametrize(("name", "given"), [("Occlusion", {"sliding_window_shapes": (2,)}), ("FeatureAblation", {})])
def test_baselines_of_rows_that_broadcast(rows, name, given, shape):
    baselines = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    compare(lambda module: getattr(module, name)(product).attribute(rows, baselines=baselines, **given))


def test_as_many_channels_as_examples():
    """A baseline for each channel is not one for each example, however the examples are split into batches."""
    values = torch.randn(40, 40, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    baselines = torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(40, 1, 1)
    mask = torch.arange(4).repeat(10)[:, None, None]
    compare(lambda module: module.FeatureAblation(product).attribute(values, baselines=baselines, feature_mask=mask))


@pytest.mark.parametrize("baseline", [0.5, 2, torch.tensor([0.25, 0.5, 1, 2, 3])])
@pytest.mark.parametrize(("name", "given"), [("Occlusion", {"sliding_window_shapes": (2,)}), ("FeatureAblation", {})])
def test_fractions_in_the_place_of_integers(name, given, baseline):
    values = torch.arange(1, 11).reshape(2, 5)
    compare(lambda module: getattr(module, name)(product).attribute(values, baselines=baseline, **given))


def test_sensitivity_keeps_baselines_that_broadcast(images):
    baselines = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).reshape(3, 1, 1)

    def run(module):
        measure = (peer_metrics if module is peer else metrics).sensitivity_max
        explain = module.FeatureAblation(product).attribute
        return measure(explain, images[:, :, :3, :3], n_perturb_samples=2, baselines=baselines)

    compare(run)


def test_baselines_that_do_not_broadcast(rows):
    for name, given in (("Occlusion", {"sliding_window_shapes": (2,)}), ("FeatureAblation", {})):
        with pytest.raises(AssertionError, match=r"broadcasts to its input's, \(3, 5\); got \(2,\)"):
            getattr(ours, name)(product).attribute(rows, baselines=torch.zeros(2), **given)


@pytest.mark.parametrize(
    ("shapes", "strides"),
    [
        (((3, 1, 1),), None),
        (((3, 2, 2),), ((1, 2, 1),)),
        (((3, 2, 2),), (1, 2, 2)),
        ((3, 2, 2), (2,)),
        ((3, 2, 2), ((3, 2, 1),)),
        (((2, 2, 3),), 2),
    ],
)
@pytest.mark.parametrize("in_tuple", [False, True])
def test_windows_of_one_input(images, shapes, strides, in_tuple):
    part = images[:, :, :5, :4]

    def run(module):
        return module.Occlusion(product).attribute((part,) if in_tuple else part, shapes, strides=strides)

    compare(run)


@pytest.mark.parametrize(("shapes", "strides"), [(((2,),), None), ((2,), (2,)), (((3,),), ((2,),)), ((2,), ((1,),))])
def test_windows_of_rows(rows, shapes, strides):
    compare(lambda module: module.Occlusion(product).attribute(rows, shapes, strides=strides))


def test_windows_that_do_not_belong_to_the_inputs(rows):
    occlusion = ours.Occlusion(product)
    for shapes in ((2, 2), ((2,),), 2):
        with pytest.raises(AssertionError, match="a tuple of sides for each input, 2 in number"):
            occlusion.attribute((rows, rows), shapes)
    with pytest.raises(AssertionError, match="`strides` must be a tuple of one for each input, 2 in number"):
        occlusion.attribute((rows, rows), ((2,), (2,)), strides=2)
    with pytest.raises(AssertionError, match="one size for each axis"):
        occlusion.attribute(rows, ())


@pytest.mark.parametrize("strides", [None, (1, 2), ((), ())])
@pytest.mark.parametrize("baselines", [None, (0.5, 0.3), (torch.tensor([2.0, 1.0, -1.0]), torch.ones(1))])
@pytest.mark.parametrize("at_once", [1, 2])
def test_features_without_axes(rows, strides, baselines, at_once):
    pair = rows[:, 0], rows[:, 1]

    def run(module):
        return module.Occlusion(product).attribute(
            pair, ((), ()), strides=strides, baselines=baselines, perturbations_per_eval=at_once
        )

    compare(run)


def test_one_feature_without_axes_beside_others(rows):
    compare(lambda module: module.Occlusion(product).attribute((rows[:, 0], rows), ((), (2,))))
    compare(lambda module: module.Occlusion(product).attribute(rows[:, 0], ((),)))


MADE = {name: (nn.Linear(2, 2),) for name in ours.__all__ if name.startswith("Layer") or name == "GuidedGradCam"}


@pytest.mark.parametrize("name", [name for name in ours.__all__ if name not in ("NoiseTunnel", "LayerAttribution")])
def test_multiplies_by_inputs(name):
    mine, theirs = (getattr(module, name)(nn.Linear(2, 2), *MADE.get(name, ())) for module in (ours, peer))
    assert mine.multiplies_by_inputs == theirs.multiplies_by_inputs
    assert mine.has_convergence_delta() == theirs.has_convergence_delta()


WITHOUT_RICH = """
import sys
sys.modules["rich"] = None
import torch
from fastcam.compat.captum.attr import FeatureAblation, Occlusion
values = torch.arange(6.0).reshape(2, 3)
def score(given):
    return (given ** 2).sum(1)
print(FeatureAblation(score).attribute(values, show_progress=True).tolist())
print(Occlusion(score).attribute(values, (1,), show_progress=True).tolist())
"""


def test_progress_without_rich():
    run = subprocess.run([sys.executable, "-c", WITHOUT_RICH], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    values = torch.arange(6.0).reshape(2, 3)
    ablated = peer.FeatureAblation(lambda given: (given**2).sum(1)).attribute(values)
    assert run.stdout.splitlines() == [str(ablated.tolist())] * 2
    assert "explaining: 6 of 6" in run.stderr


@pytest.mark.parametrize(
    "given",
    [{}, {"perturbations_per_eval": 3}, {"feature_mask": torch.tensor([[0, 0, 1, 1]])}, {"baselines": 0.5}],
)
@pytest.mark.parametrize("columns", [0, 3])
def test_an_empty_batch(given, columns):
    def forward(values):
        return values.sum(1, keepdim=True).expand(-1, columns) if columns else values.sum(1)

    empty = torch.zeros(0, 4)
    for inputs in (empty, (empty,)):
        expected = peer.FeatureAblation(forward).attribute(inputs, **given)
        found = ours.FeatureAblation(forward).attribute(inputs, **given)
        assert type(found) is type(expected)
        mine, theirs = (each[0] if isinstance(each, tuple) else each for each in (found, expected))
        assert torch.equal(mine, theirs)
        assert mine.dtype == theirs.dtype
    occluded = (module.Occlusion(forward).attribute(empty, (2,)) for module in (peer, ours))
    assert [each.shape for each in occluded] == [(0, 4)] * 2


def test_a_sum_over_an_empty_batch():
    found, expected = (
        module.FeatureAblation(lambda values: values.sum() + 1).attribute(torch.zeros(0, 4)) for module in (ours, peer)
    )
    assert torch.equal(found, expected)
    assert found.shape == (1, 4)
