"""What is captured: exactly what the layer returned, its exact gradient, and a graph only where one is needed."""

import copy
import weakref
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastcam
from fastcam.model import capture
from fastcam.model.gradients import gradients
from tests.support.conv_net import Call, autograd_gradients, conv_net, images_for, suited
from tests.support.engine_cases import GRADIENT_METHODS, METHODS, cheap

pytestmark = pytest.mark.usefixtures("one_thread")


def captured_gradient(model, images, layer, scores):
    """The activations and the gradient of the scores that capture finds at a layer."""
    chosen = [capture.Layer(layer, model.get_submodule(layer))]
    captured = capture.forward(model, images, chosen, with_graph=True)
    with torch.enable_grad():
        (gradient,) = gradients(scores(captured.output), captured.activations, [layer])
    return captured.activations[0], gradient


# --- in place ---------------------------------------------------------------------------------------------------------

# How the next module works in place, and the same out of place.
IN_PLACE = {
    "nn.ReLU": (nn.ReLU(inplace=True), nn.ReLU()),
    "nn.SiLU": (nn.SiLU(inplace=True), nn.SiLU()),
    "F.relu_": (F.relu_, F.relu),
    "add_": (lambda x: x.add_(0.5), lambda x: x + 0.5),
    "*= 2": (lambda x: x.__imul__(2), lambda x: x * 2),
    "slice": (lambda x: x[:, :, 1:].zero_() is not None and x, lambda x: torch.cat([x[:, :, :1], x[:, :, 1:] * 0], 2)),
    "exp_ of a view": (lambda x: x.view(-1).exp_() is not None and x, torch.exp),
}


@pytest.mark.parametrize("kind", IN_PLACE)
def test_next_module_in_place(kind):
    inplace, twin = IN_PLACE[kind]
    torch.manual_seed(3)
    stem, layer, head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.Sequential(nn.Conv2d(8, 4, 3), nn.Tanh())
    model = nn.Sequential(stem, layer, Call(inplace), head).eval()
    images = images_for()
    activations, gradient = captured_gradient(model, images, "1", lambda output: output.flatten(1).sum(1))

    expected = layer(stem(images))
    torch.testing.assert_close(activations, expected, rtol=0, atol=0)
    tail = autograd_gradients(lambda a: head(twin(a)).flatten(1).sum(1), expected)
    torch.testing.assert_close(gradient, tail, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
@pytest.mark.parametrize("layer", ["stem.0", "stem.1", "features"])
def test_maps_are_those_of_the_network_out_of_place(method, layer):
    explanations = [
        fastcam.explain(conv_net(inplace=inplace), images_for(), method, 1, layer) for inplace in (True, False)
    ]
    assert torch.equal(explanations[0].raw, explanations[1].raw)
    assert explanations[0].raw.std() > 0


class Residual(nn.Module):
    """x + f(x), with f in place or not."""

    def __init__(self, inplace):
        super().__init__()
        self.layer, self.inplace = nn.Conv2d(3, 4, 3), inplace
        self.branch, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, images):
        return self.tail(self.layer(images))

    def tail(self, x):
        if self.inplace:
            x *= 2
            out = self.branch(x)
            out += x
            out = x + out.relu_()
        else:
            out = 2 * x + (self.branch(2 * x) + 2 * x).relu()
        return self.head(out.square().mean((2, 3)))


def test_residual_use_of_the_activation():
    torch.manual_seed(3)
    model, images = Residual(inplace=True).eval(), images_for()
    activations, gradient = captured_gradient(model, images, "layer", lambda output: output[:, 1])
    model.inplace = False
    torch.testing.assert_close(activations, model.layer(images), rtol=0, atol=0)
    expected = autograd_gradients(lambda a: model.tail(a)[:, 1], activations)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


class ReusesInput(nn.Module):
    """A layer that returns its own input (in place, or dropout in evaluation), which then changes under that name."""

    def __init__(self, layer):
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, 4, 3), layer
        self.branch, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, images):
        x = self.stem(images)
        y = self.layer(x)
        x += self.branch(y)
        return self.head(x.mean((2, 3)))

    def twin(self, y):
        return self.head((y + self.branch(y)).mean((2, 3)))


LAYERS_THAT_RETURN_THEIR_INPUT = {"nn.ReLU": nn.ReLU(inplace=True), "nn.Dropout": nn.Dropout().eval()}


@pytest.mark.parametrize("layer", LAYERS_THAT_RETURN_THEIR_INPUT)
def test_captured_activations_do_not_change_with_the_layers_input(layer):
    torch.manual_seed(3)
    model, images = ReusesInput(LAYERS_THAT_RETURN_THEIR_INPUT[layer]).eval(), images_for()
    explanation = fastcam.explain(model, images, "eigen_cam", 0, "layer")
    expected = model.layer(model.stem(images))
    activations, _ = captured_gradient(model, images, "layer", lambda output: output[:, 1])
    torch.testing.assert_close(activations, expected, rtol=0, atol=0)
    torch.testing.assert_close(explanation.output, model.twin(expected))


