"""What the package in Captum's place says of mistakes, what it leaves behind, and where it differs on purpose."""

import inspect
import threading
import warnings
from pathlib import Path

import captum.attr as peer
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from captum import metrics as peer_metrics
from torch import nn

import fastcam
from fastcam import compat
from fastcam.compat import torchcam
from fastcam.compat.captum import DIFFERENCES, metrics
from fastcam.compat.captum import attr as ours
from tests.compat.captum_calls import CALLS, Small, close, method, quiet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 14, 12)


def parameters(function, left_out=()):
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in found if p.name not in left_out]


@pytest.mark.parametrize("name", vars(ours)["__all__"])
def test_signatures(name):
    theirs, mine = getattr(peer, name), getattr(ours, name)
    assert parameters(mine.__init__, {"exact_peer"}) == parameters(theirs.__init__)
    for each, function in inspect.getmembers(theirs, inspect.isroutine):
        if not each.startswith("_") and each not in ("attribute_future", "gradient_func"):
            assert parameters(getattr(mine, each)) == parameters(function), each
    own = vars(ours)["__all__"]
    assert [each.__name__ for each in theirs.__mro__ if each.__name__ in own] == [
        each.__name__ for each in mine.__mro__ if each.__name__ in own and each.__module__.startswith("fastcam.")
    ]
    assert mine.get_name() == theirs.get_name()


def test_signatures_of_the_metrics():
    assert metrics.__all__ == sorted(peer_metrics.__all__)
    for name in metrics.__all__:
        mine, theirs = (parameters(getattr(module, name), {"perturb_func"}) for module in (metrics, peer_metrics))
        assert mine == theirs


def test_deep_paths_and_captums_own():
    from fastcam.compat.captum.attr._core.layer.grad_cam import LayerGradCam
    from fastcam.compat.captum.attr._core.noise_tunnel import NoiseTunnel
    from fastcam.compat.captum.attr._utils.attribution import LayerAttribution
    from fastcam.compat.captum.metrics._core.infidelity import infidelity

    assert (LayerGradCam, NoiseTunnel, LayerAttribution) == (ours.LayerGradCam, ours.NoiseTunnel, ours.LayerAttribution)
    assert infidelity is metrics.infidelity
    assert ours.DeepLift is peer.DeepLift
    assert ours.visualization is peer.visualization
    with pytest.raises(AttributeError, match=r"fastcam\.compat\.captum\.attr has no 'Nothing'"):
        ours.Nothing  # noqa: B018


def test_an_unchanged_import_finds_both():
    compat.activate("captum")
    try:
        namespace = {}
        exec("from captum.attr import Saliency, DeepLift\nfrom captum.attr import visualization as viz", namespace)
        assert namespace["Saliency"] is ours.Saliency
        assert namespace["DeepLift"] is peer.DeepLift
        assert namespace["viz"] is peer.visualization
    finally:
        compat.deactivate("captum")
    from captum.attr import Saliency

    assert Saliency is peer.Saliency


