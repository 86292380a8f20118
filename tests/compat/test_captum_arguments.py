"""One row of further arguments, empty batches, progress, and what the methods say of themselves."""

import subprocess
import sys

import captum.attr as peer
import pytest
import torch
from captum import metrics as peer_metrics
from torch import nn

from fastcam.compat.captum import attr as ours
from fastcam.compat.captum import metrics
from tests.compat.captum_calls import compare, product

pytestmark = pytest.mark.usefixtures("one_thread")


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


MADE = {
    name: (nn.Linear(2, 2),) for name in vars(ours)["__all__"] if name.startswith("Layer") or name == "GuidedGradCam"
}


@pytest.mark.parametrize(
    "name", [name for name in vars(ours)["__all__"] if name not in ("NoiseTunnel", "LayerAttribution")]
)
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
