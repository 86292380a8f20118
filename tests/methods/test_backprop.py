"""Saliency, Input x Gradient, deconvnet, guided backpropagation and Guided Grad-CAM against their formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from tests.support.conv_net import Call, autograd_gradients, conv_net, images_for
from tests.support.networks import in_double

pytestmark = pytest.mark.usefixtures("one_thread")

K = [[0, 4, 2], [1, 1, 3]]


class Ruled(torch.autograd.Function):
    """A rectifier written out, with the backward rule of a paper in place of its derivative."""

    @staticmethod
    def forward(ctx, x, function, slope, rule):
        output = function(x)
        ctx.save_for_backward(output, slope(x))
        ctx.rule = rule
        return output

    @staticmethod
    def backward(ctx, gradient):
        output, slope = ctx.saved_tensors
        positive = gradient.clamp(min=0)
        guided = positive * slope * (output > 0)
        return {"guided": guided, "deconvnet": positive, None: gradient * slope}[ctx.rule], None, None, None


def sigmoid_slope(x: Tensor) -> Tensor:
    return x.sigmoid() * (1 + x * (1 - x.sigmoid()))


def gelu_slope(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / 2**0.5)) + x * torch.exp(-(x**2) / 2) / (2 * torch.pi) ** 0.5


def step(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


# What a user may write, the function it stands for, and the slope of that function.
RECTIFIERS = {
    "nn.ReLU": (nn.ReLU, torch.relu, step),
    "nn.ReLU in place": (lambda: nn.ReLU(inplace=True), torch.relu, step),
    "F.relu": (lambda: Call(F.relu), torch.relu, step),
    "x.relu_()": (lambda: Call(lambda x: x.relu_()), torch.relu, step),
    "clamp(min=0)": (lambda: Call(lambda x: x.clamp(min=0)), torch.relu, step),
    "nn.Threshold": (lambda: nn.Threshold(0, 0), torch.relu, step),
    "nn.ReLU6": (nn.ReLU6, F.relu6, lambda x: ((x > 0) & (x < 6)).to(x.dtype)),
    "nn.SiLU": (nn.SiLU, F.silu, sigmoid_slope),
    "nn.SiLU in place": (lambda: nn.SiLU(inplace=True), F.silu, sigmoid_slope),
    "nn.GELU": (nn.GELU, F.gelu, gelu_slope),
}


def network(*rectifiers: nn.Module) -> nn.Sequential:
    """Three rectified layers, max pooling and a linear one, in float64."""
    torch.manual_seed(3)
    first, second, third = rectifiers
    return (
        nn.Sequential(
            *(nn.Conv2d(3, 6, 3, padding=1), first, nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), second),
            *(nn.Flatten(), nn.Linear(8 * 4 * 3, 7), third, nn.Linear(7, 5)),
        )
        .double()
        .eval()
    )


def expected_gradient(name: str, rule: str | None, images: Tensor, target: int) -> Tensor:
    _, function, slope = RECTIFIERS[name]
    model = network(*(Call(lambda x: Ruled.apply(x, function, slope, rule)) for _ in range(3)))
    return autograd_gradients(lambda x: model(x)[:, target], images)


@pytest.mark.parametrize("name", RECTIFIERS)
@pytest.mark.parametrize(
    ("method", "rule"), [("guided_backprop", "guided"), ("deconvnet", "deconvnet"), ("saliency", None)]
)
def test_rules_at_every_rectifier(name, method, rule):
    images = images_for().double() * 3
    model = network(*(RECTIFIERS[name][0]() for _ in range(3)))
    explanation = fastcam.explain(model, images, method, 2)
    expected = expected_gradient(name, rule, images, 2)
    assert expected.abs().max() > 0
    torch.testing.assert_close(explanation.attributions, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(explanation.raw, expected.abs().amax(1), rtol=1e-9, atol=1e-12)


def test_other_activations_keep_their_derivative():
    model, images = network(nn.Tanh(), nn.LeakyReLU(), nn.Hardtanh()), images_for().double()
    expected = autograd_gradients(lambda x: model(x)[:, 2], images)
    for method in ("guided_backprop", "deconvnet"):
        torch.testing.assert_close(fastcam.explain(model, images, method, 2).attributions, expected)


def test_input_x_gradient():
    model, images = in_double(conv_net()), images_for().double()
    expected = images * autograd_gradients(lambda x: model(x)[:, 1], images)
    explanation = fastcam.explain(model, images, "input_x_gradient", 1)
    torch.testing.assert_close(explanation.attributions, expected)
    torch.testing.assert_close(explanation.raw, expected.sum(1))


def test_guided_grad_cam():
    model, images = in_double(conv_net()), images_for().double()
    several = fastcam.explain(model, images, ["guided_grad_cam", "grad_cam", "guided_backprop"], 1, "features")
    cam = F.interpolate(several["grad_cam"].native[:, None], images.shape[2:], mode="bilinear", align_corners=False)
    assert several["grad_cam"].native.min() == 0 < several["grad_cam"].native.max()
    expected = cam * several["guided_backprop"].attributions
    torch.testing.assert_close(several["guided_grad_cam"].attributions, expected)
    torch.testing.assert_close(several["guided_grad_cam"].raw, expected.abs().amax(1))


def test_all_kinds_of_gradient_share_one_forward():
    model, images, forwards = conv_net(), images_for(), []
    model.stem.register_forward_hook(lambda *_: forwards.append(1))
    names = ["saliency", "deconvnet", "guided_grad_cam", "grad_cam", "input_x_gradient"]
    several = fastcam.explain(model, images, names, 1, "features")
    assert len(forwards) == 1
    for name, explanation in several.items():
        alone = fastcam.explain(model, images, name, 1, "features")
        torch.testing.assert_close(explanation.raw, alone.raw, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["saliency", "input_x_gradient", "deconvnet", "guided_backprop", "guided_grad_cam"])
def test_several_targets_are_the_single_ones(method):
    model, images = conv_net(), images_for()
    together = fastcam.explain(model, images, method, K, "features")
    assert together.attributions.shape == (2, 3, *images.shape[1:])
    for k in range(3):
        alone = fastcam.explain(model, images, method, [row[k] for row in K], "features")
        torch.testing.assert_close(together.attributions[:, k], alone.attributions, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(together.raw[:, k], alone.raw, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("reduce", "formula"),
    [
        ("max_abs", lambda a: a.abs().amax(1)),
        ("sum_abs", lambda a: a.abs().sum(1)),
        ("sum", lambda a: a.sum(1)),
        ("mean", lambda a: a.mean(1)),
        ("max", lambda a: a.amax(1)),
        ("norm", lambda a: (a**2).sum(1).sqrt()),
    ],
)
def test_reductions_over_colour(reduce, formula):
    explanation = fastcam.explain(conv_net(), images_for(), "saliency", 1, reduce=reduce)
    torch.testing.assert_close(explanation.raw, formula(explanation.attributions))


def test_unknown_reduction():
    with pytest.raises(ValueError, match=r"`reduce` must be one of max_abs, .* got 'median'"):
        fastcam.Explainer(conv_net(), "saliency", reduce="median")


NEURONS = {
    "strongest of a channel": ((3, "max"), lambda maps: maps[:, 3].flatten(1).amax(1)),
    "strongest of the layer": ((None, "max"), lambda maps: maps.flatten(1).amax(1)),
    "a whole channel": ((0, "sum"), lambda maps: maps[:, 0].flatten(1).sum(1)),
    "the whole layer": ((None, "sum"), lambda maps: maps.flatten(1).sum(1)),
    "one neuron": ((3, (2, 1)), lambda maps: maps[:, 3, 2, 1]),
    "one neuron by all coordinates": ((None, (3, 2, 1)), lambda maps: maps[:, 3, 2, 1]),
}


@pytest.mark.parametrize("name", NEURONS)
def test_deconvnet_of_neurons(name):
    """Zeiler and Fergus: from activations of a layer, all others zero, down to the pixels."""
    images, (arguments, score) = images_for(), NEURONS[name]
    target = fastcam.targets.Neuron("relu", *arguments)
    explanation = fastcam.explain(conv_net(), images, "deconvnet", target)
    ruled = conv_net(inplace=False)
    ruled.stem[2] = ruled.relu = Call(lambda x: Ruled.apply(x, torch.relu, step, "deconvnet"))
    expected = autograd_gradients(lambda x: score(ruled.relu(ruled.features(ruled.stem(x)))), images)
    torch.testing.assert_close(explanation.attributions, expected, rtol=1e-5, atol=1e-7)
    clean = score(ruled.relu(ruled.features(ruled.stem(images))))
    torch.testing.assert_close(explanation.scores, clean.detach())


def test_rules_are_gone_after_an_exception():
    model, images = conv_net(), images_for()
    before = fastcam.explain(model, images, "saliency", 1).raw

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("in the middle of the backward pass")

    with pytest.raises(RuntimeError, match="in the middle"):
        fastcam.explain(model, images, "guided_backprop", lambda output: Fails.apply(output)[:, 1])
    assert torch.equal(fastcam.explain(model, images, "saliency", 1).raw, before)
