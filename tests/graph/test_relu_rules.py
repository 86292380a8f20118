"""The rules for rectifiers, however a network is written or compiled, against the rule in an autograd function."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from tests.support.conv_net import Call, autograd_gradients, images_for

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*torch.jit")]

IMAGES = images_for().double() * 4


def step(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def between_bounds(x: Tensor) -> Tensor:
    return ((x > 0) & (x < 6)).to(x.dtype)


def slope_of_silu(x: Tensor) -> Tensor:
    return x.sigmoid() * (1 + x * (1 - x.sigmoid()))


def slope_of_tanh_gelu(x: Tensor) -> Tensor:
    """f = x/2 (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3)."""
    scale = math.sqrt(2 / math.pi)
    wave = torch.tanh(scale * (x + 0.044715 * x**3))
    return (1 + wave) / 2 + x / 2 * (1 - wave**2) * scale * (1 + 3 * 0.044715 * x**2)


RELU, RELU6, SILU = (torch.relu, step), (F.relu6, between_bounds), (F.silu, slope_of_silu)
WRITTEN = {
    "F.relu, in place": (lambda: Call(lambda x: F.relu(x, inplace=True)), *RELU),
    "clamp_(min=0)": (lambda: Call(lambda x: x.clamp_(min=0)), *RELU),
    "clamp_min": (lambda: Call(lambda x: x.clamp_min(0)), *RELU),
    "torch.clip": (lambda: Call(lambda x: torch.clip(x, min=0)), *RELU),
    "nn.Threshold, in place": (lambda: nn.Threshold(0, 0, inplace=True), *RELU),
    "nn.ReLU6, in place": (lambda: nn.ReLU6(inplace=True), *RELU6),
    "F.relu6": (lambda: Call(F.relu6), *RELU6),
    "clamp(0, 6)": (lambda: Call(lambda x: x.clamp(0, 6)), *RELU6),
    "nn.Hardtanh(0, 6)": (lambda: nn.Hardtanh(0, 6), *RELU6),
    "F.silu, in place": (lambda: Call(lambda x: F.silu(x, inplace=True)), *SILU),
    "GELU by tanh": (
        lambda: nn.GELU(approximate="tanh"),
        lambda x: F.gelu(x, approximate="tanh"),
        slope_of_tanh_gelu,
    ),
}


class Rule(torch.autograd.Function):
    """A rectifier with the backward pass of a paper: R (R > 0), and where guided f' (f > 0) as well."""

    @staticmethod
    def forward(ctx, x, function, slope, guided):
        output = function(x)
        ctx.save_for_backward((output > 0) * slope(x) if guided else torch.ones_like(x))
        return output

    @staticmethod
    def backward(ctx, gradient):
        (factor,) = ctx.saved_tensors
        return torch.where(gradient > 0, gradient * factor, 0), None, None, None


def network(rectifier) -> nn.Sequential:
    """A residual block between two convolutions, and a rectified linear layer."""
    torch.manual_seed(7)
    block = [nn.Conv2d(5, 5, 3, padding=1), rectifier(), nn.Conv2d(5, 5, 3, padding=1)]
    head = [rectifier(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(150, 7), rectifier(), nn.Linear(7, 5)]
    return nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), Residual(*block), *head).double().eval()


class Residual(nn.Module):
    def __init__(self, *block: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(*block)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


def expected(function, slope, method: str) -> Tensor:
    model = network(lambda: Call(lambda x: Rule.apply(x, function, slope, method == "guided_backprop")))
    return autograd_gradients(lambda x: model(x)[:, 2], IMAGES)


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
@pytest.mark.parametrize("name", WRITTEN)
def test_however_a_rectifier_is_written(name, method):
    rectifier, function, slope = WRITTEN[name]
    found = fastcam.explain(network(rectifier), IMAGES, method, 2).attributions
    truth = expected(function, slope, method)
    assert truth.abs().max() > 1e-3
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-12)
    plain = fastcam.explain(network(rectifier), IMAGES, "saliency", 2).attributions
    assert (found - plain).abs().max() > 0.01 * plain.abs().max()


@pytest.mark.parametrize("method", ["guided_backprop", "deconvnet"])
@pytest.mark.parametrize("convert", [torch.jit.script, lambda model: torch.jit.trace(model, IMAGES)])
def test_torchscript_again_and_again(method, convert):
    """Left alone, it would compile itself after the first time, and hide the rectifiers."""
    model = convert(network(nn.ReLU))
    for _ in range(4):
        found = fastcam.explain(model, IMAGES, method, 2).attributions
        torch.testing.assert_close(found, expected(*RELU, method), rtol=1e-8, atol=1e-12)


def test_torchscript_that_was_compiled_before():
    unit = torch.jit.CompilationUnit(
        "def scores(x):\n    return (x * 2 - 1).relu().mul(3).flatten(1).sum(1, keepdim=True)\n"
    )
    model = Call(unit.scores).eval()
    for _ in range(4):
        model(IMAGES.clone().requires_grad_())
    with pytest.raises(RuntimeError, match="TorchScript has compiled this model for training, and its rectifiers"):
        fastcam.explain(model, IMAGES, "guided_backprop", 0)
    gradient = fastcam.explain(model, IMAGES, "saliency", 0).attributions
    torch.testing.assert_close(gradient, 6 * (2 * IMAGES > 1).double())


def test_a_batch_is_its_images():
    model = network(nn.ReLU)
    for method in ("saliency", "guided_backprop", "deconvnet", "input_x_gradient"):
        together = fastcam.explain(model, IMAGES, method, [3, 1]).attributions
        for row, target in enumerate([3, 1]):
            alone = fastcam.explain(model, IMAGES[row : row + 1], method, target).attributions
            torch.testing.assert_close(together[row : row + 1], alone)


def test_deconvnet_by_hand():
    """Zeiler and Fergus: unpool through the switches, rectify, filter with the transposed weights, layer by layer."""
    torch.manual_seed(3)
    first, second, last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3), nn.Linear(6 * 4 * 3, 5)
    layers = [first, nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.Flatten(), last]
    model = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        _, switches = F.max_pool2d(first(IMAGES).relu(), 2, return_indices=True)
        back = last.weight[2].expand(2, -1).reshape(2, 6, 4, 3)
        back = F.conv_transpose2d(back.clamp(min=0), second.weight)
        back = F.max_unpool2d(back, switches, 2)
        back = F.conv_transpose2d(back.clamp(min=0), first.weight, padding=1)
    assert back.abs().max() > 0
    torch.testing.assert_close(fastcam.explain(model, IMAGES, "deconvnet", 2).attributions, back)
