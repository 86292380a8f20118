"""The engine's wiring: what comes back in which form, options, and sentences for bad use."""

import inspect
import typing

import numpy as np
import pytest
import torch
from torch import nn

import fastcam
from fastcam.methods import registry
from tests.support.conv_net import autograd_gradients, conv_net, images_for, suited
from tests.support.engine_cases import ALL_CHEAP, GRADIENT_METHODS, METHODS, cheap

pytestmark = pytest.mark.usefixtures("one_thread")


def by_hand(method, activations, gradients):
    """The definitions on (N, C, H, W)."""
    g, a = gradients, activations
    total = a.sum((2, 3), keepdim=True)
    if method == "grad_cam":
        return (g.mean((2, 3), keepdim=True) * a).sum(1).relu()
    if method == "grad_cam_pp":
        denominator = 2 * g**2 + total * g**3
        alpha = torch.where((g == 0) | (denominator == 0), 0, g**2 / denominator)
        return ((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1).relu()
    if method == "xgrad_cam":
        return ((g * a).sum((2, 3), keepdim=True) / (total + 1e-7) * a).sum(1).relu()
    if method == "hires_cam":
        return (g * a).sum(1).relu()
    if method == "layer_cam":
        return (g.relu() * a).sum(1).relu()
    return (g * a).relu().sum(1)


@pytest.mark.parametrize("layer", ["stem", "features", "relu"])
@pytest.mark.parametrize(
    "method", ["grad_cam", "grad_cam_pp", "xgrad_cam", "hires_cam", "layer_cam", "grad_cam_elementwise"]
)
def test_against_autograd_by_hand(method, layer):
    model, images = conv_net(inplace=False).double(), images_for().double()
    parts = [model.stem, model.features, model.relu, lambda x: model.classifier(x.mean((2, 3)))]
    after = {"stem": 1, "features": 2, "relu": 3}[layer]

    def run(x, steps):
        for step in steps:
            x = step(x)
        return x

    activations = run(images, parts[:after]).detach()
    gradients = autograd_gradients(lambda a: run(a, parts[after:])[:, 1], activations)
    explanation = fastcam.explain(model, images, method, 1, layer)
    torch.testing.assert_close(explanation.native, by_hand(method, activations, gradients), rtol=1e-7, atol=1e-10)
    assert explanation.native.amax() > 0
    torch.testing.assert_close(explanation.scores, model(images)[:, 1].detach())


def test_explainer_is_explain():
    model, images = conv_net(), images_for()
    expected = fastcam.explain(model, images, "xgrad_cam", [1, 2], "features", relu=False, eps=0.1)
    with fastcam.Explainer(model, "xgrad_cam", "features", relu=False, eps=0.1) as explainer:
        first, second = explainer(images, [1, 2]), explainer(images_for(seed=5), 0)
        again = explainer(images, target=[1, 2])
    for explanation in (first, again):
        assert torch.equal(explanation.raw, expected.raw)
    assert not torch.equal(second.raw, expected.raw)
    assert (first.method, first.layer) == ("xgrad_cam", "features")


def test_images_of_a_batch_are_apart():
    model, images = conv_net(), images_for(count=3)
    together = fastcam.explain(model, images, METHODS_OF_A_MEAN_HEAD, None, "relu", **ALL_CHEAP)
    for i in range(3):
        alone = fastcam.explain(model, images[i : i + 1], METHODS_OF_A_MEAN_HEAD, None, "relu", **ALL_CHEAP)
        for method, explanation in together.items():
            torch.testing.assert_close(explanation.maps[i], alone[method].maps[0], rtol=0, atol=1e-4)


METHODS_OF_A_MEAN_HEAD = [name for name in METHODS if "max_pool_classifier" not in fastcam.get_method(name).needs]


def test_several_methods_share_one_forward_and_one_backward():
    model, images = conv_net(), images_for()
    forwards, backwards = [], []
    model.classifier.register_forward_hook(lambda *_: forwards.append(1))

    def target(output):
        output.register_hook(lambda gradient: backwards.append(1))
        return output[:, 1]

    several = fastcam.explain(model, images, GRADIENT_METHODS, target, "features")
    assert (len(forwards), len(backwards)) == (1, 1)
    assert list(several) == GRADIENT_METHODS
    for method, explanation in several.items():
        single = fastcam.explain(model, images, method, 1, "features")
        torch.testing.assert_close(explanation.raw, single.raw, rtol=1e-5, atol=1e-7)
        assert explanation.method == method


def test_forms_of_the_answer():
    model, images = conv_net(), images_for()
    two, layers = ["grad_cam", "cam"], ["features.1", "relu"]

    def keys(method, layer, **keywords):
        found = fastcam.explain(model, images, method, 1, layer, **keywords)
        return None if isinstance(found, fastcam.Explanation) else list(found)

    assert keys("grad_cam", "relu") is None
    assert keys("grad_cam", layers) is None
    assert keys("grad_cam", layers, fuse=None) == layers
    assert keys(two, "relu") == two
    assert keys(["cam"], "relu") == ["cam"]
    assert keys(["grad_cam", "layer_cam"], layers) == ["grad_cam", "layer_cam"]
    expected = [(method, layer) for method in ("grad_cam", "layer_cam") for layer in layers]
    assert keys(["grad_cam", "layer_cam"], layers, fuse=None) == expected


@pytest.mark.parametrize("method", METHODS)
def test_relu_true_is_the_positive_part_of_relu_false(method):
    model, layer = suited(method)
    options = cheap(method)
    signed = fastcam.explain(model, images_for(), method, "all", layer, relu=False, **options).native
    rectified = fastcam.explain(model, images_for(), method, "all", layer, relu=True, **options).native
    plain = fastcam.explain(model, images_for(), method, "all", layer, **options).native
    torch.testing.assert_close(rectified, signed.relu(), rtol=0, atol=1e-7)
    assert torch.equal(plain, rectified if fastcam.get_method(method).relu else signed)


def test_options_reach_the_rule():
    model, images = conv_net(), images_for()
    maps = [fastcam.explain(model, images, "xgrad_cam", 1, "relu", eps=eps).native for eps in (1e-7, 10.0)]
    activations = model.relu(model.features(model.stem(images))).detach()
    gradient = (model.classifier.weight[1] / activations[0, 0].numel())[None, :, None, None]
    for native, eps in zip(maps, (1e-7, 10.0), strict=True):
        total = activations.sum((2, 3), keepdim=True)
        expected = (gradient * total / (total + eps) * activations).sum(1).relu()
        torch.testing.assert_close(native, expected.detach(), rtol=1e-4, atol=1e-6)


def test_reshape_transform_moves_activations_and_gradients_alike():
    class Tokens(nn.Module):
        """features as (N, positions, channels) and back."""

        def forward(self, x):
            return x.flatten(2).mT

    class Back(nn.Module):
        def forward(self, tokens):
            return tokens.mT.unflatten(2, (6, 5))

    model = conv_net(Tokens(), Back(), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1))
    for target in (1, "all"):
        for method in GRADIENT_METHODS:
            expected = fastcam.explain(model, images_for(), method, target, "probe.1")
            explanation = fastcam.explain(
                model, images_for(), method, target, "probe.0", reshape_transform=lambda t: t.mT.unflatten(2, (6, 5))
            )
            torch.testing.assert_close(explanation.raw, expected.raw, rtol=1e-4, atol=1e-6)
            found = fastcam.explain(model, images_for(), method, target, "probe.0", strict=True)  # without it
            torch.testing.assert_close(found.raw, expected.raw, rtol=1e-4, atol=1e-6)


