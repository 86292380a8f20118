"""Maps with gradients, for those who train on explanations."""

import gc

import pytest
import torch
from torch import Tensor, nn

import fastcam
from tests.support.conv_net import images_for, suited
from tests.support.engine_cases import METHODS, few_objects
from tests.support.networks import in_double

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {
    "integrated_gradients": {"steps": 3},
    "smooth_grad": {"samples": 2},
    "occlusion": {"window": 4, "stride": 3},
    "rise": {"masks": 4, "grid": 2},
}
CHECKED = [name for name in METHODS if name != "gmp_cam"]


class Smooth(nn.Module):
    """A network without kinks, whose logits are not linear in what its layer returns."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.Softplus())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))


def case() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    return in_double(Smooth()).eval(), torch.randn(2, 2, 9, 8, dtype=torch.float64)


def maps(model: nn.Module, images: Tensor, method: str, target=1) -> Tensor:
    """Signed, for a ReLU has a kink."""
    options = OPTIONS.get(method, {})
    reduce = "sum" if fastcam.get_method(method).returns == "attributions" else None
    explanation = fastcam.explain(
        model, images, method, target, "layer", relu=False, reduce=reduce, differentiable=True, **options
    )
    return explanation.native


@pytest.mark.parametrize("method", CHECKED)
@pytest.mark.parametrize("target", [1, [[0, 2], [1, 1]]], ids=["one", "K"])
def test_gradients_with_respect_to_parameters(method, target):
    """A weight before the layer and one behind it."""
    model, images = case()
    convolution, linear = model.layer[0], model.head[2]

    def of_weights(before: Tensor, behind: Tensor) -> Tensor:
        del convolution.weight, linear.weight
        convolution.weight, linear.weight = before, behind
        return maps(model, images, method, target)

    weights = [module.weight.detach().clone().requires_grad_() for module in (convolution, linear)]
    assert torch.autograd.gradcheck(of_weights, weights, atol=1e-5, rtol=1e-4, fast_mode=True)


# The noise of SmoothGrad has the range of the image, which two pixels decide: it has kinks.
@pytest.mark.parametrize("method", [name for name in CHECKED if name != "smooth_grad"])
def test_gradients_with_respect_to_images(method):
    model, images = case()
    images.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: maps(model, x, method), [images], atol=1e-5, rtol=1e-4, fast_mode=True)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_maps(method):
    model, layer = suited(method)
    options = OPTIONS.get(method, {})
    plain = fastcam.explain(model, images_for(), method, [[0, 4], [1, 3]], layer, **options)
    graph = fastcam.explain(model, images_for(), method, [[0, 4], [1, 3]], layer, differentiable=True, **options)
    assert not plain.native.requires_grad
    torch.testing.assert_close(graph.native, plain.native, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(graph.maps, plain.maps, rtol=0, atol=1e-4)


def test_full_size_maps_have_gradients():
    model, images = case()
    explanation = fastcam.explain(model, images, "grad_cam", 1, "layer", differentiable=True)
    weight = model.layer[0].weight
    (found,) = torch.autograd.grad(explanation.maps.square().sum(), weight)
    step = torch.zeros_like(weight)
    step[0, 0, 0, 0] = 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step
        values.append(fastcam.explain(model, images, "grad_cam", 1, "layer").maps.square().sum())
        with torch.no_grad():
            weight -= sign * step
    assert ((values[0] - values[1]) / 2e-6).item() == pytest.approx(found[0, 0, 0, 0].item(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("method", ["grad_cam", "saliency", "integrated_gradients"])
def test_training_on_maps(method):
    """A loss on where the map lies falls, and the model's own state is only changed by the optimiser."""
    model, images = case()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        found = maps(model, images, method)
        loss = found[:, : found.shape[1] // 2].square().mean()
        assert all(parameter.grad is None for parameter in model.parameters())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("target", [1, [[0, 2], [1, 1]]], ids=["one", "K"])
def test_ablation_where_the_model_runs_again(target):
    """Behind this layer stands a Softplus: no closed form."""
    model, images = case()

    def of_weights(before: Tensor, behind: Tensor, photographs: Tensor) -> Tensor:
        del model.layer[0].weight, model.head[2].weight
        model.layer[0].weight, model.head[2].weight = before, behind
        found = fastcam.explain(
            model, photographs, "ablation_cam", target, "layer.0", relu=False, differentiable=True, batch_size=2
        )
        return found.native

    values = [model.layer[0].weight, model.head[2].weight, images]
    values = [each.detach().clone().requires_grad_() for each in values]
    assert torch.autograd.gradcheck(of_weights, values, atol=1e-5, rtol=1e-4, fast_mode=True)
    plain = fastcam.explain(model, images, "ablation_cam", target, "layer.0", relu=False).native
    torch.testing.assert_close(of_weights(*values).detach(), plain.detach())


def test_full_grad_of_biases():
    """Those of a batch norm with its statistics too."""
    torch.manual_seed(3)
    layer = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.BatchNorm2d(3), nn.Softplus())
    layer[1].running_mean.normal_()
    model = nn.Sequential(layer, nn.Conv2d(3, 2, 2), nn.Softplus(), nn.Flatten(), nn.Linear(12, 3)).double().eval()
    images = torch.randn(2, 2, 9, 8, dtype=torch.float64)

    def of_parameters(first: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        del model[0][0].bias, layer[1].weight, layer[1].bias
        model[0][0].bias, layer[1].weight, layer[1].bias = first, scale, shift
        return maps(model, images, "full_grad")

    values = [model[0][0].bias, layer[1].weight, layer[1].bias]
    values = [each.detach().clone().requires_grad_() for each in values]
    assert torch.autograd.gradcheck(of_parameters, values, atol=1e-5, rtol=1e-4, fast_mode=True)


def test_full_grad_of_what_is_constant():
    """Behind global pooling a layer of one channel has the same gradient everywhere: no share, and no NaN."""
    model = in_double(nn.Sequential(nn.Conv2d(2, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 3))).eval()
    images = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    fastcam.explain(model, images, "full_grad", 1, differentiable=True).native.sum().backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())


def test_the_graph_is_freed_with_the_explanation():
    model, images = case()

    def live() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    with few_objects():
        fastcam.explain(model, images, "guided_grad_cam", 1, "layer", differentiable=True)
        before = live()
        for _ in range(5):
            fastcam.explain(model, images, "guided_grad_cam", 1, "layer", differentiable=True)
        assert live() <= before