# --- callers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_grad_mode_of_the_caller(method, mode):
    model, layer = suited(method)
    plain = fastcam.explain(model, images_for(), method, [[0, 1], [2, 3]], layer, **cheap(method))
    with mode():
        explanation = fastcam.explain(model, images_for(), method, [[0, 1], [2, 3]], layer, **cheap(method))
        assert torch.equal(explanation.maps, plain.maps)
    assert torch.equal(explanation.raw, plain.raw)


@pytest.mark.parametrize("layer", [None, "features"])
def test_target_made_in_inference_mode(layer):
    model = conv_net()
    plain = fastcam.explain(model, images_for(), "layer_cam", target_layer=layer)
    with torch.inference_mode():
        images = images_for()
        best = model(images).argmax(1)
        assert torch.equal(fastcam.explain(model, images, "layer_cam", best, layer).maps, plain.maps)


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_and_images_that_require_grad(method):
    model, layer = suited(method)
    plain = fastcam.explain(model, images_for(), method, 2, layer, **cheap(method))
    frozen = copy.deepcopy(model).requires_grad_(False)
    for images in (images_for(), images_for().requires_grad_(), images_for().requires_grad_() * 1):
        for each in (model, frozen):
            assert torch.equal(fastcam.explain(each, images, method, 2, layer, **cheap(method)).maps, plain.maps)


@pytest.mark.parametrize("images", [images_for(), images_for().requires_grad_()], ids=["plain", "requires grad"])
def test_layer_that_returns_the_images(images):
    model = nn.Sequential(nn.Identity(), conv_net()).eval()
    explanation = fastcam.explain(model, images, "hires_cam", 1, "0", relu=False)
    gradient = autograd_gradients(lambda x: conv_net()(x)[:, 1], images)
    expected = (images * gradient).sum(1).detach()
    torch.testing.assert_close(explanation.native, expected, rtol=1e-4, atol=1e-6)
    assert images.grad is None


# Tolerances of maps in [0, 1]. float64 is exact to the rounding of float32; bfloat16 has 8 bits, and the difference
# of two rounded sums is divided by the range of the map, hence the wide bounds.
DTYPES = {torch.float64: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}


@pytest.mark.parametrize("method", ["grad_cam", "layer_cam", "xgrad_cam", "hires_cam", "cam", "eigen_cam"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(dtype, method):
    model, layer = suited(method)
    plain = fastcam.explain(model, images_for(), method, 2, layer)
    explanation = fastcam.explain(copy.deepcopy(model).to(dtype), images_for().to(dtype), method, 2, layer)
    assert (explanation.maps - plain.maps).abs().max() <= DTYPES[dtype]
    assert explanation.status == plain.status


@pytest.mark.parametrize("method", ["grad_cam", "layer_cam", "xgrad_cam", "hires_cam", "cam", "eigen_cam"])
def test_autocast(method):
    model, layer = suited(method)
    plain = fastcam.explain(model, images_for(), method, 2, layer)
    with torch.autocast("cpu", torch.bfloat16):
        explanation = fastcam.explain(model, images_for(), method, 2, layer)
    assert (explanation.maps - plain.maps).abs().max() <= DTYPES[torch.bfloat16]


@pytest.mark.parametrize("method", ["grad_cam", "cam"])
@pytest.mark.parametrize("target", [2, lambda output: output[:, 2]], ids=["index", "callable"])
def test_autocast_with_a_float32_layer_before_a_bfloat16_head(method, target):
    if method == "cam" and callable(target):
        pytest.skip("CAM explains class indices")
    model = conv_net(Call(torch.Tensor.float))
    plain = fastcam.explain(model, images_for(), method, target, "probe")
    with torch.autocast("cpu", torch.bfloat16):
        explanation = fastcam.explain(model, images_for(), method, target, "probe")
    assert (explanation.maps - plain.maps).abs().max() <= DTYPES[torch.bfloat16]


@pytest.mark.parametrize("method", METHODS)
def test_channels_last(method):
    model, layer = suited(method)
    plain = fastcam.explain(model, images_for(), method, [[0, 1], [2, 3]], layer, **cheap(method))
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    for each in (last, model):
        in_order = images_for().to(memory_format=torch.channels_last)
        explanation = fastcam.explain(each, in_order, method, [[0, 1], [2, 3]], layer, **cheap(method))
        torch.testing.assert_close(explanation.maps, plain.maps, rtol=0, atol=1e-4)


# --- the graph --------------------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """Notes whether gradients are recorded where it runs, and keeps weak references to what passes."""

    def __init__(self):
        super().__init__()
        self.seen, self.passed = [], []

    def forward(self, x):
        x = x * 1
        self.seen.append((torch.is_grad_enabled(), x.requires_grad))
        self.passed.append(weakref.ref(x))
        return x


def recorded_net():
    model = conv_net(Recorder(), nn.Conv2d(8, 8, 1), Recorder())
    model.stem.append(Recorder().eval())
    return model, [model.stem[-1], model.probe[0], model.probe[2]]


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("images", [images_for(), images_for().requires_grad_()], ids=["plain", "requires grad"])
def test_only_what_comes_after_the_layer_is_recorded(images, mode):
    model, (before, *after) = recorded_net()
    with mode():
        fastcam.explain(model, images, target_layer="features")
    assert before.seen == [(False, False)]
    assert [each.seen for each in after] == [[(True, True)]] * 2


def test_recording_starts_at_the_first_of_several_layers():
    model, recorders = recorded_net()
    fastcam.explain(model, images_for(), target_layer=["probe", "features"])
    assert [each.seen for each in recorders] == [[(False, False)], [(True, True)], [(True, True)]]


def test_nothing_is_recorded_without_need():
    model, recorders = recorded_net()
    fastcam.explain(model, images_for(), "eigen_cam", target_layer="features")
    assert [each.seen for each in recorders] == [[(False, False)]] * 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [1, "all"])
def test_no_tensor_of_an_explanation_holds_the_graph(method, target):
    model, layer = suited(method)
    explanation = fastcam.explain(model, images_for(), method, target, layer)
    held = [explanation.output, explanation.scores, explanation.native, explanation.raw, explanation.maps]
    assert not any(tensor.requires_grad for tensor in held)


@pytest.mark.parametrize("target", [lambda o: o["out"][:, 1], lambda o: o["out"]], ids=["one", "several"])
@pytest.mark.parametrize("output", [lambda y: {"out": y}, lambda y: {"out": y, "aux": [y * 2, "text"]}])
def test_no_graph_survives_in_an_output_that_is_not_a_tensor(output, target):
    model, recorders = recorded_net()
    model = nn.Sequential(model, Call(output)).eval()
    explanation = fastcam.explain(model, images_for(), target=target, target_layer="0.features")
    assert not explanation.output["out"].requires_grad
    assert all(passed() is None for recorder in recorders for passed in recorder.passed)


@pytest.mark.parametrize("target", [1, "all"])
def test_activations_are_freed(target):
    model, recorders = recorded_net()
    explanation = fastcam.explain(model, images_for(), ["grad_cam", "layer_cam"], target, "features")
    assert explanation["grad_cam"].scores.isfinite().all()
    assert all(passed() is None for recorder in recorders for passed in recorder.passed)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [1, 2, 32, 33, 70])