# --- bad use ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"method": "nope"}, ValueError, "`method` must be one of .*; got 'nope'"),
        ({"method": ["grad_cam", "nope"]}, ValueError, "got 'nope'"),
        ({"method": []}, ValueError, "`method` must name at least one method, got an empty list"),
        ({"method": ()}, ValueError, "`method` must name at least one method"),
        ({"method": 3}, TypeError, "`method` must be .*got int"),
        ({"method": [3]}, ValueError, "got 3"),
        ({"method": None}, TypeError, "`method` must be .*got NoneType"),
        ({"fuse": "median"}, ValueError, '`fuse` must be "mean", "max" or None, got \'median\''),
        ({"fuse": True}, ValueError, '`fuse` must be "mean", "max" or None, got True'),
        ({"eps": 1}, TypeError, "grad_cam has no option 'eps'; known: none"),
        ({"method": "xgrad_cam", "epsilon": 1}, TypeError, "xgrad_cam has no option 'epsilon'; known: eps"),
        ({"method": ["grad_cam", "xgrad_cam"], "foo": 1}, TypeError, "grad_cam, xgrad_cam has no option 'foo'"),
        ({"method": "gmp_cam"}, ValueError, "global max pooling and one linear layer follow target layer 'relu'"),
        ({"method": "cam", "target": lambda o: o[:, 0]}, ValueError, "explains class indices; a callable target"),
        ({"method": "cam", "target_layer": "features"}, ValueError, "global average pooling .* layer 'features'"),
    ],
)
def test_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        fastcam.explain(conv_net(), images_for(), **arguments)


