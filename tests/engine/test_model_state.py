"""No call leaves a trace: parameters, gradients, buffers, modes, hooks and the random state stay bit for bit."""

import warnings

import pytest
import torch
from torch import nn

import fastcam
from tests.support.conv_net import Call, conv_net, images_for, suited
from tests.support.engine_cases import METHODS
from tests.support.model_state import hooks_of, snapshot

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:the model is in training mode"),
]


def with_gradients(model: nn.Module) -> nn.Module:
    """Some parameters with a gradient, some without, some frozen."""
    for i, parameter in enumerate(model.parameters()):
        if i % 3 == 0:
            parameter.grad = torch.randn_like(parameter)
        parameter.requires_grad_(i % 3 != 1)
    return model


def in_mode(model: nn.Module, training: bool) -> nn.Module:
    """The mode, with dropout that acts in training."""
    model.train(training)
    model.stem[3].p = 0.5
    return model


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method(method, training):
    model, layer = suited(method)
    in_mode(with_gradients(model), training)
    before = snapshot(model)
    fastcam.explain(model, images_for(), method, target_layer=layer)
    assert snapshot(model) == before


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    "target", [None, 1, "all", lambda output: output.square()], ids=["None", "1", "all", "callable"]
)
@pytest.mark.parametrize("layer", [None, ["stem", "features"]], ids=["automatic", "several"])
def test_every_target_and_way_to_name_layers(layer, target, training):
    model = in_mode(with_gradients(conv_net()), training)
    before = snapshot(model)
    explanation = fastcam.explain(model, images_for(), ["grad_cam", "eigen_cam"], target, layer)
    assert explanation["grad_cam"].maps.isfinite().all()
    assert snapshot(model) == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_modes_of_the_caller(mode):
    model, images = conv_net(), images_for()
    with mode():
        before = snapshot(model)
        fastcam.explain(model, images)
        assert snapshot(model) == before


def test_images_get_no_gradient():
    images = images_for().requires_grad_()
    images.grad = torch.ones_like(images)
    fastcam.explain(conv_net(), images)
    assert images.grad.eq(1).all()
    assert images.equal(images_for())


def failing(error):
    def function(x):
        raise error

    return Call(function)


def not_reached(model):
    model.unused = nn.Conv2d(8, 8, 1)


# What goes wrong: change of the model, arguments of explain, error.
FAILURES = {
    "target callable": (None, {"target": failing(ZeroDivisionError)}, ZeroDivisionError),
    "target": (None, {"target": 77}, ValueError),
    "model after the layer": (lambda m: setattr(m, "probe", failing(ZeroDivisionError)), {}, ZeroDivisionError),
    "model before the layer": (lambda m: m.stem.append(failing(ZeroDivisionError)), {}, ZeroDivisionError),
    "keyboard interrupt": (lambda m: setattr(m, "probe", failing(KeyboardInterrupt)), {}, KeyboardInterrupt),
    "unknown layer": (None, {"target_layer": "featurez"}, ValueError),
    "layer not reached": (not_reached, {"target_layer": ["features", "unused"]}, RuntimeError),
    "integer layer": (lambda m: setattr(m, "probe", Call(lambda x: x.int())), {"target_layer": "probe"}, TypeError),
    "no gradient": (lambda m: setattr(m, "probe", Call(lambda x: x.detach())), {}, RuntimeError),
    "method and head": (None, {"method": "gmp_cam"}, ValueError),
}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("failure", FAILURES)
def test_after_an_exception(failure, training):
    change, arguments, error = FAILURES[failure]
    model = with_gradients(conv_net())
    if change:
        change(model)
    in_mode(model, training)
    before = snapshot(model)
    with pytest.raises(error):
        fastcam.explain(model, images_for(), **({"target_layer": "features"} | arguments))
    assert snapshot(model) == before


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_after_an_exception_while_looking_for_the_layer(error):
    model = in_mode(conv_net(), training=True)
    model.probe = failing(error)
    before = snapshot(model)
    with pytest.raises(error):
        fastcam.explain(model, images_for())
    assert snapshot(model) == before


def test_the_users_own_hooks_stay_and_run():
    model, seen = conv_net(), []
    model.features.register_forward_hook(lambda module, arguments, output: seen.append("forward"))
    model.features.register_forward_pre_hook(lambda module, arguments: seen.append("before"))
    before = hooks_of(model)
    fastcam.explain(model, images_for(), target_layer="features")
    assert hooks_of(model) == before
    assert seen == ["before", "forward"]


def test_buffers_that_training_replaces():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls = self.calls + 1
            return x

    model = conv_net().train()
    model.probe = Counter()
    before = snapshot(model)
    fastcam.explain(model, images_for(), target_layer="features")
    assert snapshot(model) == before


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_training_mode_with_a_scripted_part():
    model, images = conv_net().train(), images_for()
    expected = fastcam.explain(model, images, "layer_cam", 1, "features")
    model.stem = torch.jit.script(model.stem)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    explanation = fastcam.explain(model, images, "layer_cam", 1, "features")
    torch.testing.assert_close(explanation.raw, expected.raw, rtol=1e-4, atol=1e-6)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_training_mode_explains_the_function_of_training_mode():
    model = conv_net().train()
    images = images_for()
    with pytest.warns(UserWarning, match="training mode"):
        explanation = fastcam.explain(model, images, target_layer="features")
    assert torch.equal(explanation.output, model(images))


def test_training_mode_finds_the_layer_where_one_image_is_not_enough():
    torch.manual_seed(1)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *pooled, nn.Linear(4, 3)).train()
    assert fastcam.explain(model, images_for(count=4)).layer == "1"


@pytest.mark.filterwarnings("default:the model is in training mode")
@pytest.mark.parametrize("layer", [None, "features"])
@pytest.mark.parametrize(
    "call",
    [lambda m, x, n: fastcam.explain(m, x, target_layer=n), lambda m, x, n: fastcam.Explainer(m, target_layer=n)(x)],
    ids=["explain", "Explainer"],
)
def test_one_warning_that_points_to_the_caller(call, layer):
    model, images = conv_net().train(), images_for()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(model, images, layer)
    assert [warning.filename for warning in caught] == [__file__]


def test_training_under_autocast_after_an_explanation():
    def gradients(explain_first):
        model = conv_net().train()
        with torch.autocast("cpu", torch.bfloat16):
            if explain_first:
                fastcam.explain(model, images_for())
            model(images_for()).square().sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    for with_explanation, plain in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(with_explanation, plain)