def test_many_targets_are_the_single_ones(targets):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(targets)).eval()
    model(images_for())
    _, together = captured_gradient(model, images_for(), "0", lambda output: output.square())
    assert together.shape == (2, targets, 4, 10, 8)
    for k in {0, targets // 2, targets - 1}:
        _, single = captured_gradient(model, images_for(), "0", lambda output, k=k: output.square()[:, k])
        torch.testing.assert_close(together[:, k], single, rtol=1e-5, atol=1e-6)


class Square(torch.autograd.Function):
    """x^2 by an operation that cannot be batched."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(grad.numpy() * 2 * x.detach().numpy())


def test_head_without_a_batching_rule():
    model, twin = conv_net(Call(Square.apply)), conv_net(Call(torch.square))
    for target in ("all", [[0, 3], [4, 1]]):
        explanation = fastcam.explain(model, images_for(), "layer_cam", target, "features")
        expected = fastcam.explain(twin, images_for(), "layer_cam", target, "features")
        torch.testing.assert_close(explanation.raw, expected.raw, rtol=1e-5, atol=1e-7)


def test_errors_of_the_head_are_not_hidden():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("broken backward")

    model = conv_net(Call(Broken.apply))
    for target in (1, "all"):
        with pytest.raises(RuntimeError, match="broken backward"):
            fastcam.explain(model, images_for(), target=target, target_layer="features")


@pytest.mark.parametrize("segment", [slice(0, 2), slice(1, 3), slice(2, 5)])
@pytest.mark.parametrize("target", [1, "all"])
def test_activation_checkpointing(segment, target):
    class Checkpointed(nn.Sequential):
        def forward(self, x):
            modules = list(self)
            x = nn.Sequential(*modules[: segment.start])(x)
            x = torch.utils.checkpoint.checkpoint(nn.Sequential(*modules[segment]), x, use_reentrant=False)
            return nn.Sequential(*modules[segment.stop :])(x)

    torch.manual_seed(3)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(5))
    plain.eval()(images_for())
    explanation = fastcam.explain(Checkpointed(*plain).eval(), images_for(), "layer_cam", target, "1")
    expected = fastcam.explain(plain, images_for(), "layer_cam", target, "1")
    torch.testing.assert_close(explanation.raw, expected.raw, rtol=1e-5, atol=1e-6)


def test_training_mode_with_batch_norm_after_the_layer():
    model, images = conv_net(inplace=False).train(), images_for()
    twin = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="training mode"):
        explanation = fastcam.explain(model, images, "hires_cam", 1, "stem", relu=False)
    activations = twin.stem(images)

    def tail(a):
        return twin.classifier(twin.relu(twin.features(a)).mean((2, 3)))[:, 1]

    expected = (activations * autograd_gradients(tail, activations)).sum(1)
    torch.testing.assert_close(explanation.native, expected.detach(), rtol=1e-4, atol=1e-6)