WINDOW = {"sliding_window_shapes": (3, 5, 5)}
MISTAKES = {
    "no target": ("Saliency", {}, "one score to be explained"),
    "too many places": ("Saliency", {"target": (1, 2)}, "places behind the first axis"),
    "too few targets": ("Saliency", {"target": [1, 2]}, "one for each of the 3 rows"),
    "targets of a wrong shape": ("Saliency", {"target": torch.zeros(2, 2, dtype=torch.int64)}, "one class for each"),
    "targets of a wrong kind": ("Saliency", {"target": ["cat"] * 3}, "ints or tuples"),
    "a target of a wrong kind": ("Saliency", {"target": "cat"}, "a target must be an int"),
    "a wrong rule": ("IntegratedGradients", {"target": 1, "method": "simpson"}, "`method` must be one of"),
    "a baseline of a wrong shape": ("IntegratedGradients", {"target": 1, "baselines": torch.zeros(2, 3)}, "a baseline"),
    "a baseline of a wrong kind": ("IntegratedGradients", {"target": 1, "baselines": "black"}, "a tensor or a number"),
    "too many baselines": ("IntegratedGradients", {"target": 1, "baselines": (0, 0)}, "one baseline for each"),
    "a window too large": ("Occlusion", {"target": 1, "sliding_window_shapes": (3, 15, 5)}, "a window must fit"),
    "a stride too large": ("Occlusion", {"target": 1, **WINDOW, "strides": (3, 6, 5)}, "leave values out"),
    "a window of too few axes": ("Occlusion", {"target": 1, "sliding_window_shapes": (5, 5)}, "one size for each axis"),
    "too few at a time": ("Occlusion", {"target": 1, **WINDOW, "perturbations_per_eval": 0}, "positive whole number"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(small, images, case):
    name, given, sentence = MISTAKES[case]
    with pytest.raises(AssertionError, match=sentence):
        getattr(ours, name)(small).attribute(images, **given)
    with pytest.raises((AssertionError, RuntimeError, TypeError, ValueError)), quiet():
        getattr(peer, name)(small).attribute(images, **given)


def test_more_mistakes(small, images):
    with pytest.raises(AssertionError, match="`inputs` must be a tensor or a tuple of tensors, found list"):
        ours.Saliency(small).attribute([images], target=1)
    with pytest.raises(RuntimeError, match=r"input 0 must hold floating point numbers .* got torch\.int64"):
        ours.Saliency(small).attribute(images.long(), target=1)
    with pytest.raises(AssertionError, match="Linear was not reached"):
        ours.LayerGradCam(small, nn.Linear(2, 2)).attribute(images, target=1)
    tunnel = ours.NoiseTunnel(ours.Saliency(small))
    with pytest.raises(
        AssertionError, match="`nt_type` must be one of smoothgrad, smoothgrad_sq, vargrad; got 'noise'"
    ):
        tunnel.attribute(images, nt_type="noise", target=1)
    with pytest.raises(AssertionError, match="`stdevs` must be a float"):
        tunnel.attribute(images, stdevs=1, target=1)
    with pytest.raises(AssertionError, match="rows of shape"):
        ours.GradientShap(small).attribute(images, torch.zeros(4, 3, 5, 5), target=1)
    with pytest.raises(AssertionError, match="a feature mask must have its input's shape"):
        ours.FeatureAblation(small).attribute(images, target=1, feature_mask=torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(AssertionError, match=r"use perturbations_per_eval=1"):
        ours.FeatureAblation(lambda given: small(given).sum()).attribute(images, perturbations_per_eval=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'mask'"):
        ours.FeatureAblation(small).attribute(images, target=1, mask=None)
    with pytest.raises(AssertionError, match="attributions must have the shapes of the inputs"):
        metrics.infidelity(small, lambda given: (given, given), images, images[:, :1])


@pytest.mark.parametrize("name", [*CALLS, "LayerActivation"])
def test_nothing_is_left_behind(name, images):
    model = Small().train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    layers, given = CALLS.get(name, [(("second",), {})])[0]
    given = dict(given) | ({} if name == "LayerActivation" else {"target": 1})
    given.pop("feature_mask", None)
    if name == "FeatureAblation":
        given["feature_mask"] = torch.arange(14)[:, None] // 4
    if name == "GradientShap":
        given["baselines"] = torch.zeros(2, 3, 14, 12)
    before = images.clone()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        method(ours, name, model, layers).attribute(images, **given)
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    for module in model.modules():
        assert not any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks))
    assert name == "GradientShap" or torch.equal(torch.get_rng_state(), random)


def test_hooks_go_with_an_error(small, images):
    def fail(module, given, output):
        raise ValueError("broken on purpose")

    handle = small.fc.register_forward_hook(fail)
    try:
        for made in (ours.GuidedGradCam(small, small.second), ours.LayerIntegratedGradients(small, small.second)):
            with pytest.raises(ValueError, match="broken on purpose"):
                made.attribute(images, target=1)
    finally:
        handle.remove()
    assert not any(each._forward_hooks for each in small.modules())


def test_threads(small):
    batches = [torch.randn(2, 3, 14, 12) for _ in range(4)]
    methods = (
        ours.LayerGradCam(small, small.second),
        ours.GuidedBackprop(small),
        ours.LayerIntegratedGradients(small, small.first),
    )
    expected = [[each.attribute(batch, target=1) for each in methods] for batch in batches]
    found = [None] * 4

    def work(index):
        found[index] = [each.attribute(batches[index], target=1) for each in methods]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for mine, alone in zip(found, expected, strict=True):
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, alone, strict=True))


