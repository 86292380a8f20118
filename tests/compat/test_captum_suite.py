"""Kinds of cases from Captum's own suite: compiled models, wrappers, sparse and boolean inputs, mixing, refusals."""

import captum.attr as peer
import pytest
import torch
from captum import metrics as peer_metrics
from torch import nn

from fastcam.compat.captum import attr as ours
from fastcam.compat.captum import metrics
from tests.compat.captum_calls import CALLS, compare, method, product, quiet, refusal

pytestmark = pytest.mark.usefixtures("one_thread")
OF_INPUTS = {
    "Saliency": {},
    "InputXGradient": {},
    "IntegratedGradients": {"n_steps": 5},
    "FeatureAblation": {},
    "Occlusion": {"sliding_window_shapes": (2,)},
}
TARGETS = [1, (1,), torch.tensor(1), torch.tensor([1]), [1, 0, 2], torch.tensor([1, 0, 2]), [(1,), (0,), (2,)]]


class Rows(nn.Module):
    """Two linear layers with a rectifier between them, which may work in place."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.front, self.relu, self.back = nn.Linear(5, 6), nn.ReLU(inplace), nn.Linear(6, 4)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return self.back(self.relu(self.front(given))) ** 2


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Rows().double().eval()


def metrics_of(module):
    return peer_metrics if module is peer else metrics


def compiled(net, kind):
    return torch.jit.script(net) if kind == "scripted" else torch.jit.trace(net, torch.zeros(3, 5, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["scripted", "traced"])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("name", OF_INPUTS)
def test_compiled_models(net, rows, name, noisy, kind):
    model = compiled(net, kind)

    def run(module, forward=model):
        made = getattr(module, name)(forward)
        options = dict(OF_INPUTS[name], target=[1, 0, 2])
        if noisy:
            made, options = module.NoiseTunnel(made), options | {"nt_samples": 3, "stdevs": 0.1}
        torch.manual_seed(1)
        return made.attribute(rows.clone(), **options)

    compare(run)
    torch.testing.assert_close(run(ours), run(ours, net))


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("inner", ["Saliency", "IntegratedGradients", "Occlusion"])
def test_targets_of_many_copies(net, rows, inner, target):
    def run(module):
        tunnel = module.NoiseTunnel(getattr(module, inner)(net))
        return tunnel.attribute(rows.clone(), target=target, nt_samples=4, stdevs=0.1, **OF_INPUTS[inner])

    def sensitivity(module):
        explain = getattr(module, inner)(net).attribute
        return metrics_of(module).sensitivity_max(explain, rows.clone(), target=target, **OF_INPUTS[inner])

    compare(run)
    compare(sensitivity)


@pytest.mark.parametrize("name", ["DeepLift", "DeepLiftShap", "LRP", "FeaturePermutation"])
def test_captums_own_methods_in_our_measures(rows, name):
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    given = {"baselines": torch.zeros(3, 5, dtype=torch.float64)} if name == "DeepLiftShap" else {}

    def noisy(module):
        made = module.NoiseTunnel(getattr(module, name)(net))
        return made.attribute(rows.clone(), target=[1, 0, 2], nt_samples=3, stdevs=0.1, **given)

    def sensitivity(module):
        explain = getattr(module, name)(net).attribute
        return metrics_of(module).sensitivity_max(explain, rows.clone(), target=1, n_perturb_samples=3, **given)

    def infidelity(module):
        found = getattr(module, name)(net).attribute(rows.clone(), target=1, **given)
        moved = lambda values: (0.1 * values, 0.9 * values)  # noqa: E731
        return metrics_of(module).infidelity(net, moved, rows.clone(), found, target=1)

    for run in (noisy, sensitivity, infidelity):
        compare(run)


NEURONS = {
    "NeuronGradient": {},
    "NeuronIntegratedGradients": {"n_steps": 5},
    "NeuronGuidedBackprop": {},
    "NeuronDeconvolution": {},
    "NeuronFeatureAblation": {},
    "NeuronGradientShap": {"baselines": torch.zeros(2, 5, dtype=torch.float64)},
    "NeuronDeepLift": {},
}


@pytest.mark.parametrize("name", NEURONS)
def test_neurons(net, rows, name):
    compare(lambda module: getattr(module, name)(net, net.front).attribute(rows.clone(), 2, **NEURONS[name]))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("at_input", [False, True])
@pytest.mark.parametrize("layer", ["front", "relu", "back"])
def test_activations_of_rows(rows, layer, at_input, inplace):
    torch.manual_seed(0)
    model = Rows(inplace).double()
    if inplace and layer != "back":
        layer = "relu" if not at_input else "front"  # the rectifier overwrites the other two in both packages
    made = lambda module: module.LayerActivation(model, getattr(model, layer))  # noqa: E731
    compare(lambda module: made(module).attribute(rows, attribute_to_layer_input=at_input))


@pytest.mark.parametrize("name", ["LayerIntegratedGradients", "LayerGradientXActivation", "LayerActivation"])
def test_a_layer_put_before_the_model(net, rows, name):
    """An identity for each input, so that methods at layers explain the inputs."""
    given = {} if name == "LayerActivation" else {"target": 1}
    given |= {"n_steps": 5} if "Integrated" in name else {}

    def run(module):
        wrapper = __import__(f"{module.__name__}._utils.input_layer_wrapper", fromlist=["ModelInputWrapper"])
        model = wrapper.ModelInputWrapper(net)
        return getattr(module, name)(model, model.input_maps["given"]).attribute(rows.clone(), **given)

    compare(run)
    of_inputs = {"LayerIntegratedGradients": "IntegratedGradients", "LayerGradientXActivation": "InputXGradient"}
    if name in of_inputs:
        torch.testing.assert_close(run(ours), getattr(ours, of_inputs[name])(net).attribute(rows, **given))


class Words(nn.Module):
    """A score from the embeddings of token numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.fc = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.fc(self.embedding(tokens).tanh().mean(1))