def test_the_message_lists_every_method():
    with pytest.raises(ValueError, match="must be one of") as caught:
        fastcam.Explainer(conv_net(), "nope")
    assert all(name in str(caught.value) for name in METHODS)


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (np.zeros((2, 3, 8, 8), np.float32), TypeError, r"be a floating point tensor \(N, C, ...\), got ndarray"),
        ("cat.jpg", TypeError, "got str"),
        (None, TypeError, "got NoneType"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError, "got torch.uint8"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.complex64), TypeError, "got torch.complex64"),
        (torch.zeros(0, 3, 8, 8), ValueError, r"at least one image, got \(0, 3, 8, 8\)"),
        (torch.zeros(8, 8), ValueError, r"have shape \(N, C, ...\) with at least one image, got \(8, 8\)"),
    ],
)
def test_bad_images(images, error, text):
    with pytest.raises(error, match="`images` must .*" + text):
        fastcam.explain(conv_net(), images)


@pytest.mark.parametrize("model", [lambda x: x, "resnet50", None, nn.Conv2d])
def test_models_that_are_none(model):
    with pytest.raises(TypeError, match=f"`model` must be an nn.Module, got {type(model).__name__}"):
        fastcam.explain(model, images_for())


def test_registering_a_name_twice():
    with pytest.raises(ValueError, match="'grad_cam' is registered already"):
        fastcam.method("grad_cam", needs=("activations",), paper="")(lambda activations: activations)


def test_a_method_of_the_users_own(monkeypatch):
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))

    @fastcam.method("mine", needs=("gradients", "activations"), paper="none", relu=False)
    def mine(gradients, activations, *, power=1):
        """Mine: the second line is not the summary.

        More.
        """
        return gradients.amax(-1) ** power

    assert fastcam.get_method("mine").summary == "Mine: the second line is not the summary."
    assert fastcam.get_method("mine").options == {"power": 1}
    model, images = conv_net(), images_for()
    features = model.features(model.stem(images))
    gradient = autograd_gradients(lambda a: model.classifier(a.relu().mean((2, 3)))[:, 1], features)
    expected = (gradient.amax((2, 3), keepdim=True) ** 3 * features).sum(1).detach()
    explanation = fastcam.explain(model, images, "mine", 1, "features", power=3)
    torch.testing.assert_close(explanation.native, expected, rtol=1e-4, atol=1e-9)
    several = fastcam.explain(model, images, "mine", "all", "features", power=3)
    torch.testing.assert_close(several.native[:, 1], expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("batch_size", [2, 9])
@pytest.mark.parametrize("target", [1, [[0, 1]] * 5])
def test_maps_in_a_tensor_that_is_there_already(batch_size, target):
    model, images = conv_net(), images_for(count=5)
    expected = fastcam.explain(model, images, "grad_cam", target, "features").maps
    out = torch.full_like(expected, torch.nan)
    explanation = fastcam.Explainer(model, "grad_cam", "features", batch_size=batch_size)(images, target, out=out)
    assert explanation.maps is out
    torch.testing.assert_close(out, expected)


def test_maps_that_do_not_fit_what_is_there():
    model, images = conv_net(), images_for()
    with pytest.raises(ValueError, match=r"`out` must be contiguous and have shape \(2, 12, 10\), got \(3, 12, 10\)"):
        fastcam.Explainer(model, "grad_cam", "features")(images, out=torch.empty(3, 12, 10))
    with pytest.raises(ValueError, match="`out` takes the maps of one method and layer, got 2 of them"):
        fastcam.Explainer(model, ["grad_cam", "layer_cam"], "features")(images, out=torch.empty(2, 12, 10))


def test_explain_takes_what_the_explainer_and_its_call_take():
    """The same names with the same defaults and types, so that the flat function does not fall behind."""
    made, called = inspect.signature(fastcam.Explainer.__init__), inspect.signature(fastcam.Explainer.__call__)
    both = {name: each for name, each in (called.parameters | made.parameters).items() if name not in ("self", "graph")}
    flat = inspect.signature(fastcam.explain).parameters
    assert set(flat) == set(both)
    for name, parameter in flat.items():
        assert (parameter.default, parameter.annotation) == (both[name].default, both[name].annotation), name
    overloads = [*typing.get_overloads(fastcam.explain), *typing.get_overloads(fastcam.Explainer.__init__)]
    assert len(overloads) == 6
    for overload in overloads:
        parameters = set(inspect.signature(overload).parameters) - {"self"}
        assert parameters == (set(flat) if "images" in parameters else set(made.parameters) - {"self"})


def test_explain_writes_into_a_tensor_and_prepares():
    model, images = conv_net(), images_for()
    out = torch.full((2, 12, 10), torch.nan)
    explanation = fastcam.explain(model, images, "grad_cam", 1, "features", out=out, precision="fp32")
    assert torch.equal(explanation.maps, out)
    torch.testing.assert_close(out, fastcam.explain(model, images, "grad_cam", 1, "features").maps, rtol=0, atol=1e-4)