class Functional(nn.Module):
    """Rectifies in a function, in place, and in a module."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 5, 3)
        self.relu = nn.ReLU()

    def forward(self, images):
        features = F.relu(self.one(images))
        features = torch.relu_(self.two(features))
        return self.relu(self.three(features)).mean((2, 3))


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
def test_rectifiers_that_captum_does_not_see(images, name):
    torch.manual_seed(0)
    model = Functional().eval()
    with quiet():
        expected = getattr(peer, name)(model).attribute(images.clone(), target=1)
    close(getattr(ours, name)(model, exact_peer=True).attribute(images, target=1), expected)
    found = getattr(ours, name)(model).attribute(images, target=1)
    native = {"GuidedBackprop": "guided_backprop", "Deconvolution": "deconvnet"}[name]
    assert torch.allclose(found, fastcam.explain(model, images, native, [1, 1, 1], reduce=None).attributions, atol=1e-6)
    assert (found - expected).abs().max() > 0.01 * expected.abs().max()
    resnet = torchvision.models.resnet18(weights=None, num_classes=5).eval()  # in place, as Captum cannot
    pictures = torch.randn(2, 3, 64, 64)
    made = fastcam.explain(resnet, pictures, native, [1, 1], reduce=None).attributions
    assert torch.allclose(getattr(ours, name)(resnet).attribute(pictures, target=1), made, atol=1e-6)


def test_the_trapezoidal_rule(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 14 * 12, 2))  # exact with any number of steps
    exact, found, theirs = (
        kind(model).attribute(images, target=1, n_steps=steps, method="riemann_trapezoid")
        for kind, steps in (
            (ours.IntegratedGradients, 50),
            (ours.IntegratedGradients, 4),
            (peer.IntegratedGradients, 4),
        )
    )
    assert torch.allclose(exact, images * model[1].weight[1].view(3, 14, 12), atol=1e-6)
    assert torch.allclose(found, exact, atol=1e-6)
    assert torch.allclose(theirs, 0.75 * exact, atol=1e-6)


def test_batches_of_captums_do_not_count(small, images):
    """Sizes given, and sizes chosen: the same numbers."""
    for name, given, sizes in (
        ("IntegratedGradients", {"n_steps": 9}, "internal_batch_size"),
        ("Occlusion", WINDOW, "perturbations_per_eval"),
    ):
        found = [
            getattr(ours, name)(small).attribute(images, target=1, **given, **each)
            for each in ({}, {sizes: 4}, {sizes: 30})
        ]
        assert all(torch.allclose(each, found[0], atol=1e-6) for each in found)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("limit", [None, 9])
@pytest.mark.parametrize("pair", [False, True])
def test_infidelity(small, images, pair, limit, normalize):
    given = (images, torch.randn(3, 3, 14, 12)) if pair else images
    attributions = ours.InputXGradient(small).attribute(given, target=[1, 0, 4])
    share = torch.tensor([[1.5], [1.0], [0.5]])

    def moved(inputs, baselines=None):
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        noise = tuple(0.1 * torch.randn(each.shape) for each in tensors)
        changed = tuple(each - other for each, other in zip(tensors, noise, strict=True))
        return (noise, changed) if pair else (noise[0], changed[0])

    results = []
    for module in (metrics, peer_metrics):
        for multiplies in (True, False):
            torch.manual_seed(0)
            function = module.infidelity_perturb_func_decorator(multiplies)(lambda *each: moved(*each)[1])
            options = {"target": [1, 0, 4], "max_examples_per_batch": limit, "normalize": normalize}
            start = (0.2, torch.zeros_like(images)) if pair else 0.2
            results.append(
                [
                    module.infidelity(
                        small,
                        moved,
                        given,
                        attributions,
                        additional_forward_args=None if pair else (None, share),
                        **options,
                    ),
                    module.infidelity(small, function, given, attributions, **options),
                    module.infidelity(small, function, given, attributions, baselines=start, **options),
                ]
            )
    for mine, theirs in zip(results[:2], results[2:], strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert a.shape == b.shape
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("order", ["fro", 1, float("inf")])
@pytest.mark.parametrize("limit", [None, 7])
def test_sensitivity(small, images, limit, order):
    results = []
    for module, kinds in ((metrics, ours), (peer_metrics, peer)):
        found = []
        for name, given in (
            ("Saliency", {}),
            ("IntegratedGradients", {"n_steps": 5, "baselines": torch.zeros(3, 3, 14, 12)}),
        ):
            torch.manual_seed(0)
            options = {
                "target": torch.tensor([1, 0, 4]),
                "max_examples_per_batch": limit,
                "norm_ord": order,
                "n_perturb_samples": 5,
            }
            with quiet():
                found.append(
                    module.sensitivity_max(getattr(kinds, name)(small).attribute, images.clone(), **options, **given)
                )
        with quiet():
            found.append(
                module.sensitivity_max(
                    kinds.Saliency(small).attribute, images.clone(), lambda each: each * 1.01, target=1
                )
            )
        results.append(found)
    for mine, theirs in zip(*results, strict=True):
        assert mine.shape == theirs.shape == (3,)
        assert torch.allclose(mine, theirs, rtol=1e-4)


def test_differences_are_told():
    assert all(len(each) == 2 and all(each) for each in DIFFERENCES)
    assert np.unique([name for name, _ in DIFFERENCES]).size == len(DIFFERENCES)


def test_the_page_lists_the_differences():
    page = Path(compat.__file__).with_name("README.md").read_text()
    for name, difference in (*DIFFERENCES, *torchcam.DIFFERENCES):
        assert f"| {name} | {difference} |" in page