def test_token_numbers():
    torch.manual_seed(0)
    model, tokens = Words().double(), torch.tensor([[1, 2, 3, 8], [4, 0, 5, 7]])

    def layer(module):
        return module.LayerIntegratedGradients(model, model.embedding).attribute(
            tokens, baselines=torch.zeros_like(tokens), target=1, n_steps=5
        )

    def embedded(module):
        wrapped = module.configure_interpretable_embedding_layer(model, "embedding")
        try:
            return module.IntegratedGradients(model).attribute(wrapped.indices_to_embeddings(tokens), target=1)
        finally:
            module.remove_interpretable_embedding_layer(model, wrapped)

    for run in (layer, embedded):
        compare(run)
    compare(lambda module: module.FeatureAblation(model).attribute(tokens, baselines=0, target=1))
    compare(lambda module: module.Occlusion(model).attribute(tokens, (2,), baselines=6, target=1))


@pytest.mark.parametrize("baselines", [None, True, (False, 1), (torch.tensor([[True, False, True]]), 0.5)], ids=str)
@pytest.mark.parametrize("at_once", [1, 2])
def test_boolean_and_float_inputs(rows, baselines, at_once):
    flags = torch.tensor([[True, False, True], [False, True, True], [True, True, False]])
    given = (flags, rows) if isinstance(baselines, tuple | None) else flags

    def run(module):
        return module.FeatureAblation(product).attribute(given, baselines=baselines, perturbations_per_eval=at_once)

    compare(run)


MASKS = {
    "one feature of both": (torch.tensor([[0, 0, 1, 1, 2]]), torch.tensor([[2, 1, 3, 3, 0]])),
    "numbers left out": (torch.tensor([[3, 3, 9, 9, 9]]), torch.tensor([[20, 11, 11, 11, 3]])),
    "one feature": (torch.zeros(1, 5, dtype=torch.int64), torch.zeros(1, 5, dtype=torch.int64)),
}


@pytest.mark.parametrize("mask", MASKS)
def test_masks_over_two_inputs(rows, mask):
    pair = rows, rows.flip(1) + 1
    ablated = lambda module: module.FeatureAblation(product).attribute(pair, (0, 1.5), feature_mask=MASKS[mask])  # noqa: E731
    compare(ablated)


OUTPUTS = {
    "float": lambda values: values.square().sum().item(),
    "int": lambda values: int(100 * values.square().sum()),
    "no axes": lambda values: values.square().sum(),
    "one axis": lambda values: values.square().sum().reshape(1),
    "two axes": lambda values: values.square().sum().reshape(1, 1),
    "integers": lambda values: (100 * values.square().sum(1)).long(),
}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", ["FeatureAblation", "Occlusion"])
def test_outputs_of_forward_functions(rows, name, output):
    def run(module):
        return getattr(module, name)(OUTPUTS[output]).attribute(rows, **OF_INPUTS[name])

    compare(run)
    if output == "integers" or name == "FeatureAblation":
        assert run(ours).dtype == run(peer).dtype


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "area"])
def test_interpolated_layers(images, mode):
    sizes = (20, 17)
    compare(lambda module: module.LayerAttribution.interpolate(images, sizes, interpolate_mode=mode))


@pytest.mark.parametrize("name", ["IntegratedGradients", "GradientShap"])
def test_deltas_of_any_attributions(net, rows, name):
    def run(module):
        start, target = torch.zeros_like(rows), torch.tensor([1, 0, 2])
        return getattr(module, name)(net).compute_convergence_delta(rows * 0.3, start, rows, target=target)

    compare(run)


@pytest.mark.parametrize("name", CALLS)
def test_no_hook_stays_after_an_error(small, images, name):
    layers, given = CALLS[name][0]
    given = {key: value for key, value in given.items() if key != "feature_mask"}
    if name == "GradientShap":
        given["baselines"] = torch.zeros(2, 3, 14, 12, dtype=torch.float64)
    with pytest.raises(AssertionError), quiet():
        method(ours, name, small, layers).attribute(images, target=[0, 1], **given)
    for module in small.modules():
        assert not any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks))


REFUSED = {
    "a window without strides": lambda m, x: m.Occlusion(product).attribute(x, (2,), strides=(1, 1)),
    "a window larger than the input": lambda m, x: m.Occlusion(product).attribute(x, (7,)),
    "a stride larger than the window": lambda m, x: m.Occlusion(product).attribute(x, (2,), strides=3),
    "too many windows": lambda m, x: m.Occlusion(product).attribute(x, ((2,), (2,))),
    "no perturbation at a time": lambda m, x: m.FeatureAblation(product).attribute(x, perturbations_per_eval=0),
    "a sum at several perturbations": lambda m, x: m.FeatureAblation(lambda v: v.sum()).attribute(
        x, perturbations_per_eval=2
    ),
    "two baselines for one input": lambda m, x: m.IntegratedGradients(product).attribute(x, baselines=(0, 1)),
    "a baseline of another length": lambda m, x: m.IntegratedGradients(product).attribute(x, torch.zeros(2, 5)),
    "a rule by another name": lambda m, x: m.IntegratedGradients(product).attribute(x, method="simpson"),
    "noise by another name": lambda m, x: m.NoiseTunnel(m.Saliency(product)).attribute(x, nt_type="median"),
    "two deviations for one input": lambda m, x: m.NoiseTunnel(m.Saliency(product)).attribute(x, stdevs=(0.1, 0.2)),
    "a class that is not there": lambda m, x: m.Saliency(lambda v: v * v).attribute(x, target=9),
    "a class of no axis": lambda m, x: m.Saliency(lambda v: v * v).attribute(x, target=(1, 0)),
    "a class by name": lambda m, x: m.Saliency(lambda v: v * v).attribute(x, target="cat"),
    "two classes for three rows": lambda m, x: m.Saliency(lambda v: v * v).attribute(x, target=[0, 1]),
    "a batch without a class": lambda m, x: m.Saliency(lambda v: v * v).attribute(x),
    "baselines that are numbers": lambda m, x: m.GradientShap(product).attribute(x, baselines=0.5),
    "attributions of another shape": lambda m, x: metrics_of(m).infidelity(product, lambda v: (v, v), x, x[:, :2]),
    "two attributions for one input": lambda m, x: metrics_of(m).infidelity(product, lambda v: (v, v), x, (x, x)),
    "occlusion in the background": lambda m, x: m.Occlusion(product).attribute_future(x),
    "noise in the background": lambda m, x: m.NoiseTunnel(m.Saliency(product)).attribute_future(x),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(rows, case):
    with quiet():
        expected = refusal(lambda: REFUSED[case](peer, rows.clone()))
    assert expected is not None
    assert refusal(lambda: REFUSED[case](ours, rows.clone())) is expected
